"""Conformal sets: the quantile, the three scores by hand, and the promised coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.calibrate.made_up import overconfident
from visus.calibrate.conformal import (
    Aps,
    Lac,
    Raps,
    conformal_quantile,
    expected_coverage,
    fit_conformal,
    measure_sets,
)
from visus.core.errors import UserError
from visus.core.seeds import uniform


def test_the_quantile_is_the_finite_sample_one():
    scores = np.arange(1, 10, dtype=float)  # n = 9: ceil(10 * 0.9) = 9, ceil(10 * 0.8) = 8
    assert conformal_quantile(scores, 0.1) == 9 and conformal_quantile(scores, 0.2) == 8
    assert conformal_quantile(scores, 0.05) == math.inf
    assert conformal_quantile(np.arange(1, 20.0), 0.05) == 19 and conformal_quantile(np.arange(19.0), 0.95) == 0


def test_scores_by_hand():
    probs, u = np.array([[0.2, 0.5, 0.3]]), np.array([0.25])
    np.testing.assert_allclose(Lac()(probs, u), [[0.8, 0.5, 0.7]])
    np.testing.assert_allclose(Aps()(probs, u), [[0.8 + 0.25 * 0.2, 0.25 * 0.5, 0.5 + 0.25 * 0.3]])
    np.testing.assert_allclose(Aps(randomised=False)(probs, u), [[1.0, 0.5, 0.8]])
    np.testing.assert_allclose(Raps(penalty=0.1, free_ranks=1)(probs, u), [[0.85 + 0.2, 0.125, 0.575 + 0.1]])
    np.testing.assert_allclose(Raps(penalty=0, free_ranks=5)(probs, u), Aps()(probs, u))


@pytest.mark.parametrize("score", [Lac(), Aps(), Raps(penalty=0.05, free_ranks=2)], ids=lambda s: s.name)
@pytest.mark.parametrize("n, alpha", [(40, 0.1), (99, 0.2)])
def test_coverage_is_as_promised_for_a_model_that_is_wrong_about_its_confidence(score, n, alpha):
    """The coverage given a calibration set is Beta(k, n + 1 - k), k = ceil((n + 1)(1 - alpha)) (Vovk 2012), so its mean
    over T trials of M tests lies within 4 standard errors of k / (n + 1)."""
    trials, tests = 300, 100
    probs, targets = overconfident(trials * (n + tests), 6, temperature=3.0, seed=n)
    u = uniform(np.arange(len(probs)), "simulation")
    covered = []
    for t in range(trials):
        start = t * (n + tests)
        fit, check = np.arange(start, start + n), np.arange(start + n, start + n + tests)
        conformal = fit_conformal(score, probs[fit], targets[fit], u[fit], alpha)
        sets = conformal.sets(probs[check], u[check])
        covered.append(sets[np.arange(tests), targets[check]].mean())
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    mean = k / (n + 1)
    variance = mean * (1 - mean) / (n + 2) + mean * (1 - mean) / tests
    assert abs(np.mean(covered) - mean) < 4 * math.sqrt(variance / trials)
    assert 1 - alpha <= mean <= 1 - alpha + 1 / (n + 1)


def test_the_usual_range_of_coverage_is_the_beta_binomials():
    rng = np.random.default_rng(0)
    for n, m, alpha in ((50, 80, 0.1), (269, 269, 0.1), (20, 500, 0.3)):
        k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
        drawn = rng.binomial(m, rng.beta(k, n + 1 - k, 200_000)) / m
        low, high = expected_coverage(n, m, alpha)
        assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1.5 / m)
    assert expected_coverage(8, 100, 0.1) == (1.0, 1.0)


def test_too_few_samples_give_all_classes():
    probs, targets = overconfident(30, 4)
    u = uniform(np.arange(30))
    conformal = fit_conformal(Lac(), probs[:8], targets[:8], u[:8], alpha=0.1)
    assert math.isinf(conformal.threshold) and conformal.sets(probs, u).all()


def test_a_smaller_alpha_gives_larger_sets_and_a_penalty_cuts_the_largest():
    probs, targets = overconfident(3000, 30, temperature=3.0, spread=9.0, seed=5)
    u = uniform(np.arange(3000))
    fit, check = slice(0, 1500), slice(1500, 3000)

    def sizes(score, alpha: float) -> np.ndarray:
        return fit_conformal(score, probs[fit], targets[fit], u[fit], alpha).sets(probs[check], u[check]).sum(1)

    assert sizes(Aps(), 0.05).mean() > sizes(Aps(), 0.1).mean() > sizes(Aps(), 0.3).mean()
    assert sizes(Aps(), 0.1).mean() <= sizes(Aps(randomised=False), 0.1).mean()
    cut, plain = sizes(Raps(penalty=0.5, free_ranks=3), 0.1), sizes(Aps(), 0.1)
    assert cut.max() < plain.max() and cut.std() < plain.std() / 2


def test_sets_are_measured_by_hand():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    found = measure_sets(sets, np.array([0, 1, 2, 0]))
    assert found["coverage"] == 0.5 and found["mean_size"] == 1.25 and found["sizes"] == [1, 1, 2, 0]
    assert found["empty"] == 0.25 and found["single"] == 0.25
    assert found["worst_class"] == {"class": 2, "coverage": 0.0, "count": 1}
    assert found["coverage_low"] < 0.5 < found["coverage_high"]


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5])
def test_a_wrong_alpha_is_refused(alpha):
    probs, targets = overconfident(30, 4)
    with pytest.raises(UserError, match="alpha=.*: must lie between 0 and 1"):
        fit_conformal(Lac(), probs, targets, np.zeros(30), alpha)
    with pytest.raises(UserError, match="penalty=-1: must be a number of at least 0"):
        Raps(penalty=-1)
