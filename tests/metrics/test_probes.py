"""Linear and nearest-neighbour probes against scikit-learn and against loops in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.metrics import probes
from visus.metrics.probes import choose_linear, choose_neighbours, fit_linear, nearest, weighted_vote


def _set(count, seed=0, classes=3, size=6):
    """Overlapping clouds with features of very different scales."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, size))
    features = (centres[targets] + rng.normal(size=(count, size))) * np.logspace(-1, 1, size)
    return torch.from_numpy(features), torch.from_numpy(targets)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_the_linear_probe_is_scikit_learns_logistic_regression(strength):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets = _set(150)
    plain = features / features.std(0)
    ours = fit_linear(plain, targets, 3, strength, standardise=False)
    theirs = linear_model.LogisticRegression(C=1 / (strength * len(targets)), tol=1e-10, max_iter=10_000)
    theirs.fit(plain.numpy(), targets.numpy())
    assert np.abs(ours(plain).numpy() - theirs.predict_proba(plain.numpy())).max() < 1e-4


def test_more_features_than_images_give_the_same_answer_as_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets = _set(24, size=40)
    plain = features / features.std(0)
    ours = fit_linear(plain, targets, 3, 1e-2, standardise=False)
    theirs = linear_model.LogisticRegression(C=1 / (1e-2 * 24), tol=1e-10, max_iter=10_000).fit(plain.numpy(),
                                                                                              targets.numpy())
    assert np.abs(ours(plain).numpy() - theirs.predict_proba(plain.numpy())).max() < 1e-4
    assert np.abs(ours.weight.numpy() - theirs.coef_).max() < 1e-3


def test_standardised_features_give_one_answer_at_any_scale():
    features, targets = _set(90)
    first = fit_linear(features, targets, 3, 1e-2)(features)
    other = fit_linear(features * 100 + 5, targets, 3, 1e-2)(features * 100 + 5)
    assert torch.allclose(first, other, atol=1e-6)


def test_a_feature_that_never_varies_does_no_harm():
    features, targets = _set(60)
    features[:, 2] = 7.0
    assert fit_linear(features, targets, 3, 1e-3)(features).isfinite().all()


def test_the_strength_is_the_best_on_val_and_a_warm_start_changes_nothing():
    train, val = _set(60, seed=1), _set(300, seed=2)
    fitted, trials = choose_linear(train, val, 3)
    cold = fit_linear(*train, 3, fitted.strength)
    assert torch.allclose(fitted(val[0]), cold(val[0]), atol=1e-4)
    assert max(t.accuracy for t in trials) == next(t.accuracy for t in trials
                                                   if t.setting["strength"] == fitted.strength)
    assert fitted.strength > min(probes.STRENGTHS)  # with so few images, hardly any price is the worst


def test_neighbours_are_exact():
    bank, queries = _set(70)[0], _set(33, seed=3)[0]
    unit = [x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (queries, bank)]
    wanted = unit[0] @ unit[1].T
    similarities, index = nearest(queries, bank, 5)
    order = np.argsort(-wanted, axis=1)[:, :5]
    assert np.array_equal(index.numpy(), order)
    assert np.allclose(similarities.numpy(), np.take_along_axis(wanted, order, 1), atol=1e-6)


def test_the_vote_is_the_sum_of_exponentials_by_class():
    similarities = torch.tensor([[0.9, 0.5, 0.4]])
    labels = torch.tensor([[1, 0, 0]])
    e = np.exp(np.array([0.9, 0.5, 0.4]) / 0.2)
    wanted = np.array([e[1] + e[2], e[0], 0.0]) / e.sum()
    assert np.allclose(weighted_vote(similarities, labels, 3, 0.2).numpy(), wanted[None], rtol=1e-6)
    assert weighted_vote(similarities, labels, 3, 1e-4).isfinite().all()


def test_equal_weights_are_scikit_learns_classifier():
    neighbors = pytest.importorskip("sklearn.neighbors")
    (bank, labels), (queries, _) = _set(80), _set(40, seed=5)
    similarities, index = nearest(queries, bank, 7)
    ours = weighted_vote(torch.zeros_like(similarities), labels[index], 3, 1.0)
    theirs = neighbors.KNeighborsClassifier(7, metric="cosine").fit(bank.numpy(), labels.numpy())
    assert np.allclose(ours.numpy(), theirs.predict_proba(queries.numpy()))


def test_k_and_temperature_are_the_best_on_val_and_fit_the_set():
    train, val = _set(30, seed=6), _set(200, seed=7)
    k, temperature, trials = choose_neighbours(train, val, 3)
    assert max(t.setting["k"] for t in trials) <= 30
    chosen = next(t for t in trials if t.setting == {"k": k, "temperature": temperature})
    assert chosen.accuracy == max(t.accuracy for t in trials)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(UserError, match="at most 4"):
        nearest(torch.ones(2, 3), torch.ones(4, 3), 5)
