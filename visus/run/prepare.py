"""From a path or a recipe to what a training begins with: images, splits, a whole recipe, preprocessing. No folder yet:
whatever is wrong ends here, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visus.core.device import pick_device, pick_precision
from visus.core.errors import DataError, RecipeError, UserError, did_you_mean
from visus.core.preprocessing import Preprocessing
from visus.data.samples import Samples
from visus.data.transforms import build_augmentation
from visus.run.build import build_model, build_preprocessing, build_task, make_optimizer, make_schedule
from visus.run.choose import choose
from visus.run.display import Display
from visus.run.hint_layers import with_hint_layers
from visus.run.pretrained import is_origin
from visus.run.progressive import progressive_sizes
from visus.run.recipe import Recipe
from visus.run.recipes import find_recipe
from visus.run.registered import entry_of, is_fitted
from visus.run.survey import divide, drop_bad_images, facts_for_choice, open_named, split_sentence
from visus.run.teacher import load_teacher, named_teacher


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """recipe: every field chosen but the layout and the threads. problems: {"file", "problem"} of images left out."""

    recipe: Recipe
    samples: Samples
    splits: dict[str, np.ndarray]
    preprocessing: Preprocessing
    device: torch.device
    problems: list[dict[str, str]]


def prepare(recipe: Recipe, display: Display) -> Prepared:
    """Open, check, divide and choose. Raises UserError for anything that the user can put right."""
    samples = opened(recipe, display)
    if samples.format != "builtin":  # the run must find its images from any folder
        recipe = recipe.with_values({"data.path": str(Path(str(recipe.data.path)).resolve())})
    if recipe.data.split is not None:
        recipe = recipe.with_values({"data.split": str(Path(recipe.data.split).resolve())})
    if recipe.distill.teacher is not None:
        recipe = recipe.with_values({"distill.teacher": named_teacher(recipe.distill.teacher)})
    device = pick_device(recipe.device)
    samples, problems = drop_bad_images(samples, recipe.data.on_bad_image, display)
    splits = split_up(samples, recipe, display)
    recipe = named_weights(recipe)
    recipe, reasons = choose(recipe, facts_for_choice(samples, splits["train"], device))
    recipe = recipe.with_values({"train.precision": pick_precision(recipe.train.precision, device)})
    for reason in reasons:
        display.say("choice", reason)
    preprocessing = build_preprocessing(recipe, samples, splits["train"])
    try_out(recipe, preprocessing, len(samples.classes), display)
    return Prepared(recipe=recipe, samples=samples, splits=splits, preprocessing=preprocessing, device=device,
                    problems=problems)


def given_recipe(recipe: Recipe | Mapping[str, Any] | str | Path | None, path: str | Path | None,
            values: Mapping[str, Any] | None) -> Recipe:
    if recipe is None:
        recipe = Recipe()
    elif isinstance(recipe, str | Path):
        recipe = Recipe.load(find_recipe(recipe))
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.parse(recipe)
    recipe = recipe.with_values(dict(values or {}))
    if path is not None:
        recipe = recipe.with_values({"data.path": str(path)}, where="PATH")
    if recipe.data.path is None:
        raise UserError("the recipe names no images", where="data.path",
                        remedy="Give a PATH: visus train PATH --recipe NAME")
    return recipe


def named_weights(recipe: Recipe) -> Recipe:
    """The origin of weights that are given by its name; weights need a model that is named too."""
    if recipe.model.weights is None:
        if recipe.model.freeze != "none":
            raise RecipeError("a frozen network needs weights that have learnt something",
                              where=f"model.freeze={recipe.model.freeze}",
                              remedy="Give them: --weights torchvision, or a file")
        return recipe
    if recipe.model.name == "auto":
        raise RecipeError("weights belong to one model", where=f"model.weights={recipe.model.weights}",
                          remedy="Name it: --model resnet18")
    if is_origin(recipe.model.name, recipe.model.weights):
        return recipe.with_values({"model.origin": recipe.model.weights})
    if not Path(recipe.model.weights).is_file():
        raise RecipeError("there is no such file, and no public weights of this name",
                          where=f"model.weights={recipe.model.weights}",
                          remedy=did_you_mean(recipe.model.weights, sorted(entry_of(recipe.model.name).weights)))
    return recipe.with_values({"model.weights": str(Path(recipe.model.weights).resolve())})


def try_out(recipe: Recipe, preprocessing: Preprocessing, num_classes: int, display: Display) -> None:
    """Build everything once, so that a value that does not fit ends here and leaves no folder behind."""
    assert recipe.augmentation != "auto", "chosen before"
    build_augmentation(list(recipe.augmentation))
    teacher = load_teacher(recipe, preprocessing)
    if teacher is not None:
        display.say("teacher", f"{teacher.name}, {teacher.source}")
    build_task(recipe, preprocessing, teacher=teacher)
    model = build_model(recipe, preprocessing, num_classes, display)
    if is_fitted(recipe.model.name):
        return
    with_hint_layers(recipe, model, teacher, preprocessing)
    optimizer = make_optimizer(recipe, model)
    make_schedule(recipe, optimizer, steps_per_epoch=1)
    progressive_sizes(recipe, preprocessing)


def opened(recipe: Recipe, display: Display) -> Samples:
    with display.reading() as progress:
        samples = open_named(recipe.data, progress=progress)
    display.say("data", samples.recognised)
    for note in samples.notes:
        display.say("note", note)
    return samples


def split_up(samples: Samples, recipe: Recipe, display: Display) -> dict[str, np.ndarray]:
    data = recipe.data
    splits = divide(samples, data)
    for name in ("val", "test"):
        if not len(splits[name]):
            raise DataError(f"no images are left for the {name} split", where=f"data.{name}={getattr(data, name)}",
                            remedy="A model is chosen on val and measured once on test: give each a share of 0.15")
    display.say("split", split_sentence(samples, splits, recipe))
    return splits
