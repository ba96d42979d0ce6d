"""Is a difference more than chance: exact tests of paired answers, paired bootstrap, correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from visus.metrics.bootstrap import LEVEL, interval, resample_counts

TIE = 1e-9  # of ln P: outcomes whose probabilities differ by rounding alone are equally probable


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two classifiers on the same samples. only_first, only_second: how many samples that one alone gets right;
    exact, mid_p: two-sided p-values of the hypothesis that both are right equally often."""

    only_first: int
    only_second: int
    exact: float
    mid_p: float


@dataclass(frozen=True, slots=True)
class Difference:
    """second - first on the same samples: the value, its 95 % percentile interval and the two-sided p-value of the
    paired bootstrap."""

    value: float
    low: float
    high: float
    p: float


def binomial_log_pmf(n: int, p: float = 0.5) -> np.ndarray:
    """float64 [n + 1]: ln of the probability of k successes in n trials, k = 0..n. p in (0, 1)."""
    k = np.arange(1, n + 1, dtype=np.float64)
    ways = np.concatenate([[0.0], np.cumsum(np.log(n - k + 1) - np.log(k))])  # ln of n over k
    successes = np.arange(n + 1)
    return ways + successes * math.log(p) + (n - successes) * math.log1p(-p)


def binomial_test(successes: int, n: int, p: float = 0.5) -> float:
    """Two-sided exact p-value: the probability of all outcomes at most as probable as this one; 1 for n = 0."""
    log_pmf = binomial_log_pmf(n, p)
    return min(1.0, float(np.exp(log_pmf[log_pmf <= log_pmf[successes] + TIE]).sum()))


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test (1947) in its exact form, and the mid-p form of Fagerland, Lydersen and Laake (2013), which is
    less cautious and recommended by them.

    first, second: bool [N], whether each classifier is right. Of the n samples that one alone gets right, the number
    of the first's is binomial with 1/2 when both are right equally often. mid-p = exact - P(this very outcome).
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    log_pmf = binomial_log_pmf(b + c)
    exact = min(1.0, 2 * float(np.exp(log_pmf[:min(b, c) + 1]).sum()))
    here = float(np.exp(log_pmf[min(b, c)]))
    if b == c:  # the exact value is cut to 1; half of this outcome goes (Fagerland et al., section 2)
        return McNemar(b, c, exact, 1.0 if b == 0 else 1.0 - here / 2)
    return McNemar(b, c, exact, exact - here)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] | None = None,
                     resamples: int = 2000, seed: int = 0) -> Difference:
    """The difference of two statistics of the same samples, drawn together (Efron and Tibshirani 1993, chapter 15).

    first, second: float64 [N] or [N, M], a row per sample; statistic turns means over samples, [..., M], into numbers,
    [...]; without it the mean of an [N] array is taken. p = 2 min(P(d <= 0), P(d >= 0)) over the resamples, each count
    with 1 added to it, as R + 1 are counted: no p-value is 0.
    """
    a, b = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (first, second))
    assert a.shape == b.shape and len(a) > 0
    of = statistic or (lambda means: means[..., 0])
    both = np.concatenate([a, b], 1)
    drawn, width = bootstrap_means(both, resamples, seed), a.shape[1]
    return difference(float(of(a.mean(0))), float(of(b.mean(0))), of(drawn[:, :width]), of(drawn[:, width:]))


def bootstrap_means(columns: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """float64 [R, M]: the mean of each column in each resample of the rows. columns: [N, M]. All columns are drawn
    together, so that any two of them can be compared in pairs."""
    return np.concatenate([weights.numpy().T.astype(np.float64) @ columns / len(columns)
                           for weights in resample_counts(len(columns), resamples, seed)])


def difference(first: float, second: float, drawn_first: np.ndarray, drawn_second: np.ndarray) -> Difference:
    """second - first, from their values in the same resamples, each [R]."""
    drawn = drawn_second - drawn_first
    low, high = interval(drawn) or (second - first, second - first)
    slack = 1e-12 * max(1.0, float(np.abs(drawn_first).max()))  # equal answers differ by rounding alone
    tail = min(int((drawn <= slack).sum()), int((drawn >= -slack).sum()))
    return Difference(second - first, low, high, min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values, float64 [M], such that rejecting those below a level keeps the chance of any false rejection
    among the M tests below it (Holm 1979): the smallest times M, the next times M - 1, ..., never decreasing."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def wilson_interval(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share hits / count (Wilson 1927); (0, 1) for count 0. It holds up at shares of 0 and 1."""
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, z2 = hits / count, z * z / count
    middle = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)
