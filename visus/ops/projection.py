"""Many numbers a sample to two: maps of data on a plane. PCA, t-SNE, UMAP, and the loss by which t-SimCNE learns one.

Papers: van der Maaten, Hinton, Visualizing Data using t-SNE, JMLR 9, 2008, with the learning rate that grows with the
number of points (Belkina et al., Nature Communications 10, 2019) and a start from the first principal components
(Kobak, Berens, Nature Communications 10, 2019); McInnes, Healy, Melville, UMAP, 2018, arXiv:1802.03426; Boehm,
Berens, Kobak, Unsupervised visualization of image datasets using contrastive learning, ICLR 2023, arXiv:2210.09879.
All points meet in one matrix, without trees or grids: for some thousands of samples. UMAP moves all points of an epoch
at once, where its authors' program moves them one after another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.validate import positive, require
from visus.ops.principal import Principal

_BISECTIONS = 64


def pca(features: Tensor, dims: int = 2) -> tuple[Tensor, Tensor]:
    """[N, D] -> (places [N, dims], share of the variance [dims]) along the directions in which the samples differ most.
    The sign of each is such that its largest loading is above 0."""
    positive(dims=dims)
    require(dims <= min(features.shape), "dims", dims, f"be at most {min(features.shape)} for {tuple(features.shape)}")
    if len(features) == 1:  # nothing varies
        return features.new_zeros(1, dims), features.new_zeros(dims)
    found = Principal.fit(features.double(), dims)
    places, shares = found.transform(features.double()), found.shares
    missing = dims - len(shares)  # directions along which nothing varies
    return F.pad(places, (0, missing)).to(features.dtype), F.pad(shares, (0, missing)).to(features.dtype)


def squared_distances(points: Tensor, others: Tensor | None = None) -> Tensor:
    """[N, D], [M, D] -> [N, M], at least 0."""
    others = points if others is None else others
    products = points @ others.T
    return (points.square().sum(1)[:, None] - 2 * products + others.square().sum(1)).clamp_(min=0)


def _nearness(features: Tensor, perplexity: float) -> Tensor:
    """float64 [N, N], rows that sum to 1: equation 1, each point's width found by halving so that the entropy of its
    row is the logarithm of `perplexity`."""
    squared = squared_distances(features.double())
    squared.fill_diagonal_(math.inf)
    squared = squared - squared.amin(1, keepdim=True)  # the nearest at 0: no row underflows
    squared.fill_diagonal_(math.inf)
    scale = squared.masked_fill(squared.isinf(), 0).mean(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    low = torch.zeros_like(scale)
    high = torch.full_like(scale, math.inf)
    precision = 1 / scale
    held = squared.masked_fill(squared.isinf(), 0)
    rows = torch.empty_like(squared)
    for _ in range(_BISECTIONS):
        rows = (-squared * precision).exp_()
        total = rows.sum(1, keepdim=True)
        rows /= total
        entropy = total.log() + precision * (rows * held).sum(1, keepdim=True)
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, precision, low), torch.where(wide, high, precision)
        precision = torch.where(high.isinf(), 2 * precision, (low + high) / 2)
    return rows


def joint_nearness(features: Tensor, perplexity: float = 30.0) -> Tensor:
    """float64 [N, N] that sums to 1: t-SNE's P, symmetric, 0 on its diagonal (equations 1 and 2 of section 3)."""
    count = len(features)
    require(isinstance(perplexity, int | float) and 1 <= perplexity < count, "perplexity", perplexity,
            f"be at least 1 and below the number of samples, {count}")
    rows = _nearness(features, perplexity)
    return (rows + rows.T) / (2 * count)


def tsne_divergence(points: Tensor, nearness: Tensor) -> float:
    """The Kullback-Leibler divergence that t-SNE makes small: of P, [N, N], from the map's Q (equations 4 and 5)."""
    kernel = 1 / (1 + squared_distances(points.double()))
    kernel.fill_diagonal_(0)
    tiny = torch.finfo(torch.float64).tiny
    q, p = (kernel / kernel.sum()).clamp(min=tiny), nearness.double()
    return float((p * (p.clamp(min=tiny) / q).log()).sum())


def tsne(features: Tensor, *, perplexity: float = 30.0, steps: int = 750, exaggeration: float = 12.0,
         exaggerated_steps: int = 250, start: Tensor | None = None) -> Tensor:
    """[N, D] -> float32 [N, 2]. start: places to begin at, of which only the form counts; None: the first two principal
    components. The gradient is that of equation 5 with momentum and a gain for each coordinate; P counts `exaggeration`
    times in the first steps."""
    positive(steps=steps)
    require(isinstance(exaggeration, int | float) and exaggeration >= 1, "exaggeration", exaggeration, "be at least 1")
    p = joint_nearness(features, perplexity).float()
    start = pca(features)[0] if start is None else start
    start = start.double()
    points = (1e-4 * start / start[:, 0].std().clamp(min=1e-30)).float()
    rate = max(len(features) / exaggeration / 4, 50.0)
    velocity, gains = torch.zeros_like(points), torch.ones_like(points)
    p *= exaggeration
    for step in range(steps):
        if step == exaggerated_steps:
            p /= exaggeration
        kernel = squared_distances(points).add_(1).reciprocal_()
        kernel.fill_diagonal_(0)
        force = torch.addcmul(p * kernel, kernel, kernel, value=-1 / float(kernel.sum()))  # (p - q) kernel, [N, N]
        gradient = 4 * (force.sum(1, keepdim=True) * points - force @ points)
        along = (velocity * gradient) < 0
        gains = torch.where(along, gains + 0.2, gains * 0.8).clamp_(min=0.01)
        velocity = (0.5 if step < exaggerated_steps else 0.8) * velocity - rate * gains * gradient
        points = points + velocity
        points = points - points.mean(0)
    return points


# -- UMAP ----------------------------------------------------------------------------------------------------------


def fuzzy_graph(features: Tensor, neighbours: int = 15) -> Tensor:
    """float32 [N, N], symmetric, in [0, 1]: how surely two samples are neighbours (section 3.1). The nearest of each is
    for sure; the width of the others is such that their sum is log2(neighbours)."""
    count = len(features)
    positive(neighbours=neighbours)
    require(2 <= neighbours < count, "neighbours", neighbours, f"be from 2 to below the number of samples, {count}")
    squared = squared_distances(features.double())
    squared.fill_diagonal_(math.inf)
    nearest, index = squared.topk(neighbours, largest=False)
    beyond = nearest.sqrt()
    beyond = (beyond - beyond[:, :1]).clamp(min=0)
    low = torch.zeros(count, 1, dtype=torch.float64, device=features.device)
    high = torch.full_like(low, math.inf)
    width = torch.ones_like(low)
    for _ in range(_BISECTIONS):
        wide = (-beyond / width).exp().sum(1, keepdim=True) > math.log2(neighbours)
        low, high = torch.where(wide, low, width), torch.where(wide, width, high)
        width = torch.where(high.isinf(), 2 * width, (low + high) / 2)
    width = torch.maximum(width, 1e-3 * beyond.mean().clamp(min=1e-30))
    surely = torch.zeros_like(squared).scatter_(1, index, (-beyond / width).exp())
    return (surely + surely.T - surely * surely.T).float()


def _curve(min_distance: float) -> tuple[float, float]:
    """a, b of 1 / (1 + a x^(2 b)), the nearest in squares to min(1, exp(min_distance - x)) on [0, 3]."""
    x = torch.linspace(0, 3, 301, dtype=torch.float64)[1:]
    wanted = (min_distance - x).clamp(max=0).exp()
    a, b, damping = 1.0, 1.0, 1e-3
    held = math.inf
    for _ in range(200):  # Levenberg-Marquardt in (log a, log b)
        power = x ** (2 * b)
        value = 1 / (1 + a * power)
        slope = -value.square() * a * power
        jacobian = torch.stack([slope, slope * 2 * b * x.log()], 1)
        normal = jacobian.T @ jacobian
        step = torch.linalg.solve(normal + damping * normal.diag().diag(), jacobian.T @ (wanted - value))
        new_a, new_b = a * math.exp(float(step[0])), b * math.exp(float(step[1]))
        error = float((1 / (1 + new_a * x ** (2 * new_b)) - wanted).square().sum())
        if error < held:
            a, b, held, damping = new_a, new_b, error, damping / 3
        else:
            damping *= 4
    return a, b


def umap(features: Tensor, *, neighbours: int = 15, min_distance: float = 0.1, epochs: int = 300, negatives: int = 5,
         start: Tensor | None = None, seed: int = 0) -> Tensor:
    """[N, D] -> float32 [N, 2]. min_distance: how close samples may lie. start: places to begin at, of which only the
    form counts; None: the first two principal components."""
    positive(epochs=epochs, negatives=negatives)
    require(isinstance(min_distance, int | float) and 0 <= min_distance < 1, "min_distance", min_distance,
            "be at least 0 and below 1")
    graph = fuzzy_graph(features, neighbours).triu()
    a, b = _curve(min_distance)
    generator = torch.Generator().manual_seed(seed)
    heads, tails = (graph >= graph.max() / epochs).nonzero(as_tuple=True)
    often = graph[heads, tails] / graph.max()
    start = pca(features)[0] if start is None else start
    points = (10 * (start / start.abs().max().clamp(min=1e-30))).float()
    points = points + 1e-4 * torch.randn(points.shape, generator=generator).to(points)
    for epoch in range(epochs):
        rate = 1 - epoch / epochs
        chosen = torch.rand(len(often), generator=generator).to(often) < often
        i, j = heads[chosen], tails[chosen]
        gap = points[i] - points[j]
        squared = gap.square().sum(1, keepdim=True)
        pull = -2 * a * b * squared.clamp(min=1e-12) ** (b - 1) / (1 + a * squared ** b)
        pull = (pull * gap).clamp_(-4, 4)
        moves = torch.zeros_like(points).index_add_(0, i, pull).index_add_(0, j, -pull)
        # each end of an edge is pushed from `negatives` samples drawn by chance
        near = torch.cat([i, j]).repeat_interleave(negatives)
        far = torch.randint(len(points), near.shape, generator=generator).to(near)
        gap = points[near] - points[far]
        squared = gap.square().sum(1, keepdim=True)
        push = 2 * b / ((0.001 + squared) * (1 + a * squared ** b))
        push = (push * gap).clamp_(-4, 4) * (near != far)[:, None]
        points = points + rate * moves.index_add_(0, near, push)
    return points - points.mean(0)


# -- t-SimCNE ------------------------------------------------------------------------------------------------------


def t_simcne_loss(first: Tensor, second: Tensor) -> Tensor:
    """Two views of each image on the plane, [B, 2] each -> scalar: the contrast of SimCLR with the heavy-tailed kernel
    1 / (1 + distance^2) in place of the exponent of a cosine. Each view is to be nearer to its fellow than to the other
    2 B - 2. Boehm, Berens, Kobak, ICLR 2023, arXiv:2210.09879, section 3."""
    require(first.shape == second.shape and first.ndim == 2 and len(first) > 1, "second", tuple(second.shape),
            f"be of the shape of first, {tuple(first.shape)}, with two images at least")
    both = torch.cat([first, second])
    scores = -squared_distances(both).log1p()
    scores = scores.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -math.inf)
    fellows = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(scores, fellows)
