"""The zoo: what the doctor says of trainings whose fault, or health, is known. docs/doctor.md has the table.

A sick training passes when a right answer is among the first two findings, as an error or a warning. The share over all
of them is what the page states; those that the doctor still misses are named here, so that none joins them unseen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.doctor.zoo.healthy import HEALTHY
from tests.doctor.zoo.sick import SICK
from tests.doctor.zoo.training import Case, outcome
from visus.doctor import registry

MISSED: frozenset[str] = frozenset()


def rows(cases: Iterable[Case]) -> list[object]:
    return [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in cases]


@pytest.mark.parametrize("case", rows(SICK.values()))
def test_the_cause_of_a_sick_training_is_among_the_first_two_findings(case: Case):
    found = outcome(case)
    told = [f"{f.severity} {f.check}: {f.title} ({f.evidence})" for f in found.findings]
    assert found.named != (case.name in MISSED), "\n".join([f"expected {' or '.join(case.right)}, found", *told])


@pytest.mark.parametrize("case", rows(HEALTHY.values()))
def test_a_healthy_training_raises_no_alarm(case: Case):
    found = outcome(case)
    assert not [f"{f.severity} {f.check}: {f.title} ({f.evidence})" for f in found.alarms]
    assert not found.left_out


def test_the_zoo_is_large_enough_and_asks_for_checks_that_exist():
    assert len(SICK) >= 45 and sum(not case.slow for case in SICK.values()) >= 40
    assert len(HEALTHY) >= 18 and sum(not case.slow for case in HEALTHY.values()) >= 15
    assert len(MISSED) <= 0.05 * len(SICK) and set(SICK) >= MISSED
    known = set(registry.names())
    assert not {name for case in SICK.values() for name in case.right} - known
    assert len({case.right[0] for case in SICK.values()}) >= 35


def test_a_training_is_the_same_each_time_it_is_built():
    one, two = (SICK["values_to_255"].training() for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_the_page_of_the_doctor_is_fresh():
    tool = Path(__file__).resolve().parents[2] / "tools" / "doctor_table.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
