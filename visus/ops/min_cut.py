"""The labelling of a grid of pixels in two classes that costs least: a minimum cut, found by convex optimisation.

Papers: Greig, Porteous, Seheult, JRSS B 51, 1989 (a labelling is a cut); Chan, Esedoglu, Nikolova, SIAM J. Applied
Mathematics 66, 2006: labels may be anything in [0, 1], and cutting off a solution at any level gives one in {0, 1} that
costs no more; Chambolle, Pock, J. Mathematical Imaging and Vision 40, 2011, with the step sizes of Pock and Chambolle,
ICCV 2011 (section 2, alpha = 1), find it in whole-array steps, all images of a batch at once. The dual value bounds the
cost of every labelling from below, so that the result comes with a proof of how near the minimum it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.validate import positive, require

STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (down, right): half of the eight neighbours; the others are its mirror
_CHECK_EVERY = 25
_LEVELS = (0.5, 0.25, 0.75, 0.1, 0.9)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """labels: bool [B, h, w]. cost: [B], of the labels. bound: [B], below what any labelling costs."""

    labels: Tensor
    cost: Tensor
    bound: Tensor


def differences(maps: Tensor) -> Tensor:
    """[B, h, w] -> [B, 4, h, w]: the neighbour in each of STEPS less the pixel; 0 where there is none."""
    return torch.stack([(_moved(maps, down, right) - maps) * _inside(maps, down, right) for down, right in STEPS], 1)


def cut_cost(labels: Tensor, unary: Tensor, weights: Tensor) -> Tensor:
    """[B]: sum over pixels of unary * label, and over neighbours of weight * |difference of labels|. labels: [B, h, w]
    in [0, 1]; unary: [B, h, w], what it costs more to be 1 than to be 0; weights: [B, 4, h, w] at least 0, of each
    pixel with its neighbour in each of STEPS (what has no neighbour does not count)."""
    labels = labels.to(unary.dtype)
    return (unary * labels).flatten(1).sum(1) + (weights * differences(labels).abs()).flatten(1).sum(1)


def min_cut(unary: Tensor, weights: Tensor, *, steps: int = 2000, tolerance: float = 1e-3) -> Cut:
    """The labels of least `cut_cost`. steps: at most; it ends when in every image the labels cost at most `tolerance`
    more than the bound, relative to the sum of |unary|."""
    positive(steps=steps)
    require(unary.ndim == 3 and weights.shape == (len(unary), len(STEPS), *unary.shape[1:]), "weights",
            tuple(weights.shape), f"be [B, {len(STEPS)}, h, w] for unary {tuple(unary.shape)}")
    inside = torch.stack([_inside(unary, down, right) for down, right in STEPS])
    weights = weights * inside
    x = (unary < 0).to(unary)
    dual, ahead = torch.zeros_like(weights), x
    up = 0.5 / weights.clamp(min=1e-12)  # of a dual that is in units of its weight
    along = 1 / _spread(weights.abs(), absolute=True).clamp(min=1e-12)
    scale = unary.abs().flatten(1).sum(1).clamp(min=1e-12)
    labels, cost = x, cut_cost(x, unary, weights)
    bound = torch.full_like(cost, -float("inf"))
    under_way = torch.ones_like(cost, dtype=torch.bool)
    for step in range(1, steps + 1):
        dual = (dual + up * weights * differences(ahead)).clamp_(-1, 1)
        pushed = unary + _spread(weights * dual)
        new = (x - along * pushed).clamp_(0, 1)
        ahead, x = 2 * new - x, new
        if step % _CHECK_EVERY == 0 or step == steps:
            bound = torch.where(under_way, torch.maximum(bound, pushed.clamp(max=0).flatten(1).sum(1)), bound)
            for level in _LEVELS:
                tried = (x > level).to(unary)
                tried_cost = cut_cost(tried, unary, weights)
                better = under_way & (tried_cost < cost)
                labels = torch.where(better[:, None, None], tried, labels)
                cost = torch.where(better, tried_cost, cost)
            under_way = under_way & (cost - bound > tolerance * scale)  # one that is done stays as it is
            if not under_way.any():
                break
    return Cut(labels=labels > 0.5, cost=cost, bound=bound)


def _moved(maps: Tensor, down: int, right: int) -> Tensor:
    """What stands `down` and `right` of each place; round the border."""
    return maps.roll((-down, -right), (-2, -1))


def _inside(maps: Tensor, down: int, right: int) -> Tensor:
    """[h, w]: 1 where that neighbour exists."""
    height, width = maps.shape[-2:]
    there = torch.ones(height, width, dtype=maps.dtype, device=maps.device)
    return F.pad(there[down:, max(right, 0):width + min(right, 0)], (max(-right, 0), max(right, 0), 0, down))


def _spread(flows: Tensor, absolute: bool = False) -> Tensor:
    """The transpose of `differences`, [B, 4, h, w] -> [B, h, w]; absolute: with all signs positive."""
    out = torch.zeros_like(flows[:, 0])
    for number, (down, right) in enumerate(STEPS):
        flow = flows[:, number]  # 0 where there is no neighbour
        out = out + (_moved(flow, -down, -right) + flow if absolute else _moved(flow, -down, -right) - flow)
    return out
