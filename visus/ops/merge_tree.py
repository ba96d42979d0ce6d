"""In which order the nodes of a graph join when its edges are taken from the lightest on, in whole-array steps.

Joining along each edge that connects two parts (Kruskal, 1956) is sequential; the same tree of joins comes from rounds
in which every part picks its lightest edge to another (Boruvka, 1926): an edge picked in some round joins, at its time,
the part that picked it to one that has grown along a chain. Chain by chain, sorted, gives every part's size at every
join (the chains of Sao, Prokopenko, Lebrun-Grandie, PANDORA, ICPP 2024).

Numbers: an edge is its position in the sorted arrays. A part is an int: 0..nodes-1 are the nodes, the further ones the
trees of round 0, 1, ... A tree stands for what it has become just before its own pick, the lightest edge leaving it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Ints = np.ndarray


@dataclass(frozen=True)
class Forest:
    """Rounds of picks. offsets: [R + 1], parts of round r are offsets[r]..offsets[r + 1] - 1. pick: [P] int32, the
    lightest edge that leaves a part; the number of edges where none does. up: [P] int32, the tree of the next round
    that holds the part; -1 where nothing leaves it."""

    offsets: tuple[int, ...]
    pick: Ints
    up: Ints

    @property
    def components(self) -> Ints:
        """int32 [nodes]: equal where a path connects two nodes, and else not; numbered from 0."""
        top = np.arange(len(self.up), dtype=np.int32)
        for low, high in reversed(list(zip(self.offsets, self.offsets[1:], strict=False))):
            inside = self.up[low:high]
            top[low:high] = np.where(inside >= 0, top[inside], top[low:high])
        alone = np.cumsum(self.up < 0, dtype=np.int32) - 1
        return alone[top[:self.offsets[1]]]


def forest(tails: Ints, heads: Ints, nodes: int) -> Forest:
    """The rounds for edges (tails[i], heads[i]), int32, the lightest first; ties go to the earlier one. An edge from a
    node to itself is not allowed."""
    edges = len(tails)
    number = np.arange(edges, dtype=np.int32)
    offsets, picks, ups = [0], [], []
    while True:
        pick = np.full(nodes, edges, np.int32)
        of_head = pick.copy()
        pick[tails[::-1]] = number[::-1]  # of equal indices the last, here the lightest edge, stays
        of_head[heads[::-1]] = number[::-1]
        np.minimum(pick, of_head, out=pick)
        picks.append(pick)
        offsets.append(offsets[-1] + nodes)
        if not len(tails):
            ups.append(np.full(nodes, -1, np.int32))
            return Forest(tuple(offsets), np.concatenate(picks), np.concatenate(ups))
        own = np.arange(nodes, dtype=np.int32)
        leaves = np.flatnonzero(pick < edges)
        at = pick[leaves] if len(number) == edges else np.searchsorted(number, pick[leaves])
        root = own.copy()
        root[leaves] = tails[at] + heads[at] - own[leaves]  # the other end
        root = np.where((root[root] == own) & (own < root), own, root)  # two that picked each other: the first leads
        while not np.array_equal(further := root[root], root):
            root = further
        leads = np.zeros(nodes, np.int32)
        leads[root[leaves]] = 1
        tree = (np.cumsum(leads, dtype=np.int32) - 1)[root]
        ups.append(np.where(pick < edges, tree + np.int32(offsets[-1]), -1).astype(np.int32))
        nodes = int(leads.sum())
        tails, heads = tree[tails], tree[heads]
        between = np.flatnonzero(tails != heads)
        tails, heads, number = tails[between], heads[between], number[between]


class MergeTree:
    """All joins of a graph. order: [J] int32, parts that a pick joins to a chain, chain by chain, in the order of their
    edges; chain: [J], the tree along whose chain each joins; place: [J], its place there (0 and 1 are the two that
    begin it, by one edge); edge: [J], the edge. start: [P + 1], where the chain of each part begins in these.
    size: [P], of each part just before its pick; grown: [J], of the chain before the join."""

    def __init__(self, tails: Ints, heads: Ints, sizes: Ints):
        """tails, heads: int32 edges, the lightest first; sizes: of each node, whole numbers above 0."""
        self.forest = forest(tails, heads, len(sizes))
        self.nodes, self.parts = len(sizes), len(self.forest.pick)
        chains = self._chains()
        joining = np.flatnonzero(chains >= 0).astype(np.int32)
        key = (chains[joining].astype(np.int64) << 32) | self.forest.pick[joining]
        self.order = joining[np.argsort(key, kind="stable")]
        self.chain = chains[self.order]
        self.edge = self.forest.pick[self.order]
        self.start = np.concatenate([[0], np.cumsum(np.bincount(self.chain, minlength=self.parts))])
        self.place = np.arange(len(self.order)) - self.start[self.chain]
        self.size = np.zeros(self.parts, np.int64)
        self.size[:self.nodes] = sizes
        for first, last, low, high in self.rounds:
            self.size[low:high] = np.add.reduceat(self.size[self.order[first:last]], self.start[low:high] - first)
        so_far = np.concatenate([[0], np.cumsum(self.size[self.order])])
        self.grown = so_far[:-1] - so_far[self.start[self.chain]]

    @cached_property
    def rounds(self) -> list[tuple[int, int, int, int]]:
        """For trees of each round, the earliest first: where their joins begin and end, and where their numbers do."""
        bounds = self.forest.offsets[1:]
        return [(int(self.start[low]), int(self.start[high]), low, high)
                for low, high in zip(bounds, bounds[1:], strict=False)]

    def _chains(self) -> Ints:
        """int32 [P]: the tree along whose chain a part joins by its pick: the first one around it that has this edge
        below its own pick. -1 for parts without a pick."""
        pick, up, offsets = self.forest.pick, self.forest.up, self.forest.offsets
        chains = np.full(self.parts, -1, np.int32)
        parts = around = np.empty(0, np.int32)
        for low, high in zip(offsets, offsets[1:], strict=False):
            new = low + np.flatnonzero(up[low:high] >= 0).astype(np.int32)
            parts, around = np.concatenate([parts, new]), np.concatenate([around, up[new]])
            found = pick[around] > pick[parts]
            chains[parts[found]] = around[found]
            parts, around = parts[~found], up[around[~found]]
        return chains
