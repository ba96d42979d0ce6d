"""ROC-AUC and average precision, exact with ties, for one sample or for many bootstrap resamples at once.

Only the distinct scores of the positives matter ("levels"). Each negative lies below, between or on levels;
one pass adds up the weights of all samples by their place, and both metrics follow from the sums. A resample
of the bootstrap is a column of weights, so a thousand of them share that pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visus.metrics.counts import ratio


@dataclass(frozen=True, slots=True)
class Places:
    """Where each sample lies. levels: number G of distinct scores among the positives. place: int32 [N]; a
    negative is at 2 g between level g - 1 and level g and at 2 g + 1 on level g; a positive on level g is at
    2 G + 1 + g."""

    levels: int
    place: Tensor


def places(scores: np.ndarray, positive: np.ndarray) -> Places:
    """scores: [N], finite. positive: bool [N]."""
    levels = np.unique(scores[positive])
    if not len(levels):
        return Places(0, torch.zeros(len(scores), dtype=torch.int32))
    level = np.searchsorted(levels, scores)
    tied = levels[np.minimum(level, len(levels) - 1)] == scores
    place = np.where(positive, 2 * len(levels) + 1 + level, 2 * level + tied)
    return Places(len(levels), torch.from_numpy(place.astype(np.int32)))


def rank_statistics(at: Places, weights: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(ROC-AUC, average precision), each float64 [R].

    weights: float32 [N, R], how often each sample counts in each resample; None: each once (R = 1).
    ROC-AUC is the share of (positive, negative) pairs in the right order, a tie counting one half (Hanley and
    McNeil 1982); NaN without a positive or a negative. Average precision is sum over thresholds of (R_n -
    R_{n-1}) P_n, without interpolation, equal scores entering together; NaN without a positive.
    """
    count = 3 * at.levels + 1
    if weights is None:
        sums = np.bincount(at.place.numpy(), minlength=count)[:, None].astype(np.float64)
    else:
        sums = torch.zeros(count, weights.shape[1]).index_add_(0, at.place, weights).double().numpy()
    positives, negatives = sums[2 * at.levels + 1:], sums[: 2 * at.levels + 1]  # [G, R], [2 G + 1, R]
    num_positives, num_negatives = positives.sum(0), negatives.sum(0)
    below = np.cumsum(negatives, 0)[0:-1:2]  # [G, R], negatives that score less than the level
    in_order = (positives * (below + 0.5 * negatives[1::2])).sum(0)
    found = num_positives - np.cumsum(positives, 0) + positives  # [G, R], positives at or above the level
    shown = found + num_negatives - below
    precision = np.divide(found, shown, out=np.zeros_like(found), where=shown != 0)
    area = (positives * precision).sum(0)
    return ratio(in_order, num_positives * num_negatives), ratio(area, num_positives)


def class_places(scores: np.ndarray, positive: np.ndarray) -> list[Places]:
    """`places` of each column. scores: [N, K]. positive: bool [N, K], or integers [N] (one class against the
    rest)."""
    found = []
    for start in range(0, scores.shape[1], 64):  # a block of columns at a time: contiguous reads
        block = np.ascontiguousarray(scores[:, start:start + 64].T)
        for k, column in enumerate(block, start):
            found.append(places(column, positive == k if positive.ndim == 1 else positive[:, k]))
    return found


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """ROC-AUC of one class. scores: [N]. positive: bool [N]. NaN without a positive or a negative."""
    return float(rank_statistics(places(np.asarray(scores), np.asarray(positive, bool)))[0][0])


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of one class. scores: [N]. positive: bool [N]. NaN without a positive."""
    return float(rank_statistics(places(np.asarray(scores), np.asarray(positive, bool)))[1][0])
