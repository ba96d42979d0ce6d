"""Dropout on the inputs of a generalised linear model is, nearly, an L2 penalty that adapts to the data.

A model with log-partition A gives an example x with label y the loss A(x . beta) - y x . beta: linear regression has
A(z) = z^2 / 2, logistic regression log(1 + e^z), Poisson regression e^z. Dropout puts x * mask / (1 - share) in the
place of x. That does not move the mean of x . beta, so that what it adds to the loss, on the mean over masks, is

    R = sum_i E[A(x~_i . beta)] - A(x_i . beta)

whatever the labels, and to second order, with the variance of x~_ij being share / (1 - share) x_ij^2,

    R_q = 1/2 share / (1 - share) sum_j beta_j^2 sum_i A''(x_i . beta) x_ij^2

an L2 penalty whose weights are the diagonal of the Fisher information X^T diag(A'') X: rare features, and those of
examples that the model is sure of, cost little. For linear regression R_q is R.

Wager, Wang, Liang, Dropout Training as Adaptive Regularization, NIPS 2013, sections 2 and 3, equations 5 and 11.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visus.core.errors import UserError, did_you_mean

Array = NDArray[np.float64]
MOST_EXACT = 16  # features: 65,536 masks


@dataclass(frozen=True)
class Family:
    """A generalised linear model by its log-partition A and the two derivatives of that, the mean and the variance."""

    partition: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]


def _logistic(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


FAMILIES = {
    "linear": Family(lambda z: z * z / 2, lambda z: z, np.ones_like),
    "logistic": Family(lambda z: np.logaddexp(0.0, z), _logistic, lambda z: _logistic(z) * (1 - _logistic(z))),
    "poisson": Family(np.exp, np.exp, np.exp),
}


def quadratic_penalty(x: Array, beta: Array, share: float, family: str = "logistic") -> float:
    """R_q of x [N, D] and beta [D] for dropout of `share` in [0, 1)."""
    fisher = (_family(family).curvature(x @ beta)[:, None] * x * x).sum(0)  # [D], the diagonal
    return float(0.5 * _variance(share) * (fisher * beta * beta).sum())


def sampled_penalty(x: Array, beta: Array, share: float, family: str = "logistic", draws: int = 1000,
                    seed: int = 0) -> tuple[float, float]:
    """R by the mean over `draws` masks for each example, and the standard error of that mean. Of each draw the term of
    first order, whose mean is 0, is taken off: a tenth of the error for the same draws."""
    model, rng = _family(family), np.random.default_rng(seed)
    _variance(share)
    z = x @ beta
    clean, slope = model.partition(z), model.slope(z)
    sums = np.empty(draws)
    for k in range(draws):
        noisy = (x * (rng.random(x.shape) >= share) / (1 - share)) @ beta
        sums[k] = (model.partition(noisy) - clean - slope * (noisy - z)).sum()
    return float(sums.mean()), float(sums.std(ddof=1) / np.sqrt(draws))


def exact_penalty(x: Array, beta: Array, share: float, family: str = "logistic") -> float:
    """R over all 2^D masks with their probabilities. Raises UserError for more than 16 features."""
    features = x.shape[1]
    if features > MOST_EXACT:
        raise UserError(f"has {features} features: all masks are counted for at most {MOST_EXACT}", where="x",
                        remedy="Use sampled_penalty")
    partition = _family(family).partition
    _variance(share)
    total = np.zeros(len(x))
    for bits in itertools.product((0.0, 1.0), repeat=features):
        kept = np.array(bits)
        probability = (1 - share) ** kept.sum() * share ** (features - kept.sum())
        total += probability * partition((x * kept / (1 - share)) @ beta)
    return float((total - partition(x @ beta)).sum())


def penalty_table(x: Array, beta: Array, shares: Sequence[float] = (0.1, 0.25, 0.5), family: str = "logistic",
                  draws: int = 1000, seed: int = 0) -> list[dict[str, float]]:
    """For each share: penalty (by drawing masks), error (its standard error), quadratic (R_q), ratio (R_q against
    what was drawn)."""
    rows = []
    for share in shares:
        drawn, error = sampled_penalty(x, beta, share, family, draws, seed)
        near = quadratic_penalty(x, beta, share, family)
        rows.append({"share": share, "penalty": drawn, "error": error, "quadratic": near,
                     "ratio": near / drawn if drawn else float("nan")})
    return rows


def _variance(share: float) -> float:
    if not 0 <= share < 1:
        raise UserError("must be at least 0 and below 1", where=f"share={share}")
    return share / (1 - share)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError("is no generalised linear model that is known here", where=f"family={name!r}",
                        remedy=did_you_mean(name, FAMILIES))
    return FAMILIES[name]
