"""From `auto` to values: which model and recipe for these images on this machine, and why."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from visus.core.errors import RecipeError
from visus.optim.lr_scaling import scaled_lr
from visus.run.defend import STEPS, choose_defence
from visus.run.distill import choose_distillation
from visus.run.first_rates import check_optimizer, first_batch, first_decay, first_rate
from visus.run.fit import BATCH, check_fitted
from visus.run.recipe import Recipe
from visus.run.registered import entry_of, is_fitted
from visus.run.schedule import choose_schedule


@dataclass(frozen=True)
class Facts:
    """What the choice is made from. median_size: (height, width) in pixels of the images as they lie on disk."""

    train_images: int
    num_classes: int
    multi_label: bool
    median_size: tuple[int, int]
    channels: int
    in_memory: bool
    device: str


TINY_PX, SMALL_PX, CPU_PX = 16, 64, 128
FINE_TUNING = 0.1  # of the learning rate from scratch: the weights are to be kept, not learned anew


def choose(recipe: Recipe, facts: Facts) -> tuple[Recipe, list[str]]:
    """The recipe without `auto`, except what two timed steps decide later, and one sentence per choice.

    Raises RecipeError when two fields contradict each other or the data.
    """
    values: dict[str, Any] = {}
    reasons: list[str] = []
    task = _task(recipe, facts)
    values["task"] = task
    if recipe.data.normalise == "auto":
        values["data.normalise"] = "data" if recipe.model.weights is None or recipe.model.origin == "visus" else "model"
    side = _image_size(recipe, facts, values, reasons)
    if recipe.data.channels == "auto":
        values["data.channels"] = facts.channels
    _model(recipe, facts, side, values, reasons)
    name = values.get("model.name", recipe.model.name)
    if is_fitted(name):
        check_fitted(recipe, facts.multi_label)
        values |= {"augmentation": (), "loss.name": "cross_entropy", "doctor.before": False, "doctor.watch": False}
        values |= {"train.batch_size": BATCH} if recipe.train.batch_size == "auto" else {}
        _loading(recipe, facts, values)
        return recipe.with_values(values), reasons
    _loss(recipe, task, values)
    _optimization(recipe, facts, name, side, values, reasons)
    _augmentation(recipe, facts, side, values, reasons)
    choose_defence(recipe, values.get("data.channels", recipe.data.channels), values.get("loss.name", recipe.loss.name),
                   values, reasons)
    choose_distillation(recipe, values, reasons)
    _loading(recipe, facts, values)
    return recipe.with_values(values), reasons


def _task(recipe: Recipe, facts: Facts) -> str:
    found = "multilabel" if facts.multi_label else "classification"
    if recipe.task not in ("auto", found):
        raise RecipeError(f"the data has {'several labels' if facts.multi_label else 'one label'} per image",
                          where=f"task={recipe.task}", remedy=f"Use task={found}")
    return found


def _image_size(recipe: Recipe, facts: Facts, values: dict[str, Any], reasons: list[str]) -> int:
    size = recipe.data.image_size
    if size != "auto":
        return min(size) if isinstance(size, tuple) else size
    native = max(facts.median_size)
    if recipe.model.weights is not None and recipe.model.name != "auto":
        known = entry_of(recipe.model.name).about["preprocessing"]["size"][0]
        side = known if facts.device == "cuda" else min(known, CPU_PX)
        why = "what the weights were trained at" if side == known else f"of the {known} px that the weights were " \
            "trained at, what a CPU trains on in good time"
    elif native <= TINY_PX:
        side, why = 16, f"tiny images ({native} px) are enlarged"
    elif native <= SMALL_PX:
        side, why = 4 * math.ceil(native / 4), "small images keep their size"
    elif facts.device == "cuda":
        side, why = 224, "the usual size on a GPU"
    else:
        side, why = CPU_PX, f"{native} px is more than a CPU trains on in good time"
    values["data.image_size"] = side
    reasons.append(f"image size {side} px: {why}")
    return side


def _model(recipe: Recipe, facts: Facts, side: int, values: dict[str, Any], reasons: list[str]) -> None:
    if recipe.model.name != "auto":
        return
    if side <= SMALL_PX:
        values["model.name"] = "resnet20"
        reasons.append(f"model resnet20: a small residual network for images of up to {SMALL_PX} px "
                       f"({facts.train_images:,} training images)")
    else:
        values["model.name"] = "resnet18"
        reasons.append(f"model resnet18: the smallest network made for images above {SMALL_PX} px")


def _loss(recipe: Recipe, task: str, values: dict[str, Any]) -> None:
    name = recipe.loss.name
    if name == "auto":
        name = values["loss.name"] = "binary_cross_entropy" if task == "multilabel" else "cross_entropy"
    elif task == "multilabel" and name not in ("binary_cross_entropy", "sigmoid_focal"):
        raise RecipeError(f"does not fit the task {task}", where=f"loss.name={name}",
                          remedy="Several labels per image take binary_cross_entropy or sigmoid_focal")
    if recipe.loss.class_weights != "none" and name not in ("cross_entropy", "focal"):
        raise RecipeError(f"{name} takes no class weights", where=f"loss.class_weights={recipe.loss.class_weights}",
                          remedy="Use loss.name=cross_entropy or focal, or data.sampling=weighted")
    if task == "multilabel" and recipe.loss.label_smoothing:
        raise RecipeError("is for one label per image", where=f"loss.label_smoothing={recipe.loss.label_smoothing}",
                          remedy="Set it to 0")
    if (recipe.mix.mixup or recipe.mix.cutmix) and name in ("multiclass_hinge", "squared_hinge", "class_balanced",
                                                            "logit_adjusted"):
        raise RecipeError("mixed images have no whole label", where=f"loss.name={name}",
                          remedy="Use cross_entropy, focal or binary_cross_entropy, or set mix.mixup and mix.cutmix "
                          "to 0")


def _optimization(recipe: Recipe, facts: Facts, model: str, side: int, values: dict[str, Any],
                  reasons: list[str]) -> None:
    """SGD with momentum for convolutional nets (He et al. 2016), AdamW for transformers and perceptrons."""
    check_optimizer(recipe)
    adaptive = entry_of(model).module.startswith("visus.models.vit.") or model.startswith(
        ("convnext", "mlp", "softmax"))
    plain = model.startswith(("alexnet", "zfnet", "overfeat", "vgg", "squeezenet", "lenet", "nin", "all_cnn",
                              "three_layer", "neocognitron")) and not model.endswith("_bn")
    plain = plain or recipe.model.norm in ("local_response", "none")
    optimizer = recipe.optimizer.name
    if optimizer == "auto":
        optimizer = values["optimizer.name"] = "adamw" if adaptive else "sgd"
    batch = recipe.train.batch_size
    if batch == "auto":
        batch = first_batch(optimizer, facts.train_images)
        values["train.batch_size"] = batch
    epochs = recipe.train.epochs
    if epochs == "auto":
        epochs = _epochs(facts, batch)
        if recipe.defend.method == "free":  # as many updates as without: each epoch sees its batches several times
            epochs = max(1, round(epochs / (STEPS["free"] if recipe.defend.steps == "auto" else recipe.defend.steps)))
        values["train.epochs"] = epochs
        reasons.append(f"{epochs} epochs of {math.ceil(facts.train_images / batch)} steps, batch {batch}")
    if recipe.optimizer.lr == "auto":
        effective = batch * recipe.train.accumulate
        lr = first_rate(optimizer, effective, plain)
        if recipe.model.weights is not None and recipe.model.freeze != "backbone":
            lr *= FINE_TUNING
        values["optimizer.lr"] = float(f"{lr:.3g}")
        reasons.append(f"{optimizer}, peak learning rate {lr:.3g}, {recipe.schedule.name} schedule")
    if recipe.optimizer.weight_decay == "auto":
        values["optimizer.weight_decay"] = first_decay(optimizer, adaptive)
    _scale_to_batch(recipe, optimizer, batch * recipe.train.accumulate, values, reasons)
    chosen, why = choose_schedule(recipe, epochs)
    values |= chosen
    reasons += why
    if recipe.train.ema is not None and recipe.train.average_from is not None:
        raise RecipeError("two averages of the weights", where=f"train.ema={recipe.train.ema}, train.average_from="
                          f"{recipe.train.average_from}", remedy="Leave one of them out")


def _scale_to_batch(recipe: Recipe, optimizer: str, batch: int, values: dict[str, Any], reasons: list[str]) -> None:
    """The rate for this run's batch; with it the batch that it is now meant for, so that it is scaled once."""
    lr, lr_batch = recipe.optimizer.lr, recipe.optimizer.lr_batch
    if lr_batch is None:
        return
    if lr == "auto":
        raise RecipeError("is the batch of a rate that is not given", where=f"optimizer.lr_batch={lr_batch}",
                          remedy="Set optimizer.lr too, or leave optimizer.lr_batch out: auto fits the batch")
    scaled, reason = scaled_lr(lr, batch, lr_batch, optimizer)
    if batch != lr_batch:
        values |= {"optimizer.lr": scaled, "optimizer.lr_batch": batch}
        reasons.append(reason)


def _epochs(facts: Facts, batch: int) -> int:
    """About 800 updates, which small networks need, but never so few passes that the images are hardly seen."""
    least, most = (30, 200) if facts.device == "cuda" else (8, 30)
    return max(least, min(most, round(800 * batch / max(1, facts.train_images))))


def _augmentation(recipe: Recipe, facts: Facts, side: int, values: dict[str, Any], reasons: list[str]) -> None:
    if recipe.augmentation != "auto":
        return
    steps: list[dict[str, Any]] = []
    colour = recipe.data.channels == 3 if recipe.data.channels != "auto" else facts.channels == 3
    if max(facts.median_size) <= TINY_PX:
        steps.append({"name": "affine", "degrees": 10.0, "translate": 0.1, "scale": (0.9, 1.1)})
    elif side <= SMALL_PX:
        steps.append({"name": "random_crop", "padding": max(2, side // 8)})
    else:
        steps.append({"name": "random_resized_crop", "scale": (0.35, 1.0)})
    if colour:
        steps.append({"name": "horizontal_flip"})
        if side > SMALL_PX:
            steps.append({"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2})
    values["augmentation"] = steps
    reasons.append("augmentation " + ", ".join(step["name"] for step in steps)
                   + ("" if colour else " (no flip: in grey sets a mirrored image is often another class)"))


def _loading(recipe: Recipe, facts: Facts, values: dict[str, Any]) -> None:
    if recipe.data.workers == "auto":
        cores = os.cpu_count() or 1
        values["data.workers"] = 0 if facts.in_memory else max(1, min(8, cores - 1)) if facts.device == "cuda" \
            else min(2, cores // 2)
    if recipe.data.cache == "auto":
        values["data.cache"] = False
