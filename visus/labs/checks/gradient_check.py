"""Checks of the lab gradient_check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import gradient_check as G
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Shown

F = Callable[[np.ndarray], Any]


def _forward(f: F, x: np.ndarray, h: float) -> np.ndarray:
    return G.forward_difference(f, x, h=h)


def _centred(f: F, x: np.ndarray, h: float) -> np.ndarray:
    return G.centred_difference(f, x, h=h)


def _along(f: F, x: np.ndarray, dout: np.ndarray, h: float) -> np.ndarray:
    return G.centred_difference(f, x, dout, h=h)


def _not_restored(f: F, x: np.ndarray, h: float) -> np.ndarray:
    """Each entry stays moved while the next is tried."""
    out, x = np.empty_like(x), x.copy()
    for index in np.ndindex(x.shape):
        out[index] = G.centred_difference(f, x, h=h)[index]
        x[index] -= h
    return out


def _all_at_once(f: F, x: np.ndarray, h: float) -> np.ndarray:
    return np.full_like(x, (f(x + h) - f(x - h)) / (2 * h))


def _viewed(share: float, f: F, x: np.ndarray, dout: np.ndarray, h: float) -> np.ndarray:
    return (share if np.may_share_memory(f(x), x) else 1.0) * _along(f, x, dout, h)


def _wave(rng: np.random.Generator) -> Inputs:
    a = rng.normal(size=(3, 4))
    return {"f": lambda x: float(np.sum(np.sin(x) * a) + x[0, 0] * x[1, 1] ** 2), "x": rng.normal(size=(3, 4)),
            "h": 0.01}


def _cube(rng: np.random.Generator) -> Inputs:
    return {"f": lambda x: float((x ** 3).sum() * x[0]), "x": rng.normal(size=5), "h": 0.01}


def _layer(rng: np.random.Generator) -> Inputs:
    w = rng.normal(size=(3, 2))
    return {"f": lambda x: np.tanh(x @ w), "x": rng.normal(size=(4, 3)), "dout": rng.normal(size=(4, 2)), "h": 0.01}


def _identity(rng: np.random.Generator) -> Inputs:
    return {"f": lambda x: x.reshape(6), "x": rng.normal(size=(2, 3)), "dout": rng.normal(size=6), "h": 0.01}


CASES = (Case("a function of 3 x 4 numbers, h = 0.01", _wave), Case("a function of 5 numbers, h = 0.01", _cube))


def _draw(my: Module, digits: Digits) -> Shown:
    x = np.array([0.7, -1.3])
    exact = np.array([np.cos(0.7) * np.exp(-1.3), np.sin(0.7) * np.exp(-1.3)])

    def f(v: np.ndarray) -> float:
        return float(np.sin(v[0]) * np.exp(v[1]))

    steps = [10.0 ** power for power in np.arange(-12, 0.01, 0.5)]
    errors = {name: [(float(np.log10(h)), my.relative_error(getattr(my, f"{name}_difference")(f, x.copy(), h), exact))
                     for h in steps] for name in ("forward", "centred")}
    best = {name: min(points, key=lambda point: point[1]) for name, points in errors.items()}
    return Shown(
        "The gradient of sin(a) e^b at one place, by your differences, against the formula. Too large a step, and the "
        "curve bends; too small, and f(x + h) - f(x) is rounding.",
        (Lines("Relative error by the size of the step", "Both axes by powers of ten.", "power of ten of h",
               {name: [(x, max(y, 1e-16)) for x, y in points] for name, points in errors.items()}),),
        (Fact("the best step forwards", f"h = 1e{best['forward'][0]:.1f}", "near 1e-8: the root of the precision",
              -10 <= best["forward"][0] <= -6),
         Fact("the best step to both sides", f"h = 1e{best['centred'][0]:.1f}, error {best['centred'][1]:.1e}",
              "near 1e-5, with an error below 1e-9", -7 <= best["centred"][0] <= -3.5 and best["centred"][1] < 1e-9)))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-8)


LAB = Lab(
    name="gradient_check", number=5, title="Gradient checking",
    teaches="numeric gradients, their error, relative errors", source="Stanford CS231n, neural networks part 3",
    parts=(
        Part(name="forward_difference", outputs=("gradient",), right=_forward, cases=CASES, tolerance=1e-9,
             mistakes=(Mistake("It is not divided by h", lambda f, x, h: _forward(f, x, h) * h),
                       Mistake("It is divided by 2 h: that belongs to the centred difference",
                               lambda f, x, h: _forward(f, x, h) / 2),
                       Mistake("This is the centred difference", _centred),
                       Mistake("It steps backwards: f(x + h) - f(x)", lambda f, x, h: 2 * _centred(f, x, h) -
                               _forward(f, x, h)),
                       Mistake("All entries are moved at once: move one, put it back, move the next",
                               lambda f, x, h: np.full_like(x, (f(x + h) - f(x)) / h)))),
        Part(name="centred_difference", outputs=("gradient",), right=_centred, cases=CASES, tolerance=1e-9,
             mistakes=(Mistake("It is divided by h: the two points lie 2 h apart", lambda f, x, h: 2 * _centred(f, x,
                                                                                                                h)),
                       Mistake("It is not divided by 2 h", lambda f, x, h: 2 * h * _centred(f, x, h)),
                       Mistake("This is the forward difference: step to both sides", _forward),
                       Mistake("Entries stay moved while the next ones are tried: put each back", _not_restored),
                       Mistake("All entries are moved at once: move one, put it back, move the next", _all_at_once),
                       Mistake("It is f(x - h) - f(x + h): the other way round", lambda f, x, h: -_centred(f, x, h)))),
        Part(name="relative_error", outputs=("error",), right=G.relative_error,
             cases=(Case("two arrays of 3 x 4", lambda rng: {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(3,
                                                                                                                 4))}),
                    Case("two pairs, the first of which is off", lambda rng: {"a": np.array([1.0, 2.0]),
                                                                              "b": np.array([3.0, 1.9])}),
                    Case("two arrays of zeros", lambda rng: {"a": np.zeros(3), "b": np.zeros(3)}),
                    Case("entries of 1e-12", lambda rng: {"a": np.array([1e-12, 1.0]), "b": np.array([-1e-12, 1.0])})),
             mistakes=(Mistake("It is the mean, or the norm, over all entries: one wrong entry must not hide among "
                               "many",
                               lambda a, b: _ratio(a, b).mean()),
                       Mistake("It is the largest difference: divide it by the size of the numbers",
                               lambda a, b: np.abs(a - b).max()),
                       Mistake("It is divided by the larger of the two, not by |a| + |b|", lambda a, b: (
                           np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-8)).max()),
                       Mistake("0 is divided by 0: take max(|a| + |b|, 1e-8)",
                               lambda a, b: (np.abs(a - b) / (np.abs(a) + np.abs(b))).max()),
                       Mistake("1e-8 is added, where it is to be the least divisor: max(|a| + |b|, 1e-8)",
                               lambda a, b: (np.abs(a - b) / (np.abs(a) + np.abs(b) + 1e-8)).max()),
                       Mistake("The absolute values of the difference are missing", lambda a, b: (
                           (a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-8)).max()))),
        Part(name="centred_along", outputs=("gradient",), right=_along, tolerance=1e-9,
             cases=(Case("a layer of 4 x 3 to 4 x 2", _layer), Case("a layer that hands back a view of x", _identity)),
             mistakes=(Mistake("dout is left out: multiply what f changes by with it before the sum",
                               lambda f, x, dout, h: _along(f, x, np.ones_like(dout), h)),
                       Mistake("It is divided by h: the two points lie 2 h apart",
                               lambda f, x, dout, h: 2 * _along(f, x, dout, h)),
                       *(Mistake("f(x + h) is a view of x, which moved on: copy it", partial(_viewed, share))
                         for share in (0.0, 0.5)))),
    ),
    draw=_draw)
