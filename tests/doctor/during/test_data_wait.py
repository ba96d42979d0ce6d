"""Time between an update and the next forward pass."""

from __future__ import annotations

from tests.doctor.during.loops import look, told
from visus.doctor.during.data_wait import DataWait


def looks(waited: float, seconds: float, steps: int = 36):
    return [look(step, waited_s=waited, seconds=seconds, samples=32) for step in range(1, steps + 1)]


def test_more_than_half_is_a_warning_more_than_a_fifth_a_note():
    finding = told(DataWait(), looks(0.06, 0.1))[0]
    assert finding.severity == "warning" and "60 %" in finding.title and "60 ms of 100 ms" in finding.evidence
    assert "320 samples a second, 800 without" in finding.evidence
    assert told(DataWait(), looks(0.021, 0.1))[0].severity == "note"
    assert told(DataWait(), looks(0.019, 0.1)) == []


def test_the_first_steps_and_waits_of_a_few_milliseconds_do_not_count():
    assert told(DataWait(), looks(3.0, 3.1, 5) + looks(0.001, 0.1)) == []
    assert told(DataWait(), looks(0.009, 0.01)) == []
