"""Drawings of a plane: what a classifier says at each point, with the examples on it; and drawings side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from visus.report.charts import tag
from visus.report.sketch import edge, picture, sheet, words

HUES = np.array([[47, 111, 184], [201, 104, 29], [61, 143, 85], [192, 63, 86], [138, 99, 201]], float)  # hue0 to hue4
Extent = tuple[float, float, float, float]  # x from, x to, y from, y to


def points_of(extent: Extent, cells: int) -> np.ndarray:
    """The centres of a grid of cells x cells, [cells^2, 2], rows from the top, for which `plane` wants answers."""
    x = np.linspace(extent[0], extent[1], cells + 1)[:-1] + (extent[1] - extent[0]) / cells / 2
    y = np.linspace(extent[2], extent[3], cells + 1)[:-1] + (extent[3] - extent[2]) / cells / 2
    return np.stack([np.tile(x, cells), np.repeat(y[::-1], cells)], 1)


def plane(probs: np.ndarray, examples: np.ndarray, labels: np.ndarray, extent: Extent, *, side: float = 210,
          name: str = "", lines: Sequence[tuple[float, float, float]] = (), ringed: np.ndarray | None = None) -> Markup:
    """The mixed colours of the classes, the border between them and the examples as dots.

    probs: [cells^2, C] at `points_of`; examples: [N, 2]; labels: [N]; lines: (a, b, c) for a x + b y + c = 0; ringed:
    bool [N], examples to be marked. Takes side x (side + 22) px, to be moved with `beside`.
    """
    cells = round(len(probs) ** 0.5)
    mixed = 255 - 0.5 * (255 - probs @ HUES[:probs.shape[1]])
    best = probs.argmax(1).reshape(cells, cells)
    border = np.zeros((cells, cells), bool)
    border[:, 1:] |= best[:, 1:] != best[:, :-1]
    border[1:] |= best[1:] != best[:-1]
    mixed[border.ravel()] = 70
    parts = [words(name, 0, 12, "label bold"),
             picture(mixed.reshape(cells, cells, 3).round().astype(np.uint8), 0, 20, side)]

    def place(x: float, y: float) -> tuple[float, float]:
        return (side * (x - extent[0]) / (extent[1] - extent[0]), 20 + side * (extent[3] - y) / (extent[3] - extent[2]))

    for a, b, c in lines:
        ends = _crossing(a, b, c, extent)
        if ends is not None:
            (x1, y1), (x2, y2) = (place(*end) for end in ends)
            parts.append(edge(x1, y1, x2, y2, "cursor"))
    for index, ((x, y), label) in enumerate(zip(examples, labels, strict=True)):
        cx, cy = place(float(x), float(y))
        if ringed is not None and ringed[index]:
            parts.append(tag("circle", class_="cursor", cx=cx, cy=cy, r=6.0))
        parts.append(tag("circle", class_=f"hue{int(label)}", cx=cx, cy=cy, r=2.6))
    return tag("g", *parts)


def beside(drawings: Sequence[Markup], width: float, height: float, *, columns: int, title: str,
           gap: float = 18) -> Markup:
    """Drawings of one size in rows of `columns`, as one."""
    rows = -(-len(drawings) // columns)
    parts = [tag("g", drawing, transform=f"translate({(k % columns) * (width + gap):g} "
                                         f"{(k // columns) * (height + gap):g})") for k, drawing in enumerate(drawings)]
    return sheet(columns * (width + gap) - gap, rows * (height + gap) - gap, *parts, title=title)


def _crossing(a: float, b: float, c: float, extent: Extent) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Where a line enters and leaves the extent; None where it does not pass."""
    found = []
    for x in extent[:2]:
        if b and extent[2] <= (y := -(a * x + c) / b) <= extent[3]:
            found.append((x, y))
    for y in extent[2:]:
        if a and extent[0] <= (x := -(b * y + c) / a) <= extent[1]:
            found.append((x, y))
    return (min(found), max(found)) if len(found) >= 2 else None
