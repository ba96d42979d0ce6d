"""All metrics of a classifier on one split, each with its bootstrap interval, as a record for disk and
report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from visus.core.batch import ClassPredictions
from visus.core.errors import DataError, UserError
from visus.core.record import Evaluation, Metric
from visus.metrics.bootstrap import affordable, interval, resample_class_counts, resample_counts
from visus.metrics.calibration import (
    brier_scores,
    calibration_gaps,
    negative_log_likelihoods,
    reliability,
)
from visus.metrics.counts import ClassCounts, confusion_matrix, mean_of_defined, ratio, top_k_hits
from visus.metrics.ranking import Places, class_places, rank_statistics

THRESHOLD = 0.5              # several labels: one is predicted at or above this probability
LARGEST_CONFUSION = 200      # classes; a larger matrix is not kept
MOST_CONFUSED = 20
ROWS = 4096                  # samples at a time where float64 copies are made
SAMPLE_BUDGET = 2e8          # samples times resamples
CELL_BUDGET = 2e7            # confusion cells times resamples
RANK_BUDGET = 2e9            # samples times classes times resamples


def evaluate_classification(predictions: ClassPredictions, labels: Sequence[str], split: str,
                            resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Measure a classifier with one label per sample.

    predictions: probs [N, C] with rows that sum to 1, targets int64 [N]. labels: C names. Metrics, as means
    over N: accuracy (top-1), top5_accuracy (C above 5), nll (nats), brier (0 to 2), ece (15 equal-width bins
    of the predicted class's probability); from the class counts: balanced_accuracy (mean recall of the
    classes in the truth), macro_precision, macro_recall, macro_f1 (plain means over the classes in the truth
    or among the predictions, 0/0 as 0: scikit-learn's zero_division=0); from the ranking of each class
    against the rest: roc_auc (mean over classes with positives and negatives), average_precision (mean over
    classes with positives). None where no class qualifies.

    Intervals: 95 % percentile bootstrap over samples, `resamples` of them, fewer where N, the confusion cells
    or N C times `resamples` pass SAMPLE_BUDGET, CELL_BUDGET, RANK_BUDGET, and none below 100 (roc_auc and
    average_precision of 1,000 classes). Resampling adds to the ECE about as much bias as sampling did: its
    interval is shifted back by the mean of that bias, and cut at 0.

    Raises DataError for an empty split and for targets outside of the labels, UserError for values that are
    not finite.
    """
    probs, targets = _checked(predictions, labels, split, many=False)
    count, num_classes = probs.shape
    predicted = probs.argmax(1)
    confidence = probs[np.arange(count), predicted]
    correct = predicted == targets
    per_sample = {"accuracy": correct.astype(np.float64)}
    if num_classes > 5:
        per_sample["top5_accuracy"] = _by_rows(lambda p, t: top_k_hits(p, t, 5), probs, targets)
    per_sample["nll"] = negative_log_likelihoods(probs, targets)
    per_sample["brier"] = _by_rows(brier_scores, probs, targets)
    counts = ClassCounts.of(targets, predicted, num_classes)
    at = class_places(probs, targets)
    auc, ap = _ranked(at)
    diagram = reliability(confidence, correct)

    columns = np.column_stack([*per_sample.values(), calibration_gaps(confidence, correct)])
    means, aucs, aps = _resample(columns, at, count, resamples, seed)
    eces = np.abs(means[:, len(per_sample):]).sum(1)
    bias = eces.mean() - diagram["ece"] if len(eces) else 0.0
    cells = min(count, num_classes**2)
    drawn = resample_class_counts(targets, predicted, num_classes,
                                  affordable(resamples, max(cells, num_classes), CELL_BUDGET), seed)
    metrics = {name: _metric(values.mean(), means[:, i])
               for i, (name, values) in enumerate(per_sample.items())}
    metrics |= {
        "balanced_accuracy": _metric(counts.balanced_accuracy, drawn.balanced_accuracy),
        "macro_f1": _metric(counts.macro(counts.f1), drawn.macro(drawn.f1)),
        "macro_precision": _metric(counts.macro(counts.precision), drawn.macro(drawn.precision)),
        "macro_recall": _metric(counts.macro(counts.recall), drawn.macro(drawn.recall)),
        "roc_auc": _metric(mean_of_defined(auc), aucs),
        "average_precision": _metric(mean_of_defined(ap), aps),
        "ece": _metric(diagram["ece"], np.maximum(0, eces - bias)),
    }
    order = ("accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall",
             "roc_auc", "average_precision", "nll", "brier", "ece")
    return Evaluation(
        split=split, count=count, metrics={name: metrics[name] for name in order if name in metrics},
        per_class=_per_class(labels, counts, auc, ap),
        confusion=_confusion(targets, predicted, labels),
        confused=_confused(targets, predicted, labels), reliability=diagram)


def evaluate_multilabel(predictions: ClassPredictions, labels: Sequence[str], split: str,
                        resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Measure a classifier with any number of labels per sample.

    predictions: probs [N, K], each in [0, 1]; targets [N, K] of 0 and 1. labels: K names. A label is
    predicted at or above 0.5. Metrics: mean_average_precision (plain mean over labels that occur), micro_f1,
    macro_f1 (over labels that occur in the truth or among the predictions), subset_accuracy (all K right),
    hamming_loss (share of the N K decisions that are wrong), roc_auc (mean over labels with positives and
    negatives). None where no label qualifies.

    Intervals as in `evaluate_classification`; mean_average_precision, macro_f1 and roc_auc share RANK_BUDGET.
    Raises DataError for an empty split or targets of another width, UserError for values that are not finite.
    """
    probs, targets = _checked(predictions, labels, split, many=True)
    count = len(probs)
    actual, predicted = targets >= 0.5, probs >= THRESHOLD
    hits = actual & predicted
    counts = ClassCounts(hits.sum(0), predicted.sum(0), actual.sum(0))
    wrong = (actual != predicted).mean(1)
    at = class_places(probs, actual)
    auc, ap = _ranked(at)

    marked = predicted.sum(1) + actual.sum(1)
    columns = np.column_stack([wrong == 0, wrong, hits.sum(1), marked]).astype(np.float64)
    means, aucs, aps = _resample(columns, at, count, resamples, seed)
    metrics = {
        "mean_average_precision": _metric(mean_of_defined(ap), aps),
        "micro_f1": _metric(counts.micro_f1(), ratio(2 * means[:, 2], means[:, 3])),
        "macro_f1": _metric(counts.macro(counts.f1), _macro_f1s(hits, predicted, actual, resamples, seed)),
        "subset_accuracy": _metric((wrong == 0).mean(), means[:, 0]),
        "hamming_loss": _metric(wrong.mean(), means[:, 1]),
        "roc_auc": _metric(mean_of_defined(auc), aucs),
    }
    return Evaluation(split=split, count=count, metrics=metrics,
                      per_class=_per_class(labels, counts, auc, ap))


def headline_accuracy(predictions: ClassPredictions) -> float:
    """Top-1 accuracy alone, without intervals: cheap enough for every epoch."""
    return float((predictions.probs.argmax(1) == predictions.targets).double().mean())


def headline_mean_average_precision(predictions: ClassPredictions) -> float:
    """Mean average precision over the labels that occur, without an interval; NaN when none does."""
    at = class_places(predictions.probs.cpu().numpy(), predictions.targets.cpu().numpy() >= 0.5)
    return float(mean_of_defined(_ranked(at)[1]))


def worst_mistakes(predictions: ClassPredictions, n: int) -> np.ndarray:
    """int64 [up to n]: rows of `predictions` that are wrong, the surest first.

    One label: by the probability of the wrong class. Several: by the largest |probability - target| among the
    labels.
    """
    right, certainty = _right_and_certainty(predictions)
    wrong = np.flatnonzero(~right)
    return wrong[np.argsort(-certainty[wrong], kind="stable")][:n]


def least_confident_hits(predictions: ClassPredictions, n: int) -> np.ndarray:
    """int64 [up to n]: rows of `predictions` that are right, the least sure first.

    One label: by the probability of the class. Several (all labels right): by the largest |probability -
    target|.
    """
    right, certainty = _right_and_certainty(predictions)
    hits = np.flatnonzero(right)
    doubt = certainty[hits] if predictions.targets.ndim == 1 else -certainty[hits]
    return hits[np.argsort(doubt, kind="stable")][:n]


def _right_and_certainty(predictions: ClassPredictions) -> tuple[np.ndarray, np.ndarray]:
    """bool [N]; and the probability of the predicted class or, for several labels, the largest error, [N]."""
    probs, targets = predictions.probs.cpu().numpy(), predictions.targets.cpu().numpy()
    if targets.ndim == 1:
        predicted = probs.argmax(1)
        return predicted == targets, probs[np.arange(len(probs)), predicted]
    return ((probs >= THRESHOLD) == (targets >= 0.5)).all(1), np.abs(probs - targets).max(1)


def _checked(predictions: ClassPredictions, labels: Sequence[str], split: str, *, many: bool
             ) -> tuple[np.ndarray, np.ndarray]:
    probs, targets = predictions.probs.detach().cpu().numpy(), predictions.targets.detach().cpu().numpy()
    if not len(probs):
        raise DataError("the split holds no samples", where=split,
                        remedy="Give it some images, or another split")
    if probs.shape[1] != len(labels):
        raise DataError(f"the model gives {probs.shape[1]} values per image for {len(labels)} labels",
                        where=split, remedy="Evaluate with the labels that the model was trained on")
    finite = np.isfinite(probs).all(1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise UserError(f"the model gives values that are not finite for {int((~finite).sum())} of "
                        f"{len(probs)} images (first: sample {int(predictions.index[row])})", where=split,
                        remedy="Train again with a lower learning rate, or evaluate in fp32")
    if many and targets.shape != probs.shape:
        raise DataError(f"targets of shape {targets.shape} for predictions of shape {probs.shape}",
                        where=split, remedy="Several labels need one 0 or 1 per sample and label")
    if not many and (targets.min() < 0 or targets.max() >= len(labels)):
        row = int(np.flatnonzero((targets < 0) | (targets >= len(labels)))[0])
        raise DataError(f"label {int(targets[row])} of sample {int(predictions.index[row])} is not in "
                        f"0..{len(labels) - 1}", where=split,
                        remedy="Correct the label, or evaluate with a model that knows it")
    return probs, targets


def _metric(value: Any, resampled: np.ndarray) -> Metric:
    value = float(value)
    if np.isnan(value):
        return Metric(None)
    return Metric(value, *(interval(resampled) or (None, None)))


def _by_rows(statistic: Any, probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.concatenate([statistic(probs[start:start + ROWS], targets[start:start + ROWS])
                           for start in range(0, len(probs), ROWS)]).astype(np.float64)


def _ranked(at: list[Places]) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUC and average precision of each class, float64 [K] each, NaN where undefined."""
    pairs = [rank_statistics(p) for p in at]
    return np.array([auc[0] for auc, _ in pairs]), np.array([ap[0] for _, ap in pairs])


def _resample(columns: np.ndarray, at: list[Places], count: int, resamples: int, seed: int
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per resample: the means of the columns [R, M], and macro ROC-AUC and average precision [R' <= R]."""
    resamples = affordable(resamples, count, SAMPLE_BUDGET)
    ranked = affordable(resamples, count * len(at), RANK_BUDGET)
    means, aucs, aps = [np.empty((0, columns.shape[1]))], [np.empty(0)], [np.empty(0)]
    done = 0
    for weights in resample_counts(count, resamples, seed):
        means.append(weights.numpy().T.astype(np.float64) @ columns / count)
        if done < ranked:
            block = weights[:, :ranked - done].contiguous()
            pairs = [rank_statistics(p, block) for p in at]
            aucs.append(mean_of_defined(np.stack([auc for auc, _ in pairs]), axis=0))
            aps.append(mean_of_defined(np.stack([ap for _, ap in pairs]), axis=0))
        done += weights.shape[1]
    return np.concatenate(means), np.concatenate(aucs), np.concatenate(aps)


def _macro_f1s(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray, resamples: int,
               seed: int) -> np.ndarray:
    """Macro F1 of each resample, [R]."""
    count, num_labels = hits.shape
    resamples = affordable(affordable(resamples, count, SAMPLE_BUDGET), count * num_labels, RANK_BUDGET)
    tables = [np.asarray(table, np.float32) for table in (hits, predicted, actual)]
    found = [np.empty(0)]
    for weights in resample_counts(count, resamples, seed):
        counts = ClassCounts(*(weights.numpy().T @ table for table in tables))  # each [r, K]
        found.append(counts.macro(counts.f1))
    return np.concatenate(found)


def _per_class(labels: Sequence[str], counts: ClassCounts, auc: np.ndarray,
               ap: np.ndarray) -> list[dict[str, Any]]:
    columns = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1,
               "average_precision": ap, "roc_auc": auc}
    return [{"name": str(label), "count": int(counts.actual[k]),
             **{name: None if np.isnan(values[k]) else float(values[k]) for name, values in columns.items()}}
            for k, label in enumerate(labels)]


def _confusion(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> dict[str, Any] | None:
    if len(labels) > LARGEST_CONFUSION:
        return None
    return {"labels": list(labels), "counts": confusion_matrix(targets, predicted, len(labels)).tolist()}


def _confused(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    wrong = targets != predicted
    cells, counts = np.unique(targets[wrong] * len(labels) + predicted[wrong], return_counts=True)
    top = np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
    return [{"truth": str(labels[cells[i] // len(labels)]), "predicted": str(labels[cells[i] % len(labels)]),
             "count": int(counts[i])} for i in top]
