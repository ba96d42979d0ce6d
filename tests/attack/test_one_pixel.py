"""One-pixel attack: what a gene draws, how many pixels change, and that evolution finds the pixel that decides."""

from __future__ import annotations

import pytest
import torch

from visus.attack.one_pixel import OnePixel, drawn
from visus.core.errors import UserError


def test_a_gene_draws_its_pixel_and_no_other():
    images = torch.zeros(1, 3, 4, 5)
    genes = torch.tensor([0.6, 0.99, 0.1, 0.2, 0.3]).view(1, 1, 1, 5)
    out = drawn(images, genes)[0, 0]
    assert out[:, 2, 4].tolist() == pytest.approx([0.1, 0.2, 0.3]) and int((out != 0).any(0).sum()) == 1


def corner(images: torch.Tensor) -> torch.Tensor:
    """Class 1 where a pixel of the upper left quarter is bright; the score rises as the brightest comes nearer."""
    height = images.shape[2]
    place = torch.arange(height, dtype=torch.float32)
    near = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / height)
    over = (images[:, 0] * near).flatten(1).amax(1) - 0.8
    return torch.stack([-over, over], 1)


def test_evolution_finds_the_pixel_that_decides():
    images, labels = torch.zeros(3, 1, 12, 12), torch.zeros(3, dtype=torch.int64)
    found = OnePixel(population=40, steps=40)(corner, images, labels)
    assert found.success.all() and (found.distances["l0"] == 1).all()
    assert (found.queries > 40).any() and (found.queries < 41 * 40).all()  # not by the first draw, and not to the end


def test_no_more_pixels_change_than_asked():
    images, labels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(4).long()
    attack = OnePixel(eps=3, population=8, steps=3)
    found = attack(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, labels)
    assert (found.distances["l0"] <= 3).all() and not found.success.any()


def test_a_population_without_three_parents_is_refused():
    with pytest.raises(UserError, match="population=3"):
        OnePixel(population=3)
