"""Do the probabilities mean what they say: reliability, ECE in three forms, Brier score, negative log-likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np

from visus.metrics.counts import ratio

NUM_BINS = 15
SMALLEST_PROB = float(np.finfo(np.float32).tiny)


def bin_of(confidence: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """int64 [N]: which of the equal-width bins ((b, b + 1] / num_bins, as in Guo et al. 2017) holds each
    value of [0, 1]; 0 itself is in the first."""
    edges = np.arange(num_bins + 1) / num_bins
    return np.clip(np.searchsorted(edges, np.asarray(confidence, np.float64)) - 1, 0, num_bins - 1)


def calibration_gaps(confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """float64 [N, num_bins]: correct - confidence in the sample's own bin, 0 in the others.

    The ECE is the sum over bins of |mean over samples| of it, for the sample itself and for every resample.
    """
    gaps = np.zeros((len(confidence), num_bins))
    gaps[np.arange(len(confidence)), bin_of(confidence, num_bins)] = \
        np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    return gaps


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray,
                               num_bins: int = NUM_BINS) -> float:
    """ECE in [0, 1]: sum over bins of (n_b / N) |accuracy_b - confidence_b| (Guo et al. 2017, equation 3).

    confidence: [N], the probability of the predicted class. correct: bool [N]. N at least 1.
    """
    bins = bin_of(confidence, num_bins)
    gaps = np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=num_bins)).sum() / len(gaps))


def adaptive_calibration_error(confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """The ECE with bins that hold equally many samples (up to one), so that no bin is nearly empty and none holds
    nearly all (the ranges of Nixon et al., Measuring Calibration in Deep Learning, 2019, for the predicted class).

    confidence: [N], the probability of the predicted class. correct: bool [N]. N at least 1. Of samples with the same
    confidence each counts as right as they are on average: their order in the data does not matter.
    """
    confidence = np.asarray(confidence, np.float64)
    levels, at = np.unique(confidence, return_inverse=True)  # ascending
    gaps = ratio(np.bincount(at, weights=np.asarray(correct, np.float64)), np.bincount(at)) - levels
    parts = np.array_split(np.repeat(gaps, np.bincount(at)), min(num_bins, len(confidence)))
    return float(sum(abs(part.sum()) for part in parts) / len(confidence))


def classwise_calibration_error(probs: np.ndarray, targets: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Mean over classes k of the ECE of p_k as the probability of class k against the rest, over all samples and not
    only those predicted as k (Kull et al., Beyond temperature scaling, NeurIPS 2019, equation 3).

    probs: [N, C] with rows that sum to 1. targets: integers [N]. N at least 1.
    """
    count, num_classes = probs.shape
    total = 0.0
    for start in range(0, num_classes, 64):  # a block of classes at a time: float64 copies stay small
        block = np.asarray(probs[:, start:start + 64], np.float64)
        gaps = (np.asarray(targets)[:, None] == np.arange(start, start + block.shape[1])) - block
        cells = bin_of(block, num_bins) + num_bins * np.arange(block.shape[1])
        total += np.abs(np.bincount(cells.ravel(), weights=gaps.ravel())).sum()
    return float(total / (count * num_classes))


def reliability(confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """The reliability diagram: {"bins": [{"low", "high", "count", "confidence", "accuracy"}], "ece": float}.

    confidence and accuracy are means over the bin, None in an empty one.
    """
    bins = bin_of(confidence, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    means = [ratio(np.bincount(bins, weights=np.asarray(values, np.float64), minlength=num_bins), counts)
             for values in (confidence, correct)]
    rows = [{"low": b / num_bins, "high": (b + 1) / num_bins, "count": int(counts[b]),
             "confidence": float(means[0][b]) if counts[b] else None,
             "accuracy": float(means[1][b]) if counts[b] else None} for b in range(num_bins)]
    return {"bins": rows, "ece": expected_calibration_error(confidence, correct, num_bins)}


def brier_scores(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [N] in [0, 2]: sum over classes of (p_k - y_k)^2 (Brier 1950). probs: [N, C]. targets: integers
    [N]."""
    probs = np.asarray(probs, np.float64)
    wrong = probs.copy()
    np.put_along_axis(wrong, np.asarray(targets)[:, None],
                      np.take_along_axis(probs, np.asarray(targets)[:, None], 1) - 1, 1)
    return np.einsum("nc,nc->n", wrong, wrong)


def negative_log_likelihoods(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [N]: -ln p_y in nats. probs: [N, C]. A probability below float32's smallest normal (1.2e-38)
    counts as that, so that one sure mistake costs 87.3 and not infinity."""
    true = np.take_along_axis(np.asarray(probs), np.asarray(targets)[:, None], 1)[:, 0]
    return -np.log(np.maximum(true.astype(np.float64), SMALLEST_PROB))
