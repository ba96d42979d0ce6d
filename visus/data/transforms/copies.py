"""Moves that need no warp: pixels copied one by one, and boxes of whole pixels in another size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms.placement import Placement
from visus.ops.resample import resize

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, for a colour around grey images
_WHOLE = 1e-6  # pixels within which a border counts as lying between two pixels


def resampling(chain: Sequence[Placement]) -> int:
    """How many of the moves can mix pixels."""
    return sum(not placement.exact for placement in chain)


def moved_plainly(image: Tensor, chain: list[Placement]) -> tuple[Tensor, list[Placement]]:
    """The image after the first moves that need no warp, and the moves that are left."""
    while chain:
        if chain[0].exact:
            image = _copied(image, chain[0])
            chain = chain[1:]
            continue
        several = resampling(chain) > 1
        box = _source_box(image.shape[1], image.shape[2], chain if several else chain[:1])
        if box is None:
            break
        last = chain[-1] if several else chain[0]
        image = _resized_box(image, box, last.height, last.width)
        chain = [] if several else chain[1:]
    return image, chain


def aligned_sources(chain: Sequence[Placement], axis: int, size: int) -> tuple[Tensor, Tensor]:
    """(int64, bool) [w or h]: in which column (axis 0) or row (1) of `size` each of the output's has its centre, and
    whether in one at all. All moves are aligned."""
    place = torch.arange((chain[-1].width, chain[-1].height)[axis], dtype=torch.float64) + 0.5
    inside = torch.ones(len(place), dtype=torch.bool)
    for number, placement in reversed(list(enumerate(chain))):
        before = size if not number else (chain[number - 1].width, chain[number - 1].height)[axis]
        place = (place * placement.matrix[2, 2] - placement.matrix[axis, 2]) / placement.matrix[axis, axis]
        if placement.outside == "fill":
            inside &= (place >= 0) & (place < before)
            place = place.clamp(0, before)
        else:
            place = folded(place - 0.5, torch.tensor(before), placement.outside) + 0.5
    return place.floor().long().clamp_(0, size - 1), inside


def folded(place: Tensor, size: Tensor, outside: str) -> Tensor:
    """Positions on an axis whose pixels have the centres 0, 1, ..., brought into [0, size - 1] as Placement says."""
    if outside != "border":
        between = 0 if outside == "symmetric" else 1
        period = (2 * (size - between)).clamp(min=1)
        place = place.remainder(period)
        place = torch.minimum(place, period - (1 - between) - place)
    return torch.minimum(place, size - 1).clamp(min=0)


def fill_colour(fill: tuple[float, ...], channels: int) -> Tensor:
    """[channels, 1, 1] in [0, 1]."""
    values = fill
    if len(fill) == 3 and channels == 1:
        values = (sum(weight * value for weight, value in zip(_LUMA, fill, strict=True)),)
    return torch.tensor(values, dtype=torch.float32).expand(channels)[:, None, None]


def _copied(image: Tensor, placement: Placement) -> Tensor:
    spans = []  # (dim, first position, count), which may reach beyond the image
    for axis, size in ((0, placement.width), (1, placement.height)):
        dim = 2 - axis
        start = -round(placement.matrix[axis, 2])
        if placement.matrix[axis, axis] < 0:
            image, start = image.flip(dim), start + image.shape[dim]
        spans.append((dim, start, size))
    if placement.outside != "fill":
        for dim, start, size in spans:
            places = folded(torch.arange(start, start + size), torch.tensor(image.shape[dim]), placement.outside)
            image = image.index_select(dim, places.to(image.device))
        return image
    inner = [(dim, max(start, 0), min(start + size, image.shape[dim])) for dim, start, size in spans]
    cut = image
    for dim, first, last in inner:
        cut = cut.narrow(dim, min(first, cut.shape[dim]), max(last - first, 0))
    if cut.shape[1:] == (placement.height, placement.width):
        return cut
    colour = fill_colour(placement.fill, image.shape[0])
    if image.dtype == torch.uint8:
        colour = (255 * colour).round()
    canvas = colour.to(image).expand(-1, placement.height, placement.width).clone()
    if cut.numel():
        (_, left, _), (_, top, _) = spans
        canvas[:, max(-top, 0):max(-top, 0) + cut.shape[1], max(-left, 0):max(-left, 0) + cut.shape[2]] = cut
    return canvas


def _source_box(height: int, width: int, chain: list[Placement]) -> tuple[int, int, int, int, bool, bool] | None:
    """(left, top, right, bottom, mirrored left to right, top to bottom) when the moves are a box of whole pixels, all
    inside the image and inside each stage between, in another size; else None."""
    if not all(placement.aligned for placement in chain):
        return None
    corners = np.array([[0, 0], [chain[-1].width, chain[-1].height]], np.float64)
    for position in reversed(range(len(chain))):
        corners = chain[position].backward(corners)
        size = (width, height) if not position else (chain[position - 1].width, chain[position - 1].height)
        if (corners < -_WHOLE).any() or (corners > np.array(size) + _WHOLE).any():
            return None
    whole = np.rint(corners)
    if (np.abs(corners - whole) > _WHOLE).any() or (whole[0] == whole[1]).any():
        return None
    (left, top), (right, bottom) = whole.min(0).astype(int).tolist(), whole.max(0).astype(int).tolist()
    return left, top, right, bottom, bool(whole[0, 0] > whole[1, 0]), bool(whole[0, 1] > whole[1, 1])


def _resized_box(image: Tensor, box: tuple[int, int, int, int, bool, bool], height: int, width: int) -> Tensor:
    left, top, right, bottom, *mirrored = box
    cut = resize(image[None, :, top:bottom, left:right], (height, width))[0]
    dims = [dim for dim, flipped in zip((-1, -2), mirrored, strict=True) if flipped]
    return cut.flip(dims) if dims else cut
