"""AdaBoost over stumps: scikit-learn's ensemble, the bound on the training error, thresholds found by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.classical.digits import digits, examples
from visus.classical.adaboost import AdaBoost, AdaBoostConfig, training_bound
from visus.classical.stumps import LEVELS, Coded, thresholds_of


def three_or_eight(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [count, 64] with a little noise, so that no two thresholds are equally good, and labels 0 and 1."""
    (images, labels), _ = digits()
    kept = (labels == 3) | (labels == 8)
    rows = images[kept][:count].flatten(1)
    rows = rows + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    return rows, (labels[kept][:count] == 8).long()


def boosted(rounds: int, criterion: str = "gini", classes: int = 2, split=None) -> AdaBoost:
    rows, targets = split or three_or_eight()
    model = AdaBoost(AdaBoostConfig(image_size=8, num_classes=classes, rounds=rounds, criterion=criterion))
    model.boost(rows, targets)
    return model


@pytest.mark.parametrize("classes", [2, 10])
def test_stumps_and_their_weights_are_scikit_learns(classes):
    ensemble = pytest.importorskip("sklearn.ensemble")
    tree = pytest.importorskip("sklearn.tree")
    if classes == 2:
        rows, targets = three_or_eight()
    else:
        (images, targets), _ = digits()
        rows, targets = images[:240].flatten(1), targets[:240]
        rows = rows + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    ours = boosted(30, classes=classes, split=(rows, targets))
    theirs = ensemble.AdaBoostClassifier(tree.DecisionTreeClassifier(max_depth=1), n_estimators=30, random_state=0)
    theirs.fit(rows.numpy(), targets.numpy())
    assert ours.feature.tolist() == [int(one.tree_.feature[0]) for one in theirs.estimators_]
    np.testing.assert_allclose(ours.threshold, [one.tree_.threshold[0] for one in theirs.estimators_], atol=1e-5)
    np.testing.assert_allclose(ours.error, theirs.estimator_errors_, atol=1e-6)
    np.testing.assert_allclose(ours.alpha, theirs.estimator_weights_, atol=1e-5)
    new = digits()[1][0]
    assert ours(new).argmax(1).tolist() == theirs.predict(new.flatten(1).numpy()).tolist()


@pytest.mark.parametrize("criterion", ["error", "gini"])
def test_the_training_error_stays_below_its_bound_which_falls(criterion):
    rows, targets = three_or_eight()
    model = boosted(60, criterion)
    bound = training_bound(model.error)
    assert (bound.diff() <= 0).all() and bound[-1] < 0.1
    for rounds in (1, 5, 20, 60):
        part = boosted(rounds, criterion)
        wrong = float((part(rows.view(-1, 1, 8, 8)).argmax(1) != targets).double().mean())
        assert wrong <= float(bound[rounds - 1]) + 1e-9


def test_the_best_stump_is_that_of_all_thresholds_tried():
    rows, targets = (part[:40] for part in three_or_eight())
    weights = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = Coded(rows, targets, 2).best(weights, "error")
    least = min(float(weights[torch.where(rows[:, f] <= t, a, 1 - a) != targets].sum())
                for f in range(64) for t in rows[:, f] for a in (0, 1)) / float(weights.sum())
    assert found.error == pytest.approx(least, abs=1e-12)


def test_thresholds_of_few_values_are_all_and_of_many_evenly_among_them():
    few = thresholds_of(torch.tensor([[3.0, 1.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]]))
    assert few[0, :2].tolist() == [1.5, 2.5] and few[0, 2:].isinf().all() and few[1].isinf().all()
    many = thresholds_of(torch.arange(10_000.0)[None])
    assert many.isfinite().all() and many.shape == (1, LEVELS - 1)
    gaps = many.diff()
    assert (gaps > 0).all() and float(gaps.max() - gaps.min()) <= 1.0


def test_it_ends_at_a_stump_without_mistakes_and_its_config_says_so():
    rows = torch.zeros(10, 64)
    rows[5:, 9] = 1.0
    model = boosted(50, split=(rows, (torch.arange(10) >= 5).long()))
    assert model.config.rounds == 1 and model.feature.tolist() == [9] and model.threshold.tolist() == [0.5]


def test_more_stumps_read_more_digits():
    (images, labels), _ = digits()
    val, truth = digits()[1]
    accuracy = [float((boosted(rounds, classes=10, split=(images.flatten(1), labels))(val).argmax(1) == truth)
                      .double().mean()) for rounds in (1, 20, 150)]
    assert accuracy[0] < 0.3 and accuracy == sorted(accuracy) and accuracy[-1] > 0.75


def test_a_part_of_the_images_is_said():
    said: list[str] = []
    AdaBoost(AdaBoostConfig(image_size=8, rounds=3, images=100)).fit(examples(say=said.append))
    assert "100 of 1,257 images" in said[0]
