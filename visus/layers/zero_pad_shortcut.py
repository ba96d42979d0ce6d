"""The shortcut without parameters of residual networks.

Paper: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 3.3,
option A.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ZeroPadShortcut(nn.Module):
    """[B, C, H, W] -> [B, C + extra, H / stride, W / stride]: every stride-th place, zeros for the new channels."""

    def __init__(self, extra: int, stride: int = 2):
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.extra))
