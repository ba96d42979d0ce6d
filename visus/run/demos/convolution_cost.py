"""Cheaper ways to cover the same window: separable, grouped, asymmetric, stacked and 1 x 1 convolutions."""

from __future__ import annotations

from math import prod

import numpy as np
from markupsafe import Markup

from visus.foundations.convolution import (
    convolution_forward,
    convolution_matrix,
    grouped_convolution_forward,
)
from visus.report.charts import tag, text_width
from visus.report.demo import Drawing, Fact, Shown, Table, above, below, near, same
from visus.report.sketch import plot, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "what separable, grouped, asymmetric, stacked and 1 x 1 convolutions cost and can still say"
SOURCE = ("Howard et al., MobileNets, arXiv:1704.04861, section 3.1; Szegedy et al., arXiv:1512.00567, sections 3.1 "
          "and 3.2; Simonyan and Zisserman, arXiv:1409.1556, section 2.3; Lin et al., arXiv:1312.4400; Xie et al., "
          "arXiv:1611.05431")

CHANNELS, SIDE = 16, 8
Step = tuple[int, int, int, int, int]  # channels in, out, kernel height, width, groups


def make(seed: int, advance: Tell) -> Shown:
    c = CHANNELS
    chains: dict[str, list[Step]] = {
        "7 x 7": [(c, c, 7, 7, 1)],
        "three 3 x 3": [(c, c, 3, 3, 1)] * 3,
        "7 x 1, then 1 x 7": [(c, c, 7, 1, 1), (c, c, 1, 7, 1)],
        "3 x 3": [(c, c, 3, 3, 1)],
        "3 x 1, then 1 x 3": [(c, c, 3, 1, 1), (c, c, 1, 3, 1)],
        "3 x 3 in 4 groups": [(c, c, 3, 3, 4)],
        "bottleneck: 1 x 1 to a quarter, 3 x 3, 1 x 1 back": [(c, c // 4, 1, 1, 1), (c // 4, c // 4, 3, 3, 1),
                                                              (c // 4, c, 1, 1, 1)],
        "depthwise 3 x 3, then 1 x 1": [(c, c, 3, 3, c), (c, c, 1, 1, 1)],
        "1 x 1": [(c, c, 1, 1, 1)],
    }
    counted = {}
    for place, (name, chain) in enumerate(chains.items()):
        counted[name] = sum(_counted(step) for step in chain)
        advance(place + 1, len(chains))
    base = counted["3 x 3"]
    facts = [same(f"{name}: products counted for {SIDE} x {SIDE} places, against channels x kernel x places",
                  counted[name], sum(_by_formula(step) for step in chain)) for name, chain in chains.items()]
    facts += [
        near("depthwise separable over full: 1 / channels + 1 / 9", counted["depthwise 3 x 3, then 1 x 1"] / base,
             1 / c + 1 / 9, 1e-12),
        near("three 3 x 3 over 7 x 7: 27 / 49", counted["three 3 x 3"] / counted["7 x 7"], 27 / 49, 1e-12),
        near("four groups over one", counted["3 x 3 in 4 groups"] / base, 0.25, 1e-12),
        near("3 x 1 and 1 x 3 over 3 x 3: 33 % less (Szegedy et al.)",
             1 - counted["3 x 1, then 1 x 3"] / base, 1 / 3, 1e-12),
        *_equalities(np.random.default_rng(seed)),
    ]
    widths = [8.0, 16, 32, 64, 128, 256, 512]
    return Shown(
        "The cost of a convolution, and how to cut it",
        f"A k x k convolution from C channels to F costs k x k x C x F products at every place. Each row below covers "
        f"a window by cheaper steps; the counts are of a map of {SIDE} x {SIDE} places and {c} channels, found by "
        "counting the entries of the layer's matrix that can differ from zero.\n\n"
        "Less cost means fewer functions. A depthwise separable convolution is a full one whose filters all share one "
        "spatial pattern per input channel; a k x 1 and a 1 x k make, between one channel and one, a filter of "
        "rank one. Where the filter has that form the results are equal, and elsewhere they cannot be.",
        [Drawing(_bars(counted, base), "Products for the map, and relative to a full 3 x 3 convolution.",
                 "Products", wide=True),
         Drawing(plot([(f"{k} x {k}", [(w, 1 / w + 1 / k ** 2) for w in widths]) for k in (3, 5, 7)],
                      x_label="output channels",
                      y_label="cost relative to a full convolution", log_x=True, ranges=(8, 512, 0, None),
                      title="Cost of depthwise separable convolutions"),
                 "1 / channels + 1 / k\u00b2: for wide layers the window's area is the whole saving.",
                 "Depthwise separable"),
         Drawing(plot([("one k x k", [(k, float(k * k)) for k in range(3, 16, 2)]),
                       ("k x 1, then 1 x k", [(k, 2.0 * k) for k in range(3, 16, 2)]),
                       ("3 x 3 stack", [(k, 9.0 * (k - 1) / 2) for k in range(3, 16, 2)])], x_label="window k",
                      y_label="products per place and pair of channels", ranges=(3, 15, 0, None),
                      title="Cost by window"),
                 "A stack of 3 x 3 grows with the side, not with the area; so does the asymmetric pair.",
                 "Large windows")],
        facts, [_table(chains, counted)])


def _counted(step: Step) -> int:
    """Entries of the layer's matrix, for a map padded to give SIDE x SIDE places: one product each."""
    into, out, high, wide, groups = step
    matrix = convolution_matrix(np.ones((out // groups, into // groups, high, wide)),
                                (SIDE + high - 1, SIDE + wide - 1))
    return groups * int(matrix.values.size)


def _by_formula(step: Step) -> int:
    into, out, high, wide, groups = step
    return into // groups * out * high * wide * SIDE * SIDE


def _parameters(chain: list[Step]) -> int:
    return sum(prod(step[:4]) // step[4] for step in chain)


def _equalities(rng: np.random.Generator) -> list[Fact]:
    x, c = rng.normal(size=(2, 4, 9, 9)), 4
    zero = np.zeros(c)
    depth, point = rng.normal(size=(c, 1, 3, 3)), rng.normal(size=(c, c, 1, 1))
    chained = convolution_forward(grouped_convolution_forward(x, depth, zero, c)[0], point, zero)[0]
    full = convolution_forward(x, point * depth[:, 0], zero)[0]  # w[f, c] = point[f, c] depth[c]

    column, row = rng.normal(size=(c, c, 3, 1)), rng.normal(size=(c, c, 1, 3))
    pair = convolution_forward(convolution_forward(x, column, zero)[0], row, zero)[0]
    joined = np.einsum("mcik,fmkj->fcij", column, row)
    sobel = np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])

    first, second = rng.normal(size=(c, c, 3, 3)), rng.normal(size=(c, c, 3, 3))
    stack = convolution_forward(convolution_forward(x, first, zero)[0], second, zero)[0]
    five = np.zeros((c, c, 5, 5))
    for i in range(3):
        for j in range(3):
            five[:, :, i:i + 3, j:j + 3] += np.einsum("mcpq,fm->fcpq", first, second[:, :, i, j])
    mixed = np.einsum("fc,nchw->nfhw", point[:, :, 0, 0], x)
    return [
        below("depthwise then 1 x 1 equals the full filter point x depth, largest difference",
              float(np.abs(chained - full).max()), 1e-12),
        below("3 x 1 then 1 x 3 equals a 3 x 3 of their products summed over the channels between",
              float(np.abs(pair - convolution_forward(x, joined, zero)[0]).max()), 1e-12),
        same("rank of Sobel's filter: it is a column times a row", int(np.linalg.matrix_rank(sobel)), 1),
        same("rank of a random 3 x 3 filter: it is not", int(np.linalg.matrix_rank(first[0, 0])), 3),
        below("two 3 x 3 without a nonlinearity equal one 5 x 5",
              float(np.abs(stack - convolution_forward(x, five, zero)[0]).max()), 1e-12),
        above("with ReLU between they do not", float(np.abs(
            convolution_forward(np.maximum(0, convolution_forward(x, first, zero)[0]), second, zero)[0]
            - convolution_forward(x, five, zero)[0]).max()), 0.1),
        below("a 1 x 1 convolution is one matrix applied to the channels of every place",
              float(np.abs(convolution_forward(x, point, zero)[0] - mixed).max()), 1e-12),
    ]


def _table(chains: dict[str, list[Step]], counted: dict[str, int]) -> Table:
    base = counted["3 x 3"]
    window = {name: " x ".join(str(1 + sum(step[axis] - 1 for step in chain)) for axis in (2, 3))
              for name, chain in chains.items()}
    return Table("The same in numbers", ["layer", "window", "parameters", "products", "relative to 3 x 3"],
                 [[name, window[name], f"{_parameters(chain):,}", f"{counted[name]:,}", f"{counted[name] / base:.3f}"]
                  for name, chain in chains.items()], f"{CHANNELS} channels in and out, no biases.")


def _bars(counted: dict[str, int], base: int) -> Markup:
    left, wide, parts = 330, 430, []
    for place, (name, count) in enumerate(counted.items()):
        y = 16 + place * 27
        length = max(1.0, wide * count / max(counted.values()))
        parts += [words(name, left - 10, y + 13, "label end"),
                  tag("rect", class_="first" if name == "3 x 3" else "value", x=left, y=y, width=length, height=18,
                      rx=3),
                  words(f"{count:,}  ({count / base:.2f})", left + length + 8, y + 13, "tick")]
    assert max(text_width(name) for name in counted) < left
    return sheet(left + wide + 130, 24 + 27 * len(counted), *parts, title="Products of each layer")
