"""Felzenszwalb-Huttenlocher segmentation: neighbours join while the edge between two regions is not much stronger than
those within them.

Paper: Felzenszwalb, Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 59(2), 2004: edges are taken from the
lightest on, and one of weight w joins the regions A and B at its ends when w <= Int(A) + k / |A| and the same of B,
where Int is the heaviest edge that made the region (equations 4 and 5, algorithm 1). Here the test is written as
(w - Int(A)) |A| <= k. Regions below `min_size` then join along the lightest edge.

The result is that of the sequential algorithm, in a few rounds of whole-array steps. What makes that possible: until
an edge is refused, joins are those of the merge tree of all edges, which knows every size and Int in advance, so that
all tests are made at once; the joins below the first refusals are right. A region that fails its own test at its
lightest edge is finished, for all later edges are heavier and it no longer changes. With finished regions left out, and
the others as nodes, the next round goes on. The joining of small regions needs one tree: an edge is refused when both
parts that it joins in the merge tree are large, for a small part of a tree would have joined before.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from visus.core.validate import positive, require
from visus.ops.merge_tree import MergeTree, forest
from visus.ops.smoothing import smoothed

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (down, right): half of the eight neighbours


def felzenszwalb(images: Tensor, scale: float = 100.0, sigma: float = 0.8, min_size: int = 20,
                 neighbours: int = 8) -> Tensor:
    """Regions of each image: int64 [B, H, W], numbered from 0 without gaps in the order in which they first appear.

    images: [B, C, H, W] in [0, 1]; edges are Euclidean distances of colours on the paper's scale of 0 to 255.
    scale: k of the paper, in these units times pixels: larger gives larger regions. sigma: px, of the Gaussian that
    smooths first (0: none). min_size: smaller regions join others (1: none does). neighbours: of a pixel, 4 or 8.
    """
    check_options(scale, sigma, min_size, neighbours)
    require(images.ndim == 4, "images", tuple(images.shape), "be [B, C, H, W]")
    smooth = smoothed(255.0 * images.float(), sigma).cpu().numpy()
    labels = [PixelGraph(image, neighbours).segment(scale, min_size) for image in smooth]
    return torch.from_numpy(np.stack(labels)).to(images.device) if labels else \
        images.new_zeros((0, *images.shape[2:]), dtype=torch.long)


def check_options(scale: float, sigma: float, min_size: int, neighbours: int) -> None:
    require(isinstance(scale, int | float) and 0 < scale < math.inf, "scale", scale, "be a number above 0")
    require(isinstance(sigma, int | float) and 0 <= sigma <= 100, "sigma", sigma, "be a number of px from 0 to 100")
    positive(min_size=min_size)
    require(neighbours in (4, 8), "neighbours", neighbours, "be 4 or 8")


class PixelGraph:
    """The pixels of one image and their edges, sorted once: `segment` may be asked with several scales."""

    def __init__(self, image: np.ndarray, neighbours: int = 8):
        """image: float [C, H, W], on the scale in which weights are meant. Of edges of equal weight the earlier is the
        first: those to the right row by row, then those down, then the diagonals."""
        self.shape = image.shape[1:]
        height, width = self.shape
        number = np.arange(height * width, dtype=np.int32).reshape(height, width)
        weights, tails, heads = [], [], []
        for down, right in _STEPS[:neighbours // 2]:
            here = slice(0, max(0, height - down)), slice(max(0, -right), width - max(0, right))
            there = slice(down, height), slice(max(0, right), width - max(0, -right))
            apart = image[:, *there] - image[:, *here]
            weights.append(np.sqrt(np.einsum("chw,chw->hw", apart, apart)).ravel())
            tails.append(number[here].ravel())
            heads.append(number[there].ravel())
        self.weights, order = in_order(np.concatenate(weights))
        self.tails, self.heads = np.concatenate(tails)[order], np.concatenate(heads)[order]

    def segment(self, scale: float, min_size: int = 1) -> np.ndarray:
        """int64 [H, W], numbered from 0 in the order in which regions first appear."""
        labels = segment_graph(self.weights, self.tails, self.heads, self._first, scale, min_size)
        return in_first_order(labels).reshape(self.shape)

    @cached_property
    def _first(self) -> _Tests:
        pixels = self.shape[0] * self.shape[1]
        return _Tests(self.weights, self.tails, self.heads, np.ones(pixels, np.int64), np.zeros(pixels))


def in_order(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of at least 0 from the smallest on, and the order that sorts them; ties stay as they are."""
    if weights.dtype != np.float32:
        order = np.argsort(weights, kind="stable")
        return weights[order], order
    # The bits of floats that are not negative sort as they do; sorting them with the place is stable, and quicker.
    key = (weights.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(len(weights), dtype=np.uint64)
    key.sort()
    return (key >> np.uint64(32)).astype(np.uint32).view(np.float32), (key & np.uint64(0xFFFFFFFF)).astype(np.int64)


def in_first_order(labels: np.ndarray) -> np.ndarray:
    """Labels [n] from 0 to below n, numbered anew from 0 in the order in which they first appear."""
    first = np.full(len(labels), len(labels), np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]
    starts = np.zeros(len(labels), np.int64)
    starts[first[first < len(labels)]] = 1
    return (np.cumsum(starts) - 1)[first[labels]]


def segment_graph(weights: np.ndarray, tails: np.ndarray, heads: np.ndarray, first: _Tests, scale: float,
                  min_size: int = 1) -> np.ndarray:
    """int32 [n]: the region of each node of a graph with sorted edges. first: the tests of its single nodes."""
    labels, sizes, inner, finished = first.decide(scale)
    near, far = labels[tails], labels[heads]
    between = np.flatnonzero(near != far)
    near, far = near[between], far[between]
    region = np.arange(len(sizes), dtype=np.int32)  # of each one of the first round
    ends, others, heavy = near, far, weights[between]
    while True:
        open_ = np.flatnonzero((ends != others) & ~(finished[ends] | finished[others]))
        if not len(open_):
            break
        ends, others, heavy = ends[open_], others[open_], heavy[open_]
        parts, sizes, inner, finished = _Tests(heavy, ends, others, sizes, inner).decide(scale)
        region, ends, others = parts[region], parts[ends], parts[others]
    if min_size > 1 and sizes.min() < min_size:
        near, far = region[near], region[far]
        between = np.flatnonzero(near != far)
        region = _without_small(near[between], far[between], sizes, min_size)[region]
    return region[labels]


class _Tests:
    """For graph nodes that are regions: at which k each join of their merge tree passes.

    needs: [J] float64, the k from which the two parts of a join pass, and all joins within the part that comes to the
    chain. needs_own, needs_chain: of each of the two alone. whole: [P], the k from which all joins within a part pass.
    """

    def __init__(self, weights: np.ndarray, tails: np.ndarray, heads: np.ndarray, sizes: np.ndarray,
                 inner: np.ndarray):
        """inner: float [n], Int of each region."""
        self.sizes, self.weights = sizes, weights
        self.tree = tree = MergeTree(tails, heads, sizes)
        self.at = at = weights[tree.edge].astype(np.float64)
        self.inner = np.zeros(tree.parts)
        self.inner[:tree.nodes] = inner
        self.inner[tree.nodes:] = at[tree.start[tree.nodes + 1:] - 1]
        self.needs_own = (at - self.inner[tree.order]) * tree.size[tree.order]
        before = np.concatenate([at[:1], at[:-1]])
        self.needs_chain = np.where(tree.place >= 2, (at - before) * tree.grown, 0.0)
        self.needs = np.maximum(self.needs_own, self.needs_chain)
        self.whole = np.zeros(tree.parts)
        for first, last, low, high in tree.rounds:
            np.maximum(self.needs[first:last], self.whole[tree.order[first:last]], out=self.needs[first:last])
            self.whole[low:high] = np.maximum.reduceat(self.needs[first:last], tree.start[low:high] - first)

    def decide(self, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As far as the joins are certain: int32 [n], the region of each node; and of each region its size, Int, and
        whether it is finished."""
        tree = self.tree
        length = np.diff(tree.start)  # of each chain, as far as it passes
        bad = np.flatnonzero(self.needs > scale)
        length[tree.chain[bad[::-1]]] = tree.place[bad[::-1]]
        length[length == 1] = 0  # the two that begin a chain join by one edge
        whole = self.whole <= scale
        region = np.arange(tree.parts, dtype=np.int32)
        joins = np.zeros(tree.parts, bool)
        joins[tree.order] = tree.place < length[tree.chain]
        target = np.zeros(tree.parts, np.int32)
        target[tree.order] = tree.chain
        bounds = tree.forest.offsets
        for low, high in reversed(list(zip(bounds, bounds[1:], strict=False))):
            region[low:high] = np.where(joins[low:high], region[target[low:high]], region[low:high])
        finished = np.zeros(tree.parts, bool)
        finished[tree.order] = whole[tree.order] & (self.needs_own > scale)
        finished[whole & (tree.forest.up < 0)] = True
        partial = tree.nodes + np.flatnonzero(~whole[tree.nodes:] & (length[tree.nodes:] >= 2))
        stopped = tree.start[partial] + length[partial]
        finished[partial] = self.needs_chain[stopped] > scale
        sizes, inner = tree.size.copy(), self.inner.copy()
        sizes[partial], inner[partial] = tree.grown[stopped], self.at[stopped - 1]
        used = np.zeros(tree.parts, np.int32)
        used[region[:tree.nodes]] = 1
        number = np.cumsum(used, dtype=np.int32) - 1
        kept = np.flatnonzero(used)
        return number[region[:tree.nodes]], sizes[kept], inner[kept], finished[kept]


def _without_small(tails: np.ndarray, heads: np.ndarray, sizes: np.ndarray, min_size: int) -> np.ndarray:
    """int32 [n]: regions that are connected once those below min_size have joined along the lightest edge."""
    tree = MergeTree(tails, heads, sizes)
    own, grown = tree.size[tree.order], tree.grown.copy()
    begins = np.flatnonzero(tree.place == 0)
    grown[begins] = own[begins + 1]  # what joins at place 1 has joined that at place 0
    joined = np.unique(tree.edge[np.minimum(own, grown) < min_size])
    return forest(tails[joined], heads[joined], len(sizes)).components
