"""Attention maps: what each head of each layer takes from each place, and what the class token looks at.

Paper: Vaswani et al., NeurIPS 2017, arXiv:1706.03762, equation 1, of which these are the softmax's rows; Dosovitskiy et
al., ICLR 2021, arXiv:2010.11929, section 4.5. What a class token attends to in the last layer was shown by Caron et al.
(DINO), ICCV 2021, arXiv:2104.14294, Fig. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.explain.explanation import Explanation, in_eval_mode
from visus.ops.attention import seen_attention

HAS_NONE = "has no attention"


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """One layer whose keys are places all over the picture.

    number: which of the model's attention layers it is, from 0. weights: [B, heads, N, M], rows of queries that sum to
    1 (but where heads mix their weights, as CaiT's). Of the M keys the last h * w are patches, row by row, from grid
    (h, w), `patch_px` pixels from one to the next; those before are the `num_prefix` tokens without a place: a class
    token first, where classed, then a distillation token or registers. N is M in a plain transformer, 1 in CaiT's class
    attention, where the class token alone asks, and above M where keys are pooled (PVT, MViT, CvT).
    """

    number: int
    weights: Tensor
    grid: tuple[int, int]
    num_prefix: int
    classed: bool
    patch_px: float

    @property
    def among_patches(self) -> Tensor | None:
        """[B, heads, h * w, h * w], as they are; None where those that ask are not the same patches."""
        queries, keys = self.weights.shape[2:]
        return self.weights[:, :, self.num_prefix:, self.num_prefix:] if queries == keys else None

    def class_map(self) -> Tensor:
        """[B, heads, h, w]: what the class token takes from each patch; where there is none, and the head averages the
        patches, the mean over all patches that ask."""
        row = self.weights[:, :, 0] if self.classed else self.weights[:, :, self.num_prefix:].mean(2)
        return row[:, :, self.num_prefix:].unflatten(2, self.grid)


@dataclass(frozen=True)
class AttentionMaps:
    """layers: those whose keys are places all over the picture; num_layers: how many attention layers the model has."""

    layers: tuple[AttentionLayer, ...]
    num_layers: int

    def layer(self, number: int) -> AttentionLayer:
        """By its number; negative ones count from the last. Raises UserError with the numbers that there are."""
        asked = number + self.num_layers if number < 0 else number
        for layer in self.layers:
            if layer.number == asked:
                return layer
        known = [layer.number for layer in self.layers]
        shown = f"{known[0]} to {known[-1]}" if known == list(range(known[0], known[-1] + 1)) else \
            ", ".join(map(str, known))
        raise UserError("there is no such layer, or it attends within windows",
                        where=f"layer={number}", remedy=f"Give one of these: {shown}; -1 is the last")

    def stacked(self) -> Tensor:
        """[B, layers, heads, N, N] of a plain transformer, whose layers are all alike. Raises UserError for others."""
        if len(self.layers) != self.num_layers or len({layer.weights.shape for layer in self.layers}) != 1:
            raise UserError("the attention layers of this model are not all alike",
                            remedy="Take them one by one: .layers")
        return torch.stack([layer.weights for layer in self.layers], dim=1)


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> AttentionMaps:
    """The attention weights of a model, for normalised images [B, C, H, W]; computed openly, in eval mode.

    Plain transformers (ViT, DeiT, CaiT) give every layer, and those that attend to pooled places (PVT, MViT, CvT) too,
    over the coarser grid of their keys. Of models that attend within windows (Swin) those layers are given whose window
    fills the map, such as the last stage's at 224 pixels; weights within smaller windows are not of the whole picture.
    Raises UserError for a model without attention, or without such a layer at this image size.
    """
    with in_eval_mode(model), seen_attention() as seen:
        model(images)
    name = type(model).__name__
    if not seen:
        raise UserError(f"{name} {HAS_NONE}")
    layers = [layer for number, weights in enumerate(seen)
              if (layer := _placed(model, images, number, weights)) is not None]
    if not layers:
        raise UserError(f"no attention layer of {name} sees the whole picture at {images.shape[2]} x {images.shape[3]} "
                        "pixels: they attend within windows",
                        remedy="Take a plain transformer, or an image size at which one window fills the last map")
    return AttentionMaps(tuple(layers), len(seen))


def _placed(model: nn.Module, images: Tensor, number: int, weights: Tensor) -> AttentionLayer | None:
    """The layer with the grid of its keys, or None where they are not the places of a map of the whole picture."""
    if len(weights) != len(images):  # windows
        return None
    queries, keys = weights.shape[2:]
    strides: tuple[int, ...] = getattr(model, "feature_strides", ())
    plain = len(strides) == 1
    coarser = () if plain else tuple(2 * stride for stride in strides[-1:])  # of keys pooled in the last stage
    grids = {stride: (-(-images.shape[2] // stride), -(-images.shape[3] // stride)) for stride in strides + coarser}
    for most in (0, None if plain else 1):  # a map that fits exactly goes first
        for stride, (height, width) in grids.items():
            prefix = keys - height * width
            if prefix < 0 or (most is not None and prefix != most):
                continue
            if queries not in (1, keys) and queries - prefix not in (h * w for h, w in grids.values()):
                continue
            classed = prefix > 0 and (not plain or getattr(model, "cls_token", None) is not None)
            return AttentionLayer(number=number, weights=weights, grid=(height, width), num_prefix=prefix,
                                  classed=classed, patch_px=float(stride))
    return None


@dataclass(frozen=True, kw_only=True)
class ClassAttention:
    """layer: number of the attention layer, from 0; -1 is the last. head: of that layer, from 0; None: the mean of
    all."""

    layer: int = -1
    head: int | None = None
    needs_images: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            attention_maps(model, images)
        except UserError as error:
            return error.problem
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        maps = attention_maps(model, images)
        layer = maps.layer(self.layer)
        tiles = layer.class_map()
        heads = tiles.shape[1]
        if self.head is not None and not -heads <= self.head < heads:
            raise UserError(f"layer {layer.number} has {heads} heads", where=f"head={self.head}",
                            remedy=f"Give one from 0 to {heads - 1}")
        asks = "the class token takes" if layer.classed else "the patches take on average"
        which = "the mean of its heads" if self.head is None else f"head {self.head % heads}"
        return Explanation(
            sentence=f"What {asks} from each patch in attention layer {layer.number} of 0 to {maps.num_layers - 1}, "
                     f"{which}. Attention shows where a layer looks, not why the answer came out.",
            heat=tiles.mean(1) if self.head is None else tiles[:, self.head], tiles=tiles,
            tile_names=tuple(f"head {head}" for head in range(heads)))


explain.add(ClassAttention, {"attention": {}}, summary="what the class token takes from each patch in one layer",
            paper="Caron et al., ICCV 2021, arXiv:2104.14294, Fig. 1")
