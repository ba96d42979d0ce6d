"""Checks of the lab im2col."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations import convolution as C
from visus.labs.checks import convolution as naive
from visus.labs.contract import Case, Digits, Inputs, Lab, Mistake, Module, Pace, Part, Shown, through, without_cache

Array = np.ndarray


def _columns(x: Array, kernel: int, stride: int, padding: int) -> Array:
    return C.im2col(x, (kernel, kernel), stride, padding)


def _images(columns: Array, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> Array:
    return C.col2im(columns, shape, (kernel, kernel), stride, padding)


def _reordered(x: Array, kernel: int, stride: int, padding: int, rows: tuple[int, ...], columns: tuple[int,
                                                                                                       ...]) -> Array:
    """Windows [N, C, OH, OW, K, K] with the axes `rows` listed in a column, and `columns` over the columns."""
    n, c = x.shape[:2]
    size = [C.output_size(s, kernel, stride, padding) for s in x.shape[2:]]
    windows = _columns(x, kernel, stride, padding).reshape(c, kernel, kernel, n, *size)
    return windows.transpose(*rows, *columns).reshape(c * kernel * kernel, -1)


def _overwritten(columns: Array, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> Array:
    n, c, h, w = shape
    size = [C.output_size(s, kernel, stride, padding) for s in (h, w)]
    parts = columns.reshape(c, kernel, kernel, n, *size).transpose(3, 0, 1, 2, 4, 5)
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    for p in range(kernel):
        for q in range(kernel):
            padded[:, :, p:p + stride * size[0]:stride, q:q + stride * size[1]:stride] = parts[:, :, p, q]
    return padded[:, :, padding:padding + h, padding:padding + w]


def _unmoved(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    out = C.convolution_forward(x, w, b, stride, padding)[0]
    return out.transpose(1, 0, 2, 3).reshape(out.shape)


def _x(*shape: int, kernel: int, stride: int, padding: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"x": rng.normal(size=shape), "kernel": kernel, "stride": stride, "padding": padding}


def _back(*shape: int, kernel: int, stride: int, padding: int) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        columns = _columns(np.zeros(shape), kernel, stride, padding)
        return {"columns": rng.normal(size=columns.shape), "shape": shape, "kernel": kernel, "stride": stride,
                "padding": padding}

    return make


def _loops_forward(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    return C.convolution_naive(x, w, b, stride, padding)


def _loops_backward(x: Array, w: Array, b: Array, stride: int, padding: int, dout: Array) -> tuple[Array, ...]:
    return C.convolution_naive_backward(dout, x, w, stride, padding)


def _draw(my: Module, digits: Digits) -> Shown:
    return naive.drawn(my.conv_forward, digits, "Your convolution by one matrix product, with four known filters over "
                       "three "
                       "digits, enlarged to 32 x 32 pixels.")


LARGE = (2, 6, (16, 16), 8, 3, 1, 1)
LAB = Lab(
    name="im2col", number=15, title="Fast convolution", teaches="windows as columns: one matrix product, and back",
    source="Chellapilla et al. 2006; Stanford CS231n, assignment 2, Q4",
    parts=(
        Part(name="im2col", outputs=("columns",), right=_columns,
             cases=(Case("2 images of 3 x 4 x 5, window 3, stride 1, padding 1", _x(2, 3, 4, 5, kernel=3, stride=1,
                                                                                   padding=1)),
                    Case("2 images of 2 x 6 x 7, window 2, stride 2, no padding", _x(2, 2, 6, 7, kernel=2, stride=2,
                                                                                    padding=0))),
             mistakes=(Mistake("Columns run over places first, then images: images come first",
                               partial(_reordered, rows=(0, 1, 2), columns=(4, 5, 3))),
                       Mistake("A column lists the places first, then channels: channels come first",
                               partial(_reordered, rows=(1, 2, 0), columns=(3, 4, 5))),
                       Mistake("Rows and columns of the window are swapped",
                               partial(_reordered, rows=(0, 2, 1), columns=(3, 4, 5))),
                       Mistake("It is transposed: a window is a column", lambda *i: _columns(*i).T),
                       Mistake("The padding is left out", lambda x, k, s, p: _columns(x, k, s, 0)),
                       Mistake("The stride is left out", lambda x, k, s, p: _columns(x, k, 1, p)))),
        Part(name="col2im", outputs=("images",), right=_images,
             cases=(Case("2 images of 3 x 4 x 5, window 3, stride 1, padding 1", _back(2, 3, 4, 5, kernel=3, stride=1,
                                                                                      padding=1)),
                    Case("2 images of 2 x 6 x 7, window 3, stride 2, no padding", _back(2, 2, 6, 7, kernel=3, stride=2,
                                                                                       padding=0))),
             mistakes=(Mistake("Overlapping windows overwrite each other: add (+=)", _overwritten),
                       Mistake("The result is still padded: cut `padding` off on each side", lambda c, shape, k, s, p:
                               _images(c, (*shape[:2], shape[2] + 2 * p, shape[3] + 2 * p), k, s, 0)),
                       Mistake("Each pixel is divided by the number of its windows: it is the sum, the transpose of "
                               "im2col", lambda c, shape, k, s, p: _images(c, shape, k, s, p) / np.maximum(
                                   _images(np.ones_like(c), shape, k, s, p), 1)))),
        Part(name="conv_forward", outputs=("out",), cached=True, right=without_cache(C.convolution_forward),
             cases=naive.cases(False), pace=Pace(naive.make(*LARGE), _loops_forward, 10),
             mistakes=(Mistake("A reshape does not move the images to the front: [F, N, OH, OW], then transpose",
                               _unmoved),
                       *naive.FORWARD_MISTAKES)),
        Part(name="conv_backward", outputs=("dx", "dw", "db"), forward="conv_forward", cases=naive.cases(True),
             right=through(C.convolution_forward, C.convolution_backward), mistakes=(
                 Mistake("dout is reshaped as it is: move the filters to the front with a transpose first",
                         lambda x, w, b, s, p, dout: (None, None, dout.reshape(len(w), -1).sum(axis=1))),
                 *naive.BACKWARD_MISTAKES), pace=Pace(naive.make(*LARGE, dout=True), _loops_backward, 10)),
    ),
    draw=_draw)
