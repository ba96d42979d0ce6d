"""One trial of a search, and the worker that makes one after the other.

A trial is an ordinary short training, from the same split as all others, judged by its best epoch on val; the test
split is not looked at. Its folder keeps the recipe and the log, not the weights.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visus.core.device import pick_precision
from visus.core.errors import Interrupted, ResourceError, RunError, TrainingDiverged, UserError
from visus.core.record import RunFolder
from visus.run.build import build_preprocessing
from visus.run.choose import choose
from visus.run.display import Display
from visus.run.prepare import Prepared, prepare
from visus.run.recipe import Recipe
from visus.run.survey import facts_for_choice, samples_digest
from visus.run.train import train_trial
from visus.run.tune_storage import STOPPED, Storage, load_optuna
from visus.search.space import Dimension, from_dict
from visus.train.stop import StopRequest
from visus.train.trainer import EpochReport, StepReport

if TYPE_CHECKING:
    import optuna

TRIALS = "trials"
LEFT_OUT = ("checkpoints", "model", "images", "evaluation", "cache")  # of a trial's folder, when it has ended
FAILED_FIRST = 3  # trials that fail before any succeeds: then it is not their values that are wrong
PLAIN = {"doctor.before": False, "doctor.watch": False, "report.budget_s": 0.0}


@dataclass(frozen=True)
class Stage:
    """What all trials of one stage share, as the storage keeps it (`to_dict`). name: of the study in the storage.
    number: from 1. recipe: as given, with `auto`. trials: how many; None: as many as the time allows. digest: of the
    images and their split. parallel: workers that were planned."""

    name: str
    number: int
    recipe: Mapping[str, Any]
    space: tuple[Dimension, ...]
    epochs: int
    trials: int | None
    method: str
    acquisition: str
    pruner: str
    seed: int
    digest: str
    headline: str
    maximise: bool
    parallel: int = 1
    points: int = 3

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "recipe": dict(self.recipe), "space": [d.to_dict() for d in self.space]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Stage:
        return cls(**{**row, "space": tuple(from_dict(d) for d in row["space"])})


@dataclass
class Bench:
    """What a process needs for any trial: the images, opened and divided once."""

    recipe: Recipe
    prepared: Prepared
    folder: Path
    chosen: dict[str, Any] = field(default_factory=dict)  # layout, precision and threads, timed in the first trial
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return samples_digest(self.prepared.samples, self.prepared.splits)


def open_bench(recipe: Recipe, folder: Path, display: Display) -> Bench:
    """recipe: with `auto`. Raises UserError for what `visus train` would refuse."""
    return Bench(recipe=recipe, prepared=prepare(recipe, display), folder=folder)


def work(bench: Bench, storage: Storage, name: str, stop: StopRequest, *, deadline: float | None = None,
         ended: Callable[[int], None] = lambda number: None) -> None:
    """Take and make trials of the study `name` until none waits, a stop is asked for or the time is over. Raises
    Interrupted when a trial was stopped, UserError when the first trials all fail."""
    from visus.search.samplers import make_pruner, make_sampler

    optuna = load_optuna()
    stage = read_stage(storage, name)
    if stage.digest != bench.digest:
        raise RunError("the images are not those that the study began with", where=bench.recipe.data.path,
                       remedy="Every worker needs the same images and the same split")
    study = storage.study(name, maximise=stage.maximise, pruner=make_pruner(stage.pruner), create=False)
    while not stop.requested and (deadline is None or time.time() < deadline):
        storage.revive(study)
        _refuse_all_failed(study)
        taken = storage.take(study)
        if taken is None:
            if stage.trials is not None:
                return
            study.enqueue_trial({})
            continue
        identity, number = taken
        with storage.heartbeat(identity):
            study.sampler = make_sampler(stage.method, stage.space, (stage.seed, stage.number, number),
                                         acquisition=stage.acquisition, parallel=stage.parallel > 1)
            trial = optuna.trial.Trial(study, identity)
            try:
                _make(bench, stage, trial, stop)
            except Interrupted:
                storage.again(study, study.trials[number], int(trial.user_attrs.get("retries", 0)))
                raise
        ended(number)
    if stop.requested:
        raise stop.interrupted(saved=True, where=bench.folder)


def read_stage(storage: Storage, name: str) -> Stage:
    """The stage that the study of this name was made for."""
    study = storage.study(name, maximise=True, create=False)
    row = study.user_attrs.get("stage")
    if not isinstance(row, dict):
        raise UserError(f"the study {name!r} was not made by visus tune", where=f"--storage {storage.shown}",
                        remedy="Choose another --study")
    return Stage.from_dict(row)


def recipe_of(base: Recipe, space: Sequence[Dimension], values: Mapping[str, Any], where: object = "trial") -> Recipe:
    """The recipe with a trial's values (labels for choices) in their fields."""
    return base.with_values({d.name: d.plain(values[d.name]) for d in space}, where)


def resolve(bench: Bench, recipe: Recipe) -> tuple[Recipe, Any]:
    """The recipe without `auto` but for layout, precision and threads, and its preprocessing, from the images opened
    once."""
    prepared = bench.prepared
    recipe = recipe.with_values({"data.path": prepared.recipe.data.path, "data.split": prepared.recipe.data.split,
                                 "model.weights": prepared.recipe.model.weights,
                                 "model.origin": prepared.recipe.model.origin})
    recipe, _ = choose(recipe, facts_for_choice(prepared.samples, prepared.splits["train"], prepared.device))
    recipe = recipe.with_values({"train.precision": pick_precision(recipe.train.precision, prepared.device)})
    key = recipe.data.model_dump_json()
    if key not in bench.statistics:
        bench.statistics = {key: build_preprocessing(recipe, prepared.samples, prepared.splits["train"])}
    return recipe, bench.statistics[key]


def _make(bench: Bench, stage: Stage, trial: optuna.trial.Trial, stop: StopRequest) -> None:
    """Draw, train, tell. Whatever goes wrong with these values ends the trial, not the study."""
    from visus.search.samplers import suggest

    optuna = load_optuna()
    study, state = trial.study, optuna.trial.TrialState
    begun = time.perf_counter()
    reporter: _Reporter | None = None

    def note(problem: str | None) -> None:
        trial.set_user_attr("seconds", round(time.perf_counter() - begun, 2))
        if reporter is not None:
            trial.set_user_attr("losses", reporter.losses)
        if problem is not None:
            trial.set_user_attr("problem", problem[:500])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = suggest(trial, stage.space)
        recipe = recipe_of(bench.recipe, stage.space, values, f"trial {trial.number}")
        recipe = recipe.with_values({"train.epochs": stage.epochs, **PLAIN, **bench.chosen})
        recipe, preprocessing = resolve(bench, recipe)
        reporter = _Reporter(trial, stage)
        folder = _folder(bench, stage, trial.number, recipe)
        trial.set_user_attr("folder", str(folder.path.relative_to(bench.folder)))
        try:
            found = _train(bench, folder, recipe, preprocessing, stop, reporter)
        finally:
            for part in LEFT_OUT:
                shutil.rmtree(folder.path / part, ignore_errors=True)
    except optuna.TrialPruned:
        note(None)
        folder.update(status="pruned")
        study.tell(trial, state=state.PRUNED)
        return
    except Interrupted:
        note(STOPPED)
        study.tell(trial, state=state.FAIL)
        raise
    except TrainingDiverged as error:  # pruned, not failed: samplers learn from pruned trials and forget failed ones
        note(f"diverged: {error.problem}")
        study.tell(trial, state=state.PRUNED)
        return
    except UserError as error:
        note(str(error))
        study.tell(trial, state=state.FAIL)
        return
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, MemoryError) as error:
        note(f"{type(error).__name__}: {error}")
        study.tell(trial, state=state.FAIL)
        return
    resolved, best, epoch = found
    if not any(d.name.startswith(("model.", "data.", "train.")) for d in stage.space):
        bench.chosen = {f"train.{name}": getattr(resolved.train, name) for name in ("layout", "precision", "threads")}
    if best is None or not math.isfinite(best):
        note(f"diverged: {stage.headline} has no value")
        study.tell(trial, state=state.PRUNED)
        return
    trial.set_user_attr("best_epoch", epoch)
    trial.set_user_attr("recipe", resolved.model_dump(mode="json"))
    note(None)
    study.tell(trial, best)


def _train(bench: Bench, folder: RunFolder, recipe: Recipe, preprocessing: Any, stop: StopRequest,
           reporter: _Reporter) -> tuple[Recipe, float | None, int | None]:
    prepared = bench.prepared
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(recipe.train.deterministic, warn_only=True)
    try:
        resolved, position = train_trial(folder, recipe, prepared.samples, prepared.splits, preprocessing,
                                         prepared.device, stop, [reporter])
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise ResourceError(f"out of memory with batches of {recipe.train.batch_size}", where=folder.path,
                            remedy="Search smaller batches or models") from error
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    folder.update(status="finished")
    return resolved, position.best, position.best_epoch


def _folder(bench: Bench, stage: Stage, number: int, recipe: Recipe) -> RunFolder:
    path = bench.folder / TRIALS / f"{stage.number}-{number:04d}"
    shutil.rmtree(path, ignore_errors=True)  # of a worker that was killed between two lines
    return RunFolder.create(path, name=path.name, task=recipe.task, model=recipe.model.name,
                            command=["visus", "train", "--recipe", str(path / "recipe.yaml")], kind="trial")


def _refuse_all_failed(study: optuna.Study) -> None:
    state = load_optuna().trial.TrialState
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()
             and t.user_attrs.get("problem") != STOPPED and "problem" in t.user_attrs or t.state == state.COMPLETE]
    failed = [t for t in ended if t.state == state.FAIL]
    if len(failed) >= FAILED_FIRST and len(failed) == len(ended):
        raise UserError(f"the first {len(failed)} trials failed; the last: {failed[-1].user_attrs['problem']}",
                        where="visus tune", remedy="Try one setting with visus train first")


class _Reporter:
    """Tells the study of each epoch, and ends the training where the pruner says so."""

    def __init__(self, trial: optuna.trial.Trial, stage: Stage):
        self.trial, self.stage = trial, stage
        self.losses: list[list[float]] = []

    def on_step(self, report: StepReport) -> None:
        pass

    def on_epoch(self, report: EpochReport) -> None:
        value = report.metrics.get(self.stage.headline, math.nan)
        self.losses.append([report.train_loss, report.metrics.get("loss", math.nan), value])
        if not math.isfinite(value):
            return
        self.trial.report(value, report.epoch + 1)
        if report.epoch + 1 < self.stage.epochs and self.trial.should_prune():
            raise load_optuna().TrialPruned


__all__ = ["Bench", "Stage", "open_bench", "read_stage", "recipe_of", "resolve", "work"]
