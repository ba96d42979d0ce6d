"""visus.ops.min_cut and total_variation: the least of all labellings, and proof of it."""

from __future__ import annotations

import itertools

import pytest
import torch

from visus.core.errors import UserError
from visus.ops.min_cut import STEPS, cut_cost, differences, min_cut
from visus.ops.total_variation import total_variation


def test_it_finds_the_least_of_all_4096_labellings():
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(20, 3, 4, generator=generator).double()
    weights = torch.rand(20, 4, 3, 4, generator=generator).double()
    found = min_cut(unary, weights, tolerance=1e-9)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12))).view(-1, 3, 4).double()
    for image in range(20):
        many = len(every)
        best = cut_cost(every, unary[image:image + 1].expand(many, -1, -1),
                        weights[image:image + 1].expand(many, -1, -1, -1)).min()
        assert float(found.cost[image]) == pytest.approx(float(best))
        assert float(found.bound[image]) <= float(best) + 1e-9
    torch.testing.assert_close(cut_cost(found.labels, unary, weights), found.cost)


def test_a_cut_of_a_larger_grid_carries_its_proof():
    generator = torch.Generator().manual_seed(1)
    unary = torch.randn(2, 40, 50, generator=generator)
    found = min_cut(unary, 0.7 * torch.ones(2, 4, 40, 50), tolerance=1e-4)
    assert ((found.cost - found.bound) <= 1e-4 * unary.abs().flatten(1).sum(1)).all()


def test_neighbours_are_counted_once_and_none_beyond_the_border():
    dot = torch.zeros(1, 3, 3)
    dot[0, 1, 1] = 1
    ones = torch.ones(1, 4, 3, 3)
    assert float(cut_cost(dot, torch.zeros(1, 3, 3), ones)) == 8
    corner = torch.zeros(1, 3, 3)
    corner[0, 0, 0] = 1
    assert float(cut_cost(corner, torch.zeros(1, 3, 3), ones)) == 3
    ramp = torch.arange(12.0).view(1, 3, 4)
    for number, (down, right) in enumerate(STEPS):
        inner = differences(ramp)[0, number, :3 - down, 1:3]
        assert (inner == 4 * down + right).all()


def test_an_image_is_cut_alone_as_in_a_batch():
    generator = torch.Generator().manual_seed(2)
    unary, weights = torch.randn(3, 9, 9, generator=generator), 2 * torch.rand(3, 4, 9, 9, generator=generator)
    whole = min_cut(unary, weights)
    for image in range(3):
        assert torch.equal(min_cut(unary[image:image + 1], weights[image:image + 1]).labels[0], whole.labels[image])


def test_weights_of_another_form_are_refused():
    with pytest.raises(UserError, match="weights="):
        min_cut(torch.zeros(1, 3, 3), torch.zeros(1, 8, 3, 3))


def test_total_variation_is_the_sum_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 5, generator=generator).double()
    for beta in (1, 2, 3.0):
        expected = torch.zeros(2).double()
        for c, i, j in itertools.product(range(3), range(3), range(4)):
            right, below = images[:, c, i, j + 1], images[:, c, i + 1, j]
            expected += ((right - images[:, c, i, j]) ** 2 + (below - images[:, c, i, j]) ** 2) ** (beta / 2)
        torch.testing.assert_close(total_variation(images, beta), expected)
    assert total_variation(torch.full((1, 1, 5, 5), 0.3)).item() == 0
    with pytest.raises(UserError, match="beta=0"):
        total_variation(images, 0)


def test_a_flat_picture_has_a_finite_slope():
    flat = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    slope, = torch.autograd.grad(total_variation(flat, 1).sum(), flat)
    assert slope.isfinite().all()
