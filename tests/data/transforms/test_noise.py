"""Noise: its distribution, and that it belongs to the sample and the pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import draws
from visus.data.transforms import Draws
from visus.data.transforms.noise import GaussianNoise, SaltPepperNoise


def test_gaussian_noise_is_normal_with_the_stated_deviation():
    stats = pytest.importorskip("scipy.stats")
    batch = torch.full((2, 3, 60, 61), 0.5)
    shift = (GaussianNoise((0.05, 0.05), 1.0)(batch, draws(2)) - 0.5).double().numpy() / 0.05
    assert stats.kstest(shift[0].ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(shift[0].ravel(), shift[1].ravel())[0, 1]) < 0.03  # samples share nothing
    assert abs(np.corrcoef(shift[0, 0].ravel(), shift[0, 1].ravel())[0, 1]) < 0.06  # nor channels
    assert abs(np.corrcoef(shift[0, :, :, 1:].ravel(), shift[0, :, :, :-1].ravel())[0, 1]) < 0.03  # nor neighbours


def test_its_deviation_is_drawn_for_each_image():
    batch = torch.full((400, 1, 20, 20), 0.5)
    spread = (GaussianNoise((0.0, 0.1), 0.5)(batch, draws(400)) - 0.5).std((1, 2, 3))
    assert abs((spread > 0).double().mean() - 0.5) < 0.07
    u = draws(400).uniform(2)
    expected = torch.from_numpy(np.where(u[:, 1] < 0.5, 0.1 * u[:, 0], 0.0)).float()
    torch.testing.assert_close(spread, expected, rtol=0.2, atol=1e-6)


def test_salt_and_pepper_cover_whole_pixels_in_the_stated_shares():
    batch = torch.full((20, 3, 100, 100), 128, dtype=torch.uint8)
    out = SaltPepperNoise((0.2, 0.2), salt=0.25, probability=1.0)(batch, draws(20))
    assert (out == out[:, :1]).all()
    assert abs((out == 255).double().mean() - 0.05) < 0.003 and abs((out == 0).double().mean() - 0.15) < 0.005
    floats = SaltPepperNoise((0.2, 0.2), salt=0.25, probability=1.0)(batch.float() / 255, draws(20))
    assert torch.equal(floats == 1, out == 255) and torch.equal(floats == 0, out == 0)


def test_noise_is_the_same_in_any_batch_and_another_in_another_epoch():
    batch = torch.full((4, 3, 5, 7), 0.5)
    index = np.array([3, 2**40, 17, 0])
    transform = GaussianNoise((0.1, 0.1), 1.0)
    whole = transform(batch, Draws(index, 1, 2, "n"))
    assert torch.equal(transform(batch[:1], Draws(index[2:3], 1, 2, "n"))[0], whole[2])
    assert not torch.equal(transform(batch, Draws(index, 1, 3, "n")), whole)
    assert not torch.equal(transform(batch, Draws(index, 1, 2, "m")), whole)
