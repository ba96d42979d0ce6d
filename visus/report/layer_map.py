"""Layer by step as a heat map: the size of the update, of the gradient, the share of units that are silent.

One colour scale from pale to strong inside of the range that is usual, orange above it and grey below, so that what
stands out does so without reading numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from visus.report.charts import LEVELS, tag, text_width
from visus.report.formatting import axis_number, integer, number, shorten

MAX_LAYERS = 48
MAX_COLUMNS = 60
ROW_PX = 16
_TOP, _FONT = 8, 11
_NAME = 30  # characters of a layer's name


@dataclass(frozen=True)
class Measure:
    """low, high: where the scale of colours begins and ends; None: with the values. log: by its logarithm."""

    name: str
    title: str
    low: float | None
    high: float | None
    log: bool


MEASURES = (
    Measure("ratio", "Update by weight", 1e-5, 1e-1, True),  # CS231n: about 1e-3; usual from 1e-5 to 1e-1
    Measure("gradient", "Gradient norm", None, None, True),
    Measure("dead", "Silent units", 0.0, 0.5, False),
)


@dataclass(frozen=True)
class LayerMap:
    """values [layers][steps], None where nothing was measured."""

    measure: Measure
    layers: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]

    @property
    def chart(self) -> str:
        """What the page's script calls it."""
        return f"layers-{self.measure.name}"

    def bounds(self) -> tuple[float, float]:
        """Of the colour scale."""
        known = [v for row in self.values for v in row if v is not None and (v > 0 or not self.measure.log)]
        low = self.measure.low if self.measure.low is not None else min(known, default=1e-6)
        high = self.measure.high if self.measure.high is not None else max(known, default=1.0)
        if high > low:
            return low, high
        return (low / 10, low * 10) if self.measure.log else (low, low + 1)

    def colour(self, value: float | None) -> str:
        """The class of a cell."""
        if value is None:
            return "level0"
        low, high = self.bounds()
        if value > high * (1 + 1e-9):
            return "miss level9" if value > (10 * high if self.measure.log else (1 + high) / 2) else "miss level6"
        if value < low * (1 - 1e-9):
            return "under"
        if self.measure.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return f"hit level{min(LEVELS, 1 + int(LEVELS * (value - low) / (high - low)))}"

    def data(self) -> dict[str, Any]:
        """What the page's script needs to tell a cell's value."""
        left, cell = self._room()
        return {"rows": list(self.layers), "steps": list(self.steps), "left": left, "top": _TOP, "width": cell,
                "height": ROW_PX, "title": self.measure.title,
                "values": [[None if v is None else float(f"{v:.3g}") for v in row] for row in self.values]}

    def _room(self) -> tuple[int, int]:
        """Pixels for the names, and of a cell's width."""
        widest = max(text_width(shorten(name, _NAME), _FONT) for name in self.layers)
        return round(widest) + 16, max(8, min(26, 640 // len(self.steps)))

    def svg(self) -> Markup:
        left, cell = self._room()
        bottom = _TOP + ROW_PX * len(self.layers)
        width = left + max(cell * len(self.steps), 300) + 24
        parts = [tag("title", f"{self.measure.title}, {len(self.layers)} layers by step")]
        squares: dict[str, list[str]] = {}
        for i, row in enumerate(self.values):
            for j, value in enumerate(row):
                place = f"M{left + j * cell} {_TOP + i * ROW_PX}h{cell - 1}v{ROW_PX - 1}h{1 - cell}z"
                squares.setdefault(self.colour(value), []).append(place)
        parts += [tag("path", class_=f"cell {kind}", d="".join(paths)) for kind, paths in sorted(squares.items())]
        parts += [tag("text", shorten(name, _NAME), tag("title", shorten(name, 200)), class_="label end", x=left - 8,
                      y=_TOP + (i + 0.5) * ROW_PX + 4, font_size=_FONT) for i, name in enumerate(self.layers)]
        stride = max(1, -(-58 // cell))  # columns between the numbers of two steps
        parts += [tag("text", integer(step), class_="tick middle", x=left + (j + 0.5) * cell, y=bottom + 15,
                      font_size=_FONT) for j, step in enumerate(self.steps) if j % stride == 0]
        parts.append(tag("text", "step", class_="tick", x=left, y=bottom + 32, font_size=_FONT))
        parts += self._legend(left, bottom + 44)
        return tag("svg", *parts, class_="visus-chart heatmap layers", xmlns="http://www.w3.org/2000/svg", role="img",
                   viewBox=f"0 0 {width} {bottom + 92}", width=width, height=bottom + 92, data_chart=self.chart)

    def _legend(self, left: int, top: float) -> list[Markup]:
        """The scale of colours, with what lies below and above it."""
        low, high = self.bounds()
        size, start = 22, left + 52
        parts = [tag("rect", class_=f"cell hit level{k}", x=start + (k - 1) * size, y=top, width=size - 1,
                     height=11) for k in range(1, LEVELS + 1)]
        end = start + LEVELS * size
        middle = math.sqrt(low * high) if self.measure.log else (low + high) / 2
        marks = [(float(start), low), (start + LEVELS * size / 2, middle), (float(end), high)]
        parts += [tag("text", self._text(value), class_="tick middle", x=x, y=top + 25, font_size=_FONT)
                  for x, value in marks]
        if self.measure.low is not None and self.measure.log:
            parts += [tag("rect", class_="cell under", x=left, y=top, width=size - 1, height=11),
                      tag("text", "less", class_="tick", x=left - 1, y=top + 25, font_size=_FONT)]
        if self.measure.high is not None:
            parts += [tag("rect", class_=f"cell miss level{k}", x=end + 12 + n * size, y=top, width=size - 1, height=11)
                      for n, k in enumerate((6, 9))]
            parts.append(tag("text", "more", class_="tick", x=end + 18, y=top + 25, font_size=_FONT))
        return parts

    def _text(self, value: float) -> str:
        return axis_number(float(f"{value:.1g}")) if self.measure.log else f"{100 * value:g} %"


def layer_maps(rows: Sequence[dict[str, Any]]) -> list[LayerMap]:
    """Of the rows of watch.jsonl: one map for each measure that has a value. Rows after the first MAX_COLUMNS are put
    together by the largest value; layers after the first MAX_LAYERS are left out evenly."""
    kept = [(int(step), layers) for row in rows if (step := number(row.get("step"))) is not None
            and isinstance(layers := row.get("layers"), dict) and layers]
    kept.sort(key=lambda pair: pair[0])
    names = list(dict.fromkeys(str(name) for _, layers in kept for name in layers))
    groups = _groups(kept)
    maps = []
    for measure in MEASURES:
        having = [name for name in names if any(_value(layers, name, measure) is not None for _, layers in kept)]
        stride = -(-len(having) // MAX_LAYERS) or 1
        shown = having[::stride]
        if shown:
            values = tuple(tuple(_largest([_value(layers, name, measure) for _, layers in group]) for group in groups)
                           for name in shown)
            maps.append(LayerMap(measure, tuple(shown), tuple(group[0][0] for group in groups), values))
    return maps


def _groups(rows: list[tuple[int, dict[str, Any]]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Neighbours together, so that there are at most MAX_COLUMNS."""
    count = min(len(rows), MAX_COLUMNS)
    edges = [k * len(rows) // count for k in range(count + 1)] if count else [0]
    return [rows[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _value(layers: dict[str, Any], name: str, measure: Measure) -> float | None:
    row = layers.get(name)
    value = number(row.get(measure.name)) if isinstance(row, dict) else None
    return None if value is None or value < 0 else value


def _largest(values: list[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
