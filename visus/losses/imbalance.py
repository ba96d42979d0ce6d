"""Losses for classes of very different sizes. Logits in, mean over the batch out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import UserError


def class_weights(counts: Sequence[int] | Tensor, kind: Literal["balanced", "effective"], *,
                  beta: float = 0.999) -> Tensor:
    """float32 [C]: what an image of each class counts, from the training images n_c of each class.

    balanced: N / (C n_c), so that every class weighs the same and the mean over the images is 1. effective: in
    proportion to (1 - b) / (1 - b^n_c), the inverse of the effective number of images, scaled to the sum C (Cui et al.
    2019, "Class-balanced loss based on effective number of samples", equations 2 and 10, section 4.1). beta in [0, 1):
    0 weighs all classes alike, and towards 1 it becomes `balanced` up to the scale. A class without images counts as
    one with one.
    """
    images = torch.as_tensor(counts, dtype=torch.float64).clamp_min(1)
    if kind == "balanced":
        return (images.sum() / (len(images) * images)).float()
    weights = (1 - beta) / (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), images))
    return (weights * len(images) / weights.sum()).float()


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None) -> Tensor:
    """Softmax focal loss: mean over samples of -sum_k w_k q_k (1 - p_k)^g log p_k, p the softmax (Lin et al. 2017,
    "Focal loss for dense object detection", equation 5, for C classes that exclude one another).

    logits: float [B, C]. targets: int64 [B], or float [B, C] whose rows sum to 1 (mixed images). gamma >= 0: 0 is the
    cross-entropy. class_weights: float [C], the paper's alpha for each class; the mean is over B, whatever the weights
    sum to. -> scalar, at least 0.
    """
    log_probs = logits.log_softmax(1)
    if not targets.is_floating_point():
        log_p = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)  # [B]
        terms = _focused(log_p, gamma)
        return (terms if class_weights is None else terms * class_weights.to(terms)[targets]).mean()
    terms = targets * _focused(log_probs, gamma)  # [B, C]
    return (terms if class_weights is None else terms * class_weights.to(terms)).sum(1).mean()


def sigmoid_focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Sigmoid focal loss: mean over B and K of -a_t (1 - p_t)^g log p_t, where p_t is the sigmoid of the logit for a
    yes and 1 minus it for a no (Lin et al. 2017, equation 5).

    logits: float [B, K]. targets: [B, K] in [0, 1], or int64 [B], one label, taken as one yes among K. gamma >= 0.
    alpha in [0, 1]: a_t is alpha for a yes and 1 - alpha for a no; None: both 1. -> scalar, at least 0. The paper
    divides by the number of objects instead of by B K. Raises UserError for targets of another shape.
    """
    targets = yes_or_no(logits, targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probs = logits.sigmoid()
    p_t = probs * targets + (1 - probs) * (1 - targets)
    terms = entropy * (1 - p_t) ** gamma
    if alpha is not None:
        terms = terms * (alpha * targets + (1 - alpha) * (1 - targets))
    return terms.mean()


def class_balanced(logits: Tensor, targets: Tensor, *, class_counts: Tensor | None = None,
                   beta: float = 0.999) -> Tensor:
    """Class-balanced softmax cross-entropy: mean over samples of -w_y log softmax(z)_y, w the `effective` weights of
    `class_weights` (Cui et al. 2019, equation 10).

    logits: float [B, C]. targets: int64 [B]. class_counts: training images of each class [C]; None: all alike, the
    cross-entropy. -> scalar, at least 0. Raises UserError for soft labels.
    """
    _whole_labels(targets, "class_balanced")
    terms = F.cross_entropy(logits, targets, reduction="none")
    if class_counts is not None:
        terms = terms * class_weights(class_counts, "effective", beta=beta).to(terms)[targets]
    return terms.mean()


def logit_adjusted(logits: Tensor, targets: Tensor, *, class_counts: Tensor | None = None, tau: float = 1.0) -> Tensor:
    """Cross-entropy of the logits plus tau log pi_c, pi the shares of the classes in training: the answers then need
    no shares (Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10).

    logits: float [B, C]. targets: int64 [B]. class_counts: training images of each class [C]; None: all alike.
    tau >= 0: 0 is the cross-entropy. -> scalar, at least 0. Raises UserError for soft labels.
    """
    _whole_labels(targets, "logit_adjusted")
    if class_counts is not None:
        images = class_counts.to(logits).clamp_min(1)
        logits = logits + tau * (images / images.sum()).log()
    return F.cross_entropy(logits, targets)


def yes_or_no(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, K] of the logits' type, a number in [0, 1] per class: of such targets, or of int64 [B], one yes among K.
    Raises UserError for targets of another shape."""
    if targets.ndim == 1 and not targets.is_floating_point():
        targets = F.one_hot(targets, logits.shape[1])
    if targets.shape != logits.shape:
        raise UserError(f"targets of {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}", where="loss",
                        remedy="Give one class number per image, or one number in [0, 1] per image and class")
    return targets.to(logits.dtype)


def _focused(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^g log p, with a finite gradient where p rounds to 1."""
    if gamma == 0:
        return -log_p
    return -((1 - log_p.exp()).clamp_min(torch.finfo(log_p.dtype).eps) ** gamma) * log_p


def _whole_labels(targets: Tensor, name: str) -> None:
    if targets.is_floating_point():
        raise UserError(f"{name} takes one whole label per image, not soft labels", where="loss",
                        remedy="Use focal or cross_entropy with mixup and cutmix, or switch them off")
