"""Lab gradient_check: is a gradient that you wrote the derivative of its function?

A derivative is a limit, so that a small step approximates it. With one more evaluation,

    (f(x + h) - f(x)) / h                 is wrong by something that shrinks as h,

and with two, placed on both sides,

    (f(x + h) - f(x - h)) / (2 h)         by something that shrinks as h^2.

For an array x each entry is moved on its own, all others left where they are; what f changes by is the gradient's entry
at that place. It is slow, and needs nothing but f itself: the referee of all backward passes.

Two gradients a and b are compared by their relative error, |a - b| / max(|a| + |b|, 1e-8): a difference of 0.01 is
nothing beside 1,000 and all beside 0.001. Above 1e-4 something is wrong; below 1e-7 all is well.

    visus lab check gradient_check.py
    visus lab show gradient_check.py

Source: Stanford CS231n, neural networks part 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visus.labs import NotWritten

LAB = "gradient_check"


def forward_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float) -> np.ndarray:
    """The gradient of f at x, by one step forwards for each entry: an array of x's shape.

    f takes an array of x's shape and gives one number. x must be afterwards what it was, to the last bit: keep the old
    value and put it back, since x + h - h is not always x. np.ndindex(x.shape) runs over the places of any array.
    """
    raise NotWritten


def centred_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float) -> np.ndarray:
    """The same, by a step to each side."""
    raise NotWritten


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """The largest |a - b| / max(|a| + |b|, 1e-8) over the entries of two arrays of one shape."""
    raise NotWritten


def centred_along(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, dout: np.ndarray, h: float) -> np.ndarray:
    """For a layer f whose output is an array: the gradient in x of sum(f(x) * dout), by centred differences.

    dout has the shape of f(x): the gradient that arrives from above. f may hand back a view of x, so copy f(x + h)
    before you move x again.
    """
    raise NotWritten
