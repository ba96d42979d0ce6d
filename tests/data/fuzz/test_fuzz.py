"""Whatever the bytes, a reader gives samples or a UserError: no other exception, no hang, no crash, no flood of memory.

100 mutated files per parser in every run; 20,000 with `-m slow`. A case is a number: the same number is the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.data.fuzz.parsers import PARSERS

HANG_S = 30.0  # of processor time in one case; ten times as long by the clock
FEW, MANY = 100, 20_000
NAMES = [name for name in PARSERS if name != "parquet" or find_spec("pyarrow") is not None]


def fuzz(names: Sequence[str], first: int, count: int, folder: Path) -> dict[str, dict[str, Any]]:
    """The child's report by parser. A crash or a hang is a fault with the number of its case, and ends the run."""
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.data.fuzz.child", ",".join(names), str(first), str(count),
             str(folder)], stdout=out, stderr=err, env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"})
    seen, since, used = progress(folder), time.monotonic(), 0.0
    ended = ""
    while child.poll() is None:
        time.sleep(0.05)
        now, spent = progress(folder), seconds_of(child.pid)
        if now != seen:
            seen, since, used = now, time.monotonic(), spent
        elif spent - used > HANG_S or time.monotonic() - since > 10 * HANG_S:
            child.kill()
            child.wait()
            ended = f"no end after {HANG_S:g} s"
    if child.returncode and not ended:
        ended = f"the process ended with {child.returncode}: {(folder / 'err').read_text(errors='replace')[-500:]}"
    found: dict[str, dict[str, Any]] = {}
    for line in (folder / "out").read_text().splitlines():
        found.update(json.loads(line))
    if ended:
        name, case = progress(folder)
        found[name] = {"faults": [(case, ended)], "grown_mb": 0, "read": 0, "refused": 0}
    return found


def seconds_of(process: int) -> float:
    """Processor time of a running process, where the system says so; else 0."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def progress(folder: Path) -> tuple[str, int]:
    """(parser, case) in hand."""
    path = folder / "progress"
    data = path.read_bytes() if path.exists() else b""
    return (data[:16].decode().strip(), int.from_bytes(data[16:24], "little")) if len(data) == 24 else ("start", -1)


def check(name: str, found: dict[str, dict[str, Any]], count: int) -> None:
    assert name in found, f"not reached: {found}"
    report = found[name]
    assert not report["faults"], f"{len(report['faults'])} faults: {report['faults'][:5]}"
    assert report["read"] + report["refused"] == count and report["refused"] > count // 20
    assert report["grown_mb"] < PARSERS[name].memory_mb


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> dict[str, dict[str, Any]]:
    return fuzz(NAMES, 0, FEW, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_give_samples_or_a_clear_error(name, few):
    check(name, few, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_twenty_thousand_mutated_files_give_samples_or_a_clear_error(name, tmp_path):
    check(name, fuzz([name], 0, MANY, tmp_path), MANY)


@pytest.mark.parametrize("action, words", [("raise KeyError('x')", "KeyError"), ("while True: pass", "no end"),
                                           ("import os; os.abort()", "ended with -6")])
def test_a_fault_a_hang_and_a_crash_are_seen(action, words, tmp_path, monkeypatch):
    """The harness itself: a child that raises, one that never ends and one that dies are told apart, with the case."""
    (tmp_path / "sitecustomize.py").write_text(
        "import visus.core.images as m\nfrom itertools import count\nnumbers = count()\nold = m.read_image\n"
        "def read_image(*a, **k):\n    if next(numbers) == 3:\n"
        f"        {action}\n    return old(*a, **k)\nm.read_image = read_image\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(sys.modules[__name__], "HANG_S", 3.0)
    faults = fuzz(["bmp"], 0, 50, tmp_path)["bmp"]["faults"]
    assert len(faults) == 1 and words in faults[0][1] and 0 < faults[0][0] < 40, faults
