"""Isotonic regression: the least-squares rising function, for all classes at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibrate.made_up import overconfident
from visus.calibrate.isotonic import fit_isotonic, rising


def one_by_one(y: np.ndarray) -> np.ndarray:
    """Pool adjacent violators, one sample after another."""
    pools: list[list[float]] = []
    for value in y:
        pools.append([value, 1.0])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n), (b, m) = pools[-2], pools[-1]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.repeat([p[0] for p in pools], [int(p[1]) for p in pools])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_pooling_whole_falling_runs_equals_pooling_one_by_one(values):
    y = np.array(values, float)
    x = np.arange(len(y), dtype=float)
    at, fitted = rising(np.stack([x, x]), np.stack([y, -y]))
    np.testing.assert_allclose(fitted[0], one_by_one(y), atol=1e-12)
    np.testing.assert_allclose(fitted[1], one_by_one(-y), atol=1e-12)
    assert (at[0] == x).all()


def test_by_hand_and_rows_do_not_touch():
    x = np.array([[1.0, 2, 3, 4], [1, 1, 2, 2]])
    y = np.array([[0.0, 1, 0, 1], [0, 1, 0, 0]])
    at, fitted = rising(x, y)
    np.testing.assert_allclose(fitted[0], [0, 0.5, 0.5, 1])
    assert at[1].tolist() == [1, 2] and fitted[1].tolist() == [0.25, 0.25]  # equal x are one point, then pooled


def test_no_rising_function_is_nearer():
    rng = np.random.default_rng(0)
    y = (rng.random(60) < np.linspace(0.1, 0.9, 60)).astype(float)
    fitted = rising(np.arange(60.0)[None], y[None])[1][0]
    assert (np.diff(fitted) >= 0).all()
    best = ((fitted - y) ** 2).sum()
    for _ in range(300):
        other = np.sort(np.clip(fitted + rng.normal(0, 0.05, 60), 0, 1))
        assert ((other - y) ** 2).sum() >= best


def test_rows_sum_to_one_nothing_is_impossible_and_knots_are_few():
    probs, targets = overconfident(400, 4)
    fitted = fit_isotonic(probs, targets)
    out = fitted(probs)
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-12)
    assert out.min() > 1 / 800 / 4 and fitted.floor == 1 / 800
    assert all(len(k) < 200 and (np.diff(v) >= 0).all() for k, v in zip(fitted.knots, fitted.values, strict=True))
    dense = rising(np.sort(probs[:, 0])[None], (targets == 0)[np.argsort(probs[:, 0])][None].astype(float))
    np.testing.assert_allclose(np.interp(probs[:, 0], fitted.knots[0], fitted.values[0]),
                               np.interp(probs[:, 0], dense[0][0], dense[1][0]), atol=1e-12)
