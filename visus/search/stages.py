"""From a coarse search to a finer one: where the best value lies in its range, and the range that follows.

CS231n notes 3: search from coarse to fine, with more epochs each time, and beware of best values at the border of a
range: better ones may lie beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from visus.search.space import Dimension

EDGE = 0.1  # share of the range at each end that counts as its edge
NARROWING = 3.0  # a finer stage has a third of the range
WIDENING = 0.5  # share of the range that is added at an edge


@dataclass(frozen=True, slots=True)
class Edge:
    """The best value lies in the outer tenth of a range. side: 'low' or 'high'."""

    name: str
    side: Literal["low", "high"]
    value: float
    end: float

    @property
    def sentence(self) -> str:
        return (f"the best {self.name}, {self.value:.3g}, lies at the {'lower' if self.side == 'low' else 'upper'} "
                f"edge of its range ({self.end:g}): better values may lie beyond it")


def edges(space: Iterable[Dimension], best: Mapping[str, Any]) -> list[Edge]:
    """Where the best configuration lies within `EDGE` of an end of its range, by the dimension's scale. Choices have no
    edge, and a range of up to four whole numbers neither; 0 as the end of a straight range is no edge: nothing lies
    below it."""
    found = []
    for d in space:
        if d.kind == "choice" or (d.is_whole and d.high - d.low < 4):
            continue
        unit = d.unit(best[d.name])
        if unit <= EDGE and not (d.low == 0 and not d.is_log):
            found.append(Edge(d.name, "low", float(best[d.name]), d.low))
        elif unit >= 1 - EDGE:
            found.append(Edge(d.name, "high", float(best[d.name]), d.high))
    return found


def open_edges(spaces: Sequence[Sequence[Dimension]], best: Mapping[str, Any]) -> list[Edge]:
    """The edges of the last of several stages beyond which no earlier one has searched. spaces: of the stages in
    order."""
    if not spaces:
        return []
    before = [d for space in spaces[:-1] for d in space if d.kind != "choice"]
    return [edge for edge in edges(spaces[-1], best)
            if not any(d.name == edge.name and d.low < edge.end * (1 - 1e-9) and edge.end * (1 + 1e-9) < d.high
                       for d in before)]


def refine(space: Sequence[Dimension], best: Mapping[str, Any], kept: Mapping[str, Sequence[Any]]) -> list[Dimension]:
    """The space of the next, finer stage: a third of each range around the best value, inside of the range that was;
    at an edge the range moves on by half of its width instead of being narrowed there.

    kept: for each choice the labels that stay.
    Source: CS231n notes 3 (stage the search from coarse to fine; careful with best values on the border).
    """
    at_edge = {edge.name: edge.side for edge in edges(space, best)}
    found = []
    for d in space:
        if d.kind == "choice":
            labels = [label for label in d.labels if label in kept.get(d.name, d.labels)] or list(d.labels)
            found.append(replace(d, choices=tuple(d.plain(label) for label in labels), labels=tuple(labels)))
            continue
        low, high = (math.log(d.low), math.log(d.high)) if d.is_log else (d.low, d.high)
        at = math.log(float(best[d.name])) if d.is_log else float(best[d.name])
        width = (high - low) / NARROWING
        start, end = at - width / 2, at + width / 2
        if at_edge.get(d.name) == "low":
            start, end = low - WIDENING * (high - low), at + width / 2
        elif at_edge.get(d.name) == "high":
            start, end = at - width / 2, high + WIDENING * (high - low)
        else:
            start, end = max(start, low), min(end, high)
        if d.is_log:
            start, end = math.exp(start), math.exp(end)
        if d.kind == "uniform" and d.low >= 0:
            start = max(start, 0.0)
        if d.is_whole:
            start, end = max(math.floor(start), 1 if d.is_log or d.low >= 1 else math.floor(start)), math.ceil(end)
        else:
            start, end = float(f"{start:.4g}"), float(f"{end:.4g}")
        found.append(replace(d, low=float(start), high=float(end)) if end > start else d)
    return found
