"""Selective search: boxes that may hold an object of any class, from regions that are joined again and again.

Paper: Uijlings, van de Sande, Gevers, Smeulders, Selective Search for Object Recognition, IJCV 104(2), 2013. A fine
segmentation (ops/felzenszwalb.py) gives regions; the two touching ones that are most alike join, until one is left
(algorithm 1); each region that ever was gives its box. Alike in colour, texture, size and how well they fill their box
together (equations 2 to 6). Several colour spaces, scales and sets of similarities make the search diverse (section
3.3, table 6); boxes are ordered by their place in the hierarchy times a random number (section 3.4).

The joining is sequential, over some hundreds of regions: a heap holds the pairs, and the histograms of a new region are
compared with those of all its neighbours at once. Sorted edges and their merge tree are shared by the scales of a
colour space, histograms and neighbours by the sets of similarities of a segmentation.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import natural, one_of, require
from visus.ops.felzenszwalb import PixelGraph, check_options
from visus.ops.region_features import (
    SPACES,
    PixelBins,
    colour_space,
    neighbour_pairs,
    pixel_bins,
    region_boxes,
    region_histograms,
)
from visus.ops.smoothing import smoothed

SIMILARITIES = "ctsf"  # colour, texture, size, fill


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which segmentations are joined by what. spaces: colour spaces (region_features.SPACES). similarities: sets of the
    letters c, t, s, f, each grouping by the sum of its similarities. scales: k of the segmentation. sigma: px, of its
    smoothing. min_size: pixels, of its regions. neighbours: of a pixel in it, 4 or 8."""

    spaces: tuple[str, ...]
    similarities: tuple[str, ...]
    scales: tuple[float, ...]
    sigma: float = 0.8
    min_size: int = 100
    neighbours: int = 4

    def __post_init__(self) -> None:
        for field in ("spaces", "similarities", "scales"):
            require(len(getattr(self, field)) > 0, field, getattr(self, field), "name at least one")
        for name in self.spaces:
            one_of(SPACES, spaces=name)
        for letters in self.similarities:
            require(letters != "" and set(letters) <= set(SIMILARITIES) and len(set(letters)) == len(letters),
                    "similarities", letters, f"be some of the letters {SIMILARITIES}, each at most once")
        for scale in self.scales:
            check_options(scale, self.sigma, self.min_size, self.neighbours)


MODES = {
    "single": Search(spaces=("hsv",), similarities=("ctsf",), scales=(100.0,)),
    "fast": Search(spaces=("hsv", "lab"), similarities=("ctsf", "tsf"), scales=(50.0, 100.0)),
    "quality": Search(spaces=("hsv", "lab", "rgi", "hue", "intensity"), similarities=("ctsf", "tsf", "f", "s"),
                      scales=(50.0, 100.0, 150.0, 300.0)),
}  # table 6 of the paper


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of one image, the most promising first, each once. boxes: float32 [N, 4], x1, y1, x2, y2 in pixels, the
    last two outside. order: float32 [N], by which they are sorted: the place in the hierarchy (1: the whole image)
    times a random number in [0, 1), the smallest of those that a box had."""

    boxes: Tensor
    order: Tensor

    def to(self, device: torch.device) -> Proposals:
        return Proposals(self.boxes.to(device), self.order.to(device))


def selective_search(image: Tensor, mode: str | Search = "fast", *, limit: int | None = None, min_side_px: int = 0,
                     seed: int = 0, advance: Callable[[int], None] = lambda count: None) -> Proposals:
    """Proposals of one image, float RGB or grey [3 or 1, H, W] in [0, 1].

    mode: single, fast or quality of the paper, or a `Search`. limit: at most so many, the most promising ones.
    min_side_px: boxes with a shorter side are left out. seed: of the random numbers in the order; nothing else is
    random. advance: told after each grouping that one more is done (`groupings` says of how many).
    """
    search = named_search(mode)
    natural(min_side_px=min_side_px, seed=seed, **({} if limit is None else {"limit": limit}))
    require(image.ndim == 3 and image.shape[0] in (1, 3) and image.numel() > 0, "image", tuple(image.shape),
            "be [3, H, W] or [1, H, W]")
    rgb = image.detach().float().expand(3, -1, -1)[None]
    draws = np.random.default_rng(seed)
    boxes, orders = [], []
    for space in search.spaces:
        channels = colour_space(rgb, space)
        bins = pixel_bins(channels[0])
        graph = PixelGraph(smoothed(255 * channels, search.sigma)[0].cpu().numpy(), search.neighbours)
        for scale in search.scales:
            regions = Regions.of(graph.segment(scale, search.min_size), bins)
            for letters in search.similarities:
                found = regions.grouped(letters)
                boxes.append(found)
                orders.append(np.arange(len(found), 0, -1) * draws.random(len(found)))
                advance(1)
    return _ordered(np.concatenate(boxes), np.concatenate(orders), min_side_px, limit).to(image.device)


def named_search(mode: str | Search) -> Search:
    if isinstance(mode, Search):
        return mode
    if mode not in MODES:
        raise UserError("there is no such mode", where=f"mode={mode!r}", remedy="Known: " + ", ".join(MODES))
    return MODES[mode]


def groupings(search: Search) -> int:
    """How many hierarchies a search builds."""
    return len(search.spaces) * len(search.scales) * len(search.similarities)


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of one image. sizes: int64 [R] pixels; boxes: int64 [R, 4]; pairs: int64 [P, 2], those that touch;
    colour: float32 [R, bins], texture: float32 [R, bins], histograms whose rows sum to 1; pixels: of the image."""

    sizes: np.ndarray
    boxes: np.ndarray
    pairs: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    pixels: int

    @staticmethod
    def of(labels: np.ndarray, bins: PixelBins) -> Regions:
        count = int(labels.max()) + 1
        flat = labels.ravel()
        colour, texture = region_histograms(bins, flat, count)
        return Regions(np.bincount(flat, minlength=count), region_boxes(labels, count), neighbour_pairs(labels, count),
                       colour, texture, labels.size)

    def grouped(self, letters: str = SIMILARITIES) -> np.ndarray:
        """int64 [2 R - 1, 4]: the boxes of the regions, then of each join, the last one that of the image."""
        return self.grouping(letters)[0]

    def grouping(self, letters: str = SIMILARITIES) -> tuple[np.ndarray, np.ndarray]:
        """Boxes as of `grouped`, and int64 [R - 1, 2], which regions each join took; the new ones are numbered on."""
        count = len(self.sizes)
        histograms = [part for letter, part in (("c", self.colour), ("t", self.texture)) if letter in letters]
        bins = sum(part.shape[1] for part in histograms)
        features = np.empty((2 * count - 1, bins), np.float32)
        if histograms:
            np.concatenate(histograms, 1, out=features[:count])
        # left, top, -right, -bottom: the box of two regions is the minimum
        corners = np.empty((2 * count - 1, 4), np.int64)
        corners[:count] = self.boxes * (1, 1, -1, -1)
        sizes = np.empty(2 * count - 1, np.int64)
        sizes[:count] = self.sizes
        size_weight, fill_weight = "s" in letters, "f" in letters

        def alike(one: np.ndarray | int, others: np.ndarray) -> np.ndarray:
            """Similarity of regions: the sum of those named by the letters (equations 2 to 6)."""
            together = sizes[one] + sizes[others]
            total = np.zeros(len(others))
            if bins:
                total += np.minimum(features[one], features[others]).sum(1)
            if size_weight:
                total += 1 - together / self.pixels
            if fill_weight:
                box = np.minimum(corners[one], corners[others])
                total += 1 - ((box[:, 2] + box[:, 0]) * (box[:, 3] + box[:, 1]) - together) / self.pixels
            return total

        near: list[set[int]] = [set() for _ in range(2 * count - 1)]
        for a, b in self.pairs.tolist():
            near[a].add(b)
            near[b].add(a)
        first, second = self.pairs[:, 0], self.pairs[:, 1]
        heap = list(zip((-alike(first, second)).tolist(), first.tolist(), second.tolist(), strict=True))
        heapq.heapify(heap)
        gone = bytearray(2 * count - 1)
        joins = np.empty((count - 1, 2), np.int64)
        for new in range(count, 2 * count - 1):
            _, a, b = heapq.heappop(heap)
            while gone[a] or gone[b]:
                _, a, b = heapq.heappop(heap)
            gone[a] = gone[b] = 1
            joins[new - count] = a, b
            share = sizes[a] / (sizes[a] + sizes[b])
            sizes[new] = sizes[a] + sizes[b]
            np.minimum(corners[a], corners[b], out=corners[new])
            if bins:
                features[new] = share * features[a] + (1 - share) * features[b]
            around = near[a] | near[b]
            around -= {a, b}
            near[new] = around
            if around:
                others = list(around)
                for other, likeness in zip(others, (-alike(new, np.array(others))).tolist(), strict=True):
                    near[other].add(new)
                    near[other].discard(a)
                    near[other].discard(b)
                    heapq.heappush(heap, (likeness, other, new))
        return corners * (1, 1, -1, -1), joins


def _ordered(boxes: np.ndarray, order: np.ndarray, min_side_px: int, limit: int | None) -> Proposals:
    """Sorted, each box once, at its first place."""
    large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) >= min_side_px)
    sorted_ = large[np.argsort(order[large], kind="stable")]
    _, first = np.unique(boxes[sorted_], axis=0, return_index=True)
    kept = sorted_[np.sort(first)[:limit]]
    return Proposals(torch.from_numpy(boxes[kept]).float(), torch.from_numpy(order[kept]).float())
