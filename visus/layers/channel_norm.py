"""Layer norm for maps: over the channels, in each place by itself.

Paper: Ba, Kiros, Hinton, Layer Normalization, 2016, arXiv:1607.06450; over channels as in Liu et al., A ConvNet for
the 2020s, CVPR 2022, arXiv:2201.03545.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """[B, dim, H, W] -> the same shape."""

    def forward(self, maps: Tensor) -> Tensor:
        places = maps.permute(0, 2, 3, 1)  # [B, H, W, dim]
        normed = F.layer_norm(places, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)
