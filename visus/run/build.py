"""From a resolved recipe to objects: preprocessing, loaders, model, task, optimizer, schedule, averaging."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.data.class_sampling import Sampling, make_sampling
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.data.sampling import RepeatedSampling
from visus.data.transforms import build_augmentation
from visus.data.transforms.mix import Mixing
from visus.losses.classification import get_loss
from visus.losses.imbalance import class_weights
from visus.optim.build import build_optimizer, wrap_optimizer
from visus.optim.diagonal_lm import DiagonalLM, GaussNewtonDiagonal
from visus.optim.muon import matrix_groups
from visus.optim.schedules import Schedule
from visus.run.beginning import begin, described, wanted_normalisation
from visus.run.defend import make_defence
from visus.run.display import Display
from visus.run.distill import make_distillation
from visus.run.first_rates import check_optimizer
from visus.run.freezing import freeze
from visus.run.models import make_model
from visus.run.pretrained import preprocessing_of
from visus.run.recipe import Recipe
from visus.run.schedule import rate_factor
from visus.run.schedule_groups import make_groups
from visus.run.teacher import Teacher
from visus.tasks.classification import Classification, MultiLabel
from visus.train.contracts import Averager, BatchSource
from visus.train.world import here

STATISTICS_IMAGES = 4096  # enough for a channel mean to three digits


@dataclass
class Parts:
    """What one training run is made of."""

    model: nn.Module
    task: Classification | MultiLabel
    train: BatchSource
    val: Loader
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: Averager | None


def build_preprocessing(recipe: Recipe, samples: Samples, train_indices: np.ndarray) -> Preprocessing:
    """Sizes from the recipe; mean and standard deviation of the training split alone, those that the model's public
    weights were trained with, ImageNet's, or none."""
    data = recipe.data
    size = (data.image_size, data.image_size) if isinstance(data.image_size, int) else data.image_size
    channels = int(data.channels)
    plain = Preprocessing(size=tuple(size), channels=channels, resize=data.resize, crop_fraction=data.crop_fraction,
                          interpolation=data.interpolation, mean=(0.0,) * channels, std=(1.0,) * channels,
                          background=data.background, labels=samples.classes, views=recipe.evaluate.tta)
    if data.normalise == "none":
        return plain
    if data.normalise in ("imagenet", "model"):
        about = preprocessing_of(recipe.model.name, recipe.model.weights) if data.normalise == "model" else {}
        known = Preprocessing(**about) if about else Preprocessing(size=plain.size)
        mean, std = known.mean, known.std
        if len(mean) != channels:  # grey images: the means over the colours, and as many as there are channels
            mean, std = ((round(sum(values) / len(values), 6),) * channels for values in (mean, std))
        return replace(plain, mean=mean, std=std)
    count = min(len(train_indices), STATISTICS_IMAGES)
    chosen = np.sort(train_indices[np.linspace(0, len(train_indices) - 1, count).astype(np.int64)])
    loader = Loader(samples, chosen, plain, batch_size=256, shuffle=False, on_bad_image=data.on_bad_image)
    mean, std = channel_statistics(loader)
    return replace(plain, mean=mean, std=std)


def channel_statistics(loader: Loader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels of one pass, in units of [0, 1]."""
    count, total, squares = 0, 0.0, 0.0
    for batch in loader.epoch(0):
        images = batch.images.double()
        count += images.numel() // images.shape[1]
        total = total + images.sum(dim=(0, 2, 3))
        squares = squares + images.square().sum(dim=(0, 2, 3))
    mean = total / max(1, count)
    std = (squares / max(1, count) - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)  # constant images: no blow-up
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


def build_loader(recipe: Recipe, samples: Samples, indices: np.ndarray, preprocessing: Preprocessing, *,
                 training: bool, device: torch.device, cache: Path | None, shared: bool = False) -> Loader:
    """Training: shuffled or drawn by class, augmented and mixed, and shared out where several processes train.
    Otherwise in order and as they are; shared: then too."""
    augmentation = build_augmentation(list(recipe.augmentation)) if training else None
    return Loader(samples, indices, preprocessing, augmentation=augmentation, mixing=build_mixing(recipe, training),
                  batch_size=recipe.train.batch_size, seed=recipe.train.seed, shuffle=training,
                  workers=recipe.data.workers, on_bad_image=recipe.data.on_bad_image,
                  cache=cache if recipe.data.cache else None, cache_bytes=recipe.data.cache_bytes,
                  pin_memory=device.type == "cuda",
                  sampling=build_sampling(recipe, samples, indices) if training else None,
                  share=here().place if training or shared else (0, 1))


def build_sampling(recipe: Recipe, samples: Samples, indices: np.ndarray) -> Sampling | None:
    """What takes the place of the order of an epoch; None where nothing does. Raises RecipeError for repeats of images
    that are drawn by class, DataError for a batch that the repeats do not divide."""
    if recipe.data.repeats == 1:
        return make_sampling(recipe.data.sampling, samples, indices, recipe.train.seed)
    if recipe.data.sampling != "none":
        raise RecipeError("repeats every image alike, and cannot draw them by class",
                          where=f"data.repeats={recipe.data.repeats}", remedy="Set data.sampling=none, or repeats to 1")
    return RepeatedSampling(len(indices), recipe.train.batch_size, repeats=recipe.data.repeats, seed=recipe.train.seed)


def build_mixing(recipe: Recipe, training: bool) -> Mixing | None:
    """None where nothing is mixed."""
    mix = recipe.mix
    if not training or not mix.probability or not (mix.mixup or mix.cutmix):
        return None
    return Mixing(mixup=mix.mixup, cutmix=mix.cutmix, cutmix_share=mix.cutmix_share, probability=mix.probability)


def build_model(recipe: Recipe, preprocessing: Preprocessing, num_classes: int,
                display: Display | None = None, first: BatchSource | None = None) -> nn.Module:
    """The recipe's model, initialised from train.seed or from a weights file. display: where to say what was changed
    in the weights, and to draw the progress of a download. first: training batches, for model.init=lsuv."""
    torch.manual_seed(recipe.train.seed)
    wanted = wanted_normalisation(recipe)
    height, width = preprocessing.size
    config: dict[str, Any] = dict(recipe.model.config)
    with (display or Display(show=False)).download() as progress:
        model, notes = make_model(recipe.model.name, num_classes=num_classes, in_channels=preprocessing.channels,
                                  image_size=height, weights=recipe.model.weights, origin=recipe.model.origin,
                                  progress=progress, normalisation=asdict(wanted) if wanted.changes else None, **config)
    begun = [*described(wanted), *begin(model, recipe, preprocessing, first)]
    for note in begun if display is not None else ():
        display.say("model", note)
    frozen = freeze(model, recipe.model.freeze)
    notes = [*notes, frozen] if frozen is not None else notes
    for note in notes if display is not None else ():
        display.say("weights", note)
    if height != width and hasattr(model.config, "image_size"):
        raise RecipeError(f"{recipe.model.name} takes square images", where=f"data.image_size={[height, width]}",
                          remedy="Give one number, or choose a convolutional network")
    return model


def build_task(recipe: Recipe, preprocessing: Preprocessing,
               counts: np.ndarray | None = None, teacher: Teacher | None = None) -> Classification | MultiLabel:
    """recipe: resolved. counts: int64 [K], training images per class, for losses that weigh classes; None where the
    loss is not looked at: all classes alike. teacher: for training with recipe.distill. Raises RecipeError for label
    smoothing with a loss that has none."""
    loss = get_loss(recipe.loss.name, label_smoothing=recipe.loss.label_smoothing, options=loss_options(recipe, counts))
    kind = MultiLabel if recipe.task == "multilabel" else Classification
    stands_in = make_distillation(recipe, teacher, preprocessing, loss) or make_defence(recipe, preprocessing, loss)
    return kind(preprocessing=preprocessing, loss_function=loss, defence=stands_in)


def loss_options(recipe: Recipe, counts: np.ndarray | None) -> dict[str, Any]:
    """Arguments of the recipe's loss function beyond label smoothing."""
    settings = recipe.loss
    options: dict[str, Any] = {}
    if settings.name in ("focal", "sigmoid_focal"):
        options["gamma"] = settings.gamma
    if settings.name == "sigmoid_focal":
        options["alpha"] = settings.alpha
    if counts is None:
        return options
    if settings.class_weights != "none":
        options["class_weights"] = class_weights(torch.from_numpy(counts), settings.class_weights, beta=settings.beta)
    if settings.name in ("class_balanced", "logit_adjusted"):
        options["class_counts"] = torch.from_numpy(counts)
        options |= {"beta": settings.beta} if settings.name == "class_balanced" else {"tau": settings.tau}
    return options


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    check_optimizer(recipe)
    groups = make_groups(recipe, model)
    if settings.name.startswith("muon"):
        groups = matrix_groups(groups, model)
    optimizer = build_optimizer(settings.name, groups, lr=settings.lr, momentum=settings.momentum,
                                nesterov=settings.nesterov, betas=settings.betas, eps=settings.eps,
                                history=settings.history)
    if isinstance(optimizer, DiagonalLM):
        optimizer.curvature = GaussNewtonDiagonal(model, [p for g in optimizer.param_groups for p in g["params"]],
                                                  "sigmoid" if recipe.task == "multilabel" else "softmax")
    return wrap_optimizer(optimizer, sam=settings.sam, sam_adaptive=settings.sam_adaptive,
                          lookahead=settings.lookahead, lookahead_alpha=settings.lookahead_alpha)


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Schedule:
    """The recipe's schedule, epochs turned into updates."""
    return Schedule(optimizer, rate_factor(recipe, steps_per_epoch))


def updates_per_epoch(loader: BatchSource, accumulate: int) -> int:
    return max(1, math.ceil(len(loader) / accumulate))
