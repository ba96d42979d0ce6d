"""Dropout on generalised linear models: the quadratic penalty against every mask, and against drawn ones."""

from __future__ import annotations

import numpy as np
import pytest

from visus.core.errors import UserError
from visus.foundations.dropout_penalty import (
    exact_penalty,
    penalty_table,
    quadratic_penalty,
    sampled_penalty,
)

RNG = np.random.default_rng(0)
X, BETA = RNG.normal(size=(40, 8)), RNG.normal(size=8) / 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_for_linear_regression_the_penalty_is_exactly_quadratic(share):
    by_hand = 0.5 * share / (1 - share) * ((X * BETA) ** 2).sum()
    assert quadratic_penalty(X, BETA, share, "linear") == pytest.approx(by_hand, rel=1e-12)
    assert exact_penalty(X, BETA, share, "linear") == pytest.approx(by_hand, rel=1e-12)


def test_the_weights_of_the_penalty_are_the_diagonal_of_the_fisher_information():
    p = 1 / (1 + np.exp(-X @ BETA))
    fisher = X.T @ np.diag(p * (1 - p)) @ X
    assert quadratic_penalty(X, BETA, 0.5) == pytest.approx(0.5 * BETA @ np.diag(np.diag(fisher)) @ BETA, rel=1e-12)


def test_drawn_masks_agree_with_all_masks():
    drawn, error = sampled_penalty(X, BETA, 0.5, draws=4000)
    assert abs(drawn - exact_penalty(X, BETA, 0.5)) < 4 * error


@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_the_quadratic_penalty_nears_the_exact_one_as_weights_get_small(family):
    errors = []
    for scale in (1.0, 0.5, 0.25):
        exact = exact_penalty(X, scale * BETA, 0.5, family)
        errors.append(abs(quadratic_penalty(X, scale * BETA, 0.5, family) / exact - 1))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05


def test_on_logistic_regression_of_digits_the_two_penalties_are_close():
    """Of a fitted model, 3 against 8. The larger its weights, the more the quadratic form leaves out."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    digits = load_digits()
    chosen = np.isin(digits.target, (3, 8))
    x, y = digits.data[chosen] / 16, digits.target[chosen] == 8
    ratios = []
    for strength in (0.01, 0.1, 1.0):
        beta = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000).fit(x, y).coef_[0]
        row = penalty_table(x, beta, (0.25,), draws=300)[0]
        assert row["error"] < 0.02 * row["penalty"]
        ratios.append(row["ratio"])
    assert ratios[0] == pytest.approx(1, abs=0.03) and ratios[1] == pytest.approx(1, abs=0.06)
    assert 0.6 < ratios[2] < 0.85


@pytest.mark.parametrize("call, field", [
    (lambda: quadratic_penalty(X, BETA, 1.0), "share=1.0"),
    (lambda: quadratic_penalty(X, BETA, 0.5, "logit"), "'logistic'|logit"),
    (lambda: exact_penalty(np.ones((1, 17)), np.ones(17), 0.5), "17 features"),
])
def test_wrong_values_are_refused_by_name(call, field):
    with pytest.raises(UserError, match=field):
        call()
