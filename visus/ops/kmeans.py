"""k-means: K centres such that the squared distances of the points to the nearest one are small in sum.

Lloyd, Least Squares Quantization in PCM, IEEE Transactions on Information Theory, 1982, from the starts of Arthur and
Vassilvitskii, k-means++, SODA 2007, each the best of some draws: a next centre is drawn with a probability that grows
with the squared distance from those there are. The best of several starts is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import positive, require

BLOCK_BYTES = 32 << 20  # of distances at a time
STEPS = 300
TOLERANCE = 1e-4        # of the mean variance of a coordinate: the squared way of all centres at which a run ends


@dataclass(frozen=True, eq=False)
class Clusters:
    """centres: [K, D]; labels: int64 [N], of the nearest; inertia: the sum of squared distances to it; steps: of
    Lloyd's algorithm; history: the inertia before the first and after each, which never rises."""

    centres: Tensor
    labels: Tensor
    inertia: float
    steps: int
    history: list[float]


def kmeans(points: Tensor, num_clusters: int, *, start: Tensor | None = None, restarts: int = 5, steps: int = STEPS,
           tolerance: float = TOLERANCE, seed: int = 0,
           advance: Callable[[int], None] = lambda count: None) -> Clusters:
    """points: [N, D], finite. start: centres [K, D] to begin at; None: k-means++, `restarts` times, of which the one
    with the least inertia is kept. A cluster that loses its last point moves to the point farthest from its centre.
    advance: called with 1 after each run. Raises UserError where there are fewer points than clusters.
    """
    positive(num_clusters=num_clusters, restarts=restarts, steps=steps)
    require(tolerance >= 0, "tolerance", tolerance, "be at least 0")
    if points.ndim != 2 or num_clusters > len(points):
        raise UserError(f"must be at most the number of points, {tuple(points.shape)}",
                        where=f"num_clusters={num_clusters}", remedy="Ask for fewer clusters, or give more points")
    kind = points.dtype if points.dtype == torch.float64 else torch.float32
    middle = points.mean(0, dtype=kind)
    centred = points.to(kind) - middle
    limit = tolerance * float(centred.square().mean(0).mean())
    generator = torch.Generator().manual_seed(seed)
    best: Clusters | None = None
    for _ in range(1 if start is not None else restarts):
        first = plus_plus(centred, num_clusters, generator) if start is None else start.to(centred) - middle
        if first.shape != (num_clusters, points.shape[1]):
            raise UserError(f"must be [{num_clusters}, {points.shape[1]}]", where=f"start {tuple(first.shape)}")
        found = _lloyd(centred, first, steps, limit)
        if best is None or found.inertia < best.inertia:
            best = found
        advance(1)
    assert best is not None
    return Clusters(best.centres + middle, best.labels, best.inertia, best.steps, best.history)


def assign(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(int64 [N]: the nearest centre of each point; [N]: the squared distance to it), in blocks of 32 MiB."""
    lengths = centres.square().sum(1)
    labels, squares = [], []
    for part in points.split(max(1, BLOCK_BYTES // (points.element_size() * len(centres)))):
        least, label = torch.addmm(lengths, part, centres.T, alpha=-2).min(1)
        labels.append(label)
        squares.append((least + part.square().sum(1)).clamp_min(0))
    return torch.cat(labels), torch.cat(squares)


def plus_plus(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """[N, D] -> [K, D]: points far from each other; each the best of 2 + log K draws, as its authors advise."""
    trials = 2 + int(math.log(num_clusters))
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    left = (points - points[first]).square().sum(1)
    for _ in range(num_clusters - 1):
        reach = left.double().cumsum(0)
        at = torch.rand(trials, generator=generator, dtype=torch.float64).to(reach.device) * reach[-1]
        drawn = torch.searchsorted(reach, at).clamp_max(len(points) - 1)
        lengths = points.square().sum(1)
        squared = torch.addmm(lengths, points[drawn], points.T, alpha=-2) + lengths[drawn, None]  # [trials, N]
        squared = torch.minimum(squared.clamp_min(0), left)
        best = int(squared.sum(1).argmin())
        chosen.append(int(drawn[best]))
        left = squared[best]
    return points[chosen]


def _lloyd(points: Tensor, centres: Tensor, steps: int, limit: float) -> Clusters:
    labels, squares = assign(points, centres)
    history = [float(squares.sum(dtype=torch.float64))]
    while len(history) <= steps:
        before, held = centres, labels
        centres = _means(points, labels, squares, len(centres))
        labels, squares = assign(points, centres)
        history.append(float(squares.sum(dtype=torch.float64)))
        if torch.equal(labels, held) or float((centres - before).square().sum()) <= limit:
            break
    return Clusters(centres, labels, history[-1], len(history) - 1, history)


def _means(points: Tensor, labels: Tensor, squares: Tensor, count: int) -> Tensor:
    """[K, D]: of each cluster; one without a point becomes one of the points farthest from their centres, which leave
    their own clusters."""
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64, device=points.device)
    sums.index_add_(0, labels, points.double())
    sizes = torch.bincount(labels, minlength=count).double()
    empty = (sizes == 0).nonzero().flatten()
    if len(empty):
        far = squares.topk(len(empty)).indices
        sums.index_add_(0, labels[far], -points[far].double())
        sizes.index_add_(0, labels[far], -torch.ones_like(far, dtype=torch.float64))
        sums[empty], sizes[empty] = points[far].double(), 1.0
    return (sums / sizes.clamp_min(1)[:, None]).to(points.dtype)
