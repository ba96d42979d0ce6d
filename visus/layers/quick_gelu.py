"""x sigmoid(1.702 x), with which OpenAI's and some other public weights were trained in place of GELU.

Paper: Hendrycks, Gimpel, Gaussian Error Linear Units, 2016, arXiv:1606.08415, section 2 (an approximation of GELU).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEEPNESS = 1.702


class QuickGELU(nn.Module):
    """Any shape -> the same shape. SiLU of 1.702 x, by 1.702: one tensor is kept for the gradient, not two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(STEEPNESS * x).mul_(1 / STEEPNESS)
