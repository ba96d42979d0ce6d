"""A convolution is a matrix: mostly zeros, its entries repeated along diagonals, its transpose the backward pass."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.foundations.convolution import (
    SparseMatrix,
    convolution_backward,
    convolution_forward,
    convolution_matrix,
)
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, below, same, shown
from visus.report.sketch import bounds, grid, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "a convolution as one sparse matrix, and a small network as a product of them"
SOURCE = ("Goodfellow et al., Deep Learning (2016), section 9.1 (Toeplitz and doubly block circulant matrices); "
          "LeCun, Bottou, Bengio, Haffner, Proceedings of the IEEE 86 (1998), section II.B, for LeNet-5's connections")

SIDE, KERNEL = 5, 3


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    line = convolution_matrix(np.array([[[[1.0, 2.0, 3.0]]]]), (1, 7))
    number = np.arange(1.0, 10.0).reshape(1, 1, KERNEL, KERNEL)  # each entry of the matrix names its parameter
    plane = convolution_matrix(number, (SIDE, SIDE))
    advance(1, 4)

    x, w = rng.normal(size=(1, 2, 6, 6)), rng.normal(size=(3, 2, KERNEL, KERNEL))
    out, cache = convolution_forward(x, w, np.zeros(3), stride=2, padding=1)
    matrix = convolution_matrix(w, (6, 6), stride=2, padding=1)
    upstream = rng.normal(size=out.shape)
    forward = np.abs(matrix @ x.ravel() - out.ravel()).max()
    backward = np.abs(matrix.T @ upstream.ravel() - convolution_backward(upstream, cache)[0].ravel()).max()
    advance(2, 4)
    network = _network(rng)
    advance(3, 4)
    first = convolution_matrix(np.ones((6, 1, 5, 5)), (32, 32))
    third = convolution_matrix(lenet_table()[:, :, None, None] * np.ones((16, 6, 5, 5)), (14, 14))
    third_entries = int(np.count_nonzero(third.values))
    advance(4, 4)

    facts = [
        below("the matrix times the flattened image against the convolution, largest difference", float(forward),
              1e-12),
        below("its transpose times the upstream gradient against the backward pass", float(backward), 1e-12),
        shown("in one dimension every diagonal holds one number (Toeplitz)", _constant_diagonals(line.dense()),
              "constant" if _constant_diagonals(line.dense()) else "not constant", "constant"),
        shown("in two dimensions so do the blocks, and the numbers within each (doubly block Toeplitz)",
              _block_toeplitz(plane.dense()), f"{SIDE - KERNEL + 1} x {SIDE} blocks compared", "equal along diagonals"),
        same(f"different numbers in the {plane.shape[0]} x {plane.shape[1]} matrix of a {KERNEL} x {KERNEL} filter",
             len(np.unique(plane.values)), KERNEL ** 2),
        below("two convolutions with ReLU between them as matrices, against the network", network, 1e-12),
        same("connections of LeNet-5's C1, biases included", first.values.size + first.shape[0], 122_304),
        same("connections of LeNet-5's C3, through its table of which maps are joined", third_entries + third.shape[0],
             151_600),
    ]
    rows = [[name, f"{m.shape[0]:,} x {m.shape[1]:,}", f"{entries:,}", f"{100 * entries / m.shape[0] / m.shape[1]:.2f}"]
            for name, m, entries in (
                (f"{KERNEL} x {KERNEL} on {SIDE} x {SIDE}", plane, plane.values.size),
                ("LeNet-5 C1: 6 filters 5 x 5 on 32 x 32", first, first.values.size),
                ("LeNet-5 C3: 16 filters 5 x 5 on 6 maps 14 x 14", third, third_entries))]
    return Shown(
        "A convolution is a sparse matrix of shared numbers",
        "Flatten the image into a column. The convolution is then a matrix times this column: a fully connected layer "
        "of which almost all weights are zero, and the others are a few numbers that repeat along diagonals.\n\n"
        "What follows needs no further proof: a convolution is linear; its backward pass is the transpose of the "
        "matrix; a convolutional network is a fully connected one with constraints on its weights.",
        [Drawing(_one_line(line), "Filter (1, 2, 3) over seven places. Each row is the filter, one place further.",
                 "One dimension"),
         Drawing(_coloured(plane), f"A {KERNEL} x {KERNEL} filter over {SIDE} x {SIDE} pixels. Each colour is one of "
                 f"the {KERNEL ** 2} weights; frames mark the blocks, which repeat as the numbers in them do.",
                 "Two dimensions"),
         Drawing(_coloured(plane.T), "The backward pass: the same entries, rows and columns swapped.",
                 "Its transpose")],
        facts, [Table("How empty the matrices are", ["layer", "size", "entries", "percent filled"], rows)])


def lenet_table() -> np.ndarray:
    """[16, 6] of 0 and 1: which maps of S2 each map of C3 sees (LeCun et al. 1998, table I)."""
    table = np.zeros((16, 6))
    for i in range(6):
        table[i, (i + np.arange(3)) % 6] = 1
        table[6 + i, (i + np.arange(4)) % 6] = 1
    for i in range(3):
        table[12 + i, (i + np.array([0, 1, 3, 4])) % 6] = 1
    table[15] = 1
    return table


def _network(rng: np.random.Generator) -> float:
    """Conv 3x3, ReLU, conv 3x3 of stride 2, by layers and by two matrices: the largest difference."""
    x, w1, w2 = rng.normal(size=(1, 1, 9, 9)), rng.normal(size=(4, 1, 3, 3)), rng.normal(size=(2, 4, 3, 3))
    hidden = np.maximum(0, convolution_forward(x, w1, np.zeros(4))[0])
    out = convolution_forward(hidden, w2, np.zeros(2), stride=2)[0]
    by_matrices = convolution_matrix(w2, (7, 7), 2) @ np.maximum(0, convolution_matrix(w1, (9, 9)) @ x.ravel())
    return float(np.abs(out.ravel() - by_matrices).max())


def _constant_diagonals(matrix: np.ndarray) -> bool:
    return bool((matrix[1:, 1:] == matrix[:-1, :-1]).all())


def _block_toeplitz(matrix: np.ndarray) -> bool:
    """Whether the blocks of [OW x W] repeat along the diagonal of blocks, and are Toeplitz themselves."""
    outputs = SIDE - KERNEL + 1
    blocks = matrix.reshape(outputs, outputs, SIDE, SIDE).transpose(0, 2, 1, 3)  # [OH, H, OW, W]
    repeated = bool((blocks[1:, 1:] == blocks[:-1, :-1]).all())
    return repeated and all(_constant_diagonals(blocks[i, j]) for i in range(outputs) for j in range(SIDE))


def _one_line(matrix: SparseMatrix) -> Markup:
    dense, cell = matrix.dense(), 34
    parts = [grid(dense, 20, 40, cell, form=lambda v: f"w{v:.0f}" if v else "0", most=6),
             words("\u00d7", 270, 130, "label", 18),
             grid(np.zeros((7, 1)), 296, 6, cell, form=None),
             *(words(f"x{i + 1}", 313, 28 + i * cell, "middle") for i in range(7)), words("=", 346, 130, "label", 18),
             grid(np.zeros((5, 1)), 372, 40, cell, form=None),
             *(words(f"y{i + 1}", 389, 62 + i * cell, "middle") for i in range(5))]
    return sheet(426, 256, *parts, title="Toeplitz matrix of a filter of three")


def _coloured(matrix: SparseMatrix, cell: int = 15) -> Markup:
    parts = [grid(np.zeros(matrix.shape), 10, 10, cell, form=None)]
    for row, column, value in zip(matrix.rows, matrix.columns, matrix.values, strict=True):
        parts.append(tag("rect", class_=f"hue{int(value) - 1}", x=10.5 + column * cell, y=10.5 + row * cell,
                         width=cell - 1, height=cell - 1))
    outputs = SIDE - KERNEL + 1
    high, wide = (outputs, SIDE) if matrix.shape[0] < matrix.shape[1] else (SIDE, outputs)
    parts += [bounds(10 + j * wide * cell, 10 + i * high * cell, wide, high, cell, "edge")
              for i in range(matrix.shape[0] // high) for j in range(matrix.shape[1] // wide)]
    return sheet(20 + matrix.shape[1] * cell, 20 + matrix.shape[0] * cell, *parts,
                 title=f"Matrix of {matrix.shape[0]} x {matrix.shape[1]}, coloured by weight")
