"""visus train PATH --folds K: one training for each fold, which it holds out, and what they say together.

RUN/fold-1 ... fold-K are whole runs. RUN itself holds their joined record: metrics.json, the pooled predictions of the
held out images, report.html. A stopped or killed command goes on where it was with `visus train --resume RUN`.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import Interrupted, TrainingDiverged, UserError
from visus.core.files import write_text
from visus.core.record import MARKER, Finding, RunFolder
from visus.core.registry import Entry
from visus.data import split_file
from visus.data.folds import all_fold_splits, assign_folds, fold_pool
from visus.data.samples import Samples
from visus.doctor.diagnosis import checks, run_checks
from visus.doctor.image_set import ImageSet
from visus.run.bundle import FOLDS
from visus.run.display import Display
from visus.run.joined import join
from visus.run.load import Run
from visus.run.prepare import prepare
from visus.run.recipe import Recipe
from visus.run.report import write_report
from visus.run.survey import data_record, divide, fold_plan

LEAKS = ("split-leak", "group-leak")  # checks that compare splits: made for the division of every fold
EMPTY = ("checkpoints", "model")  # folders of a run that the joined run has no use for
FOLD_FILE = "folds.csv"


def fold_folders(folder: RunFolder) -> list[Path]:
    """The folders of the joined run's trainings, in order, whether or not they are there."""
    return [folder.path / f"fold-{k}" for k in range(1, int(folder.about.get("folds") or 0) + 1)]


def train_folds(recipe: Recipe, *, out: Path, progress: bool, tensorboard: bool, command: Sequence[str]) -> Run:
    """recipe: with data.folds and without data.fold. Returns the joined run. Raises as `visus.train` does; a division
    that cannot be made ends here, before there is a folder."""
    display = Display(progress)
    plan = fold_plan(recipe.data)
    assert plan is not None
    prepared = prepare(recipe.with_values({"data.fold": 1}), display)
    resolved, samples = prepared.recipe.with_values({"data.fold": None}), prepared.samples
    divisions = list(all_fold_splits(samples, plan))
    folder = RunFolder.create(out, name=out.name, task=resolved.task, model=resolved.model.name, kind=FOLDS,
                              folds=len(divisions), command=["visus", "train", "--recipe", str(out / "recipe.yaml")],
                              started_with=list(command))
    folder.lock()
    try:
        for name in EMPTY:
            (folder.path / name).rmdir()
        resolved.save(folder.path / "recipe.yaml")
        whole = divide(samples, resolved.data)
        write_text(folder.path / split_file.FILE, split_file.split_text(samples, whole))
        write_text(folder.path / FOLD_FILE, _fold_text(samples, resolved))
        for finding in leaks(samples, divisions, whole, resolved.doctor.budget_s if resolved.doctor.before else 0.0):
            folder.find(finding)
            display.finding(finding)
        folder.write("data.json", data_record(samples, whole, resolved, prepared.problems))
        return _all(folder, resolved, display, {}, tensorboard, False)
    finally:
        folder.unlock()


def resume_folds(folder: RunFolder, *, values: Mapping[str, Any], progress: bool, changed_data_is_fine: bool,
                 tensorboard: bool) -> Run:
    """Go on with the folds that are not finished. Raises RunError when all are, and what `visus.resume` raises."""
    if folder.about.get("status") == "finished" and not (folder.path / "report.html").exists():
        write_report(folder)  # it was stopped between the two
        return Run(folder)
    folder.refuse_resume()
    folder.lock()
    try:
        recipe = Recipe.load(folder.path / "recipe.yaml")
        return _all(folder, recipe, Display(progress), values, tensorboard, changed_data_is_fine)
    finally:
        folder.unlock()


def leaks(samples: Samples, divisions: Sequence[Mapping[str, np.ndarray]], whole: Mapping[str, np.ndarray],
          budget_s: float) -> list[Finding]:
    """Images, and groups of them, that lie on both sides of a division: of any fold, and of the test split that the
    data give. Every image is looked at once, in half of budget_s; 0: not at all."""
    if budget_s <= 0:
        return []
    from visus.run.doctor_data import image_set

    images = image_set(samples, divisions[0], seconds=budget_s)
    entries = [entry for entry in checks("images") if entry.name in LEAKS]
    views = [(f"fold {k}", splits) for k, splits in enumerate(divisions, 1)]
    if len(whole["test"]):
        views.append(("the test split", whole))
    found: dict[str, list[tuple[str, Finding]]] = {}
    for name, splits in views:
        split = np.full(len(samples), "", "<U16")
        for part, places in splits.items():  # the epoch is chosen on val: it is seen too
            split[places] = "test" if part == "test" else "train"
        seen = replace(images, split=split)  # what was measured of the images stays with them
        for finding in _looked(entries, seen):
            found.setdefault(finding.check, []).append((name, finding))
    joined = []
    for check, rows in found.items():
        worst = min((finding for _, finding in rows), key=lambda f: ("error", "warning", "note").index(f.severity))
        joined.append(Finding(
            check, worst.severity, f"What {len(rows)} of {len(views)} divisions hold out is not independent of what "
            "they train on", "; ".join(f"{name}: {finding.title}" for name, finding in rows) + ". First: "
            + rows[0][1].evidence, "Give such images a common group (a 'group' column): folds then keep them together; "
            "or take one of each out"))
    return joined


def _looked(entries: Sequence[Entry], images: ImageSet) -> Sequence[Finding]:
    return run_checks(entries, lambda entry: entry.build(images), budget_s=float("inf")).findings


def _all(folder: RunFolder, recipe: Recipe, display: Display, values: Mapping[str, Any], tensorboard: bool,
         changed_data_is_fine: bool) -> Run:
    folder.update(status="running")
    paths = fold_folders(folder)
    try:
        for number, path in enumerate(paths, 1):
            display.say("fold", f"{number} of {len(paths)}: {path}")
            _one(path, number, recipe, paths[0], display, values, tensorboard, changed_data_is_fine)
        join(folder, recipe, paths, display)
    except Interrupted as error:
        folder.update(status="interrupted")
        stopped = Interrupted(error.problem, where=folder.path,
                              remedy=f"Go on with: visus train --resume {folder.path}")
        stopped.exit_code = error.exit_code
        raise stopped from None
    except UserError as error:
        folder.update(status="diverged" if isinstance(error, TrainingDiverged) else "failed")
        raise
    return Run(folder)


def _one(path: Path, number: int, recipe: Recipe, first: Path, display: Display, values: Mapping[str, Any],
         tensorboard: bool, changed_data_is_fine: bool) -> None:
    """Train, resume or pass over one fold, as it lies on disk."""
    from visus.run.train import resume, train

    if (path / "data.json").exists():
        if RunFolder.open(path).about.get("status") == "finished" and (path / "report.html").exists():
            display.say("fold", "finished already")
            return
        resume(path, values=values, progress=display.show, changed_data_is_fine=changed_data_is_fine,
               tensorboard=tensorboard)
        return
    if (path / MARKER).exists():  # killed before its first record: nothing of it is worth a resume
        shutil.rmtree(path)
    chosen: dict[str, Any] = dict(values) | {"data.fold": number}
    if path != first:  # computed as the first was; model, loss and batches were checked there
        of_first = Recipe.load(first / "recipe.yaml").train
        chosen |= {"train.layout": of_first.layout, "train.precision": of_first.precision,
                   "train.threads": of_first.threads, "doctor.before": False}
    train(recipe=recipe.with_values(chosen), out=path, progress=display.show, tensorboard=tensorboard)


def _fold_text(samples: Samples, recipe: Recipe) -> str:
    """A CSV: each divided image and its fold, from 1, a column for each repeat."""
    plan = fold_plan(recipe.data)
    assert plan is not None
    repeats = 1 if plan.folds == "groups" else plan.repeats
    columns = [assign_folds(samples, plan, repeat) + 1 for repeat in range(repeats)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "fold") if repeats == 1 else ("path", *(f"fold_{r + 1}" for r in range(repeats))))
    writer.writerows((samples.source(int(i)), *row) for i, row in zip(fold_pool(samples), zip(*columns, strict=True),
                                                                     strict=True))
    return text.getvalue()
