"""Seconds by part: each counted once, and their sum is the wall time. Time here is a number that tests set."""

from __future__ import annotations

import pytest

from visus.train.clock import BETWEEN, NO_CLOCK, WARMUP_STEPS, StepClock


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(clock, time, count: int, *, data=1.0, forward=3.0, inner=0.5, update=2.0, rest=0.25) -> None:
    for _ in range(count):
        with clock("data"):
            time.now += data
        time.now += rest
        with clock("optimizer"):
            time.now += update
            with clock("forward"):  # a closure's
                time.now += forward
            time.now += inner


def test_parts_hold_what_was_spent_in_them_alone_and_add_up_to_the_wall_time():
    time = Time()
    clock = StepClock(now=time)
    time.now += 7  # before the first step
    steps(clock, time, WARMUP_STEPS, data=50.0)
    steps(clock, time, 4)
    with clock("data"):  # the epoch's end: no batch is left
        time.now += 0.125
    with clock("validation"):
        time.now += 11
    clock.finish()
    assert clock.steps == 4
    assert clock.seconds == {"data": 4.0, "other": 1.0, "optimizer": 4 * 2.5, "forward": 12.0}
    assert clock.outside == {BETWEEN: pytest.approx(7.125), "validation": 11.0}
    warm = WARMUP_STEPS * (50 + 0.25 + 2.5 + 3)
    assert clock.wall == pytest.approx(sum(clock.seconds.values()) + sum(clock.outside.values()) + warm)
    assert clock.wall == pytest.approx(time.now - 100)


def test_a_checkpoint_within_an_epoch_is_no_part_of_a_step():
    time = Time()
    clock = StepClock(now=time)
    steps(clock, time, 5)
    with clock("checkpoint"):
        time.now += 40
    steps(clock, time, 5)
    clock.finish()
    assert clock.outside["checkpoint"] == 40 and sum(clock.seconds.values()) == pytest.approx(7 * 6.75)


def test_a_run_shorter_than_the_warm_up_shows_what_it_has():
    time = Time()
    clock = StepClock(now=time)
    steps(clock, time, 2)
    clock.finish()
    assert clock.steps == 2 and clock.seconds["forward"] == 6.0


def test_on_a_gpu_one_step_in_some_is_waited_for_and_the_others_are_measured_whole():
    time, waits = Time(), []
    clock = StepClock(now=time, every=10, wait=lambda: waits.append(time.now))
    steps(clock, time, WARMUP_STEPS)
    waited = len(waits)
    steps(clock, time, 40 - WARMUP_STEPS)
    clock.finish()
    assert clock.steps == 3 and clock.whole_steps == 40 - WARMUP_STEPS - 3  # the 10th, 20th and 30th, from 0
    assert clock.whole_seconds / clock.whole_steps == pytest.approx(6.75)
    assert sum(clock.seconds.values()) == pytest.approx(3 * 6.75)
    per_step = waited / WARMUP_STEPS
    assert 0 < len(waits) - waited <= 4 * (per_step + 1)


def test_an_error_inside_leaves_the_clock_usable():
    time = Time()
    clock = StepClock(now=time)
    with pytest.raises(ValueError), clock("data"), clock("forward"):
        raise ValueError
    steps(clock, time, 5)
    clock.finish()
    assert clock.steps == 2 and clock.seconds["data"] == 2.0


def test_without_a_profile_nothing_is_made():
    assert NO_CLOCK("data") is NO_CLOCK("forward")
