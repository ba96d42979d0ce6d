"""The multi-task loss of Fast R-CNN: what a region is and where, in one number.

L(p, u, t, v) = -log p_u + weight [u >= 1] sum over x, y, w, h of smooth_L1(t_u - v). Background, u = 0, has no box: the
indicator [u >= 1] keeps it out of the second term.

Girshick, Fast R-CNN, ICCV 2015, arXiv:1504.08083, equations 1 to 3; weight 1 and beta 1 are the paper's, whose targets
have unit variance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import UserError


def fast_rcnn(logits: Tensor, offsets: Tensor, labels: Tensor, targets: Tensor, *, weight: float = 1.0,
              beta: float = 1.0) -> Tensor:
    """Mean over regions. -> scalar, at least 0.

    logits: float [R, K + 1], class 0 the background. offsets: float [R, 4 (K + 1)] or [R, K + 1, 4], a box for each
    class. labels: int64 [R]. targets: float [R, 4], not read for background. Without any foreground the second term is
    0 and its gradient 0, not NaN. Raises UserError for shapes that do not fit, a weight below 0, a beta not above 0.
    """
    count, classes = logits.shape
    if offsets.numel() != count * classes * 4 or targets.shape != (count, 4) or labels.shape != (count,) or not count:
        raise UserError(f"offsets of shape {tuple(offsets.shape)}, labels of {tuple(labels.shape)} and targets of "
                        f"{tuple(targets.shape)} for logits of {tuple(logits.shape)}", where="fast_rcnn",
                        remedy="Pass [R, 4 (K + 1)], [R] and [R, 4] for logits [R, K + 1]")
    if weight < 0 or beta <= 0:
        raise UserError(f"weight is {weight} and beta is {beta}", where="fast_rcnn",
                        remedy="weight is at least 0 and beta above 0")
    foreground = labels >= 1
    own = offsets.reshape(count, classes, 4)[torch.arange(count, device=labels.device), labels]  # [R, 4]
    boxes = F.smooth_l1_loss(own[foreground], targets[foreground], reduction="sum", beta=beta) / count
    return F.cross_entropy(logits, labels) + weight * boxes
