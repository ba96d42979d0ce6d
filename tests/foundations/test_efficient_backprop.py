"""Efficient BackProp: the properties that the paper gives its sigmoid, and what each heuristic is worth on digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from visus.core.errors import UserError
from visus.foundations import efficient_backprop as E


def test_the_scaled_tanh_is_one_at_one_bends_most_there_and_keeps_unit_variance():
    assert E.scaled_tanh(np.array([1.0, -1.0, 0.0])) == pytest.approx([1, -1, 0], abs=1e-4)
    x = np.linspace(-3, 3, 60001)
    bend = np.abs(np.gradient(np.gradient(E.scaled_tanh(x), x), x))
    assert abs(x[bend.argmax()]) == pytest.approx(1, abs=0.02)
    normal = np.random.default_rng(0).normal(size=200_000)
    assert E.scaled_tanh(normal).std() == pytest.approx(0.87, abs=0.01)  # near 1, as section 4.4 wants
    step = 1e-6
    slope = (E.scaled_tanh(x + step) - E.scaled_tanh(x - step)) / (2 * step)
    np.testing.assert_allclose(E.scaled_tanh_backward(np.ones_like(x), E.scaled_tanh(x)), slope, rtol=1e-7)
    assert np.isfinite(E.logistic(np.array([-1e4, 1e4]))).all()
    np.testing.assert_allclose(E.logistic(x), 1 / (1 + np.exp(-x)), rtol=1e-12)


def test_targets_and_inputs():
    assert E.signed_targets(np.array([1, 0]), 3).tolist() == [[-1, 1, -1], [1, -1, -1]]
    x = np.random.default_rng(1).uniform(size=(500, 8))
    x[:, 3] = 0.5
    z = E.standardised(x)
    assert np.abs(z.mean(0)).max() < 1e-12 and z.std(0)[[0, 7]] == pytest.approx([1, 1]) and not z[:, 3].any()
    # uniform numbers in [0, 1): eigenvalues 1/12 and one 1/12 + 8/4, against equal ones around the mean
    assert E.curvature_spread(x[:, [0, 1, 2, 4, 5, 6, 7]]) > 5 and E.curvature_spread(z) < 1.4


def test_what_each_heuristic_is_worth_on_digits():
    found = load_digits()
    trials = {t.name: t for t in E.compare_tricks(found.data[:400] / 16, found.target[:400], epochs=3)}
    assert tuple(trials) == E.VARIANTS
    base = np.mean(trials["all of it"].errors)
    assert trials["all of it"].errors[-1] < 0.05
    for name in ("logistic", "inputs from 0 to 1", "sorted by class"):
        assert np.mean(trials[name].errors) > 1.5 * base, name
    assert trials["targets at the asymptotes"].reach > 1.5 * trials["all of it"].reach
    again = E.compare_tricks(found.data[:400] / 16, found.target[:400], epochs=3)[0]
    assert again == trials["all of it"]


def test_shapes_that_do_not_fit_are_said():
    with pytest.raises(UserError, match="do not fit"):
        E.compare_tricks(np.zeros((4, 3)), np.zeros(5, int))
