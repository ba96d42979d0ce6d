"""Is the model equally good for all groups of images: accuracy and selection rate by group, with intervals.

Papers: Hardt, Price, Srebro, Equality of Opportunity in Supervised Learning, NIPS 2016, arXiv:1610.02413 (recall by
group); Dwork et al., 2012, arXiv:1104.3913 (selection rate by group). Where both base rates and errors differ the two
cannot be equal together: the table shows gaps and does not say which of them ought to vanish.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from visus.metrics.bootstrap import interval
from visus.metrics.counts import ratio
from visus.metrics.significance import wilson_interval

FEW = 30  # samples below which a group's numbers are called uncertain


def by_group(groups: np.ndarray, probs: np.ndarray, targets: np.ndarray, resamples: int = 1000,
             seed: int = 0) -> dict[str, Any]:
    """groups: names [N]. probs: [N, C]. targets: integers [N]. N at least 1.

    rows, a group each: {"group", "count", "accuracy", "low", "high" (Wilson, 95 %), "confidence" (mean), "selection"
    [C] (share predicted as each class), "base" [C] (share that is of the class), "recall" [C] (None without a sample),
    "few"}. gaps, largest less smallest among groups, with a 95 % bootstrap interval drawn within the groups:
    accuracy_gap; selection_gap and recall_gap, for the class where it is largest.
    """
    names, at = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    targets, predicted, num_classes = np.asarray(targets), probs.argmax(1), probs.shape[1]
    tables = _tables(at, targets, predicted, len(names), num_classes)
    counts = np.bincount(at)
    confidence = np.bincount(at, weights=probs.max(1)) / counts
    hits = np.bincount(at, weights=predicted == targets).astype(int)
    rows = []
    for g, name in enumerate(names.tolist()):
        low, high = wilson_interval(int(hits[g]), int(counts[g]))
        recall = [None if np.isnan(r) else float(r) for r in tables["recall"][g]]
        rows.append({"group": name, "count": int(counts[g]), "accuracy": float(tables["accuracy"][g, 0]), "low": low,
                     "high": high, "confidence": float(confidence[g]), "selection": tables["selection"][g].tolist(),
                     "base": tables["base"][g].tolist(), "recall": recall, "few": bool(counts[g] < FEW)})
    return {"rows": rows, **_gaps(tables, at, targets, predicted, len(names), num_classes, resamples, seed)}


def _tables(at: np.ndarray, targets: np.ndarray, predicted: np.ndarray, num_groups: int,
            num_classes: int) -> dict[str, np.ndarray]:
    """Each [G, C], accuracy [G, 1]; NaN where a group has no sample (of the class)."""
    def count(labels: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        cells = at * num_classes + labels
        return np.bincount(cells if keep is None else cells[keep], minlength=num_groups * num_classes
                           ).reshape(num_groups, num_classes)

    actual, chosen, hits = count(targets), count(predicted), count(targets, predicted == targets)
    size = actual.sum(1, keepdims=True)
    return {"accuracy": ratio(hits.sum(1, keepdims=True), size), "selection": ratio(chosen, size),
            "base": ratio(actual, size), "recall": ratio(hits, actual)}


def _gaps(tables: dict[str, np.ndarray], at: np.ndarray, targets: np.ndarray, predicted: np.ndarray, num_groups: int,
          num_classes: int, resamples: int, seed: int) -> dict[str, Any]:
    kinds = ("accuracy", "selection", "recall")
    spread = {kind: _spread(tables[kind]) for kind in kinds}
    defined = {kind: ~np.isnan(spread[kind]).all() for kind in kinds}
    column = {kind: int(np.nanargmax(spread[kind])) if defined[kind] else 0 for kind in kinds}
    order = np.argsort(at, kind="stable")
    starts, sizes = np.concatenate([[0], np.cumsum(np.bincount(at))])[:-1], np.bincount(at)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {kind: [] for kind in kinds}
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    for _ in range(resamples):
        pick = order[first + (rng.random(len(at)) * size).astype(np.int64)]  # within each group
        found = _tables(at[order], targets[pick], predicted[pick], num_groups, num_classes)
        for kind in kinds:
            drawn[kind].append(float(_spread(found[kind][:, [column[kind]]])[0]))
    result: dict[str, Any] = {}
    for kind in kinds:
        if not defined[kind]:
            result[f"{kind}_gap"] = None
            continue
        low, high = interval(np.array(drawn[kind])) or (None, None)
        result[f"{kind}_gap"] = {"value": float(spread[kind][column[kind]]), "low": low, "high": high,
                                 "class": None if kind == "accuracy" else column[kind]}
    return result


def _spread(table: np.ndarray) -> np.ndarray:
    """[G, K] -> [K]: largest less smallest over the groups that have a number; NaN below two of them."""
    enough = (~np.isnan(table)).sum(0) > 1
    low = np.where(np.isnan(table), np.inf, table).min(0)
    high = np.where(np.isnan(table), -np.inf, table).max(0)
    return np.where(enough, high - np.where(enough, low, 0), np.nan)
