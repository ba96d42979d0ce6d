"""Metrics against scikit-learn and torchmetrics, with ties, absent classes and single classes, and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.peers import load_peer
from visus.core.batch import ClassPredictions
from visus.core.errors import DataError, UserError
from visus.metrics.bootstrap import bootstrap
from visus.metrics.calibration import expected_calibration_error, reliability
from visus.metrics.counts import ClassCounts, top_k_hits
from visus.metrics.evaluate import (
    evaluate_classification,
    evaluate_multilabel,
    headline_accuracy,
    headline_mean_average_precision,
    least_confident_hits,
    worst_mistakes,
)
from visus.metrics.ranking import average_precision, roc_auc
from visus.metrics.running import ConfusionMatrix, Mean, MicroF1, OverAll, TopKAccuracy, concatenate

TOLERANCE = 1e-9


def single(count: int = 300, classes: int = 7, *, decimals: int = 2, absent: tuple[int, ...] = (), seed: int = 0):
    """Predictions in float64 with many tied scores; `absent` classes have no sample."""
    rng = np.random.default_rng(seed)
    present = [c for c in range(classes) if c not in absent]
    targets = rng.choice(present, count)
    probs = rng.dirichlet(np.ones(classes) * 0.5, count)
    probs[np.arange(count), targets] += 0.4
    probs = np.round(probs / probs.sum(1, keepdims=True), decimals)
    return ClassPredictions(torch.from_numpy(probs), torch.from_numpy(targets), torch.arange(count) + 1000)


def several(count: int = 200, labels: int = 6, *, absent: tuple[int, ...] = (), seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, labels)) < 0.3).astype(np.float32)
    targets[:, list(absent)] = 0
    probs = np.round(np.clip(rng.normal(0.3 + 0.4 * targets, 0.25), 0, 1), 2)
    return ClassPredictions(torch.from_numpy(probs), torch.from_numpy(targets), torch.arange(count))


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def values(evaluation) -> dict[str, float | None]:
    return {name: metric.value for name, metric in evaluation.metrics.items()}


@pytest.mark.parametrize("absent", [(), (2,), (0, 6)])
@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_evaluation_equals_scikit_learn(absent, decimals):
    sk = pytest.importorskip("sklearn.metrics")
    p = single(decimals=decimals, absent=absent)
    probs, y = p.probs.numpy(), p.targets.numpy()
    guess, present = probs.argmax(1), np.unique(y)
    got = evaluate_classification(p, names(7), "test", resamples=0)
    macro = {"average": "macro", "zero_division": 0}
    onehot = np.eye(7)[y]
    clipped = np.maximum(probs[np.arange(len(y)), y], np.finfo(np.float32).tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn on classes without samples
        expected = {
            "accuracy": sk.accuracy_score(y, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
            "macro_f1": sk.f1_score(y, guess, **macro),
            "macro_precision": sk.precision_score(y, guess, **macro),
            "macro_recall": sk.recall_score(y, guess, **macro),
            "roc_auc": np.mean([sk.roc_auc_score(y == k, probs[:, k]) for k in present]),
            "average_precision": np.mean([sk.average_precision_score(y == k, probs[:, k]) for k in present]),
            "nll": -np.log(clipped).mean(),
            "brier": ((probs - onehot) ** 2).sum(1).mean(),
        }
        precision, recall, f1, _ = sk.precision_recall_fscore_support(y, guess, labels=range(7), zero_division=np.nan)
        top5 = sk.top_k_accuracy_score(y, probs + np.arange(7)[::-1] * 1e-13, k=5, labels=range(7))
    assert {k: v for k, v in values(got).items() if k in expected} == pytest.approx(expected, abs=TOLERANCE)
    assert values(got)["top5_accuracy"] == pytest.approx(top5, abs=TOLERANCE)
    assert got.confusion == {"labels": names(7), "counts": sk.confusion_matrix(y, guess, labels=range(7)).tolist()}
    for k, row in enumerate(got.per_class):
        assert row["count"] == (y == k).sum()
        for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1)):
            ours = np.nan if row[name] is None else row[name]
            assert ours == pytest.approx(theirs[k], abs=TOLERANCE, nan_ok=True), (name, k)
        assert (row["roc_auc"] is None) == (row["average_precision"] is None) == (k in absent)


def test_log_loss_equals_scikit_learn_on_probabilities():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    probs, y = rng.dirichlet(np.ones(4), 100), rng.integers(0, 4, 100)
    p = ClassPredictions(torch.from_numpy(probs), torch.from_numpy(y), torch.arange(100))
    got = values(evaluate_classification(p, names(4), "val", resamples=0))
    assert got["nll"] == pytest.approx(sk.log_loss(y, probs), abs=TOLERANCE)
    assert "top5_accuracy" not in got


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_class_averages_equal_scikit_learn(average):
    sk = pytest.importorskip("sklearn.metrics")
    p = single(absent=(3,))
    guess, y = p.probs.numpy().argmax(1), p.targets.numpy()
    counts = ClassCounts.of(y, guess, 7)
    ours = [getattr(counts, average)(v) for v in (counts.precision, counts.recall, counts.f1)]
    theirs = sk.precision_recall_fscore_support(y, guess, average=average, zero_division=0)[:3]
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


def test_ranking_ece_and_counts_equal_torchmetrics():
    try:
        tm = load_peer("torchmetrics.functional.classification")
    except ImportError as error:
        pytest.skip(str(error))
    p = single(decimals=12)
    got = values(evaluate_classification(p, names(7), "test", resamples=0))
    args = (p.probs, p.targets, 7)
    assert got["roc_auc"] == pytest.approx(float(tm.multiclass_auroc(*args, average="macro")), abs=1e-6)
    assert got["average_precision"] == pytest.approx(float(tm.multiclass_average_precision(*args)), abs=1e-6)
    assert got["ece"] == pytest.approx(float(tm.multiclass_calibration_error(*args, n_bins=15)), abs=1e-6)
    top5 = tm.multiclass_accuracy(*args, average="micro", top_k=5)
    assert got["top5_accuracy"] == pytest.approx(float(top5), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_auc_and_average_precision_equal_their_definitions_with_ties(pairs):
    scores, positive = np.array([s for s, _ in pairs], float), np.array([b for _, b in pairs])
    high, low = scores[positive], scores[~positive]
    if len(high) and len(low):
        order = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
        assert roc_auc(scores, positive) == pytest.approx(order, abs=1e-12)
    else:
        assert np.isnan(roc_auc(scores, positive))
    if len(high):
        steps = [((high == t).sum() / len(high)) * (high >= t).sum() / (scores >= t).sum() for t in np.unique(scores)]
        assert average_precision(scores, positive) == pytest.approx(sum(steps), abs=1e-12)
    else:
        assert np.isnan(average_precision(scores, positive))


@pytest.mark.parametrize("absent", [(), (1, 4)])
def test_multilabel_evaluation_equals_scikit_learn(absent):
    sk = pytest.importorskip("sklearn.metrics")
    p = several(absent=absent)
    probs, y = p.probs.numpy(), p.targets.numpy().astype(int)
    guess, present = (probs >= 0.5).astype(int), [k for k in range(6) if k not in absent]
    got = evaluate_multilabel(p, names(6), "test", resamples=0)
    expected = {
        "mean_average_precision": sk.average_precision_score(y[:, present], probs[:, present], average="macro"),
        "micro_f1": sk.f1_score(y, guess, average="micro"),
        "macro_f1": sk.f1_score(y, guess, average="macro", zero_division=0),
        "subset_accuracy": sk.accuracy_score(y, guess),
        "hamming_loss": sk.hamming_loss(y, guess),
        "roc_auc": sk.roc_auc_score(y[:, present], probs[:, present], average="macro"),
    }
    assert values(got) == pytest.approx(expected, abs=TOLERANCE)
    assert list(got.metrics) == list(expected)
    assert headline_mean_average_precision(p) == pytest.approx(expected["mean_average_precision"], abs=TOLERANCE)
    assert [row["average_precision"] is None for row in got.per_class] == [k in absent for k in range(6)]
    assert got.confusion is None


def test_one_class_only_gives_none_where_a_metric_has_no_meaning():
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
    p = ClassPredictions(probs, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    got = evaluate_classification(p, ["a", "b"], "val", resamples=200)
    assert values(got)["accuracy"] == pytest.approx(2 / 3)
    assert got.metrics["roc_auc"].value is None and got.metrics["roc_auc"].low is None
    assert values(got)["average_precision"] == 1
    assert values(got)["balanced_accuracy"] == pytest.approx(2 / 3)
    assert values(got)["macro_recall"] == pytest.approx(1 / 3)
    assert got.confused == [{"truth": "a", "predicted": "b", "count": 1}]
    nothing = ClassPredictions(probs, torch.zeros(3, 2), torch.arange(3))
    assert evaluate_multilabel(nothing, ["a", "b"], "val").metrics["mean_average_precision"].value is None


def test_ties_go_to_the_lower_class_and_large_k_counts_all():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    assert top_k_hits(scores, np.array([0, 1, 1]), 1).tolist() == [True, False, False]
    assert top_k_hits(scores, np.array([0, 1, 1]), 2).tolist() == [True, True, False]
    assert top_k_hits(scores, np.array([0, 1, 1]), 9).all()


def test_reliability_equals_a_case_by_hand():
    confidence = np.array([0.0, 0.2, 0.21, 0.4, 0.9, 1.0])
    correct = np.array([0, 1, 0, 0, 1, 1])
    got = reliability(confidence, correct, num_bins=5)
    assert [b["count"] for b in got["bins"]] == [2, 2, 0, 0, 2]  # (0, 0.2] holds 0.2; 0 is put there too
    assert [b["confidence"] for b in got["bins"]] == pytest.approx([0.1, 0.305, None, None, 0.95])
    assert [b["accuracy"] for b in got["bins"]] == [0.5, 0.0, None, None, 1.0]
    assert [b["high"] for b in got["bins"]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    expected = (2 * 0.4 + 2 * 0.305 + 2 * 0.05) / 6
    assert got["ece"] == pytest.approx(expected)
    assert expected_calibration_error(confidence, correct, 5) == pytest.approx(expected)


# -- intervals


def test_bootstrap_interval_of_a_bernoulli_mean_covers_it_about_95_percent_of_the_time():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        correct = rng.random(200) < 0.8
        p = ClassPredictions(torch.from_numpy(np.where(correct[:, None], [[0.9, 0.1]], [[0.1, 0.9]])),
                             torch.zeros(200, dtype=torch.int64), torch.arange(200))
        metric = evaluate_classification(p, ["a", "b"], "test", resamples=300, seed=trial).metrics["accuracy"]
        covered += metric.low <= 0.8 <= metric.high
    assert 0.91 <= covered / 300 <= 0.985  # 95 % less the percentile method's loss, and three standard errors


def plain_intervals(evaluate, p: ClassPredictions, count: int, resamples: int) -> dict[str, tuple[float, float]]:
    """Every metric's interval the slow way: draw samples, evaluate all of it again."""
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(resamples):
        drawn = torch.from_numpy(rng.integers(0, len(p.probs), len(p.probs)))
        rows.append(values(evaluate(ClassPredictions(p.probs[drawn], p.targets[drawn], p.index[drawn]), names(count),
                                    "test", resamples=0)))
    return {name: tuple(np.quantile([row[name] for row in rows], [0.025, 0.975])) for name in rows[0]}


@pytest.mark.parametrize(("evaluate", "p"), [(evaluate_classification, single(400, 6, decimals=3, seed=3)),
                                             (evaluate_multilabel, several(300))])
def test_fast_intervals_agree_with_the_plain_bootstrap(evaluate, p):
    got = evaluate(p, names(6), "test", resamples=3000).metrics
    for name, (low, high) in plain_intervals(evaluate, p, 6, 300).items():
        if name != "ece":  # its interval is shifted on purpose
            assert got[name].low == pytest.approx(low, abs=0.2 * (high - low)), name
            assert got[name].high == pytest.approx(high, abs=0.2 * (high - low)), name


def test_bootstrap_of_a_mean_equals_the_normal_interval_of_a_large_sample():
    x = np.random.default_rng(0).normal(size=2000)
    low, high = bootstrap(np.mean, (x,), resamples=2000)
    error = 1.96 * x.std() / 2000**0.5
    assert (low, high) == pytest.approx((x.mean() - error, x.mean() + error), abs=0.1 * error)
    assert (low, high) == bootstrap(np.mean, (x,), resamples=2000)
    assert np.isnan(bootstrap(lambda x: np.nan, (x,), resamples=3)).all()


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    p = single(500)
    first, second = (evaluate_classification(p, names(7), "test", seed=3) for _ in range(2))
    assert first == second
    for name, metric in first.metrics.items():
        assert metric.low <= metric.value <= metric.high, name


def test_a_calibrated_model_has_its_ece_inside_the_interval():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 2000)
    right = rng.random(2000) < confidence
    probs = torch.from_numpy(np.stack([confidence, 1 - confidence], 1))
    p = ClassPredictions(probs, torch.from_numpy((~right).astype(np.int64)), torch.arange(2000))
    ece = evaluate_classification(p, ["a", "b"], "test").metrics["ece"]
    assert 0 <= ece.low < ece.value < ece.high < 0.06


def test_thousand_classes_keep_headline_intervals_and_drop_the_matrix():
    p = single(2000, classes=1000, decimals=12)
    p = ClassPredictions(p.probs, torch.where(torch.arange(2000) % 2 == 0, p.targets, p.targets.flip(0)), p.index)
    got = evaluate_classification(p, names(1000), "test", resamples=200)
    assert got.metrics["accuracy"].low is not None and got.metrics["macro_f1"].low is not None
    assert got.confusion is None and len(got.confused) == 20


# -- what is refused, and what is shown


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"probs": torch.full((3, 2), torch.nan)}, UserError, "3 of 3 images"),
    ({"targets": torch.tensor([0, 1, 2])}, DataError, "label 2 of sample 12"),
    ({"targets": torch.tensor([0, -1, 1])}, DataError, "label -1 of sample 11"),
    ({"probs": torch.ones(3, 5) / 5}, DataError, "5 values per image for 2 labels"),
    ({"probs": torch.ones(0, 2), "targets": torch.zeros(0, dtype=torch.int64)}, DataError, "no samples"),
])
def test_predictions_that_cannot_be_measured_are_refused(change, error, message):
    parts = {"probs": torch.tensor([[0.5, 0.5]] * 3), "targets": torch.tensor([0, 1, 0]), "index": torch.arange(10, 13)}
    with pytest.raises(error, match=message):
        evaluate_classification(ClassPredictions(**(parts | change)), ["a", "b"], "test")


def test_mistakes_come_surest_first_and_hits_least_sure_first():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55]])
    p = ClassPredictions(probs, torch.tensor([1, 0, 0, 1, 1]), torch.arange(5) + 50)
    assert worst_mistakes(p, 5).tolist() == [0, 2]
    assert worst_mistakes(p, 1).tolist() == [0]
    assert least_confident_hits(p, 2).tolist() == [4, 1]
    many = ClassPredictions(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]),
                            torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.arange(3))
    assert worst_mistakes(many, 3).tolist() == [0]
    assert least_confident_hits(many, 3).tolist() == [1, 2]


# -- running


def test_running_metrics_over_uneven_batches_equal_one_pass():
    p = single(300, decimals=1)
    many = several(300)
    pairs = [
        (TopKAccuracy(1), p, headline_accuracy(p)),
        (TopKAccuracy(3), p, float(top_k_hits(p.probs.numpy(), p.targets.numpy(), 3).mean())),
        (TopKAccuracy(50), p, 1.0),
        (MicroF1(), many, values(evaluate_multilabel(many, names(6), "t", resamples=0))["micro_f1"]),
        (OverAll(lambda s, t: roc_auc(s[:, 0], t == 0)), p, roc_auc(p.probs.numpy()[:, 0], p.targets.numpy() == 0)),
    ]
    for metric, predictions, expected in pairs:
        assert metric.compute() is None
        for _ in range(2):
            for scores, targets in zip(predictions.probs.split(128), predictions.targets.split(128), strict=True):
                metric.update(scores, targets)
            assert metric.compute() == pytest.approx(expected, abs=1e-12)
            metric.reset()
        assert metric.compute() is None


def test_running_confusion_matrix_equals_the_evaluations():
    p = single(300)
    metric = ConfusionMatrix(7)
    for scores, targets in zip(p.probs.split(128), p.targets.split(128), strict=True):
        metric.update(scores, targets)
    got = evaluate_classification(p, names(7), "t", resamples=0)
    assert metric.compute().tolist() == got.confusion["counts"]
    counts = metric.class_counts()
    assert counts.macro(counts.f1) == got.metrics["macro_f1"].value


def test_mean_counts_each_sample_once_and_shows_what_is_not_finite():
    mean = Mean()
    assert mean.compute() is None
    losses = torch.rand(1000, dtype=torch.float64)
    for part in losses.split(7):
        mean.update(part.mean(), len(part))
    assert mean.compute() == pytest.approx(losses.mean().item(), rel=1e-12)
    mean.update(float("nan"), 1)
    assert np.isnan(mean.compute())


def test_concatenate_keeps_order():
    p = single(20)
    parts = [ClassPredictions(p.probs[a:b], p.targets[a:b], p.index[a:b]) for a, b in ((0, 9), (9, 20))]
    joined = concatenate(parts)
    assert torch.equal(joined.probs, p.probs)
    assert torch.equal(joined.index, p.index)
