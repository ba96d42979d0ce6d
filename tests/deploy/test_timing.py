"""Times in turns: medians, intervals, who leaves the race."""

from __future__ import annotations

import math
import time

import pytest

from visus.deploy import timing
from visus.deploy.timing import Entrant, Race, contention, interval, ratio


def sleeper(name: str, seconds: float, threads: int = 1) -> Entrant:
    return Entrant(name, threads, lambda: time.sleep(seconds))


def test_the_interval_of_the_median_is_that_of_order_statistics():
    assert interval([]) == (-math.inf, math.inf)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    # 25 draws: the 95 % interval goes from the 8th to the 18th (binomial: 0.9567)
    assert interval([float(i) for i in range(1, 26)]) == (8.0, 18.0)


def test_everyone_runs_once_a_round_in_alternating_order(monkeypatch):
    monkeypatch.setattr(timing, "TURN_S", 0.0)
    seen: list[str] = []
    entrants = [Entrant(name, 1, lambda name=name: seen.append(name)) for name in "abc"]
    race = Race()
    race.run(entrants, 1)
    seen.clear()
    race.run(entrants, 2)
    assert "".join(seen) in ("abccba", "cbaabc")
    assert race.rounds == 3 and all(set(entrant.wall) == {0, 1, 2} for entrant in entrants)


def test_the_surely_slower_leave_and_the_fastest_comes_first():
    fast, slow, slower = sleeper("fast", 0.004), sleeper("slow", 0.008), sleeper("slower", 0.016)
    race = Race()
    left = race.settle([slower, slow, fast], time.perf_counter() + 20)
    assert [entrant.name for entrant in left] == ["fast"]
    assert ratio(slow, fast) == pytest.approx(2, rel=0.4) and ratio(slower, slow) == pytest.approx(2, rel=0.4)


def test_equals_stay_and_the_race_ends_by_itself():
    entrants = [sleeper("a", 0.002), sleeper("b", 0.002)]
    race = Race()
    race.settle(entrants, time.perf_counter() + 60, margin=0.5)
    assert 7 <= len(entrants[0].wall) <= timing.ENOUGH_ROUNDS + 1


def test_a_long_first_call_is_the_first_round(monkeypatch):
    monkeypatch.setattr(timing, "LONG_S", 0.01)
    calls: list[int] = []
    entrant = Entrant("long", 1, lambda: (calls.append(1), time.sleep(0.02)))
    entrant.turn(0)
    assert len(calls) == 1 and entrant.wall[0] >= 0.02


def test_contention_is_wall_over_processor_time_of_single_threads():
    quiet = Entrant("a", 1, lambda: None, {0: 1.0}, {0: 1.0})
    waiting = Entrant("b", 1, lambda: None, {0: 3.0}, {0: 1.0})
    many = Entrant("c", 2, lambda: None, {0: 9.0}, {0: 1.0})
    assert contention([quiet]) == 1.0 and contention([quiet, waiting, many]) == 2.0 and contention([many]) == 1.0
