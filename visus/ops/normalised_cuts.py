"""Normalised cuts: a graph of pixels or regions is cut in two where that severs little of what either side has in all.

Paper: Shi, Malik, Normalized Cuts and Image Segmentation, TPAMI 22(8), 2000: Ncut(A, B) = cut(A, B) / assoc(A, V) +
cut(A, B) / assoc(B, V) (equation 2) is smallest, among real-valued labels, for the second smallest eigenvector of
(D - W) y = lambda D y (equation 6); y is split where Ncut is least among evenly spaced thresholds, and each side is cut
again while Ncut stays below a limit (section 3). Affinities are those of section 5: of colour, and of place within a
radius. Departures: unconnected parts are separated first, at no cost, and the stability of the split is not examined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visus.core.validate import positive, require
from visus.ops.merge_tree import forest
from visus.ops.region_features import neighbour_pairs

DENSE = 600  # nodes up to which all eigenvectors are computed at once,
MOST_DENSE = 4000  # and up to which they are where the iteration does not converge
_LANCZOS_STEPS, _CHECK_EVERY = 600, 30


@dataclass(frozen=True, eq=False)
class Affinity:
    """A symmetric matrix of weights: each pair once, rows < columns; weights: float64 [P] above 0. own: float64 [n], of
    each node with itself."""

    rows: Tensor
    columns: Tensor
    weights: Tensor
    own: Tensor

    @property
    def nodes(self) -> int:
        return len(self.own)

    @property
    def degree(self) -> Tensor:
        """[n]: the sum of a node's weights."""
        return self.own.index_add(0, self.rows, self.weights).index_add(0, self.columns, self.weights)

    def dense(self) -> Tensor:
        """[n, n]"""
        matrix = torch.diag(self.own)
        matrix[self.rows, self.columns] = self.weights
        matrix[self.columns, self.rows] = self.weights
        return matrix

    def times(self, vector: Tensor) -> Tensor:
        """The matrix times a vector, [n] -> [n]."""
        found = (self.own * vector).index_add_(0, self.rows, self.weights * vector[self.columns])
        return found.index_add_(0, self.columns, self.weights * vector[self.rows])

    def part(self, nodes: Tensor) -> Affinity:
        """Of some of the nodes alone, int64 [m]."""
        number = torch.full((self.nodes,), -1, device=nodes.device)
        number[nodes] = torch.arange(len(nodes), device=nodes.device)
        rows, columns = number[self.rows], number[self.columns]
        kept = (rows >= 0) & (columns >= 0)
        return Affinity(rows[kept], columns[kept], self.weights[kept], self.own[nodes])


def pixel_affinity(image: Tensor, radius_px: float = 5.0, sigma_colour: float = 0.1,
                   sigma_place_px: float = 4.0) -> Affinity:
    """Nodes are the pixels of an image [C, H, W] in [0, 1], row by row; those nearer than radius_px have the weight
    exp(-|colours|^2 / sigma_colour^2 - |places|^2 / sigma_place_px^2) (equation 11)."""
    for name, value in (("radius_px", radius_px), ("sigma_colour", sigma_colour), ("sigma_place_px", sigma_place_px)):
        require(0 < value < math.inf, name, value, "be above 0")
    height, width = image.shape[1:]
    values = image.double()
    place = torch.arange(height * width, device=image.device).view(height, width)
    reach = math.ceil(radius_px)
    rows, columns, weights = [], [], []
    for down in range(min(reach, height - 1) + 1):
        for right in range(-reach, reach + 1):
            if (down == 0 and right <= 0) or math.hypot(down, right) >= radius_px or abs(right) >= width:
                continue
            here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
            there = slice(down, height), slice(max(0, right), width - max(0, -right))
            apart = (values[:, *here] - values[:, *there]).square().sum(0) / sigma_colour**2
            rows.append(place[here].flatten())
            columns.append(place[there].flatten())
            weights.append(torch.exp(-apart - (down**2 + right**2) / sigma_place_px**2).flatten())
    own = torch.ones(height * width, dtype=torch.float64, device=image.device)
    if not rows:
        return Affinity(place[:0, 0], place[:0, 0], own[:0], own)
    return _significant(torch.cat(rows), torch.cat(columns), torch.cat(weights), own)


def region_affinity(image: Tensor, labels: Tensor, sigma_colour: float = 0.06) -> Affinity:
    """Nodes are the regions of labels [H, W], numbered from 0 without gaps; those that touch, also over a corner, have
    the weight exp(-|mean colours|^2 / sigma_colour^2). image: [C, H, W] in [0, 1]."""
    require(0 < sigma_colour < math.inf, "sigma_colour", sigma_colour, "be above 0")
    count = int(labels.max()) + 1
    flat = labels.flatten()
    sizes = torch.bincount(flat, minlength=count)
    require(bool((sizes > 0).all()), "labels", f"0 to {count - 1}", "be numbered without gaps")
    sums = torch.zeros(count, image.shape[0], dtype=torch.float64, device=image.device)
    means = sums.index_add_(0, flat, image.double().flatten(1).T) / sizes[:, None]
    rows, columns = torch.from_numpy(neighbour_pairs(labels.cpu().numpy(), count)).to(image.device).unbind(1)
    apart = (means[rows] - means[columns]).square().sum(1)
    return _significant(rows, columns, torch.exp(-apart / sigma_colour**2), torch.ones_like(means[:, 0]))


def _significant(rows: Tensor, columns: Tensor, weights: Tensor, own: Tensor) -> Affinity:
    """Without the weights that nothing can be told from: a million of them add less than a rounding of one."""
    kept = weights > 1e-22
    return Affinity(rows[kept], columns[kept], weights[kept], own)


def normalised_cuts(affinity: Affinity, limit: float = 0.1, *, thresholds: int = 20,
                    advance: Callable[[int], None] = lambda count: None) -> Tensor:
    """int64 [n]: the part of each node, numbered from 0 in the order of their first nodes.

    limit: a part is cut in two while the least Ncut found is below it, in (0, 2]. thresholds: at which the eigenvector
    is split, evenly spaced. advance: told how many further nodes have their final part.
    """
    require(0 < limit <= 2, "limit", limit, "lie in (0, 2]")
    positive(thresholds=thresholds)
    labels = torch.zeros(affinity.nodes, dtype=torch.long, device=affinity.own.device)
    waiting = [torch.arange(affinity.nodes, device=labels.device)]
    parts = 0
    while waiting:
        nodes = waiting.pop()
        part = affinity.part(nodes)
        sides = _unconnected(part)
        if len(sides) == 1:
            inside, value = best_split(part, thresholds)
            sides = [inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]] if value < limit else sides
        if len(sides) == 1:
            labels[nodes] = parts
            parts += 1
            advance(len(nodes))
        else:
            waiting += [nodes[side] for side in sides]
    first = torch.full((parts,), affinity.nodes, device=labels.device)
    first.scatter_reduce_(0, labels, torch.arange(affinity.nodes, device=labels.device), "amin")
    return first.argsort().argsort()[labels]


def best_split(affinity: Affinity, thresholds: int = 20) -> tuple[Tensor, float]:
    """bool [n], one side of the least Ncut among the thresholds of the second eigenvector, and its value; infinite for
    a single node."""
    if affinity.nodes < 2:
        return torch.ones(affinity.nodes, dtype=torch.bool, device=affinity.own.device), math.inf
    _, vector = second_eigenvector(affinity)
    low, high = float(vector.min()), float(vector.max())
    at = low + (high - low) * torch.arange(thresholds, device=vector.device, dtype=vector.dtype) / thresholds
    sides = vector > at[:, None]  # [T, n]
    values = ncut(affinity, sides)
    best = int(values.argmin())
    return sides[best], float(values[best])


def ncut(affinity: Affinity, sides: Tensor) -> Tensor:
    """Equation 2 for bool [T, n], each one side of a cut: [T] in [0, 2], infinite where a side is empty."""
    degree = affinity.degree
    severed = ((sides[:, affinity.rows] != sides[:, affinity.columns]) * affinity.weights).sum(1)
    held = (sides * degree).sum(1)
    left = (~sides * degree).sum(1)
    value = severed / held.clamp(min=1e-300) + severed / left.clamp(min=1e-300)
    empty = sides.all(1) | ~sides.any(1)
    return torch.where(empty, torch.full_like(value, math.inf), value)


def second_eigenvector(affinity: Affinity) -> tuple[float, Tensor]:
    """The second smallest eigenvalue of (D - W) y = lambda D y and its vector, float64 [n], whose D-norm is 1 and whose
    largest entry by amount is positive."""
    root = affinity.degree.sqrt()
    value, vector, converged = (0.0, root, False) if affinity.nodes <= DENSE else _lanczos(affinity, root)
    if not converged and affinity.nodes <= max(DENSE, MOST_DENSE):
        values, vectors = torch.linalg.eigh(affinity.dense() / root / root[:, None])
        value, vector = float(values[-2]), vectors[:, -2]
    solution = vector / root
    return 1 - value, solution * torch.sign(solution[solution.abs().argmax()])


def _lanczos(affinity: Affinity, root: Tensor) -> tuple[float, Tensor, bool]:
    """Largest eigenvalue of D^-1/2 W D^-1/2 but for the first, whose vector is root, its vector, and whether they have
    converged: many weak ties give many values near 1, which take long. Each new direction is made orthogonal to all
    earlier ones."""
    trivial = root / root.norm()
    steps = min(_LANCZOS_STEPS, affinity.nodes - 1)
    basis = torch.zeros(steps + 1, affinity.nodes, dtype=root.dtype, device=root.device)
    start = torch.randn(affinity.nodes, dtype=root.dtype, generator=torch.Generator().manual_seed(0)).to(root.device)
    start -= trivial * (trivial @ start)
    basis[0] = start / start.norm()
    along = torch.zeros(steps, dtype=root.dtype)
    across = torch.zeros(steps, dtype=root.dtype)
    converged = False
    for step in range(steps):
        new = affinity.times(basis[step] / root) / root
        along[step] = float(new @ basis[step])
        new -= trivial * (trivial @ new)
        for _ in range(2):
            new -= basis[:step + 1].T @ (basis[:step + 1] @ new)
        across[step] = float(new.norm())
        done = float(across[step]) < 1e-12 or step == steps - 1
        if done or (step + 1) % _CHECK_EVERY == 0:
            off = torch.diag(across[:step], 1)
            values, vectors = torch.linalg.eigh(torch.diag(along[:step + 1]) + off + off.T)
            error = abs(float(across[step] * vectors[-1, -1]))
            converged = error < max(1e-9 * (1 - float(values[-1])), 1e-13)
            if done or converged:
                break
        basis[step + 1] = new / across[step]
    vector = basis[:step + 1].T @ vectors[:, -1].to(root.device)
    return float(values[-1]), vector / vector.norm(), converged


def _unconnected(affinity: Affinity) -> list[Tensor]:
    """The nodes of each connected part, int64."""
    rows, columns = (ends.cpu().numpy().astype(np.int32) for ends in (affinity.rows, affinity.columns))
    parts = forest(rows, columns, affinity.nodes).components
    order = np.argsort(parts, kind="stable")
    ends = np.cumsum(np.bincount(parts))[:-1]
    return [torch.from_numpy(nodes).to(affinity.own.device) for nodes in np.split(order, ends)]
