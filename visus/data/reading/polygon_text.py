"""Polygons as JSON writes them to arrays: from their text without a Python object per number, or from lists.

Only plain text is taken: `[[12.5, 3, ...], ...]` of digits, points and minus signs, as nearly all files have it.
Whatever else there is stays with the JSON parser, which says what is wrong with it. Numbers have the bits that `float`
gives: a whole number below 2^53 divided by a power of ten up to 10^22 is rounded once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

_MINUS, _SPACE, _POINT, _OPEN, _CLOSE, _COMMA, _END, _OTHER = range(1, 9)  # kinds of characters; 0 is a digit
_KINDS = bytearray([_OTHER]) * 256
for _kind, _characters in enumerate((b"0123456789", b"-", b" ", b".", b"[", b"]", b",", b"\n")):
    for _character in _characters:
        _KINDS[_character] = _kind
_FITS = np.zeros((2, 16, 16), bool)  # [whether a number is between, delimiter on its left, on its right]
_FITS[0, [_OPEN, _CLOSE, _COMMA, _CLOSE, _CLOSE, _END], [_OPEN, _COMMA, _OPEN, _CLOSE, _END, _OPEN]] = True
_FITS[1, [_OPEN, _COMMA, _COMMA, _OPEN], [_COMMA, _COMMA, _CLOSE, _CLOSE]] = True
_PAIRS = _FITS.reshape(-1)
_AT_ONCE, _EXACT_DIGITS, _MAX_DIGITS = 8, 15, 40
_TENS = 10.0 ** np.arange(_EXACT_DIGITS + 1)
_ZERO = ord("0")


@dataclass(frozen=True, eq=False, slots=True)
class Shapes:
    """The polygons of G objects. rings: int64 [G], polygons of each. lengths: int64 [R], numbers in each polygon.
    numbers: float64 [sum of lengths]."""

    rings: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray


def parse_polygons(texts: Sequence[str]) -> Shapes | None:
    """G texts of lists of lists of numbers -> Shapes, or None where they are anything but plain."""
    try:
        text = "\n".join(("", *texts, "")).encode("ascii")
    except UnicodeEncodeError:
        return None
    kind = np.frombuffer(text.translate(_KINDS), np.uint8)
    places = np.flatnonzero(kind >= _POINT)  # of points and delimiters
    kinds = kind[places]
    delimiters = np.flatnonzero(kinds != _POINT)
    points = np.diff(delimiters) - 1  # 0 or 1 between two delimiters
    point = places[delimiters[:-1] + 1]
    places, kinds = places[delimiters], kinds[delimiters]
    opens, closes = kinds == _OPEN, kinds == _CLOSE
    depth = np.cumsum(opens.view(np.int8) - closes.view(np.int8), dtype=np.int32)
    spaced = (kinds[:-1] == _COMMA) & (kind[places[:-1] + 1] == _SPACE)
    start, end = places[:-1] + 1 + spaced, places[1:]
    between = start < end
    pairs = between.view(np.uint8) * np.uint16(256) + kinds[:-1] * np.uint16(16) + kinds[1:]
    at = np.flatnonzero(between)
    ends = np.flatnonzero(kinds == _END)
    if (kinds.max() == _OTHER or points.max() > 1 or len(ends) != len(texts) + 1 or depth.min() < 0 or depth.max() != 2
            or int(spaced.sum()) != text.count(b" ") or depth[ends].any() or not _PAIRS[pairs].all()
            or (depth[at] != 2).any() or (depth[kinds == _COMMA] == 0).any()):
        return None
    has_point = points[at] > 0
    numbers = _numbers(text, kind, start[at], end[at], np.where(has_point, end[at] - point[at] - 1, 0), has_point)
    if numbers is None:
        return None
    opened, closed = np.flatnonzero(opens & (depth == 2)), np.flatnonzero(closes & (depth == 1))
    before = np.concatenate([[0], np.cumsum(between)])  # numbers before each delimiter
    return Shapes(np.diff(np.searchsorted(opened, ends)), before[closed] - before[opened], numbers)


def polygons_of_lists(outlines: Sequence[list[list[float]]]) -> Shapes | None:
    """The same of lists that a parser made, or None where one of them is not a list of lists of numbers."""
    try:
        rings = list(chain.from_iterable(outlines))
        if not set(map(type, rings)) <= {list}:
            return None
        numbers = array("d", list(chain.from_iterable(rings)))
    except (TypeError, OverflowError):
        return None
    return Shapes(np.fromiter(map(len, outlines), np.int64, len(outlines)),
                  np.fromiter(map(len, rings), np.int64, len(rings)), np.frombuffer(numbers, np.float64))


def _numbers(text: bytes, kind: np.ndarray, start: np.ndarray, end: np.ndarray, decimals: np.ndarray,
             has_point: np.ndarray) -> np.ndarray | None:
    """float64 [N]: the numbers that are text[start:end], the last `decimals` of them behind a point; None when one is
    not as JSON wants it."""
    negative = kind[start] == _MINUS
    first = start + negative
    digits = end - first - has_point
    second = np.minimum(first + 1, len(kind) - 1)
    padded = (np.frombuffer(text, np.uint8)[first] == _ZERO) & (digits > 1) & (kind[second] != _POINT)
    if (int(negative.sum()) != text.count(b"-") or digits.min() < 1 or digits.max() > _MAX_DIGITS or padded.any()
            or (has_point & ((decimals == 0) | (decimals == digits))).any()):
        return None
    plain = b" " * _AT_ONCE + text.translate(None, b".")
    last = end - np.cumsum(has_point) + _AT_ONCE
    whole = _whole(plain, last, np.minimum(digits, _AT_ONCE))
    long = np.flatnonzero(digits > _AT_ONCE)
    if len(long):
        more = np.minimum(digits[long] - _AT_ONCE, _EXACT_DIGITS - _AT_ONCE)
        whole[long] += 10**_AT_ONCE * _whole(plain, last[long] - _AT_ONCE, more)
    values = whole / _TENS[np.minimum(decimals, _EXACT_DIGITS)]
    for i in long[digits[long] > _EXACT_DIGITS].tolist():
        values[i] = float(text[first[i]:end[i]])
    return np.where(negative, -values, values)


def _whole(text: bytes, end: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """int64 [N]: the whole numbers whose last digit, of 1 to 8, is before `end` in `text`: eight at once in 64 bits."""
    eight = np.ndarray((len(text) - _AT_ONCE + 1,), "<u8", text, strides=(1,))
    others = (8 * (_AT_ONCE - digits)).astype(np.uint64)
    value = ((eight[end - _AT_ONCE] & np.uint64(0x0F0F0F0F0F0F0F0F)) >> others) << others
    value = (value * np.uint64(10 * 256 + 1)) >> np.uint64(8)  # pairs of digits
    value = ((value & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100 * 65536 + 1)) >> np.uint64(16)
    value = ((value & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(10000 * (1 << 32) + 1)) >> np.uint64(32)
    return value.astype(np.int64)
