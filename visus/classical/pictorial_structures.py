"""Pictorial structures: an object is a tree of parts joined by springs, and its best layout is found exactly.

Papers: Fischler and Elschlager, The Representation and Matching of Pictorial Structures, IEEE Trans. Computers 1973:
the energy, how badly parts match and how far springs are stretched. Felzenszwalb and Huttenlocher, Pictorial Structures
for Object Recognition, IJCV 2005: on a tree the best layout of all parts over all places is dynamic programming from
the leaves, which a distance transform makes linear in the number of places; springs and tree are learnt from examples
by maximum likelihood (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import DataError, UserError
from visus.core.validate import require
from visus.ops.distance_transform import distance_transform_2d

LEAST_SPREAD = 0.5  # px: standard deviation of a spring that never moved in the examples


@dataclass(frozen=True)
class Structure:
    """A tree of P parts. parents: of each part, an earlier part or itself for the root, int64 [P], the root being 0 and
    the others behind their parents. offsets: where a part stands from its parent at rest, (dy, dx) in px, [P, 2].
    stiffness: (y, x), of each spring: the score of a stretch d is - stiffness d^2, [P, 2], greater than 0."""

    parents: tuple[int, ...]
    offsets: Tensor
    stiffness: Tensor

    def __post_init__(self) -> None:
        parents = self.parents
        if not parents or parents[0] != 0 or any(not 0 <= parent < part for part, parent in enumerate(parents) if part):
            raise UserError("the first part is the root, and each other part comes after its parent",
                            where=f"parents={parents}", remedy="Give 0 for the root, then places of earlier parts")
        for name in ("offsets", "stiffness"):
            shape = tuple(getattr(self, name).shape)
            require(shape == (len(parents), 2), name, shape, f"be of shape ({len(parents)}, 2)")
        least = float(self.stiffness[1:].min()) if len(parents) > 1 else 1.0
        require(least > 0, "stiffness", least, "be greater than 0")

    def score(self, matches: Tensor, places: Tensor) -> Tensor:
        """matches: [P, H, W], how well each part fits each place; places: (y, x) of each part, int64 [..., P, 2] ->
        sum of matches less what the springs cost, [...]."""
        part = torch.arange(len(self.parents))
        found = matches[part, places[..., 0], places[..., 1]].sum(-1)
        stretch = (places - places[..., list(self.parents), :]) - self.offsets
        stretch = torch.where(part[:, None] == 0, 0.0, stretch)
        return found - (self.stiffness * stretch.square()).sum((-2, -1))

    def messages(self, matches: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What each part's branch is worth to its parent at every place, and where the part then is: from the leaves
        up, [H, W] and [H, W, 2] for each part; the root's is the whole's."""
        worth = list(matches.unbind(0))
        where: list[Tensor] = [torch.zeros(0)] * len(worth)
        height, width = matches.shape[1:]
        row, column = torch.arange(height)[:, None], torch.arange(width)[None]
        for part in range(len(worth) - 1, 0, -1):
            parent = self.parents[part]
            # A stretch is counted from the resting place p + o: split o into whole steps and the rest.
            whole = self.offsets[part].round()
            rest = self.offsets[part] - whole
            stiff_y, stiff_x = self.stiffness[part]
            cost = torch.stack([-2 * stiff_x * rest[1], -2 * stiff_y * rest[0], stiff_x, stiff_y])
            constant = stiff_y * rest[0] ** 2 + stiff_x * rest[1] ** 2
            reach = [int(abs(step)) for step in whole]
            padded = torch.nn.functional.pad(worth[part], (reach[1], reach[1], reach[0], reach[0]), value=-1e30)
            best, v, u = distance_transform_2d(padded, cost)
            at = row + int(whole[0]) + reach[0], column + int(whole[1]) + reach[1]
            where[part] = torch.stack([v[at] - reach[0], u[at] - reach[1]], -1)
            worth[parent] = worth[parent] + best[at] - constant
        return worth, where

    def best(self, matches: Tensor) -> tuple[Tensor, float]:
        """matches: [P, H, W], the higher the better -> the places of greatest score among all H W to the power P,
        int64 [P, 2], and the score."""
        require(matches.ndim == 3 and len(matches) == len(self.parents), "matches", tuple(matches.shape),
                f"be one map for each of {len(self.parents)} parts")
        worth, where = self.messages(matches)
        places = torch.zeros(len(worth), 2, dtype=torch.int64)
        places[0] = torch.tensor(divmod(int(worth[0].argmax()), matches.shape[2]))
        for part in range(1, len(worth)):
            y, x = places[self.parents[part]]
            places[part] = where[part][y, x]
        return places, float(worth[0].max())


def learn_structure(places: Tensor, parents: Sequence[int] | None = None) -> tuple[Structure, tuple[int, ...]]:
    """Springs, and the tree where none is given, of greatest likelihood: each spring is Gaussian, and the tree is the
    spanning tree of least entropy, which is that of least summed log variance (section 3.2, with axes apart).

    places: of each part in each example, (y, x), [N, P, 2], N at least 2. parents: of a tree of one's own. Returns the
    structure and, for each of its parts, which column of `places` it is. Raises DataError for fewer examples.
    """
    count, parts = places.shape[:2]
    if count < 2:
        raise DataError(f"{count} example cannot say how far parts move", remedy="Give two or more")
    away = places[:, :, None] - places[:, None]  # [N, P, P, 2]: of the first from the second
    spread = away.var(0, correction=0).clamp(min=LEAST_SPREAD**2)
    if parents is None:
        order, chosen = _spanning_tree(spread.log().sum(-1))
    else:
        order, chosen = tuple(range(parts)), tuple(parents)
    offsets, stiffness = torch.zeros(parts, 2), torch.ones(parts, 2)
    for part in range(1, parts):
        pair = order[part], order[chosen[part]]
        offsets[part], stiffness[part] = away.mean(0)[pair], 0.5 / spread[pair]
    return Structure(chosen, offsets, stiffness), order


def _spanning_tree(weights: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prim's minimum spanning tree of a complete graph, [P, P], from the node whose edges are lightest: nodes in the
    order of joining, and the place in that order of each one's parent."""
    order, parents = [int(weights.sum(1).argmin())], [0]
    while len(order) < len(weights):
        rest = [node for node in range(len(weights)) if node not in order]
        edges = weights[order][:, rest]
        parent, node = divmod(int(edges.argmin()), len(rest))
        order.append(rest[node])
        parents.append(parent)
    return tuple(order), tuple(parents)
