"""What selective search compares of regions: colours and textures as histograms, boxes, neighbours.

Paper: Uijlings, van de Sande, Gevers, Smeulders, Selective Search for Object Recognition, IJCV 104(2), 2013, section
3.2: 25 bins of each colour channel; Gaussian derivatives with sigma 1 in eight directions, 10 bins of each direction
and channel; each histogram is divided by its sum. Departures: a derivative is steered from the two along the axes,
which for a Gaussian is exact; its bins reach to the largest one of that direction and channel in the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visus.core.validate import one_of, require
from visus.ops.colour_histogram import rgb_to_hsv
from visus.ops.smoothing import line_filter
from visus.ops.superpixels import rgb_to_lab

SPACES = ("hsv", "lab", "rgi", "hue", "intensity", "rgb")
COLOUR_BINS, TEXTURE_BINS, ANGLES = 25, 10, 4
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def colour_space(images: Tensor, name: str) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> the channels of a colour space in [0, 1], [B, C, H, W].

    hsv, rgb: as they are. lab: L / 100, a and b moved and divided as in 8 bits. rgi: the shares of red and green in
    their sum with blue, and the intensity. hue, intensity: one channel.
    """
    one_of(SPACES, space=name)
    require(images.ndim == 4 and images.shape[1] == 3, "images", tuple(images.shape), "be RGB, [B, 3, H, W]")
    if name == "hsv":
        return rgb_to_hsv(images)
    if name == "hue":
        return rgb_to_hsv(images)[:, :1]
    if name == "lab":
        light, a, b = rgb_to_lab(images).unbind(1)
        return torch.stack([light / 100, (a + 128) / 255, (b + 128) / 255], 1).clamp(0, 1)
    if name == "rgb":
        return images
    intensity = torch.einsum("c,bchw->bhw", images.new_tensor(_LUMA), images)[:, None]
    if name == "intensity":
        return intensity
    return torch.cat([images[:, :2] / images.sum(1, keepdim=True).clamp(min=1e-6), intensity], 1)


def gaussian_derivatives(images: Tensor, sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] -> the derivatives to the right and downwards under a Gaussian, of that shape; borders repeated."""
    radius = math.ceil(3 * sigma)
    place = torch.arange(radius + 1, dtype=torch.float64)
    bell = torch.exp(-place**2 / (2 * sigma**2))
    slope = place * bell / (2 * (place**2 * bell).sum())  # of a ramp it is exactly the slope
    bell = bell / (2 * bell.sum() - bell[0])
    right = line_filter(line_filter(images, bell.tolist(), 2), slope.tolist(), 3, odd=True)
    down = line_filter(line_filter(images, slope.tolist(), 2, odd=True), bell.tolist(), 3)
    return right, down


@dataclass(frozen=True, eq=False)
class PixelBins:
    """The bin of each pixel of one image. colour: uint8 [C, N] below COLOUR_BINS. texture: uint8 [C * ANGLES, N]:
    TEXTURE_BINS - 1 where there is no slope, more along the direction and less against it."""

    colour: np.ndarray
    texture: np.ndarray


def pixel_bins(image: Tensor) -> PixelBins:
    """image: [C, H, W] in [0, 1]."""
    colour = (image * COLOUR_BINS).clamp(0, COLOUR_BINS - 1).to(torch.uint8).flatten(1)
    right, down = (part[0].flatten(1) for part in gaussian_derivatives(image[None]))  # [C, N]
    codes = []
    for number in range(ANGLES):
        angle = math.pi * number / ANGLES
        along = math.cos(angle) * right + math.sin(angle) * down
        low, high = torch.aminmax(along, dim=1, keepdim=True)
        most = torch.where(along > 0, high, -low).clamp(min=1e-12)
        steps = (along * (TEXTURE_BINS / most)).clamp(1 - TEXTURE_BINS, TEXTURE_BINS - 1)
        codes.append((steps.trunc() + (TEXTURE_BINS - 1)).to(torch.uint8))
    return PixelBins(colour.cpu().numpy(), torch.cat(codes).cpu().numpy())


def region_histograms(bins: PixelBins, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """labels: int [N] from 0 to below count. float32 [count, C * 25] and [count, C * 8 * 10], rows sum to 1."""
    sizes = np.bincount(labels, minlength=count)
    colour = _counts(labels, bins.colour, COLOUR_BINS, count)  # [count, C, 25]
    either = _counts(labels, bins.texture, 2 * TEXTURE_BINS - 1, count)
    texture = np.stack([either[..., TEXTURE_BINS - 1:], either[..., TEXTURE_BINS - 1::-1]], 2)  # along, against
    texture[..., 0] = sizes[:, None, None] - texture[..., 1:].sum(-1)
    return _shares(colour), _shares(texture)


def _counts(labels: np.ndarray, rows: np.ndarray, bins: int, count: int) -> np.ndarray:
    """Numbers of bins [R, N] -> how many pixels of each region are in each, int64 [count, R, bins]."""
    first = labels.astype(np.int64) * bins
    return np.stack([np.bincount(first + row, minlength=count * bins).reshape(count, bins) for row in rows], 1)


def _shares(counts: np.ndarray) -> np.ndarray:
    flat = counts.reshape(len(counts), -1)
    return (flat / np.maximum(flat.sum(1, keepdims=True), 1)).astype(np.float32)


def region_boxes(labels: np.ndarray, count: int) -> np.ndarray:
    """labels: int [H, W]. int64 [count, 4]: left, top, right, bottom, the last two outside."""
    height, width = labels.shape
    boxes = np.empty((count, 4), np.int64)
    for place, flat, along in ((0, labels.T.ravel(), np.repeat(np.arange(width), height)),
                               (1, labels.ravel(), np.repeat(np.arange(height), width))):
        boxes[flat[::-1], place] = along[::-1]  # of equal indices the last stays, here the first line
        boxes[flat, place + 2] = along + 1
    return boxes


def neighbour_pairs(labels: np.ndarray, count: int) -> np.ndarray:
    """int64 [P, 2], the smaller number first: regions that touch, also over a corner."""
    height, width = labels.shape
    flat = np.full((height + 1, width + 1), -1, np.int64)  # a frame to the right and below keeps lines apart
    flat[:height, :width] = labels
    flat = flat.ravel()
    found = []
    for step in (1, width + 1, width + 2, width):
        here, there = flat[:-step], flat[step:]
        at = np.flatnonzero((here != there) & (np.minimum(here, there) >= 0))
        a, b = here[at], there[at]
        found.append(np.minimum(a, b) * count + np.maximum(a, b))
    key = np.unique(np.concatenate(found))
    return np.stack([key // count, key % count], 1)
