"""What an ensemble or a soup is made of and what it brings, as the page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus.report import charts, formatting
from visus.report.charts import Axis, domain, tag
from visus.report.contents import Contents, mapping, optional_text, rows
from visus.report.formatting import decimal, integer, is_percentage, metric_label, metric_text, number

SHOWN = ("nll", "brier", "ece", "hamming_loss", "subset_accuracy")  # beside the headline
OF = {"probs": "The mean of their probabilities answers.", "logits": "The mean of their logits answers.",
      "votes": "The class with the most votes is the answer; the mean probability decides between equals."}
MAX_MEMBERS = 60
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 370.0, 44.0, 220.0


def view(contents: Contents, record: dict[str, Any]) -> dict[str, Any] | None:
    """What assets/ensemble.html takes; None where the run is no ensemble. record: "ensemble" of metrics.json."""
    members, headline, evaluation = rows(record.get("members")), contents.headline, contents.evaluation
    if not members or headline is None or evaluation is None:
        return None
    soup = optional_text(record.get("soup"))
    names = [headline, *(name for name in SHOWN if name in evaluation.metrics and name != headline)]
    mean = mapping(record.get("mean"))
    whole = {name: metric.value for name, metric in evaluation.metrics.items()}
    body = [{"name": str(row.get("name") or ""), "detail": _detail(row, k == record.get("best"), soup),
             "val": metric_text(headline, row.get("val")),
             "cells": [metric_text(name, mapping(mapping(row.get("metrics")).get(name)).get("value"))
                       for name in names]}
            for k, row in enumerate(members[:MAX_MEMBERS])]
    last = [{"name": "Mean of the members", "detail": "", "ours": False,
             "cells": [metric_text(name, mapping(mean.get(name)).get("mean")) for name in names]},
            {"name": "The soup" if soup else "The ensemble", "detail": "", "ours": True,
             "cells": [metric_text(name, whole.get(name)) for name in names]}]
    reliability = mapping(record.get("reliability"))
    return {
        "sentence": _sentence(record, members, headline), "columns": [metric_label(name) for name in names],
        "members": body, "last": last, "left": _left(len(members)), "tests": _tests(record, members),
        "by_count": count_chart(headline, rows(record.get("by_count"))), "headline": metric_label(headline),
        "before": _diagram(reliability.get("members")), "after": _diagram(reliability.get("ensemble")),
        "ece": [decimal(mapping(reliability.get(key)).get("ece")) for key in ("members", "ensemble")],
        "pairs": _pairs(record, members), "disagreement": _disagreement(record), "tasted": _tasted(record, members,
                                                                                                  headline)}


def _detail(row: dict[str, Any], best: bool, soup: str | None) -> str:
    parts = [str(row.get("model") or ""), *(["best on validation"] if best else []),
             *(["left out"] if soup and row.get("used") is False else [])]
    return ", ".join(part for part in parts if part)


def _left(count: int) -> str:
    return f"{count - MAX_MEMBERS} further members are in metrics.json." if count > MAX_MEMBERS else ""


def _sentence(record: dict[str, Any], members: Sequence[dict[str, Any]], headline: str) -> str:
    """Where the members come from, what is averaged, and what is gained over the mean member."""
    how, soup = str(record.get("how") or ""), optional_text(record.get("soup"))
    made = OF.get(str(record.get("of")), "") if not soup else \
        f"The mean of the weights of {sum(row.get('used') is not False for row in members)} of them is one model."
    gained = mapping(record.get("over_mean"))
    name = next((n for n in (headline, "accuracy", "subset_accuracy") if n in gained), None)
    row = mapping(gained.get(name)) if name else {}
    value, low, high = (number(row.get(key)) for key in ("value", "low", "high"))
    if value is None or low is None or high is None or name is None:
        return f"Of {how}. {made}"
    verdict = "more than chance explains" if low > 0 or high < 0 else "which chance may explain"
    return (f"Of {how}. {made} {metric_label(name)} {_signed(name, value)} against the mean member (95 % interval "
            f"{_signed(name, low)} to {_signed(name, high)}), {verdict}.")


def _signed(name: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if is_percentage(name) else f"{value:+.4f}"


def _tests(record: dict[str, Any], members: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The paired tests against the member that is best on validation."""
    found, best = rows(record.get("over_best")), record.get("best")
    if not found or not isinstance(best, int) or not 0 <= best < len(members):
        return None
    table = []
    for row in found:
        name = str(row.get("metric"))
        value, low, high = (number(row.get(key)) for key in ("difference", "low", "high"))
        if value is None or low is None or high is None:
            continue
        verdict = "no difference seen" if row.get("better") is None else \
            "better" if row.get("better") == row.get("second") else "worse"
        table.append([metric_label(name), _signed(name, value), f"{_signed(name, low)} to {_signed(name, high)}",
                      decimal(row.get("p")), decimal(row.get("adjusted")), verdict])
    return {"name": str(members[best].get("name") or ""), "rows": table}


def _disagreement(record: dict[str, Any]) -> str:
    share, information = number(record.get("disagreement")), number(record.get("mutual_information"))
    if share is None:
        return ""
    words = f"Two members drawn at random differ on {100 * share:.1f}\u202f% of the test images"
    return words + (f"; what they do not agree on is {information:.4f} nats an image (mutual information of answer and "
                    "member)." if information is not None else ".")


def _pairs(record: dict[str, Any], members: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The share of images on which each two members differ, for up to twelve."""
    table = record.get("pairs")
    if not isinstance(table, list) or not 2 < len(members) <= 12 or len(table) != len(members):
        return None
    names = [formatting.shorten(str(row.get("name") or ""), 16) for row in members]
    return {"names": names, "rows": [[names[k], *(
        "" if k == j else f"{100 * share:.1f}\u202f%" if (share := number(value)) is not None else formatting.MISSING
        for j, value in enumerate(row))] for k, row in enumerate(table) if isinstance(row, list)]}


def _tasted(record: dict[str, Any], members: Sequence[dict[str, Any]], headline: str) -> list[list[str]]:
    """The steps of a greedy soup."""
    table = []
    for row in rows(record.get("tasted")):
        k = row.get("ingredient")
        if isinstance(k, int) and 0 <= k < len(members):
            table.append([str(members[k].get("name") or ""), metric_text(headline, row.get("value")),
                          "stays in" if row.get("kept") else "left out"])
    return table


def _diagram(record: Any) -> Markup | None:
    bins = rows(mapping(record).get("bins"))
    return charts.reliability_diagram(bins) if bins else None


def count_chart(name: str, found: Sequence[dict[str, Any]]) -> Markup | None:
    """The headline metric by number of members: the mean over all choices, and from the worst choice to the best."""
    points = [(n, mean, low, high, integer(row.get("subsets"))) for row in found
              if (n := number(row.get("members"))) is not None and (mean := number(row.get("mean"))) is not None
              and (low := number(row.get("low"))) is not None and (high := number(row.get("high"))) is not None]
    if len(points) < 2:
        return None
    percent = is_percentage(name)
    x_axis = Axis(points[0][0] - 0.3, points[-1][0] + 0.3, _LEFT, _RIGHT)
    y_axis = Axis(*domain([v for _, *three, _ in points for v in three], ceiling=1.0 if percent else None), _BOTTOM,
                  _TOP)
    parts = [tag("title", f"{metric_label(name)} by number of members")]
    for tick in y_axis.ticks():
        parts += [tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y_axis(tick), y2=y_axis(tick)),
                  tag("text", f"{100 * tick:g}%" if percent else decimal(tick), class_="tick end", x=_LEFT - 8,
                      y=y_axis(tick) + 4)]
    for tick in x_axis.ticks(8, whole=True):
        parts.append(tag("text", f"{tick:g}", class_="tick middle", x=x_axis(tick), y=_BOTTOM + 18))
    parts += [tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
              tag("text", "members", class_="tick middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36),
              tag("polyline", class_="line train",
                  points=" ".join(f"{x_axis(n):.1f},{y_axis(mean):.1f}" for n, mean, *_ in points))]
    for n, mean, low, high, subsets in points:
        words = (f"{n:g} members, {subsets} choices: {metric_text(name, mean)} in the mean, {metric_text(name, low)} "
                 f"to {metric_text(name, high)}")
        parts.append(tag("g", tag("title", words),
                         tag("line", class_="axis", x1=x_axis(n), x2=x_axis(n), y1=y_axis(low), y2=y_axis(high)),
                         tag("circle", class_="dot", r=4, cx=x_axis(n), cy=y_axis(mean))))
    return tag("svg", *parts, class_="visus-chart lines", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 {charts.LINE_WIDTH} {charts.LINE_HEIGHT}")
