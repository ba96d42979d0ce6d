"""The range test, and rates that a copy cannot learn one batch with."""

from __future__ import annotations

import pytest

from tests.doctor.before.test_overfit_batch import patient
from visus.doctor import short_run
from visus.doctor.before.overfit_batch import overfit_batch
from visus.doctor.before.rate_range import rate_range


@pytest.mark.parametrize("rate, word", [(30.0, "too high"), (1e-7, "too low")])
def test_a_wrong_rate_is_named_and_the_net_is_called_sound(rate, word):
    sick = patient(rate=rate)
    finding, = rate_range(sick)
    assert finding.severity == "warning" and word in finding.title and f"{rate:g}" in finding.title
    symptom = next(overfit_batch(sick), None)
    assert (symptom is None and word == "too high") or "AdamW with rate 0.001 does" in symptom.title


def test_the_curve_falls_and_rises_and_is_kept_for_a_picture():
    well = patient(rate=3e-3)
    list(rate_range(well))
    curve = well.remembered["rate-range"]
    assert curve.rates[0] == pytest.approx(1e-7) and curve.rates[-1] <= 10.0001
    assert 3e-3 < curve.lowest < curve.diverged
    assert curve.whole and 8 < len(curve.rates) == len(curve.smoothed) <= short_run.SMALL[0]


def test_a_schedules_peak_is_judged_and_not_its_first_rate():
    warming = patient(rate=3e-3)
    warming.optimizer.param_groups[0].update(lr=1e-9, initial_lr=3e-3)
    assert list(rate_range(warming)) == []
    assert short_run.overfit(warming).rate == 3e-3
