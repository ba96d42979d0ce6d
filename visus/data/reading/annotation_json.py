"""Large JSON files of annotations, read piece by piece: a top-level object whose lists hold one record each.

Only a window of the file is in memory, and the records of the window, whatever the size of the file.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from visus.core.errors import DataError
from visus.data.reading.json_records import EXACT, RefusedJson, parse_records
from visus.data.reading.polygon_text import Shapes

MAX_BYTES = 32 << 30
_WINDOW = 1 << 17  # bytes: records, and their text, stay within the processor's cache
_MAX_RECORD = 64 << 20  # characters
_FEW = 512  # records read one by one before the quick way is tried again
_NEAR_END = 16  # characters: an error that close to the end of the window may be a value that goes on behind it
_SPACE = " \t\n\r"
_NOT_SPACE = re.compile(r"[^ \t\n\r]")
_OPENING = re.compile(r'\{\s*"[^"\\]{1,64}"')


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Records `first`, first + 1, ... of the list `section`. shapes: where not None, those records whose
    'segmentation' is a float have, in order, their polygons there."""

    section: str
    first: int
    records: list[Any]
    shapes: Shapes | None


def read_chunks(path: str, sections: Collection[str], progress: Callable[[int, int], None] | None = None
                ) -> Iterator[Chunk]:
    """The records of the lists named `sections` at the top level of a JSON file, in the order of the file.

    A list that is empty comes as one chunk without records. progress: called with (bytes read, all bytes).
    Raises DataError naming file, line and column: unreadable, too large, not UTF-8, not JSON, NaN or Infinity, a key
    twice in one object, nested too deeply, a list at the top level, a section that is no list.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            text = _Text(path, file, progress)
            yield from _object(text, sections)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="Check the file") from error


def _object(text: _Text, sections: Collection[str]) -> Iterator[Chunk]:
    first = text.peek()
    if first == "[":
        text.fail("a list is at the top level, and not an object with 'images' and 'annotations'",
                  remedy="Is this CreateML, or a list of results? Give COCO annotations")
    if first != "{":
        text.fail("is not JSON: an object is expected" if first else "is empty")
    text.at += 1
    seen: set[str] = set()
    while text.peek() != "}" or seen:
        if text.peek() != '"':
            text.fail("is not JSON: a key in double quotes is expected")
        key = text.value()
        if key in seen:
            text.fail(f"the key {key!r} is there twice at the top level", remedy="Join the two")
        seen.add(key)
        if text.peek() != ":":
            text.fail("is not JSON: ':' is expected after a key")
        text.at += 1
        if text.peek() == "[":
            for chunk in _list(text, key):
                if key in sections:
                    yield chunk
        elif key in sections:
            text.fail(f"{key!r} is no list", remedy="Give one record per entry: " + f'"{key}": [{{...}}, ...]')
        else:
            text.value()
        mark = text.peek()
        if mark == "}":
            break
        if mark != ",":
            text.fail("is not JSON: ',' or '}' is expected")
        text.at += 1
    text.at += 1
    if text.peek():
        text.fail("is not JSON: something follows after the end")


def _list(text: _Text, section: str) -> Iterator[Chunk]:
    text.at += 1
    if text.peek() == "]":
        text.at += 1
        yield Chunk(section, 0, [], None)
        return
    count = 0
    while True:
        quick = text.records()
        if quick is not None:
            yield Chunk(section, count, *quick)
            count += len(quick[0])
            continue
        records: list[Any] = []
        while len(records) < _FEW:
            text.peek()
            records.append(text.value())
            mark = text.peek()
            if mark not in (",", "]") or not mark:
                text.fail("is not JSON: ',' or ']' is expected")
            text.at += 1
            if mark == "]":
                yield Chunk(section, count, records, None)
                return
        yield Chunk(section, count, records, None)
        count += len(records)


class _Text:
    """A window of a text file. at: the next character to be read, a position in `text`."""

    def __init__(self, path: str, file: IO[bytes], progress: Callable[[int, int], None] | None):
        self.path, self.file, self.progress = path, file, progress
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise DataError("is not a regular file", where=path, remedy="Give a .json file")
        self.size = about.st_size
        if self.size > MAX_BYTES:
            raise DataError(f"is {self.size >> 30} GiB, over the limit of {MAX_BYTES >> 30} GiB", where=path,
                            remedy="Divide it into several files")
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended, self.told = "", 0, False, 0
        self.lines, self.column = 0, 0  # of the text before the window
        self.more()
        _refuse_other_files(path, self.text)

    def more(self, size: int | None = None) -> bool:
        """Moves the window on by `size` bytes; what is read is dropped. False at the end of the file."""
        if self.ended:
            return False
        start = self.file.tell()
        data = self.file.read(size or _WINDOW)
        self.ended = not data
        if start == 0:
            _refuse_other_encodings(self.path, data)
        before = self.text[:self.at]
        if newlines := before.count("\n"):
            self.lines, self.column = self.lines + newlines, len(before) - before.rfind("\n") - 1
        else:
            self.column += len(before)
        self.text, self.at = self.text[self.at:], 0
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            self.text += data[:error.start].decode("utf-8", "replace")
            self.fail(f"is not UTF-8 text (byte {error.object[error.start]:#04x})", at=len(self.text),
                      remedy="Save the file as UTF-8")
        done = self.file.tell()
        if self.progress is not None and (done - self.told >= 1 << 22 or self.ended):
            self.told = done
            self.progress(done, self.size)
        return not self.ended

    def peek(self) -> str:
        """The next character that is no space, '' at the end; `at` is moved to it."""
        while True:
            found = _NOT_SPACE.search(self.text, self.at)
            if found is not None:
                self.at = found.start()
                return found.group()
            self.at = len(self.text)
            if not self.more():
                return ""

    def value(self) -> Any:
        """The JSON value that begins at `at`, which is moved behind it."""
        size = _WINDOW
        while True:
            problem, at = "is not JSON: it ends too early", len(self.text)
            try:
                value, end = EXACT.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                if not open_string and error.pos < len(self.text) - _NEAR_END or self.ended:
                    problem, at = f"is not JSON: {error.msg}", error.pos
                    self.fail(problem, at=at)
            except RefusedJson as error:
                found = re.compile(error.pattern).search(self.text, self.at)
                self.fail(error.problem, at=found.start() if found else None, remedy=error.remedy)
            except (RecursionError, ValueError) as error:
                self.fail("is nested too deeply" if isinstance(error, RecursionError) else "has a number of thousands "
                          "of digits")
            else:
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            if len(self.text) - self.at > _MAX_RECORD:
                self.fail(f"has a record or a text of more than {_MAX_RECORD >> 20} million characters",
                          remedy="No annotation is that long: check the quotes")
            self.more(size)
            size = min(2 * size, _MAX_RECORD)  # so that one long record is not read again and again

    def records(self) -> tuple[list[Any], Shapes | None] | None:
        """All records of the window but the last, or None where they must be read one by one."""
        if len(self.text) - self.at < _WINDOW // 2:
            self.more()
        opening = _OPENING.match(self.text, self.at)
        if opening is None:
            return None
        last = self.text.rfind(opening.group(), self.at + 1)
        body = self.text[self.at:last].rstrip(_SPACE) if last > 0 else ""
        if not body.endswith(","):
            return None
        body = body[:-1]
        found = parse_records(body)
        if found is not None:
            self.at = last
        return found

    def fail(self, problem: str, at: int | None = None, remedy: str | None = None) -> NoReturn:
        before = self.text[:self.at if at is None else at]
        newlines = before.count("\n")
        column = len(before) - before.rfind("\n") if newlines else self.column + len(before) + 1
        raise DataError(problem, where=f"{self.path}:{self.lines + newlines + 1}:{column}",
                        remedy=remedy or "Give the whole file as its tool wrote it")


def _refuse_other_encodings(path: str, data: bytes) -> None:
    where, remedy = f"{path}:1:1", "Save the file as UTF-8, without a mark at its beginning"
    if data.startswith(codecs.BOM_UTF8):
        raise DataError("begins with a byte order mark, which JSON does not allow", where=where, remedy=remedy)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise DataError("is UTF-16 or UTF-32 text, and JSON is UTF-8", where=where, remedy=remedy)


def _refuse_other_files(path: str, text: str) -> None:
    if text.startswith("version https://git-lfs"):
        raise DataError("is a Git-LFS pointer, the file itself was not fetched", where=f"{path}:1:1",
                        remedy="Run: git lfs pull")
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        raise DataError("is a web page or XML, not JSON", where=f"{path}:1:1", remedy="Fetch the file again")
