"""What `visus compress` gave and cost, as a picture: the headline metric over the size of what was made."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from visus.report import charts
from visus.report.contents import mapping, rows
from visus.report.figures import standalone
from visus.report.formatting import file_size, is_percentage, metric_label, number, shorten

_SHARES = (("parameters", "parameters"), ("nonzero", "weights that are not zero"), ("macs", "multiplications"),
           ("bytes", "bytes on disk"))


def trade_off_svg(record: dict[str, Any]) -> str:
    """Panels of the metric by what is left of each quantity, as a share of the source's; those that changed."""
    found = rows(record.get("rows"))
    metric = str(mapping(found[0]).get("headline")) if found else ""
    panels: list[tuple[str, Markup]] = []
    for key, name in _SHARES:
        first = number(found[0].get(key)) if found else None
        points = sorted((share / first, value) for row in found if first and (share := number(row.get(key))) is not None
                        and (value := number(row.get("value"))) is not None)
        if len({x for x, _ in points}) < 2:
            continue
        series = [charts.Series(metric_label(metric), points, "val")]
        axes = charts.line_axes(series)
        x_axis, y_axis = axes
        dots = [charts.tag("circle", class_="dot val", r=4, cx=x_axis(x), cy=y_axis(y)) for x, y in points]
        panels.append((f"{metric_label(metric)} by {name}, as a share of {_amount(key, first)}",
                       charts.line_chart(f"{metric} by {name}", series, axes, x_label=f"share of the {name}",
                                         percentage=is_percentage(metric), over=dots)))
    step = charts.LINE_HEIGHT + 22
    drawing = Markup("").join(
        charts.tag("g", charts.tag("text", shorten(title, 62), class_="label", x=14, y=16, font_size=12),
                   charts.tag("svg", panel, y=22, width=charts.LINE_WIDTH, height=charts.LINE_HEIGHT),
                   transform=f"translate(0 {k * step})") for k, (title, panel) in enumerate(panels))
    return standalone(drawing, charts.LINE_WIDTH, max(1, len(panels)) * step, title="What compression gave and cost")


def _amount(key: str, value: float | None) -> str:
    return file_size(value) if key == "bytes" else f"{value:,.0f}"
