"""Random search and random local search over weights: what is drawn, what is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from visus.optim.weight_search import LocalSearch, RandomSearch


def losses(p: nn.Parameter, seen: list, bad_at: int | None = None):
    def closure() -> float:
        seen.append(p.detach().clone())
        return math.nan if len(seen) - 1 == bad_at else float((p.detach() - 1).square().sum())
    return closure


@pytest.mark.parametrize("kind", [RandomSearch, LocalSearch])
def test_the_loss_never_rises_and_the_best_weights_seen_are_those_that_stay(kind):
    torch.manual_seed(0)
    p, seen = nn.Parameter(torch.randn(4)), []
    optimizer = kind([p], lr=0.5)
    values = [optimizer.step(losses(p, seen)) for _ in range(200)]
    assert all(b <= a for a, b in zip(values, values[1:], strict=False)) and values[-1] < 0.3 * values[0]
    best = min(float((x - 1).square().sum()) for x in seen)
    assert values[-1] == best == float((p.detach() - 1).square().sum())


def test_local_steps_are_normal_around_the_best_and_random_draws_around_the_first_mean():
    for kind, mean, deviation in ((LocalSearch, 5.0, 0.1), (RandomSearch, 5.0, 0.2)):
        p, seen = nn.Parameter(torch.full((5000,), 5.0)), []
        with torch.no_grad():
            p[::2] += 2.0
            p[1::2] -= 2.0  # mean 5, deviation 2
        begun = p.detach().clone()
        kind([p], lr=0.1).step(losses(p, seen))
        drawn = seen[1] - begun + 5 if kind is LocalSearch else seen[1]
        assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
        assert drawn.std().item() == pytest.approx(deviation, rel=0.05)


def test_a_constant_tensor_is_not_drawn_at_random_and_a_loss_that_is_no_number_is_never_better():
    p, seen = nn.Parameter(torch.zeros(3)), []
    RandomSearch([p]).step(losses(p, seen))
    assert not seen[1].any()
    p, seen = nn.Parameter(torch.zeros(3)), []
    LocalSearch([p], lr=1.0).step(losses(p, seen, bad_at=1))
    assert not p.detach().any() and seen[1].any()


def test_draws_differ_from_step_to_step_and_go_on_from_the_state():
    p, q, seen, others = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3)), [], []
    a, b = LocalSearch([p], lr=1.0, tries=2), LocalSearch([q], lr=1.0, tries=2)
    a.step(losses(p, seen))
    assert not torch.equal(seen[1], seen[2])
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        q.copy_(p)
    a.step(losses(p, seen))
    b.step(losses(q, others))
    assert all(torch.equal(x, y) for x, y in zip(seen[3:], others, strict=True))
    with pytest.raises(ValueError, match="tries"):
        LocalSearch([p], tries=0)
