"""Ways to make a map larger without learning: by switches, into the corner, by copies, by interpolation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations import upsampling as U
from visus.foundations.convolution import average_pool_backward, average_pool_forward, max_pool_forward
from visus.foundations.gradient_check import check_gradient
from visus.report.charts import tag
from visus.report.demo import Drawing, Fact, Shown, Table, below, same
from visus.report.sketch import arrow, bounds, grid, plot, plot_axes, sheet, words
from visus.run.demo import Tell

TOPIC = "pooling and upsampling"
SUMMARY = "max-unpooling with switches, bed of nails, nearest, bilinear and bicubic upsampling"
SOURCE = ("Zeiler and Fergus, ECCV 2014; Noh et al., arXiv:1505.04366 (switches); Keys, IEEE Trans. ASSP 29 (1981), "
          "with a = -0.75 (bicubic)")

SMALL = np.array([[1.0, 2], [3, 4]])
INTERPOLATIONS: tuple[U.Kind, ...] = ("nearest", "bilinear", "bicubic")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.arange(1.0, 17.0)).reshape(1, 1, 4, 4)
    pooled, switches = max_pool_forward(x, 2, 2)
    unpooled, _ = U.max_unpool_forward(pooled, switches)
    advance(1, 3)
    facts = [*_equal_to_torch(rng), *_gradients(rng)]
    advance(2, 3)
    again, _ = max_pool_forward(unpooled, 2, 2)
    larger = {kind: U.resize_forward(SMALL[None, None], (8, 8), kind)[0][0, 0] for kind in INTERPOLATIONS}
    blocks = U.resize_forward(SMALL[None, None], (4, 4), "nearest")[0]
    adjoint = average_pool_backward(SMALL[None, None], average_pool_forward(blocks, 2, 2)[1]) * 4
    facts += [
        same("pooling what was unpooled gives the pooled map back", bool(np.array_equal(again, pooled)), True),
        same("entries that max-unpooling fills of 16", int(np.count_nonzero(unpooled)), 4),
        below("nearest by 2 against 4 times the backward pass of average pooling",
              float(np.abs(blocks - adjoint).max()), 1e-12),
        same("bilinear stays within the values it is made of",
             bool(larger["bilinear"].min() >= 1 and larger["bilinear"].max() <= 4), True),
        same("bicubic does not: it overshoots",
             bool(larger["bicubic"].min() < 1 and larger["bicubic"].max() > 4), True),
        below("each row of an interpolation's matrix adds up to one: a flat map stays flat", max(
            float(np.abs(U.interpolation_matrix(5, 13, kind).sum(axis=1) - 1).max()) for kind in INTERPOLATIONS),
              1e-12),
    ]
    advance(3, 3)
    return Shown(
        "Upsampling and unpooling",
        "A decoder has to make small maps large. Max-unpooling puts each value where the maximum came from, as the "
        "encoder's switches remember; a bed of nails puts it into the upper left corner of its block. Both leave holes "
        "for the next convolution to fill.\n\n"
        "Interpolation leaves none. Nearest copies; bilinear draws straight lines between neighbours; bicubic fits "
        "smooth curves and overshoots at edges. Each is one small matrix for the rows and one for the columns, so the "
        "backward pass is the transpose of both.",
        [Drawing(_switches(x[0, 0], pooled[0, 0], unpooled[0, 0]), "The winners' places (framed) are kept from the "
                 "pooling and filled again; all else is zero.", "Max-unpooling with switches", wide=True),
         Drawing(_pair(SMALL, U.bed_of_nails_forward(SMALL[None, None], 2)[0][0, 0]), "Each value in the corner of its "
                 "block.", "Bed of nails"),
         *(Drawing(_pair(SMALL, larger[kind], 25), f"2 x 2 to 8 x 8, {kind}.", kind.capitalize())
           for kind in INTERPOLATIONS),
         Drawing(_curves(), "Six values (dots) and what each rule makes between them.", "Along a line")],
        facts, [_table()])


def _equal_to_torch(rng: np.random.Generator) -> list[Fact]:
    x = rng.normal(size=(2, 3, 6, 5))
    facts = []
    for kind in INTERPOLATIONS:
        errors = []
        for size in ((12, 10), (9, 13), (4, 3)):
            ours = U.resize_forward(x, size, kind)[0]
            corners = None if kind == "nearest" else False
            errors.append(np.abs(ours - F.interpolate(torch.tensor(x), size, mode=kind, align_corners=corners).numpy()))
        facts.append(below(f"{kind} to three sizes against torch, largest difference",
                           max(float(error.max()) for error in errors), 1e-12))
    pooled, indices = F.max_pool2d(torch.tensor(x), 2, 2, return_indices=True)
    theirs = F.max_unpool2d(pooled, indices, [2, 2], [2, 2], output_size=x.shape[2:])
    ours = U.max_unpool_forward(*max_pool_forward(x, 2, 2))[0]
    return [*facts, below("max-unpooling against torch", float(np.abs(ours - theirs.numpy()).max()), 0.0)]


def _gradients(rng: np.random.Generator) -> list[Fact]:
    x, facts = rng.normal(size=(1, 2, 4, 4)), []
    pooled, switches = max_pool_forward(x, 2, 2)
    out, cache = U.max_unpool_forward(pooled, switches)
    upstream = rng.normal(size=out.shape)
    found = check_gradient(lambda v: U.max_unpool_forward(v, switches)[0], pooled,
                           U.max_unpool_backward(upstream, cache), upstream, rng=rng)
    facts.append(below("gradient of max-unpooling against differences, relative error", found.error, 1e-7))
    for kind in INTERPOLATIONS:
        out, cache = U.resize_forward(x, (7, 9), kind)
        upstream = rng.normal(size=out.shape)
        found = check_gradient(lambda v, k=kind: U.resize_forward(v, (7, 9), k)[0], x,  # type: ignore[misc]
                               U.resize_backward(upstream, cache), upstream, rng=rng, floor=1e-4)
        facts.append(below(f"gradient of {kind}", found.error, 1e-7))
    return facts


def _table() -> Table:
    return Table("Side by side", ["kind", "neighbours used", "holes", "needs from the encoder"], [
        ["max-unpooling", 1, "3 of 4 places", "the switches"], ["bed of nails", 1, "3 of 4 places", "nothing"],
        ["nearest", 1, "none", "nothing"], ["bilinear", 4, "none", "nothing"], ["bicubic", 16, "none", "nothing"]])


def _switches(x: np.ndarray, pooled: np.ndarray, unpooled: np.ndarray) -> Markup:
    cell, y = 34, 34
    parts = [words("image", 16, 24), grid(x, 16, y, cell), words("pooled", 240, 58), grid(pooled, 240, 68, cell),
             words("unpooled", 396, 24), grid(unpooled, 396, y, cell),
             arrow(166, 102, 226, 102), words("max", 190, 94), arrow(322, 102, 382, 102)]
    for i, j in np.argwhere(unpooled > 0):
        parts += [bounds(16 + j * cell, y + i * cell, 1, 1, cell, "hollow second"),
                  bounds(396 + j * cell, y + i * cell, 1, 1, cell, "hollow second")]
    return sheet(560, 190, *parts, title="Max-unpooling by switches")


def _pair(small: np.ndarray, large: np.ndarray, cell: float = 34) -> Markup:
    side = cell * large.shape[0]
    middle = 14 + side / 2
    parts = [grid(small, 14, middle - 34, 34), arrow(92, middle, 128, middle),
             grid(large, 140, 14, cell, form=lambda v: f"{v:.3g}")]
    return sheet(154 + side, 28 + side, *parts, title="A small map and what is made of it")


def _curves() -> Markup:
    values = np.array([1.0, 1.2, 4, 3.8, 1.5, 2])
    fine = 40
    curves = []
    for kind in INTERPOLATIONS:
        made = U.interpolation_matrix(6, 6 * fine, kind) @ values
        curves.append((kind, [((i + 0.5) / fine - 0.5, float(v)) for i, v in enumerate(made)]))
    x_axis, y_axis, _ = plot_axes(curves, width=460, height=290)
    dots = [tag("circle", class_="ink", cx=x_axis(i), cy=y_axis(v), r=3.5) for i, v in enumerate(values)]
    return plot(curves, x_label="place", y_label="value", height=290, over=dots, title="Interpolation along a line")
