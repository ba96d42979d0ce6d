"""k-means step by step: points go to the nearest centre, centres to the mean of their points, the sum only falls."""

from __future__ import annotations

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from visus.ops.kmeans import assign, kmeans, plus_plus
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, below, same, shown
from visus.report.sketch import plot, sheet, words
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "k-means step by step, and why it is begun far apart and more than once"
SOURCE = "Lloyd 1982; Arthur and Vassilvitskii, k-means++, SODA 2007"

CLUSTERS, EACH = 6, 60
STARTS = 40


def make(seed: int, advance: Tell) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    angles = torch.arange(CLUSTERS, dtype=torch.float64) * 2 * torch.pi / CLUSTERS
    homes = torch.stack([angles.cos(), angles.sin()], 1).repeat_interleave(EACH, 0)
    points = homes + 0.16 * torch.randn(CLUSTERS * EACH, 2, generator=generator, dtype=torch.float64)
    start = points[:CLUSTERS].clone()  # all in one cluster: as badly as it can begin
    steps = [start]
    for _ in range(30):
        steps.append(kmeans(points, CLUSTERS, start=steps[-1], steps=1, tolerance=0).centres)
        if torch.equal(assign(points, steps[-1])[0], assign(points, steps[-2])[0]):
            break
    advance(1, 3)
    at_once = kmeans(points, CLUSTERS, start=start, tolerance=0)
    plain, careful = [], []
    for _ in range(STARTS):
        drawn = points[torch.randperm(len(points), generator=generator)[:CLUSTERS]]
        plain.append(kmeans(points, CLUSTERS, start=drawn).inertia)
        careful.append(kmeans(points, CLUSTERS, start=plus_plus(points, CLUSTERS, generator)).inertia)
    advance(2, 3)
    best = min(plain + careful)
    hit = {name: sum(value < 1.01 * best for value in found) for name, found in (("random", plain),
                                                                               ("k-means++", careful))}
    elbow = [(float(count), kmeans(points, count, seed=seed).inertia) for count in range(1, 11)]
    falls = [earlier[1] - later[1] for earlier, later in zip(elbow, elbow[1:])]
    advance(3, 3)
    history = at_once.history
    labels, squares = assign(points, at_once.centres)
    means = torch.stack([points[labels == label].mean(0) for label in range(CLUSTERS)])
    facts = [
        below("largest rise of the sum of squared distances in a step",
              max(0.0, *(later - earlier for earlier, later in zip(history, history[1:]))), 1e-9),
        below("at the end each centre is the mean of its points: largest difference",
              float((means - at_once.centres).abs().max()), 1e-12),
        below("and each point is with its nearest centre: how much farther the farthest off is",
              float((squares - torch.cdist(points, at_once.centres).square().amin(1)).abs().max()), 1e-12),
        shown(f"of {STARTS} runs each, those that find the best answer", hit["k-means++"] > hit["random"],
              f"{hit['k-means++']} from k-means++, {hit['random']} from random points", "more from k-means++"),
        same("the number of clusters after which another one gains least of all before it",
             1 + int(np.argmax([a / max(b, 1e-9) for a, b in zip(falls, falls[1:])])) + 1, CLUSTERS),
    ]
    return Shown(
        "k-means",
        "Two steps in turn: every point joins the nearest centre, every centre moves to the mean of its points. "
        "Neither can raise the sum of squared distances, and there are finitely many ways to part the points, so it "
        "ends; but where it ends depends on where it began. Begun in one corner it may leave two clusters with one "
        "centre for good.\n\n"
        "k-means++ draws the first centres far apart, each with a probability that grows with its squared distance "
        "from those there are, and of several such starts the best is kept.",
        [Drawing(_steps(points, steps), "From centres that all lie in one cluster: the beginning, the first steps and "
                 "the end.", "Step by step", wide=True),
         Drawing(plot([("", [(float(i), value) for i, value in enumerate(history)])], x_label="step",
                      y_label="sum of squared distances", title="The sum by step"),
                 "It never rises.", "The sum of squared distances"),
         Drawing(plot([("", elbow)], x_label="clusters", y_label="sum of squared distances",
                      title="The sum by clusters"),
                 "It falls with every further cluster, but hardly after the sixth.", "How many clusters")],
        facts)


def _steps(points: Tensor, steps: list[Tensor]) -> Markup:
    chosen = sorted({0, 1, 2, len(steps) - 1})
    side, parts = 190, []
    for column, number in enumerate(chosen):
        centres = steps[number]
        labels = assign(points, centres)[0]
        left, top = column * (side + 10) + side / 2, 20 + side / 2
        parts.append(words("beginning" if number == 0 else f"step {number}", column * (side + 10) + 4, 12))
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            parts.append(tag("circle", class_=f"hue{label}", cx=round(left + 62 * x, 1), cy=round(top + 62 * y, 1),
                             r=2))
        for x, y in centres.tolist():
            parts.append(tag("circle", class_="hollow", cx=round(left + 62 * x, 1), cy=round(top + 62 * y, 1), r=7))
    return sheet(len(chosen) * (side + 10), side + 24, *parts, title="Points and centres, step by step")
