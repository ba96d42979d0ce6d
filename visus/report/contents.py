"""What a run folder holds, read once into plain values that the page can trust to have the right types.

Whatever a run has not written yet is empty here; a file that is no JSON raises RunError with its name. Fields read:
run.json       status, task, model, data, command and started_with (argv), created (ISO 8601), seconds, parameters,
               macs, best_epoch (from 1); all optional
model/model.json  name, parameters, macs, where run.json does not say them; then recipe.yaml for the name
metrics.json   headline {"name", "split", "higher_is_better"}, splits {name: Evaluation as a dict}, baselines
trust.json     sections {name: what run/trust.py recorded}, left_out
calibration/results.json  what `visus calibrate` measured
data.json      path, recognised, split, classes, counts, image_sizes, channels, notes, problems
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

from visus.core.errors import RunError
from visus.core.record import Evaluation, Example, Finding, Metric, RunFolder
from visus.report.formatting import number

SPLITS = ("test", "val", "train")  # the order in which an evaluation is preferred


@dataclass(frozen=True, slots=True)
class Baseline:
    name: str
    description: str
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True)
class Log:
    """log.jsonl in order of steps. A step or epoch that a resumed run went through again counts as it ended.

    epochs: rows of the "epoch" events, with "epoch" counted from 1; steps: (step, loss, lr).
    """

    epochs: list[dict[str, Any]]
    steps: list[tuple[float, float | None, float | None]]


@dataclass(frozen=True, slots=True)
class Contents:
    about: dict[str, Any]
    model: dict[str, Any]
    model_bytes: int | None
    data: dict[str, Any]
    environment: dict[str, Any]
    recipe: str
    settings: dict[str, Any]
    headline: str | None
    headline_split: str | None
    higher_is_better: bool
    evaluations: dict[str, Evaluation]
    baselines: list[Baseline]
    baselines_left_out: list[tuple[str, str]]
    findings: list[Finding]
    log: Log
    trust: dict[str, Any]
    calibration: dict[str, Any]

    @property
    def evaluation(self) -> Evaluation | None:
        """The evaluation that the page is about: the headline's split, else test, validation, any."""
        for split in (self.headline_split, *SPLITS, *self.evaluations):
            if split in self.evaluations:
                return self.evaluations[split]
        return None

    @property
    def headline_metric(self) -> Metric | None:
        return self.evaluation.metrics.get(self.headline) if self.evaluation and self.headline else None


def read_contents(run: RunFolder) -> Contents:
    """Read all files that the page draws from. Raises RunError naming a file that cannot be read."""
    metrics = mapping(run.read("metrics.json"))
    headline = mapping(metrics.get("headline"))
    splits = mapping(metrics.get("splits"))
    recipe = _text(run, "recipe.yaml")
    weights = run.path / "model" / "model.safetensors"
    return Contents(
        about=mapping(run.about),
        model=mapping(run.read("model/model.json")),
        model_bytes=weights.stat().st_size if weights.is_file() else None,
        data=mapping(run.read("data.json")),
        environment=mapping(run.read("environment.json")),
        recipe=recipe,
        settings=_settings(recipe),
        headline=optional_text(headline.get("name")),
        headline_split=optional_text(headline.get("split")),
        higher_is_better=headline.get("higher_is_better") is not False,
        evaluations={
            name: read_evaluation(name, splits[name])
            for name in sorted(splits, key=lambda name: name != headline.get("split"))
            if isinstance(splits[name], dict)
        },
        baselines=[
            Baseline(str(row.get("name", "")), str(row.get("description") or ""), _metrics(row.get("metrics")))
            for row in rows(metrics.get("baselines"))
        ],
        baselines_left_out=[(str(row.get("name", "")), str(row.get("why") or ""))
                            for row in rows(metrics.get("baselines_left_out"))],
        findings=run.findings(),
        log=read_log(run),
        trust=mapping(run.read("trust.json")),
        calibration=mapping(run.read("calibration/results.json")),
    )


def read_evaluation(split: str, row: dict[str, Any]) -> Evaluation:
    """One entry of metrics.json "splits" as an Evaluation. What has another shape than it should is left out."""
    return Evaluation(
        split=split,
        count=int(number(row.get("count")) or 0),
        metrics=_metrics(row.get("metrics")),
        per_class=rows(row.get("per_class")),
        confusion=_confusion(row.get("confusion")),
        confused=rows(row.get("confused")),
        reliability=mapping(row.get("reliability")) or None,
        mistakes=_examples(row.get("mistakes")),
        hits=_examples(row.get("hits")),
    )


def read_log(run: RunFolder) -> Log:
    epochs: dict[float, dict[str, Any]] = {}
    steps: dict[float, tuple[float | None, float | None]] = {}
    for event in run.events():
        step, epoch = number(event.get("step")), number(event.get("epoch"))
        if event.get("event") == "epoch" and epoch is not None:
            epochs[epoch] = event
        elif event.get("event") == "step" and step is not None:
            steps[step] = (number(event.get("loss")), number(event.get("lr")))
    from_zero = 1 if epochs and min(epochs) == 0 else 0
    return Log(
        [{**epochs[epoch], "epoch": epoch + from_zero} for epoch in sorted(epochs)],
        [(step, *steps[step]) for step in sorted(steps)],
    )


def epochs_of_steps(log: Log) -> list[float] | None:
    """For each of log.steps its position in epochs, straight between the ends of epochs; None where no epoch ended
    or the log does not tell at which step."""
    ends = [(0.0, 0.0)]
    for row in log.epochs:
        step = number(row.get("step"))
        if step is not None and step > ends[-1][0] and row["epoch"] > ends[-1][1]:
            ends.append((step, row["epoch"]))
    if len(ends) == 1:
        return None
    positions = []
    segments = list(pairwise(ends))
    at = 0
    for step, _, _ in log.steps:
        while at < len(segments) - 1 and step > segments[at][1][0]:
            at += 1
        (s0, e0), (s1, e1) = segments[at]
        positions.append(e0 + (step - s0) * (e1 - e0) / (s1 - s0))
    return positions


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value] if isinstance(value, Sequence) else []


def optional_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _text(run: RunFolder, name: str) -> str:
    path = run.path / name
    try:
        return path.read_text("utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror or error}", where=path) from error


def _settings(recipe: str) -> dict[str, Any]:
    """The recipe's values; empty where a person broke the file, whose text is shown all the same."""
    try:
        return mapping(yaml.safe_load(recipe))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _metrics(value: Any) -> dict[str, Metric]:
    return {
        str(name): Metric(number(row.get("value")), number(row.get("low")), number(row.get("high")))
        for name, row in mapping(value).items()
        if isinstance(row, dict)
    }


def _examples(value: Any) -> list[Example]:
    return [
        Example(
            str(row.get("image") or ""),
            str(row.get("source") or ""),
            tuple(texts(row.get("truth"))),
            tuple(texts(row.get("predicted"))),
            number(row.get("confidence")) or 0.0,
        )
        for row in rows(value)
    ]


def _confusion(value: Any) -> dict[str, Any] | None:
    """{"labels", "counts"} with a square table of counts from 0, else None."""
    labels, counts = mapping(value).get("labels"), mapping(value).get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(labels) != len(counts) or not labels:
        return None
    for row in counts:
        if not isinstance(row, list) or len(row) != len(labels) or any((number(n) or 0) < 0 for n in row):
            return None
    return {
        "labels": [str(label) for label in labels],
        "counts": [[int(number(n) or 0) for n in row] for row in counts],
    }
