"""Stochastic depth: a residual branch is left out for some samples in training.

Paper: Huang, Sun, Liu, Sedra, Weinberger, Deep Networks with Stochastic Depth, ECCV 2016, arXiv:1603.09382; here
the survivors are scaled up in training, so that nothing changes in eval.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Sets all of a sample's values to 0 with probability `rate` in training, and scales the others up:
    [B, ...] -> the same shape."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = torch.empty((branch.shape[0], *[1] * (branch.ndim - 1)), dtype=branch.dtype, device=branch.device)
        return branch * keep.bernoulli_(1 - self.rate).div_(1 - self.rate)
