"""Tar archives read from front to back, nothing extracted: which files they hold, and where the bytes of each lie.

Format: POSIX.1-2017 (pax, "ustar Interchange Format"), with GNU's long names and numbers of base 256. A header of 512
bytes, the content filled up to a multiple of 512, and so on; blocks of zeros end it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from visus.core.errors import DataError, printable

BLOCK = 512
MAX_NAME = 4096
_MAX_EXTENDED = 1 << 20   # of a pax header or a long name
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
          b"6": "a FIFO", b"S": "a sparse file", b"M": "part of a file in several volumes"}
_CUT = "A copy or download was cut: fetch the shard again"
_REMEDY = "Write the shard again with plain files only"


class Member(NamedTuple):
    """An ordinary file of an archive: its name, where its bytes begin, how many they are."""

    name: str
    offset: int
    size: int


def tar_members(file: IO[bytes], where: str, size: int | None = None) -> Iterator[Member]:
    """The ordinary files, in order; folders are passed over. The bytes of a member can be read while it is the last
    one given. size: bytes of the archive, where it is known.

    Raises DataError naming the archive and the member: damaged, cut, a link, a device, a name that leads out of a
    folder, no end mark. An empty file is an empty archive.
    """
    at, long_name, name = 0, "", ""
    extended: dict[str, str] = {}
    while True:
        header = _read(file, BLOCK, where, name, at)
        if file.tell() != at + len(header):
            raise _cut(where, name)
        if not header and at:
            raise DataError(f"has no end mark after {printable(name)!r}: more may have followed", where=where,
                            remedy=_CUT)
        if not header.strip(b"\0"):
            return
        if len(header) < BLOCK:
            raise _cut(where, name)
        kind, length = _checked(header, where, name), _number(header[124:136], where)
        begin = at + BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            if length > _MAX_EXTENDED:
                raise DataError(f"a header of {length:,} bytes after {printable(name)!r}", where=where, remedy=_REMEDY)
            content = _read(file, length, where, name)
            if len(content) < length:
                raise _cut(where, name)
            if kind == b"L":
                long_name = _text(content.split(b"\0")[0])
            elif kind == b"x":
                extended = _records(content, where)
            at = begin + -(-length // BLOCK) * BLOCK
            continue
        name = extended.get("path") or long_name or _name(header)
        if "size" in extended:
            length = _decimal(extended["size"], where)
        if kind in _KINDS or (extended and any(key.startswith("GNU.sparse") for key in extended)):
            raise DataError(f"{printable(name)!r} is {_KINDS.get(kind, 'a sparse file')}", where=where, remedy=_REMEDY)
        end = begin + length
        if size is not None and end > size:
            raise _cut(where, name)
        if kind in (b"0", b"\0", b"7") and not name.endswith("/"):
            name = _plain(name, where)
            yield Member(name, begin, length)
        elif kind not in (b"5", b"D", b"V", b"0", b"\0", b"7"):
            raise DataError(f"{printable(name)!r} is of the unknown kind {kind!r}", where=where, remedy=_REMEDY)
        long_name, extended = "", {}
        at = begin + -(-length // BLOCK) * BLOCK


Part = tuple[str, Member, bytes | None]


def tar_samples(file: IO[bytes], where: str, wanted: Callable[[str], bool], *, size: int | None = None,
                max_bytes: int) -> Iterator[tuple[str, list[Part]]]:
    """(key, its parts) of a WebDataset shard: files that follow each other and are named alike up to the first dot of
    the last part of the name. A part: what follows the dot in lower case, the member, its bytes where `wanted`.

    Raises DataError as `tar_members`, and for wanted files over `max_bytes`.
    """
    last: str | None = None
    parts: list[Part] = []
    for member in tar_members(file, where, size):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if not dot or not stem:  # hidden files and those without an extension
            continue
        key, extension = folder + slash + stem, extension.lower()
        content = None
        if wanted(extension):
            if member.size > max_bytes:
                raise DataError(f"{printable(member.name)!r} is {member.size >> 20} MiB, over the limit of "
                                f"{max_bytes >> 20} MiB", where=where, remedy="Leave it out of the shard")
            content = _read(file, member.size, where, member.name)
            if len(content) < member.size:
                raise _cut(where, member.name)
        if key != last and parts:
            yield str(last), parts
            parts = []
        last = key
        parts.append((extension, member, content))
    if parts:
        yield str(last), parts


def _read(file: IO[bytes], count: int, where: str, name: str, at: int | None = None) -> bytes:
    """The next `count` bytes, or those from `at` on; fewer at the end."""
    try:
        if at is not None:
            file.seek(at)
        return file.read(count)
    except EOFError as error:
        raise _cut(where, name) from error
    except (OSError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read after {printable(name)!r}: {problem}", where=where, remedy=_CUT) from error


def _cut(where: str, name: str) -> DataError:
    return DataError(f"ends within {printable(name)!r}" if name else "ends within its first header", where=where,
                     remedy=_CUT)


def _checked(header: bytes, where: str, name: str) -> bytes:
    """The kind of the member, when the sum of the header is right."""
    field = header[148:156]
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(field) + 8 * 32  # the sum of all bytes modulo 65521, but quick
    try:
        right = (int(field.strip(b" \0") or b"0", 8) - total) % 65521 == 0
    except ValueError:
        right = False
    if not right:
        place = f"after {printable(name)!r}" if name else "at its beginning"
        raise DataError(f"is no tar archive, or is damaged {place}", where=where, remedy=_CUT)
    return header[156:157]


def _number(field: bytes, where: str) -> int:
    if field[0] & 0x80:  # base 256
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value >= 1 << 62:
            raise DataError("holds a file of an impossible size", where=where, remedy=_CUT)
        return value
    text = field.split(b"\0")[0].strip()
    if not text:
        return 0
    try:
        return int(text if text.isdigit() else b"8", 8)
    except ValueError:
        raise DataError("holds a file of an impossible size", where=where, remedy=_CUT) from None


def _decimal(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise DataError("holds a file of an impossible size", where=where, remedy=_CUT)
    return int(text)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].split(b"\0")[0] + b"/" + name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _records(content: bytes, where: str) -> dict[str, str]:
    """`length key=value` lines of a pax header."""
    found, at = {}, 0
    while at < len(content) and content[at:at + 1] != b"\0":
        digits = content[at:at + 8].split(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = content[at + len(digits) + 1:at + length - 1].partition(b"=")
        if length < len(digits) + 4 or at + length > len(content) or not equals:
            raise DataError("holds a damaged pax header", where=where, remedy=_CUT)
        found[_text(key)] = _text(value)
        at += length
    return found


def _plain(name: str, where: str) -> str:
    """The name without './'. Raises DataError for one that is absolute or leads upwards."""
    plain = name[2:] if name.startswith("./") else name
    if plain.startswith("/") or len(name) > MAX_NAME or "\0" in name or (".." in name and ".." in name.split("/")):
        raise DataError(f"the name {printable(name[:200])!r} leads out of a folder", where=where, remedy=_REMEDY)
    return plain
