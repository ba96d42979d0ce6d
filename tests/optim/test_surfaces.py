"""Surfaces: gradients by hand against autograd, minima against their definition and SciPy."""

from __future__ import annotations

import pytest
import torch
from scipy import optimize

from visus.optim.surfaces import SURFACES


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_the_gradient_by_hand_is_autograds(surface):
    generator = torch.Generator().manual_seed(0)
    x, y = ((2 * torch.randn(50, generator=generator, dtype=torch.float64)).requires_grad_() for _ in "xy")
    expected = torch.autograd.grad(surface.value(x, y).sum(), (x, y))
    for ours, theirs in zip(surface.gradient(x, y), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_the_minima_have_the_least_value_and_no_slope_and_lie_in_the_window(surface):
    x0, x1, y0, y1 = surface.window
    for point in surface.minima:
        x, y = torch.tensor(point, dtype=torch.float64)
        assert abs(float(surface.value(x, y)) - surface.least) < 1e-20
        assert all(abs(float(g)) < 1e-9 for g in surface.gradient(x, y))
        assert x0 < x < x1 and y0 < y < y1
    assert x0 < surface.start[0] < x1 and y0 < surface.start[1] < y1
    assert float(surface.distance(torch.tensor(surface.start, dtype=torch.float64))) > 0.5


def test_rosenbrock_equals_scipys_and_the_descents_of_scipy_end_in_the_minima():
    point = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    rosenbrock = SURFACES["rosenbrock"]
    assert float(rosenbrock.value(*point)) == pytest.approx(optimize.rosen(point.numpy()))
    for name in ("rosenbrock", "himmelblau", "beale", "plateau"):
        surface = SURFACES[name]

        def value(p, surface=surface):
            return float(surface.value(*torch.tensor(p, dtype=torch.float64)))

        found = optimize.minimize(value, surface.start, tol=1e-12, method="Nelder-Mead").x
        assert float(surface.distance(torch.tensor(found))) < 1e-4, name


def test_points_beyond_the_numbers_are_infinitely_far():
    away = torch.tensor([[float("nan"), 0.0], [float("inf"), 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert SURFACES["ravine"].distance(away).tolist() == [float("inf"), float("inf"), 0.0]
