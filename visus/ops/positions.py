"""Where patches lie: embeddings, relative offsets and rotations of grids of patches.

A grid is (h, w), rows and columns; its patches are counted row by row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int],
                     num_prefix: int, antialias: bool = True) -> Tensor:
    """Bicubic resampling of learned position embeddings to another grid of patches.

    positions: [1, num_prefix + h * w, C]; grid: (h, w); new_grid: (h', w'); the first num_prefix rows belong
    to tokens that are no patch (class token) and are kept. antialias: whether a
    smaller grid is averaged from all that it replaces. Returns [1, num_prefix + h' * w', C].
    Source: Dosovitskiy et al., ICLR 2021, section 3.2 (the paper says "2D interpolation" and no more).
    """
    if grid == new_grid:
        return positions
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    maps = patches.reshape(1, *grid, -1).permute(0, 3, 1, 2)  # [1, C, h, w]
    maps = F.interpolate(maps.float(), size=new_grid, mode="bicubic", antialias=antialias)
    patches = maps.to(positions.dtype).permute(0, 2, 3, 1).flatten(1, 2)  # [1, h' * w', C]
    return torch.cat([prefix, patches], dim=1)


def _waves(count: int, side: int, base: float, like: Tensor) -> Tensor:
    """[side, count]: places 0, 1, ... times the frequencies base^(-i / count), in float32 or better."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequencies = base ** (-torch.arange(count, device=like.device, dtype=dtype) / count)
    return torch.arange(side, device=like.device, dtype=dtype)[:, None] * frequencies


def sincos_positions(grid: tuple[int, int], dim: int, like: Tensor, base: float = 10_000.0) -> Tensor:
    """[1, h * w, dim], fixed: a quarter of the channels each for sin x, cos x, sin y, cos y, at dim / 4 frequencies.
    dim: a multiple of 4. like: gives dtype and device. Source: Vaswani et al., NeurIPS 2017, section 3.5, in each
    direction as in He et al., Masked Autoencoders, CVPR 2022, arXiv:2111.06377 (the authors' code)."""
    y, x = (_waves(dim // 4, side, base, like) for side in grid)
    y, x = y[:, None].expand(*grid, -1), x[None].expand(*grid, -1)  # [h, w, dim / 4]
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=2).flatten(0, 1)[None].to(like.dtype)


def rotary_angles(grid: tuple[int, int], dim: int, like: Tensor, base: float = 100.0) -> Tensor:
    """[h * w, dim / 2] angles in radians of the pairs of channels of a head: a half of the pairs turns with y, the
    other with x. dim: width of a head, a multiple of 4. Source: Su et al., RoFormer, arXiv:2104.09864, in each
    direction, with the base of Heo et al., Rotary Position Embedding for Vision Transformer, ECCV 2024,
    arXiv:2403.13298, equation 9 (from memory)."""
    y, x = (_waves(dim // 4, side, base, like) for side in grid)
    angles = torch.cat([y[:, None].expand(*grid, -1), x[None].expand(*grid, -1)], dim=2)  # [h, w, dim / 2]
    return angles.flatten(0, 1).to(like.dtype)


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turns neighbouring pairs of channels of `heads`, [..., N, d], by `angles`, [N, d / 2]: the product of two
    vectors so turned depends on the difference of their places alone."""
    first, second = heads[..., ::2], heads[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def relative_offsets(grid: tuple[int, int], device: torch.device) -> Tensor:
    """[h * w, h * w]: for each pair of patches (query, key), where its offset stands in a table of
    (2 h - 1) (2 w - 1), row by row."""
    (height, width), arange = grid, torch.arange
    down = arange(height, device=device)[:, None] - arange(height, device=device) + height - 1  # [query y, key y]
    right = arange(width, device=device)[:, None] - arange(width, device=device) + width - 1
    offsets = down[:, None, :, None] * (2 * width - 1) + right[None, :, None, :]  # [query y, x, key y, x]
    return offsets.reshape(height * width, height * width)


def resize_offsets(table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """A table of values for offsets [(2 h - 1) (2 w - 1), C], bicubically resampled to another grid."""
    if grid == new_grid:
        return table
    sides, new_sides = (tuple(2 * side - 1 for side in each) for each in (grid, new_grid))
    maps = F.interpolate(table.T.reshape(1, -1, *sides).float(), size=new_sides, mode="bicubic")
    return maps.flatten(2)[0].T.contiguous().to(table.dtype)
