"""Data formats, one file each: a class with `recognises` and `read`, registered at the end of its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from visus.core.registry import Registry
from visus.data.samples import Samples


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user says about the data. image_column, label_column: header names in a table; None: found.
    kept_columns: further columns of a table whose cells are kept, as `Samples.columns`.
    progress: called with (bytes read, all bytes) while large annotation files are read."""

    image_column: str | None = None
    label_column: str | None = None
    kept_columns: tuple[str, ...] = ()
    progress: Callable[[int, int], None] | None = None


class DataFormat(Protocol):
    """How one kind of data is recognised and read. `path` exists, or is a built-in name."""

    @staticmethod
    def recognises(path: str) -> bool: ...

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples: ...


data_formats = Registry("data format", "visus.data.formats")
