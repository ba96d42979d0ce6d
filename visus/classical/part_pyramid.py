"""A filter with parts, placed on a pyramid of oriented gradients.

Paper: Felzenszwalb, Girshick, McAllester and Ramanan, TPAMI 2010, section 3: parts are found at twice the resolution of
the root, and each pays for its way from its anchor, so that the best placement of all parts for every root is a
convolution, a distance transform and a shifted sum (equation 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.ops.distance_transform import distance_transform_2d
from visus.ops.hog31 import CHANNELS, hog31
from visus.ops.resample import resize

CELL = 8  # px
BIAS = 10.0  # of the constant feature: so that its weight is hardly regularised


@dataclass(frozen=True)
class Filters:
    """root: [31, h, w]. parts: [P, 31, p, p]; P may be 0. anchors: their ideal places (y, x) in the root's frame, in
    cells of half the size, int64 [P, 2]. costs: of (dx, dy, dx^2, dy^2), [P, 4]. bias: times BIAS."""

    root: Tensor
    parts: Tensor
    anchors: Tensor
    costs: Tensor
    bias: float

    def vector(self) -> Tensor:
        """All weights as one [D], in the order of `Pyramid.features`."""
        return torch.cat([self.root.flatten(), self.parts.flatten(), self.costs.flatten(),
                          self.root.new_tensor([self.bias])])

    def with_vector(self, vector: Tensor) -> Filters:
        sizes = [self.root.numel(), self.parts.numel(), self.costs.numel(), 1]
        root, parts, costs, bias = vector.split(sizes)
        return Filters(root.view_as(self.root), parts.view_as(self.parts), self.anchors, costs.view_as(self.costs),
                       float(bias))

    @property
    def size(self) -> tuple[int, int]:
        return self.root.shape[1], self.root.shape[2]


@dataclass(frozen=True)
class Placements:
    """N roots with their parts. score: [N]; level: in the pyramid; root: (y, x) on that level with its border; parts:
    (y, x) of each on the level of half the cells, [N, P, 2]; boxes: of the roots, px of the image, [N, 4]."""

    score: Tensor
    level: Tensor
    root: Tensor
    parts: Tensor
    boxes: Tensor

    def take(self, chosen: Tensor) -> Placements:
        return Placements(self.score[chosen], self.level[chosen], self.root[chosen], self.parts[chosen],
                          self.boxes[chosen])

    @staticmethod
    def join(many: list[Placements]) -> Placements:
        return Placements(*(torch.cat([getattr(one, name) for one in many])
                            for name in Placements.__dataclass_fields__))


class Pyramid:
    """Features of an image [C, H, W] in [0, 1], `per_octave` levels to each halving from its own size on; roots lie on
    levels per_octave and later. border: cells of zeros around a root's level, so that objects may stick out."""

    def __init__(self, image: Tensor, per_octave: int = 4, border: int = 2, least: int = 3):
        self.per_octave, self.border = per_octave, border
        self.levels: list[Tensor] = []
        self.scales: list[tuple[float, float]] = []  # of a level: (down, across)
        height, width = image.shape[-2:]
        level = 0
        while True:
            scale = 2.0 ** (-level / per_octave)
            size = round(height * scale), round(width * scale)
            if min(size) < (least + 2) * CELL:
                break
            self.levels.append(hog31(resize(image[None], size), CELL)[0])
            self.scales.append((size[0] / height, size[1] / width))
            level += 1

    def __len__(self) -> int:
        return max(0, len(self.levels) - self.per_octave)

    def pair(self, number: int) -> tuple[Tensor, Tensor]:
        """The maps that root `number` and its parts see: [31, H, W] with its border, and [31, 2 H + 2, 2 W + 2]; place
        (y, x) of the first begins at (2 y + 1, 2 x + 1) of the second."""
        coarse = F.pad(self.levels[number + self.per_octave], (self.border,) * 4)
        fine, twice = self.levels[number], 2 * self.border
        below = 2 * coarse.shape[1] + 2 - fine.shape[1] - twice
        right = 2 * coarse.shape[2] + 2 - fine.shape[2] - twice
        return coarse, F.pad(fine, (twice, right, twice, below))

    def boxes(self, number: int, root: Tensor, size: tuple[int, int]) -> Tensor:
        """Roots (y, x) [N, 2] of a level -> boxes in px, [N, 4]."""
        down, across = self.scales[number + self.per_octave]
        corner = (root.flip(-1) + 1 - self.border).to(torch.float32)  # cells at the rim have no features
        boxes = torch.cat([corner, corner + corner.new_tensor([size[1], size[0]])], -1) * CELL
        return boxes / boxes.new_tensor([across, down, across, down])

    def scores(self, filters: Filters, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Best score of every root of a level, [H', W'], and where its parts are, rows and columns [P, H', W']."""
        coarse, fine = self.pair(number)
        height, width = filters.size
        if coarse.shape[1] < height or coarse.shape[2] < width:
            empty = torch.zeros(len(filters.parts), 0, 0, dtype=torch.int64, device=coarse.device)
            return coarse.new_zeros(0, 0), empty, empty
        total = F.conv2d(coarse[None], filters.root[None])[0, 0] + BIAS * filters.bias
        if not len(filters.parts):
            empty = torch.zeros(0, *total.shape, dtype=torch.int64, device=coarse.device)
            return total, empty, empty
        found = F.conv2d(fine[None], filters.parts)[0]  # [P, ...]
        best, row, column = distance_transform_2d(found, filters.costs)
        y = 2 * torch.arange(total.shape[0], device=total.device)[None, :, None] + 1 + filters.anchors[:, 0, None, None]
        x = 2 * torch.arange(total.shape[1], device=total.device)[None, None, :] + 1 + filters.anchors[:, 1, None, None]
        part = torch.arange(len(found), device=total.device)[:, None, None]
        return total + best[part, y, x].sum(0), row[part, y, x], column[part, y, x]

    def place(self, filters: Filters, least: float = -torch.inf, most: int | None = None) -> Placements:
        """Every root that scores at least `least`, or the `most` best of them."""
        many = []
        for number in range(len(self)):
            score, row, column = self.scores(filters, number)
            chosen = (score >= least).nonzero()
            y, x = chosen.T
            many.append(Placements(score[y, x], torch.full((len(y),), number), chosen,
                                   torch.stack([row[:, y, x].T, column[:, y, x].T], -1),
                                   self.boxes(number, chosen, filters.size)))
        if not many:
            empty = torch.zeros(0, 2, dtype=torch.int64)
            return Placements(torch.zeros(0), empty[:, 0], empty, empty[:, None].expand(0, len(filters.parts), 2),
                              torch.zeros(0, 4))
        found = Placements.join(many)
        return found if most is None or len(found.score) <= most else found.take(found.score.topk(most).indices)

    def features(self, filters: Filters, at: Placements) -> Tensor:
        """What the score is a product with: `filters.vector()` times a row is its score. [N, D]."""
        rows = torch.zeros(len(at.score), filters.vector().numel(), device=at.score.device)
        height, width = filters.size
        count, size = len(filters.parts), filters.parts.shape[-1]
        for number in at.level.unique().tolist():
            chosen = (at.level == number).nonzero()[:, 0]
            coarse, fine = self.pair(number)
            y, x = at.root[chosen].T
            found = [coarse.unfold(1, height, 1).unfold(2, width, 1)[:, y, x].transpose(0, 1).flatten(1)]
            if count:
                v, u = at.parts[chosen].unbind(-1)  # [n, P]
                patches = fine.unfold(1, size, 1).unfold(2, size, 1)[:, v, u]  # [31, n, P, p, p]
                dy = (v - (2 * y + 1)[:, None] - filters.anchors[:, 0]).to(rows.dtype)
                dx = (u - (2 * x + 1)[:, None] - filters.anchors[:, 1]).to(rows.dtype)
                found += [patches.permute(1, 2, 0, 3, 4).flatten(1),
                          -torch.stack([dx, dy, dx.square(), dy.square()], -1).flatten(1)]
            rows[chosen] = torch.cat([*found, torch.full_like(rows[chosen][:, :1], BIAS)], 1)
        return rows


def root_only(height: int, width: int) -> Filters:
    """A root of zeros without parts."""
    return Filters(torch.zeros(CHANNELS, height, width), torch.zeros(0, CHANNELS, 1, 1),
                   torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 4), 0.0)
