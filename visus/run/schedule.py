"""A recipe's schedule: epochs turned into updates, cycles into restarts, and the picture of it before a run."""

from __future__ import annotations

from collections.abc import Callable

from visus.core.errors import RecipeError
from visus.optim.schedules import OWN_WARMUP, TRIANGLE_PEAK, cycle_starts, schedule
from visus.run.recipe import Recipe, Schedule


def rate_factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """What the peak rate is multiplied by in update 0, 1, ... of a resolved recipe. Raises RecipeError."""
    settings = recipe.schedule
    epochs = int(recipe.train.epochs)
    total = epochs * steps_per_epoch
    starts = cycle_starts(epochs, settings.cycles, settings.cycle_factor) if settings.name == "cosine_restarts" else ()
    return schedule(settings.name, total, min(round(float(settings.warmup_epochs) * steps_per_epoch), total - 1),
                    floor=settings.final, gamma=settings.gamma,
                    step_size=max(1, round(settings.step_epochs * steps_per_epoch)),
                    milestones=tuple(round(m * steps_per_epoch) for m in settings.milestones),
                    power=settings.power, decay_rate=_decay_per_update(recipe, steps_per_epoch),
                    restarts=tuple(start * steps_per_epoch for start in starts[1:-1]),
                    decay_share=settings.decay_share)


def snapshot_epochs(recipe: Recipe) -> frozenset[int]:
    """The last epoch (from 0) of each cycle, where a snapshot ensemble is asked for."""
    if recipe.train.snapshots is None:
        return frozenset()
    starts = cycle_starts(int(recipe.train.epochs), recipe.train.snapshots, recipe.schedule.cycle_factor)
    return frozenset(start - 1 for start in starts[1:])


def choose_schedule(recipe: Recipe, epochs: int) -> tuple[dict[str, object], list[str]]:
    """The fields of schedule that follow from others, and one sentence per choice. epochs: of the run.

    Raises RecipeError for fields that contradict each other.
    """
    values: dict[str, object] = {}
    reasons: list[str] = []
    settings, count = recipe.schedule, recipe.train.snapshots
    cycles = settings.cycles
    if count is not None:
        _refuse_beside_snapshots(recipe, count)
        cycles = count
        values |= {"schedule.name": "cosine_restarts", "schedule.cycles": count}
        starts = cycle_starts(epochs, count, settings.cycle_factor)
        reasons.append(f"{count} cosine cycles (Huang et al. 2017): snapshots after epochs "
                       + ", ".join(str(start) for start in starts[1:]))
    elif settings.name == "cosine_restarts":
        cycle_starts(epochs, cycles, settings.cycle_factor)
    elif cycles > 1:
        raise RecipeError(f"the schedule {settings.name} has no cycles", where=f"schedule.cycles={cycles}",
                          remedy="Set schedule.name=cosine_restarts")
    if settings.name == "multistep" and not settings.milestones:
        raise RecipeError("names no epoch at which the rate drops", where="schedule.milestones=[]",
                          remedy="For example: --set schedule.milestones=[10,15]")
    if settings.warmup_epochs == "auto":
        values["schedule.warmup_epochs"] = round(
            TRIANGLE_PEAK * epochs if settings.name == "triangular" else min(5.0, epochs / 10 / cycles), 2)
    return values, reasons


def has_own_warmup(settings: Schedule) -> bool:
    """Where the warm-up is a part of the schedule, and sets its peak."""
    return settings.name in OWN_WARMUP


def _decay_per_update(recipe: Recipe, steps_per_epoch: int) -> float:
    rate = recipe.schedule.decay_rate
    if rate == "bottou":
        return float(recipe.optimizer.weight_decay) * float(recipe.optimizer.lr)
    return rate / steps_per_epoch


def _refuse_beside_snapshots(recipe: Recipe, count: int) -> None:
    where = f"train.snapshots={count}"
    if recipe.schedule.name not in ("cosine", "cosine_restarts"):
        raise RecipeError("are taken at the ends of cosine cycles", where=f"{where}, schedule.name="
                          f"{recipe.schedule.name}", remedy="Leave schedule.name out")
    if recipe.schedule.cycles not in (1, count):
        raise RecipeError("one snapshot is taken in each cycle", where=f"{where}, schedule.cycles="
                          f"{recipe.schedule.cycles}", remedy="Leave schedule.cycles out")
    if recipe.train.patience is not None:
        raise RecipeError("a run that stops early has not all of its snapshots", where=f"{where}, train.patience="
                          f"{recipe.train.patience}", remedy="Leave train.patience out")
    if recipe.train.average_from is not None:
        raise RecipeError("an average over the cycles makes the snapshots alike", where=f"{where}, "
                          f"train.average_from={recipe.train.average_from}", remedy="Leave one of them out")
