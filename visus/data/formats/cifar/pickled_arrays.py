"""The NumPy arrays of a pickle, rebuilt from what it says of them: a table of four names, and no call of any.

A pickled array is `_reconstruct(ndarray, (0,), b'b')` with the state (version, shape, type, Fortran order, bytes), its
type `dtype('u1', ...)` with the state (version, byte order, ...); Python 3 writes bytes as `_codecs.encode(text,
'latin1')`. The names stand for records here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.core.errors import printable

_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array", ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): "dtype", ("_codecs", "encode"): "encode",
}
_NUMBERS = ("u1", "i1", "b1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
_MAX_SIDE = 1 << 30


class Refused(Exception):
    """Something that plain data do not need; the text says what."""


@dataclass(frozen=True)
class Named:
    """One of the four names."""

    what: str


@dataclass
class Type:
    """A data type: its byte order and code."""

    code: str


@dataclass
class Array:
    """An array, once its state is known."""

    value: np.ndarray | None = None


def named(module: str, name: str) -> Named:
    """The record of a name. Raises Refused for any other than the four."""
    what = _NAMES.get((module, name))
    if what is None:
        raise Refused(f"names {printable(module)}.{printable(name)}: a pickle that does more than hold data")
    return Named(what)


def called(function: Any, arguments: Any) -> Array | Type | bytes:
    """What a call of one of the names stands for. Raises Refused for other functions or arguments."""
    what = function.what if isinstance(function, Named) else None
    if not isinstance(arguments, tuple) or not arguments:
        what = None if what is None else what + " without arguments"
    elif what == "encode" and tuple(map(type, arguments)) == (str, str) and arguments[1] in ("latin1", "latin-1"):
        return bytes(arguments[0], "latin-1")
    elif what == "array" and arguments[0] == Named("ndarray"):
        return Array()
    elif what == "dtype":
        return Type(_ascii(arguments[0]))
    raise Refused(f"calls {'numpy.' + what if what else 'something that is no function'} in an unknown way")


def set_state(target: Any, state: Any) -> None:
    """Complete a Type or an Array. Raises Refused for anything else, and for states that do not fit."""
    if isinstance(target, Type) and isinstance(state, tuple) and len(state) >= 2:
        target.code = _ascii(state[1]).replace("|", "") + target.code
    elif isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, Type) or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise Refused("an array that is no array of numbers")
        target.value = _array(shape, kind.code, bool(fortran), raw)
    else:
        raise Refused("gives a state to something that has none")


def _array(shape: tuple[Any, ...], code: str, fortran: bool, raw: bytes) -> np.ndarray:
    if code.lstrip("<>=") not in _NUMBERS:
        raise Refused(f"an array of the type {printable(code)[:40]!r}, which is no number")
    if len(shape) > 8 or not all(type(n) is int and 0 <= n <= _MAX_SIDE for n in shape):
        raise Refused("an array of an impossible shape")
    dtype = np.dtype(code)
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise Refused(f"an array of shape {shape} in {len(raw):,} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _ascii(value: Any) -> str:
    if not isinstance(value, bytes | str) or len(value) > 8:
        raise Refused("a data type without a name")
    return value.decode("latin-1") if isinstance(value, bytes) else value
