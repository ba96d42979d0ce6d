"""95 % intervals by the percentile bootstrap (Efron 1979): what the metric would be on other samples of this
size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from visus.metrics.counts import ClassCounts

LEVEL = 0.95
FEWEST_RESAMPLES = 100
BLOCK = 100  # resamples at a time


def bootstrap(statistic: Callable[..., float], arrays: Sequence[np.ndarray], resamples: int = 1000,
              seed: int = 0) -> tuple[float, float]:
    """(low, high) of statistic(*arrays): its 2.5 % and 97.5 % quantiles when samples are drawn anew with
    replacement.

    arrays: one or more with the same first axis, drawn together. Resamples where the statistic is NaN are
    left out; (nan, nan) when it always is. For any statistic at all; `evaluate_classification` uses the
    vectorised forms below.
    """
    count = len(arrays[0])
    assert count > 0 and all(len(a) == count for a in arrays)
    rng = np.random.default_rng(seed)
    values = np.empty(resamples)
    for r in range(resamples):
        drawn = rng.integers(0, count, count)
        values[r] = statistic(*(a[drawn] for a in arrays))
    return interval(values) or (float("nan"), float("nan"))


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval of the statistic's values over the resamples, [R]; None when none of them is a
    number."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def affordable(resamples: int, work: float, budget: float) -> int:
    """How many resamples at `work` operations each fit into `budget`; 0 when that is below 100 (and below
    what was asked for): quantiles of so few mean little."""
    fit = min(resamples, int(budget // max(work, 1)))
    return fit if fit >= min(resamples, FEWEST_RESAMPLES) else 0


def resample_counts(count: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Blocks of resamples: float32 [count, r], how often each sample was drawn in each; the r add up to
    `resamples`."""
    rng = np.random.default_rng(seed)
    block = max(1, min(BLOCK, 20_000_000 // count))
    for start in range(0, resamples, block):
        r = min(block, resamples - start)
        drawn = rng.integers(0, count, (r, count)) + np.arange(r)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=r * count).reshape(r, count)
        yield torch.from_numpy(counts.T.astype(np.float32, order="C"))


def resample_class_counts(targets: np.ndarray, predicted: np.ndarray, num_classes: int, resamples: int,
                          seed: int) -> ClassCounts:
    """Class counts, each [R, C], of bootstrap resamples.

    Drawing samples with replacement draws the non-empty cells of the confusion matrix from a multinomial: the
    same distribution, at a cost of cells rather than samples.
    """
    cells, counts = np.unique(np.asarray(targets, np.int64) * num_classes + predicted, return_counts=True)
    truth, guess = np.divmod(cells, num_classes)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(targets), counts / counts.sum(), size=resamples)  # [R, cells]
    hit = truth == guess
    return ClassCounts(_sum_by(drawn[:, hit], truth[hit], num_classes), _sum_by(drawn, guess, num_classes),
                       _sum_by(drawn, truth, num_classes))


def _sum_by(drawn: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """[R, cells] -> [R, num_groups], the columns added up by their group."""
    sums = torch.zeros(drawn.shape[0], num_groups, dtype=torch.int64)
    return sums.index_add_(1, torch.from_numpy(group), torch.from_numpy(drawn)).numpy()
