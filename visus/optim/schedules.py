"""Learning-rate schedules as pure functions: factor(t) multiplies the peak rate in update t = 0, 1, ...

With T = total_steps, w = warmup_steps and f = floor:

    warm-up        (t + 1) / (w + 1) for t < w; 1 for the first time at t = w   (Goyal et al. 2017)
    constant       1
    linear         1 - (1 - f) u,                    u = (t - w) / (T - w)
    cosine         f + (1 - f) (1 + cos(pi u)) / 2   (Loshchilov and Hutter 2017, without restarts)
    step           gamma^floor(t / step_size)        steps are counted from the start, warm-up included
    multistep      gamma^(number of milestones <= t)
    inverse_sqrt   sqrt((w + 1) / (t + 1))           (Vaswani et al. 2017, scaled to a peak of 1)
    one_cycle      from 1/25 straight up to 1 at t = w (without w: at 0.3 T - 1), straight down to f at T - 1
                   (Smith and Topin 2018); it has its own warm-up

linear and cosine reach f at t = T, one update after the last. After T the factor stays what it is at T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from visus.core.errors import RecipeError, did_you_mean

SCHEDULES = ("constant", "linear", "cosine", "step", "multistep", "inverse_sqrt", "one_cycle")
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_PEAK = 0.3


def schedule(
    name: str,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    floor: float = 0.0,
    gamma: float = 0.1,
    step_size: int | None = None,
    milestones: Sequence[int] = (),
) -> Callable[[int], float]:
    """The factor of the peak rate as a function of the step; the equations are at the top of this file.

    floor: the last factor of linear, cosine and one_cycle, in [0, 1]. gamma: the drop of step and multistep,
    in (0, 1]. step_size (updates, for step) and milestones (update numbers, for multistep) count from the
    start of the run. Raises RecipeError, naming the field, for an unknown name or a value out of range.
    """
    if name not in SCHEDULES:
        raise RecipeError("there is no such schedule", where=f"schedule={name!r}",
                          remedy=did_you_mean(name, SCHEDULES))
    _check(total_steps >= 1, "total_steps", total_steps, "must be at least 1")
    _check(0 <= warmup_steps < total_steps, "warmup_steps", warmup_steps,
           f"must be at least 0 and below the {total_steps} steps of the run")
    _check(0 <= floor <= 1, "floor", floor, "must be in [0, 1]")
    _check(0 < gamma <= 1, "gamma", gamma, "must be above 0 and at most 1")
    if name == "step":
        _check(step_size is not None and step_size >= 1, "step_size", step_size, "must be at least 1 update")
    if name == "multistep":
        _check(bool(milestones) and all(m >= 1 for m in milestones), "milestones", list(milestones),
               "must name at least one update above 0")
    if name == "one_cycle":
        return _one_cycle(total_steps, warmup_steps, floor)

    decay_steps = total_steps - warmup_steps
    drops = sorted(milestones)

    def progress(step: int) -> float:
        return (step - warmup_steps) / decay_steps

    decays: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "linear": lambda step: 1 - (1 - floor) * progress(step),
        "cosine": lambda step: floor + (1 - floor) * (1 + math.cos(math.pi * progress(step))) / 2,
        "step": lambda step: gamma ** (step // (step_size or 1)),
        "multistep": lambda step: gamma ** sum(drop <= step for drop in drops),
        "inverse_sqrt": lambda step: math.sqrt((warmup_steps + 1) / (step + 1)),
    }
    decay = decays[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return decay(min(step, total_steps))

    return factor


def _one_cycle(total_steps: int, warmup_steps: int, floor: float) -> Callable[[int], float]:
    last = total_steps - 1
    peak = warmup_steps if warmup_steps else max(0.0, min(ONE_CYCLE_PEAK * total_steps - 1, last))

    def factor(step: int) -> float:
        if step < peak:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * step / peak
        if last == peak:
            return 1.0
        return 1 + (floor - 1) * (min(step, last) - peak) / (last - peak)

    return factor


def _check(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise RecipeError(rule, where=f"schedule.{field}={value!r}", remedy="Correct the value in the recipe")


class Schedule:
    """Sets the rates of an optimizer. It holds no state: the step is the state.

    The peak of each group is the rate it was built with, kept in group['initial_lr'], which travels in the
    optimizer's own state_dict.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]):
        self.optimizer = optimizer
        self.factor = factor
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def apply(self, step: int) -> float:
        """Set every group's rate for update `step` (from 0); gives the rate of the first group."""
        factor = self.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]
