"""Ways to summarise windows: maximum, mean, L2 norm, overlapping windows, whole maps, uneven random regions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations import pooling as P
from visus.foundations.convolution import (
    average_pool_backward,
    average_pool_forward,
    global_average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from visus.foundations.gradient_check import check_gradient
from visus.report.demo import Drawing, Fact, Shown, Table, below, same, shown
from visus.report.sketch import arrow, bounds, grid, sheet, words
from visus.run.demo import Tell

TOPIC = "pooling and upsampling"
SUMMARY = "max, average, L2-norm, overlapping, global and fractional max pooling with its regions"
SOURCE = ("Krizhevsky et al., NeurIPS 2012 (overlapping); Sermanet et al., arXiv:1204.3968 (Lp); Lin et al., "
          "arXiv:1312.4400 (global average); Graham, arXiv:1412.6071 (fractional)")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.arange(1.0, 37.0)).reshape(1, 1, 6, 6)
    kept = {"maximum": max_pool_forward(x, 2, 2)[0], "mean": average_pool_forward(x, 2, 2)[0],
            "L2 norm": P.lp_pool_forward(x, 2, 2)[0]}
    overlapped = max_pool_forward(x[:, :, :5, :5], 3, 2)[0]
    advance(1, 3)

    size, count = 18, 13
    random = [P.random_edges(size, count, np.random.default_rng([seed, draw])) for draw in range(2)]
    even = P.pseudorandom_edges(size, count, float(np.random.default_rng([seed, 9]).uniform(0.01, 0.99)))
    facts = [*_equal_to_torch(rng), *_gradients(rng)]
    advance(2, 3)
    factor = size / count
    steps = np.diff(np.stack([*random, even]))
    overlapping = P.overlapping_regions(P.random_edges(size - 1, count, rng))
    facts += [
        same(f"steps of the fractional regions, {size} places to {count}", sorted(set(steps.ravel().tolist())), [1, 2]),
        same("places that the disjoint regions cover, each once",
             [int(P.disjoint_regions(edges)[:, 1].max()) for edges in (*random, even)], [size] * 3),
        same("places that neighbouring overlapping regions share",
             sorted(set((overlapping[:-1, 1] - overlapping[1:, 0]).tolist())), [1]),
        shown("two draws differ: each pass sees other regions", not np.array_equal(random[0], random[1]),
              f"{int(np.count_nonzero(steps[0] != steps[1]))} of {count} steps differ", "at least one"),
        below("the pseudorandom steps are even: sums of four neighbouring ones differ by",
              float(np.ptp(np.convolve(steps[2], np.ones(4, int), "valid"))), 1),
    ]
    advance(3, 3)
    gradient_max = max_pool_backward(np.ones_like(kept["maximum"]), max_pool_forward(x, 2, 2)[1])
    gradient_mean = average_pool_backward(np.ones_like(kept["mean"]), average_pool_forward(x, 2, 2)[1])
    gradient_norm = P.lp_pool_backward(np.ones_like(kept["L2 norm"]), P.lp_pool_forward(x, 2, 2)[1])
    return Shown(
        "Kinds of pooling",
        "A pooling replaces each window by one number: its maximum, its mean, or its L2 norm. The maximum keeps the "
        "strongest answer and sends all of the gradient to the place that gave it; the mean spreads it evenly; the "
        "norm lies between, each place in proportion to its value. Windows may overlap (3 x 3 with stride 2), and one "
        "window may be the whole map, which then needs no fully connected layer after it.\n\n"
        f"Halving is a large step. Fractional max pooling shrinks by any factor below two, here by {factor:.2f}: "
        "regions of one and two places in random order, drawn anew for every pass, which acts as an augmentation.",
        [Drawing(_kinds(x[0, 0], {name: out[0, 0] for name, out in kept.items()}), "Windows of 2 x 2, stride 2.",
                 "Maximum, mean, norm", wide=True),
         Drawing(_kinds(None, {"to the winner": gradient_max[0, 0], "evenly": gradient_mean[0, 0],
                               "by share of the norm": gradient_norm[0, 0]}),
                 "Where an upstream gradient of one goes in each window: it is the derivative of the number above.",
                 "Their gradients", wide=True),
         Drawing(_overlap(x[0, 0, :5, :5], overlapped[0, 0]), "3 x 3 with stride 2: the windows share a row or column, "
                 "and a large value may win several.", "Overlapping windows"),
         *(Drawing(_regions(P.disjoint_regions(edges), P.disjoint_regions(edges), size), text, title)
           for edges, title, text in (
               (random[0], "Fractional: random", "Steps of one and two in random order."),
               (random[1], "Another draw", "The same map in the next pass."),
               (even, "Fractional: pseudorandom", "ceil(alpha (i + u)): u alone is drawn, and the steps are even.")))],
        facts, [_table(kept)])


def _equal_to_torch(rng: np.random.Generator) -> list[Fact]:
    x = rng.normal(size=(2, 3, 9, 9))
    tensor = torch.tensor(x)
    u = rng.random(2)
    rows, columns = P.spaced_regions(9, 6, 2, u[1]), P.spaced_regions(9, 6, 2, u[0])
    pairs = {
        "max-pooling 3 x 3, stride 2": (max_pool_forward(x, 3, 2)[0], F.max_pool2d(tensor, 3, 2)),
        "average pooling 2 x 2": (average_pool_forward(x, 2, 2)[0], F.avg_pool2d(tensor, 2)),
        "L2-norm pooling 3 x 3, stride 2": (P.lp_pool_forward(x, 3, 2)[0], F.lp_pool2d(tensor, 2.0, 3, 2)),
        "global average pooling": (global_average_pool_forward(x)[0], F.adaptive_avg_pool2d(tensor, 1)[..., 0, 0]),
        "fractional max-pooling over torch's own regions": (
            P.region_max_pool_forward(x, rows, columns)[0],
            F.fractional_max_pool2d(tensor, 2, output_size=6, _random_samples=torch.tensor(np.tile(u, (2, 3, 1))))),
    }
    return [below(f"{name} against torch, largest difference", float(np.abs(ours - theirs.numpy()).max()), 1e-12)
            for name, (ours, theirs) in pairs.items()]


def _gradients(rng: np.random.Generator) -> list[Fact]:
    x = rng.normal(size=(1, 2, 6, 6))
    out, cache = P.lp_pool_forward(x, 2, 2)
    upstream = rng.normal(size=out.shape)
    norm = check_gradient(lambda v: P.lp_pool_forward(v, 2, 2)[0], x, P.lp_pool_backward(upstream, cache), upstream,
                          rng=rng)
    regions = P.disjoint_regions(P.random_edges(6, 4, rng))
    out, cache = P.region_max_pool_forward(x, regions, regions)
    upstream = rng.normal(size=out.shape)
    fractional = check_gradient(lambda v: P.region_max_pool_forward(v, regions, regions)[0], x,
                                P.region_max_pool_backward(upstream, cache), upstream, rng=rng)
    large = np.abs(x)
    return [below("gradient of L2-norm pooling against differences, relative error", norm.error, 1e-7),
            below("gradient of fractional max-pooling against differences", fractional.error, 1e-7),
            below("the Lp norm nears the maximum: largest relative difference at p = 100", float(
                (P.lp_pool_forward(large, 2, 2, 100.0)[0] / max_pool_forward(large, 2, 2)[0] - 1).max()), 0.02)]


def _table(kept: dict[str, np.ndarray]) -> Table:
    return Table("What each keeps of the drawing", ["pooling", "mean of its map", "places with a gradient"], [
        ["maximum", f"{kept['maximum'].mean():.2f}", "9 of 36"], ["mean", f"{kept['mean'].mean():.2f}", "36 of 36"],
        ["L2 norm", f"{kept['L2 norm'].mean():.2f}", "36 of 36"]])


def _kinds(image: np.ndarray | None, found: dict[str, np.ndarray]) -> Markup:
    cell, x, parts = 30, 16.0, []
    if image is not None:
        parts += [words("image", x, 24), grid(image, x, 34, cell), *_blocks(x, 34, cell)]
        x += 6 * cell + 20
        parts.append(arrow(x, 34 + 3 * cell, x + 34, 34 + 3 * cell))
        x += 54
    for name, values in found.items():
        side = values.shape[0] * cell
        top = 34 + (6 * cell - side) / 2
        parts += [words(name, x, top - 10), grid(values, x, top, cell, form=lambda v: f"{v:.3g}" if v >= 1 or not v
                                                 else f"{v:.2f}")]
        if side == 6 * cell:
            parts += _blocks(x, top, cell)
        x += max(side, 130) + 30
    return sheet(x, 50 + 6 * cell, *parts, title="Pooled maps")


def _blocks(x: float, y: float, cell: float) -> list[Markup]:
    return [bounds(x + 2 * j * cell, y + 2 * i * cell, 2, 2, cell, "edge") for i in range(3) for j in range(3)]


def _overlap(image: np.ndarray, out: np.ndarray) -> Markup:
    cell = 32
    parts = [grid(image, 16, 20, cell), bounds(16, 20, 3, 3, cell),
             bounds(16 + 2 * cell, 20, 3, 3, cell, "hollow second"),
             arrow(16 + 5 * cell + 14, 100, 16 + 5 * cell + 50, 100), grid(out, 240, 68, cell),
             bounds(240, 68, 1, 1, cell), bounds(240 + cell, 68, 1, 1, cell, "hollow second")]
    return sheet(320, 200, *parts, title="Overlapping windows")


def _regions(rows: np.ndarray, columns: np.ndarray, size: int) -> Markup:
    """Each region in a colour by its size: 1 x 1 pale, 1 x 2 and 2 x 1 middle, 2 x 2 deep."""
    cell, values = 15, np.zeros((size, size))
    for top, bottom in rows:
        for left, right in columns:
            values[top:bottom, left:right] = (bottom - top) * (right - left) / 4
    frames = [bounds(10 + left * cell, 10 + top * cell, right - left, bottom - top, cell, "edge")
              for top, bottom in rows for left, right in columns]
    return sheet(20 + size * cell, 20 + size * cell, grid(values * 0.6, 10, 10, cell, form=None, most=1), *frames,
                 title="Regions of fractional max pooling")
