"""Positions of patches against their definitions, computed place by place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visus.ops.positions import (
    relative_offsets,
    resize_offsets,
    rotary_angles,
    rotate,
    sincos_positions,
)
from visus.ops.windows import relative_index

LIKE = torch.empty(0, dtype=torch.float64)


def test_sines_and_cosines_are_the_papers_in_each_direction():
    found = sincos_positions((3, 5), 12, LIKE)[0]
    for y in range(3):
        for x in range(5):
            waves = [10_000 ** (-i / 3) for i in range(3)]
            expected = [f(place * w) for place in (x, y) for f in (math.sin, math.cos) for w in waves]
            np.testing.assert_allclose(found[5 * y + x].numpy(), expected, atol=1e-12)


def test_offsets_name_each_difference_once():
    offsets = relative_offsets((2, 3), torch.device("cpu"))
    seen = {}
    for query in range(6):
        for key in range(6):
            difference = (query // 3 - key // 3, query % 3 - key % 3)
            assert seen.setdefault(difference, offsets[query, key].item()) == offsets[query, key].item()
    assert sorted(seen.values()) == list(range(3 * 5))
    assert torch.equal(relative_offsets((4, 4), torch.device("cpu")).flatten(), relative_index(4, torch.device("cpu")))


def test_resampled_tables_keep_constants_and_the_opposite_of_opposite_offsets():
    torch.manual_seed(0)
    table = torch.randn(13 * 9, 2)
    odd = torch.cat([table - table.flip(0), torch.ones(13 * 9, 1)], dim=1)
    resized = resize_offsets(odd, (7, 5), (13, 4))
    assert resized.shape == (25 * 7, 3)
    torch.testing.assert_close(resized[:, :2], -resized[:, :2].flip(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resized[:, 2], torch.ones(25 * 7), rtol=1e-5, atol=1e-5)
    assert resize_offsets(odd, (7, 5), (7, 5)) is odd


def test_turned_vectors_know_only_their_difference():
    grid, width = (5, 6), 8
    q, k = torch.randn(2, width, dtype=torch.float64).unbind(0)
    angles = rotary_angles(grid, width, q)
    scores = rotate(q.expand(30, -1), angles) @ rotate(k.expand(30, -1), angles).T
    offsets = relative_offsets(grid, torch.device("cpu"))
    for offset in offsets.unique():
        values = scores[offsets == offset]
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rotate(q.expand(30, -1), angles).norm(dim=1), q.norm().expand(30))
    assert scores.diagonal()[0].item() == pytest.approx((q @ k).item())


def test_pairs_turn_with_y_first_then_with_x():
    angles = rotary_angles((2, 3), 8, LIKE)
    torch.testing.assert_close(angles[4], torch.tensor([1, 0.1, 1, 0.1], dtype=torch.float64))  # y = 1, x = 1
    torch.testing.assert_close(angles[2], torch.tensor([0, 0, 2, 0.2], dtype=torch.float64))  # y = 0, x = 2
    quarter = torch.tensor([[math.pi / 2]], dtype=torch.float64)
    torch.testing.assert_close(rotate(torch.tensor([[3.0, 4.0]], dtype=torch.float64), quarter),
                               torch.tensor([[-4.0, 3.0]], dtype=torch.float64))
