"""Do two samples come from one distribution, and how far apart are they? From counts in shared bins, or from points.

Sources: Kolmogorov-Smirnov with Stephens' correction (1970); Pearson's chi-squared (1900), its tail by the incomplete
gamma function (Abramowitz and Stegun 6.5.29, 6.5.31); Benjamini and Hochberg (1995); maximum mean discrepancy, Gretton
et al., JMLR 13 (2012), equation 3; Frechet distance of two normal distributions, Dowson and Landau (1982); black-box
shift estimation, Lipton et al., ICML 2018, arXiv:1802.03916; average thresholded confidence, Garg et al., ICLR 2022,
arXiv:2201.04234; difference of confidences, Guillory et al., ICCV 2021, arXiv:2107.03315. NumPy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEAST_EXPECTED = 5.0  # of a class in the chi-squared test; rarer ones are taken together (Cochran 1954)
PSI_BINS = 10
KS_EFFICIENCY = 0.64  # of the Kolmogorov-Smirnov test for a shift of a normal mean, beside Student's (Pitman)


def shared_counts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [N] and [M] as counts [bins] of the values that occur in either, in their order."""
    values, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    return (np.bincount(place[:len(a)], minlength=len(values)), np.bincount(place[len(a):], minlength=len(values)))


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(largest distance of the two distribution functions, its p-value). a, b: counts [bins], each of sum 1 or more.

    Values that share a bin are ties, which make the p-value larger than it need be, never smaller.
    """
    n, m = int(a.sum()), int(b.sum())
    distance = float(np.abs(np.cumsum(a) / n - np.cumsum(b) / m).max())
    size = math.sqrt(n * m / (n + m))
    x = (size + 0.12 + 0.11 / size) * distance
    if x < 0.2:
        return distance, 1.0
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return distance, min(max(p, 0.0), 1.0)


def chi_squared_tail(statistic: float, freedom: int) -> float:
    """P(X >= statistic) for X of the chi-squared distribution."""
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:  # 6.5.29: the lower tail as a series
        term = total = 1 / a
        k = a
        while abs(term) > 1e-16 * abs(total):
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1 - front * total)
    b, tiny = x + 1 - a, 1e-300  # 6.5.31: the upper tail as a continued fraction, evaluated as Lentz did (1976)
    c, d = 1 / tiny, 1 / b
    value = d
    for k in range(1, 10_000):
        over = -k * (k - a)
        b += 2
        d = 1 / (over * d + b or tiny)
        c = b + over / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, front * value)


def chi_squared(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(statistic, p-value) of two rows of counts [K] being drawn from the same shares. Classes that are expected fewer
    than 5 times in one of the two are taken together."""
    table = np.stack([a, b]).astype(np.float64)
    share = min(table.sum(1)) / table.sum()
    rare = table.sum(0) * share < LEAST_EXPECTED
    if rare.any():
        table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], 1)
    table = table[:, table.sum(0) > 0]
    if table.shape[1] > 2 and table[:, -1].sum() * share < LEAST_EXPECTED and rare.any():  # still rare together
        smallest = int(table[:, :-1].sum(0).argmin())
        table[:, smallest] += table[:, -1]
        table = table[:, :-1]
    if table.shape[1] < 2:
        return 0.0, 1.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return statistic, chi_squared_tail(statistic, table.shape[1] - 1)


def stability_index(a: np.ndarray, b: np.ndarray, bins: int = PSI_BINS) -> float:
    """The population stability index: the sum of (q - p) ln(q / p) over bins that each hold about 1 / `bins` of a.

    a, b: counts in shared fine bins. Half a sample is added to each bin, so that an empty one is no infinity. Below
    0.1 is usually called stable, above 0.25 a shift.
    """
    edges = np.unique(np.searchsorted(np.cumsum(a) / a.sum(), np.arange(1, bins) / bins - 1e-12) + 1)
    starts = np.concatenate([[0], edges[edges < len(a)]])
    p, q = (np.add.reduceat(counts, starts) + 0.5 for counts in (a, b))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def cohens_d(mean_a: float, std_a: float, n: int, mean_b: float, std_b: float, m: int) -> float:
    """(mean of b - mean of a) in units of the standard deviation within the two; 0 or an infinity where nothing
    varies."""
    pooled = math.sqrt(max(0.0, (n * std_a**2 + m * std_b**2) / max(1, n + m - 2)))
    gap = mean_b - mean_a
    rounding = 1e-6 * max(abs(mean_a), abs(mean_b))
    if pooled <= rounding:
        return 0.0 if abs(gap) <= rounding else math.copysign(math.inf, gap)
    return gap / pooled


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values, float64 [M]: of those below a level at most that share are false on average, and where nothing
    differs at all the chance of any is at most that level."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(-p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, p[order] * len(p) / np.arange(len(p), 0, -1)))
    return adjusted


def visible_shift(n: int, m: int, level: float, power: float = 0.8) -> float:
    """The smallest shift of a mean, in standard deviations, that a Kolmogorov-Smirnov test of n against m samples finds
    with probability `power` at `level`: Student's, larger by the root of the test's efficiency."""
    normal = NormalDist()
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return z * math.sqrt((1 / n + 1 / m) / KS_EFFICIENCY)


# -- points ---------------------------------------------------------------------------------------------------------


def mean_discrepancy(a: np.ndarray, b: np.ndarray, permutations: int = 2000, seed: int = 0) -> tuple[float, float]:
    """(unbiased MMD^2, p-value by permutation) with a Gaussian kernel as wide as the median distance.

    a: [N, D], b: [M, D], two or more each. The smallest p-value is 1 / (permutations + 1).
    """
    both = np.concatenate([a, b]).astype(np.float64)
    squares = (both**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0)
    upper = distances[np.triu_indices(len(both), 1)]
    width = float(np.median(upper)) or float(upper.mean()) or 1.0
    kernel = np.exp(-distances / width).astype(np.float32)
    np.fill_diagonal(kernel, 0)
    n, m = len(a), len(b)
    rows, total = kernel.sum(1, dtype=np.float64), float(kernel.sum(dtype=np.float64))

    def statistic(chosen: np.ndarray) -> np.ndarray:
        """chosen: float32 [N + M, P] of 0 and 1, n ones a column -> [P]."""
        inside = (chosen * (kernel @ chosen)).sum(0, dtype=np.float64)  # the sum over pairs of the first sample
        crossing = rows @ chosen - inside
        return inside / (n * (n - 1)) + (total - inside - 2 * crossing) / (m * (m - 1)) - 2 * crossing / (n * m)

    first = np.zeros((n + m, 1), np.float32)
    first[:n] = 1
    found = float(statistic(first)[0])
    generator = np.random.Generator(np.random.PCG64(seed))
    at_least = 0
    for start in range(0, permutations, 500):
        count = min(500, permutations - start)
        order = generator.random((count, n + m)).argsort(1)[:, :n]
        chosen = np.zeros((count, n + m), np.float32)
        np.put_along_axis(chosen, order, 1, 1)
        at_least += int((statistic(np.ascontiguousarray(chosen.T)) >= found - 1e-7).sum())
    return found, (at_least + 1) / (permutations + 1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) of the normal distributions fitted to a [N, D] and b [M, D]."""
    mean = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ second @ root)
    return max(0.0, mean + float(np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(crossed, 0)).sum()))


# -- labels and accuracy without labels ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabelShift:
    """shares: float64 [K], estimated shares of the true classes; low, high: their 95 % bootstrap intervals."""

    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray


def label_shift(confusion: np.ndarray, predicted: np.ndarray, resamples: int = 200, seed: int = 0) -> LabelShift | None:
    """Which classes the images really are of, if only their frequencies have changed (black-box shift estimation).

    confusion: counts [K, K] on labelled images, truth in rows. predicted: counts [K] of the answers on new images. None
    where it cannot be told: a class without 5 labelled images, or a model that confuses classes so much that the
    equations are nearly singular (condition above 100).
    """
    if confusion.sum(1).min() < LEAST_EXPECTED or predicted.sum() == 0:
        return None
    given = confusion / confusion.sum(1, keepdims=True)  # P(answer | truth)
    if np.linalg.cond(given) > 100:
        return None
    generator = np.random.Generator(np.random.PCG64(seed))
    answers = predicted / predicted.sum()
    drawn = []
    for _ in range(resamples):
        rates = np.stack([generator.multinomial(int(row.sum()), row / row.sum()) / row.sum() for row in confusion])
        drawn.append(_unmixed(rates, generator.multinomial(int(predicted.sum()), answers) / predicted.sum()))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return LabelShift(_unmixed(given, answers), low, high)


def _unmixed(given: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Shares q with q @ given = answers, by least squares, negative ones set to 0."""
    found = np.maximum(np.linalg.lstsq(given.T, answers, rcond=None)[0], 0)
    return found / found.sum() if found.sum() > 0 else answers


def thresholded_accuracy(reference: np.ndarray, recent: np.ndarray, accuracy: float) -> float:
    """Average thresholded confidence: the share of recent answers above that confidence which the share `accuracy` of
    the reference answers lies above. reference, recent: counts [bins] of confidence, straight within a bin."""
    below = np.concatenate([[0.0], np.cumsum(reference) / reference.sum()])
    now = np.concatenate([[0.0], np.cumsum(recent) / recent.sum()])
    wanted = min(max(1 - accuracy, 0.0), 1.0)
    place = int(np.clip(np.searchsorted(below, wanted, "right") - 1, 0, len(reference) - 1))
    width = below[place + 1] - below[place]
    inside = (wanted - below[place]) / width if width > 0 else 0.0
    return float(1 - (now[place] + inside * (now[place + 1] - now[place])))
