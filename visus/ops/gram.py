"""Gram matrices: which feature maps of a layer are active together, wherever in the picture that is."""

from __future__ import annotations

import torch
from torch import Tensor


def gram_matrix(maps: Tensor, mask: Tensor | None = None) -> Tensor:
    """Maps [B, C, H, W] -> [B, C, C], the mean over places of the products of channels: F F^T / (H W).

    Gatys et al., CVPR 2016, equation 3, divided by the number of places, so that textures of any size compare; Johnson
    et al., ECCV 2016, equation 3, divides by C as well. mask: [B or 1, 1, H, W] of at least 0: places are weighted by
    its square, and the sum of those weights stands for H W (guided Gram matrices: Gatys et al., CVPR 2017,
    arXiv:1611.07865). A mask of ones is no mask; where it is all zero, so is the matrix.
    """
    flat = maps.flatten(2)  # [B, C, H W]
    if mask is None:
        return flat @ flat.transpose(1, 2) / flat.shape[2]
    guide = mask.to(maps.dtype).flatten(2)  # [B or 1, 1, H W]
    total = guide.square().sum(2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    guided = flat * guide
    return guided @ guided.transpose(1, 2) / total
