"""SIFT: keypoints that are found again when an image is turned, enlarged or lit otherwise, with 128 numbers each.

Paper: Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 60, 2004, section 6: gradients around a
place, in its own direction and scale, weighted by a Gaussian of half the window's width, counted in 4 x 4 cells of 8
directions with votes shared between neighbours; scaled to unit length, no number above 0.2, scaled again. On a regular
grid, without keypoints, the same descriptor is what bags of visual words are made of (Lazebnik et al., CVPR 2006).
Places are in px from the centre of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import positive, require
from visus.ops.hog import LUMA
from visus.ops.scale_space import Detector, Found, Octave, blur, central_differences, keypoints, scale_space

CELLS = 4  # to a side
BINS = 8  # directions of a cell
LENGTH = CELLS * CELLS * BINS
CELL_SIGMAS = 3.0  # side of a cell in sigmas of its keypoint, as in Lowe's program
CLIP = 0.2
_SAMPLES = 4  # to a cell's side, of the grid that a keypoint's gradients are read on
_FAINT = 1e-3  # sums of gradients whose length is below count as none: what rounding leaves of a flat image
_AT_ONCE = 512  # keypoints


@dataclass(frozen=True)
class Keypoints:
    """Of one image. places: [N, 2], x and y. sigmas: [N] in px. angles: [N], radians from the x axis towards the y axis
    (downwards). strengths: [N], how far they stand out. descriptors: [N, 128], of unit length, as row of cells, column
    of cells, direction."""

    places: Tensor
    sigmas: Tensor
    angles: Tensor
    strengths: Tensor
    descriptors: Tensor

    def __len__(self) -> int:
        return len(self.places)


def sift(images: Tensor, options: Detector | None = None) -> list[Keypoints]:
    """[B, 1 or 3, H, W] in [0, 1] -> the keypoints of each image, strongest first. RGB counts as its luma.
    The descriptors are differentiable with respect to the images, the places are not."""
    options = options or Detector()
    grey = luma(images)
    octaves = scale_space(grey, options)
    parts: list[tuple[Found, Tensor, Octave]] = []
    for octave in octaves:
        with torch.no_grad():
            found = keypoints(octave, options)
        parts.append((found, _described(octave, found), octave))
    image = torch.cat([found.image for found, _, _ in parts])
    columns = [torch.cat([torch.stack([octave.places(part, octaves[0].pixel) for part in (found.x, found.y)], dim=1)
                          for found, _, octave in parts]),
               torch.cat([found.sigma * octave.pixel for found, _, octave in parts]),
               *(torch.cat([getattr(found, name) for found, _, _ in parts]) for name in ("angle", "strength")),
               torch.cat([descriptors for _, descriptors, _ in parts])]
    result = []
    for number in range(len(images)):
        own = (image == number).nonzero()[:, 0]
        own = own[torch.argsort(columns[3][own], descending=True, stable=True)]
        own = own[:options.most] if options.most else own
        result.append(Keypoints(*(column[own] for column in columns)))
    return result


def dense_places(height: int, width: int, cell: int, step: int) -> Tensor:
    """Centres of the windows that `dense_sift` describes, [rows, columns, 2], x and y in px from the first pixel's
    centre. Raises UserError when no window fits."""
    positive(cell=cell, step=step)
    lines = []
    for side in (height, width):
        room = side - CELLS * cell
        if room < 0:
            raise UserError(f"has no room for a window of {CELLS} x {CELLS} cells of {cell} px",
                            where=f"an image of {height} x {width} px", remedy="Use larger images or smaller cells")
        count = room // step + 1
        lines.append(torch.arange(count) * step + (room - (count - 1) * step) // 2 + (CELLS * cell - 1) / 2)
    down, across = torch.meshgrid(*lines, indexing="ij")
    return torch.stack([across, down], dim=-1)


def dense_sift(images: Tensor, *, cell: int = 4, step: int = 8, sigma: float | None = None) -> Tensor:
    """[B, 1 or 3, H, W] in [0, 1] -> upright descriptors on a grid, [B, rows, columns, 128].

    cell: side of a cell in px (a window is 4 of them wide). step: px from window to window. sigma: of the blur
    beforehand; None = what a keypoint with such cells would have, cell / 3. Windows without any gradient give zeros.
    Differentiable.
    """
    height, width = images.shape[-2:]
    places = dense_places(height, width, cell, step).to(images)
    sigma = cell / CELL_SIGMAS if sigma is None else sigma
    require(sigma >= 0, "sigma", sigma, "be at least 0")
    part = max(1, (1 << 18) // (height * width))
    if len(images) > part:
        return torch.cat([dense_sift(some, cell=cell, step=step, sigma=sigma) for some in images.split(part)])
    grey = luma(images)
    gradients = central_differences((blur(grey, sigma) if sigma else grey)[:, 0])  # [B, H, W, 2]
    votes = _votes(gradients, gradients.new_zeros(()))  # [B, 8, H, W]
    columns, rows = (_cell_weights((torch.arange(side, device=images.device) - line[:, None]) / cell)  # [n, side, 4]
                     for side, line in ((width, places[0, :, 0]), (height, places[:, 0, 1])))
    sums = votes @ columns.permute(1, 0, 2).flatten(1)  # [B, 8, H, columns * 4]
    sums = rows.permute(0, 2, 1).flatten(0, 1) @ sums  # [B, 8, rows * 4, columns * 4]
    sums = sums.unflatten(3, (-1, CELLS)).unflatten(2, (-1, CELLS))  # [B, 8, rows, 4, columns, 4]
    return _finished(sums.permute(0, 2, 4, 3, 5, 1).flatten(3))


def match(first: Tensor, second: Tensor, ratio: float = 0.8) -> Tensor:
    """Descriptors [N, D], [M, D] -> pairs of rows, int64 [K, 2]: the nearest of `second`, taken where it is nearer than
    `ratio` times the next one (section 7.1), and where `first` is its nearest too."""
    require(0 < ratio <= 1, "ratio", ratio, "lie in (0, 1]")
    if len(first) == 0 or len(second) == 0:
        return torch.zeros(0, 2, dtype=torch.int64, device=first.device)
    pairs = []
    back = torch.cat([torch.cdist(part, first).argmin(1) for part in second.split(4096)])
    for start in range(0, len(first), 4096):
        apart = torch.cdist(first[start:start + 4096], second)
        best = apart.topk(min(2, len(second)), largest=False)
        own = torch.arange(start, start + len(apart), device=first.device)
        good = back[best.indices[:, 0]] == own
        if len(second) > 1:
            good &= best.values[:, 0] < ratio * best.values[:, 1]
        pairs.append(torch.stack([own[good], best.indices[good, 0]], dim=1))
    return torch.cat(pairs)


def luma(images: Tensor) -> Tensor:
    """[B, 1 or 3, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    require(images.shape[1] == 3, "images", tuple(images.shape), "have one channel or three")
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _described(octave: Octave, found: Found) -> Tensor:
    """Keypoints of an octave -> [N, 128]."""
    if not len(found.x):
        return octave.blurred.new_zeros(0, LENGTH)
    return torch.cat([_window(octave.blurred, found.at(index))
                      for index in torch.arange(len(found.x), device=found.x.device).split(_AT_ONCE)])


def _window(blurred: Tensor, found: Found) -> Tensor:
    """The gradients on a grid in the keypoint's own frame, half a cell wider than the window on all sides, counted."""
    height, width = blurred.shape[-2:]
    side = (CELLS + 1) * _SAMPLES
    line = (torch.arange(side, dtype=found.x.dtype, device=found.x.device) + 0.5) / _SAMPLES - (CELLS + 1) / 2
    cell, cos, sin = (part[:, None, None] for part in (CELL_SIGMAS * found.sigma, found.angle.cos(), found.angle.sin()))
    across, down = line[None, None, :] * cell, line[None, :, None] * cell
    x, y = found.x[:, None, None] + cos * across - sin * down, found.y[:, None, None] + sin * across + cos * down
    left, top = x.floor().long(), y.floor().long()
    maps = (found.image * blurred.shape[1] + found.level)[:, None, None] * (height * width)
    columns = [(left + step).clamp(0, width - 1) for step in (-1, 0, 1, 2)]
    rows = [maps + (top + step).clamp(0, height - 1) * width for step in (-1, 0, 1, 2)]
    flat, share_x, share_y = blurred.flatten(), x - left, y - top
    values = {(i, j): flat[rows[i] + columns[j]] for i in range(4) for j in range(4) if {i, j} & {1, 2}}

    def between(i: int, j: int) -> Tensor:
        """The image between the pixels (i, j) to (i + 1, j + 1) of the 4 x 4 around."""
        upper, lower = (torch.lerp(values[row, j], values[row, j + 1], share_x) for row in (i, i + 1))
        return torch.lerp(upper, lower, share_y)

    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).to(x.dtype) / 2
    gradients = torch.stack([between(1, 2) - between(1, 0), between(2, 1) - between(0, 1)], dim=-1) * inside[..., None]
    votes = _votes(gradients, found.angle[:, None, None])  # [N, 8, side, side]
    weights = _cell_weights(line[None])[0]  # [side, 4]
    sums = weights.T @ (votes @ weights)  # [N, 8, 4, 4]
    return _finished(sums.permute(0, 2, 3, 1).flatten(1))


def _votes(gradients: Tensor, angles: Tensor) -> Tensor:
    """[N, H, W, 2] -> [N, 8, H, W]: magnitudes, shared between the two directions next to their own, which counts from
    `angles`."""
    across, down = gradients.unbind(-1)
    magnitudes = (across.square() + down.square()).clamp(min=1e-30).sqrt()
    place = (torch.atan2(down, across) - angles) * (BINS / (2 * math.pi)) % BINS
    below = place.floor()
    share, bins = place - below, below.long() % BINS
    empty = magnitudes.new_zeros(len(magnitudes), BINS, *magnitudes.shape[1:])
    return empty.scatter_add(1, bins[:, None], (magnitudes * (1 - share))[:, None]).scatter_add(
        1, ((bins + 1) % BINS)[:, None], (magnitudes * share)[:, None])


def _cell_weights(places: Tensor) -> Tensor:
    """Distances from the centre of a window in cells [..., side] -> share of each of its 4 cells, times the Gaussian of
    the window [..., side, 4]."""
    centres = torch.arange(CELLS, dtype=places.dtype, device=places.device) - (CELLS - 1) / 2
    shares = (1 - (places[..., None] - centres).abs()).clamp(min=0)
    return shares * torch.exp(-0.5 * (places / (CELLS / 2)) ** 2)[..., None]


def _finished(sums: Tensor) -> Tensor:
    """[..., 128] scaled to unit length, clipped, scaled again; zeros where there is next to no gradient."""
    length = (sums.square().sum(-1, keepdim=True) + 1e-30).sqrt()
    clipped = (sums / length.clamp(min=_FAINT)).clamp(max=CLIP)
    scaled = clipped / (clipped.square().sum(-1, keepdim=True) + 1e-30).sqrt()
    return torch.where(length > _FAINT, scaled, torch.zeros_like(scaled))
