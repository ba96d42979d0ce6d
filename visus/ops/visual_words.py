"""Images as counts of visual words: local descriptors, each replaced by the nearest of a codebook, counted.

Papers: Sivic and Zisserman, Video Google, ICCV 2003, and Csurka et al., Visual Categorization with Bags of Keypoints,
ECCV workshop 2004 (the bag); Grauman and Darrell, ICCV 2005, and Lazebnik, Schmid, Ponce, Beyond Bags of Features, CVPR
2006 (the spatial pyramid: a bag for each cell of grids of 1, 2 x 2, 4 x 4, finer ones counting more); Vedaldi and
Zisserman, Efficient Additive Kernels via Explicit Feature Maps, PAMI 34, 2012 (features whose inner products are nearly
the intersection kernel, so that a linear classifier does).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visus.core.validate import positive, require


def bag(words: Tensor, num_words: int) -> Tensor:
    """Words of each image, int64 [B, N] (negative: none) -> shares [B, num_words] of those that there are."""
    return spatial_pyramid(words, words.new_zeros(words.shape[1], 2, dtype=torch.float32), num_words, levels=1)


def spatial_pyramid(words: Tensor, places: Tensor, num_words: int, levels: int = 3) -> Tensor:
    """Weighted histograms of all cells of all grids, [B, num_words * (4^levels - 1) / 3], which sum to 1 where an
    image has words.

    words: int64 [B, N], negative for none. places: [N, 2], x and y as shares of width and height, in [0, 1]. Level l of
    `levels` has 2^l x 2^l cells and, with L = levels - 1, the weight 1 / 2^(L - l + 1), level 0 that of level 1: the
    intersection of two images then is the pyramid match kernel (Lazebnik, equation 3). Order: level, cell row, cell
    column, word.
    """
    positive(num_words=num_words, levels=levels)
    there = (words >= 0).to(torch.float32)
    parts = []
    for level, weight in enumerate(level_weights(levels)):
        side = 2**level
        cells = (places * side).long().clamp_(0, side - 1)  # [N, 2]
        index = (cells[:, 1] * side + cells[:, 0]) * num_words + words.clamp(min=0)  # [B, N]
        counts = torch.zeros(len(words), side * side * num_words, device=words.device)
        parts.append(weight * counts.scatter_add_(1, index, there))
    return torch.cat(parts, dim=1) / there.sum(1, keepdim=True).clamp(min=1) / sum(level_weights(levels))


def level_weights(levels: int) -> list[float]:
    """1/4, 1/4, 1/2 for three levels (Lazebnik, section 3.1)."""
    last = levels - 1
    return [1 / 2 ** (last - max(level, 1) + 1) for level in range(levels)]


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Histogram intersection kernel: histograms [N, D], [M, D] -> sums of the smaller numbers of each pair [N, M]."""
    rows = max(1, (1 << 24) // max(1, second.numel()))
    return torch.cat([torch.minimum(part[:, None], second[None]).sum(2) for part in first.split(rows)])


def intersection_features(histograms: Tensor, order: int = 1, period: float = 0.7) -> Tensor:
    """Histograms [N, D], at least 0 -> [N, D * (2 order + 1)], whose inner products are nearly `intersection`.

    Vedaldi and Zisserman, equation 12, with the spectrum 2 / (pi (1 + 4 w^2)) of the intersection kernel, read at
    multiples of `period`. order 0: square roots alone (the Hellinger kernel).
    """
    require(isinstance(order, int) and order >= 0, "order", order, "be a whole number of at least 0")
    require(period > 0, "period", period, "be above 0")
    roots = histograms.clamp(min=0).sqrt()
    if order == 0:
        return roots
    logs = torch.where(histograms > 0, histograms, torch.ones_like(histograms)).log()
    parts = [roots * math.sqrt(period * _spectrum(0.0))]
    for step in range(1, order + 1):
        scale = math.sqrt(2 * period * _spectrum(step * period))
        parts += [roots * scale * (step * period * logs).cos(), roots * scale * (step * period * logs).sin()]
    return torch.cat(parts, dim=1)


def _spectrum(frequency: float) -> float:
    return 2 / (math.pi * (1 + 4 * frequency**2))
