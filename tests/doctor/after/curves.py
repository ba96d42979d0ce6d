"""Curves of trainings by formula, with the noise of batches: nothing is trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from visus.core.record import Finding
from visus.doctor import registry
from visus.doctor.history import History

CHECKS = ("flat-loss", "rate-too-high", "rate-too-low", "late-start", "overfitting", "underfitting",
          "validation-easier", "noisy-curve", "plateau", "restart-jump", "sawtooth", "collapsed-prediction",
          "weak-classes", "miscalibrated")


def found(name: str, history: History) -> list[Finding]:
    """What one check says; its findings carry the registered name."""
    findings = list(registry.get(name).build(history))
    assert all(finding.check == name for finding in findings)
    return findings


def alarms(history: History) -> list[str]:
    """Checks that find more than a note."""
    return [name for name in CHECKS for finding in found(name, history) if finding.severity != "note"]


def history(curve: Any, *, epochs: int = 10, per_epoch: int = 40, noise: float = 0.05, rate: float = 1e-3,
            schedule: Any = lambda share: 1.0, val: Any = None, accuracy: Any = None, train_accuracy: Any = None,
            classes: int | None = 10, seed: int = 0, **known: Any) -> History:
    """curve(share of the way) -> loss; val, accuracy, train_accuracy(epoch from 1) of each epoch, or None."""
    count = epochs * per_epoch
    share = np.arange(1, count + 1) / count
    rng = np.random.Generator(np.random.PCG64(seed))
    losses = np.array([curve(x) for x in share]) * np.exp(noise * rng.standard_normal(count))
    rows = []
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {"event": "epoch", "epoch": epoch - 1, "step": epoch * per_epoch,
                               "train_loss": float(losses[(epoch - 1) * per_epoch:epoch * per_epoch].mean()),
                               "metrics": {}}
        if val is not None:
            row["val_loss"] = val(epoch)
        if accuracy is not None:
            row["metrics"] = {"accuracy": accuracy(epoch)}
        if train_accuracy is not None:
            row["clean_train_accuracy"] = train_accuracy(epoch)
        rows.append(row)
    return History(steps=tuple(range(1, count + 1)), losses=tuple(losses.tolist()),
                   lrs=tuple(rate * schedule(x) for x in share), epochs=tuple(rows), classes=classes,
                   steps_per_epoch=per_epoch, **known)


def bending(x: float, start: float = 2.3, end: float = 0.1, speed: float = 6.0) -> float:
    """A training that goes well."""
    return end + (start - end) * math.exp(-speed * x)


def good(**known: Any) -> History:
    options: dict[str, Any] = {"val": lambda e: 0.25 + 2 * math.exp(-0.6 * e),
                               "accuracy": lambda e: 0.95 - 0.8 * math.exp(-0.6 * e),
                               "train_accuracy": lambda e: 0.98 - 0.8 * math.exp(-0.6 * e)}
    return history(bending, **options | known)


def evaluation(confusion: list[list[int]], names: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A split's row of metrics.json from its confusion, truth in rows."""
    counts = np.array(confusion)
    names = names or [f"class {k}" for k in range(len(counts))]
    rows = [{"name": names[k], "count": int(counts[k].sum()), "recall": float(counts[k, k] / max(1, counts[k].sum())),
             "precision": float(counts[k, k] / max(1, counts[:, k].sum()))} for k in range(len(counts))]
    pairs = [{"truth": names[i], "predicted": names[j], "count": int(counts[i, j])} for i in range(len(counts))
             for j in range(len(counts)) if i != j and counts[i, j]]
    return {"split": "test", "count": int(counts.sum()), "confusion": {"labels": names, "counts": counts.tolist()},
            "per_class": rows, "confused": sorted(pairs, key=lambda p: -p["count"]), **more}
