"""Losses in the feature space of a trained classifier: content and style. (`ops.total_variation` is their prior.)

Papers: Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NIPS 2015, arXiv:1505.07376, and
Image Style Transfer Using Convolutional Neural Networks, CVPR 2016; Johnson, Alahi, Fei-Fei, Perceptual Losses for
Real-Time Style Transfer and Super-Resolution, ECCV 2016, arXiv:1603.08155, section 3.2. The papers take VGG; here any
network serves (`FeatureMaps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.core.errors import UserError, did_you_mean
from visus.core.validate import one_of
from visus.ops.gram import gram_matrix

POOLS = ("max", "average")
PAPER_STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # Gatys et al. 2016, section 2.2
PAPER_CONTENT = ("relu4_2",)
FAST_STYLE = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")  # Johnson et al. 2016, section 4.1, of VGG-16
FAST_CONTENT = ("relu3_3",)
SUPER_CONTENT = ("relu2_2",)  # the same, section 4.2


# -- numbers -------------------------------------------------------------------------------------------------------


def feature_loss(maps: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Mapping[str, float] | None = None,
                 *, relative: bool = False) -> Tensor:
    """Sum over the layers of `targets` of w_l |phi_l(y) - phi_l(t)|^2 / (C H W): Johnson et al., equation 2, mean over
    the batch. maps, targets: layer -> [B, C, H, W]. weights: 1 where none is given. relative: each layer over the mean
    square of its target, so that layers of any scale count alike; 1 then is what maps of zero cost."""
    return _summed(maps, targets, weights, relative)


def style_loss(grams: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Mapping[str, float] | None = None,
               *, relative: bool = False) -> Tensor:
    """Sum over the layers of `targets` of w_l |G_l - A_l|^2 / C^2, of `gram_matrix`: Johnson et al., equation 4, and
    four times Gatys et al., CVPR 2016, equation 4. grams, targets: layer -> [B, C, C], or [1, C, C] for all the batch.
    relative: as in `feature_loss`."""
    return _summed(grams, targets, weights, relative)


def _summed(found: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Mapping[str, float] | None,
            relative: bool) -> Tensor:
    terms = []
    for layer, target in targets.items():
        term = (found[layer] - target).square().mean()
        if relative:
            term = term / target.detach().square().mean().clamp_min(torch.finfo(target.dtype).tiny)
        terms.append(term if weights is None else weights.get(layer, 1.0) * term)
    return torch.stack(terms).sum()


def style_grams(maps: Mapping[str, Tensor], layers: Sequence[str], mask: Tensor | None = None) -> dict[str, Tensor]:
    """layer -> [B, C, C]. mask: [B or 1, 1, H, W] of the image, averaged down to the places of each layer."""
    return {layer: gram_matrix(maps[layer], None if mask is None else F.adaptive_avg_pool2d(
        mask.to(maps[layer].dtype), (maps[layer].shape[2], maps[layer].shape[3]))) for layer in layers}


def perceptual_loss(features: FeatureMaps, images: Tensor, targets: Tensor,
                    weights: Mapping[str, float] | None = None) -> Tensor:
    """`feature_loss` of images against target images, both [B, C, H, W] and normalised. No gradient reaches targets."""
    with torch.no_grad():
        wanted = features(targets)
    return feature_loss(features(images), wanted, weights)


# -- features ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PerceptualLayers:
    content: tuple[str, ...]
    style: tuple[str, ...]


class FeatureMaps:
    """Named maps of a network: images [B, C, H, W], normalised -> {layer: [B, C_l, h, w]}, in the order asked.

    A layer is one of three: 'relu3_2', 'conv3_2' or 'pool3', the second of the third stage, where `model.features` is a
    row of layers with poolings between (VGG, AlexNet); 'level2', a map of `model.features(images)`, for any network
    that has it; or the dotted name of a module, whose tokens [B, N, D] become [B, D, N, 1]. Of a row, and up to the
    last module named, only what is needed is computed. pool: 'average' puts mean pooling in place of the row's max
    pooling, as Gatys et al. 2015, section 2. The model is used as it is: in eval mode if its batch norms are to be
    constant.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], pool: str = "max"):
        one_of(POOLS, pool=pool)
        row, modules = row_layers(model), dict(model.named_modules())
        levels = len(getattr(model, "feature_channels", ()))
        self.model, self.layers, self.pool = model, tuple(dict.fromkeys(layers)), pool
        self.row = {row[layer]: layer for layer in self.layers if layer in row}  # index -> name
        self.levels = {f"level{n}": n for n in range(levels) if f"level{n}" in self.layers}
        self.modules = {layer: modules[layer] for layer in self.layers
                        if layer and layer in modules and layer not in row and layer not in self.levels}
        for layer in self.layers:
            if layer not in row and layer not in self.levels and layer not in self.modules:
                known = [*row, *(f"level{n}" for n in range(levels)), *filter(None, modules)]
                raise UserError(f"{type(model).__name__} has no such layer", where=f"layer={layer!r}",
                                remedy=did_you_mean(str(layer), known))
        if pool == "average" and not row:
            raise UserError(f"{type(model).__name__} has no row of layers whose pooling could be changed",
                            where="pool='average'", remedy="Take pool='max', or a VGG")

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.row:
            self._walk(images, found)
        if self.levels:
            maps = self.model.features(images)  # type: ignore[operator]
            found |= {layer: maps[number] for layer, number in self.levels.items()}
        if self.modules:
            self._watch(images, found)
        return {layer: found[layer] for layer in self.layers}

    def _walk(self, images: Tensor, found: dict[str, Tensor]) -> None:
        maps, last = images, max(self.row)
        for index, layer in enumerate(self.model.features):  # type: ignore[arg-type]
            if index - 1 in self.row and getattr(layer, "inplace", False):
                maps = maps.clone()
            if self.pool == "average" and isinstance(layer, nn.MaxPool2d):
                maps = F.avg_pool2d(maps, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            else:
                maps = layer(maps)
            if index in self.row:
                found[self.row[index]] = maps
            if index == last:
                return

    def _watch(self, images: Tensor, found: dict[str, Tensor]) -> None:
        missing = set(self.modules)

        def saw(layer: str) -> Any:
            def hook(_module: nn.Module, _given: Any, out: Any) -> Any:
                if not isinstance(out, Tensor) or out.ndim not in (3, 4):
                    raise UserError("its output is no map [B, C, h, w] and no tokens [B, N, D]", where=f"layer={layer}")
                if layer not in missing:
                    return None
                found[layer] = out if out.ndim == 4 else out.transpose(1, 2).unsqueeze(3)  # [B, N, D] -> [B, D, N, 1]
                missing.discard(layer)
                if not missing:
                    raise _AllSeen
                return out.clone()  # what follows may work in place

            return hook

        with ExitStack() as hooks:
            for layer, module in self.modules.items():
                hooks.callback(module.register_forward_hook(saw(layer)).remove)
            try:
                self.model(images)
            except _AllSeen:
                return
        raise UserError("the forward pass does not reach it", where=f"layer={', '.join(sorted(missing))}")


class _AllSeen(Exception):
    """Ends a forward pass that has shown all that was asked."""


def row_layers(model: nn.Module) -> dict[str, int]:
    """{'conv1_1': 0, 'relu1_1': 1, ...}: name -> index in `model.features`, as the papers name VGG's layers: the stage,
    counted by poolings, and the convolution in it. Empty where that is not a row of layers with a pooling."""
    row = getattr(model, "features", None)
    if not isinstance(row, nn.Sequential) or not any(isinstance(layer, nn.MaxPool2d) for layer in row):
        return {}
    names, stage, number = {}, 1, 0
    for index, layer in enumerate(row):
        if isinstance(layer, nn.Conv2d):
            number += 1
            names[f"conv{stage}_{number}"] = index
        elif isinstance(layer, nn.ReLU):
            names[f"relu{stage}_{number}"] = index
        elif isinstance(layer, nn.MaxPool2d):
            names[f"pool{stage}"] = index
            stage, number = stage + 1, 0
    return names


def paper_layers(model: nn.Module, recipe: str = "gatys") -> PerceptualLayers:
    """The layers to compare. recipe: 'gatys', 'fast' (style transfer by a network) or 'super' (super-resolution).

    Of a VGG those of the papers. Of any other network with a pyramid `features`: style from every level of stride 16
    and less, content from the level of stride 8, or of stride 4 for 'super', or the next coarser one; for a plain
    transformer its one level. Raises UserError for a network without either.
    """
    one_of(("gatys", "fast", "super"), recipe=recipe)
    content, style = {"gatys": (PAPER_CONTENT, PAPER_STYLE), "fast": (FAST_CONTENT, FAST_STYLE),
                      "super": (SUPER_CONTENT, ())}[recipe]
    row = row_layers(model)
    if row and all(layer in row for layer in (*PAPER_STYLE, *content, *style)):
        return PerceptualLayers(content=content, style=style)
    strides = tuple(getattr(model, "feature_strides", ()))
    if not strides:
        raise UserError(f"{type(model).__name__} has no maps to compare",
                        remedy="Take a network with `features`, such as vgg16, or name its modules as layers")
    wanted = 4 if recipe == "super" else 8
    at = next((n for n, stride in enumerate(strides) if stride >= wanted), len(strides) - 1)
    fine = [f"level{n}" for n, stride in enumerate(strides) if stride <= 16] or ["level0"]
    return PerceptualLayers(content=(f"level{at}",), style=() if recipe == "super" else tuple(fine))
