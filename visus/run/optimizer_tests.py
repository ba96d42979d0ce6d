"""The unit tests of Schaul et al. 2014 over all optimizers and rates, judged and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from visus.core.errors import UserError
from visus.core.files import write_text
from visus.core.validate import positive
from visus.optim.contenders import contenders, coupling
from visus.optim.unit_tests import (
    FEW_RATES,
    FEW_REPETITIONS,
    GOOD,
    RATES,
    REFERENCE_RATES,
    REPETITIONS,
    STEPS,
    TESTS,
    Bench,
    UnitTest,
    judge,
    reference,
)
from visus.report.optimizers import render_tests
from visus.run.display import Display


def watch_tests(optimizers: Sequence[str] = (), words: Sequence[str] = (), *, steps: int = STEPS, seed: int = 0,
                out: str | Path | None = "tests.html", progress: bool = True) -> dict[str, Any]:
    """Every optimizer at every rate in every unit test (`visus.optim.unit_tests`), with a verdict each.

    optimizers: names or labels; none: all but those that tie all parameters together (lbfgs, sam, the searches), whose
    descents must run one by one: name these. words: only the tests whose name holds one of them. steps: of a descent.
    seed: of noise, turns and drifts. out: the page; None for none. -> the record that the page shows: tests (name, rate
    and value of the best SGD, value at the start), optimizers (label, rates, verdicts: a list of tests for each rate),
    summary. Raises UserError for unknown names and words that no test has.
    """
    positive(steps=steps)
    every_one = contenders(optimizers)
    chosen = [c for c in every_one if coupling(c) != "all" or c.label in optimizers]
    tests = _named(words)
    benches = [Bench([test for test in tests if len(test.dims) == dims], steps, seed=seed)
               for dims in sorted({len(test.dims) for test in tests})]
    display = Display(show=progress)
    slow = [contender.label for contender in chosen if coupling(contender) != "element"]
    display.say("tests", f"{len(tests)} tests, {len(chosen)} optimizers, {len(RATES)} rates, {REPETITIONS} "
                f"repetitions, {steps} steps")
    left_out = [c.label for c in every_one if c not in chosen]
    if left_out:
        display.say("left out", f"{', '.join(left_out)}: their descents run one by one; name one to run it")
    if slow:
        display.say("tests", f"{', '.join(slow)}: {len(FEW_RATES)} rates and {FEW_REPETITIONS} repetitions, since "
                    "their descents cannot share a tensor")
    work = [(len(FEW_RATES), FEW_REPETITIONS) if c.label in slow else (len(RATES), REPETITIONS) for c in chosen]
    total = steps * len(tests) * (len(REFERENCE_RATES) * REPETITIONS + sum(rates * times for rates, times in work))
    measured: list[dict[str, Any]] = []
    with display.steps("tests", total) as advance:
        references = [reference(bench, advance) for bench in benches]
        for contender, (count, times) in zip(chosen, work, strict=True):
            rates = RATES if count == len(RATES) else FEW_RATES
            verdicts: list[list[str]] = [[] for _ in rates]
            for bench, (start, best, _) in zip(benches, references, strict=True):
                for values, row in zip(bench.run(contender, rates, times, advance), verdicts, strict=True):
                    row += judge(values, start[:, :times], best)
            measured.append({"label": contender.label, "rates": list(rates), "verdicts": verdicts})
    every = [test for bench in benches for test in bench.tests]
    start, best, rate = (torch.cat([one[k] for one in references]) for k in range(3))
    start = start.median(1).values
    order = sorted(range(len(every)), key=lambda k: (float(rate[k]), k))  # those that want small rates first
    for found in measured:
        found["verdicts"] = [[of_rate[k] for k in order] for of_rate in found["verdicts"]]
    record = {"steps": steps, "repetitions": REPETITIONS, "few": FEW_REPETITIONS if slow else None, "tests": [
        {"name": every[k].name, "rate": float(rate[k]), "start": float(start[k]), "best": float(best[k])}
        for k in order], "optimizers": measured, "summary": [_summary(row) for row in measured]}
    if out is not None:
        write_text(out, render_tests(record))
        display.say("page", str(out))
    return record


def _named(words: Sequence[str]) -> list[UnitTest]:
    found = [test for test in TESTS if not words or any(word in test.name for word in words)]
    if not found:
        raise UserError("no unit test has such a name", where=f"tests={', '.join(words)!r}",
                        remedy="Words of their names: " + ", ".join(sorted({
                            word for test in TESTS for word in test.name.replace(",", "").split() if word.isalpha()})))
    return found


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """At the rate with the most tests that are good or better, and over all rates."""
    good = [sum(verdict in GOOD for verdict in verdicts) for verdicts in row["verdicts"]]
    place = max(range(len(good)), key=lambda k: good[k])
    columns = list(zip(*row["verdicts"], strict=True))
    return {"label": row["label"], "rate": row["rates"][place], "good": good[place],
            "diverged": sum(verdict == "diverged" for verdict in row["verdicts"][place]),
            "overall": sum(good) / (len(good) * len(columns)),
            "solved": sum(any(verdict in GOOD for verdict in column) for column in columns)}


