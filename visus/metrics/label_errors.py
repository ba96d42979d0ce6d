"""Labels that are likely wrong, from probabilities that were given by a model which had not seen them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """rows: positions of the candidates, the surest first; instead: the class that each looks like; margin: its
    probability minus that of the given label. thresholds: float64 [C], see `label_errors`; NaN for a class without
    samples."""

    rows: np.ndarray
    instead: np.ndarray
    margin: np.ndarray
    thresholds: np.ndarray


def label_errors(probs: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068, equations 1 and 2): the threshold of a
    class is the mean probability of it among the samples labelled so; a sample counts as the likeliest of the classes
    whose threshold it reaches, and is a candidate where that is not its label.

    probs: float [N, C], out of sample. labels: int64 [N].
    """
    probs = np.asarray(probs, np.float64)
    own = np.arange(len(labels))
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, probs[own, labels], minlength=probs.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    reached = np.where(probs >= np.where(counts > 0, thresholds, np.inf), probs, -1.0)
    likeliest = reached.argmax(1)
    rows = np.flatnonzero((reached.max(1) >= 0) & (likeliest != labels))
    margin = probs[rows, likeliest[rows]] - probs[rows, labels[rows]]
    order = np.argsort(-margin, kind="stable")
    return LabelErrors(rows=rows[order], instead=likeliest[rows][order], margin=margin[order], thresholds=thresholds)
