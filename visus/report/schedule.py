"""A recipe's learning rates as a picture: a line for each rate, with warm-up, sizes, snapshots and averaging marked."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.report import formatting
from visus.report.charts import Axis, axis_number, tag
from visus.report.contents import mapping, rows
from visus.report.figures import standalone
from visus.report.formatting import decimal, integer, number
from visus.report.page import page_style, policy, template

WIDTH, HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 736.0, 74.0, 340.0
CSS = """
.visus-chart .title { font-size: 16px; font-weight: 600; }
.visus-chart .resize { stroke: var(--other); stroke-width: 1.2; stroke-dasharray: 4 3; }
.visus-chart .shot { fill: var(--surface); stroke: var(--other); stroke-width: 2; }
.visus-chart .rate { fill: none; stroke: var(--model); stroke-width: 1.8; stroke-linejoin: round; }
"""


def schedule_chart(record: dict[str, Any]) -> str:
    """The picture as the text of an SVG file; groups and rates stand in a table below."""
    table = preview_table(record)
    height = HEIGHT + 26 + 17 * len(table)
    title = _title(record)
    parts = [tag("text", title, class_="title", x=16, y=26), *_drawing(record)]
    for k, row in enumerate([_HEADS, *table]):
        for text, x in zip(row, (16.0, 330.0, 440.0, 560.0, 736.0), strict=True):
            parts.append(tag("text", text, class_=("tick" if k == 0 else "label") + (" end" if x > 16 else ""), x=x,
                             y=HEIGHT + 10.0 + 17 * k))
    return standalone(Markup("").join(parts), WIDTH, height, title=title, css=CSS) + "\n"


def render_preview(record: dict[str, Any]) -> str:
    """The page's text: the picture, the table, and what the rates still depend on."""
    style = page_style() + CSS
    drawing = tag("svg", tag("title", _title(record)), *_drawing(record), class_="visus-chart", role="img",
                  xmlns="http://www.w3.org/2000/svg", viewBox=f"0 40 {WIDTH} {HEIGHT - 40}")
    return template("schedule.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, title=_title(record), drawing=drawing,
        heads=_HEADS, table=preview_table(record), notes=[str(note) for note in record.get("notes") or []])


_HEADS = ("group of parameters", "peak rate", "weight decay", "tensors", "weights")


def preview_table(record: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A row for each group: name, peak rate, weight decay, tensors, weights."""
    found = []
    for group in rows(record.get("groups")):
        decay = group.get("weight_decay")
        rate = f"{number(group.get('lr')) or 0:.4g}" + (" of the peak" if record.get("relative") else "")
        found.append((str(group.get("name")).replace("no_decay", "no decay"), rate,
                      "auto" if decay == "auto" else f"{number(decay) or 0:g}", _count(group.get("tensors")),
                      _count(group.get("weights"))))
    return found


def _count(value: Any) -> str:
    return formatting.MISSING if value is None else integer(value)


def _title(record: dict[str, Any]) -> str:
    return (f"{record.get('name')}: {record.get('schedule')} schedule over {record.get('epochs')} epochs "
            f"({record.get('optimizer')})")


def _drawing(record: dict[str, Any]) -> list[Markup]:
    points = [(float(x), float(y)) for x, y in record.get("points") or [(0.0, 1.0)]]
    rates = sorted({number(group.get("lr")) or 0.0 for group in rows(record.get("groups"))}) or [1.0]
    epochs = float(mapping(record).get("epochs") or 1)
    x_axis = Axis(0.0, epochs, _LEFT, _RIGHT)
    y_axis = Axis(0.0, max(rates) * max(y for _, y in points) * 1.05, _BOTTOM, _TOP)
    parts: list[Markup] = []
    warm = number(record.get("warmup_epochs")) or 0.0
    if warm:
        said = f"{record.get('warmup')}: {warm:g} epoch{'' if warm == 1 else 's'}"
        parts += [tag("rect", class_="span", x=_LEFT, y=_TOP, width=x_axis(min(warm, epochs)) - _LEFT,
                      height=_BOTTOM - _TOP),
                  tag("text", said, class_="tick", x=_LEFT, y=_TOP - 8)]
    for value in y_axis.ticks():
        parts += [tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y_axis(value), y2=y_axis(value)),
                  tag("text", axis_number(value), class_="tick end", x=_LEFT - 8, y=y_axis(value) + 4)]
    for value in x_axis.ticks(8, whole=True):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=_BOTTOM + 18))
    parts += [tag("text", "epoch", class_="tick middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36),
              tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
              tag("text", "share of the peak rate" if record.get("relative") else "learning rate", class_="tick", x=16,
                  y=_TOP - 24)]
    for k, rate in enumerate(rates):
        path = " ".join(f"{x_axis(x):.1f},{y_axis(rate * y):.1f}" for x, y in points)
        opacity = 1.0 if len(rates) == 1 else 0.3 + 0.7 * k / (len(rates) - 1)
        parts.append(tag("polyline", tag("title", f"peak {decimal(rate)}"), class_="rate", points=path,
                         stroke_opacity=f"{opacity:.2f}"))
    return parts + _marks(record, x_axis, points, y_axis, max(rates))


def _marks(record: dict[str, Any], x_axis: Axis, points: list[tuple[float, float]], y_axis: Axis,
           rate: float) -> list[Markup]:
    """New image sizes, the begin of averaging, and snapshots, at the ends of their epochs."""
    parts: list[Markup] = []
    for start, share in record.get("sizes") or []:
        x = x_axis(float(start))
        parts += [tag("line", class_="resize", x1=x, x2=x, y1=_TOP, y2=_BOTTOM),
                  tag("text", f"images at {100 * float(share):g} %", class_="tick", x=min(x + 4, _RIGHT - 90),
                      y=_BOTTOM - 8)]
    average = number(record.get("average_from"))
    if average is not None:
        x = x_axis(average)
        parts += [tag("line", class_="mark", x1=x, x2=x, y1=_TOP, y2=_BOTTOM),
                  tag("text", "average from here", class_="tick" + (" end" if x > 500 else ""),
                      x=x - 4 if x > 500 else x + 4, y=_TOP + 28)]
    for epoch in record.get("snapshots") or []:
        before = [y for x, y in points if x < epoch]
        parts.append(tag("circle", tag("title", f"snapshot after epoch {epoch}"), class_="shot",
                         cx=x_axis(float(epoch)), cy=y_axis(rate * before[-1]) if before else _BOTTOM, r=5))
    if record.get("snapshots"):
        parts += [tag("circle", class_="shot", cx=_RIGHT - 76, cy=_TOP - 28, r=5),
                  tag("text", "snapshot", class_="tick", x=_RIGHT - 64, y=_TOP - 24)]
    return parts
