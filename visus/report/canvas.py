"""One drawing, two surfaces: SVG for a page, pixels for a picture file. Lengths are in px of the drawing."""

from __future__ import annotations

from typing import Literal, Protocol

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from visus.report.charts import LEVELS, tag
from visus.report.formatting import shorten

Anchor = Literal["start", "middle", "end"]
SIZE = 12  # px of the letters
_FINE = 2  # a picture is drawn this much larger, and reduced: smooth edges
# The light colours of assets/charts.css.
_COLOURS = {
    "label": "#17212e", "tick": "#57657a", "grid": "#e3e8ef", "axis": "#aab5c4", "mark": "#57657a", "bar": "#2563b0",
    "histogram": "#8fb3df", "split-train": "#2563b0", "split-val": "#b3530f", "split-test": "#b9c3d0",
    "frame": "#e3e8ef", "spot": "#2563b0",
}
_HEAT = ("#f4f6f9", "#e4eefa", "#d0e2f6", "#bcd5f2", "#a7c9ee", "#93bcea", "#7fb0e6", "#2f6fb8", "#1e579a", "#0c3f7d")


class Canvas(Protocol):
    """What a chart draws on. kind: the class that styles it, one of assets/charts.css."""

    def rect(self, kind: str, x: float, y: float, width: float, height: float, hint: str = "") -> None: ...

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None: ...

    def circle(self, kind: str, x: float, y: float, radius: float, hint: str = "") -> None: ...

    def text(self, kind: str, text: str, x: float, y: float, anchor: Anchor = "start") -> None: ...

    def width_of(self, text: str) -> float: ...


class SvgCanvas:
    """Collects elements; `svg` is the drawing. hint: what a pointer that rests on the mark is told."""

    def __init__(self, width: int, height: int, title: str):
        self.size = (width, height)
        self._parts = [tag("title", title)]

    def rect(self, kind: str, x: float, y: float, width: float, height: float, hint: str = "") -> None:
        self._add("rect", hint, class_=_svg_class(kind), x=x, y=y, width=max(0.0, width), height=max(0.0, height))

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self._add("line", "", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def circle(self, kind: str, x: float, y: float, radius: float, hint: str = "") -> None:
        self._add("circle", hint, class_=_svg_class(kind), cx=x, cy=y, r=radius, fill_opacity=0.6)

    def text(self, kind: str, text: str, x: float, y: float, anchor: Anchor = "start") -> None:
        self._parts.append(tag("text", text, class_=kind + ("" if anchor == "start" else f" {anchor}"), x=x, y=y))

    def width_of(self, text: str) -> float:
        return _FONT.getlength(text)

    def svg(self) -> Markup:
        return tag("svg", *self._parts, class_="visus-chart data", xmlns="http://www.w3.org/2000/svg", role="img",
                   viewBox=f"0 0 {self.size[0]} {self.size[1]}")

    def _add(self, name: str, hint: str, **attributes: object) -> None:
        self._parts.append(tag(name, *([tag("title", hint)] if hint else ()), **attributes))


class PixelCanvas:
    """Draws with Pillow; `image` is the picture. Texts are drawn last, at its own size."""

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width * _FINE, height * _FINE), "white")
        self._draw = ImageDraw.Draw(self._image, "RGBA")
        self._texts: list[tuple[str, str, float, float, Anchor]] = []

    def rect(self, kind: str, x: float, y: float, width: float, height: float, hint: str = "") -> None:
        box = [x * _FINE, y * _FINE, (x + max(0.0, width)) * _FINE - 1, (y + max(0.0, height)) * _FINE - 1]
        if box[2] >= box[0] and box[3] >= box[1]:
            if kind == "frame":
                self._draw.rectangle(box, outline=_colour(kind), width=_FINE)
            else:
                self._draw.rectangle(box, fill=_colour(kind))

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        if kind != "mark":
            self._line(kind, x1, y1, x2, y2)
            return
        across, down = x2 - x1, y2 - y1
        length = max(abs(across), abs(down), 1.0)
        for start in range(0, int(length), 5):  # dashes of 2 px
            low, high = start / length, min(1.0, (start + 2) / length)
            self._line(kind, x1 + low * across, y1 + low * down, x1 + high * across, y1 + high * down)

    def circle(self, kind: str, x: float, y: float, radius: float, hint: str = "") -> None:
        box = [(x - radius) * _FINE, (y - radius) * _FINE, (x + radius) * _FINE, (y + radius) * _FINE]
        self._draw.ellipse(box, fill=_colour(kind) + "99")

    def text(self, kind: str, text: str, x: float, y: float, anchor: Anchor = "start") -> None:
        self._texts.append((kind, shorten(text, 200), x, y, anchor))

    def width_of(self, text: str) -> float:
        return _FONT.getlength(text)

    def image(self) -> Image.Image:
        picture = self._image.reduce(_FINE)
        draw = ImageDraw.Draw(picture)
        for kind, text, x, y, anchor in self._texts:
            draw.text((x, y), text, fill=_colour(kind), font=_FONT,
                      anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor])
        return picture

    def _line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self._draw.line([x1 * _FINE, y1 * _FINE, x2 * _FINE, y2 * _FINE], fill=_colour(kind), width=_FINE)


def heat_kind(share: float) -> str:
    """The kind of a cell whose value is `share` of the largest, in [0, 1]."""
    return f"heat{min(LEVELS, max(0, round(share * LEVELS)))}" if share > 0 else "heat0"


def _colour(kind: str) -> str:
    return _HEAT[int(kind[4:])] if kind.startswith("heat") else _COLOURS[kind]


def _svg_class(kind: str) -> str:
    if kind.startswith("heat"):
        return "level0" if kind == "heat0" else f"hit level{kind[4:]}"
    return {"spot": "dot"}.get(kind, kind)


_FONT = ImageFont.load_default(SIZE)
