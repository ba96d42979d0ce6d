"""Optimizers on known surfaces, drawn as paths over contours, and in unit tests, as a table of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from visus import __version__
from visus.report import formatting
from visus.report.charts import Axis, axis_number, tag
from visus.report.compare import COLOURS, DASHES
from visus.report.contents import rows
from visus.report.contours import contour_path, even_levels
from visus.report.page import asset, page_style, policy, shell_command, template

WIDTH, HEIGHT = 360, 250
BOX = (40.0, 352.0, 222.0, 10.0)  # left, right, bottom, top
PER_CHART = 6  # paths that can be told apart


def render_surfaces(record: dict[str, Any], command: Sequence[str] = ()) -> str:
    """The page of `visus optimizers surfaces`: nothing else is needed, no file, no network."""
    style = f"{page_style()}\n{_style()}"
    surfaces = rows(record.get("surfaces"))
    near = 100 * float(record["near"])
    return template("optimizers.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, kind="surfaces",
        title=f"Optimizers on {len(surfaces)} surfaces",
        sentence=f"Every optimizer from the same start, {record['steps']} steps, at each of {len(record['rates'])} "
                 f"rates from {record['rates'][0]:g} to {record['rates'][-1]:g}; its best rate is drawn.",
        near=f"{near:g}", surfaces=[_surface(one) for one in surfaces], summary=_summary(surfaces), tests=None,
        command=shell_command(command))


def _style() -> str:
    light = "".join(f".r{k}{{--c:{colour}}}" for k, (colour, _) in enumerate(COLOURS))
    dark = "".join(f".r{k}{{--c:{colour}}}" for k, (_, colour) in enumerate(COLOURS))
    return f"{light}@media (prefers-color-scheme: dark){{{dark}}}{asset('optimizers.css')}"


def _surface(one: dict[str, Any]) -> dict[str, Any]:
    found = rows(one.get("rows"))
    charts = [{"svg": surface_chart(one, found[k:k + PER_CHART], contours=k == 0),
               "key": [{"swatch": _swatch(j), "label": row["label"], "rate": f"{row['rate']:g}"}
                       for j, row in enumerate(found[k:k + PER_CHART])]} for k in range(0, len(found), PER_CHART)]
    order = sorted(found, key=lambda row: (row["arrived"] is None, row["arrived"] or 0, _end(row)))
    return {"name": one["name"], "about": one["about"], "charts": charts,
            "rows": [{"label": row["label"], "rate": f"{row['rate']:g}", "distance": _percent(row["distance"]),
                      "arrived": formatting.MISSING if row["arrived"] is None else str(row["arrived"]),
                      "rates": str(row["rates_arrived"])} for row in order]}


def _summary(surfaces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Steps until arrival, optimizers in rows and surfaces in columns."""
    labels = [row["label"] for row in rows(surfaces[0].get("rows"))] if surfaces else []
    best = [min((row["arrived"] for row in one["rows"] if row["arrived"] is not None), default=None)
            for one in surfaces]
    table = []
    for place, label in enumerate(labels):
        arrived = [one["rows"][place]["arrived"] for one in surfaces]
        table.append({"label": label, "count": sum(steps is not None for steps in arrived), "cells": [
            {"text": formatting.MISSING if steps is None else str(steps), "best": steps is not None and steps == least}
            for steps, least in zip(arrived, best, strict=True)]})
    return {"columns": [one["name"] for one in surfaces], "rows": table}


def _end(row: dict[str, Any]) -> float:
    return float("inf") if row["distance"] is None else float(row["distance"])


def _percent(share: float | None) -> str:
    if share is None:
        return "left the numbers"
    return f"{100 * share:.3g}\u202f%" if share < 100 else "far away"


def _swatch(place: int) -> Markup:
    return tag("svg", tag("line", class_=f"line r{place}", x1=0, x2=26, y1=5, y2=5,
                          stroke_dasharray=DASHES[place] or None),
               class_="visus-chart swatch", viewBox="0 0 26 10", aria_hidden="true")


def surface_chart(surface: dict[str, Any], paths: Sequence[dict[str, Any]], *, contours: bool = True) -> Markup:
    """The paths over the surface's lines of equal height. contours: draw these lines; else use those of the chart of
    the same surface that stands before this one on the page."""
    left, right, bottom, top = BOX
    x0, x1, y0, y1 = surface["window"]
    x_axis, y_axis = Axis(x0, x1, left, right), Axis(y0, y1, bottom, top)
    heights = np.array(surface["heights"])
    name = surface["name"]
    parts = [tag("title", f"{name}: paths of {', '.join(row['label'] for row in paths)}")]
    if contours:
        lines = tag("path", id=f"heights-{name}", class_="height", d=contour_path(heights, even_levels(heights), BOX))
        frame = tag("rect", x=left, y=top, width=right - left, height=bottom - top)
        parts += [tag("clipPath", frame, id=f"window-{name}"), lines]
    else:
        parts.append(tag("use", href=f"#heights-{name}"))
    parts.append(tag("rect", class_="frame", x=left, y=top, width=right - left, height=bottom - top))
    for value in x_axis.ticks(5):
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=bottom + 16))
    for value in y_axis.ticks(4):
        parts.append(tag("text", axis_number(value), class_="tick end", x=left - 6, y=y_axis(value) + 4))
    drawn = []
    for place, row in enumerate(paths):
        points = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in _visible(row["path"], surface["window"]))
        drawn.append(tag("polyline", class_=f"line r{place}", points=points, stroke_dasharray=DASHES[place] or None))
        x, y = row["path"][-1]
        drawn.append(tag("circle", class_=f"dot r{place}", r=3.5, cx=x_axis(x), cy=y_axis(y)))
    parts.append(tag("g", *drawn, clip_path=f"url(#window-{name})"))
    for x, y in surface["minima"]:
        parts.append(tag("path", class_="minimum", d=f"M{x_axis(x) - 5:.1f} {y_axis(y):.1f}h10m-5-5v10"))
    x, y = surface["start"]
    parts.append(tag("circle", class_="begin", r=4, cx=x_axis(x), cy=y_axis(y)))
    return tag("svg", *parts, class_="visus-chart lines", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {WIDTH} {HEIGHT}")


def _visible(path: Sequence[Sequence[float]], window: Sequence[float]) -> list[tuple[float, float]]:
    """The path, points that lie outside of the window by more than its width drawn in to there."""
    x0, x1, y0, y1 = window
    wide, high = x1 - x0, y1 - y0
    return [(min(max(x, x0 - wide), x1 + wide), min(max(y, y0 - high), y1 + high)) for x, y in path]


VERDICTS = {"diverged": "diverged: beyond 1e10, or no number", "failing": "some repetitions diverged",
            "none": "at most a tenth of the best SGD's progress",
            "variable": "progress, but not in more than a quarter of the repetitions",
            "good": "progress in nearly all repetitions", "excellent": "more than twice the best SGD's progress"}
CELL_W, CELL_H, NAMES = 4.6, 11.0, 150.0  # px of a verdict, and of the names on the left


def render_tests(record: dict[str, Any], command: Sequence[str] = ()) -> str:
    """The page of `visus optimizers tests`."""
    style = f"{page_style()}\n{_style()}"
    tests, found = rows(record.get("tests")), rows(record.get("optimizers"))
    total = len(tests)
    return template("optimizers.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, kind="tests", near="",
        title=f"{len(found)} optimizer{'s' * (len(found) != 1)} in {total} unit tests",
        sentence="One difficulty each: a shape, a noise, a turn, a drift (Schaul, Antonoglou and Silver 2014). Passing "
                 "them does not make an optimizer good; failing one shows what it cannot do.",
        surfaces=[], summary=None, command=shell_command(command), tests={
            "about": f"A row for each rate of an optimizer, lowest first; a column for each test, those that want "
                     f"small rates first. {record['steps']} steps, {record['repetitions']} repetitions"
                     + (f" ({record['few']} and fewer rates for those whose descents run one by one)"
                        if record.get("few") else "") + ". Progress is measured against the best plain SGD.",
            "key": list(VERDICTS.items()), "svg": verdict_map(found, tests),
            "rows": [{"label": row["label"], "rate": f"{row['rate']:g}", "good": f"{row['good']} of {total}",
                      "diverged": str(row["diverged"]), "overall": f"{100 * row['overall']:.0f}\u202f%",
                      "solved": f"{row['solved']} of {total}"} for row in rows(record.get("summary"))],
            "list": [{"name": test["name"], "rate": f"{test['rate']:.2g}", "begin": f"{test['start']:.4g}",
                      "best": f"{test['best']:.4g}"} for test in tests]})


def verdict_map(found: Sequence[dict[str, Any]], tests: Sequence[dict[str, Any]]) -> Markup:
    """Colours of all verdicts: optimizers and their rates in rows, tests in columns."""
    width = round(NAMES + CELL_W * len(tests) + 10)
    parts, y = [tag("title", "Verdicts by optimizer, rate and test")], 6.0
    for one in found:
        parts.append(tag("text", one["label"], class_="label end", x=NAMES - 52, y=y + CELL_H - 2))
        for rate, verdicts in zip(one["rates"], one["verdicts"], strict=True):
            parts.append(tag("text", f"{rate:g}", class_="tick end", x=NAMES - 6, y=y + CELL_H - 2, font_size=9))
            place = 0
            while place < len(verdicts):  # neighbours of one colour in one mark
                end = place
                while end < len(verdicts) and verdicts[end] == verdicts[place]:
                    end += 1
                told = f"{one['label']}, rate {rate:g}: {verdicts[place]}: " + (
                    tests[place]["name"] if end == place + 1 else f"tests {place + 1} to {end}")
                parts.append(tag("rect", tag("title", told), class_=verdicts[place], x=NAMES + CELL_W * place, y=y,
                                 width=CELL_W * (end - place), height=CELL_H - 1))
                place = end
            y += CELL_H
        y += 5
    return tag("svg", *parts, class_="visus-chart tests", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {width} {round(y)}", style=f"max-width: {round(1.4 * width)}px")
