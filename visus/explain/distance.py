"""Mean attention distance: how far each head looks, the transformer's counterpart of a receptive field.

Paper: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, section 4.5 and Fig. 7 (right): the distance in pixels between
the patch that asks and those that it attends to, weighted by attention, averaged over patches and images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.explain.attention import attention_maps
from visus.explain.explanation import Explanation, HeadDistances


def attention_distance(weights: Tensor, grid: tuple[int, int], patch_px: float) -> Tensor:
    """[B, heads, h * w, h * w], patches to patches, row by row -> [B, heads] in pixels between centres of patches.

    Rows need not sum to 1: what goes to tokens without a place is left out, and negative weights count as nothing.
    """
    shares = weights.clamp(min=0)
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (shares * _distances(grid, patch_px).to(weights)).sum(-1).mean(-1)


def uniform_distance(grid: tuple[int, int], patch_px: float) -> float:
    """The distance of attention that is the same everywhere."""
    return float(_distances(grid, patch_px).mean())


def _distances(grid: tuple[int, int], patch_px: float) -> Tensor:
    """[h * w, h * w] in pixels."""
    places = torch.cartesian_prod(*(patch_px * torch.arange(side, dtype=torch.float64) for side in grid))
    return (places[:, None] - places[None]).norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """No options."""

    needs_images: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            maps = attention_maps(model, images)
        except UserError as error:
            return error.problem
        return None if any(layer.among_patches is not None for layer in maps.layers) else "has no patches that attend"

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        maps = attention_maps(model, images)
        found, uniform = [], None
        for layer in maps.layers:
            if layer.among_patches is not None:
                pixels = attention_distance(layer.among_patches, layer.grid, layer.patch_px).mean(0)
                found.append(HeadDistances(layer=layer.number, pixels=pixels))
                uniform = uniform or uniform_distance(layer.grid, layer.patch_px)
        left_out = maps.num_layers - len(found)
        return Explanation(
            sentence="Mean attention distance, over patches and images, a dot for each head: a low one looks around "
                     "itself as a convolution does, a high one across the picture."
                     + (f" {left_out} layers are left out, whose queries or keys are not all patches."
                        if left_out else ""),
            distances=tuple(found), uniform_px=uniform)


explain.add(Distance, {"distance": {}}, summary="how far each head looks, in pixels, layer by layer",
            paper="Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, Fig. 7")
