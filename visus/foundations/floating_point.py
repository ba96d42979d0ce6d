"""What a float can hold, and how to stay where it holds much.

A float has a fixed number of digits and a limited range of sizes. Sums lose the digits of small terms, differences of
nearly equal numbers lose nearly all digits, exponentials leave the range. Each helper is a known way around.

Sources: Goldberg, What Every Computer Scientist Should Know About Floating-Point Arithmetic, ACM Computing Surveys
1991; Kahan 1965 (summation); Press et al., Numerical Recipes, section 5.7 (steps of differences); Stanford CS231n
notes, "Neural Networks Part 3: Gradient checks" (double precision, the active range).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.core.errors import UserError


def log_sum_exp(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """log of the sum of e^x over an axis. The largest entry is taken off first: nothing overflows, and at least one
    term is 1. An axis of -inf alone gives -inf."""
    largest = x.max(axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(shift, axis) + np.log(np.exp(x - shift).sum(axis=axis))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x) for any x: max(x, 0) + log1p(e^-|x|)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def compensated_sum(values: np.ndarray) -> float:
    """Kahan's sum of [N]: what an addition rounds away is kept and added to the next term. Its error does not grow with
    the number of terms."""
    total = values.dtype.type(0)
    lost = values.dtype.type(0)
    for value in values:
        term = value - lost
        new = total + term
        lost = (new - total) - term
        total = new
    return float(total)


def naive_sum(values: np.ndarray) -> float:
    """One term after the other, [N], in their own precision: the error grows with the number of terms."""
    total = values.dtype.type(0)
    for value in values:
        total = total + value
    return float(total)


@dataclass(frozen=True)
class Precision:
    """digits: decimal digits that are kept; epsilon: the gap between 1 and the next number; smallest: the smallest
    number of full precision; largest: the largest number."""

    name: str
    digits: float
    epsilon: float
    smallest: float
    largest: float


def precision(dtype: Any) -> Precision:
    """What float16, float32 or float64 can hold."""
    try:
        info = np.finfo(dtype)
    except ValueError:
        raise UserError("is no floating-point type", where=f"dtype={dtype!r}",
                        remedy="Pass np.float16, np.float32 or np.float64") from None
    return Precision(name=str(info.dtype), digits=-math.log10(float(info.eps)), epsilon=float(info.eps),
                     smallest=float(info.tiny), largest=float(info.max))


def best_step(order: int, dtype: Any = np.float64) -> float:
    """The step of a difference quotient of truncation error O(h^order) at which truncation and rounding, epsilon / h,
    are equally large: epsilon^(1 / (order + 1)), for a function and an x of size about 1. Forward differences have
    order 1, centred ones 2."""
    if order < 1:
        raise UserError(f"order is {order}", where="best_step", remedy="It is 1 or more")
    return precision(dtype).epsilon ** (1 / (order + 1))


@dataclass(frozen=True)
class ActiveRange:
    """zero, tiny, subnormal, overflowed: shares of the values; median_exponent: floor(log2) of the typical size, None
    where all are zero; factor: the power of two that brings it to 1; advice: a sentence, empty where all is well."""

    zero: float
    tiny: float
    subnormal: float
    overflowed: float
    median_exponent: int | None
    factor: float
    advice: str


def active_range(values: np.ndarray, *, least: float = 1e-10) -> ActiveRange:
    """Whether gradients sit where a float is dense: sizes about 1, an exponent of 0.

    A gradient check of numbers below `least` compares rounding errors. The loss times `factor` brings them to about 1
    without changing a digit, since it is a power of two.
    """
    size = np.abs(np.asarray(values))
    if size.dtype.kind != "f" or not size.size:
        raise UserError(f"values of type {size.dtype} and shape {size.shape}", where="active_range",
                        remedy="Pass an array of floats that is not empty")
    normal = np.finfo(size.dtype).tiny
    zero, lost = size == 0, ~np.isfinite(size)
    kept = size[~zero & ~lost].astype(np.float64)
    exponent = math.floor(math.log2(float(np.median(kept)))) if kept.size else None
    tiny = float(((size < least) & ~zero).mean())
    subnormal = float(((size < normal) & ~zero).mean())
    advice = ""
    if lost.any():
        advice = "Some values have left the range: lower the step size, or shift exponents before exp"
    elif exponent is None:
        advice = "All values are zero: nothing can be compared"
    elif tiny > 0.5:
        advice = f"Most values are below {least:g}: multiply the loss by 2^{-exponent} while you check"
    elif size.dtype != np.float64:
        advice = f"{size.dtype} keeps {precision(size.dtype).digits:.1f} digits: check gradients in float64"
    return ActiveRange(zero=float(zero.mean()), tiny=tiny, subnormal=subnormal, overflowed=float(lost.mean()),
                       median_exponent=exponent, factor=1.0 if exponent is None else math.ldexp(1.0, -exponent),
                       advice=advice)
