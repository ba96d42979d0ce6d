"""A learning rate for another batch than the one it was found with.

linear       lr * batch / lr_batch: SGD and what scales its step by the gradient (Goyal et al., Accurate, Large
             Minibatch SGD, 2017, section 2.1; LARS: You, Gitman, Ginsburg 2017)
square root  lr * sqrt(batch / lr_batch): rules whose step does not grow with the gradient, as in Adam, where noise
             alone sets the size of the step (Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient
             Algorithms, 2022; LAMB: You et al. 2020, table 4)
"""

from __future__ import annotations

import math

from visus.core.errors import RecipeError

LINEAR = frozenset({"sgd", "asgd", "lars"})
UNSCALED = frozenset({"lbfgs", "sfo", "newton", "rprop", "random_search", "local_search"})
SOURCES = {"linear": "Goyal et al. 2017", "square root": "Malladi et al. 2022"}


def scaling_rule(optimizer: str) -> str | None:
    """'linear' or 'square root'; None for optimizers whose rate does not depend on the noise of a batch."""
    if optimizer in UNSCALED:
        return None
    return "linear" if optimizer in LINEAR else "square root"


def scaled_lr(lr: float, batch: int, lr_batch: int, optimizer: str) -> tuple[float, str]:
    """The rate for updates from `batch` images, of all processes and accumulated batches together, and how it came
    about in words. lr_batch: the images per update that `lr` is meant for. Raises RecipeError for an optimizer
    without a rule."""
    rule = scaling_rule(optimizer)
    if rule is None:
        raise RecipeError(f"there is no rule that scales the rate of {optimizer} with the batch",
                          where=f"optimizer.lr_batch={lr_batch}", remedy="Leave optimizer.lr_batch out")
    ratio = batch / lr_batch
    scaled = lr * (ratio if rule == "linear" else math.sqrt(ratio))
    return scaled, (f"learning rate {lr:g} is meant for batches of {lr_batch}, this run has {batch} per update: "
                    f"{scaled:.6g} by the {rule} scaling rule ({SOURCES[rule]})")
