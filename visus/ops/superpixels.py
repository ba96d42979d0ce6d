"""Superpixels: an image cut into compact segments of like colour that follow its edges.

Paper: Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012: k-means over colour
(CIELAB) and place, each centre looking only around itself, on a regular grid at first; distance of equation 3. Stray
parts then join a neighbour. Departures: centres do not start at the lowest gradient of the nine places around them, and
a stray part joins the largest segment that it touches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visus.core.validate import positive, require

# sRGB to CIE XYZ (IEC 61966-2-1), and the white of daylight D65 that CIELAB is relative to.
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in [0, 1], [B, 3, H, W] -> CIELAB: lightness in [0, 100], a and b about [-128, 127]."""
    linear = torch.where(images > 0.04045, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = torch.einsum("kc,bchw->bkhw", images.new_tensor(_XYZ), linear)
    xyz = xyz / images.new_tensor(_WHITE).view(1, 3, 1, 1)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def slic(images: Tensor, segments: int = 50, compactness: float = 10.0, steps: int = 10,
         min_share: float = 0.25) -> Tensor:
    """Segments of each image: int64 [B, H, W], numbered from 0 without gaps, about `segments` of them, each connected.

    images: [B, C, H, W] in [0, 1]; three channels are taken for sRGB, others as they are, on a scale of 100.
    compactness: m of the paper, how much place counts against colour. steps: of k-means, at most. min_share: parts with
    less than this share of the mean segment's pixels join a neighbour; 0 keeps all parts.
    """
    positive(segments=segments, steps=steps)
    require(compactness > 0, "compactness", compactness, "be above 0")
    require(0 <= min_share <= 1, "min_share", min_share, "lie in [0, 1]")
    height, width = images.shape[-2:]
    require(segments <= height * width, "segments", segments, f"be at most the {height * width} pixels of an image")
    colour = rgb_to_lab(images) if images.shape[1] == 3 else 100 * images
    labels = _clusters(colour, segments, compactness, steps)
    return _consecutive(_joined(_parts(labels), min_share * height * width / segments))


def _clusters(colour: Tensor, segments: int, compactness: float, steps: int) -> Tensor:
    """[B, C, H, W] -> cluster of each pixel, int64 [B, H, W]: k-means within windows."""
    batch, _, height, width = colour.shape
    spacing = math.sqrt(height * width / segments)
    rows, columns = (min(side, max(1, round(side / spacing))) for side in (height, width))
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).to(colour)
    features = torch.cat([colour - colour.mean((2, 3), keepdim=True),
                          place.expand(batch, -1, -1, -1) * (compactness / spacing)], dim=1).flatten(2)  # [B, C + 2, N]
    at = ((torch.arange(rows) + 0.5) * height / rows).long()[:, None] * width \
        + ((torch.arange(columns) + 0.5) * width / columns).long()
    centres = features[:, :, at.flatten().to(colour.device)]  # [B, C + 2, K]
    lines = [features.view(*features.shape[:2], height, width)[:, -2, :, 0], features[:, -1, :width]]  # [B, H], [B, W]
    labels = None
    for _ in range(steps):
        distances = torch.baddbmm((centres**2).sum(1)[:, :, None], centres.transpose(1, 2), features, alpha=-2)
        # A centre looks two spacings far; a pixel that none reaches takes the nearest of all.
        y, x = (1e6 * ((line[:, None] - centres[:, axis, :, None]).abs() > 2 * compactness)
                for axis, line in zip((-2, -1), lines, strict=True))
        distances.view(batch, -1, height, width).add_(y[..., None]).add_(x[:, :, None])
        found = distances.min(1).indices  # [B, N]
        if labels is not None and torch.equal(found, labels):
            break
        labels = found
        index = labels[:, None].expand_as(features)
        sums = torch.zeros_like(centres).scatter_add_(2, index, features)
        counts = torch.zeros_like(centres).scatter_add_(2, index, torch.ones_like(features))
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    assert labels is not None
    return labels.view(batch, height, width)


def _parts(labels: Tensor) -> Tensor:
    """Connected parts (over the four neighbours) of equal labels: each pixel gets the number of the first pixel of its
    part, counted through the batch. [B, H, W]."""
    number = torch.arange(labels.numel(), device=labels.device).view_as(labels)
    while True:
        least = number.clone()
        for axis in (1, 2):
            near, far = (labels.narrow(axis, start, labels.shape[axis] - 1) for start in (0, 1))
            a, b = (number.narrow(axis, start, labels.shape[axis] - 1) for start in (0, 1))
            both = torch.where(near == far, torch.minimum(a, b), number.numel())
            for start in (0, 1):
                part = least.narrow(axis, start, labels.shape[axis] - 1)
                part.copy_(torch.minimum(part, both))
        # The part's current first pixel learns what any of its pixels has found, then all follow it.
        roots = torch.arange(labels.numel(), device=labels.device)
        roots.scatter_reduce_(0, number.flatten(), least.flatten(), "amin")
        while not torch.equal(roots[roots], roots):
            roots = roots[roots]
        found = roots[number]
        if torch.equal(found, number):
            return number
        number = found


def _joined(parts: Tensor, smallest: float) -> Tensor:
    """Parts below `smallest` pixels join the largest one that they touch, until none is left."""
    while True:
        sizes = torch.bincount(parts.flatten(), minlength=parts.numel())
        pairs = torch.cat([torch.stack([parts.narrow(axis, a, parts.shape[axis] - 1).flatten(),
                                        parts.narrow(axis, 1 - a, parts.shape[axis] - 1).flatten()])
                           for axis in (1, 2) for a in (0, 1)], dim=1)  # [2, pairs]: a part, and one that it touches
        own, other = pairs[:, pairs[0] != pairs[1]]
        rank = sizes * parts.numel() + torch.arange(parts.numel(), device=parts.device)  # by size, then by number
        wants = (sizes[own] < smallest) & (rank[other] > rank[own])
        if not wants.any():
            return parts
        best = torch.full_like(sizes, -1).scatter_reduce_(0, own[wants], rank[other[wants]], "amax")
        roots = torch.where(best >= 0, best % parts.numel(), torch.arange(parts.numel(), device=parts.device))
        while not torch.equal(roots[roots], roots):  # each step goes to a larger one, so that there is no circle
            roots = roots[roots]
        parts = roots[parts]


def _consecutive(parts: Tensor) -> Tensor:
    """Numbers from 0 in each image, in the order in which segments first appear."""
    batch, height, width = parts.shape
    flat, pixels = parts.flatten(), torch.arange(parts.numel(), device=parts.device)
    first = torch.full_like(flat, parts.numel()).scatter_reduce_(0, flat, pixels, "amin")[flat]  # of each segment
    starts = (first == pixels).view(batch, -1).cumsum(1).flatten()
    return (starts[first] - 1).view(batch, height, width)
