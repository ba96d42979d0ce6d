"""What can be counted: confusion, precision, recall, F1, top-k hits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [C, C], truth in rows, prediction in columns. targets, predicted: integers [N] in [0, C)."""
    cells = np.asarray(targets, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def top_k_hits(scores: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """bool [N]: whether the true class is among the k highest scores.

    scores: [N, C]. targets: integers [N]. Of equal scores the class with the lower number comes first, as in
    argmax. k above C counts every sample as a hit. A NaN ranks above every number.
    """
    true = np.take_along_axis(scores, np.asarray(targets)[:, None], 1)  # [N, 1]
    ahead = (~(scores <= true)).sum(1)
    ahead += ((scores == true) & (np.arange(scores.shape[1]) < np.asarray(targets)[:, None])).sum(1)
    return ahead < k


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient in float64; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def mean_of_defined(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over `axis` without the NaNs; NaN where there is nothing else."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Counts per class, each [..., C]: hits (true positives), predicted (tp + fp), actual (tp + fn).

    precision, recall and f1 are NaN where their denominator is 0. Averages take such a value as 0, as
    scikit-learn's zero_division=0 does; `macro` runs over the classes that occur in the truth or among the
    predictions.
    """

    hits: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray

    @classmethod
    def of(cls, targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> ClassCounts:
        """From integers [N] in [0, C)."""
        return cls(np.bincount(targets[targets == predicted], minlength=num_classes),
                   np.bincount(predicted, minlength=num_classes), np.bincount(targets, minlength=num_classes))

    @property
    def precision(self) -> np.ndarray:
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        return ratio(self.hits, self.actual)

    @property
    def f1(self) -> np.ndarray:
        return ratio(2 * self.hits, self.predicted + self.actual)

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """Mean recall over the classes that occur in the truth, [...]."""
        return mean_of_defined(self.recall)

    def macro(self, values: np.ndarray) -> np.ndarray:
        """Plain mean over the classes that occur, [...]; NaN when none does."""
        occurs = (self.predicted + self.actual) > 0
        return ratio(np.where(occurs, np.nan_to_num(values), 0.0).sum(-1), occurs.sum(-1))

    def weighted(self, values: np.ndarray) -> np.ndarray:
        """Mean weighted by the samples of each class, [...]."""
        return ratio((np.nan_to_num(values) * self.actual).sum(-1), self.actual.sum(-1))

    def micro_f1(self) -> np.ndarray:
        """F1 of the counts summed over the classes, [...]."""
        return ratio(2 * self.hits.sum(-1), (self.predicted + self.actual).sum(-1))
