"""A cascade over every window of a picture: each stage sees only the windows that the stages before it let pass.

Paper: Viola and Jones, Robust Real-Time Face Detection, IJCV 2004, sections 4 and 5: a stage is a vote of stumps on
Haar-like features of the window, whose mean and variance come from integral images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visus.core.validate import positive, require
from visus.ops.haar import HaarFeatures, corner_sums
from visus.ops.integral import integral_image, window_moments
from visus.ops.resample import resize

_CHUNK = 1 << 23  # gathered numbers at a time


class Stage(NamedTuple):
    """k features; stumps: (threshold, sign, alpha), [k, 3]; threshold: of the sum of votes."""

    features: HaarFeatures
    stumps: Tensor
    threshold: Tensor


def votes(values: Tensor, stumps: Tensor) -> Tensor:
    """Values of a stage's features [..., k] -> sum of its stumps' votes [...]."""
    threshold, sign, alpha = stumps.T
    return ((sign * values < sign * threshold) * alpha).sum(-1)


def normalised(patches: Tensor) -> tuple[Tensor, Tensor]:
    """[B, S, S] -> of mean 0 and variance 1 each, and their standard deviations [B]."""
    centred = patches - patches.mean((1, 2), keepdim=True)
    deviation = centred.square().mean((1, 2), keepdim=True).sqrt()
    return centred / deviation.clamp(min=1e-8), deviation[:, 0, 0]


def scan(stages: Sequence[Stage], grey: Tensor, side: int, contrast: float, scale: float = 1.25, step: int = 1,
         min_size: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Every window of a picture that passes all stages, in sizes from `min_size` (None: side) on, `scale` apart.

    grey: [H, W]. side: of a window in the reduced picture. contrast: least standard deviation of a window. step:
    between windows, in pixels of the reduced picture. Returns boxes [N, 4], the sums of their margins over all stages,
    [N], and their patches [N, side, side].
    """
    require(scale > 1, "scale", scale, "be greater than 1")
    positive(step=step)
    deviation, mean = torch.std_mean(grey, correction=0)
    contrast = max(contrast / float(deviation.clamp(min=1e-8)), 1e-6)
    grey = (grey - mean) / deviation.clamp(min=1e-8)
    corners = [corner_sums(stage.features, balanced=True) for stage in stages]
    found = [(grey.new_zeros(0, 4), grey.new_zeros(0), grey.new_zeros(0, side, side))]
    factor = max(1.0, (min_size or side) / side)
    while min(grey.shape) / factor >= side:
        reduced = resize(grey[None, None], (round(grey.shape[0] / factor), round(grey.shape[1] / factor)))[0, 0]
        row, column, margin = _passing(stages, corners, reduced, side, contrast, step)
        stretch = grey.new_tensor([grey.shape[1] / reduced.shape[1], grey.shape[0] / reduced.shape[0]])
        corner = torch.stack([column, row], 1).to(grey.dtype)
        patches = reduced.unfold(0, side, 1).unfold(1, side, 1)[row, column]
        found.append((torch.cat([corner * stretch, (corner + side) * stretch], 1), margin, patches))
        factor *= scale
    boxes, margins, patches = (torch.cat(parts) for parts in zip(*found, strict=True))
    return boxes, margins, patches


def _passing(stages: Sequence[Stage], corners: Sequence[tuple[Tensor, Tensor, Tensor]], grey: Tensor, side: int,
             contrast: float, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """[H, W] -> rows, columns and summed margins of the windows of one size that pass."""
    deviation = window_moments(grey, side)[1][::step, ::step]
    row, column = (deviation > contrast).nonzero(as_tuple=True)
    deviation, row, column = deviation[row, column], row * step, column * step
    margin, width = torch.zeros_like(deviation), grey.shape[1] + 1
    integral = integral_image(grey.double()).flatten()
    for (_, stumps, threshold), (rows, columns, weights) in zip(stages, corners, strict=True):
        if not len(row):
            break
        offset, size = rows * width + columns, max(1, _CHUNK // rows.numel())  # [k, 9]
        sums = [votes(((integral[at[:, None, None] + offset] * weights).sum(-1) / spread[:, None]).to(stumps.dtype),
                      stumps)
                for at, spread in zip((row * width + column).split(size), deviation.split(size), strict=True)]
        more = 2 * (torch.cat(sums) - threshold)
        keep = more > 0
        row, column, deviation, margin = row[keep], column[keep], deviation[keep], (margin + more)[keep]
    return row, column, margin
