"""What a data set looks like in numbers: bars of classes, sizes of images and boxes, where the boxes lie.

Each chart is plain numbers; `svg` draws it for a page and `picture` as pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from visus.report.canvas import Canvas, PixelCanvas, SvgCanvas, heat_kind
from visus.report.charts import Axis
from visus.report.formatting import axis_number, integer, shorten

WIDTH = 486
MAX_BARS = 30
_TITLE, _LEFT, _RIGHT = 24, 54, 14
_PLOT = 210  # px, height of a plot
_ROW = 18
_SPLITS = {"train": "split-train", "val": "split-val", "test": "split-test"}


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar a class; parts: split ('' where there is none) -> count of each class. Above 30 classes: one thin column
    each, the largest first."""

    title: str
    names: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    unit: str = ""

    @property
    def height(self) -> int:
        legend = 22 if len(self.parts) > 1 else 0
        return _TITLE + legend + (len(self.names) * _ROW + 8 if len(self.names) <= MAX_BARS else _PLOT + 40)

    def draw(self, canvas: Canvas) -> None:
        canvas.text("label", self.title, 4, 16)
        top = float(_TITLE)
        if len(self.parts) > 1:
            x = 4.0
            for name in self.parts:
                canvas.rect(_SPLITS.get(name, "bar"), x, top + 4, 12, 10)
                canvas.text("tick", name or "no split", x + 17, top + 14)
                x += 30 + canvas.width_of(name or "no split")
            top += 22
        totals = [sum(float(values[k]) for values in self.parts.values()) for k in range(len(self.names))]
        if len(self.names) <= MAX_BARS:
            self._rows(canvas, top, totals)
        else:
            self._columns(canvas, top, totals)

    def _rows(self, canvas: Canvas, top: float, totals: Sequence[float]) -> None:
        names = [shorten(name, 24) for name in self.names]
        left = min(190.0, 12 + max((canvas.width_of(name) for name in names), default=0.0))
        said = [_said(total, self.unit) for total in totals]
        room = WIDTH - left - 14 - max((canvas.width_of(text) for text in said), default=0.0)
        most = max(totals, default=0) or 1
        for k, name in enumerate(names):
            y, x = top + k * _ROW, left
            canvas.text("tick", name, left - 6, y + 13, "end")
            for split, values in self.parts.items():
                width = room * float(values[k]) / most
                canvas.rect(_SPLITS.get(split, "bar"), x, y + 3, width, 12,
                            f"{self.names[k]}: {_said(float(values[k]), self.unit)} {split}".strip())
                x += width
            canvas.text("label", said[k], x + 5, y + 13)

    def _columns(self, canvas: Canvas, top: float, totals: Sequence[float]) -> None:
        order = sorted(range(len(totals)), key=lambda k: -totals[k])
        y_axis = Axis(0.0, (totals[order[0]] or 1) * 1.05, top + _PLOT, top + 8)
        _y_ticks(canvas, y_axis)
        step = (WIDTH - _LEFT - _RIGHT) / len(order)
        for place, k in enumerate(order):
            y = y_axis(totals[k])
            canvas.rect("bar", _LEFT + place * step, y, step if step < 3 else step - 0.5, y_axis(0) - y,
                        f"{self.names[k]}: {_said(totals[k], self.unit)}")
        _base(canvas, y_axis(0))
        for place, anchor in ((0, "start"), (len(order) - 1, "end")):
            text = f"{shorten(self.names[order[place]], 26)} {_said(totals[order[place]], self.unit)}"
            canvas.text("tick", text, _LEFT + (place + 0.5) * step, y_axis(0) + 16, anchor)  # type: ignore[arg-type]
        canvas.text("tick", f"{len(order):,} classes, the largest first", (_LEFT + WIDTH - _RIGHT) / 2, y_axis(0) + 34,
                    "middle")


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """edges: [n + 1] rising; counts: [n]; marks: value -> what stands there."""

    title: str
    edges: Sequence[float]
    counts: Sequence[int]
    label: str
    log: bool = False
    percent: bool = False
    marks: Mapping[float, str] | None = None
    height: int = _TITLE + _PLOT + 44

    def draw(self, canvas: Canvas) -> None:
        canvas.text("label", self.title, 4, 16)
        x_axis = Axis(self.edges[0], self.edges[-1], _LEFT, WIDTH - _RIGHT, log=self.log)
        y_axis = Axis(0.0, (max(self.counts) or 1) * 1.05, _TITLE + _PLOT, _TITLE + 20)
        _y_ticks(canvas, y_axis)
        for low, high, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            x = x_axis(low)
            canvas.rect("bar", x, y_axis(count), max(1.0, x_axis(high) - x - 1), y_axis(0) - y_axis(count),
                        f"{_value(low, self.percent)} to {_value(high, self.percent)}: {count:,}")
        _base(canvas, y_axis(0))
        last = -math.inf
        for value in x_axis.ticks(6):
            text, x = _value(value, self.percent), x_axis(value)
            if x - last > canvas.width_of(text) + 8:
                canvas.text("tick", text, x, y_axis(0) + 16, "middle")
                last = x
        canvas.text("tick", self.label, (_LEFT + WIDTH - _RIGHT) / 2, y_axis(0) + 36, "middle")
        for value, said in (self.marks or {}).items():
            if self.edges[0] < value < self.edges[-1]:
                canvas.line("mark", x_axis(value), _TITLE + 14, x_axis(value), y_axis(0))
                canvas.text("tick", said, x_axis(value) - 4, _TITLE + 12, "end")


@dataclass(frozen=True, kw_only=True)
class Bubbles:
    """points: (x, y, how many), the area of a spot by how many."""

    title: str
    points: Sequence[tuple[float, float, int]]
    x_label: str
    y_label: str
    height: int = _TITLE + _PLOT + 60

    def draw(self, canvas: Canvas) -> None:
        canvas.text("label", self.title, 4, 16)
        bottom = _TITLE + _PLOT + 20.0
        x_axis = Axis(0.0, 1.08 * max(x for x, _, _ in self.points), _LEFT, WIDTH - _RIGHT)
        y_axis = Axis(0.0, 1.08 * max(y for _, y, _ in self.points), bottom, _TITLE + 22)
        canvas.text("tick", self.y_label, 4, _TITLE + 10)
        _y_ticks(canvas, y_axis)
        for value in x_axis.ticks(6):
            canvas.text("tick", axis_number(value), x_axis(value), bottom + 16, "middle")
        most = max(count for _, _, count in self.points)
        for x, y, count in sorted(self.points, key=lambda point: -point[2]):
            canvas.circle("spot", x_axis(x), y_axis(y), 2.5 + 11 * math.sqrt(count / most),
                          f"{axis_number(x)} x {axis_number(y)}: {count:,}")
        _base(canvas, bottom)
        canvas.text("tick", self.x_label, (_LEFT + WIDTH - _RIGHT) / 2, bottom + 36, "middle")


@dataclass(frozen=True, kw_only=True)
class Heat:
    """counts: [n][n], the first row on top: how often something lies at a place of the image."""

    title: str
    counts: Sequence[Sequence[float]]
    label: str
    height: int = _TITLE + _PLOT + 60

    def draw(self, canvas: Canvas) -> None:
        canvas.text("label", self.title, 4, 16)
        side = float(_PLOT + 16)
        left, cell = (WIDTH - side) / 2, side / len(self.counts)
        most = max(max(row) for row in self.counts) or 1
        for j, row in enumerate(self.counts):
            for i, count in enumerate(row):
                canvas.rect(heat_kind(math.sqrt(count / most)), left + i * cell, _TITLE + 4 + j * cell, cell + 0.5,
                            cell + 0.5, f"{count:,}" if count else "")
        canvas.rect("frame", left, _TITLE + 4, side, side)
        canvas.text("tick", self.label, WIDTH / 2, _TITLE + side + 24, "middle")


Chart = Bars | Histogram | Bubbles | Heat


def svg(chart: Chart) -> Markup:
    """The chart for a page."""
    canvas = SvgCanvas(WIDTH, chart.height, chart.title)
    chart.draw(canvas)
    return canvas.svg()


def picture(chart: Chart) -> Image.Image:
    """The chart as pixels, on white."""
    canvas = PixelCanvas(WIDTH, chart.height)
    chart.draw(canvas)
    return canvas.image()


def _said(value: float, unit: str) -> str:
    return f"{100 * value:.3g} %" if unit == "%" else integer(round(value))


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else axis_number(value)


def _y_ticks(canvas: Canvas, axis: Axis) -> None:
    for value in axis.ticks(4, whole=axis.high >= 4):
        if value:
            canvas.line("grid", _LEFT, axis(value), WIDTH - _RIGHT, axis(value))
        canvas.text("tick", axis_number(value), _LEFT - 6, axis(value) + 4, "end")


def _base(canvas: Canvas, y: float) -> None:
    canvas.line("axis", _LEFT, y, WIDTH - _RIGHT, y)
