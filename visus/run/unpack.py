"""Archives of data sets, unpacked so that nothing outside of one folder is written and nothing half is left.

zip, tar, tar.gz, tar.bz2 and tar.xz. Only ordinary files are written: links, devices, names that lead out or meet in
one place, and archives that grow beyond their limits are refused before the folder takes its name.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from visus.core.errors import DataError, ResourceError, printable
from visus.data.formats.shards.tar_members import tar_members

MAX_ENTRIES = 1_000_000
MAX_BYTES = 1 << 40
MAX_RATIO = 200          # bytes out for each byte in; text packs about 10 times, images hardly
_SMALL = 64 << 20        # below this the ratio does not matter
_MAX_DEPTH = 32
_BLOCK = 1 << 20
_REMEDY = "Do not use this archive: fetch the official one again"
_PACKERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw), b"BZ": bz2.BZ2File, b"\xfd7": lzma.LZMAFile}


@dataclass
class _Budget:
    """What has been written so far, and may be."""

    archive: str
    packed: int
    max_bytes: int
    max_entries: int
    entries: int = 0
    bytes: int = 0
    taken: dict[str, bool] = field(default_factory=dict)  # comparable name -> is a file

    def entry(self, name: str) -> tuple[str, ...]:
        """The parts of a name that may be written. Raises DataError for any other."""
        self.entries += 1
        if self.entries > self.max_entries:
            raise self.refused(f"more than {self.max_entries:,} files")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        shown = printable(name)[:200]
        if name.startswith("/") or "\\" in name or ".." in parts or not parts or (len(name) > 1 and name[1] == ":"):
            raise self.refused(f"the name {shown!r} leads out of the folder")
        if len(parts) > _MAX_DEPTH or any(len(os.fsencode(part)) > 255 for part in parts) or "\0" in name:
            raise self.refused(f"the name {shown!r} is no possible file name")
        keys = [unicodedata.normalize("NFC", "/".join(parts[:n])).casefold() for n in range(1, len(parts) + 1)]
        if keys[-1] in self.taken or any(self.taken.get(key) for key in keys[:-1]):
            raise self.refused(f"two entries of one name: {shown!r}")
        for key in keys[:-1]:
            self.taken[key] = False
        self.taken[keys[-1]] = True
        return parts

    def grow(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.max_bytes:
            raise self.refused(f"more than {self.max_bytes >> 20:,} MiB when unpacked")
        if self.bytes > max(_SMALL, MAX_RATIO * self.packed):
            raise self.refused(f"unpacks to more than {MAX_RATIO} times its size")

    def refused(self, problem: str) -> DataError:
        return DataError(problem, where=self.archive, remedy=_REMEDY)


def unpack(archive: str | Path, folder: str | Path, *, max_bytes: int = MAX_BYTES, max_entries: int = MAX_ENTRIES,
           progress: Callable[[int], None] | None = None) -> int:
    """Write the files of `archive` below `folder`, which need not exist; what lies there is never replaced, but may be
    equal.

    progress(bytes written so far). Returns the number of files. Raises DataError naming the archive and the entry, and
    ResourceError when the disk is too small; what was written until then stays: give a folder of your own and remove
    it.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        budget = _Budget(str(archive), archive.stat().st_size, max_bytes, max_entries)
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, source, size in _entries(archive, budget, stack):
                _write(folder, budget.entry(name), source, size, budget, progress)
    except OSError as error:
        raise ResourceError(f"could not be unpacked: {error.strerror or error}", where=archive,
                            remedy="Free some space or choose another folder") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError,
            OverflowError) as error:
        raise DataError(f"is damaged ({printable(str(error))[:200]})", where=archive,
                        remedy="Fetch it again") from error
    return budget.entries


def is_archive(name: str) -> bool:
    return name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def _entries(archive: Path, budget: _Budget, stack: ExitStack) -> Iterator[tuple[str, IO[bytes], int]]:
    """(name, its bytes to be read at once, their number) of every ordinary file."""
    raw = stack.enter_context(open(archive, "rb"))  # noqa: SIM115
    start = raw.peek(4)[:4]
    if start[:2] == b"PK":
        yield from _zip_entries(stack.enter_context(zipfile.ZipFile(raw)), budget)
        return
    packer = _PACKERS.get(start[:2])
    file = cast("IO[bytes]", raw if packer is None else stack.enter_context(packer(raw)))
    for member in tar_members(file, str(archive), None if packer else budget.packed):
        if not _is_system_file(member.name):
            yield member.name, file, member.size


def _zip_entries(archive: zipfile.ZipFile, budget: _Budget) -> Iterator[tuple[str, IO[bytes], int]]:
    entries = archive.infolist()
    if len(entries) > budget.max_entries:
        raise budget.refused(f"{len(entries):,} entries, over the limit of {budget.max_entries:,}")
    total = sum(entry.file_size for entry in entries)
    if total > min(budget.max_bytes, max(_SMALL, MAX_RATIO * budget.packed)):
        raise budget.refused(f"claims {total >> 20:,} MiB when unpacked, from {budget.packed >> 10:,} KiB")
    for entry in entries:
        mode = entry.external_attr >> 16
        if entry.flag_bits & 1:
            raise budget.refused(f"{printable(entry.filename)!r} is encrypted")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise budget.refused(f"{printable(entry.filename)!r} is a link or a device")
        if not entry.is_dir() and not _is_system_file(entry.filename):
            with archive.open(entry) as source:
                yield entry.filename, source, entry.file_size


def _is_system_file(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] == ".DS_Store"


def _write(folder: Path, parts: tuple[str, ...], source: IO[bytes], size: int, budget: _Budget,
           progress: Callable[[int], None] | None) -> None:
    if size > _SMALL and size > shutil.disk_usage(folder).free:
        raise ResourceError(f"{size >> 20:,} MiB are needed for {printable(parts[-1])!r}", where=folder,
                            remedy="Free some space or choose another folder")
    path = folder.joinpath(*parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.is_file()
        file = open(path, "rb" if there else "xb")  # noqa: SIM115  # closed below
    except FileExistsError as error:
        raise budget.refused(f"{printable('/'.join(parts))!r} is there already") from error
    with file:
        left = size
        while left:
            block = source.read(min(_BLOCK, left))
            if not block:
                raise budget.refused(f"ends within {printable(parts[-1])!r}")
            budget.grow(len(block))
            left -= len(block)
            if there and file.read(len(block)) != block:
                raise budget.refused(f"{printable('/'.join(parts))!r} is there already with another content")
            if not there:
                file.write(block)
            if progress is not None:
                progress(budget.bytes)
        if there and file.read(1):
            raise budget.refused(f"{printable('/'.join(parts))!r} is there already with another content")
