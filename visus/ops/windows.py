"""Windows of maps, shifted windows, and the relative positions within a window.

Paper: Liu et al., Swin Transformer, ICCV 2021, arXiv:2103.14030, section 3.2. Maps are [B, H, W, C] here; N is
window x window.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.ops.positions import relative_offsets, resize_offsets

APART = -100.0  # the authors' score of two places that did not lie side by side before the shift


def half_shift(height: int, width: int, window: int) -> tuple[int, int]:
    """By how much windows are shifted down and to the right: half a window, 0 along a side that one window covers."""
    return (window // 2 if height > window else 0, window // 2 if width > window else 0)


def to_windows(maps: Tensor, window: int, shift: tuple[int, int]) -> Tensor:
    """[B, H, W, C] -> [B * n, N, C]: n windows of an image, row by row, after zeros at the bottom and on the right
    where windows do not fit, and a cyclic shift up and to the left."""
    batch, height, width, dim = maps.shape
    below, right = -height % window, -width % window
    if below or right:
        maps = F.pad(maps, (0, 0, 0, right, 0, below))
    if any(shift):
        maps = maps.roll((-shift[0], -shift[1]), (1, 2))
    rows, columns = (height + below) // window, (width + right) // window
    maps = maps.reshape(batch, rows, window, columns, window, dim).transpose(2, 3)
    return maps.reshape(batch * rows * columns, window * window, dim)


def from_windows(windows: Tensor, size: tuple[int, int], window: int, shift: tuple[int, int]) -> Tensor:
    """[B * n, N, C] -> [B, H, W, C]: what to_windows did, undone. size: (H, W)."""
    (height, width), dim = size, windows.shape[-1]
    rows, columns = -(-height // window), -(-width // window)
    maps = windows.reshape(-1, rows, columns, window, window, dim).transpose(2, 3)
    maps = maps.reshape(-1, rows * window, columns * window, dim)
    if any(shift):
        maps = maps.roll(shift, (1, 2))
    return maps[:, :height, :width]


def shift_mask(size: tuple[int, int], window: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """[n, N, N], to be added to scores: 0 between places of a shifted window that were neighbours in the map, APART
    between others. like: gives dtype and device."""
    zones = []
    for side, by in zip(size, shift, strict=True):
        place = torch.arange(-(-side // window) * window, device=like.device)
        zones.append((place >= len(place) - window).int() + (place >= len(place) - by).int())
    zone = (zones[0][:, None] * 3 + zones[1])[None, :, :, None]  # [1, H', W', 1]
    zone = to_windows(zone, window, (0, 0)).squeeze(2)  # [n, N]
    return (zone[:, :, None] != zone[:, None]).to(like.dtype) * APART


def relative_index(window: int, device: torch.device) -> Tensor:
    """[N * N]: for each pair of places, where its offset stands among the (2 window - 1)^2, row by row."""
    return relative_offsets((window, window), device).flatten()


def score_bias(table: Tensor, index: Tensor, mask: Tensor | None, windows: Tensor) -> Tensor:
    """What is added to the scores: a value of `table` [(2 window - 1)^2, heads] for each pair of places, and the mask
    [n, N, N] of shifted windows. windows: [B * n, N, C]. Returns [1 or B * n, heads, N, N]."""
    count = windows.shape[1]
    bias = table[index].reshape(1, count, count, -1).permute(0, 3, 1, 2)  # [1, heads, N, N]
    if mask is None:
        return bias.contiguous()
    bias = bias + mask[:, None]  # [n, heads, N, N]
    return bias.repeat(windows.shape[0] // mask.shape[0], 1, 1, 1)


def table_window(table: Tensor) -> int | None:
    """The side of the windows that a table of biases [(2 window - 1)^2, heads] belongs to; None where it is none."""
    side = math.isqrt(len(table)) if table.ndim == 2 else 0
    return (side + 1) // 2 if side % 2 and side**2 == len(table) else None


def resize_bias_table(table: Tensor, new_window: int) -> Tensor:
    """Bicubic resampling of a table [(2 window - 1)^2, heads] to [(2 new_window - 1)^2, heads], as the authors do."""
    window = (math.isqrt(len(table)) + 1) // 2
    return resize_offsets(table, (window, window), (new_window, new_window))
