"""Enhancements by a factor, against torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from tests.data.transforms.peers import draws, noise, smooth, torchvision_functional
from visus.data.transforms.enhance import Sharpness, brightness, contrast, saturation, sharpness

FACTORS = np.array([0.0, 0.1, 0.55, 1.0, 1.3, 1.9])
KINDS = {"brightness": (brightness, ImageEnhance.Brightness), "contrast": (contrast, ImageEnhance.Contrast),
         "saturation": (saturation, ImageEnhance.Color), "sharpness": (sharpness, ImageEnhance.Sharpness)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [noise(6, height=30, width=31), smooth(6), noise(6, 1)], ids=["noise", "smooth",
                                                                                              "grey"])
def test_each_equals_torchvision_but_for_a_level_where_the_sum_is_a_whole_number(kind, batch):
    ours = KINDS[kind][0](batch, FACTORS)
    functional = torchvision_functional()
    theirs = torch.cat([getattr(functional, f"adjust_{kind}")(batch[i:i + 1], float(FACTORS[i])) for i in range(6)])
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() < 0.02  # sums are rounded down: 0.1 ulp below 7 is 6
    assert torch.equal(ours[3], batch[3])  # a factor of 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_within_two_levels_of_pillow(kind):
    batch = smooth(6)
    ours = KINDS[kind][0](batch, FACTORS)
    for one, factor, got in zip(batch, FACTORS, ours, strict=True):
        theirs = np.array(KINDS[kind][1](Image.fromarray(one.permute(1, 2, 0).numpy())).enhance(float(factor)))
        assert np.abs(got.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 2


def test_tiny_images_are_not_sharpened():
    batch = noise(2, height=2, width=9)
    assert torch.equal(sharpness(batch, np.array([0.0, 2.0])), batch)


def test_the_sharpness_transform_draws_its_factor_for_each_image():
    batch = smooth(300, 12, 12)
    out = Sharpness((0.0, 2.0), 0.5)(batch, draws(300))
    u = draws(300).uniform(2)
    expected = sharpness(batch, 2 * u[:, 0])
    done = u[:, 1] < 0.5
    assert torch.equal(out[done], expected[done]) and torch.equal(out[~done], batch[~done])
