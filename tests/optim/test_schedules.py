"""Schedules against torch.optim.lr_scheduler and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as peer

from tools.peers import load_peer
from visus.core.errors import RecipeError
from visus.optim.schedules import SCHEDULES, TRIANGLE_PEAK, Schedule, cycle_starts, schedule

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
    ({"name": "poly", "power": 0.9}, lambda o: peer.PolynomialLR(o, T, 0.9)),
    ({"name": "exponential", "gamma": 0.01}, lambda o: peer.ExponentialLR(o, 0.01 ** (1 / T))),
    ({"name": "inverse_time", "decay_rate": 0.3}, lambda o: peer.LambdaLR(o, lambda t: 1 / (1 + 0.3 * t))),
    ({"name": "cosine_restarts", "floor": 0.05, "restarts": (10, 20, 30)},
     lambda o: peer.CosineAnnealingWarmRestarts(o, 10, eta_min=0.05)),
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
    if name == "wsd" and warmup_steps == T - 1:
        pytest.skip("the decay takes the last fifth")
    factor = schedule(name, T, warmup_steps, floor=0.1, step_size=10, milestones=(15,), decay_rate=0.1)
    values = [factor(t) for t in range(T + 20)]
    assert all(0 < v <= 1 for v in values)
    assert len(set(values[T:])) == 1
    if name in ("linear", "cosine", "cosine_restarts", "poly", "wsd", "exponential", "triangular", "one_cycle") \
            and warmup_steps < T - 1:
        assert values[-1] == pytest.approx(0.1)
    if name not in ("step", "multistep") and not (name in ("one_cycle", "triangular") and warmup_steps == 0):
        assert values[warmup_steps] == pytest.approx(1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_one_step_has_a_schedule(name):
    assert 0 < schedule(name, 1, step_size=1, milestones=(1,))(0) <= 1


def test_restarts_that_double_equal_torchs_over_a_whole_number_of_cycles():
    starts = cycle_starts(70, 3, 2.0)
    assert starts == (0, 10, 30, 70)
    factor = schedule("cosine_restarts", 70, restarts=starts[1:-1])
    rates = rates_of(lambda o: peer.CosineAnnealingWarmRestarts(o, 10, T_mult=2), 70)
    assert [factor(t) for t in range(70)] == pytest.approx(rates, abs=1e-12)


def test_cycles_of_a_snapshot_ensemble_follow_its_equation_2():
    total, cycles = 60, 5
    length = math.ceil(total / cycles)
    paper = [(math.cos(math.pi * ((t - 1) % length) / length) + 1) / 2 for t in range(1, total + 1)]
    factor = schedule("cosine_restarts", total, restarts=cycle_starts(total, cycles)[1:-1])
    assert [factor(t) for t in range(total)] == pytest.approx(paper, abs=1e-12)


def test_cycles_are_whole_epochs_and_each_has_one():
    assert cycle_starts(10, 3) == (0, 3, 7, 10)
    with pytest.raises(RecipeError, match=r"cycles=4.*\n?.*fewer cycles"):
        cycle_starts(3, 4)
    with pytest.raises(RecipeError, match="restarts"):
        schedule("cosine_restarts", T, 12, restarts=(10, 20))


def test_wsd_equals_that_of_transformers_with_a_decay_of_one_minus_the_root():
    from transformers import get_wsd_schedule

    decay, total = 16, 80
    theirs = rates_of(lambda o: get_wsd_schedule(o, num_warmup_steps=0, num_decay_steps=decay, num_stable_steps=64,
                                                 decay_type="1-sqrt", min_lr_ratio=0.05), total)
    factor = schedule("wsd", total, floor=0.05, decay_share=0.2)
    assert [factor(t) for t in range(total)] == pytest.approx(theirs, abs=1e-12)
    warm = schedule("wsd", total, 8, floor=0.05, decay_share=0.2)
    assert [warm(t) for t in range(8, total)] == [factor(t) for t in range(8, total)]
    with pytest.raises(RecipeError, match="decay_share"):
        schedule("wsd", total, 70)


def test_poly_with_a_floor_and_cycles_equal_timms():
    load_peer("timm")
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler

    theirs = PolyLRScheduler(optimizer(), T, power=0.7, lr_min=0.02, t_in_epochs=False)
    ours = schedule("poly", T, floor=0.02, power=0.7)
    assert [ours(t) for t in range(T)] == pytest.approx([theirs._get_lr(t)[0] for t in range(T)], abs=1e-12)
    theirs = CosineLRScheduler(optimizer(), 10, lr_min=0.02, cycle_mul=2, cycle_limit=3)
    ours = schedule("cosine_restarts", 70, floor=0.02, restarts=(10, 30))
    assert [ours(t) for t in range(70)] == pytest.approx([theirs._get_lr(t)[0] for t in range(70)], abs=1e-12)


def test_a_triangle_is_two_straight_lines():
    import numpy as np

    factor = schedule("triangular", 200, floor=0.07)
    by_hand = np.interp(np.arange(201), [0, int(TRIANGLE_PEAK * 200), 200], [0.2, 1, 0.07])
    assert [factor(t) for t in range(201)] == pytest.approx(by_hand.tolist(), abs=1e-12)
    assert schedule("triangular", 200, 50)(50) == 1 and schedule("triangular", 200, 50)(49) < 1


def test_one_over_t_with_bottous_constant_is_his_formula():
    eta, decay = 0.3, 0.01
    factor = schedule("inverse_time", T, decay_rate=decay * eta)
    assert [eta * factor(t) for t in range(T)] == pytest.approx([eta / (1 + decay * eta * t) for t in range(T)])


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
