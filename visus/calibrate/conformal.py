"""Split conformal prediction: sets of classes that hold the true one with a chosen probability, whatever the model.

Papers: LAC: Sadinle, Lei, Wasserman, Least Ambiguous Set-Valued Classifiers with Bounded Error Levels, JASA 2019,
arXiv:1609.00451. APS: Romano, Sesia, Candes, Classification with Valid and Adaptive Coverage, NeurIPS 2020,
arXiv:2006.02544. RAPS: Angelopoulos, Bates, Malik, Jordan, Uncertainty Sets for Image Classifiers using Conformal
Prediction, ICLR 2021, arXiv:2009.14193.

A score s(x, y) says how badly class y fits x. With q the ceil((n + 1)(1 - alpha))-th smallest score of n calibration
samples at their true classes, the set {y: s(x, y) <= q} holds the true class with probability at least 1 - alpha, and
at most 1 - alpha + 1 / (n + 1) where no scores tie, over the draw of calibration and test samples, if those are
exchangeable. It says nothing of one class or one group of images.

Departure: RAPS's k and lambda are given, not searched for on a third set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visus.core.errors import UserError
from visus.core.validate import require
from visus.metrics.bootstrap import LEVEL
from visus.metrics.counts import ratio
from visus.metrics.significance import wilson_interval

ROWS = 4096  # samples at a time where [N, C] scores are made


@dataclass(frozen=True, kw_only=True)
class Lac:
    """s = 1 - p_y: the smallest sets on average; easy images can have none, hard ones few."""

    name: ClassVar[str] = "lac"

    def __call__(self, probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Scores of all classes. probs: [N, C]; uniforms: [N], unused. -> float64 [N, C]."""
        return 1 - np.asarray(probs, np.float64)


@dataclass(frozen=True, kw_only=True)
class Aps:
    """s = the probability of the classes above y + u p_y, u uniform in [0, 1] (Romano et al., equation 7): sets that
    grow with the difficulty of an image. randomised=False takes u = 1: larger sets that cover too much."""

    randomised: bool = True
    name: ClassVar[str] = "aps"

    def __call__(self, probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return _accumulated(probs, uniforms if self.randomised else np.ones(len(probs)))[0]


@dataclass(frozen=True, kw_only=True)
class Raps:
    """APS + penalty * (rank of y - free_ranks)^+ (Angelopoulos et al., equation 4): the tail of unlikely classes is
    left out. free_ranks is k_reg, penalty is lambda of the paper."""

    penalty: float = 0.01
    free_ranks: int = 5
    randomised: bool = True
    name: ClassVar[str] = "raps"

    def __post_init__(self) -> None:
        require(self.penalty >= 0, "penalty", self.penalty, "be a number of at least 0")
        require(self.free_ranks >= 0, "free_ranks", self.free_ranks, "be a whole number of at least 0")

    def __call__(self, probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        scores, rank = _accumulated(probs, uniforms if self.randomised else np.ones(len(probs)))
        return scores + self.penalty * np.maximum(0, rank - self.free_ranks)


Score = Lac | Aps | Raps


def _accumulated(probs: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sum of the larger probabilities + u p, rank from 1) of each class, [N, C] each. Of equal probabilities the class
    with the lower number comes first."""
    probs = np.asarray(probs, np.float64)
    order = np.argsort(-probs, axis=1, kind="stable")
    ordered = np.take_along_axis(probs, order, 1)
    sums = np.cumsum(ordered, 1) - (1 - uniforms[:, None]) * ordered
    scores, rank = np.empty_like(sums), np.empty(sums.shape, np.int64)
    np.put_along_axis(scores, order, sums, 1)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(1, probs.shape[1] + 1), sums.shape), 1)
    return scores, rank


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """A score with the threshold that calibration gave it. count: calibration samples; threshold: infinite where they
    are too few for this alpha, and every set then holds all classes."""

    score: Score
    alpha: float
    threshold: float
    count: int

    def sets(self, probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """bool [N, C]: the classes of each sample's set. uniforms: float [N] in [0, 1)."""
        if math.isinf(self.threshold):
            return np.ones(probs.shape, bool)
        return np.concatenate([self.score(probs[i:i + ROWS], uniforms[i:i + ROWS]) <= self.threshold
                               for i in range(0, len(probs), ROWS)])


def conformal_quantile(scores: np.ndarray, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest of n scores; infinite where that is more than n."""
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    return math.inf if rank > len(scores) else float(np.partition(scores, rank - 1)[rank - 1])


def fit_conformal(score: Score, probs: np.ndarray, targets: np.ndarray, uniforms: np.ndarray,
                  alpha: float = 0.1) -> Conformal:
    """The threshold for sets that miss the true class with probability alpha at most.

    probs: [N, C] of samples that the model was not trained on. targets: integers [N]. uniforms: [N] in [0, 1).
    """
    if not 0 < alpha < 1:
        raise UserError("must lie between 0 and 1", where=f"alpha={alpha!r}", remedy="0.1 asks for 90 % coverage")
    own = np.concatenate([np.take_along_axis(score(probs[i:i + ROWS], uniforms[i:i + ROWS]),
                                             np.asarray(targets)[i:i + ROWS, None], 1)[:, 0]
                          for i in range(0, len(probs), ROWS)])
    return Conformal(score=score, alpha=alpha, threshold=conformal_quantile(own, alpha), count=len(own))


def expected_coverage(calibration: int, tests: int, alpha: float, level: float = LEVEL) -> tuple[float, float]:
    """Between what the coverage on `tests` samples lies with probability `level` after calibration on so many, where
    no scores tie: the number covered is beta-binomial, with Beta(k, n + 1 - k), k = ceil((n + 1)(1 - alpha)) (Vovk,
    Conditional Validity of Inductive Conformal Predictors, 2012)."""
    k = math.ceil((calibration + 1) * (1 - alpha) - 1e-9)
    if k > calibration:
        return 1.0, 1.0
    a, b, x = k, calibration + 1 - k, np.arange(tests)
    log_ratio = np.log((tests - x) * (x + a)) - np.log((x + 1) * (tests - x - 1 + b))  # ln P(x + 1) / P(x)
    log_p = np.concatenate([[0.0], np.cumsum(log_ratio)])
    p = np.exp(log_p - log_p.max())
    cumulative = np.cumsum(p) / p.sum()
    low, high = np.searchsorted(cumulative, [(1 - level) / 2, (1 + level) / 2])
    return float(low / tests), float(min(high, tests) / tests)


def measure_sets(sets: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """What sets are worth on labelled samples. sets: bool [N, C]. targets: integers [N]. N at least 1.

    coverage with its 95 % interval, mean_size, empty and single (shares of samples), sizes (how many sets of each
    size, 0 to C), worst_class (lowest coverage of a class with samples: {"class", "coverage", "count"}).
    """
    targets, sizes = np.asarray(targets), sets.sum(1)
    held = np.take_along_axis(sets, targets[:, None], 1)[:, 0]
    low, high = wilson_interval(int(held.sum()), len(held))
    counts = np.bincount(targets, minlength=sets.shape[1])
    by_class = ratio(np.bincount(targets, weights=held, minlength=sets.shape[1]), counts)
    worst = int(np.nanargmin(by_class))
    return {"coverage": float(held.mean()), "coverage_low": low, "coverage_high": high,
            "mean_size": float(sizes.mean()), "empty": float((sizes == 0).mean()),
            "single": float((sizes == 1).mean()),
            "sizes": np.bincount(sizes, minlength=sets.shape[1] + 1).tolist(),
            "worst_class": {"class": worst, "coverage": float(by_class[worst]), "count": int(counts[worst])}}
