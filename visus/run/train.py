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
from visus.run.compiled import CompileReport, check_compile
from visus.run.defend import Free, Replayed, replays
from visus.run.display import Display, Stopwatch, TrainingDisplay
from visus.run.distill import announced, teacher_of
from visus.run.doctor import check_before
from visus.run.evaluate import finish_run, validation
from visus.run.filters import FilterPictures
from visus.run.first_rates import WHOLE_BATCH, kept_weights
from visus.run.fit import fit
from visus.run.hint_layers import with_hint_layers
from visus.run.hints import learn_hints
from visus.run.job import announce_end, followed, job, led, led_choice, restarted, speaker
from visus.run.load import Run
from visus.run.observers import LogWriter, TensorBoardWriter
from visus.run.prepare import given_recipe, opened, prepare, split_up
from visus.run.profile import profile_clock, write_profile
from visus.run.progressive import Resized, progressive_sizes
from visus.run.recipe import Recipe
from visus.run.registered import is_fitted
from visus.run.regularise import leave_out_connections, make_averager, make_regulariser
from visus.run.report import write_report
from visus.run.schedule import snapshot_epochs
from visus.run.spread import check_spread, spread
from visus.run.survey import data_record, drop_known_bad_images, samples_digest
from visus.run.watch import RunWatch
from visus.tasks.classification import Classification, MultiLabel
from visus.train.checkpoint import CheckpointStore, seed_generators
from visus.train.engine import alike
from visus.train.shared_state import process_seed
from visus.train.stop import StopRequest
from visus.train.trainer import Observer, Position, Settings, Trainer
from visus.train.tune import choose_execution
from visus.train.world import World, here

# What a resume may change: how fast, how often saved, but not one bit of the result.
HARMLESS = frozenset({"data.workers", "data.cache_bytes", "train.checkpoint_steps", "train.checkpoint_seconds",
                      "train.strategy", "train.checkpoint_activations", "train.profile",
                      "report.budget_s", "report.ladder_s", "doctor.before", "doctor.watch", "doctor.budget_s",
                      "description"})
Start = tuple[RunFolder, Recipe, Samples, dict[str, np.ndarray], Preprocessing, torch.device]
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
    begun = restarted(out, command or [], lambda: _latest_folder(str(recipe.data.path)))
    with job(recipe, lambda: out) as world:
        if begun is not None:
            return _resume(begun, {}, progress, False, tensorboard, world)
        return _train_new(recipe, out, progress, tensorboard, list(command or []), world)


def _train_new(recipe: Recipe, out: str | Path | None, progress: bool, tensorboard: bool, command: list[str],
               world: World) -> Run:
    if recipe.data.folds is not None and recipe.data.fold is None and world.size == 1:
        from visus.run.folds import train_folds

        return train_folds(recipe, out=Path(out) if out is not None else _next_folder(str(recipe.data.path)),
                           progress=progress, tensorboard=tensorboard, command=command)
    display = speaker(world, progress)

    def start() -> Start:
        check_spread(recipe, world)
        prepared = prepare(recipe, display)
        chosen = prepared.recipe
        check_spread(chosen, world)
        check_compile(chosen, prepared.device)
        path = Path(out) if out is not None else _next_folder(str(chosen.data.path))
        folder = RunFolder.create(path, name=path.name, task=chosen.task, model=chosen.model.name,
                                  command=["visus", "train", "--recipe", str(path / "recipe.yaml")],
                                  started_with=command)
        folder.lock()
        chosen.save(folder.path / "recipe.yaml")
        folder.write("preprocessing.json", prepared.preprocessing.to_dict())
        write_text(folder.path / split_file.FILE, split_file.split_text(prepared.samples, prepared.splits))
        folder.write("data.json", data_record(prepared.samples, prepared.splits, chosen, prepared.problems))
        return folder, chosen, prepared.samples, prepared.splits, prepared.preprocessing, prepared.device

    begun = led(world, start, lambda path, chosen: _follow(path, chosen, world, display))
    try:
        return _train(*begun, display, tensorboard, resumed=False)
    finally:
        begun[0].unlock()


def _follow(path: str, recipe: Recipe, world: World, display: Display) -> Start:
    """What the first process begins with, in another one: the same images by the same paths."""
    folder = followed(path, world)
    samples = drop_known_bad_images(opened(recipe, display), folder)
    splits = split_up(samples, recipe, display)
    if folder.read("data.json", {}).get("digest") != samples_digest(samples, splits):
        raise RunError("finds other images than the first process", where=recipe.data.path,
                       remedy="Every machine needs the same images under the same path")
    preprocessing = Preprocessing.from_dict(read_json(folder.path / "preprocessing.json", error=RunError))
    return folder, recipe, samples, splits, preprocessing, pick_device(recipe.device)


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
    recipe = Recipe.load(folder.path / "recipe.yaml") if (folder.path / "recipe.yaml").exists() else Recipe()
    with job(recipe, lambda: folder.path) as world:
        return _resume(folder.path, values, progress, changed_data_is_fine, tensorboard, world)


def _resume(run: Path, values: Mapping[str, Any], progress: bool, changed_data_is_fine: bool, tensorboard: bool,
            world: World) -> Run:
    folder = RunFolder.open(run)
    if folder.about.get("kind") == FOLDS and world.size > 1:
        raise RunError("is a cross-validation, whose models are each trained by one process", where=run,
                       remedy="Resume it without torchrun")
    if folder.about.get("kind") == FOLDS:
        from visus.run.folds import resume_folds

        return resume_folds(folder, values=values, progress=progress, changed_data_is_fine=changed_data_is_fine,
                            tensorboard=tensorboard)
    display = speaker(world, progress)
    if folder.about.get("status") == "finished" and not (folder.path / "report.html").exists():
        if world.leads:
            display.result(f"report   {write_report(folder)}")  # it was stopped between the two
        return Run(folder)

    def start() -> Start:
        folder.lock()
        folder.refuse_resume()
        recipe = Recipe.load(folder.path / "recipe.yaml")
        _refuse_changes(folder, recipe, changed_data_is_fine)
        recipe = recipe.with_values(values)
        check_spread(recipe, world)
        samples = opened(recipe, display)
        samples = drop_known_bad_images(samples, folder)
        splits = split_up(samples, recipe, display)
        preprocessing = Preprocessing.from_dict(read_json(folder.path / "preprocessing.json", error=RunError))
        before, now = folder.read("data.json", {}).get("digest"), samples_digest(samples, splits)
        if before != now and not changed_data_is_fine:
            raise RunError("the images have changed since the run began", where=recipe.data.path,
                           remedy="Put them back, or accept another result with --resume-anyway")
        if before != now:
            folder.find(Finding("resume", "warning", "The images changed before a resume",
                                f"{before} became {now}", "The result is not that of an uninterrupted run"))
        return folder, recipe, samples, splits, preprocessing, pick_device(recipe.device)

    try:
        begun = led(world, start, lambda path, recipe: _follow(path, recipe, world, display))
        return _train(*begun, display, tensorboard, resumed=True)
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
    with stop:  # also while the end is written down: torchrun asks the others of a job that failed to stop
        try:
            task: Classification | MultiLabel
            if is_fitted(recipe.model.name):
                display.say("run", str(folder.path))
                recipe, task, store, position = fit(folder, recipe, samples, splits, preprocessing, device, display,
                                                    stop)
            else:
                recipe, parts = _build(folder, recipe, samples, splits, preprocessing, device, display, stop)
                task, store = parts.task, CheckpointStore(folder.path / "checkpoints")
                if not resumed and recipe.doctor.before and recipe.doctor.budget_s > 0 and here().leads:
                    check_before(folder, recipe, parts, samples, splits, preprocessing, device, display, stop)
                display.say("run", f"{folder.path}  (stop with Ctrl-C; go on with: visus train --resume {folder.path})")
                position = _run_trainer(folder, recipe, parts, store, device, display, stop, tensorboard, resumed)
            seconds = before + watch.seconds
            finish_run(folder, recipe, samples, splits, preprocessing, task, store, position, device, display,
                       seconds, stop)
            here().barrier()
        except UserError as error:
            status = {Interrupted: "interrupted", TrainingDiverged: "diverged"}.get(type(error), "failed")
            _leave(folder, status, before + watch.seconds, error)
            raise
        except (RuntimeError, MemoryError) as error:
            _leave(folder, "failed", before + watch.seconds, error)
            if not _is_out_of_memory(error):
                raise
            raise ResourceError(f"out of memory with batches of {recipe.train.batch_size} images of "
                                f"{preprocessing.size[0]} x {preprocessing.size[1]} px", where=folder.path,
                                remedy="Use a smaller --batch-size, with --set train.accumulate=2 for the same "
                                "updates, or a smaller --image-size") from error
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(deterministic_before)
    return Run(folder)


def train_trial(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
                preprocessing: Preprocessing, device: torch.device, stop: StopRequest,
                observers: Sequence[Observer]) -> tuple[Recipe, Position]:
    """The training of `train` without what follows it: a trial of a search is judged on val, and test is not touched.
    recipe: without `auto` but for layout, precision and threads. Returns it with those, too."""
    recipe, parts = _build(folder, recipe, samples, splits, preprocessing, device, Display(show=False), stop)
    store = CheckpointStore(folder.path / "checkpoints")
    return recipe, _run_trainer(folder, recipe, parts, store, device, Display(show=False), stop, False, False,
                                observers)


def _leave(folder: RunFolder, status: str, seconds: float, error: Exception) -> None:
    """Say in the run how it ended and draw what there is; a full disk must not hide the first error."""
    lost = announce_end(error)
    try:
        folder.update(status=status, seconds=round(seconds, 1))
        if here().leads and not lost:
            write_report(folder)
    except UserError:
        pass


def _build(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
           preprocessing: Preprocessing, device: torch.device, display: Display,
           stop: StopRequest) -> tuple[Recipe, Parts]:
    counts = samples.class_counts(splits["train"])
    teacher = teacher_of(folder, recipe, preprocessing)
    task = build_task(recipe, preprocessing, counts, teacher)
    cache = folder.path / "cache"
    recipe = _fit_shared_memory(recipe, preprocessing, display)
    train = build_loader(recipe, samples, splits["train"], preprocessing, training=True, device=device, cache=cache)
    val = build_loader(recipe, samples, splits["val"], preprocessing, training=False, device=device, cache=cache,
                       shared=True)
    for note in train.cache_notes():
        display.say("cache", note)
    world = here()
    model = build_model(recipe, preprocessing, len(samples.classes), first=train).to(device)
    alike(model, world)
    leave_out_connections(recipe, model, display)
    if "auto" in (recipe.train.layout, recipe.train.precision, recipe.train.threads):
        batch = next(iter(train.epoch(0)))
        chosen = led_choice(world, lambda: choose_execution(
            model, task.loss, batch, lambda m: make_optimizer(recipe, m), device=device, layout=recipe.train.layout,
            precision=recipe.train.precision, threads=recipe.train.threads))
        recipe = recipe.with_values({"train.layout": "channels_last" if chosen.channels_last else "contiguous",
                                     "train.precision": chosen.precision, "train.threads": chosen.threads})
        timed = "; ".join(f"{name}: {1000 * s:.0f} ms" for name, s in chosen.seconds.items())
        display.say("machine", f"{device.type}, {recipe.train.precision}, {recipe.train.layout}, "
                    f"{chosen.threads} threads ({timed or 'as set'})")
        # anew: what a defence remembers of the timed steps is no part of it
        task = build_task(recipe, preprocessing, counts, teacher)
    recipe = with_hint_layers(recipe, model, teacher, preprocessing)
    if world.leads:
        recipe.save(folder.path / "recipe.yaml")  # with what was chosen here: a resume must compute in the same way
    torch.set_num_threads(int(recipe.train.threads))
    if recipe.train.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    learn_hints(folder, recipe, model, teacher, preprocessing, train, val, device, display, stop)
    train = announced(train, task)
    steps = replays(recipe) * updates_per_epoch(train, recipe.train.accumulate)
    ema = make_averager(recipe, model, train, steps, task, device, display)
    optimizer = make_optimizer(recipe, model)
    ema = ema or kept_weights(optimizer, display)
    schedule = make_schedule(recipe, optimizer, steps)
    folder.update(recipe=recipe.model_dump(mode="json"))
    folder.write("environment.json", environment() | {"device": str(device), "precision": recipe.train.precision,
                                                      "layout": recipe.train.layout, "jpeg": jpeg_decoder()})
    sizes = progressive_sizes(recipe, preprocessing)
    if sizes:
        train = Resized(train, sizes, recipe.train.epochs)
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
                 display: Display, stop: StopRequest, tensorboard: bool, resumed: bool,
                 more: Sequence[Observer] = ()) -> Position:
    settings, world = recipe.train, here()
    engine = spread(recipe, parts, world, device, display)
    steps = updates_per_epoch(parts.train, settings.accumulate)
    shown = TrainingDisplay(display, settings.epochs, steps, parts.task.headline)
    observers: list[Observer] = [LogWriter(folder), shown, *more]
    if tensorboard and world.leads:
        observers.append(TensorBoardWriter(folder.path / "tensorboard"))

    def find(finding: Finding) -> None:
        folder.find(finding)
        display.finding(finding)

    if settings.compile:
        observers.append(CompileReport(parts.model, display.say, find))
    watched = recipe.doctor.watch and world.leads and not engine.sharded and not settings.compile
    # replayed batches are the same on purpose; one process of several sees its own loss and the gradient of all
    skip = ["same-batch"] * (replays(recipe) > 1) + ["gradient-noise"] * (world.size > 1)
    skip += ["same-batch", "update-ratio"] * (recipe.optimizer.name in WHOLE_BATCH)  # solvers: all images, long steps
    watch = RunWatch(folder, find, skip=skip) if watched else None
    if recipe.doctor.watch and world.leads and not watched:
        display.say("doctor", "does not watch a model that is compiled, or whose weights are split")
    if watch is not None:
        observers += [watch, FilterPictures(folder.path, parts.model, settings.epochs)]
    seed_generators(process_seed(settings.seed, world))
    clock = profile_clock(recipe, device, world.leads)
    trainer = Trainer(
        parts.model, parts.task, parts.train, parts.optimizer, parts.schedule,
        Settings(epochs=settings.epochs, accumulate=settings.accumulate, clip_norm=settings.clip_norm,
                 clip_adaptive=settings.clip_adaptive,
                 precision=settings.precision, channels_last=settings.layout == "channels_last",
                 patience=settings.patience, checkpoint_steps=settings.checkpoint_steps,
                 checkpoint_seconds=settings.checkpoint_seconds,
                 log_steps=max(1, settings.epochs * steps // 1000), snapshots=snapshot_epochs(recipe)),
        device=device, store=store, ema=parts.ema, regulariser=make_regulariser(recipe), observers=observers,
        stop=stop, find=find, watch=watch, engine=engine, clock=clock,
        remembers=parts.task.defence if isinstance(parts.task.defence, Free) else None,
        validate=validation(parts, device, settings, stop))
    begun = world.share(any(event["event"] == "step" for event in folder.events()))
    if resumed and not begun and not store.steps():
        display.say("resume", "no step was taken yet: from the beginning")
    elif resumed:
        step, state, problems = store.load()
        for problem in problems:
            find(Finding("checkpoint", "warning", "A damaged checkpoint was passed over", problem,
                         f"Going on from the one of step {step}", step=step))
        trainer.load_state(state)
        wrote = len(state["rng"]) if isinstance(state["rng"], list) else 1
        if wrote != world.size:
            find(Finding("resume", "note", "The run goes on in another number of processes",
                         f"{wrote} became {world.size}",
                         "The curve is the same up to rounding; random numbers inside the model begin anew", step=step))
        folder.rewind(step, trainer.position.epoch)
        folder.log("resume", step=step, epoch=trainer.position.epoch)
        display.say("resume", f"from step {step}, epoch {trainer.position.epoch + 1} of {settings.epochs}")
    folder.update(status="running")
    with shown, watch or nullcontext():
        if watch is not None:
            watch.begin(parts.model, parts.optimizer, trainer.scaler, trainer.position.step)
        position = trainer.run()
    write_profile(clock, folder, recipe, parts, device, display, world.size)
    return position


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
    number = 1
    while (folder := Path("runs") / f"{_folder_name(path)}-{number}").exists():
        number += 1
    return folder


def _latest_folder(path: str) -> Path | None:
    """runs/NAME-N with the last N that is taken."""
    free = _next_folder(path)
    number = int(free.name.rpartition("-")[2])
    return free.with_name(f"{_folder_name(path)}-{number - 1}") if number > 1 else None


def _folder_name(path: str) -> str:
    name = printable(Path(path).stem or "run").replace(" ", "_")[:60]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip(".") or "run"
