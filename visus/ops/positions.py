"""Position embeddings of patch grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int],
                     num_prefix: int) -> Tensor:
    """Bicubic resampling (antialiased) of learned position embeddings to another grid of patches.

    positions: [1, num_prefix + h * w, C]; grid: (h, w); new_grid: (h', w'); the first num_prefix rows belong
    to tokens that are no patch (class token) and are kept. Returns [1, num_prefix + h' * w', C].
    Source: Dosovitskiy et al., ICLR 2021, section 3.2 (the paper says "2D interpolation" and no more).
    """
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    maps = patches.reshape(1, *grid, -1).permute(0, 3, 1, 2)  # [1, C, h, w]
    maps = F.interpolate(maps.float(), size=new_grid, mode="bicubic", antialias=True)
    patches = maps.to(positions.dtype).permute(0, 2, 3, 1).flatten(1, 2)  # [1, h' * w', C]
    return torch.cat([prefix, patches], dim=1)
