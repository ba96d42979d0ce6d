"""Measuring: the validation of each epoch, the end of a run, and visus evaluate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from visus.core.batch import ClassPredictions
from visus.core.device import autocast, pick_device
from visus.core.errors import DataError, RunError, UserError, did_you_mean
from visus.core.files import atomic
from visus.core.preprocessing import Preprocessing
from visus.core.record import Evaluation, RunFolder
from visus.core.weights import read_state_dict
from visus.data.loader import Loader
from visus.data.opening import open_samples
from visus.data.samples import SPLITS, Samples
from visus.run.baselines import baselines
from visus.run.build import Parts, build_loader, build_model, build_task
from visus.run.bundle import FOLDS, load_model, save_model
from visus.run.display import Display, clock, metrics_table
from visus.run.distill import teacher_row
from visus.run.doctor import check_after
from visus.run.ladder import add_rungs
from visus.run.models import model_config
from visus.run.recipe import Recipe, Train
from visus.run.report import write_report
from visus.run.spread import gathered, stop_agreed
from visus.run.survey import divide, drop_known_bad_images, open_named, samples_digest
from visus.run.templates import draw_templates
from visus.run.thumbnails import examples
from visus.run.trust import Subject, add_trust
from visus.tasks.classification import least_confident_hits, worst_mistakes
from visus.train.checkpoint import BEST, CheckpointStore
from visus.train.stop import StopRequest
from visus.train.trainer import Position
from visus.train.world import here

if TYPE_CHECKING:
    from visus.tasks.classification import Classification, MultiLabel

SHOWN_EXAMPLES = 12


def validation(parts: Parts, device: torch.device, settings: Train,
               stop: StopRequest) -> Callable[[], dict[str, float]]:
    """The trainer's `validate`: mean loss and headline metric on the validation split, each image seen once."""
    task = replace(parts.task, preprocessing=replace(parts.task.preprocessing, views="none"))

    def validate() -> dict[str, float]:
        predictions, loss = predict_split(parts.model, task, parts.val, device, precision=settings.precision,
                                          channels_last=settings.layout == "channels_last", stop=stop)
        return {"loss": loss, task.headline: task.headline_value(predictions)}

    return validate


@torch.inference_mode()
def predict_split(model: nn.Module, task: Classification | MultiLabel, loader: Loader, device: torch.device, *,
                  precision: str = "fp32", channels_last: bool = False, stop: StopRequest | None = None,
                  advance: Callable[[int], Any] = lambda count: None) -> tuple[ClassPredictions, float]:
    """Predictions for all samples of `loader`, in its order, and the mean loss over samples.

    Where several processes share the loader's batches, each gets the predictions of all. Raises StopIteration between
    two batches when a stop was requested.
    """
    model.eval()
    shared = loader.share[1] > 1
    parts: list[ClassPredictions] = []
    loss_sum, samples = 0.0, 0.0
    for batch in loader.epoch(0):
        if stop is not None and (stop_agreed(stop) if shared else stop.requested):
            raise StopIteration
        batch = batch.to(device, non_blocking=True, channels_last=channels_last)
        with autocast(device, precision):
            loss, logits = task.loss(model, batch)
        parts.append(task.predictions(logits.float(), batch))
        loss_sum, samples = loss_sum + float(loss) * batch.weight, samples + batch.weight
        advance(len(batch))
    if not parts:
        raise DataError("no image could be read", remedy="See `visus data show PATH`")
    joined = ClassPredictions(torch.cat([p.probs for p in parts]), torch.cat([p.targets for p in parts]),
                              torch.cat([p.index for p in parts]))
    if shared:
        joined = gathered(joined, loader.indices)
        loss_sum, samples = here().sum([loss_sum, samples])
    return joined, loss_sum / samples


def finish_run(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
               preprocessing: Preprocessing, task: Classification | MultiLabel, store: CheckpointStore,
               position: Position, device: torch.device, display: Display, seconds: float, stop: StopRequest,
               net: nn.Module | None = None) -> None:
    """The best weights become the portable model; both held-out splits are measured; the report is drawn. net: what
    the weights belong to, where it is not what the recipe builds."""
    weights = read_state_dict(store.folder / BEST)
    model = net if net is not None else build_model(recipe.with_values({"model.weights": None}), preprocessing,
                                                    len(samples.classes))
    model.load_state_dict(weights, strict=True)
    model = model.to(device).eval()
    if recipe.train.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    config = model_config(model)
    evaluations: dict[str, Evaluation] = {}
    for split in ("val", "test"):
        loader = build_loader(recipe, samples, splits[split], preprocessing, training=False, device=device,
                              cache=folder.path / "cache", shared=True)
        with display.steps(f"evaluate {split}", len(splits[split])) as advance:
            try:
                # in float32 whatever the training's precision: what evaluate, predict and export compute
                predictions, _ = predict_split(model, task, loader, device, stop=stop, advance=advance,
                                               channels_last=recipe.train.layout == "channels_last")
            except StopIteration:
                raise stop.interrupted(True, folder.path) from None
        if not here().leads:
            continue
        evaluations[split] = _measure(task, predictions, samples, folder, preprocessing, split)
        save_predictions(folder.path / "evaluation" / f"{split}.npz", predictions)
    if not here().leads:  # the rest is the first process's
        return
    with display.steps("evaluate train", None):
        _measure_train(folder, recipe, samples, splits, preprocessing, model, task, device, position, stop)
    with display.steps("baselines", None):
        others = baselines(samples, splits, preprocessing, task, seed=recipe.train.seed)
        others += teacher_row(recipe, samples, splits, preprocessing, task, device)
    more, left_out = add_rungs(recipe, samples, splits, preprocessing, task, display)
    folder.write("metrics.json", {
        "task": recipe.task, "headline": {"name": task.headline, "split": "test",
                                          "higher_is_better": task.higher_is_better},
        "splits": {name: asdict(evaluation) for name, evaluation in evaluations.items()},
        "baselines": [b.to_dict() for b in (*others, *more)], "baselines_left_out": left_out})
    save_model(folder.path / "model", weights, name=recipe.model.name, config=config, task=recipe.task,
               preprocessing=preprocessing, about={
                   "trained_on": samples.recognised, "best_epoch": (position.best_epoch or 0) + 1,
                   "metrics": {n: m.value for n, m in evaluations["test"].metrics.items()}})
    folder.update(status="finished", seconds=round(seconds, 1), epochs=position.epoch, steps=position.step,
                  best_epoch=(position.best_epoch or 0) + 1, stopped_early=position.stopped_early,
                  parameters=sum(p.numel() for p in model.parameters()),
                  model_bytes=(folder.path / "model" / "model.safetensors").stat().st_size, model=recipe.model.name)
    draw_templates(folder, model, (preprocessing.channels, *preprocessing.size), samples.classes)
    if recipe.report.budget_s > 0:
        add_trust(Subject(folder, load_model(folder.path), samples, splits, evaluations["test"], device,
                          time.monotonic() + recipe.report.budget_s, stop), recipe.report.budget_s, display)
    for finding in check_after(folder).findings:
        folder.find(finding)
        display.finding(finding)
    report = write_report(folder)
    test = evaluations["test"]
    display.result(metrics_table(f"\n{recipe.model.name} on {test.count:,} test images", metric_rows(test)))
    for baseline in (*others, *more):
        value = baseline.metrics.get(task.headline)
        if value is not None and value.value is not None:
            display.say("baseline", f"{baseline.name}: {task.headline} {value.value:.4f}")
    display.result(f"\nmodel    {folder.path / 'model'}  ({clock(seconds)} in all)", f"run      {folder.path}",
                   f"report   {report}")


def evaluate(run: str | os.PathLike[str], path: str | Path | None = None, *, split: str = "test", format: str = "auto",
             device: str = "auto", progress: bool = False, on_bad_image: str = "stop") -> Evaluation:
    """Measure a run's model on its own split, or on the labelled images at `path`.

    Class names of `path` are matched with the model's labels by name; all its images are used. Raises UserError when a
    class is unknown to the model.
    """
    folder = RunFolder.open(os.fspath(run))
    trained = load_model(folder.path)
    recipe = Recipe.load(folder.path / "recipe.yaml")
    where = pick_device(device)
    task = build_task(recipe, trained.preprocessing)
    if path is None:
        if folder.about.get("kind") == FOLDS and (split != "test" or not len(own_split(folder, recipe, split)[1])):
            raise RunError(f"a cross-validation has no {split} split of its own that its models have not seen: each "
                           "fold measured what it held out", where=folder.path,
                           remedy=f"See metrics.json there, visus evaluate {folder.path / 'fold-1'}, or give images: "
                           "visus evaluate RUN PATH")
        samples, index = own_split(folder, recipe, split)
    else:
        samples = match_labels(open_samples(path, format), trained.labels, path)
        index = np.arange(len(samples))
    loader = Loader(samples, index, trained.preprocessing, batch_size=recipe.train.batch_size, shuffle=False,
                    on_bad_image=on_bad_image)
    with Display(progress).steps("evaluate", len(index)) as advance:
        predictions, _ = predict_split(trained.model.to(where), task, loader, where, advance=advance)
    return task.evaluate(predictions, trained.labels, split if path is None else "given")


def metric_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    rows = []
    for name, metric in evaluation.metrics.items():
        if metric.value is not None:
            interval = "" if metric.low is None else f"{metric.low:.4f} to {metric.high:.4f}"
            rows.append((name, f"{metric.value:.4f}", interval))
    return rows


def match_labels(samples: Samples, labels: tuple[str, ...], path: str | Path) -> Samples:
    """The samples with targets in the model's order of labels. Raises DataError for a class that it does not know."""
    position = {label: i for i, label in enumerate(labels)}
    if not position.keys() & set(samples.classes) and all(name.isdecimal() and int(name) < len(labels)
                                                          for name in samples.classes):
        position = {str(i): i for i in range(len(labels))}  # numbers where the model was given names
    unknown = [name for name in samples.classes if name not in position]
    if unknown:
        raise DataError(f"the model does not know the class {unknown[0]!r}"
                        + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""), where=path,
                        remedy=did_you_mean(unknown[0], labels))
    return samples.relabelled([position[name] for name in samples.classes], tuple(labels))


def own_splits(folder: RunFolder, recipe: Recipe,
               kept_columns: tuple[str, ...] = ()) -> tuple[Samples, dict[str, np.ndarray]]:
    """The run's samples and its splits, as in training. kept_columns: of a table. Raises RunError where the images are
    not those any more."""
    samples = open_named(recipe.data, kept_columns)
    samples = drop_known_bad_images(samples, folder)
    splits = divide(samples, recipe.data)
    if folder.read("data.json", {}).get("digest") != samples_digest(samples, splits):
        raise RunError("the images have changed since the run was trained, so its split is not known any more",
                       where=recipe.data.path, remedy="Give the images to measure on: visus evaluate RUN PATH")
    return samples, splits


def own_split(folder: RunFolder, recipe: Recipe, split: str) -> tuple[Samples, np.ndarray]:
    """The run's samples, and the positions of those in `split`. Raises as `own_splits`, and for an unknown split."""
    if split not in SPLITS:
        raise UserError("there is no such split", where=f"split={split!r}", remedy=did_you_mean(split, SPLITS))
    samples, splits = own_splits(folder, recipe)
    return samples, splits[split]


def _measure(task: Classification | MultiLabel, predictions: ClassPredictions, samples: Samples, folder: RunFolder,
             preprocessing: Preprocessing, split: str) -> Evaluation:
    evaluation = task.evaluate(predictions, samples.classes, split)
    if split != "test":
        return evaluation
    mistakes = examples(worst_mistakes(predictions, SHOWN_EXAMPLES), predictions, samples, preprocessing, folder,
                        "mistake")
    hits = examples(least_confident_hits(predictions, SHOWN_EXAMPLES), predictions, samples, preprocessing, folder,
                    "hit")
    return replace(evaluation, mistakes=mistakes, hits=hits)


def _measure_train(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
                   preprocessing: Preprocessing, model: nn.Module, task: Classification | MultiLabel,
                   device: torch.device, position: Position, stop: StopRequest) -> None:
    """The kept weights on as many training images as validation has, measured in the same way: the gap between the two
    is overfitting, and not augmentation or dropout."""
    train = splits["train"]
    chosen = np.sort(train[np.linspace(0, len(train) - 1, min(len(train), len(splits["val"]))).astype(np.int64)])
    loader = build_loader(recipe, samples, chosen, preprocessing, training=False, device=device, cache=None)
    try:
        predictions, loss = predict_split(model, task, loader, device, precision=recipe.train.precision,
                                          channels_last=recipe.train.layout == "channels_last", stop=stop)
    except StopIteration:
        raise stop.interrupted(True, folder.path) from None
    folder.log("train_measured", epoch=position.best_epoch or 0, clean_train_loss=loss,
               **{f"clean_train_{task.headline}": task.headline_value(predictions)})


def save_predictions(path: Path, predictions: ClassPredictions) -> None:
    """probs, targets and index as an .npz, in one step."""
    with atomic(path) as file:
        np.savez_compressed(file, probs=predictions.probs.cpu().numpy(), targets=predictions.targets.cpu().numpy(),
                            index=predictions.index.cpu().numpy())
