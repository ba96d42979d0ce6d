"""Points in the plane with labels, to see what a classifier can and cannot tell apart.

Each set is a function of a seed: points float64 [N, 2] (x, y), labels int64 [N] from 0. `count` is per class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from visus.core.errors import UserError, did_you_mean
from visus.core.validate import positive, require

Points = tuple[np.ndarray, np.ndarray]


def spiral(count: int = 100, classes: int = 3, noise: float = 0.2, seed: int = 0) -> Points:
    """Arms of radius 0 to 1 and angles of 4 radians each, normal noise on the angle (the case study of CS231n's notes).
    """
    normal = _normal(count, noise, seed, classes=classes)
    radius = np.linspace(0, 1, count)
    points = []
    for arm in range(classes):
        angle = np.linspace(4 * arm, 4 * (arm + 1), count) + noise * normal.standard_normal(count)
        points.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1))
    return np.concatenate(points), np.repeat(np.arange(classes), count)


def xor(count: int = 100, noise: float = 0.2, seed: int = 0) -> Points:
    """Normal clouds about the corners of a square; opposite corners are one class. Half of `count` at each corner."""
    normal = _normal(count, noise, seed)
    corners = np.array([[-0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [0.5, -0.5]])
    which = np.concatenate([np.arange(count) % 2, 2 + np.arange(count) % 2])
    return corners[which] + noise * normal.standard_normal((2 * count, 2)), which // 2


def moons(count: int = 100, noise: float = 0.1, seed: int = 0) -> Points:
    """Two half circles that reach into each other."""
    normal = _normal(count, noise, seed)
    angle = np.linspace(0, np.pi, count)
    upper, lower = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    return np.concatenate([upper, lower]) + noise * normal.standard_normal((2 * count, 2)), np.repeat([0, 1], count)


def circles(count: int = 100, noise: float = 0.05, ratio: float = 0.5, seed: int = 0) -> Points:
    """A circle inside another, whose radius is 1; `ratio` is the inner one's."""
    normal = _normal(count, noise, seed)
    require(0 < ratio < 1, "ratio", ratio, "lie between 0 and 1")
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([ring, ratio * ring]) + noise * normal.standard_normal((2 * count, 2)), np.repeat([0, 1],
                                                                                                          count)


def blobs(count: int = 100, classes: int = 3, noise: float = 0.2, seed: int = 0) -> Points:
    """Normal clouds about places on a circle of radius 1: a linear classifier is enough."""
    normal = _normal(count, noise, seed, classes=classes)
    angle = 2 * np.pi * np.arange(classes) / classes
    centres = np.stack([np.cos(angle), np.sin(angle)], 1).repeat(count, 0)
    return centres + noise * normal.standard_normal((classes * count, 2)), np.repeat(np.arange(classes), count)


TOY_SETS: Mapping[str, Callable[..., Points]] = {"spiral": spiral, "xor": xor, "moons": moons, "circles": circles,
                                                 "blobs": blobs}


def toy_set(name: str, count: int = 100, noise: float | None = None, seed: int = 0) -> Points:
    """The named set. noise: None for the set's own. Raises UserError with the nearest name where there is none."""
    if name not in TOY_SETS:
        raise UserError(f"there is no toy set {name!r}", remedy=did_you_mean(name, sorted(TOY_SETS)))
    return TOY_SETS[name](count, seed=seed) if noise is None else TOY_SETS[name](count, noise=noise, seed=seed)


def _normal(count: int, noise: float, seed: int, classes: int = 2) -> np.random.Generator:
    positive(count=count, classes=classes)
    require(noise >= 0, "noise", noise, "be 0 or more")
    return np.random.Generator(np.random.PCG64(seed))
