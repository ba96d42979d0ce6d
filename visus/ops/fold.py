"""Batch norm in eval mode is an affine map of each channel; a convolution or full layer next to it can take it in."""

from __future__ import annotations

import torch
from torch import Tensor


def norm_as_affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None,
                   eps: float) -> tuple[Tensor, Tensor]:
    """(scale, shift), [C] each and in float64, such that the norm's output is `maps * scale + shift`."""
    scale = (wide(var) + eps).rsqrt()
    if weight is not None:
        scale = scale * wide(weight)
    shift = -wide(mean) * scale
    return scale, shift if bias is None else shift + wide(bias)


def fold_after(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, groups: int = 1,
               transposed: bool = False) -> tuple[Tensor, Tensor]:
    """The weight [D, C / groups, ...] and bias [D] of a layer whose outputs [D] go through `* scale + shift`, in
    float64. transposed: the weight is that of a transposed convolution, [C, D / groups, ...]."""
    split = wide(weight).unflatten(0, (groups, -1))  # [groups, D / groups, C / groups, ...]; transposed: D, C exchanged
    by_group = scale.view(groups, 1, -1) if transposed else scale.view(groups, -1, 1)
    folded = (split * by_group.view(*by_group.shape, *[1] * (weight.ndim - 2))).flatten(0, 1)
    return folded, shift if bias is None else shift + wide(bias) * scale


def fold_before(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor,
                groups: int = 1) -> tuple[Tensor, Tensor]:
    """The weight [D, C / groups, ...] and bias [D] of a layer whose inputs [C] come from `* scale + shift`, in
    float64. Exact for convolutions without padding only: the zeros of a padding do not go through the norm."""
    ones = [1] * (weight.ndim - 2)
    split = wide(weight).unflatten(0, (groups, -1))  # [groups, D / groups, C / groups, ...]
    added = (split * shift.view(groups, 1, -1, *ones)).flatten(2).sum(2).flatten()  # [D]
    folded = (split * scale.view(groups, 1, -1, *ones)).flatten(0, 1)
    return folded, added if bias is None else added + wide(bias)


def wide(tensor: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)
