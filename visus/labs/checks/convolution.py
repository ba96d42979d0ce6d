"""Checks of the lab convolution. Its mistakes are those of the lab im2col, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from visus.foundations import convolution as C
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Mistake, Module, Pace, Part, Shown, Tiles

Array = np.ndarray


def _out(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    return C.convolution_forward(x, w, b, stride, padding)[0]


def _grads(x: Array, w: Array, b: Array, stride: int, padding: int, dout: Array) -> tuple[Array, Array, Array]:
    return C.convolution_backward(dout, C.convolution_forward(x, w, b, stride, padding)[1])


def _cropped(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    """The padding only at the bottom and on the right."""
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2 * padding), (0, 2 * padding)))
    return _out(padded, w, b, stride, 0)


def _overwritten(x: Array, w: Array, b: Array, stride: int, padding: int, dout: Array) -> Array:
    """dx where each window overwrites what others put there."""
    padded = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding))
    for n, f, i, j in np.ndindex(dout.shape):
        top, left = i * stride, j * stride
        padded[n, :, top:top + w.shape[2], left:left + w.shape[3]] = dout[n, f, i, j] * w[f]
    return padded[:, :, padding:padding + x.shape[2], padding:padding + x.shape[3]]


def make(n: int, c: int, side: tuple[int, int], f: int, kernel: int, stride: int, padding: int, *,
         dout: bool = False) -> Callable[[np.random.Generator], Inputs]:
    """Inputs of a convolution; also for the lab im2col."""
    def inputs(rng: np.random.Generator) -> Inputs:
        found: dict[str, Any] = {"x": rng.normal(size=(n, c, *side)), "w": rng.normal(size=(f, c, kernel, kernel)),
                                 "b": rng.normal(size=f), "stride": stride, "padding": padding}
        size = [C.output_size(s, kernel, stride, padding) for s in side]
        return found | ({"dout": rng.normal(size=(n, f, *size))} if dout else {})

    return inputs


def _sizes(size: int, kernel: int, stride: int, padding: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"size": size, "kernel": kernel, "stride": stride, "padding": padding}


def cases(dout: bool) -> tuple[Case, ...]:
    """Stride and padding, none of them, a window that leaves a rest."""
    return (Case("2 images of 3 x 5 x 5, 4 filters of 3 x 3, stride 1, padding 1",
                 make(2, 3, (5, 5), 4, 3, 1, 1, dout=dout), {2: "the number of images"}),
            Case("2 images of 2 x 6 x 7, 3 filters of 3 x 3, stride 2, no padding",
                 make(2, 2, (6, 7), 3, 3, 2, 0, dout=dout), {2: "the number of images"}),
            Case("1 image of 2 x 5 x 4, 2 filters of 2 x 2, stride 2, padding 1",
                 make(1, 2, (5, 4), 2, 2, 2, 1, dout=dout)))


FORWARD_MISTAKES = (
    Mistake("b is missing", lambda x, w, b, s, p: _out(x, w, 0 * b, s, p)),
    Mistake("b is added once for each channel: once for each output", lambda x, w, b, s, p:
            _out(x, w, x.shape[1] * b, s, p)),
    Mistake("The filter is flipped: what networks call convolution does not flip it",
            lambda x, w, b, s, p: _out(x, w[:, :, ::-1, ::-1], b, s, p)),
    Mistake("The filter is transposed: its rows go with the rows of the image",
            lambda x, w, b, s, p: _out(x, w.swapaxes(2, 3), b, s, p)),
    Mistake("The padding is only on two sides: it belongs on all four", _cropped),
    Mistake("The padding is left out", lambda x, w, b, s, p: _out(x, w, b, s, 0)),
    Mistake("The padding is off by one", lambda x, w, b, s, p: _out(x, w, b, s, p + 1)),
    Mistake("The stride is left out: the window begins at stride * i", lambda x, w, b, s, p: _out(x, w, b, 1, p)),
    Mistake("The window begins at i, not at stride * i", lambda x, w, b, s, p:
            _out(x, w, b, 1, p)[:, :, :C.output_size(x.shape[2], w.shape[2], s, p),
                                :C.output_size(x.shape[3], w.shape[3], s, p)]),
    Mistake("Only the first channel is used: sum over all channels",
            lambda x, w, b, s, p: _out(x[:, :1], w[:, :1], b, s, p)),
    Mistake("It pads with the pixels of the border, not with zeros", lambda x, w, b, s, p:
            _out(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), mode="edge"), w, b, s, 0)),
)
BACKWARD_MISTAKES = (
    Mistake("Windows overwrite what others put into dx: add (+=), they overlap", lambda *i: (_overwritten(*i), None,
                                                                                             None)),
    Mistake("db is averaged: it is the sum of dout over images and places", lambda x, w, b, s, p, dout: (
        None, None, dout.mean(axis=(0, 2, 3)))),
    Mistake("db is summed over places only: over images too", lambda x, w, b, s, p, dout: (
        None, None, dout.sum(axis=(2, 3)))),
    Mistake("dw uses the image without its padding in the wrong place: cut windows from the padded image",
            lambda x, w, b, s, p, dout: (None, _grads(np.roll(x, (p, p), (2, 3)), w, b, s, p, dout)[1], None)),
    Mistake("dx is still padded: cut `padding` off on each side", lambda x, w, b, s, p, dout: (
        _grads(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), w, b, s, 0, dout)[0], None, None)),
    Mistake("dx: the filter is flipped", lambda x, w, b, s, p, dout: (
        _grads(x, w[:, :, ::-1, ::-1], b, s, p, dout)[0], None, None)),
    Mistake("dw holds the last image only: add over images", lambda x, w, b, s, p, dout: (
        None, _grads(x[-1:], w, b, s, p, dout[-1:])[1], None)),
)
EDGES = {"across": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "down": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
         "blur": [[1, 2, 1], [2, 4, 2], [1, 2, 1]], "corners": [[0, 1, 0], [1, -4, 1], [0, 1, 0]]}


def enlarged(image: Array, times: int) -> Array:
    """[H, W] as [times H, times W], straight lines between the pixels."""
    for axis in (0, 1):
        size = image.shape[axis]
        places = (np.arange(times * size) + 0.5) / times - 0.5
        rows = np.moveaxis(image, axis, -1)
        image = np.moveaxis(np.stack([np.interp(places, np.arange(size), row) for row in rows]), -1, axis)
    return image


def drawn(forward: Callable[..., Any], digits: Digits, words: str) -> Shown:
    """Four known filters over three digits by the person's forward function; also for the lab im2col."""
    images = np.stack([enlarged(digits.train[0][digits.train[1] == label][0], 4) for label in (3, 4, 8)])[:, None]
    w = np.array(list(EDGES.values()), float)[:, None]
    out = forward(images, w, np.zeros(4), 1, 1)[0]
    right = C.convolution_forward(images, w, np.zeros(4), 1, 1)[0]
    error = float(np.abs(out - right).max()) if out.shape == right.shape else float("inf")
    flat = forward(np.ones((1, 1, 8, 8)), w[:2], np.zeros(2), 1, 0)[0]
    return Shown(words, (
        Tiles("Three digits, and what your filters make of them", "Blue below 0, red above: the Sobel filters across "
              "and down answer to edges, the last to corners and ends.",
              [tile for n in range(3) for tile in (("image", images[n, 0]),
                                                   *((name, out[n, k]) for k, name in enumerate(EDGES)))],
              signed=True, across=5),),
        (Fact("largest difference from the foundations' maps", f"{error:.1e}", "below 1e-12", error < 1e-12),
         Fact("answer of the edge filters to an even image", f"{float(np.abs(flat).max()):.1e}", "0",
              float(np.abs(flat).max()) < 1e-12)))


def _draw(my: Module, digits: Digits) -> Shown:
    return drawn(my.conv_forward, digits, "Your convolution, with four filters that are known since long before "
                 "networks "
                 "learnt theirs, over three digits, enlarged to 32 x 32 pixels.")


LAB = Lab(
    name="convolution", number=12, title="Convolution", teaches="the definition by loops, its gradients by loops",
    source="Stanford CS231n, assignment 2, Q4",
    parts=(
        Part(name="output_size", outputs=("size",), right=C.output_size, whole=True,
             cases=tuple(Case(f"size {n}, kernel {k}, stride {s}, padding {p}", _sizes(n, k, s, p))
                         for n, k, s, p in ((7, 3, 1, 1), (8, 3, 2, 0), (227, 11, 4, 0), (5, 5, 3, 2), (6, 2, 2, 0))),
             mistakes=(Mistake("The + 1 is missing: the window fits once before the first step",
                               lambda n, k, s, p: (n + 2 * p - k) // s),
                       Mistake("The padding counts twice, once on each side", lambda n, k, s, p: (n + p - k) // s + 1),
                       Mistake("It is rounded up: the last window must fit, //",
                               lambda n, k, s, p: -(-(n + 2 * p - k) // s) + 1),
                       Mistake("It is divided by the stride after the + 1", lambda n, k, s,
                               p: (n + 2 * p - k + 1) // s))),
        Part(name="conv_forward", outputs=("out",), cached=True, right=_out, cases=cases(False),
             mistakes=FORWARD_MISTAKES, pace=Pace(make(2, 3, (12, 12), 4, 3, 1, 1))),
        Part(name="conv_backward", outputs=("dx", "dw", "db"), forward="conv_forward", right=_grads, cases=cases(True),
             mistakes=BACKWARD_MISTAKES, pace=Pace(make(2, 3, (12, 12), 4, 3, 1, 1, dout=True))),
    ),
    draw=_draw)
