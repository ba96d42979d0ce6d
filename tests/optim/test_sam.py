"""SAM and ASAM against their two-step formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.optim.stepping import arrays, assert_near, parameters
from visus.core.errors import RecipeError
from visus.optim.build import build_optimizer, wrap_optimizer
from visus.optim.sam import SAM


def loss_of(tensors) -> torch.Tensor:
    """Neither convex nor symmetric, with a known gradient."""
    return sum((torch.sin(p) + 0.3 * p**3).sum() for p in tensors)


def slope(x: np.ndarray) -> np.ndarray:
    return np.cos(x) + 0.9 * x**2


def closure_for(tensors, seen: list):
    def closure():
        for p in tensors:
            p.grad = None
        loss = loss_of(tensors)
        loss.backward()
        seen.append([p.detach().clone() for p in tensors])
        return float(loss.detach())
    return closure


@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_are_the_papers_around_sgd_with_momentum(adaptive):
    ours = parameters()
    optimizer = SAM(torch.optim.SGD(ours, 0.01, momentum=0.9), 0.3, adaptive=adaptive)
    x, v, seen = arrays(ours), None, []
    for _ in range(4):
        loss = optimizer.step(closure_for(ours, seen))
        assert loss == pytest.approx(float(loss_of([torch.tensor(one) for one in x])))
        t = [np.abs(one) + 0.01 if adaptive else np.ones_like(one) for one in x]
        g = [slope(one) for one in x]
        length = np.sqrt(sum(((a * b)**2).sum() for a, b in zip(t, g, strict=True)))
        worst = [one + 0.3 * a**2 * b / length for one, a, b in zip(x, t, g, strict=True)]
        assert_near(seen[-1], worst)
        v = [slope(w) + (0.9 * old if v else 0.0) for w, old in zip(worst, v or worst, strict=True)]
        x = [one - 0.01 * a for one, a in zip(x, v, strict=True)]
        assert_near(ours, x)


def test_the_way_out_has_the_length_of_the_radius_and_the_way_back_is_to_the_bit():
    ours, seen = parameters(), []
    before = [p.detach().clone() for p in ours]
    SAM(torch.optim.SGD(ours, 0.0), 0.05).step(closure_for(ours, seen))
    out = torch.cat([(b - a).reshape(-1) for a, b in zip(before, seen[1], strict=True)])
    assert out.norm().item() == pytest.approx(0.05)
    assert all(torch.equal(a, p) for a, p in zip(before, ours, strict=True))


def test_at_a_flat_place_nothing_moves_and_a_parameter_without_gradient_stays():
    p, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))

    def closure():
        p.grad = torch.zeros(3)
        return 0.0
    SAM(torch.optim.SGD([p, idle], 0.1), 0.05).step(closure)
    assert p.tolist() == [1, 1, 1] and idle.tolist() == [1, 1]


def test_its_groups_and_state_are_those_of_the_base_also_after_loading():
    ours, seen = parameters(), []
    optimizer = wrap_optimizer(build_optimizer("adamw", ours, lr=0.01), sam=0.05)
    optimizer.step(closure_for(ours, seen))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state and optimizer.state[ours[0]]["step"] == 1
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = arrays(ours)
    optimizer.step(closure_for(ours, seen))
    assert_near(ours, before)


def test_optimizers_that_search_by_themselves_are_not_wrapped():
    for options in ({"sam": 0.05}, {"lookahead": 5}):
        with pytest.raises(RecipeError, match="around"):
            wrap_optimizer(build_optimizer("lbfgs", parameters(), lr=1.0), **options)
    with pytest.raises(ValueError, match="radius"):
        SAM(torch.optim.SGD(parameters(), 0.1), 0.0)
