"""Histograms of colour: which colours an image has, whatever their places.

Papers: Swain, Ballard, Color Indexing, IJCV 7, 1991 (an image as the histogram of its colours); Smith, Color Gamut
Transform Pairs, SIGGRAPH 1978 (hue, saturation and value). Assignment 1 of Stanford's course CS231n uses the hue in
10 bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visus.core.validate import positive, require


def rgb_to_hsv(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> hue in [0, 1) of the circle (0 red, 1/3 green, 2/3 blue), saturation and value in
    [0, 1], [B, 3, H, W]. Grey has hue 0, black saturation 0. Differentiable where the hue is defined."""
    require(images.ndim == 4 and images.shape[1] == 3, "images", tuple(images.shape), "be RGB, [B, 3, H, W]")
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    some = chroma > 0
    by = torch.where(some, chroma, torch.ones_like(chroma))
    hue = torch.where(value == red, (green - blue) / by,
                      torch.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by)) / 6 % 1
    saturation = chroma / torch.where(value > 0, value, torch.ones_like(value))
    return torch.stack([torch.where(some, hue, torch.zeros_like(hue)), saturation, value], dim=1)


def hue_histogram(images: Tensor, bins: int = 10) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> share of the pixels in each of `bins` equal parts of the circle of hues [B, bins].
    Grey pixels count as hue 0."""
    positive(bins=bins)
    return _shares(_bin(rgb_to_hsv(images)[:, 0], bins), bins)


def hsv_histogram(images: Tensor, bins: tuple[int, int, int] = (8, 4, 4)) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> share of the pixels in each bin of hue, saturation and value together,
    [B, hues, saturations, values]."""
    positive(**dict(zip(("hues", "saturations", "values"), bins, strict=True)))
    hues, saturations, values = (_bin(part, count) for part, count in zip(rgb_to_hsv(images).unbind(1), bins,
                                                                         strict=True))
    together = (hues * bins[1] + saturations) * bins[2] + values
    return _shares(together, bins[0] * bins[1] * bins[2]).unflatten(1, bins)


def _bin(values: Tensor, count: int) -> Tensor:
    """In [0, 1] -> the number of the bin; 1 belongs to the last one."""
    return (values * count).long().clamp_(0, count - 1)


def _shares(bins: Tensor, count: int) -> Tensor:
    """Numbers of bins [B, H, W] -> [B, count]."""
    flat = bins.flatten(1)
    counts = torch.zeros(len(flat), count, device=bins.device)
    return counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype)) / flat.shape[1]
