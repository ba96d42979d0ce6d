"""AdamW without the bookkeeping against torch's with it, to the bit; clipping on the kernel's way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.optim.stepping import give, gradients, parameters
from visus.optim.build import build_optimizer
from visus.optim.clip import clip_gradients
from visus.optim.fused_adamw import FusedAdamW


def test_six_steps_and_the_state_are_torchs_to_the_bit_also_where_a_gradient_is_missing():
    ours, theirs = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    a = build_optimizer("adamw", [{"params": ours, "weight_decay": 0.1}], lr=0.01)
    b = torch.optim.AdamW(theirs, 0.01, weight_decay=0.1, fused=True)
    assert isinstance(a, FusedAdamW)
    for step in range(6):
        for tensors, optimizer in ((ours, a), (theirs, b)):
            give(tensors, gradients(step))
            if step == 2:
                tensors[1].grad = None
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    for p, q in zip(ours, theirs, strict=True):
        assert a.state[p].keys() == b.state[q].keys()
        assert all(torch.equal(a.state[p][key], b.state[q][key]) for key in b.state[q])
    torch.optim.AdamW(theirs, fused=True).load_state_dict(a.state_dict())


def test_a_step_hook_is_called_once():
    p, calls = nn.Parameter(torch.ones(2)), []
    torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True)
    optimizer = FusedAdamW([p])
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    p.grad = torch.ones(2)
    optimizer.step()
    assert calls == [1]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adagrad"])
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_in_the_kernel_is_clipping_before_it(name, limit):
    ours, theirs = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    a, b = (build_optimizer(name, tensors, lr=0.1) for tensors in (ours, theirs))
    for step in range(4):
        for tensors, optimizer, by in ((ours, a, a), (theirs, b, None)):
            give(tensors, gradients(step))
            before = [p.grad.clone() for p in tensors]
            norm = clip_gradients(tensors, limit if step < 3 else 1e6, by)
            assert norm.item() == pytest.approx(torch.cat([g.reshape(-1) for g in before]).norm().item(), rel=1e-6)
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p.grad, q.grad), "the kernel leaves them scaled; the last step does not"
            assert torch.equal(p, q)


def test_an_optimizer_without_such_a_kernel_has_its_gradients_scaled_before():
    for name, dtype in (("rmsprop", torch.float32), ("adamw", torch.float64)):
        tensors = parameters(dtype=dtype)
        optimizer = build_optimizer(name, tensors, lr=0.1)
        give(tensors, gradients(0))
        clip_gradients(tensors, 0.5, optimizer)
        assert torch.cat([p.grad.reshape(-1) for p in tensors]).norm().item() == pytest.approx(0.5, rel=1e-4)
        assert getattr(optimizer, "grad_scale", None) is None
