"""visus report RUN RUN...: several runs side by side, and whether their differences on the test images are chance."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import RunError, UserError
from visus.core.files import write_json, write_text
from visus.core.record import RunFolder
from visus.metrics.calibration import brier_scores, calibration_gaps, negative_log_likelihoods
from visus.metrics.significance import bootstrap_means, difference, holm, mcnemar
from visus.report.contents import mapping, read_contents
from visus.report.page import flat

if TYPE_CHECKING:
    from visus.report.contents import Contents
    from visus.run.calibrate import SavedPredictions

MOST_RUNS = 8
LEVEL = 0.05
FEWEST_PER_TEST = 100  # resamples: the smallest p is 2 / (R + 1), and Holm multiplies it by the number of tests
SAMPLE_BUDGET = 2e8    # samples times resamples
LOWER_IS_BETTER = {"nll", "brier", "ece", "hamming_loss", "loss"}
SKIPPED_SETTINGS = {"name", "description"}


@dataclass(frozen=True)
class Compared:
    """What `compare` gives: everything in plain values, and the files written (the page first)."""

    record: dict[str, Any]
    files: tuple[Path, ...] = ()


def compare(runs: Sequence[str | os.PathLike[str]], *, out: str | Path | None = None, resamples: int = 2000,
            seed: int = 0, command: Sequence[str] = ()) -> Compared:
    """Two to eight runs: the settings that differ, metrics, curves, classes, and paired tests of each pair.

    The tests are made only where all runs were tested on the same images (equal digest of the data and of the split,
    equal targets); else the record says why not ("refused"). Accuracy: McNemar's test, exact and mid-p; accuracy, NLL,
    Brier score and ECE: the paired bootstrap; several labels: exact matches and the Hamming loss. Holm's correction
    runs over all tests of the page (mid-p of accuracy, bootstrap p of the others). out: the page; its record goes
    beside it as .json. Raises RunError for a folder that is not a run.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UserError(f"{len(runs)} runs cannot be compared", where="RUN", remedy=f"Give 2 to {MOST_RUNS} runs")
    folders = [RunFolder.open(os.fspath(run)) for run in runs]
    paths = [folder.path.resolve() for folder in folders]
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None:
        raise UserError("is given twice", where=twice, remedy="Give each run once")
    contents = [read_contents(folder) for folder in folders]
    names = _names(folders)
    measured = [one.evaluations.get("test") for one in contents]
    tasks = [str(one.about.get("task") or one.settings.get("task") or "") for one in contents]
    record: dict[str, Any] = {
        "command": list(command), "level": LEVEL, "resamples": resamples,
        "runs": [{"name": name, "path": str(folder.path), **_about(one)}
                 for name, folder, one in zip(names, folders, contents, strict=True)],
        "settings": _differing(contents), "metrics": _metrics(measured), "curves": _curves(contents),
        "robustness": _robustness(folders),
        "refused": _refusal(folders, names, tasks), "tests": [], "classes": _classes(measured)}
    if record["refused"] is None:
        record["tests"] = _tests(folders, tasks[0], resamples, seed)
    if out is None:
        return Compared(record)
    from visus.report.compare import render_comparison

    page = Path(out)
    write_json(page.with_suffix(".json"), record)
    write_text(page, render_comparison(record))
    return Compared(record, (page, page.with_suffix(".json")))


def free_page() -> Path:
    """compared/N.html with the first N that is free."""
    number = 1
    while (Path("compared") / f"{number}.html").exists():
        number += 1
    return Path("compared") / f"{number}.html"


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Folder names, with their parents' where two are the same."""
    parts = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder.path) for folder in folders]


def _about(one: Contents) -> dict[str, Any]:
    keys = ("status", "model", "parameters", "seconds", "epochs", "best_epoch", "created")
    return {key: one.about.get(key) for key in keys} | {"data": one.data.get("path")}


def _differing(contents: Sequence[Contents]) -> list[dict[str, Any]]:
    """Settings of the resolved recipes that are not the same in all: {"name", "values": a text or None for each}."""
    tables = [dict(flat(one.settings)) for one in contents]
    known = list(dict.fromkeys(name for table in tables for name in table))
    return [{"name": name, "values": [table.get(name) for table in tables]} for name in known
            if name not in SKIPPED_SETTINGS and len({table.get(name) for table in tables}) > 1]


def _metrics(measured: Sequence[Any]) -> list[dict[str, Any]]:
    """{"name", "values": {"value", "low", "high"} or None for each run, "best": the number of the best run or None}."""
    rows = []
    for name in dict.fromkeys(name for one in measured if one is not None for name in one.metrics):
        found = [None if one is None or name not in one.metrics else one.metrics[name] for one in measured]
        values = [(m.value, i) for i, m in enumerate(found) if m is not None and m.value is not None]
        best = None
        if len(values) > 1 and len({value for value, _ in values}) > 1:
            best = (min if name in LOWER_IS_BETTER else max)(values, key=lambda pair: pair[0])[1]
        rows.append({"name": name, "best": best, "values": [
            None if m is None else {"value": m.value, "low": m.low, "high": m.high} for m in found]})
    return rows


def _curves(contents: Sequence[Contents]) -> list[dict[str, Any]]:
    """By epoch: {"name", "runs": [[epoch, value], ...] for each run}, for the losses and the headline metric."""
    headline = next((one.headline for one in contents if one.headline), None)
    readers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "train_loss": lambda row: row.get("train_loss"), "val_loss": lambda row: row.get("val_loss")}
    if headline is not None:
        readers[headline] = lambda row: mapping(row.get("metrics")).get(headline)
    curves = []
    for name, read in readers.items():
        lines = [[[float(row["epoch"]), float(value)] for row in one.log.epochs
                  if isinstance(value := read(row), int | float)] for one in contents]
        if any(lines):
            curves.append({"name": name, "runs": lines})
    return curves


def _robustness(folders: Sequence[RunFolder]) -> dict[str, Any] | None:
    """Accuracy by distance, as each run's report measured it: {"attack", "norm", "runs": [[eps, accuracy], ...] of
    each, "counts": of images}; None where no run has it, or not by one attack."""
    found = [mapping(mapping(folder.read("trust.json", {})).get("sections")).get("robustness") for folder in folders]
    sections = [mapping(section) for section in found]
    kinds = {(section.get("attack"), section.get("norm")) for section in sections if section}
    if len(kinds) != 1:
        return None
    attack, norm = kinds.pop()
    return {"attack": attack, "norm": norm, "runs": [
        [[row["eps"], row["accuracy"]] for row in section.get("points", ())] for section in sections],
        "counts": [section.get("count") for section in sections]}


def _classes(measured: Sequence[Any]) -> list[dict[str, Any]]:
    """{"name", "count", "recall": for each run, "spread"}, the largest spread first; empty where classes differ."""
    if any(one is None or not one.per_class for one in measured):
        return []
    tables = [{str(row.get("name")): row for row in one.per_class} for one in measured]
    if any(list(table) != list(tables[0]) for table in tables):
        return []
    rows = []
    for name, row in tables[0].items():
        recalls = [table[name].get("recall") for table in tables]
        known = [r for r in recalls if isinstance(r, int | float)]
        spread = max(known) - min(known) if len(known) == len(recalls) else None
        rows.append({"name": name, "count": row.get("count"), "recall": recalls, "spread": spread})
    return sorted(rows, key=lambda row: -(row["spread"] if row["spread"] is not None else -1.0))


def _refusal(folders: Sequence[RunFolder], names: Sequence[str], tasks: Sequence[str]) -> str | None:
    from visus.run.calibrate import other_test_images

    for folder, name, task in zip(folders[1:], names[1:], tasks[1:], strict=True):
        try:
            problem = "has another task" if task != tasks[0] else other_test_images(folders[0], folder)
        except RunError as error:
            return f"Not tested: {error.problem} ({error.where})."
        if problem is not None:
            return f"Not tested: {name} {problem}. Only runs that saw the same test images can be tested in pairs."
    return None


def _tests(folders: Sequence[RunFolder], task: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    from visus.run.calibrate import saved_predictions

    predictions = [saved_predictions(folder, "test") for folder in folders]
    return paired_tests(predictions, task, list(combinations(range(len(folders)), 2)), resamples, seed)


def paired_tests(predictions: Sequence[SavedPredictions], task: str, pairs: Sequence[tuple[int, int]],
                 resamples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Tests of `pairs` of these predictions for the same images: {"first", "second", "metric", "test", "difference":
    second - first, "low", "high", "p", "adjusted": by Holm over all of them, "better": the number of one, or None}."""
    columns = [metric_columns(one, task) for one in predictions]
    count = len(next(iter(columns[0].values())))
    least = FEWEST_PER_TEST * len(pairs) * len(columns[0])  # that a corrected p can fall below the level
    resamples = int(max(200, min(max(resamples, least), SAMPLE_BUDGET // count)))
    values, drawn = [], []  # of each run: metric -> value, metric -> [R]; all from the same resamples
    for one in columns:
        stacked = np.column_stack(list(one.values()))
        means, ends = bootstrap_means(stacked, resamples, seed), np.cumsum([_width(column) for column in one.values()])
        parts = dict(zip(one, np.split(means, ends[:-1], axis=1), strict=True))
        drawn.append({metric: _statistic(part) for metric, part in parts.items()})
        values.append({metric: float(_statistic(column.reshape(count, -1).mean(0))) for metric, column in one.items()})
    tests = []
    for i, j in pairs:
        for metric in columns[0]:
            found = difference(values[i][metric], values[j][metric], drawn[i][metric], drawn[j][metric])
            row: dict[str, Any] = {"first": i, "second": j, "metric": metric, "test": "paired bootstrap",
                                   "difference": found.value, "low": found.low, "high": found.high, "p": found.p}
            if metric.endswith("accuracy"):
                counted = mcnemar(columns[i][metric] > 0.5, columns[j][metric] > 0.5)
                row |= {"test": "McNemar, mid-p", "p": counted.mid_p, "exact": counted.exact,
                        "only_first": counted.only_first, "only_second": counted.only_second}
            tests.append(row)
    for row, adjusted in zip(tests, holm(np.array([row["p"] for row in tests])).tolist(), strict=True):
        lower = row["metric"] in LOWER_IS_BETTER
        better = None if adjusted >= LEVEL or not row["difference"] else \
            row["second"] if (row["difference"] < 0) == lower else row["first"]
        row |= {"adjusted": adjusted, "better": better}
    return tests


def _width(column: np.ndarray) -> int:
    return 1 if column.ndim == 1 else column.shape[1]


def _statistic(means: np.ndarray) -> np.ndarray:
    """[..., 1] a mean as it is; [..., bins] the ECE."""
    return means[..., 0] if means.shape[-1] == 1 else np.abs(means).sum(-1)


def metric_columns(one: SavedPredictions, task: str) -> dict[str, np.ndarray]:
    """A row per test image for each metric whose mean over the images (of |mean| over bins for ECE) it is."""
    if task == "multilabel":
        wrong = ((one.probs >= 0.5) != (one.targets >= 0.5)).mean(1)
        return {"subset_accuracy": (wrong == 0).astype(np.float64), "hamming_loss": wrong}
    correct = one.probs.argmax(1) == one.targets
    return {"accuracy": correct.astype(np.float64), "nll": negative_log_likelihoods(one.probs, one.targets),
            "brier": brier_scores(one.probs, one.targets), "ece": calibration_gaps(one.probs.max(1), correct)}
