"""The process in which a person's exercise runs (lab_worker.py), as its parent sees it: begun, read from, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visus.core.errors import printable

MAX_PRINTED = 12  # lines of what their code printed
_SIGNALS = {11: "a segmentation fault", 9: "it was killed, perhaps for want of memory", 6: "it aborted"}


@contextmanager
def worker(action: str, path: Path, name: str, skipped: Sequence[str]) -> Iterator[tuple[Any, Path, Path]]:
    """The process, the file of its answers, the file of what the code prints. It is ended with the block."""
    with tempfile.TemporaryDirectory(prefix="visus-lab-") as folder:
        answers, output = Path(folder) / "answers", Path(folder) / "printed"
        answers.touch()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with open(output, "ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "visus.run.lab_worker", action, str(path.resolve()), name, str(answers),
                 *skipped],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={**os.environ, **threads, **_path()},
                start_new_session=os.name == "posix")
        try:
            yield process, answers, output
        finally:
            _end(process)


def _path() -> dict[str, str]:
    """So that the process finds this very package."""
    here = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def lines_of(process: Any, answers: Path, limit_s: float) -> Iterator[dict[str, Any] | None]:
    """Each answer as it comes. Then nothing more where the process has ended, or None where it is too slow."""
    read, deadline = 0, time.monotonic() + limit_s
    while True:
        ended = process.poll() is not None
        lines = answers.read_text("utf-8").split("\n")[:-1]  # the last is not whole yet
        for line in lines[read:]:
            yield json.loads(line)
            deadline = time.monotonic() + limit_s
        read = len(lines)
        if ended:
            return
        if time.monotonic() > deadline:
            yield None
            return
        time.sleep(0.02)


def _end(process: Any) -> None:
    """Whatever their code started goes with it."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    elif process.poll() is None:
        process.kill()
    process.wait()


def ending(process: Any) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return _SIGNALS.get(-code, f"signal {-code}")
    return f"exit code {code}"


def printed_lines(output: Path) -> list[str]:
    with open(output, "rb") as stream:
        stream.seek(max(0, output.stat().st_size - 16_000))
        return [printable(line)[:300] for line in stream.read().decode("utf-8", "replace").splitlines()][-MAX_PRINTED:]
