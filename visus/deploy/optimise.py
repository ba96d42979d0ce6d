"""The fastest way to compute a finished model on this machine: candidates are built, compared with the original, and
timed in turns; the few best ones longer than the rest.

Which one wins is not known beforehand: no runtime is the fastest for every net, and on a busy machine two threads can
be slower than one. What is known is what can not win, so that no time is lost with it (`AT_BEST`).
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from visus.core.errors import MissingExtra, UserError
from visus.deploy.golden import decisions, right
from visus.deploy.timing import Entrant, Race, contention, ratio

TOLERANCE = 1e-5   # of the largest number of the output
AGREEMENT = 0.99   # of answers, of candidates that compute with fewer bits
MOST_LOSS = 0.005  # of accuracy, of the same
FIRST_ROUNDS = 3
HOPELESS = 4       # times the best time of the first round: no second one
FINALISTS = 3
EQUAL = 0.02       # times that differ by less are equal: then fewer threads, then no torch
BUSY = 1.15        # wall over processor time from which on the machine counts as busy
EQUAL_BUSY = 0.05
# The most that was ever measured over plain torch, for one image and for several: what a runtime has surpassed already
# is not tried. ResNets, MobileNetV3, EfficientNet, ViT, ConvNeXt, Swin on AVX2.
AT_BEST = {"torch-channels-last": (1.25, 1.4), "torch-folded": (1.15, 1.25),
           "torch-folded-channels-last": (1.25, 1.6), "torch-compile": (1.6, 2.2)}
ORIGINAL = "torch"


@dataclass(frozen=True, eq=False)
class Sample:
    """Images by which fewer bits are judged. expected: what the original gives for them, [N, K]. task, thresholds: how
    a decision follows. targets: what is right, int [N] or 0 and 1 [N, K], where that is known."""

    images: Any
    expected: np.ndarray
    task: str = "classification"
    thresholds: Sequence[float] = ()
    targets: np.ndarray | None = None

    def judged(self, found: np.ndarray) -> tuple[float, float | None]:
        """(share of decisions that differ, accuracy lost); all differ where the shape is another, or not
        [N, K]."""
        if found.shape != self.expected.shape or found.ndim != 2:
            return 1.0, None
        before, after = (decisions(of, self.task, self.thresholds) for of in (self.expected, found))
        apart = float((before != after).any(1).mean())
        if self.targets is None:
            return apart, None
        return apart, float(right(before, self.targets).mean() - right(after, self.targets).mean())


@dataclass(frozen=True)
class Candidate:
    """name: of the backend. build(threads) gives the way to compute: a batch -> float32 [B, K]. precision: 'float32'
    must be equal to the original, another must agree with it: on `sample`, or else on the images that all are checked
    on. reason: why it is not to be tried. extra: goes into the record of the choice (the file of another graph)."""

    name: str
    build: Callable[[int], Callable[[Any], Any]]
    precision: str = "float32"
    reason: str | None = None
    sample: Sample | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio: how many times faster than the original on as many threads. difference: the
    largest one from the original, of its largest number; of int8 the share of answers that differ. build_s: processor
    seconds. verdict: 'fastest', 'slower', 'equal' (as fast), 'refused' (it computes
    something else), 'failed', 'missing' (not installed), 'skipped'. reason: of the last four."""

    candidate: str
    threads: int
    p50_ms: float | None = None
    ratio: float | None = None
    difference: float | None = None
    build_s: float | None = None
    verdict: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None and value != ""}


@dataclass(frozen=True, eq=False)
class Tuned:
    """rows: of the table, in the order in which they were tried. fastest: the choice; without_torch: the fastest that
    needs none, or None. calls: the ways to compute of the two. contention: wall over processor time on one thread.
    load: the average at the start. wall_s, cpu_s: of building and timing together. extras: of candidates, by name."""

    rows: tuple[Row, ...]
    fastest: Row
    without_torch: Row | None
    calls: dict[tuple[str, int], Callable[[Any], Any]]
    extras: dict[str, dict[str, Any]]
    contention: float
    load: float
    wall_s: float
    cpu_s: float

    @property
    def busy(self) -> bool:
        return self.contention > BUSY

    @property
    def call(self) -> Callable[[Any], Any]:
        return self.calls[self.fastest.candidate, self.fastest.threads]

    def record(self) -> dict[str, Any]:
        """For choices.json."""

        def of(row: Row) -> dict[str, Any]:
            return {"backend": row.candidate.partition(" ")[0], "threads": row.threads, "p50_ms": row.p50_ms,
                    "ratio": row.ratio, **self.extras.get(row.candidate, {})}

        return {"fastest": of(self.fastest), "contention": round(self.contention, 3), "load": round(self.load, 2),
                "rows": [row.to_dict() for row in self.rows],
                **({} if self.without_torch is None else {"without_torch": of(self.without_torch)})}


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... and all cores."""
    return tuple(sorted({1, cores, *(2**n for n in range(cores.bit_length()) if 2**n <= cores)}))


def tune(candidates: Sequence[Candidate], images: Any, checked: Any = None, *, threads: Sequence[int] = (1,),
         seconds: float = 20.0, tell: Callable[[str], None] = lambda _: None) -> Tuned:
    """candidates: the first is the original, `ORIGINAL`. images: the batch that is timed; checked: those on which
    candidates are compared with the original, by default the same. threads: numbers to try, ascending.
    seconds: of wall time, roughly; the first rounds of the runtimes are always run.

    A candidate that fails is a row with its reason. Raises what the original raises.
    """
    return _Tuning(candidates, images, images if checked is None else checked, tuple(threads), seconds, tell).run()


class _Tuning:
    def __init__(self, candidates: Sequence[Candidate], images: Any, checked: Any, threads: tuple[int, ...],
                 seconds: float, tell: Callable[[str], None]):
        self.candidates = {candidate.name: candidate for candidate in candidates}
        self.images, self.checked, self.threads, self.tell = images, checked, threads, tell
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self.start, self.cpu = time.perf_counter(), time.process_time()
        self.deadline = self.start + seconds
        self.several = len(images) > 1
        self.race = Race()
        self.rows: dict[tuple[str, int], Row] = {}
        self.entrants: dict[tuple[str, int], Entrant] = {}
        self.calls: dict[tuple[str, int], Callable[[Any], Any]] = {}
        self.expected = np.empty(0)

    def run(self) -> Tuned:
        original, least = self.candidates[ORIGINAL], self.threads[0]
        self._build_original(original, least)
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._first_count(least)
            for count in self.threads[1:]:
                if not self._next_count(count):
                    break
            best = self._final()
        finally:
            if collecting:
                gc.enable()
        return self._result(best)

    def _build_original(self, original: Candidate, count: int) -> None:
        self.tell(original.name)
        start = time.process_time()
        call = original.build(count)
        self.expected = _array(call(self.checked))
        self._enter(original, count, call, time.process_time() - start, 0.0)

    def _first_count(self, count: int) -> None:
        """Everyone on the first number of threads: the runtimes, then what they do not surpass anyway."""
        quick = [c for c in self.candidates.values() if c.name not in AT_BEST and c.name != ORIGINAL]
        for candidate in quick:
            self._build(candidate, count)
        self._rounds(count)
        slow = [c for c in self.candidates.values() if c.name in AT_BEST]
        added = False
        for candidate in slow:
            limit, lead = AT_BEST[candidate.name][self.several], self._lead(count)
            if lead is not None and ratio(self.entrants[ORIGINAL, count], lead) > limit and candidate.reason is None:
                candidate = replace(candidate, reason=f"at best {limit:g} x of {ORIGINAL}, which "
                                                      f"{lead.name} has surpassed")
            added |= self._build(candidate, count)
        if added:
            self._rounds(count)

    def _next_count(self, count: int) -> bool:
        """The two best of one thread fewer, on `count`; whether more threads are worth a try."""
        before = max(threads for _, threads in self.entrants)
        order = sorted((e for e in self.entrants.values() if e.threads == before), key=lambda entrant: entrant.p50)
        names = [entrant.name for entrant in order if entrant.name != ORIGINAL][:2]
        names += [f"{name}-spinning" for name in names if f"{name}-spinning" in self.candidates]
        self._build(self.candidates[ORIGINAL], count)
        for name in names:
            self._build(self.candidates[name], count)
        self._rounds(count)
        now = min(e.p50 for e in self.entrants.values() if e.threads == count)
        return now < 0.97 * order[0].p50 and time.perf_counter() < self.deadline

    def _final(self) -> Entrant:
        """The best few of all, until one is known to be the fastest; of equals the one on fewest threads."""
        order = sorted(self.entrants.values(), key=lambda entrant: entrant.p50)
        busy = contention(list(self.entrants.values())) > BUSY
        margin = EQUAL_BUSY if busy else EQUAL
        finalists = order[:FINALISTS]
        # on a busy machine luck decides between thread counts: the best of the fewest threads always stays
        fewest = next(entrant for entrant in order if entrant.threads == self.threads[0])
        finalists += [fewest] if fewest not in finalists else []
        self.tell("the best few")
        left = self.race.settle(finalists, self.deadline, margin)
        close = [entrant for entrant in left if ratio(entrant, left[0]) <= 1 + margin]
        least = min(entrant.threads for entrant in close)
        best = next(entrant for entrant in close if entrant.threads == least)
        plain = (entrant for entrant in close if entrant.threads == least and not entrant.name.startswith(ORIGINAL)
                 and ratio(entrant, best) <= 1 + EQUAL)
        return next(plain, best)

    def _rounds(self, count: int) -> None:
        entrants = [entrant for entrant in self.entrants.values() if entrant.threads == count]
        self.tell(f"{len(entrants)} candidates, {count} thread{'s' if count > 1 else ''}")
        self.race.run(entrants, 1)
        best = min(entrant.p50 for entrant in entrants)
        good = [entrant for entrant in entrants if entrant.p50 < HOPELESS * best]
        self.race.run(good, FIRST_ROUNDS - 1, self.deadline)

    def _lead(self, count: int) -> Entrant | None:
        others = [e for e in self.entrants.values() if e.threads == count and e.name != ORIGINAL and e.wall]
        return min(others, key=lambda entrant: entrant.p50, default=None)

    def _build(self, candidate: Candidate, count: int) -> bool:
        """Whether it is in the race."""
        if candidate.name.endswith("-spinning") and count == 1:
            return False  # alone, a thread has nobody to wait for
        row = Row(candidate.name, count)
        if candidate.reason is not None:
            self.rows[candidate.name, count] = replace(row, verdict="skipped", reason=candidate.reason)
            return False
        self.tell(candidate.name)
        exact = candidate.precision == "float32"
        sample = candidate.sample or Sample(self.checked, self.expected)
        checked, expected = (self.checked, self.expected) if exact else (sample.images, sample.expected)
        start = time.process_time()
        try:
            call = candidate.build(count)
            found = _array(call(checked))
        except MissingExtra as error:
            self.rows[candidate.name, count] = replace(row, verdict="missing", reason=_command(error))
            return False
        except Exception as error:  # a candidate of which nothing is known: whatever goes wrong rules it out
            said = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            first = next((line for line in said.splitlines() if line.strip()), type(error).__name__)
            self.rows[candidate.name, count] = replace(row, verdict="failed", reason=first[:200])
            return False
        spent = time.process_time() - start
        apart, loss = (difference(found, expected), None) if exact else sample.judged(found)
        limit, reason = TOLERANCE if exact else 1 - AGREEMENT, None
        if not apart <= limit:  # also for NaN
            reason = f"differs by {apart:.2g} of the largest number, more than {limit:g}" if exact else \
                f"{apart:.1%} of {len(found)} answers differ, more than {limit:.0%}"
        elif loss is not None and loss > MOST_LOSS:
            reason = f"{100 * loss:.2f} points of accuracy lost on {len(found)} images, more than {100 * MOST_LOSS:g}"
        if reason is not None:
            self.rows[candidate.name, count] = replace(row, difference=apart, build_s=spent, verdict="refused",
                                                       reason=reason)
            return False
        self._enter(candidate, count, call, spent, apart)
        return True

    def _enter(self, candidate: Candidate, count: int, call: Callable[[Any], Any], spent: float, apart: float) -> None:
        self.rows[candidate.name, count] = Row(candidate.name, count, difference=apart, build_s=spent)
        self.calls[candidate.name, count] = call
        self.entrants[candidate.name, count] = Entrant(candidate.name, count, lambda: call(self.images))

    def _result(self, best: Entrant) -> Tuned:
        rows = []
        for place, row in self.rows.items():
            entrant = self.entrants.get(place)
            if entrant is None or not entrant.wall:
                rows.append(row)
                continue
            original = self.entrants.get((ORIGINAL, entrant.threads))
            verdict = "fastest" if entrant is best else \
                "equal" if ratio(entrant, best) <= 1 + EQUAL else "slower"
            rows.append(replace(row, p50_ms=1e3 * entrant.p50, verdict=verdict, ratio=None if original is None
                                or not original.wall else ratio(original, entrant)))
        chosen = next(row for row in rows if row.verdict == "fastest")
        without = chosen if not chosen.candidate.startswith(ORIGINAL) else min(
            (row for row in rows if row.p50_ms is not None and not row.candidate.startswith(ORIGINAL)),
            key=lambda row: row.p50_ms or math.inf, default=None)
        kept = {(row.candidate, row.threads) for row in (chosen, without) if row is not None}
        return Tuned(tuple(rows), chosen, without, {place: call for place, call in self.calls.items() if place in kept},
                     {name: candidate.extra for name, candidate in self.candidates.items() if candidate.extra},
                     contention(list(self.entrants.values())), self.load, time.perf_counter() - self.start,
                     time.process_time() - self.cpu)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, of the largest number that is expected; infinite for another shape."""
    if found.shape != expected.shape:
        return math.inf
    largest = float(np.abs(expected).max()) if expected.size else 0.0
    return float(np.abs(found - expected).max() / max(largest, 1e-30)) if expected.size else 0.0


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach() if hasattr(values, "detach") else values, dtype=np.float64)


def _command(error: MissingExtra) -> str:
    return (error.remedy or str(error)).removeprefix("Install it: ")
