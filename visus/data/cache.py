"""Decoded images as plain bytes on disk: bounded, checked, filled by whoever decodes an image first.

Two files in one folder: `images-KEY.pixels`, records end to end, and `images-KEY.index`, one row per image. What a
batch holds never depends on what is cached: a record that is missing, damaged or of an older source is decoded again.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from visus.core.errors import UserError
from visus.data.samples import Samples

LIMIT_BYTES = 16 << 30
KEEP_FREE = 1 << 30  # bytes of the disk that are left alone

_HEAD = b"visus decoded images 1\n".ljust(48, b"\0")  # as long as a row
# offset, the source's size and time of change, checksum of the record, height, width, channels; then CRC-32 of all this
_ROW = struct.Struct("<QqqQIII")
_ROW_BYTES = _ROW.size + 4
_ROWS = np.dtype([("offset", "<u8"), ("size", "<i8"), ("modified", "<i8"), ("sum", "<u8"), ("height", "<u4"),
                  ("width", "<u4"), ("channels", "<u4"), ("check", "<u4")])
_AHEAD, _AHEAD_BYTES = 64, 16 << 20  # records, and at most so many bytes, for which a process takes room at once
_KNOWN = 200_000  # records that a process remembers: some 40 MB
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Record:
    """Where one decoded image lies: uint8 [height, width, channels] at `offset`. sum: its `checksum`."""

    offset: int
    height: int
    width: int
    channels: int
    sum: int


class PixelCache:
    """One record per position 0 .. len(stamps) - 1. Goes to worker processes; each opens the files anew.

    folder: made when the first record is written. key: names what was done to the images, such as a size. stamps:
    int64 [N, 2], see `source_stamps`. limit_bytes: of all caches in the folder together, records that are out of use
    included. No disk error is raised: what cannot be written is decoded again, `problem` says why.
    """

    def __init__(self, folder: str | Path, key: str, stamps: np.ndarray, limit_bytes: int = LIMIT_BYTES):
        self.folder = Path(folder)
        self.key = key
        self.stamps = stamps
        self.limit_bytes = limit_bytes
        self.problem = ""
        self._process = 0
        self._index, self._pixels = -1, -1
        self._free, self._end = 0, 0  # room that this process has taken
        self._known: dict[int, Record] = {}
        self._lists: list[list[int]] | None = None
        self._checked = array("q", [-1]) * len(stamps)  # offset of the record that this process looked at

    # -- one record ----------------------------------------------------------------------------------------------

    def find(self, position: int) -> Record | None:
        """The record of an image as its source is now; None where there is none. Its pixels are not looked at."""
        known = self._known.get(position)
        if known is not None or not self._open(make=False):
            return known
        row = os.pread(self._index, _ROW_BYTES, _ROW_BYTES * (1 + position))
        if len(row) < _ROW_BYTES or zlib.crc32(row[:-4]) != int.from_bytes(row[-4:], "little"):
            return None
        offset, size, modified, check, height, width, channels = _ROW.unpack_from(row)
        if [size, modified] != self._stamps[position]:
            return None
        record = Record(offset, height, width, channels, check)
        if len(self._known) < _KNOWN:
            self._known[position] = record
        return record

    def rows(self, position: int, record: Record, top: int, bottom: int) -> np.ndarray | None:
        """uint8 [bottom - top, width, channels] of a record that `find` gave; None where the bytes are not those that
        were written, which this process looks at once. Not writable."""
        row_bytes = record.width * record.channels
        if self._checked[position] == record.offset:
            rows = self._read(record.offset + top * row_bytes, (bottom - top) * row_bytes)
            if rows is not None:
                return rows.reshape(bottom - top, record.width, record.channels)
        whole = self._read(record.offset, record.height * row_bytes)
        if whole is None or checksum(whole) != record.sum:
            self._known.pop(position, None)
            return None
        self._checked[position] = record.offset
        return whole.reshape(record.height, record.width, record.channels)[top:bottom]

    def write(self, position: int, pixels: np.ndarray) -> None:
        """Keep uint8 [H, W, C] as the record of an image, where limit and disk allow it."""
        if self.problem or not self._open(make=True):
            return
        data = np.ascontiguousarray(pixels)
        try:
            offset = self._reserve(data.nbytes)
            if offset is None:
                return
            if os.pwrite(self._pixels, data.data, offset) != data.nbytes:
                raise OSError("a part was written only")
            row = _ROW.pack(offset, *self._stamps[position], checksum(data.reshape(-1)), *pixels.shape)
            os.pwrite(self._index, row + zlib.crc32(row).to_bytes(4, "little"), _ROW_BYTES * (1 + position))
        except OSError as error:
            self.problem = f"the image cache cannot be written: {error.strerror or error}"
            return
        self._checked[position] = offset

    def _read(self, offset: int, count: int) -> np.ndarray | None:
        try:
            data = os.pread(self._pixels, count, offset)
        except OSError:
            return None
        return np.frombuffer(data, np.uint8) if len(data) == count else None

    # -- the whole -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Once, before workers start: leave what is out of use. A damaged index is begun anew, as are files of which
        more than half is records of older sources."""
        rows = self._all_rows()
        if rows is None:
            for path in self._paths():
                path.unlink(missing_ok=True)
            return
        held = int(self._nbytes(rows[self._valid(rows)]).sum())
        if self._paths()[0].stat().st_size > 2 * held + (64 << 20):
            for path in self._paths():
                path.unlink(missing_ok=True)

    def held(self) -> tuple[int, int]:
        """(images that have a record of their present source, bytes of those records)."""
        rows = self._all_rows()
        if rows is None:
            return 0, 0
        valid = self._valid(rows)
        return int(valid.sum()), int(self._nbytes(rows[valid]).sum())

    def room(self) -> tuple[float, str]:
        """(bytes that may be held, those that are included; what the bound is, in words)."""
        held = self.held()[1]
        folder = next((f for f in (self.folder, *self.folder.absolute().parents) if f.exists()), Path("/"))
        disk = os.statvfs(folder)
        free = max(0, disk.f_bavail * disk.f_frsize - KEEP_FREE) + held
        limit = max(0, self.limit_bytes - self._used() + held)
        return (limit, "its limit: data.cache_bytes") if limit <= free else (free, "the room on the disk")

    def _used(self) -> int:
        """Bytes of all caches in the folder."""
        try:
            return sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.name.endswith(".pixels"))
        except FileNotFoundError:
            return 0

    def _all_rows(self) -> np.ndarray | None:
        try:
            data = self._paths()[1].read_bytes()
        except OSError:
            return None
        whole = len(data) == _ROW_BYTES * (1 + len(self.stamps)) and data.startswith(_HEAD)
        return np.frombuffer(data, _ROWS, offset=_ROW_BYTES) if whole and self._paths()[0].is_file() else None

    def _valid(self, rows: np.ndarray) -> np.ndarray:
        return (rows["height"] > 0) & (rows["size"] == self.stamps[:, 0]) & (rows["modified"] == self.stamps[:, 1])

    @staticmethod
    def _nbytes(rows: np.ndarray) -> np.ndarray:
        return rows["height"].astype(np.int64) * rows["width"] * rows["channels"]

    # -- files ---------------------------------------------------------------------------------------------------

    def _paths(self) -> tuple[Path, Path]:
        return self.folder / f"images-{self.key}.pixels", self.folder / f"images-{self.key}.index"

    def _open(self, make: bool) -> bool:
        """Both files open in this process; made where they are not there."""
        if self._process == os.getpid() and self._index >= 0:
            return True
        if self._process != os.getpid():  # a worker that was forked: locks and offsets must be its own
            self._process, self._index, self._pixels, self._free, self._end = os.getpid(), -1, -1, 0, 0
        pixels, index = self._paths()
        if not make and not (index.exists() and pixels.exists()):
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._pixels = os.open(pixels, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._index = os.open(index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                os.ftruncate(self._index, _ROW_BYTES * (1 + len(self.stamps)))
                os.pwrite(self._index, _HEAD, 0)
        except OSError as error:
            self.problem = f"the image cache cannot be written: {error.strerror or error}"
            for handle in (self._pixels, self._index):
                if handle >= 0:
                    os.close(handle)
            self._index, self._pixels = -1, -1
            return False
        self._lists = self.stamps.tolist()
        return True

    @property
    def _stamps(self) -> list[list[int]]:
        assert self._lists is not None
        return self._lists

    def _reserve(self, count: int) -> int | None:
        """An offset with `count` free bytes behind it, or None where limit or disk do not allow it."""
        if self._end - self._free < count:
            ahead = max(count, min(_AHEAD * count, _AHEAD_BYTES))
            self._give_back()
            with self._locked():
                room = self.limit_bytes - self._used()
                disk = os.fstatvfs(self._pixels)
                if room < count:
                    self.problem = f"the image cache is full: its limit is {amount(self.limit_bytes)}"
                    return None
                if disk.f_bavail * disk.f_frsize < KEEP_FREE + ahead:
                    self.problem = f"the image cache is full: less than {KEEP_FREE >> 30} GiB of the disk are free"
                    return None
                self._free = os.fstat(self._pixels).st_size
                self._end = self._free + min(room, ahead)
                os.ftruncate(self._pixels, self._end)
        offset = self._free
        self._free += count
        return offset

    def _give_back(self) -> None:
        """Room that was taken and not used, where nobody has taken any behind it."""
        if self._end > self._free:
            with self._locked():
                if os.fstat(self._pixels).st_size == self._end:
                    os.ftruncate(self._pixels, self._free)
        self._free, self._end = 0, 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def close(self) -> None:
        """Close the files of this process. They are opened again when they are needed."""
        if self._process == os.getpid() and self._index >= 0:
            try:
                self._give_back()
            except OSError:  # the folder is gone
                pass
            os.close(self._index)
            os.close(self._pixels)
        self._index, self._pixels, self._free, self._end = -1, -1, 0, 0

    def __del__(self) -> None:
        if os is not None:  # at the end of the program modules go first
            self.close()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_process": 0, "_index": -1, "_pixels": -1}


def amount(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def checksum(data: np.ndarray) -> int:
    """Of uint8 [n]: the sum of its 64-bit words, each times an odd number of its place, modulo 2^64, and the rest. No
    word can change alone, nor can two change places, without changing it; five times as fast as a CRC-32."""
    words = data[:data.size & ~7].view(np.uint64)
    rest = int.from_bytes(data[data.size & ~7:].tobytes(), "little")
    weights = _weights(1 << max(0, words.size - 1).bit_length())[:words.size]
    return (int(np.dot(words, weights)) + rest + data.size) % 2**64


@cache
def _weights(count: int) -> np.ndarray:
    """uint64 [count], odd."""
    with np.errstate(over="ignore"):
        return np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN | np.uint64(1)


def source_stamps(samples: Samples, indices: np.ndarray) -> np.ndarray:
    """int64 [n, 2]: size and time of change in ns of each sample's file; -1 where there is none. Of images inside other
    files, the length and the CRC-32 of their bytes."""
    stamps = np.full((len(indices), 2), -1, np.int64)
    for row, i in enumerate(np.asarray(indices).tolist()):
        try:
            if samples.encoded is not None:
                data = samples.encoded[i]
                stamps[row] = len(data), zlib.crc32(data)
            else:
                about = os.stat(samples.path(i))
                stamps[row] = about.st_size, about.st_mtime_ns
        except (OSError, ValueError, UserError):  # reading it will say what is wrong
            pass
    return stamps
