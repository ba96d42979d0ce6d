"""Histograms of oriented gradients, drawn: in each cell the directions of the edges that run through it."""

from __future__ import annotations

import math

import torch
from markupsafe import Markup
from torch import Tensor

from visus.ops.hog import DALAL_TRIGGS, Hog, hog
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, below, same
from visus.report.sketch import edge, picture, plot, sheet, words
from visus.run.demo import Tell
from visus.run.demos._shape_scenes import as_pixels, shapes

TOPIC = "classical"
SUMMARY = "an image as the directions of its edges, cell by cell"
SOURCE = "Dalal, Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005"

HEIGHT, WIDTH, FAINT = 128, 64, 0.12
CELLS = Hog(block=1, window=None, norm="none")  # each cell on its own, for the drawing


def make(seed: int, advance: Tell) -> Shown:
    image = shapes(seed, 128, count=22)[..., 32:96]
    found = hog(image)[0]
    lit = hog(0.2 + 0.5 * image)[0]
    advance(1, 3)
    cells = hog(image, CELLS)[0, :, :, 0, 0]
    turned = hog(image.flip(2, 3), CELLS)[0, :, :, 0, 0].flip(0, 1)
    advance(2, 3)
    steps = torch.arange(48.0)
    peaks, curve = [], []
    for degrees in range(0, 180, 5):
        angle = math.radians(degrees + 2.5)
        stripes = hog((steps * math.cos(angle) + steps[:, None] * math.sin(angle))[None, None], CELLS)[0, 2, 2, 0, 0]
        shares = stripes / stripes.sum()
        peaks.append(abs(int(shares.argmax()) - (degrees + 2.5) / 20 + 0.5))
        curve.append((degrees + 2.5, shares.tolist()))
    advance(3, 3)

    norms = found.flatten(2).norm(dim=2)
    facts = [
        same("numbers for a window of 128 x 64 px", found.numel(), 3780),
        same("which are blocks x cells x directions", list(found.shape), [15, 7, 2, 2, 9]),
        below("length of a block's numbers: of none more than", float(norms.max()), 1 + 1e-5),
        below("change of the numbers when contrast is halved and light added, on average",
              float((lit - found).abs().mean()), 1e-4),
        below("largest difference after half a turn, undone cell by cell: directions have no sense",
              float((turned - cells).abs().max() / cells.max()), 1e-4),
        below("distance of the fullest bin from a ramp's direction, in bins, at most",
              max(min(apart, 9 - apart) for apart in peaks), 0.5),
    ]
    return Shown(
        "Histograms of oriented gradients",
        "Every pixel votes with the strength of its gradient for the direction of that gradient; the votes are counted "
        f"in cells of {DALAL_TRIGGS.cell} x {DALAL_TRIGGS.cell} pixels and {DALAL_TRIGGS.orientations} directions. "
        "Blocks of 2 x 2 cells are then scaled to length 1, clipped at 0.2 and scaled again, so that light and "
        "contrast drop out.\n\nA bin does not switch over at its edge: a vote is shared between the two nearest "
        "directions, and between the nearest cells.",
        [Drawing(_glyphs(image, cells), "Each line runs along an edge, across the gradient; the more gradient, the "
                 "darker. The classifier sees the picture on the right only.", "A window and its cells"),
         Drawing(plot([(f"bin {k}", [(x, shares[k]) for x, shares in curve]) for k in range(4)],
                      x_label="direction of a ramp, degrees", y_label="share of the votes",
                      title="Shares of the first four bins"),
                 "The first four of nine bins, whose centres are at 10, 30, 50 and 70 degrees. Between two centres "
                 "both get a share.", "Shared votes")], facts)


def _glyphs(image: Tensor, cells: Tensor) -> Markup:
    scale, gap, top = 3.0, 24, 24
    shift, side = WIDTH * scale + gap, DALAL_TRIGGS.cell * scale
    parts = [words("window", 0, 14, "label bold"), words("its cells", shift, 14, "label bold"),
             picture(as_pixels(image), 0, top, WIDTH * scale)]
    most, bins = float(cells.max()), cells.shape[2]
    for row in range(cells.shape[0] + 1):
        parts.append(edge(shift, top + row * side, shift + WIDTH * scale, top + row * side, "edge soft"))
    for column in range(cells.shape[1] + 1):
        parts.append(edge(shift + column * side, top, shift + column * side, top + HEIGHT * scale, "edge soft"))
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            for number in range(bins):
                share = float(cells[row, column, number]) / most
                if share < FAINT:
                    continue
                angle = math.pi * ((number + 0.5) / bins + 0.5)  # along the edge
                x, y = shift + (column + 0.5) * side, top + (row + 0.5) * side
                across, down = 0.45 * side * math.cos(angle), 0.45 * side * math.sin(angle)
                parts.append(tag("line", class_="edge first", x1=round(x - across, 1), y1=round(y - down, 1),
                                 x2=round(x + across, 1), y2=round(y + down, 1),
                                 stroke_opacity=round(min(1.0, 0.15 + share), 2)))
    return sheet(shift + WIDTH * scale, HEIGHT * scale + top, *parts, title="A window and its oriented gradients")
