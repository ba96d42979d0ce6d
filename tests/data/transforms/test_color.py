"""Colour jitter, HSV jitter, lighting noise, SSD's distortion and channels, against torchvision, colorsys and NumPy."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import draws, noise, smooth, torchvision_functional
from visus.core.errors import RecipeError
from visus.data.transforms.channels import ChannelDropout, ChannelShuffle
from visus.data.transforms.color import ColorJitter
from visus.data.transforms.hsv import HSVJitter, scale_saturation
from visus.data.transforms.lighting import IMAGENET_VALUES, IMAGENET_VECTORS, PCALighting, fitted_to
from visus.data.transforms.ssd import SSDDistortion


def unit(batch: int = 24) -> torch.Tensor:
    return smooth(batch, 9, 8).float() / 255


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_colour_jitter_is_torchvisions_four_operations_in_the_stated_order(order):
    functional = torchvision_functional()
    batch = unit()
    out = ColorJitter(0.4, 0.5, 0.6, 0.2, order=order)(batch, draws(24))
    u = draws(24).uniform(9)
    change = (2 * u[:, :4] - 1) * [0.4, 0.5, 0.6, 0.2]
    kinds = [lambda x, c: functional.adjust_brightness(x, 1 + c), lambda x, c: functional.adjust_contrast(x, 1 + c),
             lambda x, c: functional.adjust_saturation(x, 1 + c), functional.adjust_hue]
    orders = np.argsort(u[:, 5:], 1) if order == "random" else np.tile(np.arange(4), (24, 1))
    for i in range(24):
        expected = batch[i:i + 1]
        for kind in orders[i]:
            expected = kinds[kind](expected, float(change[i, kind]))
        torch.testing.assert_close(out[i:i + 1], expected, rtol=0, atol=2e-5)


def test_every_order_of_the_jitter_is_as_likely():
    orders = np.argsort(draws(6000).uniform(9)[:, 5:], 1)
    counts = [int((orders == order).all(1).sum()) for order in itertools.permutations(range(4))]
    assert min(counts) > 190 and max(counts) < 310 and sum(counts) == 6000


def test_an_unknown_order_is_refused():
    with pytest.raises(RecipeError, match="'fixed' or 'random'"):
        ColorJitter(order="shuffled")


def hsv(pixel: np.ndarray) -> np.ndarray:
    return np.array(colorsys.rgb_to_hsv(*pixel.tolist()))


def test_saturation_and_exposure_scale_the_hsv_of_every_pixel_and_keep_its_hue():
    batch = noise(4, height=5, width=5).double() / 255
    batch[0, :, 0, 0] = 0.5
    factors = torch.tensor([0.2, 0.8, 1.3, 4.0]).view(-1, 1, 1, 1)
    out = scale_saturation(batch, factors)
    for i, y, x in itertools.product(range(4), range(5), range(5)):
        hue, saturation, value = hsv(batch[i, :, y, x].numpy())
        expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * float(factors[i])), value)
        np.testing.assert_allclose(out[i, :, y, x].numpy(), expected, rtol=0, atol=1e-6)


def test_yolo_jitter_has_factors_up_to_the_stated_ones_and_their_inverses():
    batch = torch.zeros(3000, 3, 1, 1)
    batch[:, 0], batch[:, 1], batch[:, 2] = 0.4, 0.3, 0.2
    out = HSVJitter(1.5, 1.5, 0.1)(batch, draws(3000))
    changed = np.array([hsv(pixel.flatten().double().numpy()) for pixel in out])
    for column, before in ((1, 0.5), (2, 0.4)):
        factor = changed[:, column] / before
        assert factor.max() < 1.5001 and factor.min() > 1 / 1.5001 and factor.max() > 1.49 and factor.min() < 0.672
        assert abs((factor > 1).mean() - 0.5) < 0.03
    turn = (changed[:, 0] - hsv(np.array([0.4, 0.3, 0.2]))[0] + 0.5) % 1 - 0.5
    assert np.abs(turn).max() < 0.1001 and turn.min() < -0.097 and turn.max() > 0.097
    grey = torch.full((50, 1, 2, 2), 0.5)
    assert (HSVJitter()(grey, draws(50)) / grey).std() > 0.1


def test_lighting_adds_one_colour_whose_covariance_is_that_of_the_paper():
    batch = torch.full((20_000, 3, 1, 1), 0.5)
    shift = (PCALighting(0.1)(batch, draws(20_000)) - batch).flatten(1).double().numpy()
    vectors = np.array(IMAGENET_VECTORS)
    expected = vectors @ np.diag((0.1 * np.array(IMAGENET_VALUES)) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(shift.T), expected, rtol=0, atol=0.04 * expected.max())
    assert np.abs(shift.mean(0)).max() < 5e-4
    picture = unit(3) * 0.5 + 0.25
    moved = PCALighting(0.1)(picture, draws(3)) - picture
    torch.testing.assert_close(moved, moved.mean((2, 3), keepdim=True).expand_as(moved), rtol=0, atol=1e-6)


def test_imagenets_principal_colours_are_orthonormal():
    vectors = np.array(IMAGENET_VECTORS)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), rtol=0, atol=2e-4)


def test_lighting_fitted_to_a_covariance_holds_its_principal_colours():
    generator = np.random.Generator(np.random.PCG64(2))
    covariance = np.cov(generator.normal(size=(3, 400)))
    step = fitted_to(covariance)
    values, vectors = np.array(step["eigenvalues"]), np.array(step["eigenvectors"])
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, covariance, rtol=0, atol=1e-12)
    assert (np.diff(values) <= 0).all() and step["name"] == "pca_lighting"
    with pytest.raises(RecipeError, match="3 x 3 numbers"):
        PCALighting(eigenvectors=((1.0, 2.0),))


def ssd_pixel(pixel: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The authors' steps for one pixel: brightness, contrast before or after saturation and hue."""
    done = u[:4] < 0.5
    if done[0]:
        pixel = np.clip(pixel + 32 / 255 * (2 * u[4] - 1), 0, 1)
    if done[1] and u[8] < 0.5:
        pixel = np.clip(pixel * (0.5 + u[5]), 0, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    saturation = min(1.0, saturation * (0.5 + u[6])) if done[2] else saturation
    hue = (hue + 0.05 * (2 * u[7] - 1)) % 1 if done[3] else hue
    pixel = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    return np.clip(pixel * (0.5 + u[5]), 0, 1) if done[1] and u[8] >= 0.5 else pixel


def test_ssd_distortion_is_the_authors_chain():
    batch = noise(64, height=2, width=2).double() / 255
    out = SSDDistortion()(batch, draws(64))
    u = draws(64).uniform(13)
    for i, y, x in itertools.product(range(64), range(2), range(2)):
        np.testing.assert_allclose(out[i, :, y, x].numpy(), ssd_pixel(batch[i, :, y, x].numpy(), u[i]), atol=1e-6)
    shuffled = SSDDistortion(shuffle=1.0, probability=0.0)(batch, draws(64))
    torch.testing.assert_close(shuffled.sort(1).values, batch.sort(1).values)
    assert not torch.equal(shuffled, batch)


def test_channels_are_exchanged_in_every_order_and_one_is_left_out():
    batch = torch.arange(1, 4, dtype=torch.uint8).view(1, 3, 1, 1).expand(3000, 3, 2, 2)
    orders = {tuple(row) for row in ChannelShuffle(1.0)(batch, draws(3000))[:, :, 0, 0].tolist()}
    assert orders == set(itertools.permutations((1, 2, 3)))
    assert torch.equal(ChannelShuffle(0.0)(batch, draws(3000)), batch)
    left = ChannelDropout(fill=1.0, probability=0.6)(batch, draws(3000))[:, :, 0, 0]
    gone = left == 255
    assert gone.sum(1).max() == 1 and abs(gone.any(1).double().mean() - 0.6) < 0.03
    assert (gone.double().mean(0) - 0.2).abs().max() < 0.03
    grey = noise(4, 1)
    assert torch.equal(ChannelDropout(probability=1.0)(grey, draws(4)), grey)
