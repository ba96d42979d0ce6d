"""Losses of numbers: squared error (in `layers`), absolute error, and smooth L1 between them.

Why the squared error is fragile: its gradient grows with the error, so that one wild target outweighs all others, and
the constant that fits best is the mean, which one example can move anywhere. The absolute error pulls with the same
force from any distance; its best constant is the median, which half of the examples must conspire to move. Smooth L1 is
the square close to 0, where the absolute error has a kink, and the absolute error beyond.

predictions, targets: [N, ...]; each loss sums over an example's entries and is the mean over examples.

Sources: Stanford CS231n notes, "Neural Networks Part 2: Setting up the Data and the Loss"; Huber 1964; Girshick, Fast
R-CNN, ICCV 2015, equation 3.
"""

from __future__ import annotations

import numpy as np

from visus.core.errors import UserError


def l1_loss(predictions: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over examples of sum |prediction - target|; its gradient is the sign over N, 0 at the kink."""
    difference = _difference(predictions, targets)
    return float(np.abs(difference).sum() / len(predictions)), np.sign(difference) / len(predictions)


def smooth_l1_loss(predictions: np.ndarray, targets: np.ndarray, beta: float = 1.0) -> tuple[float, np.ndarray]:
    """0.5 d^2 / beta where |d| < beta, else |d| - 0.5 beta: value and slope meet at beta. Its gradient is d / beta cut
    to [-1, 1], over N. beta: above 0; Fast R-CNN has 1."""
    if beta <= 0:
        raise UserError(f"beta is {beta}", where="smooth_l1_loss", remedy="It is above 0; at 0 use l1_loss")
    difference = _difference(predictions, targets)
    size = np.abs(difference)
    losses = np.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)
    return float(losses.sum() / len(predictions)), np.clip(difference / beta, -1, 1) / len(predictions)


def best_constants(targets: np.ndarray) -> dict[str, float]:
    """The number that minimises each loss over targets [N]: the mean for "l2", the median for "l1"."""
    return {"l2": float(np.mean(targets)), "l1": float(np.median(targets))}


def _difference(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if predictions.shape != targets.shape or not len(predictions):
        raise UserError(f"targets of shape {targets.shape} for predictions of shape {predictions.shape}",
                        where="targets", remedy="Both have the same shape, with at least one example")
    return predictions - targets
