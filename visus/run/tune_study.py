"""The course of a search: its stages one after the other, help for one that was begun elsewhere, and what is left at
the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from visus.core.errors import Interrupted, ResourceError, RunError, UserError
from visus.core.files import read_json, write_text
from visus.core.record import RunFolder
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.run.tune_folder import save_record
from visus.run.tune_record import (
    BEST_RECIPE,
    BEST_RUN,
    TABLE,
    best_of,
    best_recipe,
    kept_labels,
    results,
    stage_names,
    table_text,
    trial_rows,
    write_page,
)
from visus.run.tune_space import allowed
from visus.run.tune_storage import Storage, load_optuna, reason
from visus.run.tune_trial import Bench, Stage, read_stage, recipe_of, work
from visus.run.tune_workers import run_stage
from visus.search.space import Dimension, from_dict, grid
from visus.search.stages import edges, refine
from visus.train.stop import StopRequest

TRIALS = 20  # where neither a number nor a time is given
JOIN_WAIT_S = 60.0  # a worker from elsewhere waits so long for more to do


def go_on(bench: Bench, record: dict[str, Any], storage: Storage, display: Display) -> None:
    """Make what is missing of the search, and whatever follows from it. Raises Interrupted, after everything is
    written, when it is stopped."""
    asked, folder, name = record["asked"], bench.folder, record["study"]
    lock = RunFolder(folder)
    lock.lock()
    try:
        display.say("study", f"{folder}, {storage.shown}  (stop with Ctrl-C; go on with: visus tune --resume {folder})")
        helping = record.get("helps", False) or (not record["begun"] and storage.has(f"{name}/1"))
        record |= {"begun": True, "helps": helping, "status": "running"}
        save_record(folder, record)
        with StopRequest() as stop:
            try:
                if helping:
                    _help(bench, storage, name, stop, display)
                elif asked["course"]:
                    from visus.run.tune_course import seven_steps

                    seven_steps(bench, record, storage, stop, display)
                else:
                    _stages(bench, record, storage, stop, display)
            except Interrupted as error:
                _finish(bench, record, storage, "interrupted", display)
                stopped = Interrupted(error.problem.partition(",")[0], where=folder,
                                      remedy=f"Go on with: visus tune --resume {folder}")
                stopped.exit_code = error.exit_code
                raise stopped from None
            except UserError:
                _finish(bench, record, storage, "failed", display)
                raise
            except load_optuna().exceptions.StorageInternalError as error:
                raise ResourceError(f"failed: {reason(error)}", where=f"--storage {storage.shown}",
                                    remedy=f"When it is there again: visus tune --resume {folder}") from None
        _finish(bench, record, storage, "searched", display)
        _train_best(bench, record, storage, display)
        _finish(bench, record, storage, "finished", display)
        display.result(f"report   {folder / 'report.html'}")
    finally:
        storage.close()
        lock.unlock()


def _stages(bench: Bench, record: dict[str, Any], storage: Storage, stop: StopRequest, display: Display) -> None:
    asked = record["asked"]
    space: Sequence[Dimension] = tuple(from_dict(d) for d in record["space"])
    count = int(asked["stages"])
    shares = _shares(asked, space, count)
    begun = time.time()
    for number in range(1, count + 1):
        name = f"{record['study']}/{number}"
        if number > 1 and not storage.has(name):
            space = next_space(bench, storage, f"{record['study']}/{number - 1}", display)
        elif storage.has(name):
            space = read_stage(storage, name).space
        deadline = None if asked["minutes"] is None else begun + 60 * asked["minutes"] * number / count
        stage = make_stage(bench, record, number, space, record["epochs"][number - 1], shares[number - 1])
        run_stage(bench, storage, begin_stage(storage, stage), stop, display, workers=int(asked["workers"]),
                  deadline=deadline, of=count)
        if best_of(trial_rows(storage, name), stage.maximise) is None:
            raise UserError("no trial came to its end", where=name,
                            remedy="See trials.csv for what went wrong; try narrower ranges, or more trials")


def make_stage(bench: Bench, record: Mapping[str, Any], number: int, space: Sequence[Any], epochs: int,
               trials: int | None, **changed: Any) -> Stage:
    """A stage of the study in `record`. changed: fields that differ from what was asked for."""
    asked = record["asked"]
    return replace(Stage(
        name=f"{record['study']}/{number}", number=number, recipe=asked["recipe"], space=tuple(space), epochs=epochs,
        trials=trials, method=asked["method"], acquisition=asked["acquisition"], pruner=asked["pruner"],
        seed=asked["seed"], digest=bench.digest, headline=record["headline"], maximise=record["maximise"],
        parallel=asked["workers"], points=asked["points"]), **changed)


def begin_stage(storage: Storage, stage: Stage) -> Stage:
    """Write the stage down where it is new, and queue the trials that are missing; those of a grid with values."""
    study = storage.study(stage.name, maximise=stage.maximise)
    known = study.user_attrs.get("stage")
    if known is not None:
        before = Stage.from_dict(known)
        more = stage.trials is not None and stage.trials > (before.trials or 0)
        stage = replace(before, trials=stage.trials if more else before.trials)
    study.set_user_attr("stage", stage.to_dict())
    have = sum("retry_of" not in t.user_attrs for t in study.get_trials(deepcopy=False))
    combinations = grid(stage.space, stage.points) if stage.method == "grid" else []
    for number in range(have, stage.trials or 0):
        study.enqueue_trial(combinations[number] if number < len(combinations) else {})
    return stage


def next_space(bench: Bench, storage: Storage, before: str, display: Display) -> list[Any]:
    """The finer space after the stage `before`: around its best trial, wider where that lies at an edge."""
    stage = read_stage(storage, before)
    rows = trial_rows(storage, before)
    best = best_of(rows, stage.maximise)
    if best is None:
        raise UserError("no trial came to its end", where=before, remedy="Give the stage more trials or wider ranges")
    for edge in edges(stage.space, best["values"]):
        display.say("edge", f"{edge.sentence}; the next stage looks there")
    finer = [d if d.kind == "choice" else allowed(d, recipe_of(bench.recipe, stage.space, best["values"]))
             for d in refine(stage.space, best["values"], kept_labels(rows, stage))]
    display.say("stage", "; ".join(f"{d.name} {d.text()}" for d in finer))
    return finer


def _shares(asked: Mapping[str, Any], space: Sequence[Any], count: int) -> list[int | None]:
    """Trials of each stage."""
    total = asked["trials"]
    if total is None and asked["method"] == "grid":
        return [len(grid(space, asked["points"]))] * count
    if total is None and asked["minutes"] is not None:
        return [None] * count
    total = total or TRIALS
    return [total // count + (k < total % count) for k in range(count)]


def _help(bench: Bench, storage: Storage, name: str, stop: StopRequest, display: Display) -> None:
    """Make trials of a study that another process has begun, stage after stage, until nothing comes any more."""
    display.say("study", f"{name} was begun elsewhere: this process makes trials of it, by the starter's settings")
    quiet = time.monotonic()
    while time.monotonic() - quiet < JOIN_WAIT_S:
        current = stage_names(storage, name)[-1]
        before = len(trial_rows(storage, current))
        work(bench, storage, current, stop, ended=lambda number: display.say("trial", f"{number} is made"))
        rows = trial_rows(storage, current)
        if len(rows) > before or any(row["status"] == "running" for row in rows):
            quiet = time.monotonic()
        first = storage.study(f"{name}/1", maximise=True, create=False)
        if first.user_attrs.get("done"):
            return
        if stop.requested:
            raise stop.interrupted(saved=True, where=bench.folder)
        time.sleep(0.5)


# -- the end -------------------------------------------------------------------------------------------------------


def _finish(bench: Bench, record: dict[str, Any], storage: Storage, status: str, display: Display) -> None:
    """Everything that the folder holds, as far as the search is."""
    folder, name = bench.folder, record["study"]
    if not stage_names(storage, name):
        record |= {"status": status}
        save_record(folder, record)
        return
    record |= results(storage, name) | {"status": status}
    if record["best"] is not None:
        best_recipe(storage, name, record["best"], bench.prepared.recipe).save(folder / BEST_RECIPE)
    run = folder / BEST_RUN / "metrics.json"
    if run.exists():
        measured = read_json(run, error=RunError)
        record["looks"] = 1 + len(list(folder.glob(f"{BEST_RUN}-before-*/metrics.json")))
        record["test"] = measured.get("splits", {}).get("test", {}).get("metrics", {}).get(record["headline"])
    if status == "searched":
        if not record["helps"]:
            storage.study(f"{name}/1", maximise=True, create=False).set_user_attr("done", True)
        best = record["best"]
        display.say("best", f"{record['headline']} {best['value']:.4f} on val, trial {best['number']} of stage "
                    f"{best['stage']}: " + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                                                     for k, v in best["values"].items()))
        for edge in record["edges"]:
            display.say("edge", f"{edge['sentence']}; search there with --vary or --stages")
    save_record(folder, record)
    write_text(folder / TABLE, table_text(record))
    write_page(folder, record)


def _train_best(bench: Bench, record: Mapping[str, Any], storage: Storage, display: Display) -> None:
    """The best recipe, in full: this once the test split is looked at."""
    from visus.run.train import resume, train

    out = bench.folder / BEST_RUN
    if not record["asked"]["train_best"] or record["helps"] or record["best"] is None:
        return
    recipe = Recipe.load(bench.folder / BEST_RECIPE)
    if (out / "run.json").exists():
        run = RunFolder.open(out)
        same = (out / "data.json").exists() and Recipe.load(out / "recipe.yaml") == recipe
        if same and run.about.get("status") == "finished" and (out / "report.html").exists():
            return
        if same:
            resume(out, progress=display.show)
            return
        number = 1
        while out.with_name(f"{BEST_RUN}-before-{number}").exists():
            number += 1
        out.rename(out.with_name(f"{BEST_RUN}-before-{number}"))  # more trials have found a better one since
    display.say("best", f"trained in full: {recipe.train.epochs} epochs")
    train(recipe=recipe, out=out, progress=display.show)


