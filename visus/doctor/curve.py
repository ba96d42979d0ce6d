"""The shape of a loss curve: where it began, where it ended, how much it jitters. Plain arrays, robust to outliers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.doctor.history import History

LEAST = 12  # losses that make a curve
SIGMA = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def smoothed(values: np.ndarray, kept: float) -> np.ndarray:
    """Running mean of [N] that keeps the share `kept` of itself at each step, without a bias to 0 at the start: the sum
    of the weights is divided out (Kingma, Ba, ICLR 2015, section 3)."""
    out, mean = np.empty(len(values)), 0.0
    for k, value in enumerate(values):
        mean = kept * mean + (1 - kept) * float(value)
        out[k] = mean / (1 - kept ** (k + 1))
    return out


def robust_sigma(values: np.ndarray) -> float:
    """Standard deviation by the median absolute deviation: half of the values may be anything."""
    return float(SIGMA * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def jitter(values: np.ndarray) -> float:
    """Standard deviation of [N] around its own trend: from neighbours, between which the trend is nothing."""
    return robust_sigma(np.diff(values)) / math.sqrt(2) if len(values) > 2 else 0.0


@dataclass(frozen=True)
class Curve:
    """Training losses [N] at the updates `steps` [N], finite ones only. travelled [N]: how far the training had got,
    from 0 to 1, in learning rate spent where it is known, else in updates. start: mean of the first losses, before
    much was learnt. end: median of the last tenth. noise: jitter of a single loss. epoch: updates of an epoch."""

    steps: np.ndarray
    losses: np.ndarray
    travelled: np.ndarray
    start: float
    end: float
    noise: float
    epoch: int | None

    @property
    def updates(self) -> int:
        return int(self.steps[-1])

    @property
    def fall(self) -> float:
        """Share of the start that is gone: 0 for a flat loss, negative for one that rose."""
        return (self.start - self.end) / self.start if self.start > 0 else 0.0

    def between(self, low: float, high: float) -> np.ndarray:
        """Losses of a stretch of the way, in shares of it."""
        return self.losses[(self.travelled >= low) & (self.travelled <= high)]

    def places(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(steps, medians) of `count` stretches with as many losses each."""
        parts = np.array_split(np.arange(len(self.losses)), count)
        return (np.array([self.steps[part[-1]] for part in parts]),
                np.array([np.median(self.losses[part]) for part in parts]))


def curve_of(history: History) -> Curve | None:
    """The training curve; None for less than `LEAST` finite losses."""
    losses = np.array(history.losses, dtype=np.float64)
    keep = np.isfinite(losses)
    if keep.sum() < LEAST:
        return None
    steps, losses = np.array(history.steps, dtype=np.int64)[keep], losses[keep]
    rates = np.array(history.lrs, dtype=np.float64)[keep] if len(history.lrs) == len(keep) else np.zeros(len(steps))
    spent = np.cumsum(rates * np.diff(steps, prepend=0)) if rates.max() > 0 else steps.astype(np.float64)
    first, last = max(3, len(losses) // 50), max(5, len(losses) // 10)
    start = min(float(losses[:first].mean()), 1.5 * float(losses[0]))  # where it explodes at once the first loss counts
    return Curve(steps, losses, spent / spent[-1], start, float(np.median(losses[-last:])), jitter(losses),
                 epoch_length(history))


def last_fall(curve: Curve, sigmas: float = 4.0) -> float:
    """What the last fifth of the way took off, as a share of the loss before it, where it is more than `sigmas`
    standard errors; else 0."""
    before, after = curve.between(0.75, 0.85), curve.between(0.95, 1.0)
    if min(len(before), len(after)) < 3:
        return 0.0
    middle = float(np.median(before))
    fall = middle - float(np.median(after))
    sure = sigmas * curve.noise / min(len(before), len(after)) ** 0.5
    return fall / middle if middle > 0 and fall > sure else 0.0


def epoch_length(history: History) -> int | None:
    """Updates of an epoch: as told, else from the ends of the epochs."""
    if history.steps_per_epoch:
        return history.steps_per_epoch
    ends = [int(row["step"]) for row in history.epochs if isinstance(row.get("step"), int)]
    gaps = np.diff([0, *ends])
    return int(np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else None


def column(history: History, name: str) -> np.ndarray:
    """A value of each epoch [E], from the row or from its metrics; NaN where it was not measured."""
    return np.array([_number(row, name) for row in history.epochs], dtype=np.float64)


def headline(history: History) -> np.ndarray:
    """The metric that the run is judged by, of each epoch, larger is better."""
    values = column(history, history.headline)
    return values if history.higher_is_better else -values


def epoch_names(history: History) -> list[int]:
    """Epochs as a reader counts them, from 1."""
    names = [int(row.get("epoch", k)) for k, row in enumerate(history.epochs)]
    return [name + 1 for name in names] if names and min(names) == 0 else names


def step_of(history: History, row: int) -> int | None:
    """The update at which an epoch ended."""
    step = history.epochs[row].get("step")
    return int(step) if isinstance(step, int) else None


def learnt(history: History) -> bool:
    """The metric says that most of what can be learnt was learnt, whatever the loss does: accuracy halfway from chance
    to 1."""
    if history.headline != "accuracy" or not history.epochs:
        return False
    chance = 1 / history.classes if history.classes else 0.0
    values = headline(history)
    return bool(np.isfinite(values).any() and np.nanmax(values) > chance + 0.5 * (1 - chance))


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if value is None and isinstance(row.get("metrics"), Mapping):
        value = row["metrics"].get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
