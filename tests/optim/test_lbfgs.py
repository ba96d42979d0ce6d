"""L-BFGS against scipy on quadratics, and its weight decay against the same price in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from tests.optim.stepping import arrays, assert_near, parameters
from visus.optim.lbfgs import LBFGS


def quadratic(size: int = 12, condition: float = 100.0):
    generator = np.random.Generator(np.random.PCG64(0))
    basis = np.linalg.qr(generator.standard_normal((size, size)))[0]
    matrix = (basis * np.geomspace(1, condition, size)) @ basis.T
    return matrix, generator.standard_normal(size)


def closure_of(x: nn.Parameter, matrix: torch.Tensor, target: torch.Tensor, seen: list):
    def closure() -> float:
        difference = x.detach() - target
        x.grad = matrix @ difference
        seen.append(float(0.5 * difference @ x.grad))
        return seen[-1]
    return closure


def test_it_ends_where_scipys_ends_in_no_more_than_a_few_more_evaluations():
    matrix, target = quadratic()
    count = [0]

    def value(x):
        count[0] += 1
        return 0.5 * (x - target) @ matrix @ (x - target), matrix @ (x - target)
    theirs = minimize(value, np.zeros(12), jac=True, method="L-BFGS-B", options={"maxcor": 10, "gtol": 1e-8,
                                                                               "ftol": 1e-16})
    x, seen = nn.Parameter(torch.zeros(12, dtype=torch.float64)), []
    optimizer = LBFGS([x], history=10, iterations=1)
    closure = closure_of(x, torch.tensor(matrix), torch.tensor(target), seen)
    while len(seen) < 3 * count[0] and (not seen or seen[-1] > 1e-10):
        optimizer.step(closure)
    np.testing.assert_allclose(x.detach().numpy(), theirs.x, atol=1e-5)
    np.testing.assert_allclose(x.detach().numpy(), target, atol=1e-5)
    assert len(seen) < 3 * count[0], "each of our updates asks once more for where it stands"


def test_iterations_of_one_update_are_as_many_updates_of_one_iteration():
    matrix, target = (torch.tensor(part) for part in quadratic())
    ends = []
    for iterations, updates in ((6, 1), (1, 6)):
        x = nn.Parameter(torch.zeros(12, dtype=torch.float64))
        optimizer = LBFGS([x], iterations=iterations)
        for _ in range(updates):
            optimizer.step(closure_of(x, matrix, target, []))
        ends.append(x)
    assert torch.allclose(*ends, rtol=1e-9)


def test_weight_decay_is_half_its_price_in_the_loss_and_only_of_the_groups_that_have_it():
    ours, theirs = parameters(), parameters()
    decays = (0.7, 0.7, 0.0, 0.0)

    def closure(tensors, priced: bool):
        def evaluate() -> float:
            for p in tensors:
                p.grad = None
            loss = sum((torch.cosh(p) - 0.5 * p).sum() for p in tensors)
            if priced:
                loss = loss + sum(0.5 * d * p.square().sum() for p, d in zip(tensors, decays, strict=True))
            loss.backward()
            return loss
        return evaluate
    a = LBFGS([{"params": ours[:2], "weight_decay": 0.7}, {"params": ours[2:], "weight_decay": 0.0}])
    b = LBFGS(theirs)
    for _ in range(3):
        assert a.step(closure(ours, False)) == pytest.approx(b.step(closure(theirs, True)), rel=1e-10)
    assert_near(ours, arrays(theirs), rtol=1e-7)


def test_values_out_of_range_are_refused():
    for wrong in ({"history": 0}, {"iterations": 0}, {"lr": -1.0}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match="Invalid"):
            LBFGS(parameters(), **wrong)
