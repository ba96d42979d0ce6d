"""Training on: a net that was changed after its training learns again, on the run's own images and splits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from visus.core.device import pick_device
from visus.core.errors import RunError
from visus.core.preprocessing import Preprocessing
from visus.core.record import Finding, RunFolder
from visus.core.weights import read_state_dict
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.run.build import build_loader, build_task, make_optimizer, make_schedule, updates_per_epoch
from visus.run.bundle import TrainedModel, load_model, one_training
from visus.run.display import Display, TrainingDisplay
from visus.run.evaluate import own_splits, predict_split
from visus.run.observers import LogWriter
from visus.run.recipe import Recipe
from visus.run.registered import is_fitted
from visus.run.regularise import make_regulariser
from visus.run.teacher import load_teacher
from visus.tasks.classification import Classification, MultiLabel
from visus.train.checkpoint import BEST, CheckpointStore, seed_generators
from visus.train.contracts import Regulariser
from visus.train.stop import StopRequest
from visus.train.trainer import EpochReport, Observer, Position, Settings, StepReport, Trainer

RATE = 0.1  # of the first training's learning rate: Han et al. 2015, section 3.2, a tenth to a hundredth
# What belongs to a training from the beginning, and means nothing for one that goes on.
RESET = {"train.ema": None, "train.average_from": None, "train.snapshots": None, "train.sizes": (),
         "train.patience": None, "train.compile": False, "train.profile": False, "train.strategy": "ddp",
         "schedule.name": "cosine", "schedule.cycles": 1, "schedule.warmup_epochs": 0.0, "model.init": "auto",
         "model.freeze": "none", "regularise.dropconnect": 0.0, "report.ladder_s": 0.0}


@dataclass(frozen=True)
class Source:
    """A finished run to go on from. recipe: as it was trained."""

    folder: RunFolder
    trained: TrainedModel
    recipe: Recipe
    samples: Samples
    splits: dict[str, np.ndarray]
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        return self.trained.preprocessing

    @property
    def images_shape(self) -> tuple[int, ...]:
        """(1, C, H, W) that the model takes."""
        return (1, self.preprocessing.channels, *self.preprocessing.size)

    def task(self, recipe: Recipe) -> Classification | MultiLabel:
        counts = self.samples.class_counts(self.splits["train"])
        return build_task(recipe, self.preprocessing, counts, load_teacher(recipe, self.preprocessing))

    def loader(self, recipe: Recipe, split: str, training: bool) -> Loader:
        return build_loader(recipe, self.samples, self.splits[split], self.preprocessing, training=training,
                            device=self.device, cache=None)


def open_source(run: str | Path, device: str) -> Source:
    """Raises RunError for a folder that is no finished training of a network, or whose images have changed."""
    folder = one_training(RunFolder.open(run))
    trained = load_model(folder.path)
    if is_fitted(trained.name):
        raise RunError("is fitted to all images at once and follows no gradient: it cannot learn on", where=folder.path,
                       remedy="Compress a network's run")
    recipe = Recipe.load(folder.path / "recipe.yaml")
    samples, splits = own_splits(folder, recipe)
    return Source(folder, trained, recipe, samples, splits, pick_device(device))


def retraining_recipe(recipe: Recipe, epochs: int, values: dict[str, object], rate: float = RATE) -> Recipe:
    """The first training's recipe for so many epochs more, at the share `rate` of its learning rate, without what only
    a beginning needs. values: fields to change after that."""
    own = RESET | {"train.epochs": epochs, "optimizer.lr": float(recipe.optimizer.lr) * rate}
    return recipe.with_values(own).with_values(values)


class Shifted:
    """An observer that counts on from what was trained before."""

    def __init__(self, observer: Observer, epochs: int, steps: int):
        self.observer, self.epochs, self.steps = observer, epochs, steps

    def on_step(self, report: StepReport) -> None:
        self.observer.on_step(replace(report, epoch=report.epoch + self.epochs, step=report.step + self.steps))

    def on_epoch(self, report: EpochReport) -> None:
        self.observer.on_epoch(replace(report, epoch=report.epoch + self.epochs, step=report.step + self.steps))


def train_on(net: nn.Module, source: Source, recipe: Recipe, folder: RunFolder, display: Display, stop: StopRequest,
             before: Position, constraint: Regulariser | None = None) -> Position:
    """Train the net, in place, for the recipe's epochs; it ends with the weights that were best on the validation
    split, those that it came with included. before: where the log goes on. constraint: takes the place of the recipe's
    regulariser. Returns the position in all."""
    device, settings = source.device, recipe.train
    task = source.task(recipe)
    train, val = source.loader(recipe, "train", True), source.loader(recipe, "val", False)
    torch.set_num_threads(int(settings.threads))
    net.to(device)
    if settings.layout == "channels_last":
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe, net)
    steps = updates_per_epoch(train, settings.accumulate)
    place = folder.path / "checkpoints" / f"from-{before.step}"
    store = CheckpointStore(place)
    channels_last = settings.layout == "channels_last"
    plain = replace(task, preprocessing=replace(task.preprocessing, views="none"))

    def validate() -> dict[str, float]:
        found, loss = predict_split(net, plain, val, device, precision=settings.precision, channels_last=channels_last,
                                    stop=stop)
        return {"loss": loss, task.headline: task.headline_value(found)}

    def find(finding: Finding) -> None:
        folder.find(finding)
        display.finding(finding)

    shown = TrainingDisplay(display, int(settings.epochs), steps, task.headline)
    observers: Sequence[Observer] = [Shifted(LogWriter(folder), before.epoch, before.step), shown]
    seed_generators(settings.seed)
    trainer = Trainer(net, task, train, optimizer, make_schedule(recipe, optimizer, steps),
                      Settings(epochs=int(settings.epochs), accumulate=settings.accumulate,
                               clip_norm=settings.clip_norm, clip_adaptive=settings.clip_adaptive,
                               precision=settings.precision, channels_last=channels_last,
                               checkpoint_seconds=settings.checkpoint_seconds,
                               log_steps=max(1, int(settings.epochs) * steps // 1000)),
                      device=device, store=store, validate=validate, find=find, observers=observers, stop=stop,
                      regulariser=constraint if constraint is not None else make_regulariser(recipe))
    begun, weights = validate()[task.headline], {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with shown:
        position = trainer.run()
    best = position.best
    if best is None or (best > begun if task.higher_is_better else best < begun):
        weights = read_state_dict(store.folder / BEST)
    elif best != begun:
        display.say("retrain", f"{task.headline} on val was {begun:.4f} before it learnt on, and {best:.4f} after: it "
                    "keeps the weights that it had")
    net.load_state_dict(weights, strict=True)
    net.eval()
    shutil.rmtree(place)
    return replace(position, epoch=before.epoch + position.epoch, step=before.step + position.step,
                   best_epoch=before.epoch + (position.best_epoch or 0))
