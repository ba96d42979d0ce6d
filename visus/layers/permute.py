"""A change of the order of axes, as a layer."""

from __future__ import annotations

from torch import Tensor, nn


class Permute(nn.Module):
    def __init__(self, *axes: int):
        super().__init__()
        self.axes = axes

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(self.axes)
