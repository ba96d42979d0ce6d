"""One row of the list of malformed data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """name: format and fault. make: writes it into an empty folder and gives the path to open. message: a pattern that
    the whole message must match: file, then line, record or key, then the value. remedy: a pattern for what to do."""

    name: str
    make: Callable[[Path], Path]
    message: str
    remedy: str = r"\w"

    @property
    def format(self) -> str:
        return self.name.partition(":")[0]
