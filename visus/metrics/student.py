"""Student's t distribution, and the interval of a mean of few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """mean and standard deviation (n - 1) of n numbers; low and high: the interval of the mean, None for n = 1.
    half: its half width."""

    mean: float
    std: float
    count: int
    low: float | None
    high: float | None

    @property
    def half(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], *, level: float = 0.95, overlap: float = 0.0) -> MeanInterval:
    """mean +- t(n - 1) s sqrt(1 / n + overlap).

    overlap: of cross-validation the ratio of held out to training samples: trainings that share samples are not
    independent, and their mean is known less well than n numbers would have it (Nadeau and Bengio 2003, "Inference for
    the generalization error", section 3, the corrected resampled t). 0: the plain interval of n independent numbers.
    """
    x = np.asarray(values, np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return MeanInterval(mean, 0.0, n, None, None)
    std = float(x.std(ddof=1))
    half = t_quantile((1 + level) / 2, n - 1) * std * math.sqrt(1 / n + overlap)
    return MeanInterval(mean, std, n, mean - half, mean + half)


def t_quantile(p: float, df: float) -> float:
    """The number that Student's t with `df` degrees of freedom stays below with probability p, 0 < p < 1."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_below(high, df) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_below(t: float, df: float) -> float:
    """P(T <= t): 1 - I_x(df / 2, 1 / 2) / 2 with x = df / (df + t^2), for t >= 0."""
    tail = incomplete_beta(df / (df + t * t), df / 2, 0.5) / 2
    return 1 - tail if t >= 0 else tail


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1 (DLMF 8.17.22, its continued fraction)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other side converges fast
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) / a
    # 1 / (1 + d_1 / (1 + d_2 / ...)), evaluated from the end
    value = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1 + odd / (1 + even / value)
    return front / value
