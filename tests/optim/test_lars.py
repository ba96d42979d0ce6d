"""LARS against You et al. 2017, Algorithm 1, in NumPy, and against timm's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.optim.stepping import arrays, assert_near, give, gradients, parameters
from tools.peers import load_peer
from visus.optim.lars import Lars


@pytest.mark.parametrize("foreach", [None, True])
def test_steps_are_the_papers_with_the_rate_inside_the_velocity(foreach):
    ours = parameters()
    optimizer = Lars([{"params": ours, "weight_decay": 0.2}], lr=3.0, momentum=0.8, trust=0.01, foreach=foreach)
    x, v = arrays(ours), [np.zeros(p.shape) for p in ours]
    for step in range(5):
        lr = optimizer.param_groups[0]["lr"] = 3.0 / (1 + step)
        g = gradients(step)
        give(ours, g)
        optimizer.step()
        for k in range(len(x)):
            size, slope = np.sqrt((x[k]**2).sum()), np.sqrt((g[k]**2).sum())
            local = 0.01 * size / (slope + 0.2 * size)
            v[k] = 0.8 * v[k] + lr * local * (g[k] + 0.2 * x[k])
            x[k] = x[k] - v[k]
        assert_near(ours, x)


def test_at_a_constant_rate_it_is_timms():
    try:
        load_peer("timm")
        from timm.optim.lars import Lars as Theirs
    except ImportError as error:
        pytest.skip(str(error))
    ours, theirs = parameters(), parameters()
    for tensors in (ours, theirs):
        with torch.no_grad():
            tensors[2].zero_()  # no size yet: the step of plain SGD
    a = Lars([{"params": ours[:3], "weight_decay": 0.1}, {"params": ours[3:], "weight_decay": 0.0}], lr=0.5,
             momentum=0.9, trust=0.003)
    b = Theirs([{"params": theirs[:3], "weight_decay": 0.1}, {"params": theirs[3:], "weight_decay": 0.0}], lr=0.5,
               momentum=0.9, trust_coeff=0.003, eps=0.0)
    for step in range(5):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step))
            optimizer.step()
    assert_near(ours, arrays(theirs))


def test_without_momentum_a_layer_moves_by_its_own_size_however_large_the_gradient():
    for factor in (1e-3, 1.0, 1e6):
        p = parameters()[0]
        before = p.detach().clone()
        p.grad = factor * torch.ones_like(p)
        Lars([p], lr=0.5, momentum=0.0, trust=0.02, adapt_all=True).step()
        assert (p.detach() - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-9)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="momentum"):
        Lars(parameters(), momentum=1.0)
