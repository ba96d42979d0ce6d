"""Temperature, vector, matrix scaling: the optimum, what it keeps, and when it is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.calibrate.made_up import overconfident
from visus.calibrate.choosing import (
    FITS,
    choose,
    cross_validated,
    from_record,
    stratified_folds,
    to_record,
)
from visus.calibrate.scaling import fit_matrix, fit_temperature, fit_vector, log_probs, softmax
from visus.core.errors import CheckpointError, DataError, UserError
from visus.metrics.calibration import negative_log_likelihoods


def golden_section(f, low: float, high: float) -> float:
    """The lowest point of a function with one valley."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    while high - low > 1e-10:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_that_of_a_golden_section_search(seed):
    """A search by values alone cannot see below the square root of the rounding error: slopes are compared too."""
    probs, targets = overconfident(600, 7, temperature=(0.5, 1.0, 2.5, 6.0)[seed], seed=seed)
    logits = log_probs(probs)

    def nll(log_t: float) -> float:
        z = logits / math.exp(log_t)
        top = z.max(1, keepdims=True)
        return float((np.log(np.exp(z - top).sum(1)) + top[:, 0] - z[np.arange(len(z)), targets]).mean())

    found = fit_temperature(probs, targets).temperature
    assert found == pytest.approx(math.exp(golden_section(nll, -3, 3)), rel=1e-6)
    p = softmax(logits / found)
    slope = ((p * logits).sum(1) - logits[np.arange(len(p)), targets]).mean()
    assert abs(slope) < 1e-12


def test_the_true_temperature_is_found_again():
    probs, targets = overconfident(40_000, 5, temperature=2.5)
    assert fit_temperature(probs, targets).temperature == pytest.approx(2.5, rel=0.03)


def test_temperature_leaves_the_order_of_classes_and_one_changes_nothing():
    probs, targets = overconfident(300)
    fitted = fit_temperature(probs, targets)
    assert (fitted(probs).argsort(1) == probs.argsort(1)).all()
    np.testing.assert_allclose(fitted(probs).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(type(fitted)(temperature=1.0)(probs), probs, atol=1e-14)


def test_without_a_mistake_the_temperature_stays_in_its_bounds():
    probs = np.full((50, 3), 0.2)
    targets = np.arange(50) % 3
    probs[np.arange(50), targets] = 0.6
    cold = fit_temperature(probs, targets)  # wherever the NLL has become 0 to the bit
    assert 0.01 <= cold.temperature < 0.05 and negative_log_likelihoods(cold(probs), targets).max() < 1e-12
    assert fit_temperature(probs, (targets + 1) % 3).temperature == pytest.approx(100)


def test_vector_scaling_finds_the_factors_and_offsets_that_made_the_targets():
    rng = np.random.default_rng(3)
    probs = softmax(rng.normal(size=(40_000, 3)) * 1.5)
    factors, offsets = np.array([0.5, 1.0, 1.5]), np.array([0.4, -0.5, 0.1])
    true = softmax(log_probs(probs) * factors + offsets)
    targets = (true.cumsum(1) < rng.random((len(true), 1))).sum(1).clip(max=2)
    found = fit_vector(probs, targets)
    np.testing.assert_allclose(found.weights, factors, atol=0.05)
    np.testing.assert_allclose(found.offsets, offsets, atol=0.05)  # the ridge picks those that sum to 0


def test_the_slope_of_the_matrix_objective_is_zero_at_the_fit():
    probs, targets = overconfident(500, 4)
    found = fit_matrix(probs, targets, ridge=0.05)
    weights, offsets, z = np.array(found.weights), np.array(found.offsets), log_probs(probs)
    away = found(probs) - np.eye(4)[targets]
    off = 1 - np.eye(4)
    np.testing.assert_allclose(away.T @ z / 500 + 0.05 * 2 * weights * off / 12, 0, atol=1e-5)
    np.testing.assert_allclose(away.mean(0) + 0.05 * 2 * offsets / 4, 0, atol=1e-5)


@pytest.mark.parametrize("name", FITS)
def test_a_calibrator_comes_back_from_its_record_to_the_bit(name):
    probs, targets = overconfident(200, 4)
    fitted = FITS[name](probs, targets)
    again = from_record(to_record(fitted), 4)
    assert again == fitted and (again(probs) == fitted(probs)).all()
    with pytest.raises(CheckpointError, match="not one for 5 classes"):
        from_record(to_record(fitted) | ({"temperature": -1.0} if name == "temperature" else {}), 5)


@pytest.mark.parametrize("record", [
    None, [], {}, {"method": "magic"}, {"method": "temperature"}, {"method": "temperature", "temperature": "warm"},
    {"method": "temperature", "temperature": 0}, {"method": "temperature", "temperature": float("nan")},
    {"method": "vector", "weights": [1, 1, float("inf")], "offsets": [0, 0, 0]},
    {"method": "vector", "weights": [1, 1], "offsets": [0, 0]}, {"method": "matrix", "weights": [[1]], "offsets": [1]},
    {"method": "isotonic", "knots": [[1, 0]] * 3, "values": [[0, 1]] * 3, "floor": 0.1},
    {"method": "isotonic", "knots": [[]] * 3, "values": [[]] * 3, "floor": 0.1}])
def test_a_damaged_record_is_refused_by_name(record):
    with pytest.raises(CheckpointError, match="run/model.json: the calibration is not one for 3 classes"):
        from_record(record, 3, where="run/model.json")


@pytest.mark.parametrize("name", FITS)
def test_cross_validation_judges_each_sample_by_a_fit_without_it(name):
    probs, targets = overconfident(100, 3)
    fold, values = stratified_folds(targets), cross_validated(FITS[name], probs, targets)
    for k in (0, 3):
        fitted = FITS[name](probs[fold != k], targets[fold != k])
        np.testing.assert_allclose(values[fold == k], negative_log_likelihoods(fitted(probs), targets)[fold == k])


def test_folds_hold_each_class_in_equal_parts():
    targets = np.repeat([0, 1, 2], [50, 23, 7])
    fold = stratified_folds(targets, 5)
    table = np.array([np.bincount(fold[targets == c], minlength=5) for c in range(3)])
    assert (table.max(1) - table.min(1) <= 1).all() and np.bincount(fold).tolist() == [16] * 5


def test_overconfident_probabilities_are_corrected_and_right_ones_are_left():
    probs, targets = overconfident(1500, 5, temperature=2.5)
    choice = choose(probs, targets, "temperature")
    assert choice.calibrator is not None and choice.trials[0].accepted and choice.trials[0].gain > 0.1
    good, truth = overconfident(300, 5, temperature=1.0, seed=11)
    refused = choose(good, truth, "isotonic")
    assert refused.calibrator is None and not refused.trials[0].accepted
    assert refused.trials[0].nll > refused.nll and "refused: isotonic regression worsens" in refused.sentence


def test_auto_takes_the_simple_one_unless_more_numbers_are_clearly_better():
    probs, targets = overconfident(1000, 4)
    choice = choose(probs, targets)
    assert choice.calibrator is not None and choice.calibrator.name == "temperature"
    assert [trial.method for trial in choice.trials] == list(FITS)
    rng = np.random.default_rng(5)
    z = rng.normal(size=(1500, 4)) * 1.5
    truth = (softmax(z).cumsum(1) < rng.random((len(z), 1))).sum(1).clip(max=3)
    skewed = softmax(z + np.array([2.0, 0, -1.0, 0]))  # no temperature undoes an offset
    found = choose(skewed, truth).calibrator
    assert found is not None and found.name == "vector"


def test_auto_leaves_out_what_would_take_too_much(monkeypatch):
    probs, targets = overconfident(300, 60)
    assert [trial.method for trial in choose(probs, targets).trials] == ["temperature", "vector", "isotonic"]
    monkeypatch.setattr("visus.calibrate.choosing.MOST_CELLS", 300 * 60 - 1)
    assert [trial.method for trial in choose(probs, targets).trials] == ["temperature"]


def test_too_few_samples_and_unknown_methods_are_refused():
    probs, targets = overconfident(19, 3)
    with pytest.raises(DataError, match="19 validation images are too few"):
        choose(probs, targets)
    with pytest.raises(UserError, match="method='platt': must be one of auto, temperature"):
        choose(probs, targets, "platt")
