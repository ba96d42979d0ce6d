"""One loss for two answers: the class of a region and its box, as in Fast R-CNN.

L(p, u, t, v) = -log p_u + weight [u >= 1] sum over x, y, w, h of smooth_L1(t_u - v): a region of class u learns the
four offsets of its own class; background, class 0, has no box, and the indicator [u >= 1] cuts its gradient.

Source: Girshick, Fast R-CNN, ICCV 2015, arXiv:1504.08083, equations 1 to 3.
"""

from __future__ import annotations

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import softmax_loss

Two = tuple[np.ndarray, np.ndarray]


def fast_rcnn_loss(scores: np.ndarray, offsets: np.ndarray, labels: np.ndarray, targets: np.ndarray,
                   weight: float = 1.0, beta: float = 1.0) -> tuple[float, Two]:
    """The mean over regions, and its gradients with respect to scores and offsets.

    scores: [R, K + 1], class 0 the background; offsets: [R, K + 1, 4], a box for each class; labels: [R] from 0;
    targets: [R, 4], not read for background; beta: where smooth L1 turns, 1 in the paper.
    """
    if offsets.shape != (*scores.shape, 4) or targets.shape != (len(scores), 4):
        raise UserError(f"offsets of shape {offsets.shape} and targets of shape {targets.shape} for scores of shape "
                        f"{scores.shape}", where="fast_rcnn_loss", remedy="Pass [R, K + 1, 4] and [R, 4]")
    loss, dscores = softmax_loss(scores, labels)
    rows, count = np.flatnonzero(labels >= 1), len(labels)
    difference = offsets[rows, labels[rows]] - targets[rows]  # [foreground, 4]
    size = np.abs(difference)
    loss += weight * float(np.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta).sum()) / count
    doffsets = np.zeros_like(offsets)
    doffsets[rows, labels[rows]] = weight * np.clip(difference / beta, -1, 1) / count
    return loss, (dscores, doffsets)
