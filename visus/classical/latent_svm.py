"""A linear support vector machine whose examples are chosen anew as it learns: the latent SVM's inner step.

Paper: Felzenszwalb, Girshick, McAllester and Ramanan, TPAMI 2010, section 4: with the positives in place, the
objective 1/2 |w|^2 + C sum max(0, 1 - y w x) is convex; examples that are far on their right side are dropped from
the cache and hard ones put in, until none is left. Here the hinge is squared, which is smooth enough for L-BFGS with a
line search, and weights that must stay above a bound (costs of moving) are held there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visus.core.validate import require


def objective(weights: Tensor, features: Tensor, signs: Tensor, cost: Tensor | float) -> Tensor:
    """1/2 |w|^2 + sum of cost max(0, 1 - y w x)^2. weights: [D]; features: [N, D]; signs: 1 or -1, [N]; cost: of all or
    of each, [N]."""
    return 0.5 * weights.square().sum() + (cost * (1 - signs * (features @ weights)).clamp(min=0).square()).sum()


def fit_svm(features: Tensor, signs: Tensor, cost: Tensor | float, start: Tensor | None = None,
            lowest: Tensor | None = None, steps: int = 100) -> Tensor:
    """The weights [D] of least `objective`. start: [D], where to begin. lowest: [D], bounds from below or -inf."""
    require(len(features) == len(signs) > 0, "features", tuple(features.shape), "be one row for each of some signs")
    weights = (torch.zeros_like(features[0]) if start is None else start.clone()).requires_grad_()
    solver = torch.optim.LBFGS([weights], max_iter=steps, history_size=10, tolerance_grad=1e-5, tolerance_change=1e-9,
                               line_search_fn="strong_wolfe")

    def bounded() -> Tensor:
        return weights if lowest is None else weights.maximum(lowest)

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(bounded(), features, signs, cost)
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        solver.step(closure)
    return bounded().detach()


def hard(features: Tensor, weights: Tensor, margin: float = 1.0) -> Tensor:
    """Which negatives [N, D] are not yet beyond their margin, bool [N]: those that stay in the cache."""
    return features @ weights > -margin
