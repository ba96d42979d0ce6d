"""A probe of frozen features as one page, from the plain record that run/probe.py made."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.report import formatting
from visus.report.charts import Series, interval_bar, line_axes, line_chart
from visus.report.contents import mapping, optional_text, rows, texts
from visus.report.formatting import metric_text, number
from visus.report.page import page_style, policy, shell_command, template


def render_probe(record: dict[str, Any]) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    style = page_style()
    counts = mapping(record.get("counts"))
    facts = [("Images", optional_text(record.get("path")) or ""),
             ("Weights", optional_text(record.get("weights")) or ""),
             ("Features", f"{formatting.integer(record.get('dim'))}, what goes into {record.get('layer')}"),
             ("Image size", " x ".join(str(side) for side in record.get("image_size") or []) + " px"),
             ("Split", ", ".join(f"{formatting.integer(counts.get(name))} {name}" for name in counts)),
             ("Time", formatting.duration(record.get("seconds")))]
    return template("probe.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, model=str(record.get("model") or ""),
        sentence=_sentence(record), facts=facts, rows=_rows(record), charts=_charts(record),
        notes=texts(record.get("notes")), command=shell_command(texts(record.get("command"))))


def _sentence(record: dict[str, Any]) -> str:
    """The answer first."""
    found = {str(row.get("name")): number(mapping(mapping(row.get("metrics")).get("accuracy")).get("value"))
             for row in rows(record.get("rows"))}
    linear, near = found.get("linear"), found.get("neighbours")
    if linear is None or near is None:
        return ""
    text = f"On its frozen features a linear classifier is right on {metric_text('accuracy', linear)} of the test " \
           f"images, the vote of the nearest training images on {metric_text('accuracy', near)}."
    own = found.get("own classifier")
    return text if own is None else f"{text} Its own classifier: {metric_text('accuracy', own)}."


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in rows(record.get("rows")):
        metrics = mapping(row.get("metrics"))
        accuracy = mapping(metrics.get("accuracy"))
        value, low, high = (number(accuracy.get(key)) for key in ("value", "low", "high"))
        found.append({
            "name": str(row.get("name") or ""), "setting": str(row.get("setting") or ""),
            "bar": None if value is None else interval_bar(value, low, high, 1.0, accent=row.get("name") == "linear"),
            "val": metric_text("accuracy", row.get("val_accuracy")), "test": metric_text("accuracy", value),
            "interval": "" if low is None or high is None else
            f"{metric_text('accuracy', low)} to {metric_text('accuracy', high)}",
            "balanced": metric_text("accuracy", mapping(metrics.get("balanced_accuracy")).get("value")),
            "nll": metric_text("nll", mapping(metrics.get("nll")).get("value"))})
    return found


def _charts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy on val by what was tried: the strength, and the number of neighbours at the temperature chosen."""
    trials = mapping(record.get("trials"))
    chosen = mapping(trials.get("chosen"))
    charts = []
    for name, key, title, label in (
            ("linear", "strength", "Linear probe by its L2 strength", "power of ten of the L2 strength"),
            ("neighbours", "k", "Nearest neighbours by their number", "neighbours")):
        points = []
        for trial in rows(trials.get(name)):
            setting = mapping(trial.get("setting"))
            x, y = number(setting.get(key)), number(trial.get("accuracy"))
            if x is not None and x > 0 and y is not None and \
                    (key != "k" or setting.get("temperature") == chosen.get("temperature")):
                points.append((math.log10(x) if key == "strength" else x, y))
        if len(points) > 1:
            lines = [Series("accuracy on val", sorted(points), "train")]
            best = number(chosen.get(key))
            mark = None if best is None or best <= 0 else math.log10(best) if key == "strength" else best
            charts.append({"title": title, "svg": line_chart(
                title, lines, line_axes(lines, percentage=True), x_label=label, percentage=True, mark=mark,
                mark_label="chosen")})
    return charts
