"""Times of several ways to compute the same, in turns, so that what else runs on the machine slows all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

TURN_S = 0.03       # a turn lasts about so long, or one call where that takes longer
MOST_CALLS = 30     # in a turn
LONG_S = 0.5        # a first call that takes longer counts, others only say how many make a turn
PAUSE_S = 0.003     # after a turn on several threads: pools of the runtimes spin on for a moment
ENOUGH_ROUNDS = 25  # a difference that they do not show is none


@dataclass(eq=False)
class Entrant:
    """One way to compute. call: does it once. wall, cpu: seconds of a call in each round, by round."""

    name: str
    threads: int
    call: Callable[[], object]
    wall: dict[int, float] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)
    calls: int = 0  # in a turn

    @property
    def p50(self) -> float:
        """Seconds of a call: the median of rounds."""
        return statistics.median(self.wall.values())

    def turn(self, number: int) -> None:
        """Time one turn; its first call is not counted where there are several: it finds the caches full of others."""
        if not self.calls:
            start, cpu = time.perf_counter(), time.process_time()
            self.call()
            once = time.perf_counter() - start
            self.calls = max(1, min(MOST_CALLS, math.ceil(TURN_S / max(once, 1e-9))))
            if once > LONG_S:
                self.wall[number], self.cpu[number] = once, time.process_time() - cpu
                return
        if self.calls > 2:
            self.call()
        cpu, laps = time.process_time(), []
        for _ in range(self.calls):
            start = time.perf_counter()
            self.call()
            laps.append(time.perf_counter() - start)
        self.cpu[number] = (time.process_time() - cpu) / self.calls
        self.wall[number] = statistics.median(laps)
        if self.threads > 1:
            time.sleep(PAUSE_S)


class Race:
    """Entrants and their rounds so far."""

    def __init__(self) -> None:
        self.rounds = 0

    def run(self, entrants: Sequence[Entrant], rounds: int, deadline: float = math.inf) -> int:
        """So many rounds of everyone, forth and back in turns; fewer when time.perf_counter() passes the deadline
        (one is always run). Returns how many."""
        for done in range(rounds):
            if done and time.perf_counter() > deadline:
                return done
            for entrant in entrants[::1 if self.rounds % 2 else -1]:
                entrant.turn(self.rounds)
            self.rounds += 1
        return rounds

    def settle(self, entrants: Sequence[Entrant], deadline: float, margin: float = 0.02,
               most_rounds: int = ENOUGH_ROUNDS) -> list[Entrant]:
        """Rounds of everyone until the fastest is known, or differences below `margin` are, or the time is over.
        Entrants that are surely slower leave on the way. Returns those that stay, fastest first."""
        left = list(entrants)
        while len(left) > 1 and time.perf_counter() < deadline:
            self.run(left, 2, deadline)
            left.sort(key=lambda entrant: entrant.p50)
            best = left[0]
            left = [best, *(other for other in left[1:] if interval(ratios(other, best))[0] <= 1 + margin)]
            rounds = len(ratios(left[-1], best))
            if rounds >= most_rounds or all(interval(ratios(other, best))[1] <= 1 + margin and rounds >= 7
                                            for other in left[1:]):
                break
        return sorted(left, key=lambda entrant: entrant.p50)


def ratios(slow: Entrant, fast: Entrant) -> list[float]:
    """Wall time of the one over that of the other, in each round in which both ran."""
    return [slow.wall[number] / fast.wall[number] for number in slow.wall.keys() & fast.wall.keys()]


def ratio(slow: Entrant, fast: Entrant) -> float:
    """The median of `ratios`; of the medians where they never ran in the same round."""
    found = ratios(slow, fast)
    return statistics.median(found) if found else slow.p50 / fast.p50


def interval(values: Sequence[float]) -> tuple[float, float]:
    """About the 95 % interval of the median, by order statistics; the whole range below six values, and everything
    without any."""
    if not values:
        return -math.inf, math.inf
    count, ordered = len(values), sorted(values)
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count))) if count >= 6 else 0
    return ordered[rank], ordered[count - 1 - rank]


def contention(entrants: Sequence[Entrant]) -> float:
    """Wall over processor time of what ran on one thread: 1 on a quiet machine, 2 where another process takes half."""
    single = [entrant for entrant in entrants if entrant.threads == 1 and entrant.cpu]
    wall = sum(entrant.wall[number] for entrant in single for number in entrant.wall)
    cpu = sum(entrant.cpu[number] for entrant in single for number in entrant.cpu)
    return max(1.0, wall / cpu) if cpu else 1.0
