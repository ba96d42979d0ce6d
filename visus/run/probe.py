"""visus probe: what the features of a frozen network know of some images: a linear and a nearest-neighbour probe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.calibrate.out_of_distribution import features_and_logits, head_name
from visus.core.batch import ClassPredictions
from visus.core.device import pick_device
from visus.core.errors import DataError, UserError, did_you_mean
from visus.core.files import write_json, write_text
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.core.validate import positive
from visus.data.loader import Loader
from visus.data.samples import SPLITS, Samples
from visus.deploy.frozen import frozen
from visus.metrics.evaluate import evaluate_classification
from visus.metrics.probes import (
    STRENGTHS,
    Linear,
    Trial,
    choose_linear,
    choose_neighbours,
    nearest,
    weighted_vote,
)
from visus.models import registry
from visus.run.bundle import load_model, one_training
from visus.run.display import Display, Stopwatch
from visus.run.evaluate import match_labels, own_splits
from visus.run.models import make_model
from visus.run.pretrained import is_origin, preprocessing_of
from visus.run.recipe import Data, Recipe
from visus.run.survey import divide, drop_bad_images, open_named

if TYPE_CHECKING:
    from visus.core.record import Evaluation

NO_WEIGHTS = "none"
Split = tuple[Tensor, Tensor]  # features float32 [N, D], targets int64 [N]


@dataclass(frozen=True)
class Probed:
    """What `probe` gives: everything in plain values, the files written (the page first), the features by split, and
    the linear classifier on them."""

    record: dict[str, Any]
    files: tuple[Path, ...]
    features: dict[str, Split]
    linear: Linear


@dataclass(frozen=True, eq=False)
class _Subject:
    model: nn.Module
    name: str
    weights: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None  # of its own classifier, where that is meant for these images


def probe(path: str | os.PathLike[str], model: str | os.PathLike[str] | None = None, *, weights: str | None = None,
          origin: str = "visus", image_size: int | None = None, images: int | None = None, format: str = "auto",
          split: str | None = None, batch_size: int = 64, device: str = "auto", out: str | Path | None = None,
          progress: bool = False, command: Sequence[str] = ()) -> Probed:
    """Compute the features of a frozen network once, fit two probes on the training split, choose their settings on
    val, and measure them on test.

    path: images, as `visus train` takes them, or a finished run, whose images, splits and model are taken. model: a
    registered name, or a run. weights: of a registered model: a public origin, a file (whose names are `origin`'s), or
    'none' for a network that has learnt nothing. image_size: side in pixels; default: that of the weights. images: at
    most so many of each split, spread over it. split: a split file, or a run whose split is taken. out: the page; its
    record goes beside it as .json; None: no file. Raises UserError for anything that can be put right.
    """
    watch, display, where = Stopwatch(), Display(progress), pick_device(device)
    positive(batch_size=batch_size, **({} if images is None else {"images": images}))
    given = os.fspath(path)
    if (Path(given) / "run.json").is_file():
        folder = one_training(RunFolder.open(given))
        samples, splits = own_splits(folder, Recipe.load(folder.path / "recipe.yaml"))
        subject = _of_run(given) if model is None else None
    else:
        data = Data(path=given, format=format, split=split)
        samples, _ = drop_bad_images(open_named(data), "stop", display)
        splits, subject = divide(samples, data), None
    if samples.targets.ndim > 1:
        raise DataError("has several labels per image; the probes answer with one", where=given)
    subject = subject or _named(model, weights, origin, image_size, len(samples.classes), display)
    if image_size is not None:
        subject = replace(subject, preprocessing=replace(subject.preprocessing, size=(image_size, image_size)))
    if subject.labels is not None and set(subject.labels) == set(samples.classes):
        samples = match_labels(samples, subject.labels, given)
    chosen = {name: _spread(splits[name], images) for name in SPLITS}
    _refuse_empty(chosen, given)
    display.say("probe", f"{subject.name}, {subject.weights}, frozen, at {subject.preprocessing.size[0]} x "
                f"{subject.preprocessing.size[1]} px; " + ", ".join(f"{len(chosen[name]):,} {name}" for name in SPLITS))
    features, logits, layer = _features(subject, samples, chosen, batch_size, where, display)
    fitted, rows, trials = _probes(features, samples.classes, display)
    if subject.labels is not None and set(subject.labels) == set(samples.classes):
        rows.append(_own_row(logits, features, samples.classes))
    record = {"path": given, "model": subject.name, "weights": subject.weights, "layer": layer,
              "dim": features["train"][0].shape[1], "image_size": list(subject.preprocessing.size),
              "counts": {name: len(targets) for name, (_, targets) in features.items()},
              "classes": list(samples.classes), "rows": rows, "trials": trials, "seconds": round(watch.seconds, 1),
              "notes": _notes(fitted, features, chosen, splits), "command": list(command)}
    if out is None:
        return Probed(record, (), features, fitted)
    from visus.report.probe import render_probe

    page = Path(out)
    write_json(page.with_suffix(".json"), record)
    write_text(page, render_probe(record))
    return Probed(record, (page, page.with_suffix(".json")), features, fitted)


def free_page() -> Path:
    """probes/N.html with the first N that is free."""
    number = 1
    while (Path("probes") / f"{number}.html").exists():
        number += 1
    return Path("probes") / f"{number}.html"


# -- the network ---------------------------------------------------------------------------------------------------


def _of_run(run: str) -> _Subject:
    trained = load_model(run)
    if trained.task != "classification":
        raise UserError(f"is a run of the task {trained.task}", where=run, remedy="Give a classifier's run")
    return _Subject(trained.model, trained.name, f"trained in {run}", trained.preprocessing, trained.labels)


def _named(model: str | os.PathLike[str] | None, weights: str | None, origin: str, image_size: int | None,
           num_classes: int, display: Display) -> _Subject:
    if model is None:
        raise UserError("no network to probe", where="model", remedy="Give a registered model with weights, or a run: "
                        "--model resnet50 --weights torchvision")
    name = os.fspath(model)
    if (Path(name) / "run.json").is_file():
        one_training(RunFolder.open(name))
        return _of_run(name)
    about = registry.get(name).about
    if weights is None:
        raise UserError("a network without weights has learnt nothing", where=f"model={name!r}",
                        remedy=f"Give weights: a file, or one of {sorted(registry.get(name).weights)}; or "
                        f"{NO_WEIGHTS!r}, to see what a random network gives")
    source: str | None = None if weights == NO_WEIGHTS else weights
    if source is not None and not is_origin(name, source) and not Path(source).is_file():
        raise UserError("there is no such file, and no public weights of this name", where=f"weights={weights!r}",
                        remedy=did_you_mean(weights, [*sorted(registry.get(name).weights), NO_WEIGHTS]))
    preprocessing = Preprocessing(**(preprocessing_of(name, source) or about["preprocessing"]))
    torch.manual_seed(0)
    with display.download() as advance:
        made, notes = make_model(name, num_classes=num_classes, in_channels=preprocessing.channels,
                                 image_size=image_size or preprocessing.size[0], weights=source, origin=origin,
                                 progress=advance)
    for note in notes:
        if "start fresh" not in note:  # the classifier is not asked
            display.say("weights", note)
    said = "random weights" if source is None else f"weights of {source}"
    return _Subject(made, name, said, preprocessing, None)


@torch.inference_mode()
def _features(subject: _Subject, samples: Samples, chosen: dict[str, np.ndarray], batch_size: int,
              device: torch.device, display: Display) -> tuple[dict[str, Split], dict[str, Tensor], str]:
    """Each image goes through the network once. Returns features by split, logits by split, and the layer's name."""
    preprocessing = subject.preprocessing
    height, width = preprocessing.size
    model = frozen(subject.model.eval(), (1, preprocessing.channels, height, width)).to(device)
    blank = torch.full((1, preprocessing.channels, height, width), 0.5, device=device)
    head = head_name(model, preprocessing.normalise(blank))
    features: dict[str, Split] = {}
    logits: dict[str, Tensor] = {}
    for name, index in chosen.items():
        loader = Loader(samples, index, preprocessing, batch_size=batch_size, shuffle=False)
        targets: list[Tensor] = []
        with display.steps(f"features {name}", len(index)) as advance:
            def batches(loader: Loader = loader, targets: list[Tensor] = targets,
                        advance: Any = advance) -> Iterator[Tensor]:
                for batch in loader.epoch(0):
                    targets.append(batch.targets)
                    yield preprocessing.normalise(batch.to(device).images)
                    advance(len(batch))

            found, logits[name] = features_and_logits(model, batches(), head)
        features[name] = found, torch.cat(targets)
    return features, logits, head


# -- the probes ----------------------------------------------------------------------------------------------------


def _probes(features: dict[str, Split], classes: tuple[str, ...],
            display: Display) -> tuple[Linear, list[dict[str, Any]], dict[str, Any]]:
    train, val, test = (features[name] for name in SPLITS)
    count = len(classes)
    with display.steps("linear", len(STRENGTHS)) as advance:
        linear, tried = choose_linear(train, val, count, advance=advance)
    rows = [_row("linear", f"L2 strength {linear.strength:g}", linear(test[0]), test[1], classes,
                 _best(tried, {"strength": linear.strength}))]
    k, temperature, others = choose_neighbours(train, val, count)
    similarities, index = nearest(test[0], train[0], k)
    rows.append(_row("neighbours", f"k = {k}, temperature {temperature:g}",
                     weighted_vote(similarities, train[1][index], count, temperature), test[1], classes,
                     _best(others, {"k": k, "temperature": temperature})))
    return linear, rows, {"linear": [asdict(t) for t in tried], "neighbours": [asdict(t) for t in others],
                          "chosen": {"strength": linear.strength, "k": k, "temperature": temperature}}


def _best(trials: Sequence[Trial], setting: dict[str, float]) -> float:
    return next(trial.accuracy for trial in trials if trial.setting == setting)


def _row(name: str, setting: str, probs: Tensor, targets: Tensor, classes: tuple[str, ...],
         val_accuracy: float | None) -> dict[str, Any]:
    measured: Evaluation = evaluate_classification(
        ClassPredictions(probs.float(), targets, torch.arange(len(targets))), classes, "test")
    return {"name": name, "setting": setting, "val_accuracy": val_accuracy,
            "metrics": {key: asdict(metric) for key, metric in measured.metrics.items()}}


def _own_row(logits: dict[str, Tensor], features: dict[str, Split], classes: tuple[str, ...]) -> dict[str, Any]:
    right = float((logits["val"].argmax(1) == features["val"][1]).double().mean())
    return _row("own classifier", "as it was trained", logits["test"].softmax(1), features["test"][1], classes,
                right)


def _notes(linear: Linear, features: dict[str, Split], chosen: dict[str, np.ndarray],
           splits: dict[str, np.ndarray]) -> list[str]:
    notes = []
    if linear.strength in (min(STRENGTHS), max(STRENGTHS)):
        notes.append(f"The strength of the linear probe, {linear.strength:g}, is at the end of the range that was "
                     "tried: a better one may lie beyond it")
    for name, index in chosen.items():
        if len(index) < len(splits[name]):
            notes.append(f"{len(index):,} of {len(splits[name]):,} {name} images, spread over the split")
    return notes


def _spread(index: np.ndarray, most: int | None) -> np.ndarray:
    if most is None or len(index) <= most:
        return index
    return index[np.linspace(0, len(index) - 1, most).astype(np.int64)]


def _refuse_empty(chosen: dict[str, np.ndarray], where: str) -> None:
    for name, index in chosen.items():
        if not len(index):
            raise DataError(f"no images are left for the {name} split", where=where,
                            remedy="A probe is fitted on train, chosen on val and measured on test")
