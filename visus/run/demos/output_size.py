"""How large the map of a convolution is: padding, stride and dilation, counted and drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.core.errors import UserError
from visus.ops.geometry import conv_output_size, pool_output_size, span, tiling_problem, transposed_output_size
from visus.report.demo import Drawing, Fact, Shown, Table, same, shown
from visus.report.sketch import arrow, bounds, grid, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "the size of a map: valid, same and full padding, stride, dilation, and the way back"
SOURCE = "Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285, sections 2 and 4"


@dataclass(frozen=True)
class Case:
    name: str
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def out(self) -> int:
        return conv_output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)


CASES = (Case("valid: no padding", 6, 3), Case("same: padding (k - 1) / 2", 6, 3, padding=1),
         Case("full: padding k - 1", 5, 3, padding=2), Case("stride 2", 7, 3, stride=2),
         Case("stride 2 that does not tile", 6, 3, stride=2), Case("dilation 2", 7, 3, dilation=2))


def make(seed: int, advance: Tell) -> Shown:
    compared, wrong = _against_torch(advance)
    facts: list[Fact] = [
        same(f"geometries of {compared} whose size by the formula differs from torch's convolution", wrong, 0),
        same("poolings, ceil_mode included, whose size differs from torch's", _poolings_wrong(), 0),
        same("transposed convolutions whose size differs from torch's", _transposed_wrong(), 0),
        same("kernels 1, 3, ..., 9 and dilations 1 to 3: 'same' padding keeps the size of", _same_kept(),
             "15 of 15"),
        same("AlexNet: 11 x 11, stride 4 on 227 pixels", conv_output_size(227, 11, 4), 55),
        shown("on 224 pixels, as the paper says, it does not tile", tiling_problem(224, 11, 4) is not None,
              f"(224 - 11) / 4 = {(224 - 11) / 4:g}", "a whole number is needed"),
        same("ResNet's first layers, 7 x 7 of stride 2 and pooling, on 224 pixels",
             pool_output_size(conv_output_size(224, 7, 2, 3), 3, 2, 1), 56),
        same("a kernel of 5 on 3 pixels is refused", _refused(), "refused"),
        same("sizes 5 and 6 give the same map at stride 2 and kernel 3: the transpose needs output_padding",
             [transposed_output_size(2, 3, 2, 0, extra) for extra in (0, 1)], [5, 6]),
    ]
    rows: list[list[str | int]] = [
        [case.name, case.size, case.kernel, case.stride, case.padding, case.dilation,
         f"({case.size} + 2 x {case.padding} - {span(case.kernel, case.dilation)}) / {case.stride} + 1", case.out]
        for case in CASES]
    return Shown(
        "Output sizes",
        "A window that spans F places fits into W + 2 P places at W + 2 P - F + 1 positions; a stride of S takes every "
        "S-th of them: floor((W + 2 P - F) / S) + 1. Dilation D spreads k taps over F = D (k - 1) + 1 places.\n\n"
        "Valid padding uses the image alone and shrinks it; same padding keeps the size at stride 1; full padding "
        "lets the window touch the image by one place, and is what the backward pass of a valid convolution needs. "
        "A stride that does not divide leaves the last places unseen.",
        [Drawing(_case(case), _caption(case), case.name.capitalize()) for case in CASES]
        + [Drawing(_transposed(), "Zeros between and around the four values, then an ordinary convolution: the size "
                   "that a stride-2 convolution had before.", "Transposed, stride 2")],
        facts, [Table("The formula on each drawing", ["", "W", "k", "S", "P", "D", "floor of", "size"], rows)])


def _caption(case: Case) -> str:
    text = f"{case.size} places, window {span(case.kernel, case.dilation)}: a map of {case.out} x {case.out}."
    problem = tiling_problem(case.size, case.kernel, case.stride, case.padding, case.dilation)
    return text if problem is None else f"{text} The last place is never seen."


def _against_torch(advance: Tell) -> tuple[int, int]:
    compared = wrong = 0
    for size in range(1, 13):
        for kernel in range(1, 6):
            for stride in range(1, 4):
                for padding in range(3):
                    for dilation in range(1, 4):
                        if size + 2 * padding < span(kernel, dilation):
                            continue
                        x, w = torch.empty(1, 1, size, device="meta"), torch.empty(1, 1, kernel, device="meta")
                        theirs = F.conv1d(x, w, stride=stride, padding=padding, dilation=dilation).shape[-1]
                        compared += 1
                        wrong += theirs != conv_output_size(size, kernel, stride, padding, dilation)
        advance(size, 12)
    return compared, wrong


def _poolings_wrong() -> int:
    return sum(F.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, ceil_mode=ceil).shape[-1]
               != pool_output_size(size, kernel, stride, padding, ceil_mode=ceil)
               for size in range(4, 12) for kernel in (2, 3) for stride in (1, 2, 3) for padding in (0, 1)
               for ceil in (False, True))


def _transposed_wrong() -> int:
    return sum(F.conv_transpose1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), stride=stride, padding=padding,
                                  output_padding=extra).shape[-1]
               != transposed_output_size(size, kernel, stride, padding, extra)
               for size in range(2, 8) for kernel in (2, 3, 4) for stride in (1, 2, 3) for padding in (0, 1)
               for extra in range(stride))


def _same_kept() -> str:
    kept = [conv_output_size(17, k, 1, d * (k - 1) // 2, d) == 17 for k in range(1, 10, 2) for d in (1, 2, 3)]
    return f"{sum(kept)} of {len(kept)}"


def _refused() -> str:
    try:
        return str(conv_output_size(3, 5))
    except UserError:
        return "refused"


def _case(case: Case) -> Markup:
    """The padded image with its first two windows, and the map."""
    cell, side = 26, case.size + 2 * case.padding
    field = np.zeros((side, side))
    inside = slice(case.padding, case.padding + case.size)
    void = np.ones((side, side), bool)
    void[inside, inside] = False
    taps = slice(0, span(case.kernel, case.dilation), case.dilation)
    field[taps, taps] = 0.5
    width = span(case.kernel, case.dilation)
    x, y, step = 14, 34, case.stride * cell
    right = x + side * cell
    middle = y + side * cell / 2
    result = np.zeros((case.out, case.out))
    result[0, 0] = 0.5
    top = middle - case.out * cell / 2
    parts = [words(f"{case.size} x {case.size}" + (f", padded {side} x {side}" if case.padding else ""), x, 20),
             grid(field, x, y, cell, form=None, most=1, void=void & (field == 0)),
             bounds(x + step, y, width, width, cell, "hollow second"), bounds(x, y, width, width, cell),
             arrow(right + 12, middle, right + 52, middle),
             grid(result, right + 64, top, cell, form=None, most=1), bounds(right + 64, top, 1, 1, cell),
             words(f"{case.out} x {case.out}", right + 64, top - 10)]
    if case.out > 1:
        parts.append(bounds(right + 64 + cell, top, 1, 1, cell, "hollow second"))
    return sheet(right + 80 + case.out * cell, y + side * cell + 14, *parts, title=case.name)


def _transposed() -> Markup:
    """2 x 2 values with a kernel of 3 and stride 2: spread out, padded by 2, convolved to 5 x 5."""
    cell, spread = 26, np.zeros((7, 7))
    spread[2:5:2, 2:5:2] = [[0.9, 0.7], [0.5, 0.3]]
    void = np.ones((7, 7), bool)
    void[2:5, 2:5] = False
    x, y = 14, 34
    small = np.array([[0.9, 0.7], [0.5, 0.3]])
    parts = [words("2 x 2", x, y + 52), grid(small, x, y + 65, cell, form=None, most=1),
             arrow(x + 60, y + 91, x + 92, y + 91), words("spread, padded", x + 104, 20),
             grid(spread, x + 104, y, cell, form=None, most=1, void=void), bounds(x + 104, y, 3, 3, cell),
             arrow(x + 296, y + 91, x + 328, y + 91), words("5 x 5", x + 340, y + 16),
             grid(np.zeros((5, 5)), x + 340, y + 26, cell, form=None), bounds(x + 340, y + 26, 1, 1, cell)]
    return sheet(x + 340 + 5 * cell + 14, y + 7 * cell + 14, *parts, title="Transposed convolution as a convolution")
