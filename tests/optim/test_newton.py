"""Newton's method: exact in one step on quadratics, quadratic convergence elsewhere, repelled by saddles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_hess
from torch import nn

from visus.optim.newton import Newton, newton, newton_step


def quadratic(size: int = 8, condition: float = 1e6):
    generator = np.random.Generator(np.random.PCG64(1))
    basis = np.linalg.qr(generator.standard_normal((size, size)))[0]
    return torch.tensor((basis * np.geomspace(1, condition, size)) @ basis.T), \
        torch.tensor(generator.standard_normal(size))


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1]**2)**2 + (1 - x[:-1])**2).sum()


def test_one_step_ends_at_the_minimum_of_an_ill_conditioned_quadratic():
    matrix, target = quadratic()
    found = newton_step(lambda x: 0.5 * (x - target) @ matrix @ (x - target), torch.zeros(8, dtype=torch.float64))
    assert torch.allclose(found, target, atol=1e-8)


def test_a_step_is_minus_the_inverse_hessian_times_the_slope():
    x = np.array([1.1, 1.3, 0.9])
    start = torch.tensor(x)
    slope = torch.func.grad(rosenbrock)(start).numpy()
    assert rosen(x) == pytest.approx(float(rosenbrock(start)))
    for damping in (0.0, 5.0):
        expected = x - np.linalg.solve(rosen_hess(x) + damping * np.eye(3), slope)
        np.testing.assert_allclose(newton_step(rosenbrock, start, damping=damping), expected, rtol=1e-9)


def test_the_descent_of_rosenbrocks_valley_never_rises_and_ends_with_quadratic_convergence():
    path = newton(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    values = [float(rosenbrock(x)) for x in path]
    assert all(b < a for a, b in zip(values, values[1:], strict=False))
    errors = [float((x - 1).norm()) for x in path]
    assert len(path) < 30 and errors[-1] < 1e-10
    assert errors[-2] < 50 * errors[-3]**2, "each step doubles the digits"


def test_a_saddle_repels():
    found = newton_step(lambda x: x[0]**2 - x[1]**2, torch.tensor([1.0, 0.1], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.0, 0.2])


def closure_of(p: nn.Parameter, function):
    def closure() -> float:
        p.grad = torch.func.grad(function)(p.detach())
        return float(function(p.detach()))
    return closure


def test_the_optimizer_takes_the_exact_step_on_a_quadratic_from_gradients_alone():
    matrix, target = quadratic(condition=100.0)
    p = nn.Parameter(torch.ones(2, 4, dtype=torch.float64))

    def function(x):
        difference = x.reshape(-1) - target
        return 0.5 * difference @ matrix @ difference
    Newton([p], damping=0.0).step(closure_of(p, function))
    assert torch.allclose(p.reshape(-1), target, atol=1e-8)


def test_the_optimizers_step_is_that_of_the_function_with_its_price():
    start = torch.tensor([1.1, 1.3, 0.9], dtype=torch.float64)
    p = nn.Parameter(start.clone())
    Newton([{"params": [p], "weight_decay": 0.3}], damping=0.5).step(closure_of(p, rosenbrock))
    expected = newton_step(lambda x: rosenbrock(x) + 0.15 * x.square().sum(), start, damping=0.5)
    assert torch.allclose(p, expected, rtol=1e-7)


def test_a_net_that_is_not_small_and_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="1001 numbers"):
        Newton([nn.Parameter(torch.zeros(1001))])
    with pytest.raises(ValueError, match="damping"):
        Newton([nn.Parameter(torch.zeros(1))], damping=-1.0)
