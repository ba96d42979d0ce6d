"""A few classes fail while the rest go well.

Why: few or wrong training images of them, or another class that looks alike. A class counts as weak only when its
recall is below half of the median even at the upper end of its interval (Wilson, 1927; three standard errors): ten
images of a class tell little.
Source: Karpathy, A Recipe for Training Neural Networks, 2019; EECS498 lecture 11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import curve_of, last_fall
from visus.doctor.history import History
from visus.doctor.thresholds import limit

NAMED = 5  # classes that a finding names


def weak_classes(history: History) -> Iterator[Finding]:
    row = history.evaluated
    table = [r for r in row.get("per_class") or () if isinstance(r, Mapping) and isinstance(r.get("count"), int)
             and isinstance(r.get("recall"), int | float) and r["count"] >= limit("weak-classes.images")]
    if len(table) < limit("weak-classes.classes"):
        return
    recall = np.array([float(r["recall"]) for r in table])
    middle = float(np.median(recall))
    if middle < limit("weak-classes.median"):
        return
    upper = np.array([_upper(float(r["recall"]), int(r["count"])) for r in table])
    weak = sorted(np.flatnonzero(upper < limit("weak-classes.share") * middle), key=lambda k: recall[k])
    if weak:
        yield _finding("note" if _still_falling(history) else "warning", row, [table[k] for k in weak], middle)
        return
    behind = sorted(np.flatnonzero((recall < limit("weak-classes.note") * middle) & (upper < middle)),
                    key=lambda k: recall[k])
    if behind:
        yield _finding("note", row, [table[k] for k in behind], middle)


def _still_falling(history: History) -> bool:
    """The training was not at its end: the classes that come last are still to be learnt."""
    curve = curve_of(history)
    return curve is not None and last_fall(curve) > limit("rate-too-low.still-falling")


def _finding(severity: Any, row: Mapping[str, Any], table: list[Mapping[str, Any]], middle: float) -> Finding:
    names = ", ".join(str(r["name"]) for r in table[:NAMED]) + (f" and {len(table) - NAMED} more"
                                                                 if len(table) > NAMED else "")
    return Finding(
        "weak-classes", severity,
        f"{len(table)} class{'es are' if len(table) > 1 else ' is'} recognised far less often than the rest: {names}",
        "; ".join(f"{r['name']}: {100 * r['recall']:.0f} % of {r['count']} images{_taken_for(row, str(r['name']))}"
                  for r in table[:NAMED]) + f"; median of the classes {100 * middle:.0f} %",
        "Look at their mistakes in the report, check their labels (visus doctor PATH), collect more of their images, "
        "or weight them in the loss.")


def _taken_for(row: Mapping[str, Any], name: str) -> str:
    pairs = [p for p in row.get("confused") or () if isinstance(p, Mapping) and str(p.get("truth")) == name]
    if not pairs:
        return ""
    most = max(pairs, key=lambda p: p.get("count") or 0)
    return f", {most.get('count')} taken for {most.get('predicted')}"


def _upper(share: float, count: int) -> float:
    """Upper end of Wilson's interval."""
    z = limit("weak-classes.sigmas")
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count ** 2))
    return (middle + spread) / (1 + z * z / count)


doctor.add(weak_classes, "weak-classes", stage="after", rank=6,
           rule="The recall of a class is below 60 % of the median over classes at the upper end of its interval",
           cost="reads the evaluation", course="18.07, C6.3")
