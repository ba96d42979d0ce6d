"""Histograms of oriented gradients with 31 numbers a cell, in which normalisation is kept apart from orientation.

Paper: Felzenszwalb, Girshick, McAllester and Ramanan, Object Detection with Discriminatively Trained Part Based Models,
TPAMI 2010, section 6: 18 signed and 9 unsigned orientations, each the sum over four normalisations by 2 x 2 blocks,
truncated at 0.2, and the 4 sums of the truncated unsigned energies. An analytic projection of 4 x 27 numbers, near
to their principal components. Pixels vote for the nearest orientation and, bilinearly, for the nearest four cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.validate import positive, require

SIGNED, UNSIGNED = 18, 9
CHANNELS = SIGNED + UNSIGNED + 4
TRUNCATION = 0.2
TEXTURE = 0.2357  # about 1 / sqrt(18), the weight of the four sums


def hog31(images: Tensor, cell: int = 8) -> Tensor:
    """[B, C, H, W], values in [0, 1] -> [B, 31, H // cell - 2, W // cell - 2]: the cells at the border lack a neighbour
    and are left out, as are pixels right of and below the last whole cell."""
    positive(cell=cell)
    require(cell % 2 == 0, "cell", cell, "be even")
    rows, columns = images.shape[-2] // cell, images.shape[-1] // cell
    if min(rows, columns) < 3:
        return images.new_zeros(len(images), CHANNELS, max(0, rows - 2), max(0, columns - 2))
    orientation, magnitude = _gradients(images[..., :rows * cell, :columns * cell])
    votes = torch.zeros(len(images), SIGNED, *magnitude.shape[-2:], dtype=images.dtype, device=images.device)
    votes.scatter_(1, orientation[:, None], magnitude[:, None])
    signed = _cells(votes, cell)  # [B, 18, rows, columns]
    unsigned = signed[:, :UNSIGNED] + signed[:, UNSIGNED:]
    energy = F.avg_pool2d(unsigned.square().sum(1, keepdim=True), 2, 1) * 4  # of each 2 x 2 block
    scale = (energy + 1e-4).rsqrt()
    # The four blocks that a cell lies in.
    blocks = torch.stack([scale[..., 1:, 1:], scale[..., :-1, 1:], scale[..., 1:, :-1], scale[..., :-1, :-1]], 1)
    parts = []
    for histogram in (signed, unsigned):
        parts.append((histogram[:, None, :, 1:-1, 1:-1] * blocks).clamp(max=TRUNCATION))  # [B, 4, bins, h, w]
    return torch.cat([0.5 * parts[0].sum(1), 0.5 * parts[1].sum(1), TEXTURE * parts[0].sum(2)], 1)


def mirror(features: Tensor) -> Tensor:
    """The features [..., 31, h, w] of the image in a mirror: channels change places, and columns are turned round."""
    turned = [(UNSIGNED - k) % SIGNED for k in range(SIGNED)]
    unsigned = [SIGNED + (UNSIGNED - k) % UNSIGNED for k in range(UNSIGNED)]
    texture = [SIGNED + UNSIGNED + k for k in (2, 3, 0, 1)]
    return features.flip(-1)[..., turned + unsigned + texture, :, :]


def glyphs(weights: Tensor, side: int = 20) -> Tensor:
    """A filter [31, h, w] or features as a picture [h * side, w * side] of strokes along the edges: what is positive of
    each unsigned orientation, in [0, 1]."""
    strength = (weights[SIGNED:SIGNED + UNSIGNED] + weights[:UNSIGNED] + weights[UNSIGNED:SIGNED]).clamp(min=0)
    middle = (side - 1) / 2
    y, x = torch.meshgrid(torch.arange(side) - middle, torch.arange(side) - middle, indexing="ij")
    angle = torch.arange(UNSIGNED)[:, None, None] * (math.pi / UNSIGNED) + math.pi / 2  # an edge is across its gradient
    apart = (x * angle.sin() - y * angle.cos()).abs()
    strokes = ((1.2 - apart).clamp(0, 1)) * (x.square() + y.square() < (0.48 * side) ** 2)
    picture = torch.einsum("ohw,oyx->hywx", strength.cpu(), strokes.to(weights.dtype))
    return (picture / picture.max().clamp(min=1e-12)).reshape(weights.shape[1] * side, weights.shape[2] * side)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of 18 orientations, int64 [B, H, W], and the magnitude [B, H, W], of the channel whose centred
    difference is largest; the outermost pixels have none."""
    dx = F.pad(images[..., 1:-1, 2:] - images[..., 1:-1, :-2], (1, 1, 1, 1))
    dy = F.pad(images[..., 2:, 1:-1] - images[..., :-2, 1:-1], (1, 1, 1, 1))
    squared, channel = (dx.square() + dy.square()).max(1, keepdim=True)
    dx, dy = dx.gather(1, channel), dy.gather(1, channel)
    place = torch.remainder(torch.atan2(dy, dx), math.pi) * (UNSIGNED / math.pi)
    best = (place - 0.5 - 1e-6).ceil().long() % UNSIGNED  # the lower of two at the same angle, as for upright gradients
    angle = torch.arange(UNSIGNED, device=images.device, dtype=images.dtype) * (math.pi / UNSIGNED)
    turned = (dx * angle.cos()[best] + dy * angle.sin()[best] < 0).long() * UNSIGNED
    return (best + turned)[:, 0], squared[:, 0].sqrt()


def _cells(votes: Tensor, cell: int) -> Tensor:
    """Votes [B, K, rows * cell, columns * cell] -> [B, K, rows, columns]: each pixel's vote goes to the cells around it
    by bilinear shares, which is a tent of two cells' width at stride one cell."""
    place = (torch.arange(2 * cell, device=votes.device, dtype=votes.dtype) + 0.5) / cell - 1
    tent = 1 - place.abs()
    bins = votes.shape[1]
    padded = F.pad(votes, (cell // 2,) * 4)
    down = F.conv2d(padded, tent.view(1, 1, -1, 1).expand(bins, 1, -1, 1), stride=(cell, 1), groups=bins)
    return F.conv2d(down, tent.view(1, 1, 1, -1).expand(bins, 1, 1, -1), stride=(1, cell), groups=bins)
