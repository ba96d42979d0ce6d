"""What a search leaves in its folder: study.json, trials.csv, recipe.yaml of the best trial, report.html."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import UserError
from visus.core.files import write_text
from visus.run.recipe import Recipe
from visus.run.tune_storage import KILLED, STOPPED, Storage, load_optuna
from visus.run.tune_trial import Stage, read_stage
from visus.search.bayesian import importance
from visus.search.stages import edges, open_edges

if TYPE_CHECKING:
    import optuna

FILE, TABLE, BEST_RECIPE, PAGE, BEST_RUN = "study.json", "trials.csv", "recipe.yaml", "report.html", "best"
FEWEST_FOR_IMPORTANCE = 8


def stage_names(storage: Storage, name: str) -> list[str]:
    """The stages of a search that the storage has, in order."""
    found, number = [], 1
    known = {study.study_name for study in storage.backend.get_all_studies()}
    while f"{name}/{number}" in known:
        found.append(f"{name}/{number}")
        number += 1
    return found


def trial_rows(storage: Storage, name: str) -> list[dict[str, Any]]:
    """A row for each trial of one stage that was begun: stage, number, status, value, seconds, epochs, values (labels
    for choices), problem, curve ([training loss, val loss, headline] of each epoch), folder."""
    stage = read_stage(storage, name)
    study = storage.study(name, maximise=stage.maximise, create=False)
    rows = []
    for trial in study.get_trials(deepcopy=False):
        status = _status(trial)
        if status == "waiting":
            continue
        about = trial.user_attrs
        seconds = about.get("seconds")
        if seconds is None and trial.duration is not None:
            seconds = trial.duration.total_seconds()
        value = trial.value if status in ("complete", "pruned") else None
        rows.append({"stage": stage.number, "number": trial.number, "status": status,
                     "value": value if value is not None and math.isfinite(value) else None, "seconds": seconds,
                     "epochs": len(about.get("losses", [])), "values": dict(trial.params),
                     "problem": about.get("problem") or (KILLED if status == "killed" else None),
                     "retry_of": about.get("retry_of"), "best_epoch": about.get("best_epoch"),
                     "curve": about.get("losses", []), "folder": about.get("folder")})
    return rows


def _status(trial: optuna.trial.FrozenTrial) -> str:
    state = load_optuna().trial.TrialState
    problem = str(trial.user_attrs.get("problem") or "")
    if trial.state == state.FAIL:
        return "stopped" if problem == STOPPED else "killed" if problem in ("", KILLED) else "failed"
    if trial.state == state.PRUNED and problem.startswith("diverged"):
        return "diverged"
    return {state.COMPLETE: "complete", state.PRUNED: "pruned", state.RUNNING: "running"}.get(trial.state, "waiting")


def best_of(rows: Sequence[Mapping[str, Any]], maximise: bool) -> Mapping[str, Any] | None:
    """The best complete trial; of equals the first."""
    complete = [row for row in rows if row["status"] == "complete" and row["value"] is not None]
    return (max if maximise else min)(complete, key=lambda row: row["value"], default=None)


def kept_labels(rows: Sequence[Mapping[str, Any]], stage: Stage) -> dict[str, list[Any]]:
    """For each choice the labels of the best third of the stage's trials: a finer stage keeps these."""
    ended = sorted((row for row in rows if row["value"] is not None), key=lambda row: row["value"],
                   reverse=stage.maximise)
    top = ended[:max(2, math.ceil(len(ended) / 3))]
    return {d.name: list(dict.fromkeys(row["values"][d.name] for row in top if d.name in row["values"]))
            for d in stage.space if d.kind == "choice"}


def results(storage: Storage, name: str) -> dict[str, Any]:
    """What study.json says of the trials: stages, trials, the best one, edges, importances."""
    stages, trials = [], []
    best, spaces = None, []
    for study in stage_names(storage, name):
        stage = read_stage(storage, study)
        rows = trial_rows(storage, study)
        trials += rows
        found = best_of(rows, stage.maximise)
        if found is not None:
            best = found
            spaces.append(stage.space)
        stages.append({"number": stage.number, "epochs": stage.epochs, "trials": stage.trials,
                       "space": [d.to_dict() for d in stage.space],
                       "best": None if found is None else found["number"],
                       "edges": [] if found is None else [e.sentence for e in edges(stage.space, found["values"])]})
    found_edges = [] if best is None else open_edges(spaces, best["values"])
    return {"stages": stages, "trials": trials, "best": None if best is None else dict(best),
            "edges": [{"name": e.name, "side": e.side, "value": e.value, "end": e.end, "sentence": e.sentence}
                      for e in found_edges],
            "importance": _importances(storage, name)}


def _importances(storage: Storage, name: str) -> dict[str, float] | None:
    """Over the space of the first, widest stage; None for too few trials."""
    first = next(iter(stage_names(storage, name)), None)
    if first is None:
        return None
    stage = read_stage(storage, first)
    rows = [row for row in trial_rows(storage, first) if row["value"] is not None
            and all(d.name in row["values"] for d in stage.space)]
    if len(rows) < FEWEST_FOR_IMPORTANCE or len({row["value"] for row in rows}) < 2:
        return None
    try:
        return importance(stage.space, [row["values"] for row in rows], [row["value"] for row in rows])
    except UserError:
        return None


def table_text(record: Mapping[str, Any]) -> str:
    """trials.csv: a line for each trial, a column for each field."""
    names = list(dict.fromkeys(name for row in record["trials"] for name in row["values"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "trial", "status", record.get("headline", "value"), "epochs", "seconds", *names,
                     "problem"])
    for row in record["trials"]:
        writer.writerow([row["stage"], row["number"], row["status"], "" if row["value"] is None else row["value"],
                         row["epochs"], "" if row["seconds"] is None else row["seconds"],
                         *(row["values"].get(name, "") for name in names), row["problem"] or ""])
    return text.getvalue()


def best_recipe(storage: Storage, name: str, best: Mapping[str, Any], full: Recipe) -> Recipe:
    """The best trial's recipe without any `auto`, made whole again: as many epochs, checks and report as `full`, the
    study's own resolved recipe, has."""
    study = storage.study(f"{name}/{best['stage']}", maximise=True, create=False)
    trained = Recipe.parse(study.get_trials(deepcopy=False)[best["number"]].user_attrs["recipe"])
    return trained.with_values({"train.epochs": full.train.epochs,
                                "schedule.warmup_epochs": full.schedule.warmup_epochs,
                                "doctor.before": full.doctor.before, "doctor.watch": full.doctor.watch,
                                "report.budget_s": full.report.budget_s, "train.snapshots": full.train.snapshots,
                                "description": f"Best of a search: trial {best['number']} of stage {best['stage']}"})


def write_page(folder: Path, record: Mapping[str, Any]) -> Path:
    from visus.report.tune import render_study

    write_text(folder / PAGE, render_study(dict(record)))
    return folder / PAGE
