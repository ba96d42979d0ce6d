"""The curves of a run as plain numbers. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class History:
    """steps, losses, lrs: of training, in the order of the log. epochs: one row each, {"epoch", "step", "train_loss",
    "val_loss", "metrics": {name: value}, ...}; a row may have "clean_train_loss" and "clean_train_accuracy", measured
    like validation. headline: the metric that the run is judged by, larger is better when `higher_is_better`.
    evaluation: of the finished model: metrics.json, or one row of its splits (a `core.record.Evaluation` as a mapping).
    classes: number of classes. resumed_at: steps at which the run was taken up again. augmented: training batches are
    augmented, mixed or have dropout, so their loss is not that of validation. finished: it ran to its end.
    """

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    epochs: tuple[Mapping[str, Any], ...] = ()
    headline: str = "accuracy"
    higher_is_better: bool = True
    classes: int | None = None
    steps_per_epoch: int | None = None
    resumed_at: tuple[int, ...] = ()
    augmented: bool = False
    finished: bool = True
    evaluation: Mapping[str, Any] | None = None

    @property
    def evaluated(self) -> Mapping[str, Any]:
        """The row of the headline's split, else of test or validation; empty where nothing was measured."""
        given = self.evaluation if isinstance(self.evaluation, Mapping) else {}
        splits = given.get("splits")
        if not isinstance(splits, Mapping):
            return given
        headline = given.get("headline")
        named = headline.get("split") if isinstance(headline, Mapping) else None
        for name in (named, "test", "val", *splits):
            if isinstance(splits.get(name), Mapping):
                return splits[name]
        return {}

    @classmethod
    def of_events(cls, events: Iterable[Mapping[str, Any]], **known: Any) -> History:
        """From the lines of a run's log.jsonl."""
        rows = list(events)
        clean = {row.get("epoch"): {name: value for name, value in row.items() if name.startswith("clean_train_")}
                 for row in rows if row.get("event") == "train_measured"}
        steps = [row for row in rows if row.get("event") == "step" and row.get("loss") is not None]
        return cls(steps=tuple(int(r["step"]) for r in steps), losses=tuple(float(r["loss"]) for r in steps),
                   lrs=tuple(float(r.get("lr") or 0.0) for r in steps),
                   epochs=tuple({**r, **clean.get(r.get("epoch"), {})} for r in rows if r.get("event") == "epoch"),
                   resumed_at=tuple(int(r["step"]) for r in rows if r.get("event") == "resume"), **known)
