"""Modules side by side: what an Inception module does."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """The same maps through each module, the results in a row: [B, C, H, W] -> [B, C_1 + C_2 + ..., H', W'].

    Parameters bear the names under which the modules are given. No branch may change its input in place.
    """

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([branch(maps) for branch in self.children()], 1)
