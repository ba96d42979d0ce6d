"""Sobel, Scharr, Prewitt and Canny against scikit-image, analytic slopes, and a flood fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.edges import OPERATORS, canny, edge_strength, gradient, hysteresis


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_slope_of_a_ramp_is_exact_away_from_the_border(operator):
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    right, down = gradient((0.03 * x - 0.02 * y).double()[None, None], operator)
    torch.testing.assert_close(right[0, 0, 1:-1, 1:-1], torch.full((7, 9), 0.03).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(down[0, 0, 1:-1, 1:-1], torch.full((7, 9), -0.02).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("operator", OPERATORS)
def test_strength_is_scikit_images_up_to_its_scale(operator):
    """Theirs is the root of the mean of both squared differences over two pixels: sqrt(2) times the slope."""
    filters = pytest.importorskip("skimage.filters", reason="scikit-image is not installed")
    image = np.random.default_rng(0).random((30, 41))
    ours = edge_strength(torch.from_numpy(image)[None, None], operator)[0].numpy()
    np.testing.assert_allclose(np.sqrt(2) * ours, getattr(filters, operator)(image), atol=1e-14)


def photographs() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return [data.camera()[100:300, 100:340] / 255.0, data.coins()[50:200, 30:250] / 255.0]


@pytest.mark.parametrize(("sigma", "low", "high"), [(1.0, 0.1, 0.2), (2.0, 0.05, 0.15), (0.7, 0.2, 0.5), (1.0, 0, 0)])
def test_canny_marks_the_very_pixels_that_scikit_image_marks(sigma, low, high):
    from skimage.feature import canny as theirs

    for image in photographs():
        expected = theirs(image, sigma, low_threshold=low, high_threshold=high, mode="nearest")
        found = canny(torch.from_numpy(image)[None, None], sigma, low, high)[0].numpy()
        assert expected.sum() > 300
        np.testing.assert_array_equal(found, expected)


def test_the_edge_of_a_disc_is_a_thin_closed_ring_where_the_disc_ends():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radius = torch.hypot(x - 31.5, y - 31.5)
    found = canny((radius < 20).float()[None, None], 1.0)[0]
    assert float((radius[found] - 19.5).abs().max()) < 1.5
    angles = torch.atan2(y[found] - 31.5, x[found] - 31.5)
    assert len(((angles / torch.pi * 30).floor()).unique()) == 60, "a piece in every sixth degree"
    assert int(found.sum()) < 1.6 * 2 * torch.pi * 20


def test_a_batch_of_colour_is_marked_image_by_image_by_its_luma():
    images = torch.rand(2, 3, 25, 30, generator=torch.Generator().manual_seed(0))
    together = canny(images, 1.0, 0.1, 0.3)
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    for number in range(2):
        assert torch.equal(canny(images[number:number + 1], 1.0, 0.1, 0.3)[0], together[number])
    assert torch.equal(canny(luma[:, None], 1.0, 0.1, 0.3), together)


def test_hysteresis_is_a_flood_fill_from_the_strong_pixels():
    generator = torch.Generator().manual_seed(1)
    weak = torch.rand(3, 40, 40, generator=generator) < 0.42
    strong = weak & (torch.rand(3, 40, 40, generator=generator) < 0.01)
    reached = strong.clone()
    while True:
        grown = (torch.nn.functional.max_pool2d(reached[:, None].float(), 3, 1, 1)[:, 0] > 0) & weak
        if torch.equal(grown, reached):
            break
        reached = grown
    assert torch.equal(hysteresis(weak, strong), reached) and reached.sum() > strong.sum()
    assert not hysteresis(weak, torch.zeros_like(weak)).any()


def test_flat_and_tiny_images_have_no_edges():
    assert not canny(torch.full((2, 3, 10, 10), 0.4), 1.0, 0.0, 0.0).any()
    assert canny(torch.rand(1, 1, 1, 1)).shape == (1, 1, 1)


@pytest.mark.parametrize(("options", "message"), [({"sigma": -1}, "sigma"), ({"low": -0.1}, "low"),
                                                  ({"low": 0.3, "high": 0.2}, "high")])
def test_wrong_numbers_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        canny(torch.zeros(1, 1, 8, 8), **options)
    with pytest.raises(UserError, match="operator"):
        gradient(torch.zeros(1, 1, 8, 8), "robert")
