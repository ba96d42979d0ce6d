"""Losses of numbers. predictions, targets: float [B, ...] of one shape; each sums over the entries of a sample and is
the mean over the batch.

The gradient of `l2` grows with the error: one wild target outweighs the rest. That of `l1` has one size everywhere and
a kink at 0. `smooth_l1` is the square below beta and the absolute value beyond.

Sources: Huber 1964; Girshick, Fast R-CNN, ICCV 2015, equation 3.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import UserError


def l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of sum |prediction - target|. -> scalar, at least 0."""
    _check(predictions, targets)
    return F.l1_loss(predictions, targets, reduction="sum") / len(predictions)


def l2(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of sum (prediction - target)^2. -> scalar, at least 0."""
    _check(predictions, targets)
    return F.mse_loss(predictions, targets, reduction="sum") / len(predictions)


def smooth_l1(predictions: Tensor, targets: Tensor, *, beta: float = 1.0) -> Tensor:
    """Mean over samples of the sum of 0.5 d^2 / beta where |d| < beta, else |d| - 0.5 beta. beta: above 0, 1 in Fast
    R-CNN. -> scalar, at least 0. Raises UserError for another beta or shapes that differ."""
    _check(predictions, targets)
    if beta <= 0:
        raise UserError("must be above 0", where=f"beta={beta}", remedy="Use l1 in the place of a beta of 0")
    return F.smooth_l1_loss(predictions, targets, reduction="sum", beta=beta) / len(predictions)


def _check(predictions: Tensor, targets: Tensor) -> None:
    if predictions.shape != targets.shape or not len(predictions):
        raise UserError(f"targets of shape {tuple(targets.shape)} for predictions of shape {tuple(predictions.shape)}",
                        where="targets", remedy="Both have the same shape, with at least one sample")
