"""Which parameters learn how fast: decay or none, layer-wise rates, a faster head."""

from __future__ import annotations

from typing import Any

from torch import nn

from visus.core.errors import RecipeError
from visus.optim.layer_decay import layer_scales, layers_of
from visus.optim.parameter_groups import parameter_groups, scaled_groups
from visus.run.models import head_parameters
from visus.run.recipe import Recipe


def make_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """The groups of parameters that the optimizer is given.

    With optimizer.layer_decay or head_lr each has a rate of its own: lr * layer_decay ** (layers after this one), and
    for the classifier, what is shaped by the number of classes, times head_lr. Raises RecipeError for a head_lr of a
    model whose classifier is not known, and for a layer_decay that leaves a single layer.
    """
    settings = recipe.optimizer
    if settings.layer_decay is None and settings.head_lr == 1:
        return parameter_groups(model, float(settings.weight_decay))
    head = [name for name in head_parameters(model) if name in dict(model.named_parameters())]
    if settings.head_lr != 1 and not head:
        raise RecipeError(f"{recipe.model.name} has no classifier that is shaped by the number of classes",
                          where=f"optimizer.head_lr={settings.head_lr}", remedy="Set it to 1")
    layers = layers_of(model, head)
    count = max(layers.values()) + 1
    if settings.layer_decay is not None and count == 1:
        raise RecipeError(f"{recipe.model.name} has a single layer", where=f"optimizer.layer_decay="
                          f"{settings.layer_decay}", remedy="Leave it out")
    if settings.layer_decay is None:
        scales, names = dict.fromkeys(layers, 1.0), dict.fromkeys(layers, "backbone")
    else:
        scales = layer_scales(layers, settings.layer_decay)
        names = {name: f"layer {layer + 1} of {count}" for name, layer in layers.items()}
    for name in head if settings.head_lr != 1 else ():
        scales[name] *= settings.head_lr
        names[name] = "head"
    return scaled_groups(model, float(settings.weight_decay), float(settings.lr), scales, names)
