"""What the doctor recorded of a run, put into words and pictures for the page: findings and where they are on the
curves, layers by step, the first layer's filters over epochs, the range of learning rates, the checks that ran.

doctor.json    seconds {check: s}, left_out {check: why}, rate_range {rates, losses, smoothed, suggested, configured} or
               None, checks {check: {rule, rank, symptom}}; all optional
watch.jsonl    {"step": int, "layers": {name: {"ratio", "gradient", "std", "dead", ...}}}, one object a line
images/        filters-EPOCH.png
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus.core.record import Finding, RunFolder
from visus.report import charts, formatting, thumbnails
from visus.report.charts import tag
from visus.report.contents import Contents, Log, epochs_of_steps, mapping
from visus.report.curves import Panel
from visus.report.formatting import number, plural
from visus.report.layer_map import MAX_LAYERS, LayerMap, layer_maps

SEVERITIES = ("error", "warning", "note")
MAX_MARKS = 12  # findings that are drawn on a curve
MAX_FILTERS = 8
MAX_POINTS = 48  # of a line that is drawn for the second time
OF_METRIC = {"overfitting", "underfitting", "validation-easier", "noisy-curve"}  # to be seen on the metric as well
# Findings that hold for a stretch: from their step to the end, or up to it.
FROM, UNTIL = {"overfitting", "plateau", "rate-too-high", "rate-at-zero", "updates-lost"}, {"late-start"}


def view(run: RunFolder, contents: Contents, panels: Sequence[Panel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template takes, under the name "doctor", and the charts' data for the page's script."""
    record = mapping(run.read("doctor.json"))
    findings = ranked(contents.findings, mapping(record.get("checks")))
    watched = list(run.events("watch.jsonl"))
    maps = layer_maps(watched)
    rates = rate_range(mapping(record.get("rate_range")))
    data: dict[str, Any] = {}
    if rates is not None:
        data[rates.name] = rates.data()
    data |= {one.chart: one.data() for one in maps}
    shown = {"findings": [_row(number_, finding, contents.log) for number_, finding in enumerate(findings, 1)],
             "sentence": _sentence(findings, record),
             "curves": _diagnosis(findings, contents.log, panels),
             "rates": None if rates is None else {"svg": _rates_svg(rates, mapping(record.get("rate_range"))),
                                                  "sentence": _rates_sentence(mapping(record.get("rate_range")))},
             "maps": [{"id": one.chart, "title": one.measure.title, "svg": one.svg()} for one in maps],
             "maps_sentence": _maps_sentence(watched, maps),
             "filters": _filters(run), **_checks(record)}
    return shown, data


def ranked(findings: Sequence[Finding], checks: dict[str, Any]) -> list[Finding]:
    """As the doctor ranks them: notes last, causes before symptoms, the severe before the mild, what names one cause
    before what many causes have; else in the order in which they were found."""
    def place(finding: Finding) -> tuple[bool, bool, int, float]:
        about = mapping(checks.get(finding.check))
        severity = SEVERITIES.index(finding.severity) if finding.severity in SEVERITIES else len(SEVERITIES)
        rank = number(about.get("rank"))
        return severity >= 2, about.get("symptom") is True, severity, 5.0 if rank is None else rank

    return sorted(findings, key=place)


def _sentence(findings: Sequence[Finding], record: dict[str, Any]) -> str:
    ran = len(mapping(record.get("seconds")))
    checks = f"{plural(ran, 'check')} of data, model and training" if ran else "The checks of data, model and training"
    if not findings:
        return f"{checks} found nothing." if ran else f"{checks} recorded none."
    counts = [(kind, sum(f.severity == kind for f in findings)) for kind in SEVERITIES]
    counted = ", ".join(plural(n, kind) for kind, n in counts if n)
    return f"{checks} saw {counted}{', the likeliest cause first' if len(findings) > 1 else ''}."


def _row(place: int, finding: Finding, log: Log) -> dict[str, Any]:
    step = number(finding.step)
    at = _places(log, [step])[0] if step is not None and log.epochs else None
    return {"number": place, "severity": finding.severity, "title": finding.title, "evidence": finding.evidence,
            "remedy": finding.remedy, "check": finding.check, "layer": finding.layer, "step": finding.step,
            "epoch": None if at is None else f"{at:.1f}".removesuffix(".0")}


def _places(log: Log, steps: Sequence[float]) -> list[float | None]:
    """x of steps on the curves: epochs, or the steps themselves where no epoch ended. A step after the last end of an
    epoch goes on at the same pace."""
    order = sorted(set(steps))
    at = epochs_of_steps(Log(log.epochs, [(step, None, None) for step in order]))
    if at is None:
        return [None if log.epochs else step for step in steps]
    where = dict(zip(order, at, strict=True))
    return [where[step] for step in steps]


# -- on the curves ----------------------------------------------------------------------------------------------


def _diagnosis(findings: Sequence[Finding], log: Log, panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """The loss once more, with each finding that has a step drawn on it, and the metric where a finding is of it."""
    told = [(k, finding, step) for k, finding in enumerate(findings, 1)
            if (step := number(finding.step)) is not None][:MAX_MARKS]
    places = _places(log, [step for _, _, step in told])
    marks = [(k, finding, at) for (k, finding, _), at in zip(told, places, strict=True) if at is not None]
    drawn = []
    measured = any(finding.check in OF_METRIC for _, finding, _ in marks)
    for panel in (p for p in panels if marks and (p.name == "loss" or (p.name == "metric" and measured))):
        axes = panel.axes()  # the same as in the first drawing, so that the script's data serve both
        series = [charts.Series(one.name, charts.thin(one.points, MAX_POINTS), one.kind) for one in panel.series]
        svg = charts.line_chart(panel.title, series, axes, x_label=panel.x_label, name=panel.name,
                                percentage=panel.percentage, ground=_spans(marks, axes), over=_marks(marks, axes))
        drawn.append({"title": panel.title, "svg": svg})
    return drawn


def _spans(marks: Sequence[tuple[int, Finding, float]], axes: tuple[charts.Axis, charts.Axis]) -> list[Markup]:
    """Shaded stretches, for findings that hold for one."""
    x_axis, y_axis = axes
    spans = []
    for _, finding, at in marks:
        here = min(max(at, x_axis.low), x_axis.high)
        low, high = (here, x_axis.high) if finding.check in FROM else (x_axis.low, here)
        if finding.check in FROM | UNTIL and high > low:
            spans.append(tag("rect", tag("title", formatting.shorten(finding.title, 160)),
                             class_=f"span {_kind(finding)}", x=x_axis(low), width=x_axis(high) - x_axis(low),
                             y=y_axis.end, height=y_axis.start - y_axis.end))
    return spans


def _marks(marks: Sequence[tuple[int, Finding, float]], axes: tuple[charts.Axis, charts.Axis]) -> list[Markup]:
    """An upright line at each finding's step, with its number, which leads to the finding. Numbers that would lie over
    each other stand one below the other."""
    x_axis, y_axis = axes
    parts: list[Markup] = []
    taken: list[tuple[float, int]] = []
    for k, finding, at in sorted(marks, key=lambda mark: mark[0]):
        x = x_axis(min(max(at, x_axis.low), x_axis.high))
        row = next(r for r in range(len(marks) + 1) if all(r != other or abs(x - left) >= 19 for left, other in taken))
        taken.append((x, row))
        y = y_axis.end + 10 + 20 * row
        title = f"{k}: {formatting.shorten(finding.title, 160)}"
        parts.append(tag("line", class_=f"flag {_kind(finding)}", x1=x, x2=x, y1=y_axis.end, y2=y_axis.start))
        parts.append(tag("a", tag("title", title), tag("circle", class_=f"badge {_kind(finding)}", cx=x, cy=y, r=9),
                         tag("text", str(k), class_="badge-text middle", x=x, y=y + 4, font_size=11),
                         href=f"#finding-{k}"))
    return [one for one in parts if one.startswith("<line")] + [one for one in parts if not one.startswith("<line")]


def _kind(finding: Finding) -> str:
    return finding.severity if finding.severity in SEVERITIES else "note"


# -- the range of rates -----------------------------------------------------------------------------------------

RATES = {"suggested": "careful guess", "configured": "configured"}  # field of doctor.json -> its words


def rate_range(record: dict[str, Any]) -> Panel | None:
    """Loss by learning rate, None where fewer than two pairs were recorded."""
    points, mean = (_pairs(record, name) for name in ("losses", "smoothed"))
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    series = [charts.Series("loss", points, "steps"), charts.Series("smoothed", mean, "train")] if len(mean) > 1 else \
        [charts.Series("loss", points, "train")]
    return RatePanel("doctor-rates", "Range of learning rates", tuple(series), "learning rate")


def _pairs(record: dict[str, Any], name: str) -> list[tuple[float, float]]:
    """(rate, value), by the rate."""
    rates, values = (value if isinstance(value, list) else [] for value in (record.get("rates"), record.get(name)))
    return sorted((x, y) for a, b in zip(rates, values, strict=False)
                  if (x := number(a)) is not None and (y := number(b)) is not None and x > 0)


class RatePanel(Panel):
    """A panel whose x is a logarithm, and whose y ends a little above where the curve began."""

    def axes(self) -> tuple[charts.Axis, charts.Axis]:
        points = self.series[-1].points
        x_axis, _ = charts.line_axes(self.series)
        top = points[0][1] + 0.6 * abs(points[0][1] - min(y for _, y in points)) + 1e-9
        low, high = charts.domain([min(y, top) for _, y in points])
        frame = charts.line_axes((charts.Series("", [(0, low), (1, high)], "val"),))[1]
        return charts.Axis(x_axis.low, x_axis.high, x_axis.start, x_axis.end, log=True), charts.Axis(
            low, high, frame.start, frame.end)


def _rates_svg(panel: Panel, record: dict[str, Any]) -> Markup:
    axes = panel.axes()
    x_axis, y_axis = axes
    series = [charts.Series(one.name, [(x, min(y, y_axis.high)) for x, y in one.points], one.kind)
              for one in panel.series]
    told = [(rate, words) for name, words in RATES.items()
            if (rate := number(record.get(name))) is not None and x_axis.low <= rate <= x_axis.high]
    over = []
    for place, (rate, words) in enumerate(sorted(told)):  # the lower one has its words to the left, the other right
        x = x_axis(rate)
        left = x > x_axis.end - 100 or (place == 0 and x > x_axis.start + 100)
        over += [tag("line", class_=f"flag {'warning' if words == RATES['configured'] else 'note'}", x1=x, x2=x,
                     y1=y_axis.end, y2=y_axis.start),
                 tag("text", f"{words} {rate:.2g}", class_="label end" if left else "label",
                     x=x - 5 if left else x + 5, y=y_axis.end + 12 + 16 * place)]
    return charts.line_chart(panel.title, series, axes, x_label=panel.x_label, name=panel.name, over=over)


def _rates_sentence(record: dict[str, Any]) -> str:
    parts = [f"{words} {value:.2g}" for name, words in RATES.items() if (value := number(record.get(name))) is not None]
    return ("A few updates at each rate, on a copy of the net" + (f": {', '.join(parts)}." if parts else ".")
            + " The careful guess is a tenth of where the loss is lowest; a rate up to there can do better.")


# -- layers, filters, checks ------------------------------------------------------------------------------------


def _maps_sentence(watched: Sequence[dict[str, Any]], maps: Sequence[LayerMap]) -> str:
    if not maps:
        return ""
    layers = len({str(name) for row in watched for name in mapping(row.get("layers"))})
    left = f" {MAX_LAYERS} of {layers} layers, evenly chosen." if layers > MAX_LAYERS else ""
    return ("From the first layer, above, to the last. Orange is more than usual, grey less. Point at a cell, or focus "
            f"the map and use the arrow keys, to read it.{left}")


def _filters(run: RunFolder) -> list[dict[str, Any]]:
    """Pictures of the first layer in the order of their epochs, at most MAX_FILTERS, first and last among them."""
    found = sorted((int(match[1]), path.name) for path in (run.path / thumbnails.FOLDER).glob("filters-*.png")
                   if (match := re.fullmatch(r"filters-(\d{1,9})\.png", path.name)))
    count = min(len(found), MAX_FILTERS)
    kept = [found[round(k * (len(found) - 1) / max(1, count - 1))] for k in range(count)]
    pictures = [(epoch, thumbnails.data_uri(run.path, f"{thumbnails.FOLDER}/{name}")) for epoch, name in kept]
    return [{"uri": uri, "label": f"after epoch {epoch}" if epoch else "before training"}
            for epoch, uri in pictures if uri]


def _checks(record: dict[str, Any]) -> dict[str, Any]:
    """Rows of the table of checks, the slowest first, and what was left out."""
    about = mapping(record.get("checks"))
    seconds = [(str(name), s) for name, value in mapping(record.get("seconds")).items()
               if (s := number(value)) is not None]
    rows = [{"name": name, "rule": str(mapping(about.get(name)).get("rule") or ""), "seconds": f"{s:.2f}"}
            for name, s in sorted(seconds, key=lambda row: -row[1])]
    return {"checks": rows, "checks_title": f"{plural(len(rows), 'check')} in {sum(s for _, s in seconds):.1f} s",
            "left_out": [{"name": str(name), "why": str(why)} for name, why in
                         mapping(record.get("left_out")).items()]}
