"""Hidden layers by name: what one gives, which one lies in the middle of a network, and what leads from one to another.

The regressor is that of FitNets (Romero et al., ICLR 2015, arXiv:1412.6550, section 2.2), a convolution or a linear
layer. Departures: where the guided layer's map is the smaller, the hint is averaged to its size, and where it is larger
by more than six places, it is itself averaged to the hint's, in place of a kernel of that size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.core.errors import RecipeError, did_you_mean
from visus.core.meta import on_meta
from visus.core.preprocessing import Preprocessing
from visus.run.recipe import Recipe
from visus.run.teacher import Teacher

LARGEST_KERNEL = 7  # of the convolution that takes a larger map to a smaller one without padding, as the paper has it
MOST_WEIGHTS = 1 << 24  # of a linear regressor between layers of different kinds
LARGEST_SHARE = 1 / 3  # of a network's layers that the module in its middle may hold


class _Reached(Exception):
    """The layer has answered: what comes after it is not wanted."""


class Regressor(nn.Module):
    """The guided layer's activation -> the size and width of the hint. guided, hint: their shapes without the batch:
    maps [C, H, W], tokens [N, C] or features [C]. Between two of one kind a convolution, or a linear layer for each
    token; else one linear layer from all values to all values. Raises RecipeError where that would be too large."""

    def __init__(self, guided: tuple[int, ...], hint: tuple[int, ...]):
        super().__init__()
        self.places: tuple[int, ...] | None = None
        self.flat = False
        if len(guided) == len(hint) == 3:
            excess = [a - b for a, b in zip(guided[1:], hint[1:], strict=True)]
            whole = min(excess) >= 0 and max(excess) < LARGEST_KERNEL
            self.places = None if whole else hint[1:] if min(excess) >= 0 else guided[1:]
            kernel = (excess[0] + 1, excess[1] + 1) if whole else (1, 1)
            self.layer: nn.Module = nn.Conv2d(guided[0], hint[0], kernel)
        elif len(guided) == len(hint) and guided[:-1] == hint[:-1]:
            self.layer = nn.Linear(guided[-1], hint[-1])
        elif math.prod(guided) * math.prod(hint) <= MOST_WEIGHTS:
            self.flat = True
            self.layer = nn.Linear(math.prod(guided), math.prod(hint))
        else:
            raise RecipeError(f"the student's layer gives {list(guided)}, the teacher's {list(hint)}: a regressor from "
                              f"one to the other would have {math.prod(guided) * math.prod(hint):,} weights",
                              where="distill.guided_layer, distill.hint_layer",
                              remedy="Name layers of the same kind: both maps, or both the same number of tokens")

    def forward(self, guided: Tensor) -> Tensor:
        if self.flat:
            guided = guided.flatten(1)
        elif self.places is not None and guided.shape[2:] != self.places:
            guided = F.adaptive_avg_pool2d(guided, self.places)
        out: Tensor = self.layer(guided)
        return out

    def target(self, hint: Tensor) -> Tensor:
        """The hint at the places that are compared."""
        if self.flat:
            return hint.flatten(1)
        return hint if self.places is None or hint.shape[2:] == self.places else \
            F.adaptive_avg_pool2d(hint, self.places)


def layer_output(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """What the module `name` gives, the first time that it runs, for normalised images; nothing behind it runs. Raises
    RecipeError for a module that does not run, or gives something else than a tensor."""
    found: list[object] = []

    def stop(module: nn.Module, inputs: object, output: object) -> None:
        found.append(output)
        raise _Reached

    hook = model.get_submodule(name).register_forward_hook(stop)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        hook.remove()
    if not found or not isinstance(found[0], Tensor):
        raise RecipeError(f"{type(model).__name__}.{name} " + ("gives no single tensor" if found else "never runs"),
                          where="distill.guided_layer, distill.hint_layer", remedy="Name another module")
    return found[0]


def maps_first(activation: Tensor) -> Tensor:
    """[B, C, H, W] as it is, [B, H, W, C] with its channels first; tokens [B, N, C] and features [B, C] as they are.
    Maps of square images tell the two apart."""
    if activation.ndim == 4 and activation.shape[1] == activation.shape[2] != activation.shape[3]:
        return activation.permute(0, 3, 1, 2)
    return activation


def middle_layer(model: nn.Module, images: Tensor) -> str:
    """The module in the middle of a network: of those with weights, in the order in which they run, the middle one; and
    of the modules around it the largest that holds at most a third of them. images: [1, C, H, W], normalised."""
    weighted: list[str] = []
    tensors: set[str] = set()
    hooks = []
    for name, module in model.named_modules():
        def note(module: nn.Module, inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                tensors.add(name)
                if module._parameters and name not in weighted and not any(True for _ in module.children()):
                    weighted.append(name)
        hooks.append(module.register_forward_hook(note))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if len(weighted) < 3:
        raise RecipeError(f"{type(model).__name__} has no hidden layer in its middle", where="distill.method=hints",
                          remedy="Use distill.method=logits")
    middle = weighted[(len(weighted) - 1) // 2]
    parts = middle.split(".")
    for depth in range(1, len(parts) + 1):
        around = ".".join(parts[:depth])
        inside = sum(name == around or name.startswith(around + ".") for name in weighted)
        if around in tensors and inside <= max(1.0, LARGEST_SHARE * len(weighted)):
            return around
    return middle


def with_hint_layers(recipe: Recipe, student: nn.Module, teacher: Teacher | None,
                     preprocessing: Preprocessing) -> Recipe:
    """The recipe with the layers of hints that were left to choose. Raises RecipeError for a name that is not there,
    and for two layers that no regressor joins."""
    if teacher is None or recipe.distill.method != "hints":
        return recipe
    device = next(student.parameters()).device
    images = torch.full((1, preprocessing.channels, *preprocessing.size), 0.5, device=device)
    values, shapes = {}, []
    for field, model, asked, seen in (
            ("guided_layer", student, recipe.distill.guided_layer, preprocessing.normalise(images)),
            ("hint_layer", teacher.model, recipe.distill.hint_layer, teacher.prepared(images))):
        known = [name for name, _ in model.named_modules() if name]
        if asked == "auto":
            asked = values[f"distill.{field}"] = middle_layer(model, seen)
        elif asked not in known:
            raise RecipeError(f"{type(model).__name__} has no module of this name", where=f"distill.{field}={asked}",
                              remedy=did_you_mean(asked, known))
        training = model.training
        with torch.no_grad():
            shapes.append(tuple(maps_first(layer_output(model.eval(), asked, seen)).shape[1:]))
        model.train(training)
    with on_meta():  # draws no numbers
        Regressor(*shapes)
    return recipe.with_values(values)
