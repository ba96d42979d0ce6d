"""Steps that take longer and longer."""

from __future__ import annotations

from tests.doctor.during.loops import look, told
from visus.doctor.during.throughput_stall import ThroughputStall


def looks(wall: list[float], cpu: list[float]):
    pairs = [(w, c) for w, c in zip(wall, cpu, strict=True) for _ in range(50)]
    return [look(step, seconds=w, cpu_s=c, full=False) for step, (w, c) in enumerate(pairs, 1)]


def test_a_loop_that_computes_more_at_each_step_is_a_warning():
    finding = told(ThroughputStall(), looks([0.02, 0.03, 0.05, 0.06], [0.02, 0.03, 0.05, 0.06]))
    assert [f.severity for f in finding] == ["warning"] and "3.0 times" in finding[0].title
    assert "it was 20 ms" in finding[0].evidence


def test_a_machine_that_others_use_is_a_note_and_a_slow_patch_nothing():
    assert told(ThroughputStall(), looks([0.02, 0.05, 0.05], [0.02, 0.02, 0.02]))[0].severity == "note"
    assert told(ThroughputStall(), looks([0.02, 0.05, 0.02, 0.05], [0.02, 0.05, 0.02, 0.05])) == []
    assert told(ThroughputStall(), looks([0.02, 0.038, 0.038], [0.02, 0.038, 0.038])) == []
    assert told(ThroughputStall(), looks([0.0005, 0.002, 0.002], [0.0005, 0.002, 0.002])) == []
