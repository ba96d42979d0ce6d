"""Paired tests from first principles: binomial tails, McNemar, bootstrap, Holm, Wilson; the two further ECEs."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.metrics.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
)
from visus.metrics.significance import (
    binomial_log_pmf,
    binomial_test,
    holm,
    mcnemar,
    paired_bootstrap,
    wilson_interval,
)


def pair(b: int, c: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """b samples that the first alone gets right, c that the second alone does, some that both do."""
    first = np.array([True] * b + [False] * c + [True] * both)
    return first, ~first | (np.arange(len(first)) >= b + c)


@pytest.mark.parametrize("n, p", [(0, 0.5), (1, 0.5), (7, 0.5), (12, 0.2), (200, 0.5)])
def test_the_binomial_distribution_is_counted(n, p):
    exact = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    np.testing.assert_allclose(np.exp(binomial_log_pmf(n, p)), exact, rtol=1e-11)
    for k in (0, n // 3, n):
        at_most = sum(q for q in exact if q <= exact[k] * (1 + 1e-9))
        assert binomial_test(k, n, p) == pytest.approx(min(1, at_most), rel=1e-10)


@pytest.mark.parametrize("b, c", [(0, 0), (1, 0), (3, 3), (5, 12), (40, 21), (0, 9)])
def test_mcnemar_is_the_count_of_all_ways_to_share_out_the_disagreements(b, c):
    n, k = b + c, min(b, c)
    tail = sum(comb(n, i) for i in range(k + 1)) / 2**n
    found = mcnemar(*pair(b, c))
    assert (found.only_first, found.only_second) == (b, c)
    assert found.exact == pytest.approx(min(1, 2 * tail), rel=1e-10) == pytest.approx(binomial_test(b, n), rel=1e-10)
    if b != c:
        assert found.mid_p == pytest.approx(2 * tail - comb(n, k) / 2**n, rel=1e-10) and found.mid_p < found.exact
    other = mcnemar(*reversed(pair(b, c)))
    assert (other.exact, other.mid_p) == (found.exact, found.mid_p)


def test_under_the_null_mcnemar_rejects_at_most_as_often_as_it_says():
    """Of 20 disagreements with a fair coin each, the chance that p <= 0.05, added up over all outcomes."""
    chance = {kind: sum(comb(20, b) / 2**20 for b in range(21) if getattr(mcnemar(*pair(b, 20 - b)), kind) <= 0.05)
              for kind in ("exact", "mid_p")}
    assert chance["exact"] <= 0.05 and chance["exact"] <= chance["mid_p"] <= 0.055


def test_a_hundred_thousand_disagreements_are_no_problem():
    found = mcnemar(*pair(50_500, 49_500))
    assert 0.0010 < found.mid_p < found.exact < 0.0020  # z = 3.16


def test_the_paired_bootstrap_sees_what_an_unpaired_one_cannot():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 400)
    found = paired_bootstrap(difficulty, difficulty + rng.normal(0.2, 0.5, 400))
    assert found.low > 0 and found.value == pytest.approx(0.2, abs=0.1) and found.p < 0.01
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    mirrored = paired_bootstrap(difficulty + rng.normal(0.2, 0.5, 400), difficulty)
    assert mirrored.high < 0 and mirrored.p < 0.01


def test_equal_answers_have_no_difference_and_no_evidence():
    rng = np.random.default_rng(1)
    values = rng.random(50)
    same = paired_bootstrap(values, values.copy())
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_statistic_of_the_means_is_resampled_whole():
    rng = np.random.default_rng(2)
    a, b = rng.random((300, 2)), rng.random((300, 2)) * 2
    found = paired_bootstrap(a, b, statistic=lambda means: means[..., 0] / means[..., 1])
    assert found.value == pytest.approx(b[:, 0].mean() / b[:, 1].mean() - a[:, 0].mean() / a[:, 1].mean())
    assert found.low < 0 < found.high and found.p > 0.05


def test_holm_by_hand_and_in_any_order():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    expected = {0.005: 0.02, 0.01: 0.03, 0.03: 0.06, 0.04: 0.06}
    for order in permutations(p):
        np.testing.assert_allclose(holm(np.array(order)), [expected[v] for v in order])
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0] and len(holm(np.array([]))) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_solves_its_quadratic(count, data):
    hits = data.draw(st.integers(0, count))
    low, high = wilson_interval(hits, count)
    share = hits / count
    assert 0 <= low <= share <= high <= 1
    for bound in {low, high} - {0.0, 1.0}:  # |share - bound| = z sqrt(bound (1 - bound) / n)
        assert (share - bound) ** 2 == pytest.approx(1.959963985**2 * bound * (1 - bound) / count, rel=1e-6, abs=1e-15)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_equal_count_bins_by_hand_and_for_any_order():
    confidence = np.array([0.6, 0.7, 0.8, 0.9])
    correct = np.array([True, False, True, True])
    assert adaptive_calibration_error(confidence, correct, 2) == pytest.approx(
        (abs(0.4 - 0.7) + abs(0.2 + 0.1)) / 4)
    assert adaptive_calibration_error(confidence, correct, 1) == pytest.approx(abs(correct.mean() - confidence.mean()))
    rng = np.random.default_rng(0)
    tied, right = rng.integers(5, 10, 200) / 10, rng.random(200) < 0.7
    order = rng.permutation(200)
    assert adaptive_calibration_error(tied, right) == pytest.approx(adaptive_calibration_error(tied[order],
                                                                                                right[order]))


def test_equal_count_bins_see_a_gap_that_equal_width_bins_average_away():
    """All confidences in one bin of width 1/15, low ones too sure and high ones not sure enough."""
    confidence = np.repeat([0.94, 0.99], 100)
    correct = np.concatenate([np.arange(100) < 89, np.arange(100) < 100])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.02)
    assert adaptive_calibration_error(confidence, correct, 2) == pytest.approx(0.03)


def test_the_classwise_error_is_the_mean_over_classes_against_the_rest():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(70), 150)
    targets = rng.integers(0, 70, 150)
    expected = np.mean([expected_calibration_error(probs[:, k], targets == k) for k in range(70)])
    assert classwise_calibration_error(probs, targets) == pytest.approx(expected, rel=1e-12)
    assert classwise_calibration_error(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])) == 0
