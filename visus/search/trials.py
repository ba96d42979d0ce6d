"""What a search has tried: one JSON object a line, so that a search that is killed goes on where it was.

A trial is named by what it depends on (architecture, training, seed). A search asks for the score of a trial; the log
answers if it knows, else the trial is run and written down. A search that draws the same trials in the same order
therefore resumes by starting again, and several processes may share one file.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visus.core.errors import ResourceError, UserError
from visus.core.files import finite


@dataclass(frozen=True, slots=True)
class Trial:
    """key: what the score depends on. seconds: of CPU that it took when it was run. known: whether the log had it."""

    key: Mapping[str, Any]
    score: float
    seconds: float
    known: bool


class TrialLog:
    """Scores by key, in memory and, with a path, in a .jsonl file."""

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        self._known: dict[str, tuple[float, float]] = {}
        self._read_to = 0
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        self._read()
        return len(self._known)

    def run(self, key: Mapping[str, Any], score: Callable[[], float]) -> Trial:
        """The trial `key`: from the log, or by calling `score`. Raises UserError for a score that is not finite."""
        name = json.dumps(finite(dict(key)), sort_keys=True)
        if name not in self._known:
            self._read()
        if name in self._known:
            return Trial(key, *self._known[name], known=True)
        start = time.process_time()
        value = float(score())
        seconds = time.process_time() - start
        if value - value != 0:
            raise UserError(f"must be a finite number, not {value}", where="score of a trial",
                            remedy="Give a diverged trial its worst score, such as 0")
        self._known[name] = (value, seconds)
        if self.path is not None:
            self._append({"key": finite(dict(key)), "score": value, "seconds": round(seconds, 3)})
        return Trial(key, value, seconds, known=False)

    def _read(self) -> None:
        """Take in the lines that were added since the last time; those that a kill cut short are passed over."""
        if self.path is None or not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        for line in data[:whole].splitlines():
            try:
                row = json.loads(line)
                name = json.dumps(row["key"], sort_keys=True)
                self._known.setdefault(name, (float(row["score"]), float(row["seconds"])))
            except (ValueError, KeyError, TypeError):
                continue

    def _append(self, row: dict[str, Any]) -> None:
        assert self.path is not None
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                end = os.fstat(handle).st_size
                if end and os.pread(handle, 1, end - 1) != b"\n":  # a killed run cut its last line
                    line = b"\n" + line
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise ResourceError(f"could not be written: {error.strerror}", where=self.path,
                                remedy="Free some space, then start the search again") from error
