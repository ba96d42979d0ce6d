from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.doctor.after.curves import alarms, bending, found, good, history
from visus.doctor.thresholds import limit


def overfit(rise: float, **known):
    """Validation is best at epoch 5 of 14 and ends `rise` above that."""
    return history(bending, epochs=14, val=lambda e: 1.0 + 0.2 * max(0, 5 - e) + rise * max(0, e - 5) / 8.0, **known)


def test_validation_that_rises_while_training_falls_is_overfitting_from_its_best_epoch_on():
    (finding,) = found("overfitting", overfit(0.5, accuracy=lambda e: 0.8 - 0.005 * e))
    assert finding.severity == "warning" and finding.step == 5 * 40 and "epoch 5" in finding.title
    assert "9 rises running" in finding.evidence


@pytest.mark.parametrize(("rise", "fires"), [(0.08, False), (0.2, True)])
def test_a_rise_of_less_than_a_tenth_is_none(rise, fires):
    assert bool(found("overfitting", overfit(rise))) is fires


def test_a_rise_that_leaves_the_accuracy_as_it_is_is_a_note():
    (finding,) = found("overfitting", overfit(0.5, accuracy=lambda e: 0.9))
    assert finding.severity == "note" and "calibrate" in finding.remedy


def test_ups_and_downs_are_no_overfitting():
    assert not found("overfitting", history(bending, val=lambda e: 1.0 + 0.3 * (e % 2)))


def test_a_falling_metric_is_overfitting_though_the_loss_hides_it():
    falls = history(bending, epochs=12, val=lambda e: 0.6, accuracy=lambda e: 0.9 - 0.012 * max(0, e - 4))
    (finding,) = found("overfitting", falls)
    assert finding.severity == "warning" and "0.900" in finding.evidence


@pytest.mark.parametrize(("gap", "fires"), [(limit("overfitting.gap") - 0.02, False),
                                            (limit("overfitting.gap") + 0.02, True)])
def test_a_gap_of_15_points_between_training_and_validation_measured_alike(gap, fires):
    gapped = history(bending, accuracy=lambda e: 0.8, train_accuracy=lambda e: 0.8 + gap)
    assert [f.severity for f in found("overfitting", gapped)] == (["warning"] if fires else [])


def test_both_signs_of_overfitting_are_one_finding():
    both = overfit(0.9, accuracy=lambda e: 0.8 - 0.01 * e, train_accuracy=lambda e: 1.0)
    assert len(found("overfitting", both)) == 1


def test_a_net_that_cannot_fit_its_training_images_underfits():
    stuck = history(lambda x: bending(x, end=1.7), accuracy=lambda e: 0.34, train_accuracy=lambda e: 0.36)
    (finding,) = found("underfitting", stuck)
    assert finding.severity == "warning" and "36.0 %" in finding.evidence


def test_one_that_still_gets_better_does_not_underfit():
    assert not found("underfitting", history(lambda x: bending(x, end=1.7), accuracy=lambda e: 0.04 * e,
                                             train_accuracy=lambda e: 0.04 * e))


def test_without_a_clean_measure_underfitting_is_a_note_and_needs_like_losses():
    like = history(lambda x: bending(x, end=1.7), val=lambda e: 1.75, accuracy=lambda e: 0.34)
    assert [f.severity for f in found("underfitting", like)] == ["note"]
    assert not found("underfitting", history(bending, val=lambda e: 2.5, accuracy=lambda e: 0.34))


def test_validation_above_training_measured_alike_is_a_warning():
    easier = history(bending, accuracy=lambda e: 0.95, train_accuracy=lambda e: 0.7)
    (finding,) = found("validation-easier", easier)
    assert finding.severity == "warning" and "25 points" in finding.title


def test_the_bound_grows_where_validation_is_small():
    easier = history(bending, accuracy=lambda e: 0.85, train_accuracy=lambda e: 0.7)
    assert found("validation-easier", easier)
    assert not found("validation-easier", replace(easier, evaluation={"count": 60}))


@pytest.mark.parametrize("augmented", [True, False])
def test_a_loss_below_training_is_never_more_than_a_note(augmented):
    easier = history(lambda x: bending(x, end=0.8), val=lambda e: 0.3, augmented=augmented)
    (finding,) = found("validation-easier", easier)
    assert finding.severity == "note" and ("explains it" in finding.evidence) is augmented


def test_validation_that_jumps_is_a_noisy_curve():
    (finding,) = found("noisy-curve", history(bending, epochs=16, val=lambda e: 1.0 + 0.9 * (e % 2)))
    assert finding.severity == "warning"
    assert not found("noisy-curve", history(bending, epochs=16, val=lambda e: 1.0 + 0.1 * (e % 2)))


def test_jitter_of_a_loss_near_0_is_no_noise():
    near = history(bending, epochs=16, val=lambda e: 2.0 * math.exp(-0.5 * e) + 0.02 + 0.02 * (e % 2))
    assert not found("noisy-curve", near)


def test_batches_that_hide_the_fall_are_a_note():
    assert [f.severity for f in found("noisy-curve", history(lambda x: 2.3 - 0.2 * x, noise=0.2, seed=2))] == ["note"]


def test_a_plateau_names_the_update_at_which_it_began():
    stuck = history(lambda x: 2.3 - 2.4 * x if x < 0.25 else 1.7, noise=0.03)
    (finding,) = found("plateau", stuck)
    assert finding.severity == "warning" and finding.step is not None and 80 <= finding.step <= 140
    assert not found("plateau", good())


def test_a_plateau_that_the_schedule_made_or_of_a_good_net_is_a_note():
    def stuck(x: float) -> float:
        return 2.3 - 2.4 * x if x < 0.25 else 1.7

    dropped = history(stuck, noise=0.03, schedule=lambda x: 1.0 if x < 0.15 else 0.001)
    assert [f.severity for f in found("plateau", dropped)] == ["note"]
    assert [f.severity for f in found("plateau", history(stuck, noise=0.03, accuracy=lambda e: 0.9))] == ["note"]


def test_healthy_curves_stay_healthy_with_every_measure():
    assert alarms(good(evaluation={"count": 200})) == []


def test_a_net_that_learnt_the_little_it_can_underfits_though_its_loss_hardly_fell():
    little = history(lambda x: 1.38 - 0.02 * min(1.0, 10 * x), noise=0.01, classes=4, accuracy=lambda e: 0.28,
                     train_accuracy=lambda e: 0.3)
    losses = [{**row, "clean_train_loss": 1.37 - 0.01 * (1 - math.exp(-k))} for k, row in enumerate(little.epochs)]
    assert [f.severity for f in found("underfitting", replace(little, epochs=tuple(losses)))] == ["warning"]
    still = [{**row, "clean_train_loss": 1.37} for row in little.epochs]
    assert not found("underfitting", replace(little, epochs=tuple(still)))
