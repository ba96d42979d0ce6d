"""Parts of a drawing for the demos: grids of numbers, nodes, arrows, lines over axes. Colours come from classes.

Each function gives elements for `sheet`, which makes one <svg> of them. Lengths are in px of the view box.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from visus.report.charts import DARK_LEVEL, LEVELS, Axis, tag, text_width
from visus.report.formatting import axis_number

Cells = np.ndarray  # [rows, columns]


def sheet(width: float, height: float, *parts: Markup, title: str) -> Markup:
    """The drawing; title: what a screen reader says of it."""
    return tag("svg", tag("title", title), *parts, class_="visus-chart", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {round(width)} {round(height)}", width=round(width), height=round(height))


def words(text: str, x: float, y: float, kind: str = "label", size: float = 12) -> Markup:
    """A text whose base line begins at (x, y). kind: classes: label, tick, end, middle, bold, first, second, soft."""
    return tag("text", text, class_=kind, x=float(x), y=float(y), font_size=None if size == 12 else float(size))


def grid(values: Cells, x: float, y: float, cell: float = 30, *, form: str | Callable[[Any], str] | None = "g",
         most: float | None = None, plain: bool = False, void: Cells | None = None) -> Markup:
    """Numbers in squares, blue above zero and orange below, deeper the larger.

    values: [rows, columns]. form: how a number is written: a format or a function; None: not at all. most: the size
    of the deepest colour; default: the largest found. plain: no colours. void: bool, cells drawn dashed and empty.
    """
    values = np.asarray(values, float)
    size = float(np.abs(values).max(initial=0)) if most is None else most
    squares: dict[str, list[str]] = {}
    texts = []
    for (row, column), value in np.ndenumerate(values):
        left, top = x + column * cell, y + row * cell
        if void is not None and void[row, column]:
            squares.setdefault("void", []).append(_square(left + 1, top + 1, cell - 2))
            continue
        step = 0 if plain or not size else min(LEVELS, round(LEVELS * abs(value) / size))
        kind = "empty" if step == 0 else f"{'hit' if value > 0 else 'miss'} level{step}"
        squares.setdefault(kind, []).append(_square(left + 0.5, top + 0.5, cell - 1))
        if form is not None:
            told = form(value + 0.0) if callable(form) else format(value + 0.0, form)  # no -0
            fits = min(12.0, cell * 0.42, cell * 0.92 / max(1, len(told)) / 0.56)
            texts.append(tag("text", told, class_="count on" if step >= DARK_LEVEL else "count", font_size=fits,
                             x=left + cell / 2, y=top + cell / 2 + fits * 0.36))
    paths = [tag("path", class_=kind, d="".join(found)) for kind, found in sorted(squares.items())]
    return tag("g", *paths, *texts)


def _square(x: float, y: float, side: float) -> str:
    return f"M{x:g} {y:g}h{side:g}v{side:g}h{-side:g}z"


def bounds(x: float, y: float, columns: float, rows: float, cell: float = 30, kind: str = "hollow first") -> Markup:
    """A frame around cells of a grid whose first one begins at (x, y)."""
    return tag("rect", class_=kind, x=float(x), y=float(y), width=columns * cell, height=rows * cell)


def arrow(x1: float, y1: float, x2: float, y2: float, kind: str = "edge") -> Markup:
    """A line with a head at its end."""
    length = max(1e-9, ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5)
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    sides = [(x2 - 7 * ux + side * 3.5 * uy, y2 - 7 * uy - side * 3.5 * ux) for side in (1, -1)]
    head = f"M{sides[0][0]:.1f} {sides[0][1]:.1f}L{x2:.1f} {y2:.1f}L{sides[1][0]:.1f} {sides[1][1]:.1f}"
    return tag("g", edge(x1, y1, x2, y2, kind), tag("path", class_=kind, d=head))


def edge(x1: float, y1: float, x2: float, y2: float, kind: str = "edge") -> Markup:
    return tag("line", class_=kind, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))


def node(x: float, y: float, text: str = "", kind: str = "node", radius: float = 15) -> Markup:
    """A circle around (x, y) with a text in it."""
    inside = [words(text, x, y + 4, "middle", min(12.0, 1.8 * radius / max(1.0, text_width(text, 1))))] if text else []
    return tag("g", tag("circle", class_=kind, cx=float(x), cy=float(y), r=float(radius)), *inside)


def box(x: float, y: float, width: float, height: float, text: str = "", kind: str = "node") -> Markup:
    """A rounded box with lines of text in its middle."""
    lines = text.split("\n") if text else []
    first = y + height / 2 + 4 - 7.5 * (len(lines) - 1)
    return tag("g", tag("rect", class_=kind, x=float(x), y=float(y), width=float(width), height=float(height), rx=6),
               *(words(line, x + width / 2, first + 15 * place, "middle") for place, line in enumerate(lines)))


def picture(pixels: np.ndarray, x: float, y: float, side: float) -> Markup:
    """An image in the drawing, `side` px wide. pixels: uint8 [H, W] or [H, W, 3]."""
    import io

    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")
    return tag("image", href=uri, x=float(x), y=float(y), width=float(side),
               height=side * pixels.shape[0] / pixels.shape[1], image_rendering="pixelated")


def plot(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, x_label: str, y_label: str = "",
         width: float = 460, height: float = 280, log_x: bool = False, log_y: bool = False, points: bool = False,
         ranges: tuple[float | None, float | None, float | None, float | None] = (None, None, None, None),
         over: Iterable[Markup] = (), title: str) -> Markup:
    """Lines over two axes, up to eight of them, with their names above.

    curves: (name, [(x, y), ...]); points: dots in place of lines; ranges: x from, x to, y from, y to (None: of the
    data); over: elements on top, in px of the sheet: see `plot_axes`.
    """
    x_axis, y_axis, top = plot_axes(curves, width=width, height=height, log_x=log_x, log_y=log_y, ranges=ranges)
    parts = []
    for value in y_axis.ticks(5):
        parts += [edge(x_axis.start, y_axis(value), x_axis.end, y_axis(value), "grid"),
                  words(axis_number(value), x_axis.start - 8, y_axis(value) + 4, "tick end")]
    for value in x_axis.ticks(6):
        parts.append(words(axis_number(value), x_axis(value), y_axis.start + 18, "tick middle"))
    parts += [words(x_label, (x_axis.start + x_axis.end) / 2, y_axis.start + 38, "tick middle"),
              words(y_label, 4, top - 10, "tick"),
              edge(x_axis.start, y_axis.start, x_axis.end, y_axis.start, "axis")]
    for place, ((x, y, name), (_, given)) in enumerate(zip(_key(curves, width), curves, strict=True)):
        inside = [(a, b) for a, b in given if (not log_y or b > 0) and (not log_x or a > 0)]
        held = [(x_axis(min(max(a, x_axis.low), x_axis.high)), y_axis(min(max(b, y_axis.low), y_axis.high)))
                for a, b in inside]
        if points:
            parts += [tag("circle", class_=f"hue{place}", cx=a, cy=b, r=2.6) for a, b in held]
        else:
            parts.append(tag("polyline", class_=f"line curve{place}", points=" ".join(f"{a:.1f},{b:.1f}"
                                                                                    for a, b in held)))
        if name:
            parts += [tag("rect", class_=f"hue{place}", x=x, y=y - 7, width=14, height=4), words(name, x + 20, y)]
    return sheet(width, height, *parts, *over, title=title)


def plot_axes(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, width: float = 460, height: float = 280,
              log_x: bool = False, log_y: bool = False,
              ranges: tuple[float | None, float | None, float | None, float | None] = (None, None, None, None),
              ) -> tuple[Axis, Axis, float]:
    """The two axes of `plot` for the same arguments, and where its field begins at the top, in px."""
    xs = [x for _, points in curves for x, _ in points if not log_x or x > 0]
    ys = [y for _, points in curves for _, y in points if not log_y or y > 0]
    x_low, x_high = (given if given is not None else pick(xs) for given, pick in zip(ranges[:2], (min, max),
                                                                                    strict=True))
    y_low, y_high = (given if given is not None else pick(ys) for given, pick in zip(ranges[2:], (min, max),
                                                                                    strict=True))
    if log_y:
        y_low, y_high = (y_low / 1.3 if ranges[2] is None else y_low), (y_high * 1.3 if ranges[3] is None else y_high)
    else:
        air = 0.05 * (y_high - y_low) or 0.5
        y_low, y_high = (y_low - air if ranges[2] is None else y_low), (y_high + air if ranges[3] is None else y_high)
    top = 44 + 18 * max((round((y - 14) / 18) for _, y, _ in _key(curves, width)), default=0)
    x_high = x_high if x_high > x_low else x_low + 1
    return (Axis(x_low, x_high, 56.0, width - 14.0, log_x), Axis(y_low, y_high, height - 46.0, float(top), log_y),
            float(top))


def _key(curves: Sequence[tuple[str, Any]], width: float) -> list[tuple[float, float, str]]:
    """Where the names of the curves stand: (x, y, name), in as many lines as they need."""
    x, y, found = 56.0, 14.0, []
    for name, _ in curves:
        need = 20 + text_width(name) + 14
        if x > 56 and x + need > width:
            x, y = 56.0, y + 18
        found.append((x, y, name))
        x += need
    return found
