"""Distances survive a projection onto random directions, and how many it takes does not depend on the dimension."""

from __future__ import annotations

import math

import torch

from visus.ops.random_projection import Kind, distortion, least_dims, projection
from visus.report.demo import Drawing, Shown, Table, below, same
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "random directions keep all distances: the Johnson-Lindenstrauss lemma, measured"
SOURCE = "Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003; Achlioptas, JCSS 2003; CS231n, lecture 2"

POINTS, DIM = 200, 2000
DIMS = (10, 30, 100, 300, 1000, 3000)
EPSILON = 0.5


def make(seed: int, advance: Tell) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(POINTS, DIM, generator=generator) * torch.rand(DIM, generator=generator).square()
    kinds: dict[str, tuple[Kind, float | None]] = {
        "gaussian": ("gaussian", None), "sparse, a third": ("sparse", None),
        "very sparse": ("sparse", 1 / math.sqrt(DIM))}
    worst: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    deviation: dict[str, list[float]] = {name: [] for name in kinds}
    for place, dims in enumerate(DIMS):
        for name, (kind, density) in kinds.items():
            found = distortion(points, points @ projection(DIM, dims, kind, density=density, seed=seed + place))
            worst[name].append((float(dims), float((found - 1).abs().max())))
            deviation[name].append(float(found.std()))
        advance(place + 1, len(DIMS) + 1)
    bound = least_dims(POINTS, EPSILON)
    at_bound = {name: distortion(points, points @ projection(DIM, bound, kind, density=density, seed=seed))
                for name, (kind, density) in kinds.items()}
    wide = torch.randn(POINTS, 5 * DIM, generator=generator)
    elsewhere = distortion(wide, wide @ projection(5 * DIM, bound, seed=seed))
    advance(len(DIMS) + 1, len(DIMS) + 1)
    facts = [
        same(f"dimensions that the lemma asks for: {POINTS} points, epsilon {EPSILON}", bound,
             math.floor(4 * math.log(POINTS) / (EPSILON**2 / 2 - EPSILON**3 / 3))),
        *(below(f"{name}, {bound} dimensions: largest change of {len(found):,} squared distances, as a share",
                float((found - 1).abs().max()), EPSILON) for name, found in at_bound.items()),
        below(f"the same number of directions for points of {5 * DIM:,} numbers in place of {DIM:,}",
              float((elsewhere - 1).abs().max()), EPSILON),
        below("gaussian: deviation of the change against sqrt(2 / dimensions), largest relative difference",
              max(abs(value / math.sqrt(2 / dims) - 1) for dims, value in zip(DIMS, deviation["gaussian"])), 0.35),
    ]
    asked = [(count, least_dims(count, 0.2)) for count in (100, 1000, 10_000, 100_000, 1_000_000)]
    lemma = [(float(dims), math.sqrt(8 * math.log(POINTS) / dims)) for dims in DIMS]
    return Shown(
        "Random projections",
        f"{POINTS} points of {DIM:,} numbers are multiplied with a random matrix, drawn without looking at them. With "
        "fewer and fewer columns the distances between the points wander from what they were, as the root of one over "
        "the number of columns. The lemma bounds the worst pair of all: the number of columns that it asks for grows "
        "with the logarithm of the number of points, and does not depend on how many numbers a point has.\n\n"
        "Entries need not be Gaussian: signs with two zeros of three do as well, and even far sparser ones, for which "
        "a product needs additions only.",
        [Drawing(plot([*worst.items(), ("sqrt(8 ln N / K)", lemma)], x_label="dimensions after the projection",
                      y_label="largest change of a squared distance", log_x=True, log_y=True, title="Distortion"),
                 "The worst pair by the number of directions, for three kinds of random matrices, and the rate of the "
                 "lemma.", "Distortion")],
        facts, [Table("Dimensions that keep all distances within 20 %", ["points", "dimensions"],
                      [[f"{count:,}", f"{dims:,}"] for count, dims in asked])])

