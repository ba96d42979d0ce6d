"""Selective prediction: the risk-coverage curve by hand, with ties, at its best and at its worst."""

from __future__ import annotations

import numpy as np
import pytest

from visus.calibrate.selective import risk_coverage


def test_the_curve_by_hand():
    found = risk_coverage(np.array([0.6, 0.9, 0.8, 0.5]), np.array([False, True, True, False]))
    np.testing.assert_allclose(found.risks, [0, 0, 1 / 3, 0.5])
    assert found.confidence.tolist() == [0.9, 0.8, 0.6, 0.5]
    assert found.aurc == pytest.approx((1 / 3 + 0.5) / 4) and found.excess_aurc == pytest.approx(0)
    assert found.at(0.5) == {"coverage": 0.5, "accuracy": 1.0, "confidence": 0.8}
    assert found.at(0.51)["coverage"] == 0.75 and found.at(1.0)["accuracy"] == 0.5


def test_equally_sure_samples_count_as_in_a_random_order():
    correct = np.array([True, False, True, False])
    found = risk_coverage(np.full(4, 0.7), correct)
    np.testing.assert_allclose(found.risks, 0.5)
    order = np.random.default_rng(0).permutation(4)
    np.testing.assert_allclose(risk_coverage(np.full(4, 0.7), correct[order]).risks, found.risks)


def test_errors_first_is_the_worst_and_excess_is_what_a_better_order_would_gain():
    correct = np.arange(100) >= 20
    worst, best = risk_coverage(100 - np.arange(100.0), correct), risk_coverage(np.arange(100.0), correct)
    assert best.excess_aurc == pytest.approx(0) and worst.aurc > best.aurc
    assert worst.excess_aurc == pytest.approx(worst.aurc - best.aurc)
    assert best.at(0.8)["accuracy"] == 1 and worst.at(0.2)["accuracy"] == 0


def test_the_record_has_few_points_and_ends_at_the_error_rate():
    rng = np.random.default_rng(0)
    record = risk_coverage(rng.random(5000), rng.random(5000) < 0.8).to_dict()
    assert len(record["curve"]) == 200 and record["curve"][-1][0] == 1
    assert record["curve"][-1][1] == pytest.approx(1 - record["at"][0]["accuracy"])
