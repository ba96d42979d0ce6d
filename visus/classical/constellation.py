"""The constellation model: an object is a few interest points of typical looks and layout, learnt without marks.

Paper: Fergus, Perona and Zisserman, Object Class Recognition by Unsupervised Scale-Invariant Learning, CVPR 2003: every
way of taking P of an image's N points for the P parts is a hypothesis; the likelihood is the sum over all of them, and
EM finds layout and looks together. Departures: no part is hidden, all points have one scale, looks have diagonal
covariances. The layout is that of the other parts seen from the first, so where the object is does not matter.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import positive, require

MOST_HYPOTHESES = 100_000  # of an image
SHAPE_RIDGE, LOOK_RIDGE = 0.25, 0.02  # added to variances, in px^2 and as a share of the ground's
FIRST_SPREAD_PX = 5.0  # of the layout at the beginning


def interest_points(images: Tensor, count: int, side: int = 9, sigma: float = 2.0) -> tuple[Tensor, Tensor]:
    """The `count` strongest places of each image where the energy around the local mean has a maximum, (y, x)
    [B, count, 2], and the patches around them, of mean 0, [B, count, side * side]. images: [B, H, W]."""
    positive(count=count)
    reach = side // 2
    line = torch.arange(-3 * math.ceil(sigma), 3 * math.ceil(sigma) + 1, dtype=images.dtype)
    kernel = torch.softmax(-line.square() / (2 * sigma**2), 0)

    def blurred(maps: Tensor) -> Tensor:
        maps = F.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(len(line) // 2, 0))
        return F.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, len(line) // 2))

    ground = images[:, None]
    energy = blurred((ground - blurred(ground)).square())
    peaks = torch.where(energy == F.max_pool2d(energy, side, 1, reach), energy, energy.new_tensor(-1.0))[:, 0]
    inside = peaks[:, reach:-reach, reach:-reach]
    best = inside.flatten(1).topk(count).indices
    y, x = best // inside.shape[2] + reach, best % inside.shape[2] + reach
    windows = images.unfold(1, side, 1).unfold(2, side, 1)  # [B, H', W', side, side]
    patches = windows[torch.arange(len(images))[:, None], y - reach, x - reach].flatten(2)
    return torch.stack([y, x], -1).to(images.dtype), patches - patches.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Constellation:
    """layout: mean [2 (P - 1)] and covariance of the other parts' places from the first. looks: means and variances of
    the parts' appearances, [P, D]; ground: those of any point, [D]. area: of an image, px^2: where stray points lie."""

    layout_mean: Tensor
    layout_covariance: Tensor
    look_mean: Tensor
    look_variance: Tensor
    ground_mean: Tensor
    ground_variance: Tensor
    area: float

    def log_ratios(self, places: Tensor, looks: Tensor, hypotheses: Tensor) -> Tensor:
        """Log-likelihood of each hypothesis over that of an image of stray points alone: places [B, N, 2], looks
        [B, N, D], hypotheses int64 [H, P] -> [B, H]."""
        relative = _relative(places, hypotheses)
        normal = torch.distributions.MultivariateNormal(self.layout_mean, self.layout_covariance, validate_args=False)
        shape = normal.log_prob(relative) + (hypotheses.shape[1] - 1) * math.log(self.area)
        ground = _log_normal(looks[:, :, None], self.ground_mean, self.ground_variance)  # [B, N, 1]
        part = _log_normal(looks[:, :, None], self.look_mean, self.look_variance) - ground  # [B, N, P]
        which = torch.arange(hypotheses.shape[1])
        return shape + part[:, hypotheses, which].sum(-1)

    def score(self, places: Tensor, looks: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the likelihood ratio of object to no object, [B], and each part's point in the best hypothesis, int64
        [B, P]."""
        hypotheses = all_hypotheses(places.shape[1], len(self.look_mean))
        ratios = self.log_ratios(places, looks, hypotheses)
        return ratios.logsumexp(1) - math.log(len(hypotheses)), hypotheses[ratios.argmax(1)]


def all_hypotheses(points: int, parts: int) -> Tensor:
    """Every way of giving each part a point of its own, int64 [N! / (N - P)!, P]. Raises UserError where they are too
    many."""
    count = math.perm(points, parts)
    if not 0 < count <= MOST_HYPOTHESES:
        raise UserError(f"{parts} parts among {points} points make {count:,} hypotheses",
                        remedy=f"Take at least as many points as parts, and at most {MOST_HYPOTHESES:,} hypotheses")
    return torch.tensor(list(itertools.permutations(range(points), parts)))


def learn_constellation(places: Tensor, looks: Tensor, area: float, parts: int = 3, steps: int = 40, starts: int = 5,
                        seed: int = 0) -> tuple[Constellation, list[float]]:
    """EM from `starts` beginnings, each a hypothesis of one image; the one of greatest likelihood, and its mean log
    ratio before each step. places: [B, N, 2] in px; looks: [B, N, D]; area: of an image in px^2."""
    positive(parts=parts, steps=steps, starts=starts)
    require(parts >= 2, "parts", parts, "be at least 2")
    hypotheses = all_hypotheses(places.shape[1], parts)
    draw = torch.Generator().manual_seed(seed)
    flat = looks.flatten(0, 1)
    ground = flat.mean(0), flat.var(0, correction=0)
    best: tuple[Constellation, list[float]] | None = None
    for _ in range(starts):
        image, way = (int(torch.randint(size, (), generator=draw)) for size in (len(places), len(hypotheses)))
        layout = _relative(places[image:image + 1], hypotheses[way:way + 1])[0, 0]
        model = Constellation(layout, FIRST_SPREAD_PX**2 * torch.eye(len(layout)), looks[image, hypotheses[way]],
                              ground[1].expand(parts, -1) / 2, *ground, area)
        curve = []
        for _ in range(steps):
            ratios = model.log_ratios(places, looks, hypotheses)
            curve.append(float((ratios.logsumexp(1) - math.log(len(hypotheses))).mean()))
            model = _maximised(model, places, looks, hypotheses, ratios.softmax(1))
        if best is None or curve[-1] > best[1][-1]:
            best = model, curve
    assert best is not None
    return best


def _maximised(model: Constellation, places: Tensor, looks: Tensor, hypotheses: Tensor,
               share: Tensor) -> Constellation:
    """The model of greatest expected likelihood under the shares [B, H] of the hypotheses."""
    relative = _relative(places, hypotheses)
    weight = share / share.sum()
    mean = torch.einsum("bh,bhd->d", weight, relative)
    away = relative - mean
    covariance = torch.einsum("bh,bhd,bhe->de", weight, away, away) + SHAPE_RIDGE * torch.eye(len(mean))
    point = torch.zeros(len(places), places.shape[1], hypotheses.shape[1])  # share of each point in each part
    for part, column in enumerate(hypotheses.T):
        point[:, :, part].index_add_(1, column, share)
    point = point / point.sum((0, 1))
    look = torch.einsum("bnp,bnd->pd", point, looks)
    spread = torch.einsum("bnp,bnpd->pd", point, (looks[:, :, None] - look).square())
    spread = spread + LOOK_RIDGE * model.ground_variance
    return Constellation(mean, covariance, look, spread, model.ground_mean, model.ground_variance, model.area)


def _relative(places: Tensor, hypotheses: Tensor) -> Tensor:
    """[B, N, 2] -> [B, H, 2 (P - 1)]."""
    at = places[:, hypotheses]  # [B, H, P, 2]
    return (at[:, :, 1:] - at[:, :, :1]).flatten(2)


def _log_normal(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Of a diagonal Gaussian, summed over the last dimension."""
    return -0.5 * ((values - mean).square() / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
