"""Which class is this image, and which labels does it carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus.core.batch import ClassPredictions, ImageBatch
from visus.core.preprocessing import Preprocessing
from visus.core.record import Evaluation
from visus.metrics.evaluate import (
    evaluate_classification,
    evaluate_multilabel,
    headline_accuracy,
    headline_mean_average_precision,
    least_confident_hits,
    worst_mistakes,
)
from visus.metrics.running import MicroF1, TopKAccuracy

__all__ = ["Classification", "MultiLabel", "Phase", "least_confident_hits", "worst_mistakes"]


Loss = Callable[[Tensor, Tensor], Tensor]
TrainingLoss = Callable[[nn.Module, ImageBatch], tuple[Tensor, Tensor]]
# of the task's own training loss, the model and a batch; stands in for that loss, as adversarial training and
# distillation do
Defence = Callable[[TrainingLoss, nn.Module, ImageBatch], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a training step: the parameters that move and the loss that moves them."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: TrainingLoss


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label per image.

    Batch: `ImageBatch` with targets int64 [B] (or float [B, C], soft labels, in training). One phase.
    Predictions: softmax probabilities. Headline: accuracy. preprocessing: the model's; its mean and std are
    applied here. loss_function(logits [B, C], targets) -> mean over the batch. A model with auxiliary classifiers
    gives them by `training_logits(images) -> (logits, ((weight, logits), ...))`; in train mode their losses are added.
    defence: in train mode asked for the loss in place of the plain one, which it is handed.
    """

    preprocessing: Preprocessing
    loss_function: Loss
    defence: Defence | None = None
    headline: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    @property
    def num_outputs(self) -> int:
        return len(self.preprocessing.labels)

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        return (Phase("train", tuple(p for p in model.parameters() if p.requires_grad), self.loss),)

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """(mean loss over the batch, a scalar to differentiate; detached logits [B, C]).

        The loss is computed in float32 at least, whatever autocast made of the logits.
        """
        if self.defence is not None and model.training:
            return self.defence(self._plain_loss, model, batch)
        return self._plain_loss(model, batch)

    def _plain_loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        return _loss(self.preprocessing, self.loss_function, model, batch)

    def predict(self, model: nn.Module, batch: ImageBatch) -> ClassPredictions:
        """The answers of one batch, without gradients, in the mode that the model is in."""
        with torch.no_grad():
            return self.predictions(self.preprocessing.answers(model, batch.images), batch)

    def predictions(self, logits: Tensor, batch: ImageBatch) -> ClassPredictions:
        """Predictions, on the CPU, from logits [B, C] that are there already (from `loss`)."""
        probs = _at_least_float32(logits).softmax(1)
        return ClassPredictions(probs.cpu(), batch.targets.cpu(), batch.index.cpu())

    def running_metric(self) -> TopKAccuracy:
        """A cheap metric for the progress display: update(logits, targets), compute(), reset()."""
        return TopKAccuracy(1)

    def headline_value(self, predictions: ClassPredictions) -> float:
        """The headline metric alone, without its interval."""
        return headline_accuracy(predictions)

    def evaluate(self, predictions: ClassPredictions, labels: Sequence[str], split: str, *,
                 resamples: int = 1000, seed: int = 0) -> Evaluation:
        """See `visus.metrics.evaluate.evaluate_classification`."""
        return evaluate_classification(predictions, labels, split, resamples, seed)


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """Any number of labels per image.

    Batch: `ImageBatch` with targets float [B, K] of 0 and 1. One phase. Predictions: a sigmoid probability
    per label. Headline: mean average precision. preprocessing, loss_function and defence as in `Classification`.
    """

    preprocessing: Preprocessing
    loss_function: Loss
    defence: Defence | None = None
    headline: ClassVar[str] = "mean_average_precision"
    higher_is_better: ClassVar[bool] = True

    @property
    def num_outputs(self) -> int:
        return len(self.preprocessing.labels)

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        return (Phase("train", tuple(p for p in model.parameters() if p.requires_grad), self.loss),)

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """(mean loss over the batch, a scalar to differentiate; detached logits [B, K]), in float32 at
        least."""
        if self.defence is not None and model.training:
            return self.defence(self._plain_loss, model, batch)
        return self._plain_loss(model, batch)

    def _plain_loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        return _loss(self.preprocessing, self.loss_function, model, batch)

    def predict(self, model: nn.Module, batch: ImageBatch) -> ClassPredictions:
        """The answers of one batch, without gradients, in the mode that the model is in."""
        with torch.no_grad():
            return self.predictions(self.preprocessing.answers(model, batch.images), batch)

    def predictions(self, logits: Tensor, batch: ImageBatch) -> ClassPredictions:
        """Predictions, on the CPU, from logits [B, K] that are there already (from `loss`)."""
        probs = _at_least_float32(logits).sigmoid()
        return ClassPredictions(probs.cpu(), batch.targets.cpu(), batch.index.cpu())

    def running_metric(self) -> MicroF1:
        """A cheap metric for the progress display: update(logits, targets), compute(), reset()."""
        return MicroF1(threshold=0.0)

    def headline_value(self, predictions: ClassPredictions) -> float:
        """The headline metric alone, without its interval; NaN when no label occurs."""
        return headline_mean_average_precision(predictions)

    def evaluate(self, predictions: ClassPredictions, labels: Sequence[str], split: str, *,
                 resamples: int = 1000, seed: int = 0) -> Evaluation:
        """See `visus.metrics.evaluate.evaluate_multilabel`."""
        return evaluate_multilabel(predictions, labels, split, resamples, seed)


def _loss(preprocessing: Preprocessing, loss_function: Loss, model: nn.Module,
          batch: ImageBatch) -> tuple[Tensor, Tensor]:
    if not model.training:
        logits = preprocessing.answers(model, batch.images)
        return loss_function(_at_least_float32(logits), batch.targets), logits.detach()
    images = preprocessing.normalise(batch.images)
    with_auxiliaries = getattr(model, "training_logits", None)
    if with_auxiliaries is None:
        logits = model(images)
        return loss_function(_at_least_float32(logits), batch.targets), logits.detach()
    logits, auxiliaries = with_auxiliaries(images)
    loss = loss_function(_at_least_float32(logits), batch.targets)
    for weight, auxiliary in auxiliaries:
        loss = loss + weight * loss_function(_at_least_float32(auxiliary), batch.targets)
    return loss, logits.detach()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
