"""Several runs on one page, from the plain record that run/compare.py made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.report import formatting
from visus.report.charts import Axis, axis_number, domain, tag, thin
from visus.report.contents import mapping, optional_text, rows, texts
from visus.report.formatting import decimal, is_percentage, metric_label, metric_text, number
from visus.report.page import page_style, policy, shell_command, template

# a colour for each run on light ground, and on dark
COLOURS = (("#2563b0", "#6ea6e8"), ("#b3530f", "#f0a35e"), ("#177a5b", "#5fd0ad"), ("#8b3fa8", "#cf95e6"),
           ("#a4262c", "#ff9d9d"), ("#6f6200", "#d8c55a"), ("#0b6a85", "#67d0e8"), ("#57657a", "#a3b0c2"))
DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "7 3", "2 3", "9 3 2 3")
MAX_CLASSES = 30
CURVES = {"train_loss": "Training loss", "val_loss": "Validation loss"}
WIDTH, HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 370.0, 12.0, 188.0


def render_comparison(record: dict[str, Any]) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    runs = rows(record.get("runs"))
    style = page_style() + "\n" + _style()
    return template("compare.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, runs=_runs(runs),
        settings=rows(record.get("settings")), metrics=_metrics(record), tests=_tests(record, runs),
        pairs=_pairs(record, runs), refused=optional_text(record.get("refused")), sentence=_sentence(record, runs),
        level=f"{number(record.get('level')) or 0.05:g}", curves=_curves(record),
        robustness=_robustness(record), classes=_classes(record),
        command=shell_command(texts(record.get("command"))))


def _style() -> str:
    """A colour and a dash for each run, on light and on dark ground."""
    light = "".join(f".r{k}{{--c:{colour}}}" for k, (colour, _) in enumerate(COLOURS))
    dark = "".join(f".r{k}{{--c:{colour}}}" for k, (_, colour) in enumerate(COLOURS))
    return (f"{light}@media (prefers-color-scheme: dark){{{dark}}}"
            ".visus-chart .line[class*=\" r\"]{stroke:var(--c)}.visus-chart .dot[class*=\" r\"]{fill:var(--c)}"
            ".visus-chart.swatch{display:inline-block;width:26px;height:10px;vertical-align:middle;margin-right:7px}"
            ".dumbbells{width:100%;max-width:760px}.better{font-weight:650}td.n.best{font-weight:680}")


def _swatch(run: int) -> Markup:
    return tag("svg", tag("line", class_=f"line r{run}", x1=0, x2=26, y1=5, y2=5, stroke_dasharray=DASHES[run] or None),
               class_="visus-chart swatch", viewBox="0 0 26 10", aria_hidden="true")


def _runs(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"swatch": _swatch(k), "name": str(run.get("name") or ""), "path": str(run.get("path") or ""),
             "model": str(run.get("model") or formatting.MISSING), "status": str(run.get("status") or ""),
             "parameters": formatting.magnitude(run.get("parameters")),
             "seconds": formatting.duration(run.get("seconds")),
             "data": str(run.get("data") or formatting.MISSING)} for k, run in enumerate(runs)]


def _metrics(record: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in rows(record.get("metrics")):
        name = str(row.get("name"))
        cells = []
        for k, given in enumerate(row.get("values") or []):
            one = mapping(given)
            low, high = number(one.get("low")), number(one.get("high"))
            interval = "" if low is None or high is None else \
                f"{metric_text(name, low)} to {metric_text(name, high)}".replace("\u202f% to", " to")
            cells.append({"value": metric_text(name, one.get("value")), "interval": interval,
                          "best": row.get("best") == k})
        found.append({"label": metric_label(name), "cells": cells})
    return found


def _p(value: Any) -> str:
    p = number(value)
    return formatting.MISSING if p is None else "below 0.0001" if p < 1e-4 else f"{p:.4f}"


def _tests(record: dict[str, Any], runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows(record.get("tests")):
        name = str(row.get("metric"))
        first, second = _index(row.get("first"), runs), _index(row.get("second"), runs)
        if first is None or second is None:
            continue
        better = _index(row.get("better"), runs)
        found.append({
            "first": _swatch(first), "second": _swatch(second), "metric": metric_label(name),
            "names": (str(runs[first].get("name")), str(runs[second].get("name"))),
            "difference": _signed(name, row.get("difference")),
            "interval": f"{_signed(name, row.get('low'))} to {_signed(name, row.get('high'))}",
            "test": str(row.get("test") or ""), "p": _p(row.get("p")), "adjusted": _p(row.get("adjusted")),
            "verdict": "no difference seen" if better is None else f"{runs[better].get('name')} is better",
            "better": better is not None})
    return found


def _pairs(record: dict[str, Any], runs: Sequence[dict[str, Any]]) -> list[str]:
    """What McNemar's test counts, in words."""
    found = []
    for row in rows(record.get("tests")):
        first, second = _index(row.get("first"), runs), _index(row.get("second"), runs)
        only = number(row.get("only_first")), number(row.get("only_second"))
        if first is None or second is None or None in only:
            continue
        found.append(f"{runs[first].get('name')} alone is right on {formatting.integer(only[0])} test images, "
                     f"{runs[second].get('name')} alone on {formatting.integer(only[1])}: "
                     f"exact p {_p(row.get('exact'))}, mid-p {_p(row.get('p'))}.")
    return found


def _sentence(record: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """The answer first."""
    if optional_text(record.get("refused")):
        return "The runs were not tested on the same images: their numbers stand side by side, without a verdict."
    headline = [row for row in rows(record.get("tests")) if str(row.get("metric")).endswith("accuracy")]
    told = [row for row in headline if _index(row.get("better"), runs) is not None]
    if not headline:
        return ""
    if not told:
        return "No two runs differ in accuracy by more than chance explains."
    if len(headline) == 1:
        row = told[0]
        return (f"{runs[int(row['better'])].get('name')} is the more accurate by "
                f"{metric_text('accuracy', abs(number(row.get('difference')) or 0))}, more than chance explains.")
    return f"{len(told)} of {len(headline)} pairs differ in accuracy by more than chance explains."


def _index(value: Any, runs: Sequence[Any]) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(runs) else None


def _signed(name: str, value: Any) -> str:
    x = number(value)
    if x is None:
        return formatting.MISSING
    sign = "+" if x > 0 else "\u2212" if x < 0 else ""
    return sign + (f"{100 * abs(x):.2f}\u202f%" if is_percentage(name) else decimal(abs(x)))


# -- charts --------------------------------------------------------------------------------------------------------


def _curves(record: dict[str, Any]) -> list[dict[str, Any]]:
    charts = []
    for curve in rows(record.get("curves")):
        name = str(curve.get("name"))
        lines = [[(x, y) for point in line if isinstance(point, list) and len(point) == 2
                  and (x := number(point[0])) is not None and (y := number(point[1])) is not None]
                 for line in curve.get("runs") or []]
        if any(lines):
            title = CURVES.get(name) or f"{metric_label(name)}, validation"
            charts.append({"title": title, "svg": overlay(title, lines, percentage=is_percentage(name))})
    return charts


def _robustness(record: dict[str, Any]) -> dict[str, Any] | None:
    """Accuracy under attack by distance, the runs in one chart; linf in grey levels."""
    found = mapping(record.get("robustness"))
    unit = 255 if found.get("norm") == "linf" else 1
    lines = [[(unit * x, y) for point in line if isinstance(point, list) and len(point) == 2
              and (x := number(point[0])) is not None and (y := number(point[1])) is not None]
             for line in found.get("runs") or [] if isinstance(line, list)]
    if not any(lines):
        return None
    attack, counts = str(found.get("attack")), [str(n) for n in found.get("counts") or [] if isinstance(n, int)]
    return {"sentence": f"Accuracy on {' and '.join(dict.fromkeys(counts))} test images when each may be moved so far "
                        f"by {attack}, as the reports measured it: no model is better than its curve, and may be "
                        "worse.",
            "svg": overlay(f"Accuracy by distance, {attack}", lines, percentage=True,
                           x_label=f"{found.get('norm')} distance" + (" in 255ths" if unit == 255 else ""))}


def overlay(title: str, lines: Sequence[Sequence[tuple[float, float]]], *, percentage: bool = False,
            x_label: str = "epoch") -> Markup:
    """A line for each run over the epochs, in its colour and dash. lines: (epoch, value), for at most eight runs."""
    xs, ys = [x for line in lines for x, _ in line], [y for line in lines for _, y in line]
    x_axis = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, _LEFT, _RIGHT)
    if not percentage and min(ys) > 0 and max(ys) / min(ys) > 50:
        y_axis = Axis(min(ys) / 1.2, max(ys) * 1.2, _BOTTOM, _TOP, log=True)
    else:
        y_axis = Axis(*domain(ys, floor=0.0 if min(ys) >= 0 else None, ceiling=1.0 if percentage else None), _BOTTOM,
                      _TOP)
    parts = [tag("title", title)]
    for value in y_axis.ticks():
        y = y_axis(value)
        parts += [tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y),
                  tag("text", f"{100 * value:g}%" if percentage else axis_number(value), class_="tick end",
                      x=_LEFT - 8, y=y + 4)]
    for value in x_axis.ticks(6, whole=x_axis.high - x_axis.low >= 1):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=_BOTTOM + 18))
    parts += [tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
              tag("text", x_label, class_="tick middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36)]
    for k, line in enumerate(lines):
        points = thin([(x, y) for x, y in line if not y_axis.log or y > 0])
        if not points:
            continue
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
        parts += [tag("polyline", class_=f"line r{k}", points=path, stroke_dasharray=DASHES[k] or None),
                  tag("circle", class_=f"dot r{k}", r=3, cx=x_axis(points[-1][0]), cy=y_axis(points[-1][1]))]
    return tag("svg", *parts, class_="visus-chart lines", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {WIDTH} {HEIGHT}")


def _classes(record: dict[str, Any]) -> dict[str, Any] | None:
    found = [row for row in rows(record.get("classes")) if (number(row.get("spread")) or 0) > 0]
    if not found:
        return None
    left = len(found) - MAX_CLASSES
    return {"svg": dumbbells(found[:MAX_CLASSES]),
            "left": f"{left} further classes differ less; the .json beside this page has them." if left > 0 else ""}


def dumbbells(classes: Sequence[dict[str, Any]]) -> Markup:
    """The recall of each class in each run, a row a class: dots in the runs' colours with a line between them."""
    step, left, right, top = 26, 150.0, 700.0, 30.0
    height = round(top + step * len(classes) + 40)
    values = [r for row in classes for r in map(number, row.get("recall") or []) if r is not None]
    low = max(0.0, min(values) - 0.05)
    axis = Axis(low, 1.0, left, right)
    parts = [tag("title", "Recall by class and run"), tag("text", "recall", class_="tick", x=left, y=14.0)]
    for value in axis.ticks(6):
        parts += [tag("line", class_="grid", x1=axis(value), x2=axis(value), y1=top - 6, y2=height - 34),
                  tag("text", f"{100 * value:g}%", class_="tick middle", x=axis(value), y=height - 16)]
    for place, row in enumerate(classes):
        y = top + step * (place + 0.5)
        recalls = [(k, r) for k, r in enumerate(map(number, row.get("recall") or [])) if r is not None]
        name = formatting.shorten(row.get("name"), 20)
        words = "; ".join(f"run {k + 1}: {r:.1%}" for k, r in recalls)
        at = [axis(r) for _, r in recalls]
        parts += [tag("text", name, class_="label end", x=left - 12, y=y + 4),
                  tag("line", class_="axis", x1=min(at), x2=max(at), y1=y, y2=y),
                  tag("g", tag("title", f"{name}, {formatting.integer(row.get('count'))} images: {words}"),
                      *(tag("circle", class_=f"dot r{k}", r=5, cx=axis(r), cy=y, fill_opacity=0.85)
                        for k, r in recalls))]
    return tag("svg", *parts, class_="visus-chart dumbbells", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 720 {height}")
