"""Learning-rate schedules as pure functions: factor(t) multiplies the peak rate in update t = 0, 1, ...

With T = total_steps, w = warmup_steps, f = floor, u = (t - w) / (T - w) and k = decay_rate:

    warm-up          (t + 1) / (w + 1) for t < w; 1 for the first time at t = w   (Goyal et al. 2017)
    constant         1
    linear           1 - (1 - f) u
    cosine           f + (1 - f) (1 + cos(pi u)) / 2   (Loshchilov and Hutter 2017, without restarts)
    cosine_restarts  the same in each cycle, u being the share of the cycle that is past: back to 1 at each restart
                     (SGDR, Loshchilov and Hutter 2017, equation 5; snapshot ensembles, Huang et al. 2017, equation 2)
    poly             f + (1 - f) (1 - u)^power   (Chen et al., DeepLab 2017)
    step             gamma^floor(t / step_size)        steps are counted from the start, warm-up included
    multistep        gamma^(number of milestones <= t)
    exponential      gamma^u: gamma is what is left at the end of the run
    inverse_time     1 / (1 + k (t - w))   ("1/t decay"; k = weight decay * peak rate: Bottou 2012, section 5.1)
    inverse_sqrt     sqrt((w + 1) / (t + 1))           (Vaswani et al. 2017, scaled to a peak of 1)
    wsd              1, and in the last decay_share of the T updates f + (1 - f) (1 - sqrt(v)), v being the share of
                     them that is past (warm-up, stable, decay: Hu et al., MiniCPM 2024; the form 1 - sqrt is that of
                     Hagele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024)
    one_cycle        from 1/25 straight up to 1 at t = w (without w: at 0.3 T - 1), straight down to f at T - 1
                     (Smith and Topin 2018); it has its own warm-up
    triangular       from 0.2 straight up to 1 at t = w (without w: at 0.23 T, rounded down), straight down to f at T
                     (the triangle of Jordan's CIFAR-10 speed runs, 2024); it has its own warm-up

linear, cosine, poly, wsd and triangular reach f at t = T, one update after the last. After T the factor stays what it
is at T (the last cycle of cosine_restarts: f).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from visus.core.errors import RecipeError, did_you_mean

SCHEDULES = ("constant", "linear", "cosine", "cosine_restarts", "poly", "step", "multistep", "exponential",
             "inverse_time", "inverse_sqrt", "wsd", "one_cycle", "triangular")
OWN_WARMUP = ("one_cycle", "triangular")
ONE_CYCLE_START, ONE_CYCLE_PEAK = 1 / 25, 0.3
TRIANGLE_START, TRIANGLE_PEAK = 0.2, 0.23


def schedule(
    name: str,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    floor: float = 0.0,
    gamma: float = 0.1,
    step_size: int | None = None,
    milestones: Sequence[int] = (),
    power: float = 0.9,
    decay_rate: float = 0.0,
    restarts: Sequence[int] = (),
    decay_share: float = 0.2,
) -> Callable[[int], float]:
    """The factor of the peak rate as a function of the step; the equations are at the top of this file.

    floor: the last factor of the schedules that have one, in [0, 1]. gamma: the drop of step and multistep, in
    (0, 1]; what exponential leaves. step_size (updates, for step), milestones (update numbers, for multistep) and
    restarts (updates with which a new cycle of cosine_restarts begins) count from the start of the run. decay_rate:
    per update, 0 or more. decay_share: in (0, 1). Raises RecipeError, naming the field, for an unknown name or a
    value out of range.
    """
    if name not in SCHEDULES:
        raise RecipeError("there is no such schedule", where=f"schedule={name!r}",
                          remedy=did_you_mean(name, SCHEDULES))
    _check(total_steps >= 1, "total_steps", total_steps, "must be at least 1")
    _check(0 <= warmup_steps < total_steps, "warmup_steps", warmup_steps,
           f"must be at least 0 and below the {total_steps} steps of the run")
    _check(0 <= floor <= 1, "floor", floor, "must be in [0, 1]")
    _check(0 < gamma <= 1, "gamma", gamma, "must be above 0 and at most 1")
    _check(power > 0, "power", power, "must be above 0")
    _check(decay_rate >= 0, "decay_rate", decay_rate, "must be at least 0")
    _check(0 < decay_share < 1, "decay_share", decay_share, "must be between 0 and 1")
    if name == "step":
        _check(step_size is not None and step_size >= 1, "step_size", step_size, "must be at least 1 update")
    if name == "multistep":
        _check(bool(milestones) and all(m >= 1 for m in milestones), "milestones", list(milestones),
               "must name at least one update above 0")
    if name == "one_cycle":
        peak = warmup_steps if warmup_steps else max(0.0, min(ONE_CYCLE_PEAK * total_steps - 1, total_steps - 1))
        return _up_and_down(ONE_CYCLE_START, peak, total_steps - 1, floor)
    if name == "triangular":
        return _up_and_down(TRIANGLE_START, warmup_steps or int(TRIANGLE_PEAK * total_steps), total_steps, floor)

    decay_steps = total_steps - warmup_steps
    drops = sorted(milestones)
    stable = total_steps - max(1, round(decay_share * total_steps))

    def progress(step: int) -> float:
        return (step - warmup_steps) / decay_steps

    def half_cosine(u: float) -> float:
        return floor + (1 - floor) * (1 + math.cos(math.pi * u)) / 2

    def fall(step: int) -> float:
        late = max(0, step - stable) / (total_steps - stable)
        return floor + (1 - floor) * (1 - math.sqrt(late))

    decays: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "linear": lambda step: 1 - (1 - floor) * progress(step),
        "cosine": lambda step: half_cosine(progress(step)),
        "cosine_restarts": lambda step: half_cosine(_share_of_cycle(step, edges)),
        "poly": lambda step: floor + (1 - floor) * (1 - progress(step)) ** power,
        "step": lambda step: gamma ** (step // (step_size or 1)),
        "multistep": lambda step: gamma ** sum(drop <= step for drop in drops),
        "exponential": lambda step: gamma ** progress(step),
        "inverse_time": lambda step: 1 / (1 + decay_rate * (step - warmup_steps)),
        "inverse_sqrt": lambda step: math.sqrt((warmup_steps + 1) / (step + 1)),
        "wsd": fall,
    }
    edges = [warmup_steps, *restarts, total_steps]
    _check(all(a < b for a, b in zip(edges, edges[1:], strict=False)), "restarts", list(restarts),
           f"must rise, from above the {warmup_steps} steps of the warm-up to below the {total_steps} of the run")
    if name == "wsd":
        _check(warmup_steps <= stable, "decay_share", decay_share,
               f"leaves {stable} of {total_steps} steps before the decay, fewer than the warm-up's {warmup_steps}")
    decay = decays[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return decay(min(step, total_steps))

    return factor


def cycle_starts(epochs: int, cycles: int, factor: float = 1.0) -> tuple[int, ...]:
    """The epochs (from 0) with which the cycles of SGDR begin, and `epochs`: cycles + 1 whole numbers from 0.

    Each cycle is `factor` times as long as the one before (T_mult of SGDR), rounded to whole epochs so that each ends
    with an epoch. Raises RecipeError where a cycle would have no epoch.
    """
    lengths = [factor**i for i in range(cycles)]
    starts = tuple(round(epochs * sum(lengths[:i]) / sum(lengths)) for i in range(cycles + 1))
    if any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
        raise RecipeError(f"the {epochs} epochs of the run do not hold so many cycles, each {factor:g} times as long "
                          "as the one before", where=f"schedule.cycles={cycles}",
                          remedy="Train for more epochs, or take fewer cycles")
    return starts


def _share_of_cycle(step: int, edges: Sequence[int]) -> float:
    """How much of its cycle is past, in [0, 1); 1 at the end of the last."""
    cycle = min(bisect_right(edges, step), len(edges) - 1)
    return (step - edges[cycle - 1]) / (edges[cycle] - edges[cycle - 1])


def _up_and_down(start: float, peak: float, last: int, floor: float) -> Callable[[int], float]:
    """Straight from `start` at 0 to 1 at `peak`, straight on to `floor` at `last`, which stays."""

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * step / peak
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
