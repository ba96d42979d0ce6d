"""Distance transforms against every pair written out, on short and long lines."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.ops import distance_transform as transforms
from visus.ops.distance_transform import distance_transform, distance_transform_2d


def by_hand(values: torch.Tensor, a: float, b: float) -> torch.Tensor:
    return torch.tensor([max(float(f) - a * (q - p) ** 2 - b * (q - p) for q, f in enumerate(values))
                         for p in range(len(values))], dtype=values.dtype)


@pytest.mark.parametrize("short", [0, 1000], ids=["envelope", "pairs"])
def test_the_best_of_all_places_is_found(short: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transforms, "SHORT", short)
    draw = torch.Generator().manual_seed(0)
    for length in (1, 2, 7, 40):
        values = 5 * torch.randn(6, length, generator=draw, dtype=torch.float64)
        values[0] = 0
        values[1] = values[1].round()  # ties
        a = torch.tensor([1.0, 0.01, 3.0, 0.2, 50.0, 0.5], dtype=torch.float64)
        b = torch.tensor([0.0, 2.0, -1.5, 0.3, 10.0, -7.0], dtype=torch.float64)
        best, place = distance_transform(values, a, b)
        expected = torch.stack([by_hand(row, float(x), float(y)) for row, x, y in zip(values, a, b, strict=True)])
        torch.testing.assert_close(best, expected, rtol=0, atol=1e-12)
        step = (place - torch.arange(length)).double()
        reached = values.gather(1, place) - a[:, None] * step**2 - b[:, None] * step
        torch.testing.assert_close(reached, best, rtol=0, atol=1e-12)


def test_the_two_ways_are_one_answer_on_long_lines_with_forbidden_places():
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(5, 300, generator=draw, dtype=torch.float64)
    values[:, ::3] = -torch.inf
    a, b = torch.rand(5, generator=draw).double() + 0.01, torch.randn(5, generator=draw).double()
    pairs, sweep = transforms._all_pairs(values, a, b), transforms._envelope(values, a, b)
    torch.testing.assert_close(sweep[0], pairs[0], rtol=0, atol=1e-12)
    assert torch.equal(sweep[1], pairs[1])


def test_maps_are_done_by_columns_and_rows():
    draw = torch.Generator().manual_seed(2)
    maps, cost = torch.randn(3, 6, 8, generator=draw).double(), torch.rand(3, 4, generator=draw).double() + 0.05
    best, row, column = distance_transform_2d(maps, cost)
    for number in range(3):
        for y in range(6):
            for x in range(8):
                v, u = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
                moved = torch.stack([u - x, v - y, (u - x) ** 2, (v - y) ** 2], -1).double()
                scores = maps[number] - moved @ cost[number]
                assert float(best[number, y, x]) == pytest.approx(float(scores.max()), abs=1e-12)
                assert float(scores[row[number, y, x], column[number, y, x]]) == pytest.approx(float(scores.max()))


def test_a_cost_that_does_not_grow_is_refused():
    with pytest.raises(UserError, match="square=0"):
        distance_transform(torch.zeros(3), 0.0)
