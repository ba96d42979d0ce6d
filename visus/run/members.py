"""Who is in an ensemble: several runs, the best of them, or several states of one run; and who cannot be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visus.core.errors import CheckpointError, RunError, UserError
from visus.core.record import RunFolder
from visus.core.weights import read_state_dict
from visus.optim.ema import EMA
from visus.run.bundle import ENSEMBLE, TrainedModel, load_model, one_model
from visus.run.calibrate import other_test_images
from visus.run.models import create_model
from visus.train.checkpoint import CheckpointStore

if TYPE_CHECKING:
    from torch import Tensor

PIXELS = ("size", "channels", "resize", "crop_fraction", "interpolation", "background")  # what members must share
LEAST = 2


@dataclass(frozen=True, eq=False)
class Member:
    """name: short, for tables. folder: the run that it comes from. trained: its model, in eval mode on the CPU."""

    name: str
    folder: RunFolder
    trained: TrainedModel


def open_runs(runs: Sequence[str | os.PathLike[str]]) -> list[RunFolder]:
    """The folders of finished trainings on the same images. Raises UserError for a run that is given twice, RunError
    for one that has no model or no predictions, was trained or tested on other images, or is itself an ensemble."""
    if not runs:
        raise UserError("no runs given", where="RUN", remedy="Give run folders, such as runs/digits-1 runs/digits-2")
    folders = [one_model(RunFolder.open(os.fspath(run))) for run in runs]
    paths = [folder.path.resolve() for folder in folders]
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None:
        raise UserError("is given twice", where=twice, remedy="Give each run once")
    task = folders[0].about.get("task")
    for folder in folders:
        if folder.about.get("kind") == ENSEMBLE and not (folder.path / "model" / "model.safetensors").is_file():
            raise RunError("is an ensemble itself", where=folder.path, remedy="Give the runs that it was made of")
        if folder.about.get("task") != task:
            raise RunError(f"has the task {folder.about.get('task')}, {folders[0].path} has {task}", where=folder.path,
                           remedy="Put runs of one task together")
        problem = other_test_images(folders[0], folder)
        if problem is not None:
            raise RunError(problem, where=folder.path, remedy="Put runs on the same images with the same split "
                           f"together: visus train PATH --split {folders[0].path}")
    return folders


def best_by_validation(folders: Sequence[RunFolder], count: int) -> tuple[list[RunFolder], list[float]]:
    """The `count` runs with the best headline metric on the validation split, best first (the given order decides
    between equals), and its values. The test split is not looked at. Raises RunError where a run has none."""
    if not 1 <= count <= len(folders):
        raise UserError(f"is not between 1 and {len(folders)}, the number of runs", where=f"top={count}",
                        remedy="Give more runs or a smaller number")
    values = []
    for folder in folders:
        metrics = folder.read("metrics.json", {})
        headline = metrics.get("headline", {})
        value = metrics.get("splits", {}).get("val", {}).get("metrics", {}).get(headline.get("name"), {}).get("value")
        if value is None:
            raise RunError("has no value of its headline metric on the validation split", where=folder.path,
                           remedy="Leave the run out")
        values.append(value if headline.get("higher_is_better", True) else -value)
    order = sorted(range(len(folders)), key=lambda i: -values[i])[:count]
    return [folders[i] for i in order], [abs(values[i]) for i in order]


def of_runs(folders: Sequence[RunFolder]) -> list[Member]:
    """The finished model of each run."""
    names = _names(folders)
    return [Member(name, folder, load_model(folder.path)) for name, folder in zip(names, folders, strict=True)]


def of_snapshots(folder: RunFolder) -> list[Member]:
    """The snapshots that train.snapshots kept, oldest first. Raises RunError where there are none."""
    paths = CheckpointStore(folder.path / "checkpoints").snapshots()
    if not paths:
        raise RunError("keeps no snapshots", where=folder.path / "checkpoints",
                       remedy="Train with --set train.snapshots=5, or take --checkpoints")
    last = load_model(folder.path)
    return [Member(f"epoch {int(path.stem.rpartition('-')[2]) + 1}", folder,
                   with_weights(last, read_state_dict(path), path)) for path in paths]


def of_checkpoints(folder: RunFolder) -> list[Member]:
    """The best weights of a run and those of each resumable state that it still holds, averaged ones with train.ema;
    states with equal weights count once. Raises RunError where that leaves one."""
    store = CheckpointStore(folder.path / "checkpoints")
    best = load_model(folder.path)
    members = [Member("best", folder, best)]
    for step in store.steps():
        trained = _of_state(best, store.state_at(step), folder.path)
        if not any(_equal(trained, other.trained) for other in members):
            members.append(Member(f"step {step}", folder, trained))
    if len(members) < LEAST:
        raise RunError("holds the same weights in all of its checkpoints", where=folder.path / "checkpoints",
                       remedy="Train with --set train.snapshots=5 and take --snapshots")
    return members


def with_weights(trained: TrainedModel, weights: Mapping[str, Tensor], where: object) -> TrainedModel:
    """The same model with other weights. Raises CheckpointError for weights of another model."""
    config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v
                              for k, v in trained.about["config"].items()}
    with torch.random.fork_rng(devices=[]):
        model = create_model(trained.name, **config)
    try:
        model.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"does not fit the model {trained.name}: {error}", where=where) from None
    return replace(trained, model=model.eval())


def refuse_misfits(members: Sequence[Member], soup: bool) -> None:
    """Raises RunError for members that must see images of another size, or with other colours, than the first; and
    for a soup for ones of another architecture or normalisation, whose weights have no mean."""
    first = members[0]
    for member in members[1:]:
        ours, theirs = first.trained.preprocessing, member.trained.preprocessing
        if ours.labels != theirs.labels or first.trained.task != member.trained.task:
            raise RunError("was trained on other classes", where=member.folder.path)
        for field in (*PIXELS, *(("mean", "std", "views") if soup else ())):
            if getattr(ours, field) != getattr(theirs, field):
                raise RunError(f"sees images with {field} {_plain(getattr(theirs, field))}, {first.name} with "
                               f"{_plain(getattr(ours, field))}", where=member.folder.path,
                               remedy="Train it with the same preprocessing: --image-size, --set data.resize and the "
                               "like" + (", data.normalise, evaluate.tta" if soup else ""))
        if soup and (first.trained.name, first.trained.about["config"]) != (member.trained.name,
                                                                            member.trained.about["config"]):
            raise RunError(f"is a {member.trained.name}, {first.name} a {first.trained.name}"
                           if first.trained.name != member.trained.name else
                           f"is a {member.trained.name} of another config than {first.name}", where=member.folder.path,
                           remedy="A soup averages weights of one architecture; average answers instead: leave --soup "
                           "out")


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Names of folders, with those of their parents where they repeat."""
    parts = [folder.path.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _of_state(best: TrainedModel, state: Mapping[str, Any], where: Path) -> TrainedModel:
    trained = with_weights(best, state["model"], where)
    if "flat" in (state.get("ema") or {}) and "seen" not in state["ema"]:  # of train.ema, with its own statistics
        average = EMA(trained.model)
        average.load_state_dict(state["ema"])
        average.copy_to(trained.model)
    return trained


def _equal(one: TrainedModel, other: TrainedModel) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.model.state_dict().items())


def _plain(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
