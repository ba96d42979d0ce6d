"""Checks of the lab max_pooling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations import convolution as C
from visus.labs.contract import (
    Case,
    Digits,
    Fact,
    Inputs,
    Lab,
    Mistake,
    Module,
    Pace,
    Part,
    Shown,
    Tiles,
    through,
    without_cache,
)

Array = np.ndarray


def _windows(x: Array, size: int, stride: int) -> Array:
    """[N, C, OH, OW, size, size]"""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]


def _spread(x: Array, size: int, stride: int, dout: Array, *, shared: bool = False, add: bool = True,
            every: bool = False, last: bool = False) -> Array:
    """The backward pass with its typical mistakes: each window's gradient to its largest entries."""
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dout.shape):
        place = (n, c, slice(i * stride, i * stride + size), slice(j * stride, j * stride + size))
        window = x[place]
        best = np.ones_like(window, bool) if every else window == window.max()
        if last:
            best = np.zeros_like(best)
            best.flat[window.size - 1 - window.ravel()[::-1].argmax()] = True
        part = best * dout[n, c, i, j] / (best.sum() if shared else 1)
        if add:
            dx[place] += part
        else:
            dx[place] = np.where(best, part, dx[place])
    return dx


def _make(shape: tuple[int, ...], size: int, stride: int | None, *, dout: bool = False,
          whole: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        x = rng.integers(3, size=shape).astype(float) if whole else rng.normal(size=shape) - 3
        inputs = {"x": x, "size": size} | ({} if stride is None else {"stride": stride})
        if dout and stride is not None:
            inputs["dout"] = rng.normal(size=_windows(x, size, stride).shape[:4])
        return inputs

    return make


BACK = (Case("2 images of 3 x 4 x 6, windows of 2 side by side", _make((2, 3, 4, 6), 2, 2, dout=True)),
        Case("2 images of 2 x 7 x 5, windows of 3 that overlap", _make((2, 2, 7, 5), 3, 2, dout=True)),
        Case("2 images of 2 x 4 x 4 with equal entries", _make((2, 2, 4, 4), 2, 2, dout=True, whole=True)))


def _draw(my: Module, digits: Digits) -> Shown:
    image = np.kron(digits.train[0][1], np.ones((4, 4)))[None, None]
    out, cache = my.max_pool_forward(image, 4, 4)
    rng = np.random.Generator(np.random.PCG64(0))
    rough = image + 0.3 * rng.random(image.shape)
    pooled, kept = my.max_pool_forward(rough, 4, 4)
    dx = my.max_pool_backward(np.ones_like(pooled), kept)
    moved = my.max_pool_forward(np.roll(image, 1, axis=3), 4, 4)[0]
    same = float((moved == out).mean())
    total = float(dx.sum())
    return Shown(
        "A digit of 32 x 32 pixels through your pooling with windows of 4 x 4, and where the gradient goes.",
        (Tiles("Pooled", "The image with noise, and the largest of each window.",
               [("image", rough[0, 0]), ("pooled", pooled[0, 0])], grey=True),
         Tiles("The gradient for dout = 1", "Only the winners get it: one pixel a window.", [("dx", dx[0, 0])])),
        (Fact("sum of dx for dout = 1", f"{total:g}", "64, the number of windows", total == 64),
         Fact("pixels that get a gradient", f"{int((dx != 0).sum())}", "64", int((dx != 0).sum()) == 64),
         Fact("outputs that stay the same when the digit moves by one pixel", f"{same:.0%}", "at least half",
              same >= 0.5)))


LAB = Lab(
    name="max_pooling", number=13, title="Max pooling", teaches="the largest of each window, and who gets its gradient",
    source="Stanford CS231n, assignment 2, Q4",
    parts=(
        Part(name="max_pool_forward", outputs=("out",), cached=True, right=without_cache(C.max_pool_forward),
             cases=(Case("2 images of 3 x 4 x 6, windows of 2", _make((2, 3, 4, 6), 2, 2)),
                    Case("2 images of 2 x 7 x 5, windows of 3 that overlap", _make((2, 2, 7, 5), 3, 2)),
                    Case("1 image of 1 x 6 x 6, windows of 2, stride 3", _make((1, 1, 6, 6), 2, 3))),
             mistakes=(Mistake("It is the mean of each window, not the largest",
                               lambda x, k, s: _windows(x, k, s).mean(axis=(4, 5))),
                       Mistake("It begins at 0, so that windows of negative numbers give 0: begin with the first entry",
                               lambda x, k, s: np.maximum(_windows(x, k, s).max(axis=(4, 5)), 0)),
                       Mistake("The stride is taken for the size of the window",
                               lambda x, k, s: _windows(x, s, s).max(axis=(4, 5))),
                       Mistake("The windows lie side by side: they begin at stride * i, not at size * i",
                               lambda x, k, s: _windows(x, k, k).max(axis=(4, 5))),
                       Mistake("The largest is taken over channels, too: each channel for itself", lambda x, k, s:
                               np.broadcast_to(_windows(x, k, s).max(axis=(1, 4, 5))[:, None],
                                               _windows(x, k, s).shape[:4])))),
        Part(name="max_pool_backward", outputs=("dx",), forward="max_pool_forward", cases=BACK,
             right=through(C.max_pool_forward, C.max_pool_backward),
             mistakes=(Mistake("The gradient is shared by the entries that are equal: all of it goes to the first",
                               partial(_spread, shared=True)),
                       Mistake("Each of the entries that are equal gets the gradient: only the first",
                               lambda *i: _spread(*i)),
                       Mistake("The gradient goes to all of the window: only to the entry that was the largest",
                               partial(_spread, every=True)),
                       Mistake("The gradient is spread evenly over the window: that is mean pooling",
                               partial(_spread, every=True, shared=True)),
                       Mistake("Of equal entries the last gets the gradient: the first", lambda *i: _spread(*i,
                                                                                                            last=True)),
                       Mistake("An entry that wins two windows collects both: add (+=)", lambda *i: _spread(*i,
                                                                                                            add=False)))),
        Part(name="max_pool_fast", outputs=("out",), right=lambda x, size: C.max_pool_forward(x, size, size)[0],
             cases=(Case("2 images of 3 x 4 x 6, windows of 2", _make((2, 3, 4, 6), 2, None)),
                    Case("1 image of 2 x 6 x 9, windows of 3", _make((1, 2, 6, 9), 3, None))),
             mistakes=(Mistake("The axes are split in the wrong order: [N, C, OH, size, OW, size], maximum over 3 and "
                               "5",
                               lambda x, k: x.reshape(*x.shape[:2], k, x.shape[2] // k, k, x.shape[3] // k).max(
                                   axis=(2, 4))),
                       Mistake("It is the mean of each window", lambda x, k: _windows(x, k, k).mean(axis=(4, 5)))),
             pace=Pace(_make((4, 4, 16, 16), 2, None), lambda x, size: _loops(x, size), 5)),
    ),
    draw=_draw)


def _loops(x: Array, size: int) -> Array:
    out = np.zeros((*x.shape[:2], x.shape[2] // size, x.shape[3] // size))
    for n, c, i, j in np.ndindex(out.shape):
        out[n, c, i, j] = x[n, c, i * size:i * size + size, j * size:j * size + size].max()
    return out
