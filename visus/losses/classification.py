"""Losses of classifiers. Logits in, mean over the batch out.

`LOSSES` maps the names that recipes use to the functions; `initial_value` says what each is worth before any
training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import RecipeError, UserError, did_you_mean
from visus.losses.imbalance import class_balanced, focal, logit_adjusted, sigmoid_focal, yes_or_no


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy: mean over samples of -sum_k q_k log softmax(z)_k.

    logits: float [B, C]. targets: int64 [B] labels, or float [B, C] soft labels whose rows sum to 1 (mixup,
    teachers). q is the target distribution, smoothed to (1 - a) q + a / C with a = label_smoothing in [0, 1]
    (Szegedy et al. 2016, section 7). class_weights: float [C]; term k of the sum is multiplied by w_k. With
    integer labels the mean is then weighted by w_y (divided by the sum of the w_y); with soft labels it is
    divided by B. -> scalar, at least 0. Computed from log-sum-exp, so that logits of any size give a finite
    loss.
    """
    weight = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits, targets, weight=weight, label_smoothing=label_smoothing)


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, pos_weight: Tensor | None = None
) -> Tensor:
    """Independent yes-or-no per class: mean over B and K of -[p y log s(z) + (1 - y) log(1 - s(z))], s the
    sigmoid.

    logits: float [B, K]. targets: [B, K] in [0, 1] (any real dtype; of several labels, or mixed), or int64
    [B], one label, taken as one yes among K (Wightman et al. 2021, "ResNet strikes back"; DeiT III). y is
    the target smoothed to (1 - a) y + a / K with a = label_smoothing, as `cross_entropy` has it. pos_weight:
    float [K], the factor p of the positive terms (1 without it). -> scalar, at least 0. Computed as
    max(z, 0) - z y + log(1 + exp(-|z|)), finite for any logits. Raises UserError for targets of another shape.
    """
    targets = yes_or_no(logits, targets)
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[1]
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)


def multiclass_hinge(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """Multiclass hinge of Weston and Watkins (1999): mean over samples of sum_{j != y} max(0, z_j - z_y +
    margin).

    logits: float [B, C]. targets: int64 [B]. -> scalar, at least 0.
    A sum over the wrong classes, as in CS231n; torch.nn.MultiMarginLoss divides the same sum by C.
    Raises UserError for soft labels, of which the hinge has no definition.
    """
    return _violations(logits, targets, margin).sum(1).mean()


def squared_hinge(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """Squared multiclass hinge (L2-SVM): mean over samples of sum_{j != y} max(0, z_j - z_y + margin)^2.

    logits: float [B, C]. targets: int64 [B]. -> scalar, at least 0; smooth where the hinge has its kink.
    Equals C times torch.nn.MultiMarginLoss(p=2). Raises UserError for soft labels.
    """
    return _violations(logits, targets, margin).square().sum(1).mean()


def _violations(logits: Tensor, targets: Tensor, margin: float) -> Tensor:
    if targets.is_floating_point():
        raise UserError("the hinge losses take one whole label per image, not soft labels", where="loss",
                        remedy="Use cross_entropy with mixup, cutmix or several labels, or switch them off")
    label = targets.unsqueeze(1)  # [B, 1]
    violations = (logits - logits.gather(1, label) + margin).clamp_min(0)  # [B, C]
    return violations.scatter(1, label, 0.0)


SMOOTHED = (cross_entropy, binary_cross_entropy)  # take soft labels too, hence mixed images
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "multiclass_hinge": multiclass_hinge,
    "squared_hinge": squared_hinge,
    "focal": focal,
    "sigmoid_focal": sigmoid_focal,
    "class_balanced": class_balanced,
    "logit_adjusted": logit_adjusted,
}


def get_loss(name: str, *, label_smoothing: float = 0.0,
             options: Mapping[str, Any] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name, as a function (logits, targets) -> scalar. options: further arguments of that function.

    Raises RecipeError with the nearest names when there is none, and for label smoothing of a hinge.
    """
    if name not in LOSSES:
        raise RecipeError("there is no such loss", where=f"loss={name!r}", remedy=did_you_mean(name, LOSSES))
    if label_smoothing and LOSSES[name] not in SMOOTHED:
        raise RecipeError(f"{name} has no label smoothing", where=f"loss.label_smoothing={label_smoothing}",
                          remedy="Set it to 0, or use cross_entropy or binary_cross_entropy")
    given = dict(options or {}) | ({"label_smoothing": label_smoothing} if label_smoothing else {})
    return partial(LOSSES[name], **given) if given else LOSSES[name]


def initial_value(name: str, num_classes: int, *, margin: float = 1.0) -> float:
    """What the loss is worth when all logits are equal (zero for BCE): a network before training is close to
    it.

    cross_entropy: ln C; binary_cross_entropy: ln 2, both with any label smoothing; multiclass_hinge: (C - 1)
    margin; squared_hinge: (C - 1) margin^2; focal: (1 - 1 / C)^2 ln C; sigmoid_focal: ln 2 / 4; class_balanced,
    logit_adjusted: ln C. Without class weights or counts, gamma 2. Raises RecipeError for an unknown name.
    """
    get_loss(name)
    return {
        "cross_entropy": math.log(num_classes),
        "binary_cross_entropy": math.log(2),
        "multiclass_hinge": (num_classes - 1) * margin,
        "squared_hinge": (num_classes - 1) * margin**2,
        "focal": (1 - 1 / num_classes) ** 2 * math.log(num_classes),
        "sigmoid_focal": math.log(2) / 4,
        "class_balanced": math.log(num_classes),
        "logit_adjusted": math.log(num_classes),
    }[name]
