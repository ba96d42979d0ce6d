"""visus tune: search a recipe's fields by short trainings, then train the best one in full.

The trials lie in an Optuna storage (run/tune_storage.py), the rest in the study's folder: study.json, trials.csv,
recipe.yaml of the best trial, best/ (its full training), report.html, trials/ (recipe and log of each).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import RunError, UserError
from visus.core.files import read_json
from visus.run.display import Display
from visus.run.prepare import given_recipe
from visus.run.recipe import Recipe
from visus.run.tune_folder import check_numbers, new_record, read_record, shared_cores, storage_url, study_folder
from visus.run.tune_record import BEST_RECIPE, BEST_RUN, FILE
from visus.run.tune_space import given_space
from visus.run.tune_storage import Storage, load_optuna
from visus.run.tune_study import go_on
from visus.run.tune_trial import open_bench, work
from visus.train.stop import StopRequest

if TYPE_CHECKING:
    from visus.run.load import Run

COURSE = "course"


@dataclass(frozen=True)
class Study:
    """A finished or interrupted search. path: its folder."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """study.json."""
        return read_json(self.path / FILE, error=RunError)

    @property
    def trials(self) -> list[dict[str, Any]]:
        return list(self.record["trials"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial; None before one is complete."""
        return self.record["best"]

    @property
    def recipe(self) -> Recipe:
        """The best trial's, whole: what best/ is trained with."""
        return Recipe.load(self.path / BEST_RECIPE)

    @property
    def run(self) -> Run | None:
        """The best recipe's full training; None where it was not asked for or is not finished."""
        from visus.run.load import load

        return load(self.path / BEST_RUN) if (self.path / BEST_RUN / "run.json").exists() else None

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def tune(path: str | Path | None = None, *, recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
         values: Mapping[str, Any] | None = None, search: str | Path | Mapping[str, Any] | None = None,
         vary: Sequence[str] = (), method: str = "gp", trials: int | None = None, minutes: float | None = None,
         pruner: str = "halving", acquisition: str = "ei", stages: int = 1, epochs: Sequence[int] | None = None,
         points: int = 3, workers: int = 1, seed: int = 0, storage: str | None = None, study: str | None = None,
         train_best: bool = True, out: str | Path | None = None, progress: bool = True,
         command: Sequence[str] = ()) -> Study:
    """Search the best values of a recipe's fields for the images at `path`.

    recipe, values: as for `visus.train`; 'course' is the seven steps of the course. search: a file or mapping of
    field: range; vary: texts such as 'optimizer.lr=log:1e-4..1e-1'; neither: learning rate, weight decay, augmentation.
    method, pruner: see search.samplers. trials: in all stages together (default 20, or the whole grid); minutes: no
    trial begins after them. stages: coarse to fine; epochs: of the trials of each stage. points: of a grid's ranges.
    workers: processes. storage: sqlite:///FILE or postgresql://...; None: in the folder. study: its name there; where
    another process has begun it, this one helps. train_best: train the best recipe in full, and test it once.
    A study that was interrupted goes on when it is asked for again, or with `resume_study`.
    Raises UserError before anything is trained for whatever the person can put right.
    """
    load_optuna()
    check_numbers(method=method, pruner=pruner, acquisition=acquisition, trials=trials, minutes=minutes, stages=stages,
                   points=points, workers=workers, epochs=epochs)
    course = recipe == COURSE
    if course and (search is not None or vary):
        raise UserError("searches rate and decay, step by step", where="--recipe course",
                        remedy="Drop --vary and --search, or the course")
    display = Display(progress)
    base = given_recipe(None if course else recipe, path, values)
    if base.data.folds is not None:
        raise UserError("a search judges its trials on one val split", where=f"data.folds={base.data.folds}",
                        remedy="Drop the folds; cross-validate the best recipe afterwards")
    bench = open_bench(base if workers == 1 else shared_cores(base, workers, display), Path(), display)
    of_data = bench.prepared.recipe.data  # whole paths: a study goes on from any folder
    base = base.with_values({"data.path": of_data.path, "data.split": of_data.split})
    asked: dict[str, Any] = {
        "recipe": base.model_dump(mode="json"), "course": course, "method": method, "acquisition": acquisition,
        "pruner": pruner, "stages": stages, "epochs": None if epochs is None else list(epochs), "points": points,
        "seed": seed, "trials": trials, "minutes": minutes, "workers": workers, "train_best": train_best,
        "space": [d.to_dict() for d in given_space(search, vary)]}
    folder = bench.folder = study_folder(out, str(base.data.path), asked, display)
    if (folder / FILE).exists():
        record = read_record(folder)
        record["asked"] |= {name: asked[name] for name in ("trials", "minutes", "workers", "train_best")}
    else:
        record = new_record(folder, bench, asked, storage, study, command, display)
    go_on(bench, record, Storage(storage or storage_url(record), folder), display)
    return Study(folder)


def resume_study(folder: str | Path, *, storage: str | None = None, trials: int | None = None,
                 minutes: float | None = None, workers: int | None = None, progress: bool = True) -> Study:
    """Go on with an interrupted search, or with a finished one to more trials. storage: needed again where the URL
    holds a password, which the folder does not keep."""
    load_optuna()
    check_numbers(trials=trials, minutes=minutes, workers=workers)
    folder = Path(folder)
    record = read_record(folder)
    display = Display(progress)
    changed = {name: value for name, value in (("trials", trials), ("minutes", minutes), ("workers", workers))
               if value is not None}
    record["asked"] |= changed
    where = Storage(storage or storage_url(record), folder)
    base = Recipe.parse(record["asked"]["recipe"])
    many = int(record["asked"]["workers"])
    bench = open_bench(base if many == 1 else shared_cores(base, many, display), folder, display)
    go_on(bench, record, where, display)
    return Study(folder)


def work_as(folder: str | Path, name: str, minutes: float | None) -> None:
    """One of several workers: trials of the stage `name` until none waits."""
    record = read_record(Path(folder))
    storage = Storage(storage_url(record), Path(folder))
    with StopRequest() as stop:
        base = Recipe.parse(record["asked"]["recipe"])
        base = shared_cores(base, int(record["asked"]["workers"]), Display(False))
        bench = open_bench(base, Path(folder), Display(False))
        work(bench, storage, name, stop, deadline=None if minutes is None else time.time() + 60 * minutes)
