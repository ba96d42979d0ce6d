"""Schedules against torch.optim.lr_scheduler and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as peer

from visus.core.errors import RecipeError
from visus.optim.schedules import SCHEDULES, Schedule, schedule

T, W = 40, 7


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates or (1.0,)])


def rates_of(make, steps: int = T) -> list[float]:
    sgd = optimizer()
    scheduler = make(sgd)
    rates = []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return rates


def warm(sgd):
    return peer.LinearLR(sgd, 1 / (W + 1), total_iters=W)


ROWS = [
    ({"name": "constant"}, lambda o: peer.ConstantLR(o, 1.0)),
    ({"name": "constant", "warmup_steps": W}, warm),
    ({"name": "cosine", "floor": 0.05}, lambda o: peer.CosineAnnealingLR(o, T, eta_min=0.05)),
    ({"name": "linear", "floor": 0.1}, lambda o: peer.LinearLR(o, 1.0, 0.1, T)),
    ({"name": "step", "step_size": 9, "gamma": 0.3}, lambda o: peer.StepLR(o, 9, 0.3)),
    ({"name": "multistep", "milestones": (30, 5, 20)}, lambda o: peer.MultiStepLR(o, [5, 20, 30])),
    ({"name": "step", "step_size": 9, "warmup_steps": W},
     lambda o: peer.ChainedScheduler([warm(o), peer.StepLR(o, 9)])),
    ({"name": "one_cycle", "floor": 0.01}, lambda o: peer.OneCycleLR(
        o, 1.0, T, anneal_strategy="linear", final_div_factor=4.0, cycle_momentum=False)),
]


@pytest.mark.parametrize(("settings", "make"), ROWS, ids=lambda v: v["name"] if isinstance(v, dict) else "")
def test_factors_equal_torchs_scheduler(settings, make):
    factor = schedule(total_steps=T, **settings)
    assert [factor(t) for t in range(T)] == pytest.approx(rates_of(make), abs=1e-12)


def test_cosine_after_a_warm_up_equals_torchs_sequence():
    factor = schedule("cosine", T, W, floor=0.02)
    rates = rates_of(lambda o: peer.SequentialLR(o, [warm(o), peer.CosineAnnealingLR(o, T - W, eta_min=0.02)], [W]))
    assert [factor(t) for t in range(T)] == pytest.approx(rates, abs=1e-12)


def test_inverse_sqrt_equals_the_transformers_formula_scaled_to_its_peak():
    factor = schedule("inverse_sqrt", 1000, 99)
    noam = [min((t + 1) ** -0.5, (t + 1) * 100**-1.5) for t in range(1000)]
    assert [factor(t) for t in range(1000)] == pytest.approx([v / 100**-0.5 for v in noam], rel=1e-12)


@pytest.mark.parametrize("warmup_steps", [0, 1, W, T - 1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_stay_in_0_to_1_and_stand_still_after_the_end(name, warmup_steps):
    factor = schedule(name, T, warmup_steps, floor=0.1, step_size=10, milestones=(15,))
    values = [factor(t) for t in range(T + 20)]
    assert all(0 < v <= 1 for v in values)
    assert len(set(values[T:])) == 1
    if name in ("linear", "cosine", "one_cycle") and warmup_steps < T - 1:
        assert values[-1] == pytest.approx(0.1)
    if name not in ("step", "multistep", "one_cycle"):
        assert values[warmup_steps] == pytest.approx(1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_one_step_has_a_schedule(name):
    assert 0 < schedule(name, 1, step_size=1, milestones=(1,))(0) <= 1


def test_halfway_cosine_is_one_half():
    assert math.isclose(schedule("cosine", 100)(50), 0.5)


def test_schedule_sets_each_groups_own_peak_and_resumes_from_the_step_alone():
    first = optimizer(0.4, 0.02)
    plan = Schedule(first, schedule("linear", 10))
    assert plan.apply(5) == pytest.approx(0.2)
    assert [g["lr"] for g in first.param_groups] == pytest.approx([0.2, 0.01])
    second = optimizer(0.4, 0.02)
    resumed = Schedule(second, schedule("linear", 10))
    second.load_state_dict(first.state_dict())
    resumed.apply(8)
    plan.apply(8)
    assert [g["lr"] for g in second.param_groups] == [g["lr"] for g in first.param_groups]
    assert second.param_groups[0]["lr"] == pytest.approx(0.4 * 0.2)


@pytest.mark.parametrize(("settings", "field"), [
    ({"name": "cosin"}, "'cosine'"), ({"name": "cosine", "warmup_steps": T}, "warmup_steps=40"),
    ({"name": "cosine", "floor": 1.5}, "floor"), ({"name": "step"}, "step_size=None"),
    ({"name": "multistep"}, "milestones"), ({"name": "step", "step_size": 2, "gamma": 0.0}, "gamma"),
    ({"name": "multistep", "milestones": (0,)}, "milestones"),
])
def test_wrong_settings_are_recipe_errors_that_name_the_field(settings, field):
    with pytest.raises(RecipeError, match=field):
        schedule(total_steps=T, **settings)
