"""Squeeze and excitation: each channel is scaled by a gate that sees all of them.

Paper: Hu, Shen, Sun, Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507.
"""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Mean over places, two 1 x 1 convolutions, gate: [B, dim, H, W] -> the same shape, channels scaled.

    squeeze_dim: channels between the two. act: after the first; gate: after the second.
    """

    def __init__(self, dim: int, squeeze_dim: int, act: nn.Module, gate: nn.Module):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, squeeze_dim, 1)
        self.act = act
        self.fc2 = nn.Conv2d(squeeze_dim, dim, 1)
        self.gate = gate

    def forward(self, maps: Tensor) -> Tensor:
        means = maps.mean((2, 3), keepdim=True)  # [B, dim, 1, 1]
        return maps * self.gate(self.fc2(self.act(self.fc1(means))))
