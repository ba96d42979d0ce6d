"""Activations and gradients by depth: a row for each rule of first weights, to common scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from markupsafe import Markup

from visus.report.charts import Axis, tag
from visus.report.figures import standalone
from visus.report.formatting import axis_number

PANEL, ROW, TOP, LEFT, ROOM = 236, 128, 62, 104, 92  # pixels; ROOM: height of a diagram
DRAWN = 10  # histograms in a row
RANGE = 1e-6  # of the largest value: below it lies the floor of a logarithmic scale, whatever a rule gives
CSS = """
.visus-chart .std { stroke: var(--model); } .visus-chart .slope { stroke: var(--other); }
.visus-chart .zeros { stroke: var(--model); } .visus-chart .ends { stroke: var(--other); stroke-dasharray: 6 4; }
.visus-chart .title { font-size: 15px; font-weight: 600; } .visus-chart .strong { font-weight: 600; }
.visus-chart .gone { fill: var(--error); }
"""


class Row(Protocol):
    """What is drawn of a layer; see `visus.doctor.depth.DepthRow`."""

    name: str
    std: float
    gradient: float | None
    zeros: float | None
    dead: float | None
    saturated: float | None
    reach: float
    counts: tuple[int, ...]


def depth_chart(rules: Mapping[str, Sequence[Any]], title: str) -> str:
    """The text of an SVG file. rules: rule -> layers in the order of the forward pass."""
    layers = max((len(rows) for rows in rules.values()), default=1)
    stds, slopes = _log_axis(rules, "std"), _log_axis(rules, "gradient")
    width, height = LEFT + 4 * PANEL + 12, TOP + ROW * len(rules) + 40
    heads = ("std of the outputs", "gradient at the outputs", "zeros; dashed: saturated", "outputs by depth")
    parts = [tag("text", title, class_="title", x=16, y=24)]
    parts += [tag("text", head, class_="strong", x=LEFT + 34 + PANEL * i, y=TOP - 12) for i, head in enumerate(heads)]
    for number, (rule, rows) in enumerate(rules.items()):
        top = TOP + ROW * number
        parts.append(tag("text", rule, class_="strong", x=16, y=top + ROOM / 2))
        parts += _line([row.std for row in rows], stds, layers, 0, top, "std")
        parts += _line([row.gradient for row in rows], slopes, layers, 1, top, "slope")
        shares = Axis(0.0, 1.0, 0.0, 0.0)
        parts += _line([row.zeros for row in rows], shares, layers, 2, top, "zeros")
        parts += _line([row.saturated for row in rows], shares, layers, 2, top, "ends", frame=False)
        parts += _histograms(rows, top)
    parts.append(tag("text", "layer, from the images to the answer; a line that ends has reached 0 or a number that is "
                     "not finite", class_="tick", x=LEFT, y=height - 12))
    return standalone(Markup("").join(parts), width, height, title=title, css=CSS) + "\n"


def _log_axis(rules: Mapping[str, Sequence[Any]], field: str) -> Axis:
    """Common to all rules; its pixels are set for each row."""
    values = [value for rows in rules.values() for row in rows
              if (value := getattr(row, field)) is not None and math.isfinite(value) and value > 0]
    high = max(values, default=1.0)
    low = max(min(values, default=0.1), RANGE * high)
    return Axis(low / 2, high * 2, 0.0, 0.0, log=True)


def _line(values: Sequence[float | None], scale: Axis, layers: int, column: int, top: int, kind: str,
          frame: bool = True) -> list[Markup]:
    left, bottom = LEFT + PANEL * column + 34, top + ROOM
    right = left + PANEL - 60
    y_axis = Axis(scale.low, scale.high, bottom, top, log=scale.log)
    x_axis = Axis(0, max(1, layers - 1), left, right)
    parts = []
    if frame:
        for value in (tick for tick in y_axis.ticks(3) if tick >= y_axis.low):
            parts += [tag("line", class_="grid", x1=left, x2=right, y1=y_axis(value), y2=y_axis(value)),
                      tag("text", axis_number(value) if scale.log else f"{100 * value:g}%", class_="tick end",
                          x=left - 5, y=y_axis(value) + 4, font_size=10)]
        parts.append(tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom))
    points = [f"{x_axis(i):.1f},{y_axis(value):.1f}" for i, value in enumerate(values)
              if value is not None and math.isfinite(value) and (value >= scale.low or not scale.log)]
    if points:
        parts.append(tag("polyline", class_=f"line {kind}", points=" ".join(points)))
    return parts


def _histograms(rows: Sequence[Any], top: int) -> list[Markup]:
    """Up to `DRAWN` layers, evenly chosen, each to its own scale from -reach to reach, which stands below it."""
    count = min(DRAWN, len(rows))
    chosen = [rows[round(i * (len(rows) - 1) / max(1, count - 1))] for i in range(count)]
    room = (PANEL - 20) / max(1, count)
    left = LEFT + 3 * PANEL + 34
    parts = []
    for number, row in enumerate(chosen):
        x, wide = left + room * number, (room - 3) / len(row.counts)
        most = max(row.counts, default=0)
        if not most:
            parts.append(tag("text", "0" if row.reach == 0 else "?", class_="gone middle", x=x + room / 2,
                             y=top + ROOM - 4, font_size=10))
            continue
        path = "".join(f"M{x + wide * i:.1f} {top + ROOM}v{-(ROOM - 14) * n / most:.1f}h{wide:.2f}V{top + ROOM}z"
                       for i, n in enumerate(row.counts) if n)
        parts.append(tag("path", tag("title", row.name), class_="bar", d=path))
        if number % 2 == 0:
            parts.append(tag("text", _short(row.reach), class_="tick middle", x=x + room / 2, y=top + ROOM + 12,
                             font_size=9))
    return parts


def _short(value: float) -> str:
    return f"{value:.1g}" if 0.01 <= value < 1000 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
