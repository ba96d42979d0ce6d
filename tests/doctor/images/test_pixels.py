from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.images.sets import blobs, image_set
from visus.core.errors import ImageError
from visus.doctor.images import pixels as room
from visus.doctor.images.pixels import pixels_of


def test_each_image_is_read_once_for_all_checks():
    images, calls = blobs(20), []
    one = image_set(images)
    counted = image_set(images, remembered=one.remembered)
    object.__setattr__(counted, "read", lambda i: calls.append(i) or images[i])
    assert pixels_of(counted) is pixels_of(counted)
    assert sorted(calls) == list(range(20))


def test_what_is_measured_is_what_the_image_holds():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = [200, 100, 50]
    seen = pixels_of(image_set([image, np.full((400, 300, 1), 7, np.uint8), image[..., 0]]))
    assert seen.size.tolist() == [[8, 16], [400, 300], [8, 16]] and seen.channels.tolist() == [3, 1, 1]
    assert seen.spread.tolist() == [200, 0, 200] and seen.small.shape == (3, 32, 32, 3)
    assert seen.mean[0] == pytest.approx([100, 50, 25], abs=2) and seen.border[1] == pytest.approx([7, 7, 7])
    assert seen.border[0] == pytest.approx([100, 50, 25], abs=1)
    assert seen.brightness[1] == pytest.approx(7) and seen.contrast[1] == 0 and seen.sharpness[1] == 0
    assert seen.contrast[0] > 50 and seen.sharpness[0] > 10 and seen.basis == ""


def test_a_file_that_cannot_be_read_is_kept_apart_with_its_problem():
    images = blobs(5)

    def read(i):
        if i == 3:
            raise ImageError("truncated", where="3.png", remedy="Replace the file")
        return images[i]

    broken = image_set(images)
    object.__setattr__(broken, "read", read)
    seen = pixels_of(broken)
    assert seen.bad == ((3, "truncated", "Replace the file"),) and seen.index.tolist() == [0, 1, 2, 4]


def test_a_set_that_takes_too_long_is_seen_in_part_and_says_so(monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 10)
    seen = pixels_of(image_set(blobs(40), seconds=0.0))
    assert seen.looked == 10 and len(seen) == 10
    assert "10 of 40 images, drawn at random" in seen.basis
    assert seen.index.tolist() == sorted(seen.index.tolist()) != list(range(10))
