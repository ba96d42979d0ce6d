"""The charts of what `visus calibrate` found, from its plain record (calibration/results.json of a run). What the
record lacks, or has in another shape, is left out."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from visus.report import charts
from visus.report.contents import mapping, rows
from visus.report.figures import standalone
from visus.report.formatting import number


def reliability_charts(record: dict[str, Any]) -> dict[str, Markup]:
    """{"before": diagram, "after": diagram}; "after" is missing where no correction was taken."""
    found = mapping(record.get("reliability"))
    return {name: charts.reliability_diagram(rows(mapping(found[name]).get("bins")))
            for name in ("before", "after") if rows(mapping(found.get(name)).get("bins"))}


def risk_coverage_chart(record: dict[str, Any]) -> Markup | None:
    """The share of errors among the surest images, by how many of them are answered; None without a curve."""
    found = mapping(record.get("selective"))
    kinds: dict[str, Any] = {"before": "val", "after": "train"}
    names = {"before": "as trained", "after": "calibrated"}
    series = [charts.Series(names[name], points, kinds[name]) for name in ("before", "after")
              if (points := _points(mapping(found.get(name)).get("curve")))]
    if not series:
        return None
    return charts.line_chart("Share of errors among the images that are answered, surest first", series,
                             charts.line_axes(series, percentage=True), x_label="share of images answered",
                             percentage=True)


def calibration_svgs(record: dict[str, Any]) -> dict[str, str]:
    """File name -> the text of an SVG file."""
    files = {f"reliability_{name}.svg": standalone(chart, *charts.RELIABILITY_SIZE) + "\n"
             for name, chart in reliability_charts(record).items()}
    curve = risk_coverage_chart(record)
    if curve is not None:
        files["risk_coverage.svg"] = standalone(curve, charts.LINE_WIDTH, charts.LINE_HEIGHT) + "\n"
    return files


def _points(value: Any) -> list[tuple[float, float]]:
    found = [(number(p[0]), number(p[1])) for p in value if isinstance(p, list) and len(p) == 2] \
        if isinstance(value, list) else []
    return [(x, y) for x, y in found if x is not None and y is not None]
