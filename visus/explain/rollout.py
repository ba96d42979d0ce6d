"""Attention rollout: attention followed through all layers down to the patches of the input.

Paper: Abnar, Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv:2005.00928, section 3: the shortcut
past each attention counts as half of what a token becomes, so that a layer is 0.5 A + 0.5 I, and layers are multiplied.
The paper averages the heads; the largest or smallest over heads, and leaving out the weakest weights, are later custom
(Gildenblat's vit-explain), here by row. Attention flow, the paper's second measure, needs a maximum flow for each token
and is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import require
from visus.explain.attention import AttentionMaps, attention_maps
from visus.explain.explanation import Explanation

Fusion = Literal["mean", "max", "min"]


def attention_rollout(weights: Sequence[Tensor], *, fusion: Fusion = "mean", discard: float = 0.0) -> Tensor:
    """What each token at the end holds of each token at the start: [B, N, N], rows that sum to 1.

    weights: of each layer, first to last, [B, heads, N, N]. fusion: of the heads. discard: the share of each row, its
    weakest weights, that counts as nothing. Negative weights, which talking heads may have, count as nothing.
    """
    *_, last = rollout_steps(weights, fusion=fusion, discard=discard)
    return last


def rollout_steps(weights: Sequence[Tensor], *, fusion: Fusion = "mean", discard: float = 0.0) -> Iterator[Tensor]:
    """As `attention_rollout`, after each layer in turn."""
    require(fusion in get_args(Fusion), "fusion", fusion, f"be one of {', '.join(get_args(Fusion))}")
    require(isinstance(discard, int | float) and 0 <= discard < 1, "discard", discard, "be at least 0 and below 1")
    rolled: Tensor | None = None
    for layer in weights:
        step = _fused(layer.clamp(min=0), fusion)
        count = int(discard * step.shape[-1])
        if count:
            step = step.scatter(-1, step.topk(count, largest=False).indices, 0.0)
        step = 0.5 * step + 0.5 * torch.eye(step.shape[-1], dtype=step.dtype, device=step.device)
        step = step / step.sum(-1, keepdim=True)
        rolled = step if rolled is None else step @ rolled
        yield rolled


def _fused(weights: Tensor, fusion: Fusion) -> Tensor:
    """[B, heads, N, N] -> [B, N, N]."""
    if fusion == "mean":
        return weights.mean(1)
    return weights.amax(1) if fusion == "max" else weights.amin(1)


def whole_layers(maps: AttentionMaps) -> list[Tensor]:
    """The weights of every layer over all tokens that the model ever has, [B, heads, N, N]. A token that takes no part
    in a layer attends to itself: in CaiT the class token while patches attend among themselves, and the patches while
    it asks. Raises UserError where layers differ in their tokens, as in pyramids."""
    plain = [layer for layer in maps.layers
             if layer.weights.shape[2] in (1, layer.weights.shape[3]) and layer.grid == maps.layers[0].grid]
    if len(plain) != maps.num_layers:
        raise UserError("rollout multiplies the attention of all layers over the same tokens, and this model's differ: "
                        f"{maps.num_layers - len(plain)} of {maps.num_layers} layers attend within windows, to pooled "
                        "places or over another grid",
                        remedy="Take a plain transformer (ViT, DeiT, CaiT), or the method attention")
    count = max(layer.weights.shape[3] for layer in maps.layers)
    out = []
    for layer in maps.layers:
        queries, keys = layer.weights.shape[2:]
        if (queries, keys) != (count, count):
            full = torch.eye(count, dtype=layer.weights.dtype, device=layer.weights.device)
            full = full.repeat(*layer.weights.shape[:2], 1, 1)
            rows = slice(0, 1) if queries == 1 else slice(count - queries, count)
            full[:, :, rows, count - keys:] = layer.weights
            out.append(full)
        else:
            out.append(layer.weights)
    return out


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """fusion: of the heads: mean, max or min. discard: share of the weakest weights of each row that counts as nothing,
    such as 0.9. layer: how far to follow, from 0; -1 is to the last."""

    fusion: Fusion = "mean"
    discard: float = 0.0
    layer: int = -1
    needs_images: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            whole_layers(attention_maps(model, images))
        except UserError as error:
            return error.problem
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        maps = attention_maps(model, images)
        weights = whole_layers(maps)
        last = maps.layer(self.layer).number
        grid = maps.layers[0].grid
        prefix, classed = weights[0].shape[-1] - grid[0] * grid[1], any(layer.classed for layer in maps.layers)
        tiles = torch.stack([_reading(rolled, prefix, classed) for rolled in rollout_steps(
            weights[:last + 1], fusion=self.fusion, discard=self.discard)], dim=1).unflatten(2, grid)
        asks = "the class token holds" if classed else "the patches hold on average"
        return Explanation(
            sentence=f"What {asks} of each patch of the input after attention layers 0 to {last}, "
                     f"{self.fusion} of the heads, each layer half attention and half shortcut."
                     + (f" The weakest {self.discard:.0%} of each row are left out." if self.discard else ""),
            heat=tiles[:, -1], tiles=tiles, tile_names=tuple(f"layer {n}" for n in range(last + 1)))


def _reading(rolled: Tensor, num_prefix: int, classed: bool) -> Tensor:
    """[B, N, N] -> [B, patches]: the class token's row, or the mean of the patches' rows where there is none."""
    return (rolled[:, 0] if classed else rolled[:, num_prefix:].mean(1))[:, num_prefix:]


explain.add(Rollout, {"rollout": {}}, summary="attention multiplied through all layers, down to the input",
            paper="Abnar, Zuidema, ACL 2020, arXiv:2005.00928")
