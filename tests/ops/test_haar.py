"""Integral images and Haar-like features: counts, scikit-image's numbers, moments of windows."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.ops.haar import KINDS, haar_features, haar_values
from visus.ops.integral import box_sums, integral_image, window_moments

THEIRS = {"two_across": "type-2-x", "two_down": "type-2-y", "three_across": "type-3-x", "three_down": "type-3-y",
          "four": "type-4"}


def test_a_window_of_24_pixels_has_162336_features_of_five_kinds():
    features = haar_features(24)
    assert [int((features.kind == number).sum()) for number in range(5)] == [43_200, 43_200, 27_600, 27_600, 20_736]
    assert len(features.kind) == 162_336
    assert len(haar_features(24, ("two_across", "two_down", "three_across", "four")).kind) == 134_736
    assert len(torch.unique(torch.stack(features, 1), dim=0)) == 162_336


def test_sums_of_rectangles_are_those_of_the_pixels():
    image = torch.randint(-50, 50, (3, 17, 23), generator=torch.Generator().manual_seed(0))
    integral = integral_image(image)
    top, left = torch.tensor([0, 3, 16]), torch.tensor([0, 5, 22])
    height, width = torch.tensor([17, 4, 1]), torch.tensor([23, 9, 1])
    found = box_sums(integral, top, left, height, width)
    for place in range(3):
        y, x, h, w = (int(part[place]) for part in (top, left, height, width))
        assert torch.equal(found[:, place], image[:, y:y + h, x:x + w].sum((1, 2)))


def test_integral_images_are_scikit_images():
    transform = pytest.importorskip("skimage.transform")
    image = torch.rand(31, 19, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = torch.from_numpy(transform.integral_image(image.numpy()))
    torch.testing.assert_close(integral_image(image)[1:, 1:], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", list(KINDS))
def test_values_are_scikit_images(kind: str):
    feature = pytest.importorskip("skimage.feature")
    image = torch.randint(0, 256, (12, 12), generator=torch.Generator().manual_seed(2))
    integral = integral_image(image)[1:, 1:].numpy()
    coordinates, _ = feature.haar_like_feature_coord(12, 12, THEIRS[kind])
    theirs = feature.haar_like_feature(integral, 0, 0, 12, 12, THEIRS[kind])
    features = haar_features(12, (kind,))
    ours = haar_values(image[None].double(), features)[0]
    by_place = {}
    for rectangles, value in zip(coordinates, theirs, strict=True):
        (top, left), (bottom, right) = rectangles[0]
        by_place[int(top), int(left), int(bottom - top) + 1, int(right - left) + 1] = float(value)
    mine = {tuple(int(part[place]) for part in features[1:]): float(ours[place]) for place in range(len(ours))}
    # The paper leaves the sign open, as stumps have a sign of their own: scikit-image's may be the other one.
    sign = 1.0 if mine[0, 0, 1, 1] == by_place[0, 0, 1, 1] else -1.0
    assert mine == {place: sign * value for place, value in by_place.items()}


def test_balanced_features_of_a_flat_window_are_zero():
    flat = torch.full((1, 8, 8), 7.0)
    assert haar_values(flat, haar_features(8), balanced=True).abs().max() == 0
    assert haar_values(flat, haar_features(8)).abs().max() > 0


def test_moments_of_windows_are_those_of_their_pixels():
    image = 100 + torch.rand(2, 20, 15, generator=torch.Generator().manual_seed(3))
    mean, deviation = window_moments(image, 6)
    windows = image.unfold(1, 6, 1).unfold(2, 6, 1).flatten(-2).double()
    torch.testing.assert_close(mean, windows.mean(-1).float())
    torch.testing.assert_close(deviation, windows.std(-1, correction=0).float(), rtol=1e-5, atol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="kinds"):
        haar_features(24, ("five",))
