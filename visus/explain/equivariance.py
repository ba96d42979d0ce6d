"""What a network keeps when its input is shifted or its patches change places, measured.

f is equivariant to T where f(T x) = T f(x). Self-attention without positions is, to every permutation of its tokens
(Lee et al., Set Transformer, ICML 2019, arXiv:1810.00825, section 3); a convolution is to shifts, its zero padding
breaks that at the border (Kayhan, van Gemert, CVPR 2020, arXiv:2003.07064), and circular padding mends it. Errors are
root-mean-square, over the spread of the output about its mean place: 0 is equivariant, about 1.4 unrelated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.explain.explanation import in_eval_mode

POSITION_TABLES = ("pos_embed", "pos_embed_x", "pos_embed_y", "relative_position_bias_table", "rel_pos_h", "rel_pos_w")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root-mean-square difference of maps [B, C, h, w] or tokens [B, C, N] over the spread of `expected` about its mean
    over places. Raises UserError for a single place."""
    places = tuple(range(2, expected.ndim))
    if expected[0, 0].numel() == 1:
        raise UserError("there is one place only, and nothing can change it", where=f"{tuple(expected.shape)}",
                        remedy="Take a larger image, or an earlier level")
    spread = (expected - expected.mean(places, keepdim=True)).double().norm()
    difference = (found - expected).double().norm()
    return float(difference / spread) if spread > 0 else float(difference > 0)


@torch.no_grad()
def token_permutation_error(module: Callable[[Tensor], Tensor], tokens: Tensor, order: Tensor) -> float:
    """Of what takes tokens [B, N, C] to tokens [B, N, D]: f(tokens in another order) against f(tokens) in that order.
    order: a permutation of N."""
    return relative_error(module(tokens[:, order]).transpose(1, 2), module(tokens)[:, order].transpose(1, 2))


def permute_patches(images: Tensor, patch_px: int, order: Tensor) -> Tensor:
    """Square patches of images [B, C, H, W], numbered row by row, in another order: place n shows patch order[n]. Also
    of maps, with patch_px=1."""
    batch, channels, height, width = images.shape
    if height % patch_px or width % patch_px:
        raise UserError(f"is no whole number of patches of {patch_px} pixels", where=f"{height}x{width}")
    rows, columns = height // patch_px, width // patch_px
    patches = images.reshape(batch, channels, rows, patch_px, columns, patch_px).permute(0, 1, 2, 4, 3, 5)
    patches = patches.flatten(2, 3)[:, :, order]  # [B, C, rows * columns, p, p]
    return patches.unflatten(2, (rows, columns)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


@torch.no_grad()
def patch_permutation_error(model: Any, images: Tensor, order: Tensor, level: int = -1) -> float:
    """Of a model with `features`: one of its maps, by default the last, for images whose patches (of the map's stride)
    change places against the map's places in that order. order: a permutation of the h * w places. Raises UserError
    for a map of one place."""
    stride = model.feature_strides[level]
    with in_eval_mode(model):
        maps, moved = (model.features(x)[level] for x in (images, permute_patches(images, stride, order)))
    return relative_error(moved, permute_patches(maps, 1, order))


@torch.no_grad()
def translation_error(model: Any, images: Tensor, shift: tuple[int, int], level: int = -1) -> float:
    """Of a model with `features`: one of its maps, by default the last, for images that are shifted round, what leaves
    on one side coming back on the other, against the map shifted by as many places. shift: (down, right) in pixels,
    multiples of the map's stride. Raises UserError for other shifts and for a map of one place."""
    stride = model.feature_strides[level]
    if any(step % stride for step in shift):
        raise UserError(f"is no multiple of the map's stride of {stride} pixels", where=f"shift={shift}",
                        remedy="Between the places of a map there is nothing to compare with")
    with in_eval_mode(model):
        maps, moved = (model.features(x)[level] for x in (images, images.roll(shift, (2, 3))))
    expected = maps.roll((shift[0] // stride, shift[1] // stride), (2, 3))
    return relative_error(moved, expected)


def with_circular_padding(model: nn.Module) -> nn.Module:
    """A copy whose convolutions see the opposite side of the image beyond its border. Pooling layers that pad keep
    their padding."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [side for pad in reversed(module.padding) for side in (pad, pad)]
    return model


def without_positions(model: nn.Module) -> nn.Module:
    """A copy of a transformer whose learned positions and tables of relative biases are zero. Raises UserError for one
    that has none."""
    model = copy.deepcopy(model)
    found = [p for name, p in model.named_parameters()
             if name.rsplit(".", 1)[-1] in POSITION_TABLES]
    if not found:
        raise UserError(f"{type(model).__name__} has no learned positions that could be taken away")
    with torch.no_grad():
        for table in found:
            table.zero_()
    return model
