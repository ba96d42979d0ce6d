"""The layer that the Inception networks are made of: convolution, batch norm, ReLU, under the names `conv` and `bn`
of their public weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU: [B, in_dim, H, W] -> [B, dim, H', W'].

    kernel: side, or (height, width). padding: by default what keeps H and W at stride 1; 0 for none. eps: of the
    batch norm; by default that of the weights that come from TensorFlow.
    """

    def __init__(self, in_dim: int, dim: int, kernel: int | tuple[int, int], stride: int = 1,
                 padding: int | None = None, eps: float = 1e-3):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (height // 2, width // 2)
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, same if padding is None else padding, bias=False)
        self.bn = nn.BatchNorm2d(dim, eps=eps)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(maps)), inplace=True)
