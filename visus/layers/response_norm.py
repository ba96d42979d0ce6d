"""Local response normalisation: each value is divided by what its neighbours among the channels amount to.

Paper: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012,
section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha sum of a_j^2 over |j - i| <= size // 2)^beta: [B, D, H, W] -> the same shape.

    The paper's alpha, where torch.nn.LocalResponseNorm takes `size` times it. Half precision is computed in float32, as
    torch's module cannot on the CPU.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0):
        super().__init__()
        assert size % 2 == 1
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, maps: Tensor) -> Tensor:
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        dim, half = maps.shape[1], self.size // 2
        squares = F.pad(wide.square(), (0, 0, 0, 0, half, half))  # [B, dim + 2 half, H, W]
        total = squares[:, :dim]
        for shift in range(1, self.size):
            total = total + squares[:, shift:shift + dim]
        return (wide * (total * self.alpha + self.k).pow(-self.beta)).to(maps.dtype)
