"""visus doctor: what is wrong with images, with a training that is to begin, or with a run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RunError, UserError
from visus.core.preprocessing import Preprocessing
from visus.core.record import MARKER, Finding, RunFolder
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.data.transforms import build_augmentation
from visus.doctor import Stage
from visus.doctor.diagnosis import Diagnosis, checks, examine, ranked, run_checks
from visus.doctor.history import History
from visus.doctor.patient import Patient, as_patient, untouched
from visus.doctor.thresholds import limit
from visus.run.build import (
    Parts,
    build_loader,
    build_model,
    build_task,
    make_optimizer,
    make_schedule,
    updates_per_epoch,
)
from visus.run.bundle import one_training
from visus.run.display import Display
from visus.run.prepare import given_recipe, prepare
from visus.run.pretrained import preprocessing_of
from visus.run.recipe import Recipe
from visus.run.recipes import shipped_recipes
from visus.train.contracts import BatchSource
from visus.train.stop import StopRequest

FILE = "doctor.json"
DRAWN = 8  # images that are drawn again and again through the augmentation
DRAWS = 6
IMAGES_SHARE = 0.5  # of the time, for the checks of the images
DEEP_S = 600.0
AFTER_S = 60.0  # plenty: they read numbers
STAGES: dict[Stage, str] = {"images": "Images and labels", "before": "Before training", "deep": "Controls that train",
                            "during": "While training", "after": "After training"}


def doctor(subject: str | os.PathLike[str], *, recipe: str | Path | Recipe | None = None,
           values: Mapping[str, Any] | None = None, deep: bool = False, budget_s: float = 20.0,
           skip: Sequence[str] = (), images: bool = True, progress: bool = False) -> Diagnosis:
    """Look at a run folder, at a recipe (a file or a shipped name), or at images and what `visus train` would do.

    A run: its curves, its answers, its findings; new ones go into its findings.jsonl and its page is drawn again.
    Anything else: images, model, loss, optimizer and batches before a step is taken. deep: also the controls that
    train, for minutes. budget_s: no check begins after so many seconds. skip: names of checks. images: also look at the
    images themselves. Raises UserError for what cannot be opened.
    """
    display = Display(progress)
    if not 0 < budget_s < float("inf"):
        raise UserError("must be above 0 seconds", where=f"budget={budget_s!r}")
    path = Path(subject)
    if (path / MARKER).is_file():
        if deep:
            raise UserError("the controls train a model anew: they are of a recipe, not of a run", where=path,
                            remedy=f"visus doctor {path / 'recipe.yaml'} --deep")
        return _look_at_run(one_training(RunFolder.open(path)), skip)
    named = path.suffix in (".yaml", ".yml") or str(subject) in shipped_recipes()
    whole = given_recipe(str(subject) if named else recipe, None if named else path, values)
    prepared = prepare(whole, display)
    parts = parts_of(prepared.recipe, prepared.samples, prepared.splits, prepared.preprocessing, prepared.device)
    return _look_before(prepared.recipe, parts, prepared.samples, prepared.splits, prepared.preprocessing,
                        prepared.device, display, deep=deep, budget_s=DEEP_S if deep else budget_s, skip=skip,
                        images=images)[0]


def listed_checks() -> str:
    """Every check, stage by stage: its name, its rule, what it costs and the lesson that it comes from."""
    lines = []
    for stage, words in STAGES.items():
        lines.append(words)
        for entry in checks(stage):
            about = entry.about
            lines += [f"  {entry.name}", f"      {about['rule']}", f"      costs {about['cost']}; {about['course']}"]
    return "\n".join(lines)


def check_before(folder: RunFolder, recipe: Recipe, parts: Parts, samples: Samples, splits: dict[str, np.ndarray],
                 preprocessing: Preprocessing, device: torch.device, display: Display, stop: StopRequest) -> None:
    """The checks before a training's first step: findings into the run, the time that each took into doctor.json.
    Nothing that a later step depends on changes."""
    found, measured = _look_before(recipe, parts, samples, splits, preprocessing, device, display,
                                   budget_s=recipe.doctor.budget_s, stop=stop)
    for finding in found.findings:
        folder.find(finding)
        display.finding(finding)
    display.say("doctor", f"{len(found.seconds)} checks in {sum(found.seconds.values()):.1f} s: "
                + (f"{len(found.findings)} findings" if found.findings else "nothing found"))
    folder.write(FILE, {"seconds": {name: round(s, 3) for name, s in found.seconds.items()},
                        "left_out": dict(found.left_out), "rate_range": _rate_range(measured, parts.optimizer),
                        "checks": _about_checks()})


def check_after(folder: RunFolder, skip: Sequence[str] = ()) -> Diagnosis:
    """Diagnoses from the curves and the answers of a run. skip: names of checks to leave out."""
    history = history_of(folder)
    record = folder.read(FILE, {})
    if "checks" not in record:  # the page ranks with it
        folder.write(FILE, record | {"checks": _about_checks()})
    return run_checks(checks("after"), lambda entry: entry.build(history), budget_s=AFTER_S, skip=skip)


def history_of(folder: RunFolder) -> History:
    """The curves of a run, as the checks read them."""
    recipe = Recipe.load(folder.path / "recipe.yaml") if (folder.path / "recipe.yaml").exists() else Recipe()
    metrics = folder.read("metrics.json", {})
    headline = metrics.get("headline", {})
    mixed = recipe.mix.probability > 0 and (recipe.mix.mixup > 0 or recipe.mix.cutmix > 0)
    data = folder.read("data.json", {})
    train = sum(data.get("counts", {}).get("train", {}).values())
    batches = -(-train // recipe.train.batch_size) if isinstance(recipe.train.batch_size, int) and train else None
    return History.of_events(
        folder.events(), headline=headline.get("name", "accuracy"),
        higher_is_better=headline.get("higher_is_better", True), classes=len(data.get("classes", [])) or None,
        steps_per_epoch=None if batches is None else max(1, -(-batches // recipe.train.accumulate)),
        augmented=recipe.augmentation not in ("auto", ()) or mixed or recipe.defend.method != "none",
        finished=folder.about.get("status") == "finished", evaluation=metrics)


def _look_at_run(folder: RunFolder, skip: Sequence[str]) -> Diagnosis:
    from visus.run.report import write_report

    if not any(True for _ in folder.events()):
        raise RunError("has no log: no step was taken", where=folder.path, remedy="visus doctor RECIPE looks before")
    known = [finding for finding in folder.findings() if finding.check not in skip]
    after = check_after(folder, skip)
    for finding in after.findings:
        folder.find(finding)
    write_report(folder)
    together = {(f.check, f.title, f.layer, f.step): f for f in (*known, *after.findings)}
    return replace(after, findings=tuple(ranked(together.values())))


def _look_before(recipe: Recipe, parts: Parts, samples: Samples, splits: dict[str, np.ndarray],
                 preprocessing: Preprocessing, device: torch.device, display: Display, *, deep: bool = False,
                 budget_s: float, skip: Sequence[str] = (), images: bool = True,
                 stop: StopRequest | None = None) -> tuple[Diagnosis, dict[str, Any]]:
    """What was found, and what the checks measured on the way."""
    from visus.run.doctor_data import examine_images, image_set

    begun = time.monotonic()
    found: list[Finding] = list(_recorded_statistics(recipe, preprocessing))
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = {}
    measured: dict[str, Any] = {}
    with display.steps("doctor", None) as advance:
        if images:
            of_images = examine_images(image_set(samples, splits), budget_s=IMAGES_SHARE * budget_s, skip=skip)
            found += of_images.findings
            seconds |= of_images.seconds
            left_out |= of_images.left_out

        def before(name: str) -> None:
            if stop is not None and stop.requested:
                raise StopIteration
            advance()

        try:
            with untouched(parts.model, parts.optimizer):
                patient = patient_of(recipe, parts, samples, splits, preprocessing, device)
                of_model = examine(patient, deep=deep, skip=skip, progress=before,
                                   budget_s=max(1.0, budget_s - (time.monotonic() - begun)))
            measured = patient.remembered
            found += of_model.findings
            seconds |= of_model.seconds
            left_out |= of_model.left_out
        except StopIteration:  # the trainer stops at its first step, and says so
            pass
    return Diagnosis(findings=tuple(ranked(found)), seconds=seconds, left_out=left_out), measured


def patient_of(recipe: Recipe, parts: Parts, samples: Samples, splits: dict[str, np.ndarray],
               preprocessing: Preprocessing, device: torch.device) -> Patient:
    """The training as the checks see it: batches normalised as the task does it, and the same loss."""
    loss = parts.task.loss_function
    pretrained = recipe.model.weights is not None
    return as_patient(parts.model, _Normalised(parts.train, preprocessing, device), loss, optimizer=parts.optimizer,
                      validation=_Normalised(parts.val, preprocessing, device), device=device, pretrained=pretrained,
                      frozen_on_purpose=recipe.model.freeze != "none",
                      augmented=_drawn(recipe, samples, splits["train"], preprocessing, device))


def _rate_range(measured: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """The curve of the range test for the page, the rate that it suggests and the one that is set."""
    curve = measured.get("rate-range")
    if curve is None:
        return None
    return {"rates": list(curve.rates), "losses": list(curve.losses), "smoothed": list(curve.smoothed),
            "suggested": curve.lowest / 10, "configured": optimizer.param_groups[0]["lr"]}


def _about_checks() -> dict[str, dict[str, Any]]:
    """What the page needs to rank findings: it may not import the checks."""
    stages = tuple(STAGES)
    return {entry.name: {name: entry.about[name] for name in ("rule", "rank", "symptom")} for entry in checks(*stages)}


class _Normalised:
    """(inputs, targets) of an epoch, as the task hands them to the model."""

    def __init__(self, source: BatchSource, preprocessing: Preprocessing, device: torch.device):
        self.source, self.preprocessing, self.device = source, preprocessing, device

    def __iter__(self) -> Any:
        batches = self.source.epoch(0)
        try:
            for batch in batches:
                batch = batch.to(self.device)
                yield self.preprocessing.normalise(batch.images), batch.targets
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()


def _drawn(recipe: Recipe, samples: Samples, train: np.ndarray, preprocessing: Preprocessing,
           device: torch.device) -> Tensor | None:
    """[N, T, C, H, W] in [0, 1]: some images as they come in T epochs; None without augmentation, and where it changes
    their size. The first of each is the image as it is."""
    if not recipe.augmentation or recipe.augmentation == "auto":
        return None
    chosen = np.sort(train[np.linspace(0, len(train) - 1, min(DRAWN, len(train))).astype(np.int64)])
    plain = Loader(samples, chosen, preprocessing, batch_size=len(chosen))
    loader = Loader(samples, chosen, preprocessing, augmentation=build_augmentation(list(recipe.augmentation)),
                    batch_size=len(chosen), seed=recipe.train.seed)
    drawn = [next(iter(plain.epoch(0))).images, *(next(iter(loader.epoch(epoch))).images for epoch in range(DRAWS))]
    same_size = all(images.shape == drawn[0].shape for images in drawn)
    return torch.stack(drawn, 1).to(device) if same_size else None


def _recorded_statistics(recipe: Recipe, preprocessing: Preprocessing) -> Sequence[Finding]:
    """Public weights want the normalisation that they were trained with."""
    if recipe.model.weights is None:
        return ()
    about = preprocessing_of(recipe.model.name, recipe.model.weights)
    if not about:
        return ()
    wanted = Preprocessing(**about)
    if len(wanted.mean) != preprocessing.channels:
        return ()
    off = max(abs(a - b) for a, b in zip((*wanted.mean, *wanted.std), (*preprocessing.mean, *preprocessing.std),
                                         strict=True))
    if off <= limit("inputs-differ.recorded"):
        return ()
    return (Finding("inputs-differ", "warning", "The images are not normalised as those the weights were trained on",
                    f"mean {list(preprocessing.mean)}, std {list(preprocessing.std)}; the weights' "
                    f"{list(wanted.mean)}, {list(wanted.std)}", "--set data.normalise=model"),)


def parts_of(recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing,
           device: torch.device) -> Parts:
    """What a training is made of, without a run folder."""
    train = build_loader(recipe, samples, splits["train"], preprocessing, training=True, device=device, cache=None)
    val = build_loader(recipe, samples, splits["val"], preprocessing, training=False, device=device, cache=None)
    model = build_model(recipe, preprocessing, len(samples.classes), first=train).to(device)
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, updates_per_epoch(train, recipe.train.accumulate))
    task = build_task(recipe, preprocessing, samples.class_counts(splits["train"]))
    return Parts(model, task, train, val, optimizer, schedule, None)
