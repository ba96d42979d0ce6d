"""The transposed convolution: the gradient of a convolution used forwards, and the checkerboard it can draw."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations.convolution import (
    convolution_backward,
    convolution_forward,
    convolution_matrix,
    transposed_convolution_backward,
    transposed_convolution_forward,
)
from visus.foundations.gradient_check import check_gradient
from visus.foundations.upsampling import bed_of_nails_forward, resize_forward
from visus.report.demo import Drawing, Fact, Shown, Table, above, below, same
from visus.report.sketch import arrow, bounds, grid, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "pooling and upsampling"
SUMMARY = "the transposed convolution as a gradient run forwards, and where checkerboards come from"
SOURCE = ("Dumoulin and Visin, arXiv:1603.07285, section 4; Odena, Dumoulin, Olah, Deconvolution and checkerboard "
          "artifacts, Distill 2016 (doi 10.23915/distill.00003); Zeiler et al., CVPR 2010")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    facts = _identities(rng)
    advance(1, 2)
    counts = {(kernel, stride): _overlaps(kernel, stride) for kernel in range(2, 8) for stride in (2, 3)}
    even = sorted((k, s) for (k, s), count in counts.items() if np.ptp(_inner(count, k)) == 0)
    uneven, level = counts[3, 2], counts[4, 2]
    painted = {name: _painted(rng, kernel) for name, kernel in (("kernel 3, stride 2", 3), ("kernel 4, stride 2", 4))}
    resized = _resized(rng)
    facts += [
        same("kernels 2 to 7 with strides 2 and 3 whose overlaps are even: those that the stride divides", even,
             [(2, 2), (3, 3), (4, 2), (6, 2), (6, 3)]),
        same("kernel 3, stride 2 in the plane: most and fewest values that meet in an inner place",
             [int(_inner(uneven, 3).max()), int(_inner(uneven, 3).min())], [4, 1]),
        same("kernel 4, stride 2", [int(_inner(level, 4).max()), int(_inner(level, 4).min())], [4, 4]),
        above("random positive weights on a flat map, kernel 3: strength of the checkerboard",
              _board(painted["kernel 3, stride 2"]), 0.02),
        below("nearest upsampling and a 3 x 3 convolution instead: the same strength", _board(resized), 1e-12),
    ]
    advance(2, 2)
    weights = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    return Shown(
        "Transposed convolution",
        "A convolution is a matrix M; the gradient with respect to its input is M' times the gradient of its output. "
        "Used forwards, M' makes a small map large: each value is multiplied by the whole filter, and the copies are "
        "laid down a stride apart and added where they overlap. It is not the inverse of the convolution. It equals an "
        "ordinary convolution over the values spread apart by zeros, with the filter turned by 180 degrees.\n\n"
        "Where the stride does not divide the kernel, some places collect more copies than others, in the pattern of a "
        "checkerboard. Weights can learn to balance that, but start from it. A kernel that is a multiple of the "
        "stride, or enlarging by interpolation first, avoids it.",
        [Drawing(_stamp(weights), "Two values, each stamped with the filter, two places apart; what overlaps adds up.",
                 "Stamping", wide=True),
         Drawing(_counts(uneven), "How many copies meet in each place: 4, 2 and 1 in turn.", "Kernel 3, stride 2"),
         Drawing(_counts(level), "The stride divides the kernel: 4 everywhere inside.", "Kernel 4, stride 2"),
         Drawing(_maps({**painted, "nearest, then conv 3": resized}), "A flat map of ones through random positive "
                 "weights. Only what changes from place to place can be seen.", "What becomes of a flat map",
                 wide=True),
         Drawing(plot([(f"kernel {kernel}", [(float(i), float(v)) for i, v in enumerate(_line(kernel))])
                       for kernel in (3, 4, 5)], x_label="place", y_label="copies that meet", width=520,
                      ranges=(None, None, 0, None), title="Overlaps along a line"),
                 "Along a line, stride 2: kernels 3 and 5 go up and down, 4 does not.", "Along a line")],
        facts, [_sizes()])


def _identities(rng: np.random.Generator) -> list[Fact]:
    x, w = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(3, 2, 3, 3))
    out, cache = transposed_convolution_forward(x, w, np.zeros(2), stride=2, padding=1)
    theirs = F.conv_transpose2d(torch.tensor(x), torch.tensor(w), stride=2, padding=1).numpy()
    _, conv_cache = convolution_forward(rng.normal(size=out.shape), w, np.zeros(3), stride=2, padding=1)
    gradient = convolution_backward(x, conv_cache)[0]
    matrix = convolution_matrix(w, out.shape[2:], stride=2, padding=1)
    spread = bed_of_nails_forward(x, 2)[0][:, :, :-1, :-1]  # zeros between, none after the last
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    ordinary = convolution_forward(spread, turned, np.zeros(2), padding=1)[0]
    upstream = rng.normal(size=out.shape)
    dx, dw, _ = transposed_convolution_backward(upstream, cache)
    b = np.zeros(2)
    other = rng.normal(size=out.shape)
    inner = float(np.sum(convolution_forward(other, w, np.zeros(3), stride=2, padding=1)[0] * x) - np.sum(other * out))
    back = convolution_forward(out, w, np.zeros(3), stride=2, padding=1)[0]
    return [
        below("against torch, largest difference", float(np.abs(out - theirs).max()), 1e-12),
        below("against the gradient of the convolution with the same filters",
              float(np.abs(out - gradient).max()), 1e-12),
        below("against the transpose of the convolution's matrix",
              float(np.abs(matrix.T @ x[0].ravel() - out[0].ravel()).max()), 1e-12),
        below("against a convolution of the spread values with the turned filter",
              float(np.abs(ordinary - out).max()), 1e-12),
        below("<conv(a), b> = <a, transposed(b)>: difference of the inner products", abs(inner), 1e-10),
        below("its own gradients against differences, relative error", max(
            check_gradient(lambda v: transposed_convolution_forward(v, w, b, 2, 1)[0], x, dx, upstream, rng=rng,
                           floor=1e-4).error,
            check_gradient(lambda v: transposed_convolution_forward(x, v, b, 2, 1)[0], w, dw, upstream, rng=rng,
                           floor=1e-4).error), 1e-7),
        above("it does not invert: |conv(transposed(x)) - x| / |x|",
              float(np.linalg.norm(back - x) / np.linalg.norm(x)), 0.1),
    ]


def _overlaps(kernel: int, stride: int, size: int = 6) -> np.ndarray:
    """How many values meet in each place: a transposed convolution of ones by ones."""
    ones = np.ones((1, 1, size, size))
    return transposed_convolution_forward(ones, np.ones((1, 1, kernel, kernel)), np.zeros(1), stride)[0][0, 0]


def _inner(values: np.ndarray, rim: int) -> np.ndarray:
    return values[rim:-rim, rim:-rim]


def _line(kernel: int) -> np.ndarray:
    ones = np.ones((1, 1, 1, 9))
    return transposed_convolution_forward(ones, np.ones((1, 1, 1, kernel)), np.zeros(1), 2)[0][0, 0, 0]


def _painted(rng: np.random.Generator, kernel: int) -> np.ndarray:
    """A flat map of 8 channels through a transposed convolution of stride 2 with positive random weights."""
    weights = rng.uniform(0.5, 1.5, size=(8, 1, kernel, kernel))
    out = transposed_convolution_forward(np.ones((1, 8, 9, 9)), weights, np.zeros(1), 2)[0][0, 0]
    return _inner(out, kernel) / _inner(out, kernel).mean()


def _resized(rng: np.random.Generator) -> np.ndarray:
    larger = resize_forward(np.ones((1, 8, 9, 9)), (18, 18), "nearest")[0]
    out = convolution_forward(larger, rng.uniform(0.5, 1.5, size=(1, 8, 3, 3)), np.zeros(1))[0][0, 0]
    return _inner(out, 2) / out.mean()


def _board(values: np.ndarray) -> float:
    """The variance between the four places of a 2 x 2 block over the squared mean."""
    blocks = [values[i::2, j::2].mean() for i in range(2) for j in range(2)]
    return float(np.var(blocks) / values.mean() ** 2)


def _sizes() -> Table:
    rows: list[list[str | int]] = []
    for kernel, stride in ((2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3)):
        inner = _inner(_overlaps(kernel, stride), kernel)
        rows.append([f"{kernel} x {kernel}, stride {stride}", int(inner.max()), int(inner.min()),
                     "even" if np.ptp(inner) == 0 else "checkerboard"])
    return Table("Copies that meet", ["filter", "most", "fewest", ""], rows)


def _stamp(weights: np.ndarray) -> Markup:
    cell, values = 28, (1.0, 3.0)
    total = np.zeros((3, 5))
    total[:, :3] += values[0] * weights
    total[:, 2:] += values[1] * weights
    y = 36
    parts = [words("values", 14, 26), grid(np.array([values]), 14, y + cell, cell, most=16), words("filter", 104, 26),
             grid(weights, 104, y, cell, most=16), arrow(196, y + 42, 226, y + 42), words("1 x filter", 240, 26),
             grid(values[0] * weights, 240, y, cell, most=16), words("+  3 x filter, 2 on", 346, 26),
             grid(values[1] * weights, 380, y, cell, most=16), words("+", 350, y + 46, "label", 16),
             words("=", 482, y + 46, "label", 16), words("sum", 506, 26), grid(total, 506, y, cell, most=16),
             bounds(506 + 2 * cell, y, 1, 3, cell, "hollow second")]
    return sheet(666, 140, *parts, title="A transposed convolution stamps its filter")


def _counts(values: np.ndarray) -> Markup:
    cell = 24
    return sheet(28 + cell * values.shape[1], 28 + cell * values.shape[0], grid(values, 14, 14, cell),
                 title="Copies that meet in each place")


def _maps(found: dict[str, np.ndarray]) -> Markup:
    cell, x, parts, tallest = 14, 14.0, [], 0.0
    for name, values in found.items():
        parts += [words(name, x, 22), grid(values - 1, x, 32, cell, form=None, most=0.6)]
        x += values.shape[1] * cell + 40
        tallest = max(tallest, values.shape[0] * cell)
    return sheet(x, 46 + tallest, *parts, title="Flat maps after upsampling")
