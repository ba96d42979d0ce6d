"""Histograms of oriented gradients against scikit-image, OpenCV, the paper's count and cases known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.hog import COURSE, DALAL_TRIGGS, PLAIN, Hog, hog


def smooth_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(count, channels, height + 4, width + 4, generator=generator, dtype=torch.float64)
    return torch.nn.functional.avg_pool2d(noise, 5, 1)


def test_a_window_of_the_paper_has_3780_numbers_and_an_image_of_the_course_144():
    assert DALAL_TRIGGS.length(128, 64) == 3780
    assert hog(torch.zeros(2, 3, 128, 64)).flatten(1).shape == (2, 3780)
    assert COURSE.length(32, 32) == 144
    assert hog(torch.rand(1, 3, 32, 32), COURSE).numel() == 144


@pytest.mark.parametrize("norm, theirs", [("l2_hys", "L2-Hys"), ("l2", "L2"), ("l1", "L1"), ("l1_sqrt", "L1-sqrt")])
@pytest.mark.parametrize("orientations, cell, block, channels",
                         [(9, 8, 3, 3), (8, 7, 2, 3), (9, 4, 1, 1), (12, 6, 2, 1)])
def test_whole_votes_without_a_window_are_scikit_images(norm, theirs, orientations, cell, block, channels):
    features = pytest.importorskip("skimage.feature")
    images = smooth_images(2, channels, 45, 38)
    ours = hog(images, Hog(orientations=orientations, cell=cell, block=block, sharing="none", window=None, norm=norm))
    for image, found in zip(images, ours, strict=True):
        peer = features.hog(image.permute(1, 2, 0).numpy(), orientations, (cell, cell), (block, block), theirs,
                            feature_vector=False, channel_axis=2)
        np.testing.assert_allclose(found.numpy(), peer, atol=1e-6)  # the peer counts in float32


def test_photographs_equal_scikit_images_but_for_ties_between_channels():
    features, data = pytest.importorskip("skimage.feature"), pytest.importorskip("skimage.data")
    photo = data.astronaut()[:200, 100:300].astype(float) / 255
    grey = photo[..., :1]
    found = hog(torch.from_numpy(grey).permute(2, 0, 1)[None], PLAIN)[0].numpy()
    np.testing.assert_allclose(found, features.hog(grey, channel_axis=2, feature_vector=False), atol=1e-6)
    found = hog(torch.from_numpy(photo).permute(2, 0, 1)[None], PLAIN)[0].numpy()
    apart = np.abs(found - features.hog(photo, channel_axis=2, feature_vector=False))
    assert (apart.max(axis=(2, 3, 4)) < 1e-6).mean() > 0.9 and apart.max() < 0.02


def test_shared_votes_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "HOGDescriptor"):
        pytest.skip("this build of OpenCV is without its HOG")
    window = np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    images = torch.from_numpy(window).permute(2, 0, 1)[None].double()
    for orientations, signed in ((9, False), (18, True)):
        peer = cv2.HOGDescriptor((64, 128), (16, 16), (8, 8), (8, 8), orientations, 1, 1e5, 0, 0.2, False, 64, signed)
        theirs = peer.compute(window).reshape(7, 15, 2, 2, orientations).transpose(1, 0, 3, 2, 4)
        ours = hog(images, Hog(orientations=orientations, signed=signed, window=None))[0].numpy()
        # Its norm adds 3.6 to the root instead of epsilon squared to the sum, and its angles are good to 0.3 degrees.
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_course_is_its_recipe_by_hand_for_gradients_of_both_half_planes():
    image = smooth_images(1, 3, 32, 32)[0].numpy()
    grey = np.tensordot([0.299, 0.587, 0.114], image, 1)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :-1], down[:-1] = np.diff(grey, axis=1), np.diff(grey, axis=0)
    angle = np.degrees(np.arctan2(down, across)) % 180
    expected = np.zeros((4, 4, 9))
    for row in range(32):
        for column in range(32):
            expected[row // 8, column // 8, int(angle[row, column] // 20)] += np.hypot(across, down)[row, column] / 64
    found = hog(torch.from_numpy(image)[None], COURSE)[0, :, :, 0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_ramp_votes_for_its_direction_and_a_signed_histogram_knows_its_sense():
    steps = torch.arange(32.0)
    for turn, signed_bin, unsigned_bin in ((0.075, 1, 1), (0.575, 11, 1), (0.325, 6, 6)):  # of a whole circle, 20 bins
        ramp = steps * math.cos(2 * math.pi * turn) + steps[:, None] * math.sin(2 * math.pi * turn)
        for options, expected in ((Hog(orientations=20, signed=True, sharing="none", window=None), signed_bin),
                                  (Hog(orientations=10, sharing="none", window=None), unsigned_bin)):
            middle = hog(ramp[None, None], options)[0, 1, 1]  # blocks that see no border
            assert set(middle.flatten(0, 1).argmax(-1).tolist()) == {expected}, (turn, options)
            assert middle[..., expected].sum() == pytest.approx(float(middle.sum()))


def test_votes_between_two_directions_are_shared_by_nearness():
    turn = 0.5 / 9 * (2.25 + 0.5)  # of a whole circle: a quarter of the way from bin 2 to bin 3
    steps = torch.arange(24.0, dtype=torch.float64)
    ramp = steps * math.cos(2 * math.pi * turn) + steps[:, None] * math.sin(2 * math.pi * turn)
    middle = hog(ramp[None, None], Hog(block=1, window=None, sharing="orientation", norm="l1", epsilon=1e-12))[0, 1, 1]
    assert middle.flatten().tolist() == pytest.approx([0, 0, 0.75, 0.25, 0, 0, 0, 0, 0], abs=1e-9)


def test_contrast_and_brightness_do_not_matter():
    images = smooth_images(2, 3, 64, 48) * 10
    torch.testing.assert_close(hog(images * 3 + 0.5), hog(images), rtol=1e-4, atol=1e-5)


def test_gradients_with_respect_to_the_image_are_right():
    images = smooth_images(1, 1, 9, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hog(x, Hog(cell=4, block=2, norm="l2", epsilon=0.1)), images)
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    hog(flat).sum().backward()
    assert flat.grad.isfinite().all()


def test_many_images_in_parts_are_as_one_by_one():
    images = smooth_images(40, 3, 64, 64)
    torch.testing.assert_close(hog(images), torch.cat([hog(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


def test_refusals_name_the_field_and_the_size():
    with pytest.raises(UserError, match=r"12 x 40 px.*at least 16 x 16"):
        hog(torch.zeros(1, 1, 12, 40))
    with pytest.raises(UserError, match="norm='l3'"):
        Hog(norm="l3")
