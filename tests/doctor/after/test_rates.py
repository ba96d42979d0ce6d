from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.doctor.after.curves import alarms, bending, found, good, history
from visus.doctor.curve import curve_of, smoothed
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def rising(x: float) -> float:
    return min(2.3 * math.exp(8 * x), 5000.0)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("per_epoch", [4, 40])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_a_training_that_bends_gives_no_alarm_however_short_or_noisy(epochs, per_epoch, noise):
    assert alarms(good(epochs=epochs, per_epoch=per_epoch, noise=noise)) == []


def test_a_history_without_anything_gives_nothing():
    assert alarms(History()) == []


def test_a_flat_loss_is_an_error_with_both_levels_and_the_level_of_guessing():
    (finding,) = found("flat-loss", history(lambda x: 2.303, noise=0.02))
    assert finding.severity == "error" and "2.30" in finding.evidence and "ln 10 = 2.303" in finding.evidence


@pytest.mark.parametrize(("kept", "fires"), [(limit("flat-loss.kept") + 0.01, True),
                                             (limit("flat-loss.kept") - 0.01, False)])
def test_flat_is_what_keeps_97_percent_of_its_start(kept, fires):
    flat = history(lambda x: 2.3 if x < 0.05 else 2.3 * kept, noise=0.0)
    assert bool(found("flat-loss", flat)) is fires


def test_a_flat_loss_needs_an_epoch_and_100_updates():
    assert not found("flat-loss", history(lambda x: 2.3, epochs=1, per_epoch=90))
    assert found("flat-loss", history(lambda x: 2.3, epochs=1, per_epoch=110))
    assert not found("flat-loss", replace(history(lambda x: 2.3, epochs=1, per_epoch=400), steps_per_epoch=5000))


def test_a_finetuned_net_that_begins_near_0_is_not_flat():
    assert alarms(history(lambda x: 0.05, noise=0.2, accuracy=lambda e: 0.97)) == []
    assert not found("flat-loss", history(lambda x: 2.0, accuracy=lambda e: 0.97))


def test_exponential_rise_is_a_rate_too_high_with_the_update_at_which_it_began():
    (finding,) = found("rate-too-high", history(rising, noise=0.02, rate=0.5))
    assert finding.severity == "error" and "peak rate 0.5" in finding.evidence and "to 0.05" in finding.remedy
    assert finding.step is not None and 50 < finding.step < 90  # exp(8 x) passes 3 at x = 0.137, of 400 updates


def test_a_training_that_exploded_after_two_updates_is_seen():
    stopped = History(steps=(1, 2), losses=(2.3, 1e9), lrs=(50.0, 50.0), classes=10, finished=False)
    assert [f.check for f in found("rate-too-high", stopped)] == ["rate-too-high"]


def test_a_loss_that_stays_above_its_start_never_learnt():
    (finding,) = found("rate-too-high", history(lambda x: 2.3 if x < 0.01 else 2.6, noise=0.02))
    assert "never fell below" in finding.title
    assert not found("rate-too-high", history(lambda x: 2.3 if x < 0.01 else 2.3 * 1.03, noise=0.02))


def test_a_rise_that_is_overcome_is_no_alarm():
    assert not found("rate-too-high", history(lambda x: 9.0 if 0.02 < x < 0.06 else bending(x)))


def test_wild_swings_are_a_rate_too_high():
    wild = history(lambda x: 2.4 if x < 0.05 else 1.6 + (12.0 if int(400 * x) % 7 == 0 else 0.0), noise=0.1)
    assert [f.title for f in found("rate-too-high", wild)] == ["The loss swings wildly and does not settle"]


def test_a_straight_line_that_leads_nowhere_is_a_rate_too_low():
    slow = history(lambda x: 2.3 - 0.25 * x, noise=0.02, val=lambda e: 2.3 - 0.025 * e, rate=1e-5)
    (finding,) = found("rate-too-low", slow)
    assert finding.severity == "warning" and "1e-05 to 0.0001" in finding.remedy


def test_the_way_is_measured_in_learning_rate_spent():
    def cosine(x: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * x))

    spent = np.cumsum([cosine(k / 400) for k in range(1, 401)])
    share = [0.0, *(spent / spent[-1])]
    straight = history(lambda x: 2.3 - 0.3 * share[round(400 * x)], noise=0.01, schedule=cosine)
    assert found("rate-too-low", straight)[0].severity == "warning"


def test_shuffled_labels_learnt_by_heart_are_no_low_rate():
    assert not found("rate-too-low", history(lambda x: 2.3 - 0.25 * x, noise=0.02, val=lambda e: 2.3 + 0.01 * e))


def test_validation_shows_a_creeping_fall_that_batches_hide():
    creeping = history(lambda x: 2.303, noise=0.1, val=lambda e: 2.31 - 2e-3 * e)
    assert "hardly moves" in found("rate-too-low", creeping)[0].title
    assert not found("rate-too-low", history(lambda x: 2.303, noise=0.1, val=lambda e: 2.31 + 1e-3 * (-1) ** e))


def test_a_rate_below_a_millionth_is_named():
    assert "1.0e-08" in found("rate-too-low", history(lambda x: 2.3, rate=1e-8))[0].title
    assert not found("rate-too-low", history(lambda x: 2.3, rate=1e-5))


def test_a_curve_that_still_falls_at_its_end_is_a_note():
    (finding,) = found("rate-too-low", history(lambda x: bending(x, speed=2.0), noise=0.05))
    assert finding.severity == "note" and "--epochs" in finding.remedy
    near_0 = history(lambda x: bending(x, end=0.0, speed=5.0), noise=0.05)
    assert found("rate-too-low", near_0) == []


def test_flat_and_then_a_drop_is_a_late_start_with_the_update_of_the_drop():
    late = history(lambda x: 2.3 if x < 0.5 else 0.2 + 2.1 * math.exp(-20 * (x - 0.5)), noise=0.03)
    (finding,) = found("late-start", late)
    assert finding.severity == "warning" and finding.step is not None and 180 <= finding.step <= 215
    assert not found("late-start", good())


def test_the_updates_of_a_warm_up_do_not_count_as_late():
    def warm(x: float) -> float:
        return min(1.0, x / 0.4)

    late = history(lambda x: 2.3 if x < 0.22 else 0.2 + 2.1 * math.exp(-20 * (x - 0.22)), noise=0.03)
    assert found("late-start", replace(late, lrs=tuple(1e-3 for _ in late.steps))) == [] or \
        found("late-start", late)
    long = history(lambda x: 2.3 if x < 0.3 else 0.2 + 2.1 * math.exp(-20 * (x - 0.3)), noise=0.03)
    assert found("late-start", long)
    assert not found("late-start", replace(long, lrs=tuple(1e-3 * warm(k / 400) for k in range(1, 401))))


def test_a_running_mean_is_unbiased_from_its_first_value_on():
    assert np.allclose(smoothed(np.full(50, 3.0), 0.98), 3.0)
    assert smoothed(np.array([1.0, 0.0]), 0.5)[1] == pytest.approx(1 / 3)  # weights 1/4 and 1/2, over 3/4


def test_losses_that_are_no_numbers_are_passed_over():
    curve = curve_of(replace(good(), losses=(math.nan, *good().losses[1:])))
    assert curve is not None and len(curve.losses) == len(good().losses) - 1
