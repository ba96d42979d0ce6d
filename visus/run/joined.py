"""What the trainings of a cross-validation say together: numbers with their spread, pooled answers, doubtful labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visus.core.batch import ClassPredictions
from visus.core.device import pick_device
from visus.core.errors import RunError
from visus.core.record import Evaluation, RunFolder
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.metrics.label_errors import label_errors
from visus.metrics.student import mean_interval
from visus.run.build import build_task
from visus.run.bundle import load_model
from visus.run.display import Display, metrics_table
from visus.run.evaluate import metric_rows, own_splits, predict_split, save_predictions
from visus.run.recipe import Recipe
from visus.run.report import write_report
from visus.run.thumbnails import examples
from visus.tasks.classification import least_confident_hits, worst_mistakes

if TYPE_CHECKING:
    from visus.tasks.classification import Classification, MultiLabel

POOLED = "held-out"  # the split of metrics.json that all folds answered together
DRAWS = 10_000  # of the test whether folds differ by more than chance
MOST_DOUBTFUL = 200
SHOWN = 12


def join(folder: RunFolder, recipe: Recipe, paths: Sequence[Path], display: Display) -> None:
    """Measure what the finished folds say together, into the joined folder, and draw its page."""
    samples, whole = own_splits(folder, recipe)
    first = load_model(paths[0])
    task = build_task(recipe, first.preprocessing)
    per_repeat = len(paths) // recipe.data.fold_repeats if recipe.data.folds != "groups" else len(paths)
    pooled = _pooled(paths[:per_repeat])
    evaluations = {POOLED: evaluated(task, pooled, samples, folder, first.labels, POOLED)}
    save_predictions(folder.path / "evaluation" / f"{POOLED}.npz", pooled)
    rows = [_fold_row(folder, path) for path in paths]
    if len(whole["test"]):
        with display.steps("test split", len(paths) * len(whole["test"])) as advance:
            mean = _test_split(paths, rows, task, samples, whole["test"], recipe, advance)
        evaluations["test"] = task.evaluate(mean, first.labels, "test")
        save_predictions(folder.path / "evaluation" / "test.npz", mean)
    overlap = _overlap(rows)
    record: dict[str, Any] = {
        "runs": rows, "overlap": overlap, "repeats": recipe.data.fold_repeats, "folds": recipe.data.folds,
        "summary": _summary([row["metrics"] for row in rows], overlap),
        "test_summary": _summary([row["test"] for row in rows], None) if len(whole["test"]) else {},
        "spread": _spread(paths[:per_repeat]), "label_errors": _doubtful(pooled, samples, folder, first.labels, task)}
    folder.write("metrics.json", {
        "task": recipe.task, "headline": {"name": task.headline, "split": POOLED,
                                          "higher_is_better": task.higher_is_better},
        "splits": {name: asdict(evaluation) for name, evaluation in evaluations.items()}, "baselines": [],
        "cross_validation": record})
    abouts = [RunFolder.open(path).about for path in paths]
    folder.update(status="finished", seconds=round(sum(about.get("seconds") or 0 for about in abouts), 1),
                  parameters=abouts[0].get("parameters"))
    report = write_report(folder)
    _say(display, record, task.headline, evaluations, folder, report)


def _pooled(paths: Sequence[Path]) -> ClassPredictions:
    """The answers of each fold's model for what it held out, in order of the images."""
    parts = [_saved(path) for path in paths]
    probs, targets, index = (np.concatenate([part[name] for part in parts]) for name in ("probs", "targets", "index"))
    order = np.argsort(index, kind="stable")
    if len(np.unique(index)) != len(index):
        raise RunError("two folds answered for the same image: they are not of one cross-validation", where=paths[0])
    return ClassPredictions(torch.from_numpy(probs[order]), torch.from_numpy(targets[order]),
                            torch.from_numpy(index[order]))


def _saved(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path / "evaluation" / "test.npz", allow_pickle=False) as file:
            return {name: file[name] for name in ("probs", "targets", "index")}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"its predictions cannot be read ({error})", where=path,
                       remedy="Remove this fold's folder and resume: it is trained again") from None


def evaluated(task: Classification | MultiLabel, predictions: ClassPredictions, samples: Samples, folder: RunFolder,
              labels: tuple[str, ...], split: str) -> Evaluation:
    """What was measured, with pictures of the worst mistakes and the least sure hits in the folder."""
    preprocessing = task.preprocessing
    found = task.evaluate(predictions, labels, split)
    return replace(found, mistakes=examples(worst_mistakes(predictions, SHOWN), predictions, samples, preprocessing,
                                            folder, "mistake"),
                   hits=examples(least_confident_hits(predictions, SHOWN), predictions, samples, preprocessing, folder,
                                 "hit"))


def _fold_row(folder: RunFolder, path: Path) -> dict[str, Any]:
    """{"folder", "held_out", "trained_on", "best_epoch", "seconds", "metrics": {name: {"value", "low", "high"}}}."""
    run = RunFolder.open(path)
    measured = run.read("metrics.json", {}).get("splits", {}).get("test", {})
    counts = run.read("data.json", {}).get("images", {})
    return {"folder": str(path.relative_to(folder.path)), "held_out": measured.get("count"),
            "trained_on": counts.get("train"), "best_epoch": run.about.get("best_epoch"),
            "seconds": run.about.get("seconds"), "metrics": measured.get("metrics", {}), "test": {}}


def _test_split(paths: Sequence[Path], rows: Sequence[dict[str, Any]], task: Classification | MultiLabel,
                samples: Samples, index: np.ndarray, recipe: Recipe, advance: Any) -> ClassPredictions:
    """The averaged answers for the test split that the data give; each fold's own metrics go into its row."""
    device = pick_device(recipe.device)
    total = None
    for path, row in zip(paths, rows, strict=True):
        trained = load_model(path)
        own = build_task(recipe, trained.preprocessing)
        loader = Loader(samples, index, trained.preprocessing, batch_size=int(recipe.train.batch_size),
                        on_bad_image=recipe.data.on_bad_image)
        found, _ = predict_split(trained.model.to(device), own, loader, device, advance=advance)
        row["test"] = {name: asdict(metric) for name, metric in own.evaluate(found, trained.labels, "test")
                       .metrics.items()}
        total = found.probs if total is None else total + found.probs
    assert total is not None
    return replace(found, probs=total / len(paths))


def _overlap(rows: Sequence[dict[str, Any]]) -> float:
    """Held out over training images, the mean over the folds: what Nadeau and Bengio's correction adds to 1 / K."""
    ratios = [row["held_out"] / row["trained_on"] for row in rows if row["trained_on"] and row["held_out"]]
    return float(np.mean(ratios)) if ratios else 0.0


def _summary(rows: Sequence[dict[str, Any]], overlap: float | None) -> dict[str, dict[str, Any]]:
    """Metric -> {"mean", "std", "low", "high"} over the folds, and with an overlap {"corrected_low",
    "corrected_high"}; metrics that some fold lacks are left out."""
    found: dict[str, dict[str, Any]] = {}
    for name in rows[0]:
        values = [row.get(name, {}).get("value") for row in rows]
        if any(value is None for value in values):
            continue
        plain = mean_interval(values)
        found[name] = {"mean": plain.mean, "std": plain.std, "low": plain.low, "high": plain.high}
        if overlap is not None:
            corrected = mean_interval(values, overlap=overlap)
            found[name] |= {"corrected_low": corrected.low, "corrected_high": corrected.high}
    return found


def _spread(paths: Sequence[Path]) -> dict[str, Any]:
    """Whether the folds' accuracies differ by more than which images fell into which fold explains.

    {"accuracies", "std", "chance_std": what shuffling the right answers over the folds gives on the average, "p": the
    share of shuffles with at least this spread}. Several labels: an answer is right where all labels are."""
    right = []
    for path in paths:
        part = _saved(path)
        right.append(part["probs"].argmax(1) == part["targets"] if part["targets"].ndim == 1 else
                     ((part["probs"] >= 0.5) == (part["targets"] >= 0.5)).all(1))
    sizes = np.array([len(one) for one in right])
    hits = np.array([int(one.sum()) for one in right])
    accuracies = hits / sizes
    drawn = np.random.default_rng(0).multivariate_hypergeometric(sizes, int(hits.sum()), DRAWS) / sizes  # [R, K]
    stds, std = drawn.std(1, ddof=1), float(accuracies.std(ddof=1))
    return {"accuracies": accuracies.tolist(), "std": std, "chance_std": float(stds.mean()),
            "p": float((1 + (stds >= std - 1e-12).sum()) / (1 + DRAWS))}


def _doubtful(pooled: ClassPredictions, samples: Samples, folder: RunFolder, labels: tuple[str, ...],
              task: Classification | MultiLabel) -> dict[str, Any] | None:
    """{"count", "rows": [{"source", "label", "instead", "margin", "image"}]}: labels that look wrong to models which
    had not seen them, the surest first; None for several labels."""
    if pooled.targets.ndim > 1:
        return None
    found = label_errors(pooled.probs.numpy(), pooled.targets.numpy())
    pictures = {example.source: example.image for example in examples(
        found.rows[:SHOWN], pooled, samples, task.preprocessing, folder, "label")}
    rows = []
    for row, instead, margin in list(zip(found.rows, found.instead, found.margin, strict=True))[:MOST_DOUBTFUL]:
        source = samples.source(int(pooled.index[row]))
        rows.append({"source": source, "label": labels[int(pooled.targets[row])], "instead": labels[int(instead)],
                     "margin": float(margin), "image": pictures.get(source)})
    return {"count": len(found.rows), "rows": rows}


def _say(display: Display, record: dict[str, Any], headline: str, evaluations: dict[str, Evaluation],
         folder: RunFolder, report: Path) -> None:
    pooled = evaluations[POOLED]
    display.result(metrics_table(f"\n{len(record['runs'])} folds, {pooled.count:,} held out images pooled",
                                 metric_rows(pooled)))
    one = record["summary"].get(headline)
    if one is not None and one["low"] is not None:
        display.result(f"\n{headline} over the folds {one['mean']:.4f} +- {one['std']:.4f} (95 % of the mean "
                       f"{one['low']:.4f} to {one['high']:.4f})")
    if "test" in evaluations:
        display.result(metrics_table(f"\nthe {len(record['runs'])} models averaged, {evaluations['test'].count:,} "
                                     "test images", metric_rows(evaluations["test"])))
    display.result(f"\nrun      {folder.path}", f"report   {report}")

