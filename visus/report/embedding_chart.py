"""Points on a plane, coloured by class; pointing at one shows its picture. No script: the page's policy may have none.

The card of a point is drawn beside the map, in a place of its own, and stands hidden until the point is under the
pointer or has the focus (assets/charts.css); so no point ever covers a card.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus.core.errors import UserError
from visus.report.charts import tag, text_width
from visus.report.figures import standalone
from visus.report.formatting import shorten
from visus.report.thumbnails import picture_uri

HUES = 10  # classes of charts.css; further classes take other shapes
SHAPES = ("circle", "square", "triangle", "cross")
WIDTH = 900
_MAP = 560.0  # side of the map
_PAD = 22.0
_CARD_X, _CARD_PX = 604.0, 190.0
_ROW = 19.0
_MAX_LEGEND = 60


def embedding_chart(points: Sequence[Sequence[float]], labels: Sequence[str], names: Sequence[str],
                    thumbnails: Sequence[bytes | None] | None = None) -> Markup:
    """points: [N, 2]; labels: the class of each; names: where each came from; thumbnails: PNG files, encoded, or None.
    Both axes have the same scale, as distances count. Raises UserError where they are not as many."""
    count = len(points)
    pictures: Sequence[bytes | None] = [None] * count if thumbnails is None else thumbnails
    for name, given in (("labels", labels), ("names", names), ("thumbnails", pictures)):
        if len(given) != count:
            raise UserError(f"{len(given)} for {count} points", where=name)
    place = _scale(points)
    classes = list(dict.fromkeys(labels))
    order = {label: number for number, label in enumerate(sorted(classes))}
    radius = 5.5 if count <= 150 else 4.5 if count <= 600 else 3.2
    parts = [tag("title", "Images on a plane"),
             tag("rect", class_="frame", x=1.0, y=1.0, width=_MAP, height=_MAP, rx=8)]
    parts.append(_hint(count))
    for point, label, name, picture in zip(points, labels, names, pictures, strict=True):
        if not all(math.isfinite(value) for value in point):
            continue
        x, y = place(point)
        number = order[label]
        card = [tag("rect", class_="card-ground", x=_CARD_X, y=1.0, width=WIDTH - _CARD_X - 1, height=268)]
        if picture is not None:
            card.append(tag("image", href=picture_uri(picture), x=_CARD_X + 12, y=14.0, width=_CARD_PX,
                            height=_CARD_PX, preserveAspectRatio="xMinYMin meet"))
        top = 14.0 if picture is None else 14.0 + _CARD_PX
        card += [tag("text", shorten(label, 34), class_="label", x=_CARD_X + 12, y=top + 24,
                     font_weight=600),
                 tag("text", shorten(name, 42), class_="tick", x=_CARD_X + 12, y=top + 44)]
        parts.append(tag("g", tag("title", f"{label}: {name}" if label else name), _mark(number, x, y, radius),
                         tag("g", *card, class_="point-card"), class_="point", tabindex=-1))
    legend, bottom = _legend(classes, order)
    parts += legend
    return tag("svg", *parts, class_="visus-chart embedding", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {WIDTH} {_height(bottom):g}")


def embedding_svg(points: Sequence[Sequence[float]], labels: Sequence[str], names: Sequence[str],
                  thumbnails: Sequence[bytes | None] | None = None) -> str:
    """`embedding_chart` as the text of an SVG file, which a browser shows with its cards."""
    chart = embedding_chart(points, labels, names, thumbnails)
    bottom = _legend(list(dict.fromkeys(labels)), dict.fromkeys(labels, 0))[1]
    return standalone(chart, WIDTH, math.ceil(_height(bottom)), title="Images on a plane") + "\n"


def _height(bottom: float) -> float:
    return max(_MAP + 2, bottom)


def _scale(points: Sequence[Sequence[float]]) -> Any:
    """Place -> pixels, with one scale for both axes, in the middle of the map; y grows upwards."""
    finite = [point for point in points if all(math.isfinite(value) for value in point)] or [(0.0, 0.0)]
    low = [min(point[axis] for point in finite) for axis in (0, 1)]
    high = [max(point[axis] for point in finite) for axis in (0, 1)]
    span = max(high[0] - low[0], high[1] - low[1]) or 1.0
    factor = (_MAP - 2 * _PAD) / span
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]

    def place(point: Sequence[float]) -> tuple[float, float]:
        return 1 + _MAP / 2 + factor * (point[0] - middle[0]), 1 + _MAP / 2 - factor * (point[1] - middle[1])

    return place


def _mark(number: int, x: float, y: float, r: float) -> Markup:
    look = f"spot hue{number % HUES}"
    shape = SHAPES[number // HUES % len(SHAPES)]
    if shape == "circle":
        return tag("circle", class_=look, cx=x, cy=y, r=r)
    if shape == "square":
        return tag("rect", class_=look, x=x - 0.9 * r, y=y - 0.9 * r, width=1.8 * r, height=1.8 * r)
    if shape == "triangle":
        corners = [(x, y - 1.2 * r), (x - 1.1 * r, y + 0.8 * r), (x + 1.1 * r, y + 0.8 * r)]
    else:
        w = 0.38 * r
        corners = [(x - w, y - r), (x + w, y - r), (x + w, y - w), (x + r, y - w), (x + r, y + w), (x + w, y + w),
                   (x + w, y + r), (x - w, y + r), (x - w, y + w), (x - r, y + w), (x - r, y - w), (x - w, y - w)]
    return tag("polygon", class_=look, points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners))


def _hint(count: int) -> Markup:
    words = "Point at an image to see it" if count else "No images"
    return tag("text", words, class_="tick", x=_CARD_X + 12, y=28.0)


def _legend(classes: Sequence[str], order: dict[str, int]) -> tuple[list[Markup], float]:
    """The classes below the card, in as many columns as their names leave room for, and where they end."""
    shown = [label for label in sorted(classes) if label][:_MAX_LEGEND]
    if not shown:
        return [], 0.0
    short = [shorten(label, 30) for label in shown]
    widest = max(text_width(label) for label in short) + 34
    columns = max(1, int((WIDTH - _CARD_X) // widest))
    parts, y = [], 296.0
    for number, (label, words) in enumerate(zip(shown, short, strict=True)):
        x = _CARD_X + 10 + (number % columns) * widest
        y = 296.0 + (number // columns) * _ROW
        parts += [_mark(order[label], x, y - 4, 5.0), tag("text", words, class_="label", x=x + 12, y=y)]
    left = sum(bool(label) for label in classes) - len(shown)
    if left:
        y += _ROW
        parts.append(tag("text", f"and {left} further classes", class_="tick", x=_CARD_X + 22, y=y))
    return parts, y + 14
