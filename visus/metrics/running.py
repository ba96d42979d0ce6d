"""Metrics that follow a loop: update with each batch, compute at any time, reset.

Counts stay on the device of the scores, so that an update never waits for it; compute reads them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from visus.core.batch import ClassPredictions
from visus.metrics.counts import ClassCounts


class Mean:
    """Mean over samples of a quantity of which each batch gives its own mean, such as the loss.

    Every sample counts once however uneven the batches: sum of value times count over the sum of counts, in
    float64.
    """

    def __init__(self) -> None:
        self.reset()

    def update(self, value: Tensor | float, count: int) -> None:
        """value: mean over the batch (a scalar). count: its samples."""
        self._unread.append((value.detach() if isinstance(value, Tensor) else value, count))
        if len(self._unread) >= 256:
            self._read()

    def compute(self) -> float | None:
        """None before the first sample; NaN or infinite when a value was."""
        self._read()
        return self._total / self._count if self._count else None

    def reset(self) -> None:
        self._unread: list[tuple[Tensor | float, int]] = []
        self._total = 0.0
        self._count = 0

    def _read(self) -> None:
        for value, count in self._unread:
            self._total += float(value) * count
            self._count += count
        self._unread = []


class TopKAccuracy:
    """Share of samples whose true class is among the k highest scores.

    Of equal scores the lower class number comes first; k above the number of classes counts every sample; a
    NaN ranks above every number. Soft labels [B, C] count by their largest entry.
    """

    _hits: Tensor | int
    _count: int

    def __init__(self, k: int = 1):
        assert k >= 1, k
        self.k = k
        self.reset()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """scores: [B, C], logits or probabilities. targets: int64 [B], or float [B, C]."""
        label = (targets.argmax(1) if targets.ndim == 2 else targets).unsqueeze(1)  # [B, 1]
        true = scores.gather(1, label)
        numbers = torch.arange(scores.shape[1], device=scores.device)
        ahead = (~(scores <= true) | ((scores == true) & (numbers < label))).sum(1)
        self._hits = self._hits + (ahead < self.k).sum()
        self._count += len(scores)

    def compute(self) -> float | None:
        """None before the first sample."""
        return float(self._hits) / self._count if self._count else None

    def reset(self) -> None:
        self._hits = 0
        self._count = 0


class MicroF1:
    """F1 over all (sample, label) decisions of a classifier with several labels: 2 TP / (2 TP + FP + FN)."""

    _hits: Tensor | int
    _marked: Tensor | int

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.reset()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """scores: [B, K]; a label is predicted at or above the threshold (0.5 for probabilities, 0 for
        logits). targets: [B, K], positive at or above 0.5."""
        predicted, actual = scores >= self.threshold, targets >= 0.5
        self._hits = self._hits + (predicted & actual).sum()
        self._marked = self._marked + predicted.sum() + actual.sum()

    def compute(self) -> float | None:
        """None while no label is there or predicted."""
        marked = int(self._marked)
        return 2 * int(self._hits) / marked if marked else None

    def reset(self) -> None:
        self._hits = 0
        self._marked = 0


class ConfusionMatrix:
    """int64 [C, C], truth in rows, on the CPU."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """scores: [B, C]; the first of the highest is the prediction. targets: int64 [B]."""
        cells = (targets * self.num_classes + scores.argmax(1)).cpu()
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        self._counts += counts.view(self.num_classes, self.num_classes)

    def compute(self) -> Tensor:
        return self._counts.clone()

    def class_counts(self) -> ClassCounts:
        """Precision, recall, F1 and their averages."""
        counts = self._counts.numpy()
        return ClassCounts(counts.diagonal().copy(), counts.sum(0), counts.sum(1))

    def reset(self) -> None:
        self._counts = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)


class OverAll:
    """A statistic that needs all samples at once, such as ROC-AUC: scores and targets are kept, on the
    CPU."""

    def __init__(self, statistic: Callable[[np.ndarray, np.ndarray], float]):
        self.statistic = statistic
        self.reset()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        self._scores.append(scores.detach().cpu())
        self._targets.append(targets.detach().cpu())

    def compute(self) -> float | None:
        """None before the first sample."""
        if not self._scores:
            return None
        return self.statistic(torch.cat(self._scores).numpy(), torch.cat(self._targets).numpy())

    def reset(self) -> None:
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []


def concatenate(parts: Sequence[ClassPredictions]) -> ClassPredictions:
    """The predictions of all batches as one, in their order, on the CPU. parts: at least one."""
    return ClassPredictions(torch.cat([p.probs.cpu() for p in parts]),
                            torch.cat([p.targets.cpu() for p in parts]),
                            torch.cat([p.index.cpu() for p in parts]))
