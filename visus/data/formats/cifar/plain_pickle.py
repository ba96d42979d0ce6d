"""A pickle read as data: numbers, text, lists, dictionaries and NumPy arrays. Nothing that it names is ever called.

A pickle is a program for a stack machine (Python's `pickletools` describes each instruction). Here are the instructions
that files of numbers need, protocol 0 to 3, written anew; what a file names (`numpy.core.multiarray._reconstruct`,
`numpy.ndarray`, `numpy.dtype`, `_codecs.encode`) is looked up in a table of four and stands for a plain record. Any
other instruction or name is refused. Memory is bounded by the length of the file and the number of instructions.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

from visus.core.errors import DataError
from visus.data.formats.cifar.pickled_arrays import Array, Refused, called, named, set_state

MAX_BYTES = 1 << 30
MAX_STEPS = 5_000_000  # instructions, each of which makes an object of 100 bytes at most; CIFAR-100 has 400,000
MAX_DEPTH = 64         # groups open at one time; CIFAR's files have three
_REMEDY = "Fetch the official file again; nothing in this one was run"
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)  # of Python 2's repr
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def read_plain_pickle(path: str, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The dictionary in the file `path`: its keys as text, arrays as NumPy arrays, Python 2's strings as bytes.

    Raises DataError, naming the file and the byte: another instruction than data needs, a name that is not NumPy's,
    damage, a file over `max_bytes`, something else than a dictionary.
    """
    try:
        size = os.path.getsize(path)
        if size > max_bytes:
            raise DataError(f"is {size >> 20} MiB, over the limit of {max_bytes >> 20} MiB", where=path, remedy=_REMEDY)
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error
    return plain_pickle(data, where=path)


def plain_pickle(data: bytes, *, where: str = "pickle") -> dict[str, Any]:
    """As `read_plain_pickle`, of bytes."""
    machine = _Machine(data)
    try:
        found = machine.run()
    except Refused as error:
        raise DataError(str(error), where=f"{where}: byte {machine.start}", remedy=_REMEDY) from None
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise DataError("is damaged, or is no pickle of plain data", where=f"{where}: byte {machine.start}",
                        remedy=_REMEDY) from error
    except MemoryError as error:
        raise DataError("does not fit into memory", where=where) from error
    if not isinstance(found, dict):
        raise DataError(f"holds {type(found).__name__.strip('_').lower()}, not a dictionary", where=where,
                        remedy=_REMEDY)
    plain = {}
    for key, value in found.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        plain[name] = value.value if isinstance(value, Array) else value
    return plain


class _Machine:
    """The stack, the memo and the place in the file."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0
        self.start = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0

    def run(self) -> Any:
        data, size = self.data, len(self.data)
        for _ in range(MAX_STEPS):
            self.start = self.at
            if self.at >= size:
                raise Refused("ends in the middle: a copy or download was cut")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            act = _ACTS.get(code)
            if act is None:
                raise Refused(_refusal(code))
            act(self)
        raise Refused(f"has more than {MAX_STEPS:,} instructions")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise Refused(f"claims {count:,} bytes where {len(self.data) - self.at:,} are left")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack("<" + form, self.take(struct.calcsize(form)))[0])

    def line(self, limit: int = 4096) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + limit)
        if end < 0:
            raise Refused("a line has no end")
        self.at, start = end + 1, self.at
        return self.data[start:end]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Refused("takes more than there is")
        return self.stack.pop()

    def group(self) -> list[Any]:
        """What lies above the last mark, taken off the stack."""
        bound = self.marks.pop()
        items = self.stack[bound:]
        del self.stack[bound:]
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]


def _refusal(code: int) -> str:
    known = next((op for op in pickletools.opcodes if op.code == chr(code)), None)
    if known is None:
        return f"is no pickle: there is no instruction {code:#04x}"
    return f"holds the instruction {known.name}, which plain data do not need"


def _text_line(m: _Machine) -> bytes:
    """STRING: a quoted line of Python 2."""
    line = m.line(1 << 20)
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise Refused("a text has no quotes")
    return _ESCAPE.sub(_unescaped, line[1:-1])


def _unescaped(match: re.Match[bytes]) -> bytes:
    found = match[0][1:]
    if found in _ESCAPED:
        return _ESCAPED[found]
    if len(found) == 3:
        return bytes([int(found[1:], 16)])
    raise Refused(f"an unknown escape \\{found.decode('latin-1')!r} in a text")


def _decimal(m: _Machine) -> int | bool:
    line = m.line(32)
    return line == b"01" if line in (b"00", b"01") else int(line)


def _long(m: _Machine) -> int:
    count = m.number("B")
    if count > 16:
        raise Refused(f"a number of {count} bytes")
    return int.from_bytes(m.take(count), "little", signed=True)


def _protocol(m: _Machine) -> None:
    version = m.number("B")
    if version > 3:
        raise Refused(f"is a pickle of protocol {version}; read are 0 to 3, of which the published files are")


def _mark(m: _Machine) -> None:
    if len(m.marks) >= MAX_DEPTH:
        raise Refused(f"groups within groups, over the limit of {MAX_DEPTH}")
    m.marks.append(len(m.stack))


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def act(m: _Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)))
    return act


def _list(m: _Machine) -> list[Any]:
    if type(m.stack[-1]) is not list:
        raise Refused("adds to something that is no list")
    return m.stack[-1]


def _appends(m: _Machine) -> None:
    items = m.group()
    _list(m).extend(items)


def _append(m: _Machine) -> None:
    item = m.pop()
    _list(m).append(item)


def _set(m: _Machine, items: list[Any]) -> None:
    if type(m.stack[-1]) is not dict or len(items) % 2:
        raise Refused("sets items of something that is no dictionary")
    m.stack[-1].update(_pairs(items))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    for key in keys:
        if type(key) not in (bytes, str):  # the hash of nested tuples can take for ever
            raise Refused("a key is no text")
    return dict(zip(keys, items[1::2], strict=True))


def _setitem(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    _set(m, [key, value])


def _dict(m: _Machine) -> None:
    m.push(_pairs(m.group()))


def _global(m: _Machine) -> None:
    module, name = (m.line(256).decode("utf-8", "replace") for _ in range(2))
    m.push(named(module, name))


def _reduce(m: _Machine) -> None:
    arguments, function = m.pop(), m.pop()
    made = called(function, arguments)
    if isinstance(made, bytes):
        m.encoded += len(made)
        if m.encoded > len(m.data):
            raise Refused("makes more bytes than it has")
    m.push(made)


def _build(m: _Machine) -> None:
    state = m.pop()
    set_state(m.stack[-1], state)


_ACTS: dict[int, Callable[[_Machine], None]] = {ord(code): act for code, act in {
    "\x80": _protocol, "(": _mark,
    "N": lambda m: m.push(None), "\x88": lambda m: m.push(True), "\x89": lambda m: m.push(False),
    "K": lambda m: m.push(m.number("B")), "M": lambda m: m.push(m.number("H")), "J": lambda m: m.push(m.number("i")),
    "I": lambda m: m.push(_decimal(m)), "L": lambda m: m.push(int(m.line(32).rstrip(b"L"))),
    "\x8a": lambda m: m.push(_long(m)), "S": lambda m: m.push(_text_line(m)),
    "U": lambda m: m.push(m.take(m.number("B"))), "T": lambda m: m.push(m.take(m.number("i"))),
    "C": lambda m: m.push(m.take(m.number("B"))), "B": lambda m: m.push(m.take(m.number("I"))),
    "X": lambda m: m.push(m.take(m.number("I")).decode("utf-8", "surrogatepass")),
    "V": lambda m: m.push(m.line(MAX_BYTES).decode("raw-unicode-escape")),
    "]": lambda m: m.push([]), "l": lambda m: m.push(m.group()), "a": _append, "e": _appends,
    "}": lambda m: m.push({}), "d": _dict, "s": _setitem, "u": lambda m: _set(m, m.group()),
    ")": lambda m: m.push(()), "t": lambda m: m.push(tuple(m.group())),
    "\x85": _tuple_of(1), "\x86": _tuple_of(2), "\x87": _tuple_of(3),
    "p": lambda m: m.put(int(m.line(32))), "q": lambda m: m.put(m.number("B")), "r": lambda m: m.put(m.number("I")),
    "g": lambda m: m.push(m.memo[int(m.line(32))]), "h": lambda m: m.push(m.memo[m.number("B")]),
    "j": lambda m: m.push(m.memo[m.number("I")]),
    "c": _global, "R": _reduce, "b": _build,
}.items()}
