"""visus ensemble: several trained models answer as one, or become one; what that brings, and a run folder of its own.

The members' weights are copied into the folder: it can be moved, shared and served, and a member that is trained anew
or removed changes nothing in it. A soup is an ordinary model.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.batch import ClassPredictions
from visus.core.device import environment, pick_device
from visus.core.errors import UserError
from visus.core.files import finite, write_json
from visus.core.record import Finding, RunFolder
from visus.core.validate import one_of
from visus.run.averaged import OF, unnormalised
from visus.run.build import build_loader, build_task
from visus.run.bundle import ENSEMBLE, MODEL_FORMAT, TrainedModel, load_model, save_model
from visus.run.display import Display, Stopwatch, clock, metrics_table
from visus.run.evaluate import metric_rows, own_splits, predict_split, save_predictions
from visus.run.gain import doubts, gain, together
from visus.run.joined import evaluated
from visus.run.load import Run
from visus.run.members import (
    LEAST,
    Member,
    best_by_validation,
    of_checkpoints,
    of_runs,
    of_snapshots,
    open_runs,
    refuse_misfits,
)
from visus.run.recipe import Recipe
from visus.run.report import write_report
from visus.run.soup import SOUPS, Tasted, cook, greedy
from visus.run.trust import Subject, add_trust

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from visus.data.loader import Loader
    from visus.data.samples import Samples
    from visus.tasks.classification import Classification, MultiLabel

BN_IMAGES = 8192  # training images that the batch norms of a soup are measured on
COPIED = ("data.json", "recipe.yaml", "splits.csv")


def ensemble(runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], *, top: int | None = None,
             snapshots: bool = False, checkpoints: bool = False, soup: str | None = None, of: str = "probs",
             out: str | Path | None = None, report_budget_s: float | None = None, device: str = "auto",
             progress: bool = False, command: Sequence[str] = ()) -> Run:
    """Make one model of several, measure what that brings on the test split, and return its run.

    runs: finished runs on the same images and split. top: only so many of them, the best by the headline metric on the
    validation split. snapshots, checkpoints: of one run, what train.snapshots kept, or its best and its resumable
    weights. of: what is averaged: probs, logits or votes. soup: average the weights instead: uniform (all) or greedy
    (each that is no loss on the validation split, the best first). out: folder to create (default: runs/ensemble-N).
    report_budget_s: seconds for explanations, attacks and the like in the report (default: as the first run had it).
    Raises UserError for a wrong option, RunError for runs that do not fit together; nothing is written then.
    """
    one_of(OF, of=of)
    if soup is not None:
        one_of(SOUPS, soup=soup)
        if of != "probs":
            raise UserError("averages weights, not answers", where=f"soup={soup}, of={of}", remedy="Leave of out")
    watch, display = Stopwatch(), Display(progress)
    given = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    members, how = _members(given, top, snapshots, checkpoints, soup)
    display.say("members", how)
    refuse_misfits(members, soup is not None)
    first = members[0].folder
    recipe = Recipe.load(first.path / "recipe.yaml")
    samples, splits = own_splits(first, recipe)
    where = pick_device(device)
    if out is None:
        out = _next_folder()
    folder = RunFolder.create(out, name=Path(out).name, task=members[0].trained.task, kind=ENSEMBLE,
                              model=_model_name(members, soup), started_with=list(command),
                              command=_command(given, top, snapshots, checkpoints, soup, of))
    folder.lock()
    try:
        assembly = _Assembly(folder, recipe, samples, splits, where, display)
        assembly.make(members, of, soup, how)
        folder.update(status="finished", seconds=round(watch.seconds, 1))
        _finish(assembly, recipe.report.budget_s if report_budget_s is None else report_budget_s, watch)
    except BaseException:
        folder.update(status="failed")
        raise
    finally:
        folder.unlock()
    return Run(folder)


def _members(runs: Sequence[str | os.PathLike[str]], top: int | None, snapshots: bool, checkpoints: bool,
             soup: str | None) -> tuple[list[Member], str]:
    """The members, and in a sentence where they come from."""
    folders = open_runs(runs)
    if snapshots or checkpoints:
        name = "--snapshots" if snapshots else "--checkpoints"
        if snapshots and checkpoints or top is not None:
            raise UserError("says where the members come from, and so does "
                            + ("--checkpoints" if checkpoints and snapshots else f"--top {top}"), where=name,
                            remedy="Give one of them")
        if len(folders) > 1:
            raise UserError(f"takes the states of one run, {len(folders)} are given", where=name,
                            remedy="Give one run, or leave it out to put the runs together")
        members = of_snapshots(folders[0]) if snapshots else of_checkpoints(folders[0])
        return members, f"{len(members)} {'snapshots' if snapshots else 'checkpoints'} of {folders[0].path}"
    if top is not None:
        chosen, values = best_by_validation(folders, top)
        how = f"the best {top} of {len(folders)} runs on the validation split: " + ", ".join(
            f"{folder.path.name} ({value:.4f})" for folder, value in zip(chosen, values, strict=True))
        folders = chosen
    else:
        how = f"{len(folders)} runs: " + ", ".join(folder.path.name for folder in folders)
    if len(folders) < LEAST and soup is None:
        raise UserError("one model alone is no ensemble", where=str(folders[0].path),
                        remedy="Give more runs, or --snapshots or --checkpoints of one")
    return of_runs(folders), how


class _Assembly:
    """Where members are measured and put together: the images, the device, the folder of the result."""

    def __init__(self, folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
                 device: torch.device, display: Display):
        self.folder, self.recipe, self.samples, self.splits = folder, recipe, samples, splits
        self.device, self.display = device, display

    def make(self, members: Sequence[Member], of: str, soup: str | None, how: str) -> None:
        several = members[0].trained.task == "multilabel"
        on = {split: self._each(members, split) for split in ("val", "test")}
        task = build_task(self.recipe, unnormalised(members[0].trained.preprocessing))
        values = [task.headline_value(one) for one in on["val"]]
        best = int(np.nanargmax(values) if task.higher_is_better else np.nanargmin(values))
        tasted: list[Tasted] = []
        used = list(range(len(members)))
        if soup is None:
            joined = {split: together(found, of, several) for split, found in on.items()}
            self._save_members(members, of)
        else:
            self._warn_of_strangers(members)
            model, used, tasted, norms = self._soup(members, soup, values, task)
            joined = {split: self._predict(model, split) for split in on}
            self._save_soup(model, members, used)
            self.display.say("soup", f"{len(used)} of {len(members)} models went into it"
                             + (f"; {norms} batch norms were measured anew" if norms else ""))
        evaluations = [task.evaluate(one, members[0].trained.labels, "test") for one in on["test"]]
        whole = {split: evaluated(task, joined[split], self.samples, self.folder, members[0].trained.labels, split)
                 for split in ("val", "test")}  # the pictures are those of the last
        whole["val"] = replace(whole["val"], mistakes=[], hits=[])
        for split, found in joined.items():
            save_predictions(self.folder.path / "evaluation" / f"{split}.npz", found)
        record = gain(on["test"], evaluations, joined["test"], whole["test"], best, task, members[0].trained.task,
                      "soup" if soup is not None else of)
        record |= {"kind": "ensemble" if soup is None else "soup", "of": of, "soup": soup, "how": how,
                   "tasted": [asdict(one) for one in tasted],
                   "members": [{"name": member.name, "source": str(member.folder.path), "model": member.trained.name,
                                "val": values[k], "used": k in used,
                                "metrics": {name: asdict(metric) for name, metric in evaluation.metrics.items()}}
                               for k, (member, evaluation) in enumerate(zip(members, evaluations, strict=True))]}
        self._write(members, whole, record, task)

    def _write(self, members: Sequence[Member], whole: dict[str, Any], record: dict[str, Any],
               task: Classification | MultiLabel) -> None:
        first = members[0].folder
        for name in COPIED:
            if (first.path / name).is_file():
                shutil.copyfile(first.path / name, self.folder.path / name)
        self.folder.write("environment.json", environment() | {"device": str(self.device)})
        self.folder.write("metrics.json", {
            "task": members[0].trained.task,
            "headline": {"name": task.headline, "split": "test", "higher_is_better": task.higher_is_better},
            "splits": {name: asdict(whole[name]) for name in ("val", "test")},
            "baselines": first.read("metrics.json", {}).get("baselines", []), "ensemble": record})
        counted = [sum(p.numel() for p in member.trained.model.parameters()) for member in members]
        weights = list((self.folder.path / "model").rglob("model.safetensors"))
        self.folder.update(parameters=sum(counted) if record["soup"] is None else counted[0],
                           model_bytes=sum(path.stat().st_size for path in weights))
        for finding in doubts(record, task.headline):
            self.folder.find(finding)
            self.display.finding(finding)

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _each(self, members: Sequence[Member], split: str) -> list[ClassPredictions]:
        with self.display.steps(split, len(members) * len(self.splits[split])) as advance:
            return [self._predict(member.trained, split, advance) for member in members]

    def _predict(self, trained: TrainedModel, split: str, advance: Any = lambda count: None) -> ClassPredictions:
        loader = self._loader(trained, self.splits[split], training=False)
        found, _ = predict_split(trained.model.to(self.device), build_task(self.recipe, trained.preprocessing), loader,
                                 self.device, advance=advance)
        trained.model.cpu()
        return found

    def _loader(self, trained: TrainedModel, index: np.ndarray, training: bool) -> Loader:
        here = self.recipe.with_values({"data.workers": 0})
        return build_loader(here, self.samples, index, trained.preprocessing, training=training, device=self.device,
                            cache=None)

    # -- soups ---------------------------------------------------------------------------------------------------------

    def _soup(self, members: Sequence[Member], kind: str, values: Sequence[float], task: Classification | MultiLabel
              ) -> tuple[TrainedModel, list[int], list[Tasted], int]:
        """The model, the ingredients that went into it, how each was judged, and how many batch norms were measured."""
        states = [member.trained.model.state_dict() for member in members]
        first = members[0].trained
        pot = load_model(members[0].folder.path).model.to(self.device)

        def serve(ingredients: Sequence[int]) -> tuple[TrainedModel, int]:
            norms = cook(pot, [states[k] for k in ingredients], lambda: self._training_images(first))
            return replace(first, model=pot.eval()), norms

        if kind == "uniform":
            everyone = list(range(len(members)))
            model, norms = serve(everyone)
            return model, everyone, [], norms

        def value_of(ingredients: Sequence[int]) -> float:
            trained, _ = serve(ingredients)
            advance()
            return task.headline_value(self._predict(trained, "val"))

        ahead = sorted(range(len(members)), key=lambda k: -values[k] if task.higher_is_better else values[k])
        with self.display.steps("soup", len(members) - 1) as advance:
            chosen, tasted = greedy(ahead, values[ahead[0]], value_of, task.higher_is_better)
        model, norms = serve(chosen)
        return model, chosen, tasted, norms

    def _training_images(self, trained: TrainedModel) -> Iterator[Tensor]:
        """Normalised batches, as the first epoch of the training has them, on the device."""
        loader = self._loader(trained, self.splits["train"], training=True)
        for batch in islice(loader.epoch(0), max(1, BN_IMAGES // int(self.recipe.train.batch_size))):
            yield trained.preprocessing.normalise(batch.images.to(self.device))

    def _warn_of_strangers(self, members: Sequence[Member]) -> None:
        """Weights that never were the same have no useful mean."""
        starts = {(str(member.folder.path.resolve()), None) if weights is None else (None, weights)
                  for member in members
                  for weights in [Recipe.load(member.folder.path / "recipe.yaml").model.weights]}
        if len(starts) > 1:
            finding = Finding(
                "soup", "warning", "These models did not start from the same weights", "Of the members' recipes, "
                f"model.weights gives {len(starts)} different starts",
                "Soups are for models that were fine-tuned from one checkpoint, or for snapshots of one run; average "
                "the answers of others: leave --soup out")
            self.folder.find(finding)
            self.display.finding(finding)

    # -- models --------------------------------------------------------------------------------------------------------

    def _save_members(self, members: Sequence[Member], of: str) -> None:
        """Each member as a model of its own, in model/member-K; then the description that joins them."""
        names = [f"member-{k}" for k in range(1, len(members) + 1)]
        for name, member in zip(names, members, strict=True):
            self._save(self.folder.path / "model" / name, member.trained, {"source": str(member.folder.path)})
        first = members[0].trained
        write_json(self.folder.path / "model" / "model.json", {
            "format": MODEL_FORMAT, "name": _model_name(members, None), "config": {}, "task": first.task, "of": of,
            "preprocessing": unnormalised(first.preprocessing).to_dict(), "members": names,
            "trained_on": first.about.get("trained_on")})

    def _save_soup(self, model: TrainedModel, members: Sequence[Member], used: Sequence[int]) -> None:
        self._save(self.folder.path / "model", model, {
            "trained_on": model.about.get("trained_on"), "soup": [str(members[k].folder.path) for k in used]})

    def _save(self, path: Path, trained: TrainedModel, about: dict[str, Any]) -> None:
        weights = {name: tensor.cpu() for name, tensor in trained.model.state_dict().items()}
        save_model(path, weights, name=trained.name, config=dict(finite(trained.about["config"])), task=trained.task,
                   preprocessing=trained.preprocessing, about=about)


def _finish(assembly: _Assembly, budget_s: float, watch: Stopwatch) -> None:
    from visus.report.contents import read_contents

    folder, display = assembly.folder, assembly.display
    evaluations = read_contents(folder).evaluations
    if budget_s > 0:
        add_trust(Subject(folder, load_model(folder.path), assembly.samples, assembly.splits, evaluations["test"],
                          assembly.device, time.monotonic() + budget_s), budget_s, display)
    report = write_report(folder)
    if not display.show:
        return
    record, test = folder.read("metrics.json")["ensemble"], evaluations["test"]
    display.result(metrics_table(f"\n{folder.about['model']} on {test.count:,} test images", metric_rows(test)))
    for row in record["over_best"]:
        display.say("gain", f"{row['metric']} {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}) over "
                    f"{record['members'][record['best']]['name']}, the best member on val; corrected p "
                    f"{row['adjusted']:.4f}")
    if "disagreement" in record:
        display.say("members", f"pairs of them differ on {record['disagreement']:.1%} of the test images")
    display.result(f"\nmodel    {folder.path / 'model'}  ({clock(watch.seconds)} in all)", f"run      {folder.path}",
                   f"report   {report}")


def _model_name(members: Sequence[Member], soup: str | None) -> str:
    """'resnet20 x 3', 'mlp x 2 + resnet20', 'soup of resnet20 x 3'."""
    names = [member.trained.name for member in members]
    parts = [name if names.count(name) == 1 else f"{name} x {names.count(name)}" for name in dict.fromkeys(names)]
    return ("soup of " if soup is not None else "") + " + ".join(parts)


def _command(runs: Sequence[str | os.PathLike[str]], top: int | None, snapshots: bool, checkpoints: bool,
             soup: str | None, of: str) -> list[str]:
    return ["visus", "ensemble", *(os.fspath(run) for run in runs), *([] if top is None else ["--top", str(top)]),
            *(["--snapshots"] if snapshots else []), *(["--checkpoints"] if checkpoints else []),
            *([] if soup is None else ["--soup", soup]), *([] if of == "probs" else ["--of", of])]


def _next_folder() -> Path:
    number = 1
    while (Path("runs") / f"ensemble-{number}").exists():
        number += 1
    return Path("runs") / f"ensemble-{number}"
