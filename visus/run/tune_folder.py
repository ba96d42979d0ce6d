"""The folder of a search: what is asked for and checked before there is one, and study.json."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visus import __version__
from visus.core.device import pick_device
from visus.core.errors import RunError, UserError, did_you_mean
from visus.core.files import read_json, write_json
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.run.tune_record import FILE
from visus.run.tune_space import check_space, default_space
from visus.run.tune_storage import hidden
from visus.run.tune_trial import Bench
from visus.run.tune_workers import STORAGE_VARIABLE
from visus.search.acquisition import ACQUISITIONS
from visus.search.space import from_dict

FORMAT = 1
# What makes it another search. The number of trials, the time and the workers do not.
REASONED = ("method", "acquisition", "pruner", "points", "seed", "space", "epochs", "recipe", "course", "stages")


def new_record(folder: Path, bench: Bench, asked: dict[str, Any], storage: str | None, study: str | None,
                command: Sequence[str], display: Display) -> dict[str, Any]:
    """study.json of a search that has not begun; every wrong value ends here, before there is a folder."""
    full = bench.prepared.recipe
    space = [from_dict(d) for d in asked["space"]]
    if not space:
        space, said = default_space(bench.prepared)
        for sentence in said if not asked["course"] else ():
            display.say("space", sentence)
    check_space(space, bench.prepared, bench.recipe)
    if asked["method"] == "cmaes" and any(d.kind == "choice" for d in space):
        raise UserError("moves in ranges, not among choices", where="--method cmaes", remedy="Use --method tpe or gp")
    epochs = _epochs(asked, int(full.train.epochs))
    if not asked["course"]:
        each = ", then ".join(map(str, epochs))
        display.say("search", f"{asked['method']}, pruner {asked['pruner']}, trials of {each} epochs (a full training "
                    f"has {full.train.epochs}), judged on val")
    multilabel = full.task == "multilabel"
    if storage is None and STORAGE_VARIABLE in os.environ:
        storage = os.environ[STORAGE_VARIABLE]
    if storage is not None and storage.startswith("sqlite:///"):
        storage = f"sqlite:///{Path(storage.removeprefix('sqlite:///')).resolve()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}", where=folder, remedy="Choose another --out") from error
    return {"format": FORMAT, "kind": "study", "version": __version__, "status": "started", "begun": False,
            "helps": False, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "study": study or folder.name,
            "command": [hidden(word) for word in command], "storage": None if storage is None else hidden(storage),
            "asked": asked, "space": [d.to_dict() for d in space], "epochs": epochs,
            "full_epochs": full.train.epochs, "headline": "mean_average_precision" if multilabel else "accuracy",
            "maximise": True, "model": full.model.name, "data": full.data.path, "stages": [], "trials": [],
            "best": None, "edges": [], "importance": None, "test": None, "steps": []}


def _epochs(asked: Mapping[str, Any], full: int) -> list[int]:
    """Epochs of the trials of each stage: a quarter of a full training, and for several stages half of it in the last,
    half of that before it, and so on."""
    count = int(asked["stages"])
    if asked["epochs"] is not None:
        given = [int(e) for e in asked["epochs"]]
        return (given + [given[-1]] * count)[:count]
    if count == 1:
        return [max(1, round(full / 4))]
    return [max(1, round(full / 2 ** (count - k))) for k in range(count)]


def study_folder(out: str | Path | None, path: str, asked: Mapping[str, Any], display: Display) -> Path:
    """The folder of this search: `out`, or studies/NAME-N: the last one where it is the same search and interrupted,
    else the next that is free."""
    if out is not None:
        folder = Path(out)
        if (folder / FILE).exists():
            differs = _differs(read_record(folder)["asked"], asked)
            if differs:
                raise RunError("holds another search: " + "; ".join(differs), where=folder,
                               remedy=f"Choose another --out, or go on with: visus tune --resume {folder}")
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError("is not empty", where=folder, remedy="Choose another --out")
        return folder
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(path).stem or "study").strip(".") or "study"
    number = 1
    while (Path("studies") / f"{stem}-{number}").exists():
        folder = Path("studies") / f"{stem}-{number}"
        if (folder / FILE).exists():
            known = read_record(folder)
            if known["status"] != "finished" and not _differs(known["asked"], asked):
                display.say("resume", f"{folder} is this search, and was interrupted: it goes on")
                return folder
        number += 1
    return Path("studies") / f"{stem}-{number}"


def _differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes it another search, in words."""
    found = []
    for name in REASONED:
        if before.get(name) != now.get(name):
            short = name == "recipe" or name == "space"
            found.append(f"another {name}" if short else f"{name} was {before.get(name)}, now {now.get(name)}")
    return found


def read_record(folder: Path) -> dict[str, Any]:
    if not (folder / FILE).is_file():
        raise RunError("is not the folder of a search" if folder.exists() else "there is no such folder", where=folder,
                       remedy="Give the folder that `visus tune` printed, such as studies/digits-1")
    record = read_json(folder / FILE, error=RunError)
    if not isinstance(record, dict) or record.get("kind") != "study":
        raise RunError("was not written by visus tune", where=folder / FILE)
    if int(record.get("format", 0)) > FORMAT:
        raise RunError("was written by a newer version of visus", where=folder / FILE,
                       remedy="Upgrade: pip install -U visus")
    return record


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_json(folder / FILE, dict(record))


def storage_url(record: Mapping[str, Any]) -> str | None:
    """The storage's address, as far as the folder or the environment know it; None: in the folder."""
    kept = record["storage"]
    if kept is None or "***" not in kept:
        return kept
    if STORAGE_VARIABLE in os.environ:
        return os.environ[STORAGE_VARIABLE]
    raise UserError("its credentials are kept nowhere", where=f"--storage {kept}",
                    remedy=f"Give --storage again, or set {STORAGE_VARIABLE}")


def shared_cores(base: Recipe, workers: int, display: Display) -> Recipe:
    """Each worker gets its share of the cores, and no timing that the others would disturb."""
    values: dict[str, Any] = {}
    if base.train.threads == "auto":
        values["train.threads"] = max(1, (os.cpu_count() or 1) // workers)
    if base.train.layout == "auto":
        values["train.layout"] = "contiguous"
    if base.train.precision == "auto" and pick_device(base.device).type == "cpu":
        values["train.precision"] = "fp32"
    if values:
        display.say("workers", f"{workers}, with {values.get('train.threads', base.train.threads)} threads each")
    return base.with_values(values)


def check_numbers(*, method: str = "gp", pruner: str = "halving", acquisition: str = "ei", trials: int | None = None,
                   minutes: float | None = None, stages: int = 1, points: int = 2, workers: int | None = 1,
                   epochs: Sequence[int] | None = None) -> None:
    from visus.search.samplers import METHODS, PRUNERS

    for flag, value, known in (("method", method, METHODS), ("pruner", pruner, PRUNERS),
                               ("acquisition", acquisition, ACQUISITIONS)):
        if value not in known:
            raise UserError(f"there is no such {flag}", where=f"--{flag} {value}", remedy=did_you_mean(value, known))
    for flag, number, least in (("trials", trials, 1), ("stages", stages, 1), ("points", points, 1),
                                ("workers", workers, 1)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise UserError(f"must be a whole number of at least {least}", where=f"--{flag} {number}")
    if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
        raise UserError("must be above 0", where=f"--minutes {minutes}")
    if epochs is not None and (not len(epochs) or any(int(e) < 1 for e in epochs)):
        raise UserError("must be whole numbers of at least 1", where=f"--epochs {','.join(map(str, epochs))}")
    if trials is not None and trials < stages:
        raise UserError(f"leave nothing for some of the {stages} stages", where=f"--trials {trials}",
                        remedy=f"Give at least {3 * stages}")
