"""What pyramids of patches have in common: cutting into patches, 2 x 2 neighbours gathered, maps of every stage.

Paper: Liu et al., Swin Transformer, ICCV 2021, arXiv:2103.14030, section 3.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from visus.layers.feature_sequential import FeatureSequential
from visus.layers.permute import Permute


def patch_stem(in_channels: int, dim: int, patch_size: int, eps: float = 1e-5) -> nn.Sequential:
    """images [B, C, S, S] -> normalised patches [B, S / patch_size, S / patch_size, dim]."""
    return nn.Sequential(nn.Conv2d(in_channels, dim, patch_size, patch_size), Permute(0, 2, 3, 1),
                         nn.LayerNorm(dim, eps=eps))


def gather_neighbours(maps: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H / 2, W / 2, 4 C]: the upper left of each 2 x 2 places, the lower left, the upper right, the
    lower right. Odd sides are filled up with zeros."""
    batch, height, width, dim = maps.shape
    if height % 2 or width % 2:
        maps = F.pad(maps, (0, 0, 0, width % 2, 0, height % 2))
    maps = maps.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, dim)
    return maps.permute(0, 1, 3, 4, 2, 5).flatten(3)


class PyramidSequential(FeatureSequential):
    """FeatureSequential whose layers work on [B, H, W, C]; the maps that it gives are [B, C, H, W]."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [maps.permute(0, 3, 1, 2) for maps in super().forward(images)]
