"""What the channels of a layer make of an image, map by map, and the way to the maps of any layer with a graph.

Paper: Yosinski, Clune, Nguyen, Fuchs, Lipson, Understanding Neural Networks Through Deep Visualization, ICML Deep
Learning Workshop 2015, arXiv:1506.06579, section 2: all channels of a layer beside each other. Shown are those whose
maps reach highest over their own spread, so that a channel with a constant offset does not crowd out the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import positive
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.feature_layer import FeatureLayer, feature_layer


def layer_maps(model: nn.Module, images: Tensor, layer: str | FeatureLayer | None = None) -> Tensor:
    """[B, C, h, w], what a layer gives for images [B, C, H, W], in eval mode. With a graph back to the images where
    these want gradients. layer: a module's dotted name; None is the last one that still has places. Nothing behind the
    layer is computed."""
    chosen = layer if isinstance(layer, FeatureLayer) else feature_layer(model, images, layer)
    tap = _Tap(chosen)
    with in_eval_mode(model), without_parameter_gradients(model), tap:
        try:
            model(images)
        except _Reached:
            pass
    if tap.found is None:
        raise UserError("the forward passes of this model differ from each other", where=f"layer={chosen.name}")
    return chosen.maps(tap.found)


@contextmanager
def without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards each does as it did."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


class _Reached(Exception):
    """The layer's output is there."""


class _Tap(TorchFunctionMode):
    """Counts the operations that make tensors up to the layer's (see FeatureLayer.step) and ends the pass there."""

    def __init__(self, layer: FeatureLayer) -> None:
        super().__init__()
        self.layer, self.step = layer, -1
        self.found: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = list(_tensors(out))
        if not made:
            return out
        self.step += 1
        if self.step == self.layer.step:
            if getattr(func, "__name__", "") == self.layer.function and len(made) > self.layer.output:
                self.found = made[self.layer.output]
            raise _Reached
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))


def layer_problem(model: nn.Module, images: Tensor, layer: str | None) -> str | None:
    """Why the layer has no maps, or None."""
    try:
        feature_layer(model, images, layer)
    except UserError as error:
        return error.problem
    return None


def prominence(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C]: how far the highest place stands above the mean, in units of the layer's spread over its
    places."""
    flat = maps.flatten(2)
    spread = (flat - flat.mean(2, keepdim=True)).square().mean((1, 2), keepdim=True).sqrt()
    return ((flat.amax(2, keepdim=True) - flat.mean(2, keepdim=True)) / spread.clamp(min=1e-12)).squeeze(2)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """layer: a module's dotted name; None is the last that has places. channels: how many to show, those that stand
    out most for each image."""

    layer: str | None = None
    channels: int = 36
    needs_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(channels=self.channels)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return layer_problem(model, images, self.layer)

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        chosen = feature_layer(model, images, self.layer)
        maps = layer_maps(model, images, chosen)
        count = min(self.channels, maps.shape[1])
        order = prominence(maps).topk(count, dim=1).indices
        tiles = maps.gather(1, order[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        names = tuple(f"channel {int(n)}" for n in order[0]) if len(images) == 1 else \
            tuple(f"channel of rank {n + 1}" for n in range(count))
        return Explanation(
            sentence=f"Of {chosen.words}: the {count} of {maps.shape[1]} channels that stand out most in each image; "
                     "the large map is the root of the mean square over all channels.",
            heat=maps.square().mean(1).sqrt(), tiles=tiles, tile_names=names)


explain.add(Activations, {"activations": {}}, summary="what the channels of a layer make of an image",
            paper="Yosinski et al., ICML Deep Learning Workshop 2015, arXiv:1506.06579")
