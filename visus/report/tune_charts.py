"""The charts of a search: its history, all trials as lines through their values, field by field, importances, curves.

Parallel coordinates: Inselberg, The Visual Computer 1985. A line for each trial, darker the better its score; pruned
trials are dashed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus.report.charts import Axis, axis_number, domain, tag, text_width, thin
from visus.report.contents import mapping
from visus.report.formatting import is_percentage, metric_label, metric_text, number, shorten

MAX_LINES = 400  # trials that are drawn; the best of them
LEVELS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 370.0, 14.0, 190.0


def value_text(value: Any) -> str:
    x = number(value)
    return shorten(value, 48) if x is None else str(int(x)) if isinstance(value, int) else f"{x:.4g}"


def scored(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in trials if number(row.get("value")) is not None]


def figure(value: Any) -> float | None:
    """A number, also where it is written as the label of a choice."""
    try:
        return number(float(value)) if isinstance(value, str) else number(value)
    except ValueError:
        return None


def _frame(title: str, x_axis: Axis, y_axis: Axis, x_label: str, percentage: bool, whole: bool = False) -> list[Markup]:
    parts = [tag("title", title)]
    for value in y_axis.ticks():
        y = y_axis(value)
        parts += [tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y),
                  tag("text", f"{100 * value:g}%" if percentage else axis_number(value), class_="tick end",
                      x=_LEFT - 8, y=y + 4)]
    ticks = x_axis.ticks(5, whole=whole)
    if x_axis.log and len(ticks) > 5:
        ticks = [v for v in ticks if f"{v:e}".startswith("1.000000e")]
    for value in ticks:
        parts.append(tag("text", axis_number(value), class_="tick middle", x=x_axis(value), y=_BOTTOM + 18))
    return [*parts, tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
            tag("text", x_label, class_="tick middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36)]


def _svg(parts: Sequence[Markup]) -> Markup:
    return tag("svg", *parts, class_="visus-chart lines", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox="0 0 380 232")


def _score_axis(trials: Sequence[dict[str, Any]], headline: str) -> Axis:
    ys = [v for row in trials if (v := number(row.get("value"))) is not None]
    return Axis(*domain(ys, ceiling=1.0 if is_percentage(headline) else None), _BOTTOM, _TOP)


def history_chart(trials: Sequence[dict[str, Any]], headline: str, maximise: bool) -> Markup:
    """Each trial's score in the order in which they were begun, and the best so far as a stair."""
    scored = [(k, row) for k, row in enumerate(trials, 1) if number(row.get("value")) is not None]
    x_axis = Axis(0.5, max(len(trials), 1) + 0.5, _LEFT, _RIGHT)
    y_axis = _score_axis(trials, headline)
    parts = _frame("Score by trial", x_axis, y_axis, "trial", is_percentage(headline), whole=True)
    stair: list[tuple[float, float]] = []
    best: float | None = None
    for k, row in scored:
        value = float(row["value"])
        if row.get("status") == "complete" and (best is None or (value > best) == maximise and value != best):
            if best is not None:
                stair.append((k, best))
            best = value
            stair.append((k, best))
        parts.append(_dot(row, x_axis(k), y_axis(value), headline))
    if best is not None:
        stair.append((len(trials) + 0.5, best))
        parts.append(tag("polyline", class_="line val", points=" ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}"
                                                                        for x, y in stair)))
    return _svg(parts)


def _dot(row: dict[str, Any], x: float, y: float, headline: str, top: bool = False) -> Markup:
    words = "; ".join(f"{name} {value_text(value)}" for name, value in mapping(row.get("values")).items())
    kind = "dot top" if top else "dot pruned" if row.get("status") == "pruned" else "dot"
    return tag("circle", tag("title", f"trial {row.get('stage')}-{row.get('number')}, {row.get('status')}: "
                                      f"{metric_text(headline, row.get('value'))}; {words}"),
               class_=kind, r=5 if top else 3.2, cx=x, cy=y)


def _dimension_axis(d: dict[str, Any], start: float, end: float) -> Axis:
    low, high = number(d.get("low")) or 0.0, number(d.get("high")) or 1.0
    return Axis(low, high if high > low else low + 1, start, end, log=d.get("kind") in ("log", "logint") and low > 0)


def _place(d: dict[str, Any], value: Any, axis: Axis | None, start: float, end: float) -> float | None:
    """The pixel of a value; None where it lies nowhere."""
    if axis is None:
        labels = [str(label) for label in d.get("labels") or []]
        if str(value) not in labels:
            return None
        return start + (labels.index(str(value)) + 0.5) / len(labels) * (end - start)
    x = figure(value)
    return None if x is None or (axis.log and x <= 0) else axis(x)


def slice_chart(d: dict[str, Any], trials: Sequence[dict[str, Any]], headline: str, best: dict[str, Any]) -> Markup:
    """The score of each trial over one dimension; trials that diverged or failed are crosses at the bottom."""
    name, choice = str(d.get("name")), d.get("kind") == "choice"
    axis = None if choice else _dimension_axis(d, _LEFT + 8, _RIGHT - 8)
    y_axis = _score_axis(trials, headline)
    parts = _frame(f"{metric_label(headline)} by {name}", axis or Axis(0, 1, _LEFT, _RIGHT), y_axis, shorten(name, 40),
                   is_percentage(headline)) if not choice else \
        [p for p in _frame(f"{metric_label(headline)} by {name}", Axis(2, 3, _LEFT, _LEFT), y_axis, shorten(name, 40),
                           is_percentage(headline)) if "tick middle" not in p or name[:8] in p]
    if choice:
        labels = [str(label) for label in d.get("labels") or []]
        for k, label in enumerate(labels):
            parts.append(tag("text", shorten(label, max(4, 44 // len(labels))), class_="tick middle",
                             x=_LEFT + (k + 0.5) / len(labels) * (_RIGHT - _LEFT), y=_BOTTOM + 18))
    top: list[Markup] = []
    for row in trials:
        x = _place(d, mapping(row.get("values")).get(name), axis, _LEFT, _RIGHT)
        if x is None:
            continue
        value = number(row.get("value"))
        if value is None:
            if row.get("status") in ("diverged", "failed"):
                parts.append(tag("circle", tag("title", f"trial {row.get('stage')}-{row.get('number')}: "
                                               f"{row.get('problem')}"), class_="dot cross", r=3, cx=x, cy=_BOTTOM - 4))
            continue
        if (row.get("stage"), row.get("number")) == (best.get("stage"), best.get("number")):
            top.append(_dot(row, x, y_axis(value), headline, top=True))
        else:
            parts.append(_dot(row, x, y_axis(value), headline))
    return _svg([*parts, *top])


def parallel_chart(trials: Sequence[dict[str, Any]], space: Sequence[dict[str, Any]], headline: str,
                   record: dict[str, Any]) -> Markup:
    """An upright axis for each dimension and one for the score; a line for each trial through its values."""
    left, right, top, bottom = 60.0, 880.0, 44.0, 300.0
    worst_first = sorted(scored(trials), key=lambda row: float(row["value"]), reverse=record.get("maximise") is False)
    drawn = worst_first[-MAX_LINES:]
    step = (right - left) / len(space)
    axes: list[tuple[dict[str, Any], Axis | None]] = [
        (d, None if d.get("kind") == "choice" else _dimension_axis(d, bottom, top)) for d in space]
    values = [float(row["value"]) for row in drawn]
    score = Axis(*domain(values, ceiling=1.0 if is_percentage(headline) else None), bottom, top)
    parts = [tag("title", "Each trial as a line through its values")]
    best = mapping(record.get("best"))
    ranks = {id(row): k for k, row in enumerate(drawn)}
    for row in drawn:
        at = [(left + k * step, _place(d, mapping(row.get("values")).get(str(d.get("name"))), axis, bottom, top))
              for k, (d, axis) in enumerate(axes)]
        points = [(x, y) for x, y in at if y is not None] + [(right, score(float(row["value"])))]
        is_best = (row.get("stage"), row.get("number")) == (best.get("stage"), best.get("number"))
        level = 1 + math.floor(LEVELS * ranks[id(row)] / max(1, len(drawn)))
        kind = "best" if is_best else f"t{min(LEVELS, level)}" + (" pruned" if row.get("status") == "pruned" else "")
        parts.append(tag("polyline", tag("title", f"trial {row.get('stage')}-{row.get('number')}: "
                                         f"{metric_text(headline, row.get('value'))}"), class_=f"trial {kind}",
                         points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
    for k, (d, axis) in enumerate(axes):
        x = left + k * step
        name = str(d.get("name")).rpartition(".")[2] if len(space) > 4 else str(d.get("name"))
        parts += [tag("line", class_="axis", x1=x, x2=x, y1=top, y2=bottom),
                  tag("text", shorten(name, max(8, int(step / 7))), class_="label middle", x=x, y=20 + 13 * (k % 2))]
        if axis is None:
            labels = [str(label) for label in d.get("labels") or []]
            marks = [(bottom + (n + 0.5) / len(labels) * (top - bottom), shorten(label, 14))
                     for n, label in enumerate(labels)]
        else:
            marks = [(axis(v), axis_number(v)) for v in axis.ticks(4)]
        parts += [tag("text", text, class_="tick end", x=x - 6, y=y + 4) for y, text in marks]
    parts += [tag("line", class_="axis", x1=right, x2=right, y1=top, y2=bottom),
              tag("text", shorten(metric_label(headline), 22), class_="label middle", x=right, y=20)]
    parts += [tag("text", f"{100 * v:g}%" if is_percentage(headline) else axis_number(v), class_="tick", x=right + 7,
                  y=score(v) + 4) for v in score.ticks(5)]
    return tag("svg", *parts, class_="visus-chart parallel", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 940 {round(bottom + 18)}")


def importance_chart(shares: dict[str, Any]) -> Markup:
    """A bar for each dimension: the share of the score's variance that it explains alone."""
    found = sorted(((name, v) for name, value in shares.items() if (v := number(value)) is not None),
                   key=lambda pair: -pair[1])
    left = max([90.0, *(text_width(shorten(name, 34)) + 16 for name, _ in found)])
    step, width = 26, 560.0
    parts = [tag("title", "Importance of each dimension")]
    for k, (name, share) in enumerate(found):
        y = 6 + k * step
        parts += [tag("text", shorten(name, 34), class_="label end", x=left - 10, y=y + 14),
                  tag("rect", class_="track", x=left, y=y, width=width - left, height=16.0),
                  tag("rect", class_="bar", x=left, y=y, width=max(0.0, min(1.0, share)) * (width - left), height=16.0),
                  tag("text", f"{100 * share:.0f}\u202f%", class_="tick", x=width + 8, y=y + 13)]
    return tag("svg", *parts, class_="visus-chart importance", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 620 {12 + step * len(found)}")


def curve_charts(trials: Sequence[dict[str, Any]], headline: str, best: dict[str, Any]) -> list[dict[str, Any]]:
    """Validation loss and headline by epoch of the trials of the last stage, and both losses of the best."""
    last = max((int(number(row.get("stage")) or 0) for row in trials), default=0)
    found = []
    for column, title in ((1, "Validation loss by epoch"), (2, f"{metric_label(headline)} by epoch, validation")):
        lines = []
        for row in trials:
            if row.get("stage") != last:
                continue
            points = [(float(k), y) for k, one in enumerate(row.get("curve") or [], 1)
                      if isinstance(one, list) and len(one) == 3 and (y := number(one[column])) is not None]
            is_best = (row.get("stage"), row.get("number")) == (best.get("stage"), best.get("number"))
            if len(points) > 1:
                lines.append(("best" if is_best else "", points))
        if lines:
            lines.sort(key=lambda line: line[0] == "best")
            found.append({"title": title,
                          "svg": curve_chart(title, lines, "epoch", column == 2 and is_percentage(headline))})
    whole = [one for one in best.get("curve") or [] if isinstance(one, list) and len(one) == 3]
    both = [(name, [(float(k), y) for k, one in enumerate(whole, 1) if (y := number(one[column])) is not None])
            for column, name in ((0, "training"), (1, "validation"))]
    if all(len(line) > 1 for _, line in both):
        title = "Losses of the best trial"
        found.append({"title": title, "svg": curve_chart(title, both, "epoch", False)})
    return found


def curve_chart(title: str, lines: Sequence[tuple[str, list[tuple[float, float]]]], x_label: str,
                percentage: bool) -> Markup:
    """Lines over a common x; named ones stand out and have a legend."""
    xs, ys = [x for _, line in lines for x, _ in line], [y for _, line in lines for _, y in line]
    x_axis = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, _LEFT, _RIGHT)
    if not percentage and min(ys) > 0 and max(ys) / min(ys) > 50:
        y_axis = Axis(min(ys) / 1.2, max(ys) * 1.2, _BOTTOM, _TOP + 14, log=True)
    else:
        y_axis = Axis(*domain(ys, ceiling=1.0 if percentage else None), _BOTTOM, _TOP + 14)
    parts = _frame(title, x_axis, y_axis, x_label, percentage, whole=True)
    at, kinds = _LEFT, ["t6", "best", "t3", "t1"]
    named = [name for name, _ in lines if name and name != "best"]
    for name, line in lines:
        kind = "best" if name == "best" else kinds[named.index(name) % 4] if name else "t4"
        parts.append(tag("polyline", class_=f"trial {kind}", points=" ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}"
                                                                            for x, y in thin(line))))
        if name:
            parts += [tag("line", class_=f"trial {kind}", x1=at, x2=at + 16, y1=10, y2=10),
                      tag("text", name, class_="label", x=at + 21, y=14)]
            at += 30 + text_width(name)
    return _svg(parts)
