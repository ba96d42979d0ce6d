"""shortcut, odd-images, unreadable-images."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.images.sets import blobs, image_set
from visus.core.errors import ImageError
from visus.data.opening import open_samples
from visus.doctor.images.exhibits import shown
from visus.doctor.images.odd_images import odd_images
from visus.doctor.images.shortcut import balanced_accuracy, shortcut
from visus.doctor.images.unreadable_images import unreadable_images


def test_classes_of_different_sizes_are_a_shortcut():
    small, large = blobs(60, side=32), blobs(60, seed=1, side=48)
    labels = [0] * 60 + [1] * 60
    finding, = shortcut(image_set([*small, *large], labels))
    assert finding.severity == "warning" and "told by size alone: balanced accuracy 1.00" in finding.title
    assert not list(shortcut(image_set([*small, *large], np.arange(120) % 2)))


def test_a_camera_and_a_kind_of_file_are_named():
    labels = np.arange(120) % 3
    sources = tuple(f"{i}.{'png' if labels[i] == 0 else 'jpg'}" for i in range(120))
    images = image_set(blobs(120), labels, sources=sources,
                       about=lambda i: (1000.0, np.nan, "ABC"[labels[i]]))
    assert sorted(f.title.split(":")[0] for f in shortcut(images)) == [
        "The classes can be told by camera alone", "The classes can be told by kind of file alone"]


def test_bytes_are_a_warning_only_when_they_tell_nearly_all_and_colour_is_a_note():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2

    def severities(noise: float) -> list[str]:
        size = np.exp(labels + noise * rng.normal(size=400)) * 1e4
        return [f.severity for f in shortcut(image_set(blobs(400), labels, about=lambda i: (size[i], np.nan, "")))]

    assert severities(0.1) == ["warning"] and severities(1.0) == []
    red = blobs(100, channels=3)
    red[::2, ..., 0] = 250
    assert {f.severity for f in shortcut(image_set(red[:, 2:-2], labels[:100])) if "mean" in f.title} == {"note"}


def test_digits_have_no_shortcut():
    digits = open_samples("digits")
    assert not list(shortcut(image_set(digits.images[:800], digits.targets[:800])))


def test_balanced_accuracy_is_chance_for_noise_whatever_the_balance():
    rng = np.random.default_rng(0)
    labels = (rng.random(1500) < 0.1).astype(np.int64)
    assert balanced_accuracy(rng.normal(size=(1500, 3)), labels) == pytest.approx(0.5, abs=0.08)
    assert balanced_accuracy((labels + rng.normal(0, 0.1, 1500))[:, None], labels) > 0.98


def test_ordinary_images_are_not_odd():
    assert not list(odd_images(image_set(blobs(100))))
    digits = open_samples("digits")
    assert not list(odd_images(image_set(digits.images)))  # 8 px, all of them


@pytest.mark.parametrize(("image", "what", "severity"), [
    (np.full((32, 32, 1), 77, np.uint8), "constant", "warning"),
    (np.pad(np.full((4, 4, 1), 9, np.uint8), ((0, 28), (0, 28), (0, 0))), "nearly black", "note"),
    (255 - np.pad(np.full((4, 4, 1), 9, np.uint8), ((0, 28), (0, 28), (0, 0))), "nearly white", "note"),
    (blobs(1, side=9)[0], "tiny", "note"),
    (np.concatenate([*blobs(6, side=32)], 1), "very long and narrow", "note"),
    (blobs(1, side=700)[0], "of an unusual size", "note"),
])
def test_each_kind_is_told_and_named_once(image, what, severity):
    images = image_set([*blobs(60, side=32), *blobs(60, side=31), *blobs(60, side=33), image])
    finding, = odd_images(images)
    assert (finding.severity, finding.title) == (severity, f"1 image is {what}") and "180.png" in finding.evidence
    assert [e.images for e in shown(images)["odd-images"]] == [(180,)]


def test_an_image_that_cannot_be_read_is_an_error_with_its_problem():
    images = image_set(blobs(12))

    def read(i):
        if i in (4, 9):
            raise ImageError(f"damaged in {i}", where="x", remedy="Fetch it again")
        return blobs(12)[i]

    assert not list(unreadable_images(images))
    object.__setattr__(images, "read", read)
    images.remembered.clear()
    finding, = unreadable_images(images)
    assert finding.severity == "error" and finding.title == "2 images cannot be read"
    assert "4.png: damaged in 4; 9.png: damaged in 9" in finding.evidence and finding.remedy == "Fetch it again"
