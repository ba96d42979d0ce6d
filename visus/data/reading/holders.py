"""Files that hold many images each (shards, tables): which lie in a folder, of which split, open once a process."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from visus.core.errors import DataError, ImageError, printable
from visus.data.samples import SPLIT_NAMES, listed, natural_order

MAX_OPEN = 32
_BESIDE = {*SPLIT_NAMES, "data"}  # sub-folders in which further holders may lie


def holder_names(path: str, extensions: tuple[str, ...]) -> list[str]:
    """Names, relative to the folder `path`, of the files with one of the `extensions` in it or in its `train`, `val`,
    `test` or `data`, as people count. Empty where other sub-folders show that the folder is something else."""
    folders, names = _listed(path, extensions)
    if any(folder.lower() not in _BESIDE for folder in folders):
        return []
    for folder in folders:
        deeper, inside = _listed(os.path.join(path, folder), extensions)
        if deeper and inside:
            return []
        names += [os.path.join(folder, name) for name in inside]
    return natural_order(names)


def _listed(path: str, extensions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(visible sub-folders, files with one of the extensions)."""
    folders, names = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.name.lower().endswith(extensions):
                    if is_regular(entry.path):
                        names.append(entry.name)
                elif _is_folder(entry):
                    folders.append(entry.name)
    except OSError:
        return [], []
    return folders, names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def is_regular(path: str) -> bool:
    """An ordinary file: no folder, FIFO or device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def refuse_links_out(root: str, names: list[str], within: str | None = None) -> None:
    """Raises DataError where one of the files `names` of the folder `root` is a link that leaves `within` (root)."""
    inside = os.path.realpath(within or root)
    out = [name for name in names if os.path.commonpath([os.path.realpath(os.path.join(root, name)), inside]) != inside]
    if out:
        raise DataError(f"leads out of the folder: {listed([printable(n) for n in out])}", where=root,
                        remedy="Copy the files into the folder")


def splits_of(names: list[str], notes: list[str]) -> list[str]:
    """'train', 'val' or 'test' for each file name, by its folder or a part of its name, '' for 'unsplit'; all '' where
    some say nothing (`notes` then says so)."""
    found, silent = [], []
    for name in names:
        words = re.split(r"[-_./\\]", name.lower())
        parts = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        found.append(parts.pop() if len(parts) == 1 else "")
        if not found[-1] and "unsplit" not in words:
            silent.append(printable(name))
    if any(found) and silent:
        notes.append(f"splits in the file names not used: {listed(silent)} name none")
        return [""] * len(names)
    return found


class Handle:
    """An open file, read by offset; closed when nobody holds it any more."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        about = os.fstat(self.number)
        self.stamp = (about.st_size, about.st_mtime_ns)
        self.regular = stat.S_ISREG(about.st_mode)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.number, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Kept:
    """What was made last, up to `limit` things, one store a process: workers and threads each may ask."""

    def __init__(self, limit: int):
        self.limit = limit
        self._fresh()
        os.register_at_fork(after_in_child=self._fresh)

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._items: OrderedDict[Any, Any] = OrderedDict()

    def of(self, key: Any, make: Callable[[], Any]) -> Any:
        """The thing of that key, made when it is not kept; one thread makes at a time."""
        with self._lock:
            if key not in self._items:
                self._items[key] = make()
                while len(self._items) > self.limit:
                    self._items.popitem(last=False)
            self._items.move_to_end(key)
            return self._items[key]


_handles = Kept(MAX_OPEN)


def stamp(path: str) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of a file. Raises DataError when it cannot be looked at."""
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path,
                        remedy="Check the path and the permissions") from error
    return about.st_size, about.st_mtime_ns


def handle(path: str, expected: tuple[int, int]) -> Handle:
    """The open file. Raises ImageError when it cannot be opened or is not the file with the stamp `expected`."""
    def make() -> Handle:
        try:
            found = Handle(path)
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be opened: {getattr(error, 'strerror', None) or error}", where=path,
                             remedy="Check the path and the permissions") from error
        if not found.regular or found.stamp != expected:
            raise ImageError("has changed since it was indexed", where=path, remedy="Start again")
        return found

    found: Handle = _handles.of((path, expected), make)
    return found
