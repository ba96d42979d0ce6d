"""What an experiment is, and how its numbers are compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRAIN_IMAGES, TEST_IMAGES = 8_000, 4_000  # the first ones of each file; a fifth of the former is for validation
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy in percent: mean over seeds; low, high: its 95 % interval over images, or the range over seeds.
    error: two standard errors for so many images, which all seeds share."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True, slots=True)
class Variation:
    """A run by the recipe file `recipe` with fields changed, or on other images: so many of the first ones, or with one
    fixed permutation of the pixels of all images."""

    recipe: str
    values: Mapping[str, Any] = field(default_factory=dict)
    images: int = TRAIN_IMAGES
    permuted: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """A diagram of accuracies in percent: a line per label."""

    title: str
    x_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = False


@dataclass(frozen=True, slots=True)
class Experiment:
    """panels: (title, {run: label}) for each diagram of curves. verdict(runs) -> (shown, what the numbers say).
    lines(runs): another diagram in place of the curves."""

    title: str
    claim: str
    panels: tuple[tuple[str, Mapping[str, str]], ...]
    verdict: Callable[[Results], tuple[bool, str]]
    lines: Callable[[Results], Lines] | None = None

    @property
    def runs(self) -> dict[str, str]:
        """Each run and what to call it beside the others."""
        labels = [label for _, panel in self.panels for label in panel.values()]
        titled = len(self.panels) > 1 and len(set(labels)) < len(labels)
        return {name: f"{title}, {label}" if titled else label
                for title, panel in self.panels for name, label in panel.items()}


def score(run: Results, split: str) -> Score | None:
    """None where a run diverged."""
    rows = [seed[split] for seed in run["seeds"] if split in seed]
    if len(rows) < len(run["seeds"]):
        return None
    values = [100 * row["value"] for row in rows]
    mean = statistics.mean(values)
    error = 200 * math.sqrt(mean / 100 * (1 - mean / 100) / rows[0]["count"])
    if len(rows) > 1:
        return Score(mean, min(values), max(values), error)
    return Score(mean, *(100 * rows[0].get(end, rows[0]["value"]) for end in ("low", "high")), error)


def difference(runs: Results, a: str, b: str, split: str) -> tuple[float, float]:
    """(a - b in points, two standard errors of it). A diverged run counts as a guess among ten classes."""
    chance = Score(10.0, 10.0, 10.0, 0.0)
    first, second = score(runs[a], split) or chance, score(runs[b], split) or chance
    return first.value - second.value, math.hypot(first.error, second.error)


def percent(run: Results, split: str) -> str:
    found = score(run, split)
    return "diverged" if found is None else f"{found.value:.1f} %"


def points(gap: tuple[float, float]) -> str:
    return f"{gap[0]:+.1f} ± {gap[1]:.1f} points".replace("-", "\N{MINUS SIGN}")
