"""What a wrong array looks like: by what factor, in which axis, at which entries. Plain sentences with the remedy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

CLOSE = 1e-6  # relative: a wrong answer counts as a named mistake where it equals it this well


def error_map(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|got - expected| over the larger of the two, entry by entry. Entries that are tiny beside the largest of the
    array are compared on its scale: their own digits are rounding. NaN where got is not finite and expected is."""
    with np.errstate(all="ignore"):
        scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        size = np.maximum(np.abs(got), np.abs(expected))
        error = np.abs(got - expected) / np.maximum(size, max(1e-6 * scale, 1e-12))
    return np.where(got == expected, 0.0, error)


def equal(a: np.ndarray, b: np.ndarray, tolerance: float = CLOSE) -> bool:
    """Of one shape, and the same numbers up to `tolerance`."""
    if a.shape != b.shape or a.dtype.kind not in "iufb" or b.dtype.kind not in "iufb":
        return False
    return bool((error_map(a.astype(float), b.astype(float)) <= tolerance).all())


def shape_words(got: np.ndarray, expected: np.ndarray) -> str:
    """What a wrong shape usually means; empty where it says nothing."""
    if got.ndim == expected.ndim == 2 and got.shape == expected.shape[::-1]:
        return "It is transposed: swap the two factors of the product, or take .T"
    if [n for n in got.shape if n > 1] == [n for n in expected.shape if n > 1]:
        return "An axis of length 1 is left over or missing: drop keepdims, or reshape"
    if got.size == expected.size:
        return "The entries are as many as they should be: a reshape or transpose is missing or wrong"
    if got.ndim > expected.ndim and got.shape[-expected.ndim or got.ndim:] == expected.shape:
        return "A sum (or mean) over the first axis, the examples, is missing"
    if expected.ndim == 1 and got.ndim == 1:
        return "It is summed over the wrong axis: axis=0 runs over rows, axis=1 over columns"
    if got.ndim < expected.ndim:
        return "It is summed over an axis that should stay"
    return ""


def value_words(name: str, got: np.ndarray, expected: np.ndarray, counts: Mapping[float, str],
                others: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> str:
    """A pattern that explains all wrong entries of an array of the right shape; empty where there is none."""
    for other, right in others.items():
        if other != name and right.size > 1 and equal(got, right):
            return f"This is what {other!r} should be: look at the order in which they are returned"
    for other, value in inputs.items():
        if got.size > 1 and equal(got, value):
            return f"This is the input {other!r}, unchanged"
    if not np.isfinite(got).all() and np.isfinite(expected).all():
        kind = "nan" if np.isnan(got).any() else "infinite"
        return (f"Entries are {kind}: an exponential that overflows, a logarithm of 0 or a division by 0. Subtract the "
                "largest entry before np.exp, or add a small eps where you divide")
    if got.size > 1 and not got.any():
        return "It is all zeros: the array is made, but nothing is added to it (or it is overwritten)"
    return _factor(got, expected, counts) or _moved(got, expected)


def _factor(got: np.ndarray, expected: np.ndarray, counts: Mapping[float, str]) -> str:
    """Where got is a multiple of expected, or lies a constant beside it."""
    known = {-1.0: "The sign is the wrong way round", 2.0: "It is twice as large as it should be",
             0.5: "It is half as large as it should be"}
    for count, words in counts.items():
        known |= {float(count): f"It is {count:g} times too large: divide by {words}",
                  1 / count: f"It is {count:g} times too small: it was divided by {words}, once too often"}
    large = np.abs(expected) > 1e-6 * float(np.abs(expected).max(initial=0.0))
    if not large.any():
        return ""
    ratio = float(np.median(got[large] / expected[large]))
    if equal(got, ratio * expected):
        for value, words in known.items():
            if abs(ratio - value) <= CLOSE * abs(value):
                return words
        if got.size > 1:
            return f"Every entry is {ratio:.6g} times what it should be: look for a factor of that size"
    shift = float(np.median(got - expected))
    if got.size > 2 and equal(got, expected + shift):
        return f"Every entry is {shift:+.6g} off: a constant is added or left out"
    return ""


def _moved(got: np.ndarray, expected: np.ndarray) -> str:
    """Where the right numbers stand in the wrong places, or the wrong ones in a part of the array."""
    for axes in itertools.permutations(range(expected.ndim)):
        if axes != tuple(range(expected.ndim)) and equal(np.transpose(got, axes), expected):
            return "It is transposed: the axes are in another order than they should be"
    for axis in range(expected.ndim):
        if equal(np.flip(got, axis), expected):
            return f"It is reversed along axis {axis}"
        for step in (1, -1):
            if expected.shape[axis] > 2 and equal(np.roll(got, step, axis), expected):
                return f"It is shifted by one along axis {axis}"
    if expected.size > 3 and equal(np.sort(got, axis=None), np.sort(expected, axis=None)):
        return "The numbers are right but stand in wrong places: a reshape where a transpose is needed, or the reverse"
    return ""


def places(wrong: np.ndarray) -> str:
    """Which entries are wrong, in a few words. wrong: booleans, at least one True."""
    count = f"{int(wrong.sum()):,} of {wrong.size:,} entries wrong"
    if wrong.size == 1:
        return ""
    if wrong.all():
        return f"all {wrong.size:,} entries wrong"
    found = np.argwhere(wrong)
    for axis in range(wrong.ndim):
        one = np.unique(found[:, axis])
        if len(one) == 1 and wrong.shape[axis] > 1 and wrong.ndim > 1:
            return f"{count}, all with index {one[0]} along axis {axis}"
    if wrong.ndim == 4 and min(wrong.shape[2:]) > 2 and not wrong[:, :, 1:-1, 1:-1].any():
        return f"{count}, all at the border"
    return count
