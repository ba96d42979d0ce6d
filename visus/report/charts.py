"""Charts as SVG. Colours come from classes (assets/charts.css), so that one drawing serves light, dark and print.

Each function takes plain numbers and gives one <svg> element whose text is escaped. Lengths are in px of the view box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unicodedata import east_asian_width

from markupsafe import Markup, escape

from visus.report.formatting import axis_number, decimal, integer, number, shorten

LEVELS = 9  # steps of a heat map's colour scale; charts.css has as many classes
DARK_LEVEL = 7  # from this step on the text in a cell takes the other colour
MAX_POINTS = 240  # of a drawn line


def tag(name: str, *children: str, **attributes: Any) -> Markup:
    """An element. Children and attributes are escaped unless they are Markup; `class_` and `stroke_width` become
    class and stroke-width; an attribute that is None is left out."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{text}>{inside}</{name}>" if children else f"<{name}{text}/>")


def _plain(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Series:
    """points: (x, y), x ascending; kind: the class that styles the line."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: Literal["train", "val", "steps", "lr"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps [low, high] onto pixels [start, end]; straight, or by logarithm where `log` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5, *, whole: bool = False) -> list[float]:
        """Round values inside of the axis: 1, 2, 5 times powers of ten; `whole` leaves out fractions."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            stride = max(1, math.ceil((last - first) / count))
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            values = [factor * 10.0**power for power in range(first, last + 1, stride) for factor in factors]
        else:
            step = _round_step((self.high - self.low) / count)
            step = max(1.0, step) if whole else step
            values = [
                k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        slack = 1e-9 * (self.high - self.low)
        return [float(f"{v:.12g}") for v in values if self.low - slack <= v <= self.high + slack]


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= raw * (1 - 1e-9)), 10 * power)


def domain(values: Sequence[float], *, floor: float | None = None, ceiling: float | None = None) -> tuple[float, float]:
    """A range around the values with a little air, within [floor, ceiling]; never empty."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - air, high + air
    if floor is not None:
        low = floor if low < floor or low - floor < 0.35 * (high - floor) else low
    if ceiling is not None:
        high = min(high, ceiling)
    return (low, high) if high > low else (low - air, high)


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: the mean of each run of neighbours."""
    if len(points) <= limit:
        return list(points)
    edges = [k * len(points) // limit for k in range(limit + 1)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (points[a:b] for a, b in zip(edges, edges[1:], strict=False))
    ]


LINE_WIDTH, LINE_HEIGHT = 380, 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 370.0, 44.0, 220.0


def line_axes(series: Sequence[Series], *, percentage: bool = False, from_zero: bool = False) -> tuple[Axis, Axis]:
    """The two axes of `line_chart`. y is logarithmic where all values are above zero and span a factor above 50."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x_low, x_high = min(xs), max(xs)
    x_axis = Axis(x_low, x_high if x_high > x_low else x_low + 1, _LEFT, _RIGHT)
    if from_zero and min(ys) > 0 and max(ys) / min(ys) > 50:
        return x_axis, Axis(min(ys) / 1.2, max(ys) * 1.2, _BOTTOM, _TOP, log=True)
    floor = 0.0 if min(ys) >= 0 else None
    low, high = domain(ys, floor=floor if from_zero or percentage else None, ceiling=1.0 if percentage else None)
    return x_axis, Axis(low, high, _BOTTOM, _TOP)


def line_chart(
    title: str,
    series: Sequence[Series],
    axes: tuple[Axis, Axis],
    *,
    x_label: str,
    percentage: bool = False,
    mark: float | None = None,
    mark_label: str = "",
    name: str = "",
    ground: Sequence[Markup] = (),
    over: Sequence[Markup] = (),
) -> Markup:
    """Lines over a common x. `mark` draws an upright line at that x; `name` lets the page's script find the chart.
    ground: elements that lie under the lines; over: on them."""
    x_axis, y_axis = axes
    parts = [tag("title", title), *ground]
    for value in y_axis.ticks():
        y = y_axis(value)
        text = f"{100 * value:g}%" if percentage else axis_number(value)
        parts += [
            tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y),
            tag("text", text, class_="tick end", x=_LEFT - 8, y=y + 4),
        ]
    for value in x_axis.ticks(6, whole=x_axis.high - x_axis.low >= 1):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=_BOTTOM + 18))
    parts.append(tag("text", x_label, class_="tick middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36))
    parts.append(tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM))
    if mark is not None and x_axis.low <= mark <= x_axis.high:
        x = x_axis(mark)
        near_end = x > (_LEFT + _RIGHT) / 2
        parts += [
            tag("line", class_="mark", x1=x, x2=x, y1=_TOP, y2=_BOTTOM),
            tag(
                "text",
                mark_label,
                class_="tick end" if near_end else "tick",
                x=min(x + 4, _RIGHT) if near_end else x - 4,
                y=_TOP - 6,
            ),
        ]
    legend_x = _LEFT
    for one in series:
        points = [(x, y) for x, y in thin(one.points) if not y_axis.log or y > 0]
        path = " ".join(f"{_plain(x_axis(x))},{_plain(y_axis(y))}" for x, y in points)
        parts.append(tag("polyline", class_=f"line {one.kind}", points=path))
        if len(points) == 1 or one.kind == "val":
            parts.append(
                tag("circle", class_=f"dot {one.kind}", r=3, cx=x_axis(points[-1][0]), cy=y_axis(points[-1][1]))
            )
        parts += [
            tag("line", class_=f"line {one.kind}", x1=legend_x, x2=legend_x + 18, y1=14, y2=14),
            tag("text", one.name, class_="label", x=legend_x + 24, y=18),
        ]
        legend_x += 24 + text_width(one.name) + 14
    parts += over
    return tag(
        "svg",
        *parts,
        class_="visus-chart lines",
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        viewBox=f"0 0 {LINE_WIDTH} {LINE_HEIGHT}",
        data_chart=name or None,
    )


def line_data(
    series: Sequence[Series], axes: tuple[Axis, Axis], *, x_label: str, percentage: bool = False
) -> dict[str, Any]:
    """What the page's script needs to read values off `line_chart`: the same points, and the pixels of both axes."""

    def pixels(axis: Axis) -> dict[str, Any]:
        return {"low": axis.low, "high": axis.high, "start": axis.start, "end": axis.end, "log": axis.log}

    return {
        "x": pixels(axes[0]),
        "y": pixels(axes[1]),
        "xLabel": x_label,
        "percentage": percentage,
        "series": [
            {
                "name": s.name,
                "kind": s.kind,
                "points": [[float(f"{x:.5g}"), float(f"{y:.5g}")] for x, y in thin(s.points)],
            }
            for s in series
        ],
    }


def text_width(text: str, size: float = 12) -> float:
    """About the width of a text in the system's sans-serif font: half a size a letter, a full one if East Asian."""
    return size * sum(1.0 if east_asian_width(c) in "WF" else 0.56 for c in text)


def level(share: float) -> int:
    """The colour step 0..LEVELS of a share in [0, 1]; by its square root, so that one percent can be seen."""
    return 0 if share <= 0 else min(LEVELS, max(1, math.ceil(LEVELS * math.sqrt(share))))


@dataclass(frozen=True, slots=True)
class HeatMapSize:
    """cell: side of a cell; left, top: room for the names of rows and columns; upright: column names stand on end."""

    count: int
    cell: int
    left: int
    top: int
    right: int
    upright: bool

    @property
    def width(self) -> int:
        return self.left + self.count * self.cell + self.right

    @property
    def height(self) -> int:
        return self.top + self.count * self.cell + 62


def heat_map_size(labels: Sequence[str]) -> HeatMapSize:
    count = len(labels)
    cell = min(76, max(17, 520 // count))
    names = [shorten(label, 18) for label in labels]
    widest = max(text_width(name, _name_size(cell)) for name in names)
    upright = widest > cell - 4
    return HeatMapSize(
        count,
        cell,
        left=max(96, round(widest) + 34),
        top=(round(widest) if upright else 14) + 34,
        right=14,
        upright=upright,
    )


def _name_size(cell: int) -> int:
    return 12 if cell >= 24 else 10


def heat_map(labels: Sequence[str], counts: Sequence[Sequence[int]], *, name: str = "") -> Markup:
    """A confusion matrix, truth in rows: counts as text, colour by share of the row; hits and errors differ in hue.

    Cells of one colour are one path, and counts are spans of one text a row: it keeps 50 classes small.
    """
    size = heat_map_size(labels)
    cell, left, top = size.cell, size.left, size.top
    font, name_font = (13 if cell >= 40 else 12 if cell >= 30 else max(7, round(cell * 0.42))), _name_size(cell)
    squares: dict[str, list[str]] = {}
    numbers: dict[str, list[str]] = {"on": [], "off": []}
    for i, row in enumerate(counts):
        total = sum(row)
        texts: dict[str, list[str]] = {"on": [], "off": []}
        for j, count in enumerate(row):
            step = level(count / total) if total else 0
            key = f"{'hit' if i == j else 'miss'} level{step}" if step else "level0"
            squares.setdefault(key, []).append(f"M{left + j * cell} {top + i * cell}h{cell - 1}v{cell - 1}h{1 - cell}z")
            if count:
                text = integer(count) if cell >= 40 or count < 1000 else axis_number(float(f"{count:.2g}"))
                texts["on" if step >= DARK_LEVEL else "off"].append(
                    f'<tspan x="{_plain(left + (j + 0.5) * cell)}">{text}</tspan>'
                )
        for ground, spans in texts.items():
            if spans:
                numbers[ground].append(
                    f'<text y="{_plain(top + (i + 0.5) * cell + font * 0.36)}">{"".join(spans)}</text>'
                )
    parts = [tag("title", f"Confusion matrix of {size.count} classes")]
    parts += [tag("path", class_=f"cell {key}", d="".join(paths)) for key, paths in sorted(squares.items())]
    parts += [
        tag("g", Markup("".join(lines)), class_=f"count {ground}", font_size=font)
        for ground, lines in numbers.items()
        if lines
    ]
    for k, label in enumerate(labels):
        text = shorten(label, 18)
        parts.append(
            tag(
                "text",
                text,
                tag("title", shorten(label, 300)),
                class_="label end",
                x=left - 8,
                y=top + (k + 0.5) * cell + 4,
                font_size=name_font,
            )
        )
        x, y = left + (k + 0.5) * cell, top - 8
        parts.append(
            tag(
                "text",
                text,
                tag("title", shorten(label, 300)),
                class_="label" if size.upright else "label middle",
                x=x + 4 if size.upright else x,
                y=y,
                font_size=name_font,
                transform=f"rotate(-90 {_plain(x + 4)} {y})" if size.upright else None,
            )
        )
    middle = size.count * cell / 2
    parts += [
        tag("text", "predicted", class_="tick middle", x=left + middle, y=14),
        tag(
            "text",
            "truth",
            class_="tick middle",
            x=12,
            y=top + middle,
            transform=f"rotate(-90 12 {_plain(top + middle)})",
        ),
    ]
    parts += _legend(size)
    return tag(
        "svg",
        *parts,
        class_="visus-chart heatmap",
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        viewBox=f"0 0 {size.width} {size.height}",
        width=size.width,
        height=size.height,
        data_chart=name or None,
    )


def _legend(size: HeatMapSize) -> list[Markup]:
    """The colour scale below the heat map: share of the row, for hits and for errors."""
    step = min(22, max(9, (size.width - 100) // (LEVELS + 1)))
    y, x0 = size.height - 46, min(size.left, size.width - (LEVELS * step + 10))
    parts = []
    for row, kind in enumerate(("hit", "miss")):
        parts.append(
            tag("text", "right" if kind == "hit" else "wrong", class_="tick end", x=x0 - 8, y=y + 11 + row * 15)
        )
        parts += [
            tag(
                "rect", class_=f"cell {kind} level{k}", x=x0 + (k - 1) * step, y=y + row * 15, width=step - 1, height=12
            )
            for k in range(1, LEVELS + 1)
        ]
    for share in (0.01, 0.25, 1.0):
        parts.append(
            tag("text", f"{share:.0%}", class_="tick middle", x=x0 + math.sqrt(share) * LEVELS * step, y=y + 42)
        )
    return parts


RELIABILITY_SIZE = (376, 424)


def reliability_diagram(bins: Sequence[dict[str, Any]]) -> Markup:
    """Accuracy by confidence with the gap to the diagonal, and below it how many predictions each bin holds.

    bins: {"low", "high", "count", "confidence", "accuracy"} in [0, 1]; empty ones leave a hole.
    """
    x_axis, y_axis = Axis(0, 1, 50.0, 350.0), Axis(0, 1, 294.0, 14.0)
    base = 378.0
    parts = [tag("title", "Reliability diagram: accuracy by confidence")]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_axis(value)
        parts += [
            tag("line", class_="grid", x1=50, x2=350, y1=y, y2=y),
            tag("text", f"{value:.0%}", class_="tick end", x=42, y=y + 4),
            tag("text", f"{value:.0%}", class_="tick middle", x=x_axis(value), y=base + 18),
        ]
    most = max((number(b.get("count")) or 0 for b in bins), default=0)
    for b in bins:
        low, high, count = number(b.get("low")), number(b.get("high")), number(b.get("count")) or 0
        confidence, accuracy = number(b.get("confidence")), number(b.get("accuracy"))
        if low is None or high is None or confidence is None or accuracy is None or not count:
            continue
        x, width = x_axis(low) + 1, x_axis(high) - x_axis(low) - 2
        words = tag(
            "title",
            f"confidence {low:.0%} to {high:.0%}: {integer(count)} predictions, mean confidence "
            f"{confidence:.1%}, accuracy {accuracy:.1%}",
        )
        top, bottom = y_axis(max(confidence, accuracy)), y_axis(min(confidence, accuracy))
        tall = 58 * count / most
        parts.append(
            tag(
                "g",
                words,
                tag("rect", class_="bar", x=x, y=y_axis(accuracy), width=width, height=y_axis(0) - y_axis(accuracy)),
                tag("rect", class_="gap", x=x, y=top, width=width, height=bottom - top),
                tag("rect", class_="histogram", x=x, y=base - tall, width=width, height=tall),
            )
        )
    parts += [
        tag("line", class_="diagonal", x1=50, y1=294, x2=350, y2=14),
        tag("line", class_="axis", x1=50, x2=350, y1=294, y2=294),
        tag("line", class_="axis", x1=50, x2=350, y1=base, y2=base),
        tag("text", "accuracy", class_="tick middle", x=12, y=154, transform="rotate(-90 12 154)"),
        tag("text", "count", class_="tick middle", x=12, y=base - 29, transform=f"rotate(-90 12 {base - 29:g})"),
        tag("text", integer(most), class_="tick end", x=42, y=base - 50),
        tag("text", "confidence", class_="tick middle", x=200, y=base + 38),
    ]
    return tag(
        "svg",
        *parts,
        class_="visus-chart reliability",
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        viewBox=f"0 0 {RELIABILITY_SIZE[0]} {RELIABILITY_SIZE[1]}",
    )


def interval_bar(value: float, low: float | None, high: float | None, top: float, *, accent: bool) -> Markup:
    """A bar from 0 to `value` on the scale 0 to `top`, with its interval as a line across its end."""

    def at(x: float) -> float:
        return 100 * min(1.0, max(0.0, x / top))

    words = decimal(value) if low is None or high is None else f"{decimal(value)} ({decimal(low)} to {decimal(high)})"
    parts = [
        tag("title", words),
        tag("rect", class_="track", width=100, height=16),
        tag("rect", class_="value accent" if accent else "value", width=at(value), height=16),
    ]
    if low is not None and high is not None:
        parts.append(tag("rect", class_="interval", x=at(low), y=6, width=max(0.3, at(high) - at(low)), height=4))
    return tag(
        "svg", *parts, class_="visus-chart interval-bar", viewBox="0 0 100 16", preserveAspectRatio="none", role="img"
    )


def stacked_bar(parts: Sequence[tuple[str, float]], top: float) -> Markup:
    """Lengths side by side on the scale 0 to `top`; parts: (class, length)."""
    x, rects = 0.0, []
    for kind, length in parts:
        width = 100 * length / top if top else 0.0
        rects.append(tag("rect", class_=kind, x=x, width=width, height=10))
        x += width
    return tag(
        "svg",
        *rects,
        class_="visus-chart stacked-bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
