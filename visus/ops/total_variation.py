"""How much neighbouring pixels differ: the prior that pictures are smooth.

Paper: Mahendran, Vedaldi, Understanding Deep Image Representations by Inverting Them, CVPR 2015, arXiv:1412.0035,
section 3.1: the sum over pixels of ((x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2)^(beta / 2); beta = 1 is the
total variation of Rudin, Osher and Fatemi, beta = 2 punishes lone pixels more.
"""

from __future__ import annotations

from torch import Tensor

from visus.core.validate import require


def total_variation(images: Tensor, beta: float = 2.0) -> Tensor:
    """[B, C, H, W] -> [B], summed over channels and those pixels that have a right and a lower neighbour."""
    require(isinstance(beta, int | float) and beta > 0, "beta", beta, "be above 0")
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    below = images[..., 1:, :-1] - images[..., :-1, :-1]
    squared = right.square() + below.square()
    if beta != 2:
        squared = squared.clamp(min=1e-12) ** (beta / 2)  # the root has no slope at 0
    return squared.flatten(1).sum(1)
