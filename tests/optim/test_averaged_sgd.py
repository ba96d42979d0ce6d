"""Averaged SGD against Bottou 2012 in NumPy, and against torch's where that has the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.optim.stepping import arrays, assert_near, give, gradients, parameters
from visus.optim.averaged_sgd import AveragedSGD


def test_weights_and_mean_are_torchs_where_decay_and_fall_of_the_rate_are_one_number():
    ours, theirs = parameters(), parameters()
    a = AveragedSGD([{"params": ours, "weight_decay": 0.3}], lr=0.2, start=2)
    b = torch.optim.ASGD(theirs, lr=0.2, lambd=0.3, alpha=0.75, t0=1, foreach=False)
    for step in range(8):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step))
            optimizer.step()
        assert_near(ours, arrays(theirs), rtol=1e-5)  # torch keeps the rate in float32
        assert_near([a.state[p]["average"] for p in ours], [b.state[p]["ax"].numpy() for p in theirs], rtol=1e-5)


def test_the_mean_is_that_of_all_weights_from_its_start_and_the_rate_falls_for_biases_too():
    ours = parameters()
    optimizer = AveragedSGD([{"params": ours[:1], "weight_decay": 0.5}, {"params": ours[1:], "weight_decay": 0.0}],
                            lr=0.1, power=1.0, start=3)
    x, path = arrays(ours), []
    for step in range(7):
        rate = 0.1 / (1 + 0.5 * 0.1 * step)  # eta0 / (1 + lambda eta0 t)
        g = gradients(step)
        give(ours, g)
        optimizer.step()
        x = [one - rate * (d + (0.5 if k == 0 else 0.0) * one) for k, (one, d) in enumerate(zip(x, g, strict=True))]
        path.append(x)
        assert_near(ours, x)
    for k, p in enumerate(ours):
        np.testing.assert_allclose(optimizer.state[p]["average"], np.mean([x[k] for x in path[3:]], 0), rtol=1e-10)


def test_the_mean_of_a_noisy_descent_is_nearer_than_its_last_weights():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.full((50,), 3.0))
    optimizer = AveragedSGD([p], lr=0.3, start=50)
    for _ in range(2000):
        p.grad = p.detach() + torch.randn(50)
        optimizer.step()
    assert optimizer.state[p]["average"].norm() < 0.2 * p.norm()


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="start"):
        AveragedSGD(parameters(), start=-1)
