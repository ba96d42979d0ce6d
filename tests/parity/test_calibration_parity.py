"""Calibration against scikit-learn and SciPy: isotonic regression, scaling, AUROC, shrinkage, exact tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.calibrate.made_up import overconfident
from visus.calibrate.conformal import conformal_quantile
from visus.calibrate.isotonic import fit_isotonic, rising
from visus.calibrate.out_of_distribution import Mahalanobis, NearestNeighbours, separation, shrunk_covariance
from visus.calibrate.scaling import fit_matrix, fit_temperature, fit_vector, log_probs
from visus.metrics.significance import binomial_test, mcnemar, paired_bootstrap


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_isotonic_regression_equals_scikit_learns_for_every_class(decimals):
    """Ties included; at 1e-12."""
    isotonic = pytest.importorskip("sklearn.isotonic")
    probs, targets = overconfident(500, 6, seed=decimals)
    probs = np.round(probs, decimals)
    ours = fit_isotonic(probs, targets)
    new = np.round(overconfident(300, 6, seed=99)[0], 3)
    for k in range(6):
        theirs = isotonic.IsotonicRegression(out_of_bounds="clip").fit(probs[:, k], targets == k)
        np.testing.assert_allclose(np.interp(new[:, k], ours.knots[k], ours.values[k]), theirs.predict(new[:, k]),
                                   atol=1e-12)


def test_isotonic_regression_of_any_numbers_equals_scikit_learns():
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.integers(0, 80, (20, 200)), 1).astype(float), rng.normal(size=(20, 200))
    for at, fitted, row_x, row_y in zip(*rising(x, y), x, y, strict=True):
        theirs = isotonic.IsotonicRegression().fit(row_x, row_y)
        np.testing.assert_allclose(fitted, theirs.predict(at), atol=1e-12)


def test_with_two_classes_the_temperature_is_a_logistic_regression_without_offset():
    """At 1e-6 of scikit-learn's Newton solver."""
    linear = pytest.importorskip("sklearn.linear_model")
    probs, targets = overconfident(800, 2, temperature=3.0)
    difference = np.diff(log_probs(probs), axis=1)
    theirs = linear.LogisticRegression(fit_intercept=False, C=np.inf, solver="newton-cholesky", tol=1e-12)
    theirs.fit(difference, targets)
    assert 1 / fit_temperature(probs, targets).temperature == pytest.approx(theirs.coef_[0, 0], rel=1e-6)


def test_the_temperature_is_that_of_scipys_bounded_search():
    optimize = pytest.importorskip("scipy.optimize")
    special = pytest.importorskip("scipy.special")
    probs, targets = overconfident(700, 9, temperature=1.7, seed=4)
    logits = log_probs(probs)

    def nll(log_t: float) -> float:
        return -special.log_softmax(logits / np.exp(log_t), 1)[np.arange(len(logits)), targets].mean()

    found = optimize.minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(probs, targets).temperature == pytest.approx(np.exp(found.x), rel=1e-6)


def test_matrix_scaling_without_a_ridge_is_a_multinomial_regression_on_log_probabilities():
    """The same probabilities at 1e-4."""
    linear = pytest.importorskip("sklearn.linear_model")
    probs, targets = overconfident(1500, 4)
    theirs = linear.LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-9, max_iter=1000)
    theirs.fit(log_probs(probs), targets)
    np.testing.assert_allclose(fit_matrix(probs, targets, ridge=0)(probs), theirs.predict_proba(log_probs(probs)),
                               atol=1e-4)


def test_vector_scaling_is_as_low_as_scipys_minimum():
    """The objective at 1e-8."""
    optimize = pytest.importorskip("scipy.optimize")
    special = pytest.importorskip("scipy.special")
    probs, targets = overconfident(600, 5, seed=2)
    logits = log_probs(probs)

    def objective(v: np.ndarray) -> float:
        nll = -special.log_softmax(logits * v[:5] + v[5:], 1)[np.arange(len(logits)), targets].mean()
        return nll + 1e-6 * (((v[:5] - 1) ** 2).sum() + (v[5:] ** 2).sum())

    theirs = optimize.minimize(objective, np.r_[np.ones(5), np.zeros(5)], method="BFGS", options={"gtol": 1e-8})
    ours = fit_vector(probs, targets)
    assert objective(np.array([*ours.weights, *ours.offsets])) <= theirs.fun + 1e-8


def test_auroc_aupr_and_the_covariance_equal_scikit_learns():
    """AUROC and average precision at 1e-12, shrinkage and covariance at 1e-10, distances at 1e-8."""
    sk = pytest.importorskip("sklearn.metrics")
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(0)
    inside, outside = np.round(rng.normal(1, 1, 300), 1), np.round(rng.normal(0, 1, 200), 1)
    found = separation(inside, outside)
    y, scores = np.r_[np.ones(300), np.zeros(200)], np.r_[inside, outside]
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12)
    assert found["aupr"] == pytest.approx(sk.average_precision_score(y, scores), abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(y, scores, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(fpr[tpr >= 0.95][0], abs=1e-12)
    for count in (15, 400):
        x = rng.normal(size=(count, 30)) @ rng.normal(size=(30, 30))
        x -= x.mean(0)
        theirs, _ = covariance.ledoit_wolf(x, assume_centered=True)
        np.testing.assert_allclose(shrunk_covariance(torch.from_numpy(x)).numpy(), theirs, rtol=1e-10, atol=1e-10)


def test_distances_equal_scikit_learns():
    neighbors = pytest.importorskip("sklearn.neighbors")
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(1)
    bank, query, targets = rng.normal(size=(200, 12)), rng.normal(size=(40, 12)), np.arange(200) % 4
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (bank, query)]
    theirs, _ = neighbors.NearestNeighbors(n_neighbors=7).fit(unit[0]).kneighbors(unit[1])
    ours = NearestNeighbours.fit(torch.from_numpy(bank), k=7)(torch.from_numpy(query))
    np.testing.assert_allclose(-ours.numpy(), theirs[:, -1], rtol=1e-5)
    means = np.stack([bank[targets == k].mean(0) for k in range(4)])
    fitted = covariance.LedoitWolf(assume_centered=True).fit(bank - means[targets])
    expected = np.min([fitted.mahalanobis(query - mean) for mean in means], axis=0)
    found = Mahalanobis.fit(torch.from_numpy(bank), torch.from_numpy(targets))(torch.from_numpy(query))
    np.testing.assert_allclose(-found.numpy(), expected, rtol=1e-8)


def test_exact_tests_equal_scipys():
    """At 1e-9."""
    stats = pytest.importorskip("scipy.stats")
    for k, n, p in ((3, 20, 0.5), (12, 20, 0.5), (7, 30, 0.1), (0, 5, 0.3)):
        assert binomial_test(k, n, p) == pytest.approx(stats.binomtest(k, n, p).pvalue, rel=1e-9)
    rng = np.random.default_rng(0)
    a, b = rng.random(500) < 0.8, rng.random(500) < 0.74
    n = (a & ~b).sum() + (~a & b).sum()
    assert mcnemar(a, b).exact == pytest.approx(stats.binomtest((a & ~b).sum(), n).pvalue, rel=1e-9)
    interval = stats.bootstrap((b.astype(float) - a,), np.mean, n_resamples=4000, method="percentile",
                               rng=np.random.default_rng(1)).confidence_interval
    ours = paired_bootstrap(a, b, resamples=4000)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=0.005)


def test_the_conformal_quantile_is_numpys_higher_quantile_at_the_corrected_level():
    rng = np.random.default_rng(0)
    for n in (10, 37, 500):
        for alpha in (0.1, 0.25):
            scores = rng.random(n)
            level = min(1.0, np.ceil((n + 1) * (1 - alpha)) / n)
            assert conformal_quantile(scores, alpha) == np.quantile(scores, level, method="inverted_cdf")
