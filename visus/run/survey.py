"""What is known of a data set before training: bad files, sizes, counts. For the choice, the terminal, the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from visus.core.errors import DataError, RecipeError
from visus.core.record import Finding, RunFolder
from visus.data.folds import FoldPlan, fold_pool, fold_splits
from visus.data.opening import open_samples
from visus.data.samples import Samples, check_classes
from visus.data.scan import handle_bad_images, survey_images
from visus.data.split import split_samples
from visus.data.split_file import with_split_file
from visus.run.balance import balance_record
from visus.run.choose import Facts
from visus.run.display import Display
from visus.run.recipe import Data, Recipe

LISTED = 10


def open_named(data: Data, kept_columns: tuple[str, ...] = (),
               progress: Callable[[int, int], None] | None = None) -> Samples:
    """The samples that the recipe names, with its class names in the place of numbers and the split of its split file.
    kept_columns: of a table. progress: called with (read, all) while large annotation files are read.

    Raises DataError where they hold nothing that a classifier could learn.
    """
    samples = open_samples(str(data.path), format=data.format, kept_columns=kept_columns, progress=progress)
    if samples.label_maps is not None and not samples.targets.any():
        raise DataError("holds label maps, which no classifier learns from", where=data.path,
                        remedy="Look at it with: visus data show; segmentation is not trained yet")
    if samples.objects is not None or samples.label_maps is not None:
        samples = replace(samples, notes=(*samples.notes, "trained to say which classes appear in an image; where they "
                                          "are is not learnt"))
    check_classes(samples, data.path)
    if data.split is not None:
        samples = with_split_file(samples, data.split)
    if data.class_names is None:
        return samples
    if len(set(data.class_names)) != len(samples.classes):
        raise RecipeError(f"{len(set(data.class_names))} different names for {len(samples.classes)} classes",
                          where="data.class_names", remedy=f"Give one name for each of {list(samples.classes)[:20]}")
    return replace(samples, classes=data.class_names)


def drop_bad_images(samples: Samples, policy: str, display: Display) -> tuple[Samples, list[dict[str, str]]]:
    """All files are opened once before training. 'stop' names all that cannot be read; 'skip' leaves them out.

    Returns the samples that are left, with notes on how the files were read, and {"file", "problem"} of each that was
    left out.
    """
    with display.steps("scan", len(samples)) as advance:
        survey = survey_images(samples, advance)
    if survey.bad:
        samples = handle_bad_images(samples, survey.bad, policy)
        listed = "; ".join(f"{b.source}: {b.problem}" for b in survey.bad[:LISTED])
        display.finding(Finding("bad-images", "warning", f"{len(survey.bad)} images were left out", listed))
    for note, count in survey.notes.items():
        display.say("note", f"{note} ({count:,} images)")
    notes = (f"{note} ({count:,} images)" for note, count in survey.notes.items())
    return replace(samples, notes=(*samples.notes, *notes)), [{"file": b.source, "problem": b.problem}
                                                              for b in survey.bad]


def divide(samples: Samples, data: Data) -> dict[str, np.ndarray]:
    """The splits that the recipe asks for: the same each time, for training, resume and evaluation. With folds and no
    fold chosen: those of the data, with what is divided into folds as train."""
    plan = fold_plan(data)
    if plan is None:
        return split_samples(samples, val=data.val, test=data.test, seed=data.split_seed, group_aware=data.groups)
    if data.fold is not None:
        return fold_splits(samples, plan, data.fold - 1)
    given = {name: np.flatnonzero(samples.split == name).astype(np.int64) for name in ("val", "test")}
    return {"train": fold_pool(samples).astype(np.int64), **given}


def fold_plan(data: Data) -> FoldPlan | None:
    """The cross-validation that the recipe asks for; None where it asks for none. Raises RecipeError for a fold of
    nothing."""
    if data.folds is None:
        if data.fold is not None:
            raise RecipeError("there is no fold without folds", where=f"data.fold={data.fold}",
                              remedy="Say how many there are: --folds 5")
        return None
    return FoldPlan(folds=data.folds, repeats=data.fold_repeats, stratified=data.fold_kind == "stratified",
                    group_aware=data.groups, seed=data.split_seed, val=data.val)


def drop_known_bad_images(samples: Samples, folder: RunFolder) -> Samples:
    """The samples without those that the run left out when it began: no file is decoded again to find them."""
    known = {row["file"] for row in folder.read("data.json", {}).get("problems", [])}
    if not known:
        return samples
    return samples.subset(np.array([i for i in range(len(samples)) if samples.source(i) not in known], np.int64))


def facts_for_choice(samples: Samples, train: np.ndarray, device: torch.device) -> Facts:
    sizes, channels = samples.sizes()
    median = np.median(sizes, axis=0)
    return Facts(train_images=len(train), num_classes=len(samples.classes), multi_label=samples.targets.ndim > 1,
                 median_size=(int(median[0]), int(median[1])), channels=channels, in_memory=samples.in_memory,
                 device=device.type)


def data_record(samples: Samples, splits: dict[str, np.ndarray], recipe: Recipe,
                problems: list[dict[str, str]]) -> dict[str, Any]:
    """data.json: what the report says about the data, and the digest that a resume compares."""
    sizes, channels = samples.sizes()
    return {"path": recipe.data.path, "format": samples.format, "recognised": samples.recognised,
            "classes": list(samples.classes), "channels": channels, "notes": list(samples.notes),
            **({} if samples.category_ids is None else {"category_ids": list(samples.category_ids)}),
            "counts": {name: class_counts(samples, index) for name, index in splits.items() if len(index)},
            "images": {name: len(index) for name, index in splits.items()},
            "image_sizes": {"min": sizes.min(0).tolist(), "median": np.median(sizes, axis=0).astype(int).tolist(),
                            "max": sizes.max(0).tolist()},
            "split": split_sentence(samples, splits, recipe), "problems": problems,
            "balance": balance_record(samples, splits["train"], recipe),
            "digest": samples_digest(samples, splits)}


def class_counts(samples: Samples, index: np.ndarray) -> dict[str, int]:
    targets = np.asarray(samples.targets)[index]
    counts = targets.sum(0) if targets.ndim > 1 else np.bincount(targets, minlength=len(samples.classes))
    return {name: int(count) for name, count in zip(samples.classes, counts, strict=True)}


def split_sentence(samples: Samples, splits: Mapping[str, np.ndarray], recipe: Recipe) -> str:
    """How the images were divided, for the terminal and the report."""
    counts = ", ".join(f"{len(index):,} {name}" for name, index in splits.items() if len(index))
    given = sorted({str(s) for s in np.unique(samples.split)} - {""})
    made = [name for name in splits if name not in given]
    if recipe.data.folds is not None:
        return _fold_sentence(samples, counts, recipe.data)
    how = f"{', '.join(made)} made: stratified by class, seed {recipe.data.split_seed}" if given and made else \
        "as the data gives it" if given else f"stratified by class, seed {recipe.data.split_seed}"
    if samples.groups is not None and recipe.data.groups and made:
        how += ", groups kept together"
    return f"{counts} ({how}; the test split is touched once, at the end)"


def _fold_sentence(samples: Samples, counts: str, data: Data) -> str:
    plan = fold_plan(data)
    assert plan is not None
    kind = "leaving one group out" if data.folds == "groups" else \
        "stratified by class" if plan.stratified else "blind to the class"
    grouped = ", groups kept together" if samples.groups is not None and data.groups and data.folds != "groups" else ""
    which = f"fold {data.fold} of {plan.count(samples)}" if data.fold is not None else f"{plan.count(samples)} folds"
    held = "" if data.fold is None else "; the held out fold is the test split here, touched once, at the end"
    return f"{counts} ({which}, {kind}{grouped}, seed {data.split_seed}{held})"


def samples_digest(samples: Samples, splits: Mapping[str, np.ndarray]) -> str:
    """Changes when a file, a label or the split changes; what a resume compares."""
    digest = hashlib.sha256(samples.digest().encode())
    for name, index in splits.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(index, dtype=np.int64).tobytes())
    return digest.hexdigest()
