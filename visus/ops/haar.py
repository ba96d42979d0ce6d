"""Haar-like features: sums of neighbouring rectangles of one size, subtracted from one another.

Papers: Papageorgiou, Oren and Poggio, ICCV 1998; Viola and Jones, IJCV 2004, section 2: two rectangles side by side or
one above the other, three in a row or in a column, and four as a chess board. In a window of 24 x 24 these five kinds
have 43,200 + 43,200 + 27,600 + 27,600 + 20,736 = 162,336 members; the paper writes 160,000.
The signs are those of the papers: the first rectangle is added, its neighbours subtracted. `balanced` counts the
middle of three twice, so that every feature of a flat image is 0 and the mean of a window does not matter (Lienhart and
Maydt, ICIP 2002).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from visus.core.validate import positive, require
from visus.ops.integral import integral_image

# Rows and columns of rectangles of each kind.
KINDS: dict[str, tuple[int, int]] = {"two_across": (1, 2), "two_down": (2, 1), "three_across": (1, 3),
                                     "three_down": (3, 1), "four": (2, 2)}
CORNERS = 9  # of at most four rectangles, each counted once
_CHUNK = 1 << 24  # gathered numbers at a time


class HaarFeatures(NamedTuple):
    """F features, each int64 [F]. kind: place in KINDS; top, left: of the first rectangle; height, width: of one
    rectangle, in pixels."""

    kind: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def take(self, places: Tensor) -> HaarFeatures:
        return HaarFeatures(*(column[places] for column in self))


def haar_features(window: int = 24, kinds: tuple[str, ...] = tuple(KINDS)) -> HaarFeatures:
    """Every feature of the kinds that fits a square window, kind by kind, then by place and size."""
    positive(window=window)
    require(bool(kinds) and all(kind in KINDS for kind in kinds), "kinds", kinds, "be among " + ", ".join(KINDS))
    side = torch.arange(window + 1)
    columns = []
    for number, (name, (rows, across)) in enumerate(KINDS.items()):
        if name not in kinds:
            continue
        spans = []
        for cells in (rows, across):  # all (start, length of a cell) with start + cells * length <= window
            start, length = torch.meshgrid(side[:-1], side[1:], indexing="ij")
            fits = start + cells * length <= window
            spans.append((start[fits], length[fits]))
        (top, height), (left, width) = spans
        down, along = torch.meshgrid(torch.arange(len(top)), torch.arange(len(left)), indexing="ij")
        down, along = down.flatten(), along.flatten()
        columns.append((torch.full_like(down, number), top[down], left[along], height[down], width[along]))
    return HaarFeatures(*(torch.cat(column) for column in zip(*columns, strict=True)))


def corner_sums(features: HaarFeatures, balanced: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Each feature as a weighted sum of places of the integral image: rows and columns, int64 [F, 9], and weights,
    float32 [F, 9]; places that a feature does not need have weight 0."""
    row, column, weight = _corners(balanced)
    device = features.kind.device
    place = features.kind
    rows_at = features.top[:, None] + row.to(device)[place] * features.height[:, None]
    columns_at = features.left[:, None] + column.to(device)[place] * features.width[:, None]
    return rows_at, columns_at, weight.to(device)[place]


def haar_values(images: Tensor, features: HaarFeatures, balanced: bool = False) -> Tensor:
    """Windows [N, S, S], float -> values of the features, [N, F], in the images' type; in chunks of features."""
    integral = integral_image(images).flatten(1)  # [N, (S + 1)^2]
    rows, columns, weights = corner_sums(features, balanced)
    place = rows * (images.shape[-1] + 1) + columns
    step = max(1, _CHUNK // (CORNERS * max(1, len(images))))
    parts = [(integral[:, at.flatten()].unflatten(1, at.shape) * weight.to(images.dtype)).sum(-1)
             for at, weight in zip(place.split(step), weights.split(step), strict=True)]
    return torch.cat(parts, 1) if parts else integral.new_zeros(len(images), 0)


@cache
def _corners(balanced: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of each kind, in rectangles: rows and columns of corners, int64 [kinds, 9], and their weights."""
    kinds = list(KINDS.values())
    row, column, weight = (torch.zeros(len(kinds), CORNERS) for _ in range(3))
    for number, (rows, across) in enumerate(kinds):
        grid = torch.zeros(rows + 1, across + 1)
        for y in range(rows):
            for x in range(across):
                sign = 1.0 if (y + x) % 2 == 0 else -1.0
                if balanced and rows * across == 3 and sign < 0:
                    sign = -2.0
                grid[y, x] += sign
                grid[y + 1, x + 1] += sign
                grid[y, x + 1] -= sign
                grid[y + 1, x] -= sign
        used = (rows + 1) * (across + 1)
        down, along = torch.meshgrid(torch.arange(rows + 1.0), torch.arange(across + 1.0), indexing="ij")
        for table, part in ((row, down), (column, along), (weight, grid)):
            table[number, :used] = part.flatten()
    return row.long(), column.long(), weight
