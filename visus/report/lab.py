"""What a person's exercise does, as one page: from the plain record that their process wrote."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from visus import __version__
from visus.report.charts import LINE_HEIGHT, LINE_WIDTH, Axis, _plain, domain, tag, text_width, thin
from visus.report.contents import mapping, optional_text, rows
from visus.report.formatting import axis_number, number
from visus.report.heat import BLUE_RED, VIRIDIS, colours, stretched
from visus.report.page import asset, page_style, policy, template

CELLS, GAP, BELOW = {1: 360, 2: 190, 3: 116, 4: 116}, 14, 24  # px of a tile by their number, between, below
WIDE_CELL = 140  # where there are more
MAX_LINES, MAX_TILES, MAX_SIDE = 8, 60, 512
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 370.0, 44.0, 220.0  # of the plane of a chart


def render_lab(about: dict[str, Any], shown: dict[str, Any]) -> str:
    """The page's text: nothing else is needed, no file, no network. about: name, title, source, file."""
    style = f"{page_style()}\n{asset('demo.css')}"
    facts = [mapping(fact) for fact in rows(shown.get("facts"))]
    figures = [{"title": optional_text(one.get("title")) or "", "caption": optional_text(one.get("caption")) or "",
                "wide": one.get("kind") == "tiles" and len(rows_of(one)) > 4, "drawing": _drawing(one)}
               for one in (mapping(figure) for figure in rows(shown.get("figures")))]
    return template("lab.html").render(
        policy=policy(style,
                      ""), style=Markup(style), version=__version__, words=optional_text(shown.get("words")) or "",
        figures=figures, facts=facts, wrong=sum(not fact.get("holds") for fact in facts),
        **{key: str(about.get(key) or "") for key in ("name", "title", "source", "file")})


def rows_of(figure: dict[str, Any]) -> list[Any]:
    """The tiles of a figure: (word, numbers)."""
    found = figure.get("pictures")
    return list(found)[:MAX_TILES] if isinstance(found, list | tuple) else []


def _drawing(figure: dict[str, Any]) -> Markup:
    return _tiles(figure) if figure.get("kind") == "tiles" else _lines(figure)


def _lines(figure: dict[str, Any]) -> Markup:
    """Lines in a colour each, over a common x; y by logarithm where all values are above 0 and span a factor of 50."""
    lines = {str(name): [(float(x), float(y)) for x, y in points if number(x) is not None and number(y) is not None]
             for name, points in list(mapping(figure.get("lines")).items())[:MAX_LINES]}
    xs, ys = [x for line in lines.values() for x, _ in line], [y for line in lines.values() for _, y in line]
    if not xs:
        return tag("svg", tag("title", "nothing to draw"), viewBox=f"0 0 {LINE_WIDTH} 40")
    percentage = bool(figure.get("percentage"))
    x_axis = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, _LEFT, _RIGHT)
    if not percentage and min(ys) > 0 and max(ys) / min(ys) > 50:
        y_axis = Axis(min(ys) / 1.2, max(ys) * 1.2, _BOTTOM, _TOP, log=True)
    else:
        y_axis = Axis(*domain(ys, floor=0.0 if min(ys) >= 0 else None, ceiling=1.0 if percentage else None), _BOTTOM,
                      _TOP)
    parts = [tag("title", str(figure.get("title") or ""))]
    for value in y_axis.ticks():
        y = y_axis(value)
        parts += [tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y),
                  tag("text", f"{100 * value:g}%" if percentage else axis_number(value), class_="tick end", x=_LEFT - 8,
                      y=y + 4)]
    for value in x_axis.ticks(6, whole=x_axis.high - x_axis.low >= 5):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=_BOTTOM + 18))
    parts += [tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
              tag("text", str(figure.get("x_label") or ""), class_="tick middle", x=(_LEFT + _RIGHT) / 2,
                  y=_BOTTOM + 36)]
    place, line_y = _LEFT, 14.0
    for k, (name, line) in enumerate(lines.items()):
        points = thin([(x, y) for x, y in line if not y_axis.log or y > 0])
        path = " ".join(f"{_plain(x_axis(x))},{_plain(y_axis(y))}" for x, y in points)
        parts.append(tag("polyline", class_=f"line curve{k}", points=path))
        if place > _LEFT and place + 24 + text_width(name) > _RIGHT + 8:
            place, line_y = _LEFT, line_y + 16
        parts += [tag("line", class_=f"line curve{k}", x1=place, x2=place + 18, y1=line_y, y2=line_y),
                  tag("text", name, class_="label", x=place + 24, y=line_y + 4)]
        place += 24 + text_width(name) + 14
    return tag("svg", *parts, class_="visus-chart lines", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {LINE_WIDTH} {LINE_HEIGHT}")


def _tiles(figure: dict[str, Any]) -> Markup:
    """Pictures with a word below each, as squares."""
    tiles = rows_of(figure)
    across = min(max(1, int(number(figure.get("across")) or 6)), max(1, len(tiles)))
    cell = CELLS.get(len(tiles), WIDE_CELL)
    arrays = [np.array(values, float) for _, values in tiles]
    shape = max((array.shape[0] / array.shape[1] for array in arrays if array.size), default=1.0)
    high = round(cell * min(1.0, shape))  # of a tile: the pictures of a figure that are all wide leave no gap
    parts = [tag("title", str(figure.get("title") or ""))]
    for k, ((word, _), values) in enumerate(zip(tiles, arrays, strict=True)):
        x, y = (k % across) * (cell + GAP), (k // across) * (high + BELOW)
        parts += [tag("image", x=x, y=y, width=cell, height=high, href=_uri(values, figure)),
                  tag("text", str(word), class_="tick middle", x=x + cell / 2, y=y + high + 15)]
    width, height = across * (cell + GAP) - GAP, -(-len(tiles) // across) * (high + BELOW)
    return tag("svg", *parts, class_="visus-chart", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {width} {height}", width=width, height=height)


def _uri(values: np.ndarray, figure: dict[str, Any]) -> str:
    """Numbers [H, W] or [H, W, 3] as a PNG whose pixels stay squares."""
    values = np.nan_to_num(values[:MAX_SIDE, :MAX_SIDE])
    if values.ndim == 3:
        pixels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    elif figure.get("signed"):
        most = float(np.abs(values).max(initial=0.0)) or 1.0
        pixels = colours(0.5 + 0.5 * values / most, BLUE_RED)
    elif figure.get("grey"):
        pixels = np.repeat(np.rint(255 * stretched(values)).astype(np.uint8)[..., None], 3, axis=2)
    else:
        pixels = colours(stretched(values), VIRIDIS)
    scale = max(1, -(-2 * WIDE_CELL // max(pixels.shape[:2])))
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
