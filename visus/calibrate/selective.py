"""Selective prediction: the model answers where it is sure and passes the rest on.

Paper: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017, arXiv:1705.08500; the
area under the risk-coverage curve after Geifman, Uziel, El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
Classifiers, ICLR 2019, arXiv:1805.08206.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
MOST_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """risks: float64 [N], the share of errors among the surest 1..N samples. confidence: float64 [N], how sure the last
    of them is. Within samples that are equally sure errors count as evenly spread, as in a random order."""

    risks: np.ndarray
    confidence: np.ndarray

    @property
    def aurc(self) -> float:
        """Mean risk over all coverages; the lower the better."""
        return float(self.risks.mean())

    @property
    def excess_aurc(self) -> float:
        """AURC less that of a confidence which puts every error last (Geifman et al. 2019)."""
        count = len(self.risks)
        errors = round(self.risks[-1] * count)
        kept = np.arange(1, count + 1)
        return self.aurc - float((np.maximum(0, kept - (count - errors)) / kept).mean())

    def at(self, coverage: float) -> dict[str, float]:
        """{"coverage", "accuracy", "confidence"} of the fewest samples that reach `coverage` in (0, 1]."""
        kept = min(len(self.risks), max(1, int(np.ceil(coverage * len(self.risks) - 1e-9))))
        return {"coverage": kept / len(self.risks), "accuracy": float(1 - self.risks[kept - 1]),
                "confidence": float(self.confidence[kept - 1])}

    def to_dict(self) -> dict[str, Any]:
        """AURC, accuracy at some coverages, and up to 200 points (coverage, risk) of the curve."""
        count = len(self.risks)
        shown = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
        return {"aurc": self.aurc, "excess_aurc": self.excess_aurc, "at": [self.at(c) for c in COVERAGES],
                "curve": [[(i + 1) / count, float(self.risks[i])] for i in shown.tolist()]}


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The curve of N samples, N at least 1. confidence: [N], any number that is larger where the model is surer.
    correct: bool [N]."""
    levels, at = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)  # the surest first
    counts = np.bincount(at)
    wrong = np.bincount(at, weights=~np.asarray(correct, bool)) / counts
    errors = np.cumsum(np.repeat(wrong, counts))
    return RiskCoverage(risks=errors / np.arange(1, len(at) + 1), confidence=np.repeat(-levels, counts))
