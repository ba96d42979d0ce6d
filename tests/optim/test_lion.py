"""Lion against Chen et al. 2023, Algorithm 2, in NumPy, and against timm's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.optim.stepping import arrays, assert_near, give, gradients, parameters
from tools.peers import load_peer
from visus.optim.lion import Lion


@pytest.mark.parametrize("foreach", [None, True, False])
def test_five_steps_are_the_papers(foreach):
    ours = parameters()
    optimizer = Lion([{"params": ours, "weight_decay": 0.3}], lr=0.01, betas=(0.8, 0.95), foreach=foreach)
    x, m = arrays(ours), [np.zeros(p.shape) for p in ours]
    for step in range(5):
        g = gradients(step)
        give(ours, g)
        optimizer.step()
        for k in range(len(x)):
            x[k] = x[k] - 0.01 * (np.sign(0.8 * m[k] + 0.2 * g[k]) + 0.3 * x[k])
            m[k] = 0.95 * m[k] + 0.05 * g[k]
        assert_near(ours, x)


def test_it_is_timms():
    try:
        load_peer("timm")
        from timm.optim.lion import Lion as Theirs
    except ImportError as error:
        pytest.skip(str(error))
    ours, theirs = parameters(), parameters()
    a = Lion([{"params": ours, "weight_decay": 0.1}], lr=0.02, betas=(0.9, 0.99))
    b = Theirs(theirs, lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step))
            optimizer.step()
    assert_near(ours, arrays(theirs))


def test_a_first_step_moves_every_number_by_the_rate():
    p = parameters()[0]
    before = p.detach().clone()
    p.grad = torch.randn_like(p)
    Lion([p], lr=0.25).step()
    assert torch.allclose((p - before).abs(), torch.full_like(p, 0.25))


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta"):
        Lion(parameters(), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="learning rate"):
        Lion(parameters(), lr=-1.0)
