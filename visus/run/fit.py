"""The training of a classical model: one fit on all images in place of epochs of gradient steps, and the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.classical.fitted import Examples, Fitted
from visus.core.device import environment
from visus.core.errors import RecipeError
from visus.core.jpeg import jpeg_decoder
from visus.core.preprocessing import Preprocessing
from visus.core.record import RunFolder
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.run.build import build_loader, build_model, build_task
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.tasks.classification import Classification, MultiLabel
from visus.train.checkpoint import CheckpointStore, seed_generators
from visus.train.stop import StopRequest
from visus.train.trainer import Position
from visus.train.world import here

BATCH = 256
# Sections of the recipe that say how gradients are followed, and fields that do.
WITHOUT = ("mix", "defend", "distill", "regularise", "optimizer", "schedule", "loss")
WITHOUT_FIELDS = {
    "model": ("weights", "freeze", "init", "norm", "weight_norm"), "data": ("sampling", "repeats"),
    "train": ("epochs", "accumulate", "clip_norm", "clip_adaptive", "ema", "average_from", "snapshots", "sizes",
              "strategy", "sync_batchnorm", "compile", "checkpoint_activations", "profile", "patience",
              "checkpoint_steps")}

CHOSEN = {"loss.name": "cross_entropy"}  # what its probabilities are judged by; `choose` writes it into recipe.yaml


def check_fitted(recipe: Recipe, multi_label: bool) -> None:
    """Raises RecipeError for what a model that is fitted cannot take: it would be ignored."""
    name, plain = recipe.model.name, Recipe()
    given = {section: list(type(getattr(plain, section)).model_fields) for section in WITHOUT}
    for section, names in (given | WITHOUT_FIELDS).items():
        for field in names:
            value = getattr(getattr(recipe, section), field)
            if value not in (getattr(getattr(plain, section), field), CHOSEN.get(f"{section}.{field}")):
                raise RecipeError(f"{name} is fitted to all images at once and follows no gradient: it has no use for "
                                  "this", where=f"{section}.{field}={value}",
                                  remedy="Leave it out; what the method itself can be told is in model.config")
    if recipe.augmentation not in ("auto", ()):
        raise RecipeError(f"{name} sees each image once, as it is", where="augmentation", remedy="Leave it out")
    if multi_label:
        raise RecipeError("takes one label per image", where=f"model.name={name}", remedy="Choose a network")
    if here().size > 1:
        raise RecipeError(f"is fitted by one process, not by {here().size}", where=f"model.name={name}",
                          remedy="Start it without torchrun")


def fit(folder: RunFolder, recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray],
        preprocessing: Preprocessing, device: torch.device, display: Display,
        stop: StopRequest) -> tuple[Recipe, Classification | MultiLabel, CheckpointStore, Position]:
    """Fit the recipe's model; what `finish_run` then needs. The returned recipe's model.config has the shapes that the
    fit found. An interrupted fit begins anew when it is resumed."""
    threads = torch.get_num_threads() if recipe.train.threads == "auto" else int(recipe.train.threads)
    precision = "fp32" if recipe.train.precision == "auto" else recipe.train.precision
    recipe = recipe.with_values({"train.threads": threads, "train.layout": "contiguous", "train.precision": precision})
    torch.set_num_threads(threads)
    recipe.save(folder.path / "recipe.yaml")
    folder.update(recipe=recipe.model_dump(mode="json"), status="running", fitted=True)
    folder.write("environment.json", environment() | {
        "device": str(device), "precision": recipe.train.precision, "layout": recipe.train.layout,
        "jpeg": jpeg_decoder()})
    folder.rewind(0, 0)
    seed_generators(recipe.train.seed)
    model = build_model(recipe, preprocessing, len(samples.classes)).to(device)
    assert isinstance(model, Fitted)
    cache = folder.path / "cache"
    with Bars(display) as bars:
        points = Points(folder)
        model.fit(Examples(
            train=_batches(recipe, samples, splits["train"], preprocessing, device, cache, stop, folder),
            val=_batches(recipe, samples, splits["val"], preprocessing, device, cache, stop, folder),
            count=len(splits["train"]), num_classes=len(samples.classes), seed=recipe.train.seed, device=device,
            names=tuple(samples.classes),
            begin=bars.begin, advance=bars.advance, say=lambda text: display.say("fit", text), log=points.log))
    store = CheckpointStore(folder.path / "checkpoints")
    store.save_best(model.state_dict())
    return (fitted_recipe(recipe, model), build_task(recipe, preprocessing), store,
            Position(epoch=max(1, points.last), best_epoch=max(0, points.last - 1)))


def fitted_recipe(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe with the model's config as it is now, but for what the data say."""
    config: Any = model.config
    own = {field.name: getattr(config, field.name) for field in fields(config)
           if field.name not in ("num_classes", "in_channels", "image_size")}
    return recipe.with_values({"model.config": {name: list(value) if isinstance(value, tuple) else value
                                                for name, value in own.items()}})


class Points:
    """The points of a fit's curve, as epochs of the run's log."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.last = 0

    def log(self, number: int, train_loss: float | None = None, val_loss: float | None = None,
            **metrics: float) -> None:
        """metrics: val_accuracy and the like, on the validation split."""
        self.last = number
        self.folder.log("epoch", epoch=number - 1, step=number, train_loss=train_loss, val_loss=val_loss,
                        metrics={name.removeprefix("val_"): value for name, value in metrics.items()})


class Bars:
    """One progress bar after the other."""

    def __init__(self, display: Display):
        self.display = display
        self.stack = ExitStack()
        self.advance: Callable[[int], None] = lambda count: None

    def __enter__(self) -> Bars:
        self.begin("fit", None)
        return self

    def begin(self, name: str, parts: int | None) -> None:
        self.stack.close()
        self.advance = self.stack.enter_context(self.display.steps(name, parts))

    def __exit__(self, *error: object) -> None:
        self.stack.close()


def _batches(recipe: Recipe, samples: Samples, indices: np.ndarray, preprocessing: Preprocessing,
             device: torch.device, cache: Path, stop: StopRequest,
             folder: RunFolder) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    loader: Loader = build_loader(recipe, samples, indices, preprocessing, training=False, device=device, cache=cache)

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader.epoch(0):
            if stop.requested:
                raise stop.interrupted(True, folder.path)
            yield preprocessing.normalise(batch.images), batch.targets

    return epoch
