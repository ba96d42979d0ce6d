"""Backpropagation through a convolution, ReLU and max-pooling, on numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations.convolution import (
    convolution_backward,
    convolution_forward,
    max_pool_backward,
    max_pool_forward,
)
from visus.foundations.gradient_check import check_gradient
from visus.foundations.layers import relu_backward, relu_forward
from visus.report.demo import Drawing, Fact, Shown, below, same
from visus.report.sketch import arrow, grid, sheet, words
from visus.run.demo import Tell

TOPIC = "gradients"
SUMMARY = "the backward pass of convolution, ReLU and max-pooling on a 5 x 5 image, number by number"
SOURCE = ("Stanford CS231n, assignment 2 and notes on convolutional networks; Dumoulin and Visin, arXiv:1603.07285, "
          "section 4; LeCun et al., Neural Computation 1 (1989)")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x, w, upstream = _numbers(rng)
    convolved, conv_cache = convolution_forward(x, w, np.zeros(1))
    rectified, relu_cache = relu_forward(convolved)
    pooled, pool_cache = max_pool_forward(rectified, 2, 2)
    advance(1, 3)
    to_rectified = max_pool_backward(upstream, pool_cache)
    to_convolved = relu_backward(to_rectified, relu_cache)
    dx, dw, db = convolution_backward(to_convolved, conv_cache)
    advance(2, 3)

    facts = _facts(rng, x, w, upstream, to_rectified, to_convolved, dx, dw, db, rectified)
    advance(3, 3)
    forward = [("image x", x, None), ("conv with w", convolved, "\u2217 w"), ("ReLU", rectified, "max(0, .)"),
               ("max-pool 2 x 2", pooled, "max")]
    backward = [("dx", dx, None), ("d conv", to_convolved, "\u2217 turned w"), ("d ReLU", to_rectified, "0 where <= 0"),
                ("upstream", upstream, "to the winner")]
    return Shown(
        "Backpropagation through a convolution and a max-pooling",
        "Forwards: a 2 x 2 filter over a 5 x 5 image, ReLU, the maximum of each 2 x 2 block. Backwards, from right to "
        "left: each upstream number goes to the place that won its block, and to no other; ReLU lets it pass where "
        "its input was above zero; the convolution spreads it over the window that it came from, times the filter.\n\n"
        "The last step is itself a convolution: with the filter turned by 180 degrees, over the gradient padded by "
        "k - 1. The gradient of the filter is one too: the image correlated with the gradient of the map. The gradient "
        "of the bias is the sum of that gradient.",
        [Drawing(_chain(forward, "edge first"), "Each array with the step that made it.", "Forwards", wide=True),
         Drawing(_chain(backward, "edge second", back=True), "The gradient of each array, of the same shape as above. "
                 "Zeros are places that did not matter.", "Backwards", wide=True),
         Drawing(_filters(x, w, to_convolved, dw), "Entry (p, q) of dw is the sum over the map of gradient times the "
                 "pixel p below and q right of it.", "The filter's gradient"),
         Drawing(_spread(w, to_convolved, dx), "The gradient of the map, padded by one, correlated with the turned "
                 "filter.", "The image's gradient")],
        facts)


def _numbers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, drawn again until no block is a tie and none of the ReLUs stands at its kink."""
    while True:
        x = rng.integers(-3, 6, (1, 1, 5, 5)).astype(float)
        w = rng.integers(-2, 3, (1, 1, 2, 2)).astype(float)
        upstream = rng.choice([-2.0, -1, 1, 2, 3], (1, 1, 2, 2))
        out, _ = convolution_forward(x, w, np.zeros(1))
        blocks = np.sort(np.maximum(0, out).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4))
        if (blocks[:, -1] > blocks[:, -2]).all() and (out != 0).all() and np.abs(out).max() < 20 and w.all():
            return x, w, upstream


def _facts(rng: np.random.Generator, x: np.ndarray, w: np.ndarray, upstream: np.ndarray, to_rectified: np.ndarray,
           to_convolved: np.ndarray, dx: np.ndarray, dw: np.ndarray, db: np.ndarray, rectified: np.ndarray
           ) -> list[Fact]:
    def network(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return max_pool_forward(np.maximum(0, convolution_forward(image, kernel, np.zeros(1))[0]), 2, 2)[0]

    image, kernel = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    F.max_pool2d(F.relu(F.conv2d(image, kernel, bias)), 2).backward(torch.tensor(upstream))
    assert image.grad is not None and kernel.grad is not None and bias.grad is not None
    theirs = [(image.grad.numpy(), dx), (kernel.grad.numpy(), dw), (bias.grad.numpy(), db)]

    spread = convolution_forward(np.pad(to_convolved, ((0, 0), (0, 0), (1, 1), (1, 1))), w[:, :, ::-1, ::-1],
                                 np.zeros(1))[0]
    correlated = convolution_forward(x, to_convolved, np.zeros(1))[0]
    winners = int(np.count_nonzero(to_rectified))
    return [
        below("all three gradients against torch's, largest difference",
              float(max(np.abs(a - b).max() for a, b in theirs)), 1e-12),
        below("dx against centred differences, largest relative error",
              check_gradient(lambda v: network(v, w), x, dx, upstream, rng=rng, entries=25, floor=1e-2).error, 1e-7),
        below("dw against centred differences",
              check_gradient(lambda v: network(x, v), w, dw, upstream, rng=rng, floor=1e-2).error, 1e-7),
        below("dx against a full correlation with the turned filter", float(np.abs(spread - dx).max()), 1e-12),
        below("dw against the correlation of the image with the gradient of the map",
              float(np.abs(correlated - dw).max()), 1e-12),
        same("db against the sum of the gradient of the map", float(db[0]), float(to_convolved.sum())),
        same("places of 16 that the max-pooling gives a gradient: one a block", winners, 4),
        same("sum of what it gives against the sum of the upstream gradient", float(to_rectified.sum()),
             float(upstream.sum())),
    ]


def _number(value: float) -> str:
    return f"{value:g}"


def _chain(steps: list[tuple[str, np.ndarray, str | None]], kind: str, *, back: bool = False) -> Markup:
    cell, gap, x, parts = 32, 96, 16.0, []
    middle = 44 + 2.5 * cell
    for name, values, step in steps:
        array = values[0, 0]
        side = array.shape[0] * cell
        if step is not None:
            ends = (x - 12, x - gap + 12) if back else (x - gap + 12, x - 12)
            parts += [arrow(ends[0], middle, ends[1], middle, kind), words(step, x - gap / 2, middle - 8, "middle")]
        top = middle - side / 2
        parts += [grid(array, x, top, cell, form=_number), words(name, x, top - 9)]
        x += side + gap
    return sheet(x - gap + 40, 60 + 5 * cell, *parts, title="Arrays of a small network")


def _filters(x: np.ndarray, w: np.ndarray, gradient: np.ndarray, dw: np.ndarray) -> Markup:
    cell = 25
    parts = [words("image x", 12, 20), grid(x[0, 0], 12, 28, cell, form=_number), words("\u2217", 144, 96, "label", 18),
             words("d conv", 162, 32), grid(gradient[0, 0], 162, 40, cell, form=_number),
             words("=", 270, 95, "label", 18), words("dw", 292, 58), grid(dw[0, 0], 292, 66, cell, form=_number),
             words("w", 352, 58), grid(w[0, 0], 352, 66, cell, form=_number)]
    return sheet(416, 166, *parts, title="Gradient of the filter")


def _spread(w: np.ndarray, gradient: np.ndarray, dx: np.ndarray) -> Markup:
    cell = 25
    padded, void = np.pad(gradient[0, 0], 1), np.ones((6, 6), bool)
    void[1:5, 1:5] = False
    parts = [words("d conv, padded", 12, 20), grid(padded, 12, 28, cell, form=_number, void=void),
             words("\u2217", 169, 108, "label", 18), words("turned w", 184, 70),
             grid(w[0, 0, ::-1, ::-1], 184, 78, cell, form=_number), words("=", 242, 108, "label", 18),
             words("dx", 262, 32), grid(dx[0, 0], 262, 40, cell, form=_number)]
    return sheet(400, 190, *parts, title="Gradient of the image")
