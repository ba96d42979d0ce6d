"""How the recipe's model begins: with which normalisation it is built, and by which rule its weights are drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visus.core.errors import RecipeError, UserError
from visus.core.preprocessing import Preprocessing
from visus.core.weights import with_tensors
from visus.layers.initialise import initialise
from visus.layers.normalise import Normalisation, normalisation_of
from visus.run.recipe import Recipe
from visus.train.contracts import BatchSource

WHITENED_IMAGES = 4096  # their patches are a hundred times as many
_WORDS = {"batch": "", "layer": "layer norm", "group": "group norm", "instance": "instance norm",
          "local_response": "a bias and local response normalisation", "none": "a bias",
          "fixup": "the scalars of Fixup"}


def wanted_normalisation(recipe: Recipe) -> Normalisation:
    """What model.norm, model.weight_norm and model.init=fixup ask for. Raises RecipeError where they contradict each
    other, or the public weights that are to be loaded."""
    model = recipe.model
    if model.init == "fixup" and model.norm not in ("auto", "none"):
        raise RecipeError("Fixup is for nets without normalisation", where=f"model.init=fixup, model.norm={model.norm}",
                          remedy="Set model.norm=auto, or another model.init")
    wanted = Normalisation("fixup" if model.init == "fixup" else model.norm, model.weight_norm)
    if wanted.changes and model.weights is not None and model.origin != "visus":
        field = "init=fixup" if model.init == "fixup" else f"norm={model.norm}" if model.norm != "auto" else \
            f"weight_norm={model.weight_norm}"
        raise RecipeError(f"the public weights ({model.origin}) were learnt with the model's own normalisation",
                          where=f"model.{field}", remedy="Leave it at its default, or train without model.weights")
    return wanted


def described(wanted: Normalisation) -> list[str]:
    """What became of the model, in words; nothing where nothing did."""
    words = [f"{_WORDS[wanted.norm]} in the place of each batch norm"] if _WORDS.get(wanted.norm) else []
    if wanted.weight_norm == "weight_norm":
        words.append("weight norm in all convolutions and linear layers")
    elif wanted.weight_norm == "weight_standardisation":
        words.append("standardised kernels in all convolutions")
    return words


def begin(model: nn.Module, recipe: Recipe, preprocessing: Preprocessing, first: BatchSource | None) -> list[str]:
    """Draw the weights by model.init and train.seed; returns what was done, in words. first: where LSUV takes its batch
    from; without it that rule stops before the data. Weights that were loaded stay. Raises RecipeError."""
    if normalisation_of(model).norm == "instance":
        _refuse_single_places(model, preprocessing)
    how = recipe.model.init
    if how == "auto":
        return _whitened(model, preprocessing, first) if recipe.model.weights is None else []
    if recipe.model.weights is not None:
        return [f"the weights are loaded: model.init={how} draws none"]
    images = None
    if how == "lsuv" and first is not None:
        batch = next(iter(first.epoch(0)))
        images = preprocessing.normalise(batch.images)
    try:
        return initialise(model, how, seed=recipe.train.seed, scale=recipe.model.init_scale, images=images)
    except UserError as error:
        raise RecipeError(str(error), where=f"model.init={how}") from None


def _refuse_single_places(model: nn.Module, preprocessing: Preprocessing) -> None:
    """A map of one place has no spread of its own: torch's instance norm raises in training."""
    shapes = with_tensors(model, lambda _, tensor: torch.empty_like(tensor, device="meta")).train()
    try:
        shapes(torch.empty(2, preprocessing.channels, *preprocessing.size, device="meta"))
    except ValueError as error:
        raise RecipeError(f"the maps of this net shrink to one place: {error}", where="model.norm=instance",
                          remedy="Set a larger data.image_size, or model.norm=group") from None


def _whitened(model: nn.Module, preprocessing: Preprocessing, first: BatchSource | None) -> list[str]:
    """A model with a method `whiten` has its first filters from the training images."""
    whiten = getattr(model, "whiten", None)
    if whiten is None:
        return []
    batches: list[Tensor] = []
    for batch in first.epoch(0) if first is not None else ():
        batches.append(preprocessing.normalise(batch.images))
        if sum(map(len, batches)) >= WHITENED_IMAGES:
            break
    if batches:
        whiten(torch.cat(batches))
    return [f"the first filters whiten the patches of training images, of at most {WHITENED_IMAGES:,} and a batch"]
