"""Generalised distance transforms of sampled functions: the best of all values, each less the cost of going there.

    D(p) = max over q of f(q) - a (q - p)^2 - b (q - p)

Paper: Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, Theory of Computing 8, 2012: along one
line, D is the upper envelope of downward parabolas, one for each q, found in one sweep; a map is done along its columns
and then along its rows. Here all lines of all maps sweep together. Short lines compare every pair instead, which is the
same answer sooner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visus.core.validate import require

SHORT = 160  # lines of up to so many places compare every pair
_CHUNK = 1 << 23  # pairs at a time


def distance_transform(values: Tensor, square: Tensor | float, linear: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Along the last dimension: values [..., n], costs a > 0 and b that broadcast against [...].

    Returns D [..., n], and the q that gives it, int64 [..., n]; the first of equals. -inf values are never chosen where
    a finite one is there.
    """
    lines = values.reshape(-1, values.shape[-1])
    costs = [torch.as_tensor(cost, dtype=values.dtype, device=values.device).expand(values.shape[:-1]).reshape(-1)
             for cost in (square, linear)]
    lowest = float(costs[0].min()) if costs[0].numel() else 1.0
    require(lowest > 0, "square", lowest, "be greater than 0")
    way = _all_pairs if values.shape[-1] <= SHORT else _envelope
    best, place = way(lines, *costs)
    return best.reshape(values.shape), place.reshape(values.shape)


def distance_transform_2d(values: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [..., H, W], cost [..., 4] of (dx, dy, dx^2, dy^2), which broadcasts against [...].

    D(y, x) = max over (v, u) of f(v, u) - cost . (u - x, v - y, (u - x)^2, (v - y)^2). Returns D and where it comes
    from: rows v and columns u, int64 [..., H, W].
    """
    cost = cost.expand(*values.shape[:-2], 4)
    across, down, across2, down2 = (part[..., None] for part in cost.unbind(-1))
    best, row = distance_transform(values.transpose(-1, -2), down2, down)  # along columns
    best, row = best.transpose(-1, -2), row.transpose(-1, -2)
    best, column = distance_transform(best, across2, across)
    return best, row.gather(-1, column), column


def _all_pairs(lines: Tensor, square: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """lines: [R, n]; costs: [R]."""
    length = lines.shape[1]
    place = torch.arange(length, device=lines.device, dtype=lines.dtype)
    step = place[None, :] - place[:, None]  # [p, q]
    best, chosen = [], []
    for part, a, b in zip(*(x.split(max(1, _CHUNK // max(1, length**2))) for x in (lines, square, linear)),
                          strict=True):
        scores = part[:, None, :] - a[:, None, None] * step.square() - b[:, None, None] * step
        top = scores.max(-1)
        best.append(top.values)
        chosen.append(top.indices)
    return torch.cat(best), torch.cat(chosen)


def _envelope(lines: Tensor, square: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """The sweep of the paper over all lines [R, n] at once: `hull` holds the parabolas that are still on top, and
    `start` the place from which each is; a new one removes those that it overtakes before they begin."""
    count, length = lines.shape
    rows = torch.arange(count, device=lines.device)
    heights = lines.double().nan_to_num(neginf=-1e30)
    a, b = square.double(), linear.double()
    hull = torch.zeros(count, length, dtype=torch.int64, device=lines.device)
    start = heights.new_full((count, length + 1), torch.inf)
    start[:, 0] = -torch.inf
    top = torch.zeros(count, dtype=torch.int64, device=lines.device)
    for q in range(1, length):
        active = rows
        while len(active):
            last = hull[active, top[active]]
            # Where the parabola of q passes that of `last`: both are a (.)^2 + b (.) turned over.
            gap = (q - last).double()
            crossing = ((heights[active, last] - heights[active, q] + b[active] * gap) / (2 * a[active] * gap)
                        + (q + last).double() / 2)
            pops = (crossing <= start[active, top[active]]) & (top[active] > 0)
            ends = active[~pops]
            first = crossing[~pops] <= start[ends, top[ends]]  # overtakes even the lowest one: takes its place
            top[ends] += (~first).long()
            hull[ends, top[ends]] = q
            start[ends, top[ends]] = torch.where(first, -torch.inf, crossing[~pops])
            active = active[pops]
            top[active] -= 1
    # Parabola k is on top from start[k] to start[k + 1].
    beyond = torch.arange(length + 1, device=lines.device)[None] > top[:, None]
    start = start.masked_fill(beyond, torch.inf)
    place = torch.arange(length, dtype=torch.float64, device=lines.device).expand(count, length).contiguous()
    which = torch.searchsorted(start, place, side="left") - 1
    chosen = hull.gather(1, which.clamp(min=0))
    step = (chosen - place).to(lines.dtype)
    best = lines.gather(1, chosen) - square[:, None] * step.square() - linear[:, None] * step
    return best, chosen
