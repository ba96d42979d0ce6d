"""Lookahead against Zhang et al. 2019, Algorithm 1, in NumPy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.optim.stepping import arrays, assert_near, give, gradients, parameters
from visus.optim.kept import KeptWeights
from visus.optim.lookahead import Lookahead


def test_seven_steps_around_sgd_are_the_papers():
    ours = parameters()
    optimizer = Lookahead(torch.optim.SGD(ours, 0.1), every=3, share=0.4)
    fast = arrays(ours)
    slow = arrays(ours)
    for step in range(7):
        g = gradients(step)
        give(ours, g)
        optimizer.step()
        fast = [x - 0.1 * d for x, d in zip(fast, g, strict=True)]
        if step % 3 == 2:
            slow = [s + 0.4 * (x - s) for s, x in zip(slow, fast, strict=True)]
            fast = [s.copy() for s in slow]
        assert_near(ours, fast)
        assert_near([optimizer.state[p]["slow"] for p in ours], slow)


def test_a_share_of_1_is_the_base_alone_and_the_bases_state_goes_on():
    ours, theirs = parameters(), parameters()
    a, b = Lookahead(torch.optim.AdamW(ours, 0.01), every=2, share=1.0), torch.optim.AdamW(theirs, 0.01)
    for step in range(5):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step))
            optimizer.step()
    assert_near(ours, arrays(theirs))


def test_the_slow_weights_are_lent_and_taken_back():
    model = nn.Linear(3, 2)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), 0.5), every=5)
    first = model.weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    fast = model.weight.detach().clone()
    kept = KeptWeights(optimizer)
    kept.update(model)
    with kept.copy_to(model):
        assert torch.equal(model.weight, first)
    assert torch.equal(model.weight, fast) and not torch.equal(first, fast)
    assert kept.state_dict() == {}


def test_values_out_of_range_are_refused():
    for wrong in ({"every": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match="every or share"):
            Lookahead(torch.optim.SGD(parameters(), 0.1), **wrong)
