"""visus train: from a path to a run folder with model, evidence and report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from visus.core.device import environment, pick_device
from visus.core.errors import Interrupted, ResourceError, RunError, TrainingDiverged, UserError, printable
from visus.core.files import read_json, write_text
from visus.core.jpeg import jpeg_decoder
from visus.core.preprocessing import Preprocessing
from visus.core.record import Finding, RunFolder
from visus.data import split_file
from visus.data.samples import Samples
from visus.optim.ema import EMA
from visus.run.build import (
    Parts,
    build_loader,
    build_model,
    build_task,
    make_optimizer,
    make_schedule,
    updates_per_epoch,
)
from visus.run.bundle import FOLDS
from visus.run.defend import Free, Replayed, replays
from visus.run.display import Display, Stopwatch, TrainingDisplay
from visus.run.doctor import check_before
from visus.run.evaluate import finish_run, validation
from visus.run.filters import FilterPictures
from visus.run.load import Run
from visus.run.observers import LogWriter, TensorBoardWriter
from visus.run.prepare import given_recipe, opened, prepare, split_up
from visus.run.recipe import Recipe
from visus.run.report import write_report
from visus.run.survey import data_record, drop_known_bad_images, samples_digest
from visus.run.watch import RunWatch
from visus.train.checkpoint import CheckpointStore, seed_generators
from visus.train.stop import StopRequest
from visus.train.trainer import Observer, Position, Settings, Trainer
from visus.train.tune import choose_execution

# What a resume may change: how fast, how often saved, but not one bit of the result.
HARMLESS = frozenset({"data.workers", "data.cache_bytes", "train.checkpoint_steps", "train.checkpoint_seconds",
                      "report.budget_s", "doctor.before", "doctor.watch", "doctor.budget_s", "description"})
PREFETCHED = 2  # batches that each loader worker keeps ready: PyTorch's default


def train(path: str | Path | None = None, *, recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
          values: Mapping[str, Any] | None = None, out: str | Path | None = None, progress: bool = True,
          tensorboard: bool = False, command: Sequence[str] | None = None,
          folds: int | Literal["groups"] | None = None) -> Run:
    """Train a classifier on the images at `path` and return the run.

    recipe: a Recipe, a mapping, a file, or the name of a shipped recipe. values: dotted fields to change, such as
    {"train.epochs": 5}. out: run folder to create (default: runs/NAME-N). command: argv to note for reproduction.
    folds: cross-validation: as many trainings, each of which holds another part of the images out ('groups': one group
    each), in out/fold-1 and so on, with what they say together in `out`; what is returned is the joined run.
    Raises UserError for anything that the user can put right; what was on disk before is then untouched.
    """
    recipe = given_recipe(recipe, path, dict(values or {}) | ({} if folds is None else {"data.folds": folds}))
    if recipe.data.folds is not None and recipe.data.fold is None:
        from visus.run.folds import train_folds

        return train_folds(recipe, out=Path(out) if out is not None else _next_folder(str(recipe.data.path)),
                           progress=progress, tensorboard=tensorboard, command=list(command or []))
    display = Display(progress)
    prepared = prepare(recipe, display)
    recipe, preprocessing = prepared.recipe, prepared.preprocessing
    out = Path(out) if out is not None else _next_folder(str(recipe.data.path))
    folder = RunFolder.create(out, name=out.name, task=recipe.task, model=recipe.model.name,
                              command=["visus", "train", "--recipe", str(out / "recipe.yaml")],
                              started_with=list(command or []))
    folder.lock()
    try:
        recipe.save(folder.path / "recipe.yaml")
        folder.write("preprocessing.json", preprocessing.to_dict())
        write_text(folder.path / split_file.FILE, split_file.split_text(prepared.samples, prepared.splits))
        folder.write("data.json", data_record(prepared.samples, prepared.splits, recipe, prepared.problems))
        return _train(folder, recipe, prepared.samples, prepared.splits, preprocessing, prepared.device, display,
                      tensorboard, resumed=False)
    finally:
        folder.unlock()


def resume(run: str | os.PathLike[str], *, values: Mapping[str, Any] | None = None, progress: bool = True,
           changed_data_is_fine: bool = False, tensorboard: bool = False) -> Run:
    """Go on with an interrupted run from its newest whole checkpoint, to the same bits as if it had not stopped.

    values: fields that change how fast but not what is computed (`HARMLESS`), such as {"data.workers": 2}.
    Raises RunError when the run is finished, in use, or its recipe or images have changed since.
    """
    values = dict(values or {})
    for name in values.keys() - HARMLESS:
        raise RunError("goes on with the run's own recipe", where=f"--resume with {name}={values[name]!r}",
                       remedy="Only these may change: " + ", ".join(sorted(HARMLESS)))
    folder = RunFolder.open(os.fspath(run))
    if folder.about.get("kind") == FOLDS:
        from visus.run.folds import resume_folds

        return resume_folds(folder, values=values, progress=progress, changed_data_is_fine=changed_data_is_fine,
                            tensorboard=tensorboard)
    display = Display(progress)
    folder.lock()
    try:
        if folder.about.get("status") == "finished" and not (folder.path / "report.html").exists():
            display.result(f"report   {write_report(folder)}")  # it was stopped between the two
            return Run(folder)
        folder.refuse_resume()
        recipe = Recipe.load(folder.path / "recipe.yaml")
        _refuse_changes(folder, recipe, changed_data_is_fine)
        recipe = recipe.with_values(values)
        samples = opened(recipe, display)
        samples = drop_known_bad_images(samples, folder)
        splits = split_up(samples, recipe, display)
        device = pick_device(recipe.device)
        preprocessing = Preprocessing.from_dict(read_json(folder.path / "preprocessing.json", error=RunError))
        before, now = folder.read("data.json", {}).get("digest"), samples_digest(samples, splits)
        if before != now and not changed_data_is_fine:
            raise RunError("the images have changed since the run began", where=recipe.data.path,
                           remedy="Put them back, or accept another result with --resume-anyway")
        if before != now:
            folder.find(Finding("resume", "warning", "The images changed before a resume",
                                f"{before} became {now}", "The result is not that of an uninterrupted run"))
        return _train(folder, recipe, samples, splits, preprocessing, device, display, tensorboard, resumed=True)
    finally:
        folder.unlock()


def _train(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
           preprocessing: Preprocessing, device: torch.device, display: Display, tensorboard: bool,
           resumed: bool) -> Run:
    watch = Stopwatch()
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(recipe.train.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid
    before = folder.about.get("seconds", 0.0)
    stop = StopRequest()
    try:
        with stop:
            recipe, parts = _build(folder, recipe, samples, splits, preprocessing, device, display)
            store = CheckpointStore(folder.path / "checkpoints")
            if not resumed and recipe.doctor.before and recipe.doctor.budget_s > 0:
                check_before(folder, recipe, parts, samples, splits, preprocessing, device, display, stop)
            display.say("run", f"{folder.path}  (stop with Ctrl-C; go on with: visus train --resume {folder.path})")
            position = _run_trainer(folder, recipe, parts, store, device, display, stop, tensorboard, resumed)
            seconds = before + watch.seconds
            finish_run(folder, recipe, samples, splits, preprocessing, parts.task, store, position, device, display,
                       seconds, stop)
    except UserError as error:
        status = {Interrupted: "interrupted", TrainingDiverged: "diverged"}.get(type(error), "failed")
        _leave(folder, status, before + watch.seconds)
        raise
    except (RuntimeError, MemoryError) as error:
        _leave(folder, "failed", before + watch.seconds)
        if not _is_out_of_memory(error):
            raise
        raise ResourceError(f"out of memory with batches of {recipe.train.batch_size} images of "
                            f"{preprocessing.size[0]} x {preprocessing.size[1]} px", where=folder.path,
                            remedy="Use a smaller --batch-size, with --set train.accumulate=2 for the same updates, or "
                            "a smaller --image-size") from error
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic_before)
    return Run(folder)


def _leave(folder: RunFolder, status: str, seconds: float) -> None:
    """Say in the run how it ended and draw what there is; a full disk must not hide the first error."""
    try:
        folder.update(status=status, seconds=round(seconds, 1))
        write_report(folder)
    except UserError:
        pass


def _build(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
           preprocessing: Preprocessing, device: torch.device, display: Display) -> tuple[Recipe, Parts]:
    counts = samples.class_counts(splits["train"])
    task = build_task(recipe, preprocessing, counts)
    cache = folder.path / "cache"
    recipe = _fit_shared_memory(recipe, preprocessing, display)
    train = build_loader(recipe, samples, splits["train"], preprocessing, training=True, device=device, cache=cache)
    val = build_loader(recipe, samples, splits["val"], preprocessing, training=False, device=device, cache=cache)
    for note in train.cache_notes():
        display.say("cache", note)
    model = build_model(recipe, preprocessing, len(samples.classes)).to(device)
    if recipe.train.layout == "auto" or recipe.train.threads == "auto":
        batch = next(iter(train.epoch(0)))
        chosen = choose_execution(model, task.loss, batch, lambda m: make_optimizer(recipe, m), device=device,
                                  layout=recipe.train.layout, threads=recipe.train.threads)
        recipe = recipe.with_values({"train.layout": "channels_last" if chosen.channels_last else "contiguous",
                                     "train.threads": chosen.threads})
        timed = "; ".join(f"{name}: {1000 * s:.0f} ms" for name, s in chosen.seconds.items())
        display.say("machine", f"{device.type}, {recipe.train.precision}, {recipe.train.layout}, "
                    f"{chosen.threads} threads ({timed or 'as set'})")
        task = build_task(recipe, preprocessing, counts)  # what a defence remembers of the timed steps is no part of it
    recipe.save(folder.path / "recipe.yaml")  # with what was chosen here: a resume must compute in the same way
    torch.set_num_threads(int(recipe.train.threads))
    if recipe.train.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    ema = EMA(model, decay=recipe.train.ema) if recipe.train.ema is not None else None
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, replays(recipe) * updates_per_epoch(train, recipe.train.accumulate))
    folder.update(recipe=recipe.model_dump(mode="json"))
    folder.write("environment.json", environment() | {"device": str(device), "precision": recipe.train.precision,
                                                      "layout": recipe.train.layout, "jpeg": jpeg_decoder()})
    if replays(recipe) > 1:
        train = Replayed(train, replays(recipe))
    return recipe, Parts(model, task, train, val, optimizer, schedule, ema)


def _fit_shared_memory(recipe: Recipe, preprocessing: Preprocessing, display: Display) -> Recipe:
    """Loader workers hand batches over in shared memory; where it is too small they die with a bus error."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return recipe
    batch = int(recipe.train.batch_size) * preprocessing.channels * preprocessing.size[0] * preprocessing.size[1] * 4
    needed = batch * int(recipe.data.workers) * (PREFETCHED + 1)
    if needed <= free:
        return recipe
    display.say("note", f"{recipe.data.workers} loader workers would need {needed >> 20} MiB of shared memory, "
                f"{free >> 20} MiB are free: images are loaded in this process")
    return recipe.with_values({"data.workers": 0})


def _run_trainer(folder: RunFolder, recipe: Recipe, parts: Parts, store: CheckpointStore, device: torch.device,
                 display: Display, stop: StopRequest, tensorboard: bool, resumed: bool) -> Position:
    settings = recipe.train
    steps = updates_per_epoch(parts.train, settings.accumulate)
    shown = TrainingDisplay(display, settings.epochs, steps, parts.task.headline)
    observers: list[Observer] = [LogWriter(folder), shown]
    if tensorboard:
        observers.append(TensorBoardWriter(folder.path / "tensorboard"))

    def find(finding: Finding) -> None:
        folder.find(finding)
        display.finding(finding)

    # replayed batches are the same on purpose
    watch = RunWatch(folder, find, skip=("same-batch",) if replays(recipe) > 1 else ()) if recipe.doctor.watch else None
    if watch is not None:
        observers += [watch, FilterPictures(folder.path, parts.model, settings.epochs)]
    seed_generators(settings.seed)
    trainer = Trainer(
        parts.model, parts.task, parts.train, parts.optimizer, parts.schedule,
        Settings(epochs=settings.epochs, accumulate=settings.accumulate, clip_norm=settings.clip_norm,
                 clip_adaptive=settings.clip_adaptive,
                 precision=settings.precision, channels_last=settings.layout == "channels_last",
                 patience=settings.patience, checkpoint_steps=settings.checkpoint_steps,
                 checkpoint_seconds=settings.checkpoint_seconds,
                 log_steps=max(1, settings.epochs * steps // 1000)),
        device=device, store=store, ema=parts.ema, observers=observers, stop=stop, find=find, watch=watch,
        remembers=parts.task.defence if isinstance(parts.task.defence, Free) else None,
        validate=validation(parts, device, settings, stop))
    begun = any(event["event"] == "step" for event in folder.events())
    if resumed and not begun and not store.steps():
        display.say("resume", "no step was taken yet: from the beginning")
    elif resumed:
        step, state, problems = store.load()
        for problem in problems:
            find(Finding("checkpoint", "warning", "A damaged checkpoint was passed over", problem,
                         f"Going on from the one of step {step}", step=step))
        trainer.load_state(state)
        folder.rewind(step, trainer.position.epoch)
        folder.log("resume", step=step, epoch=trainer.position.epoch)
        display.say("resume", f"from step {step}, epoch {trainer.position.epoch + 1} of {settings.epochs}")
    folder.update(status="running")
    with shown, watch or nullcontext():
        if watch is not None:
            watch.begin(parts.model, parts.optimizer, trainer.scaler, trainer.position.step)
        return trainer.run()


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text or \
        "out of memory" in text


# -- before the run folder ---------------------------------------------------------------------------------------


def _refuse_changes(folder: RunFolder, recipe: Recipe, fine: bool) -> None:
    """A recipe edited since the run began would give another result; another machine or version may."""
    said, now = flat(folder.about.get("recipe", {})), flat(recipe.model_dump(mode="json"))
    before = flat(Recipe().model_dump(mode="json")) | said if said else {}  # a field that is newer than the run
    changed = [f"{name}: {before.get(name)!r} became {now.get(name)!r}" for name in before | now
               if before and before.get(name) != now.get(name) and name not in HARMLESS]
    if changed and not fine:
        raise RunError("the recipe has changed since the run began: " + "; ".join(changed),
                       where=folder.path / "recipe.yaml",
                       remedy="Change it back, train a new run from it, or accept another result with --resume-anyway")
    if changed:
        folder.find(Finding("resume", "warning", "The recipe changed before a resume", "; ".join(changed),
                            "The result is not that of an uninterrupted run"))
    then, here = folder.read("environment.json", {}), environment()
    moved = [f"{name} {then[name]} became {here[name]}" for name in ("torch", "numpy", "processor", "cpu_capability")
             if name in then and then[name] != here[name]]
    if moved:
        folder.find(Finding("resume", "note", "The run goes on in another environment", "; ".join(moved),
                            "The same bits are promised on the same machine and versions only"))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'epochs': 3}} -> {'train.epochs': 3}."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return out


def _next_folder(path: str) -> Path:
    """runs/NAME-N with the first N that is free."""
    name = printable(Path(path).stem or "run").replace(" ", "_")[:60]
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip(".") or "run"
    number = 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"
