"""The page of a cross-validation: each fold and their mean, the pooled answers of the held out images, and what the
spread says. Nothing is computed here that run/joined.py has not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.core.record import Metric, RunFolder
from visus.report import formatting, thumbnails
from visus.report.charts import Axis, domain, tag
from visus.report.contents import Contents, mapping, optional_text, read_contents, rows, texts
from visus.report.formatting import decimal, integer, is_percentage, metric_label, metric_text, number, plural
from visus.report.page import (
    MAX_RECIPE,
    asset,
    classes_view,
    confusion_data,
    confusion_view,
    data_view,
    embedded_json,
    examples_view,
    interval_text,
    page_names,
    page_style,
    policy,
    reliability_view,
    shell_command,
    status_view,
    template,
)

MAX_FOLDS = 60  # rows of the chart and the table
SHOWN = ("balanced_accuracy", "macro_f1", "micro_f1", "nll", "ece", "hamming_loss")  # beside the headline, by fold
MAX_DOUBTFUL = 40
_SECTIONS = (("folds", "Folds"), ("test", "Test"), ("confusion", "Confusion"), ("classes", "Classes"),
             ("calibration", "Calibration"), ("examples", "Images"), ("labels", "Labels"), ("findings", "Leaks"),
             ("data", "Data"), ("reproduce", "Reproduce"))


def render_folds(run: RunFolder) -> str:
    """The page's text: it needs nothing else but for the links to the folds' own pages. Raises RunError naming a file
    that cannot be read."""
    contents = read_contents(run)
    record = mapping(mapping(run.read("metrics.json")).get("cross_validation"))
    evaluation = contents.evaluation
    model, dataset = page_names(contents)
    style, script = page_style() + "\n" + _STYLE, asset("page.js")
    confusion = confusion_view(evaluation)
    for_script: dict[str, Any] = {}
    if confusion and confusion["svg"] and evaluation and evaluation.confusion:
        for_script["confusion"] = confusion_data(evaluation.confusion)
    folds = rows(record.get("runs"))
    view: dict[str, Any] = {
        "policy": policy(style, script), "style": Markup(style), "script": Markup(script),
        "chart_data": embedded_json(for_script), "version": __version__, "model": model, "dataset": dataset,
        "title": f"{formatting.shorten(f'{model} on {dataset}' if dataset else model, 80)}, "
                 f"{_kind(contents, record)} \u2013 Visus report",
        "status": status_view(contents), "kind": _kind(contents, record),
        "created": (optional_text(contents.about.get("created")) or "")[:16].replace("T", " "),
        "notice": _notice(contents, run), "hero": _hero(contents, record), "facts": _facts(contents, record),
        "folds": _folds(contents, record, folds), "test": _test(contents, record),
        "confusion": confusion, "classes": classes_view(evaluation), "reliability": reliability_view(evaluation),
        "mistakes": examples_view(run, evaluation.mistakes) if evaluation else [],
        "hits": examples_view(run, evaluation.hits) if evaluation else [],
        "labels": _labels(run, record), "findings": contents.findings, "data": data_view(contents),
        "command": shell_command(texts(contents.about.get("command"))),
        "started_with": shell_command(texts(contents.about.get("started_with"))),
        "recipe": formatting.legible_lines(contents.recipe[:MAX_RECIPE]),
        "folder": run.path.name or str(run.path)}
    present = {"examples": view["mistakes"] or view["hits"], "calibration": view["reliability"],
               **{name: view[name] for name in ("folds", "test", "confusion", "classes", "labels", "findings")}}
    view["sections"] = [(id_, text) for id_, text in _SECTIONS if present.get(id_, True)]
    return template("folds.html").render(view)


_STYLE = (".fold-chart{width:100%;max-width:760px}.fold-chart .reach{stroke:var(--rule);stroke-width:2}"
          ".fold-chart .band{fill:var(--faint);opacity:.35}.fold-chart .mean{stroke:var(--model);stroke-width:1.5}"
          "tbody.joined>tr:first-child>*{border-top:2px solid var(--line)}.doubt img{width:44px;height:44px;"
          "object-fit:contain;border-radius:6px;background:var(--sunken);vertical-align:middle}"
          ".by-fold th[scope=row]{min-width:min(250px,38vw)}.doubt img.pixels{image-rendering:pixelated}")


def _kind(contents: Contents, record: dict[str, Any]) -> str:
    folds = record.get("folds") or mapping(contents.settings.get("data")).get("folds")
    if folds == "groups":
        return f"leaving each of {contents.about.get('folds')} groups out"
    repeats = number(record.get("repeats")) or 1
    return f"{folds}-fold cross-validation" + (f", {repeats:g} times" if repeats > 1 else "")


def _notice(contents: Contents, run: RunFolder) -> dict[str, str] | None:
    if contents.about.get("status") == "finished":
        return None
    return {"text": "Not all folds are trained. It goes on with",
            "command": shell_command(["visus", "train", "--resume", str(run.path)])}


def _hero(contents: Contents, record: dict[str, Any]) -> dict[str, str] | None:
    name = contents.headline
    one = mapping(mapping(record.get("summary")).get(name)) if name else {}
    if not one or name is None:
        return None
    count = len(rows(record.get("runs")))
    return {"label": f"{metric_label(name)}, mean of {plural(count, 'fold')}", "value": metric_text(name, one["mean"]),
            "interval": f"\u00b1 {metric_text(name, one.get('std'))} standard deviation",
            "split": f"95 % interval of the mean {_between(name, one.get('low'), one.get('high'))}"}


def _facts(contents: Contents, record: dict[str, Any]) -> list[dict[str, str]]:
    name, found = contents.headline, []

    def add(label: str, value: str, detail: str = "") -> None:
        if value != formatting.MISSING:
            found.append({"label": label, "value": value, "detail": detail})

    for split, words in (("held-out", "all held out images pooled"), ("test", "models averaged, test split")):
        evaluation = contents.evaluations.get(split)
        if evaluation is not None and name in evaluation.metrics:
            metric = evaluation.metrics[name]
            add(f"{metric_label(name)}, {words}", metric_text(name, metric.value), interval_text(name, metric))
    add("Trainings", integer(len(rows(record.get("runs")))))
    add("Training time", formatting.duration(contents.about.get("seconds")), "all folds together")
    add("Parameters", formatting.magnitude(contents.about.get("parameters")), "of each model")
    doubtful = mapping(record.get("label_errors"))
    if doubtful:
        add("Doubtful labels", integer(doubtful.get("count")), "by models that had not seen them")
    return found or [{"label": "Numbers", "value": "none yet", "detail": "no fold is measured so far"}]


def _folds(contents: Contents, record: dict[str, Any], folds: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The chart, the table by fold with its mean, and the sentence."""
    summary, headline = mapping(record.get("summary")), contents.headline
    if not folds or headline is None or headline not in summary:
        return None
    names = [headline, *(name for name in SHOWN if name in summary and name != headline)]
    body = []
    for k, row in enumerate(folds[:MAX_FOLDS], 1):
        metrics = mapping(row.get("metrics"))
        body.append({"name": f"Fold {k}", "link": f"fold-{k}/report.html",
                     "detail": f"{integer(row.get('held_out'))} held out, best epoch {integer(row.get('best_epoch'))}",
                     "cells": [metric_text(name, mapping(metrics.get(name)).get("value")) for name in names]})
    means = [
        {"name": "Mean", "detail": "", "cells": [metric_text(n, mapping(summary[n]).get("mean")) for n in names]},
        {"name": "Standard deviation", "detail": "between folds",
         "cells": [metric_text(n, mapping(summary[n]).get("std")) for n in names]},
        {"name": "95 % interval of the mean", "detail": "t, as if the folds were independent",
         "cells": [_between(n, mapping(summary[n]).get("low"), mapping(summary[n]).get("high")) for n in names]},
        {"name": "the same, corrected", "detail": "their training images overlap (Nadeau, Bengio 2003)",
         "cells": [_between(n, mapping(summary[n]).get("corrected_low"), mapping(summary[n]).get("corrected_high"))
                   for n in names]}]
    left = len(folds) - MAX_FOLDS
    return {"columns": [metric_label(name) for name in names], "rows": body, "means": means,
            "svg": fold_chart(headline, folds[:MAX_FOLDS], mapping(summary[headline])),
            "title": metric_label(headline), "sentence": _spread_sentence(mapping(record.get("spread"))),
            "left": f"{left} further folds are in metrics.json." if left > 0 else ""}


def _spread_sentence(spread: dict[str, Any]) -> str:
    """What the spread between folds says, beside what shuffling the same answers over the folds would give."""
    std, chance, p = (number(spread.get(name)) for name in ("std", "chance_std", "p"))
    if std is None or chance is None or p is None:
        return ""
    numbers = (f"The folds' accuracies have a standard deviation of {100 * std:.2f} points; dealing the same right and "
               f"wrong answers over the folds at random gives {100 * chance:.2f} (p {p:.3f}). ")
    if p < 0.05:
        return numbers + ("The folds differ by more than that: look at the worst one, and for groups or sources that "
                          "lie unevenly in the folds. A single split would have been a matter of luck.")
    return numbers + ("The folds differ no more than the number of images in each explains: another division would say "
                      "about the same, and only more images make the number surer.")


def _test(contents: Contents, record: dict[str, Any]) -> dict[str, Any] | None:
    """The test split that the data give: single models and their averaged answer."""
    evaluation, summary = contents.evaluations.get("test"), mapping(record.get("test_summary"))
    if evaluation is None:
        return None
    names = sorted(evaluation.metrics, key=lambda name: name != contents.headline)
    table = []
    for name in names:
        one, metric = mapping(summary.get(name)), evaluation.metrics.get(name, Metric(None))
        single = "" if not one else f"{metric_text(name, one.get('mean'))} \u00b1 {metric_text(name, one.get('std'))}"
        table.append({"label": metric_label(name), "headline": name == contents.headline,
                      "single": single or formatting.MISSING, "value": metric_text(name, metric.value),
                      "interval": interval_text(name, metric)})
    return {"rows": table, "sentence": f"{plural(evaluation.count, 'image')} that no fold has seen. Left, each fold's "
            "model alone: mean and standard deviation. Right, the mean of their probabilities, as visus predict on "
            "this folder gives it."}


def _labels(run: RunFolder, record: dict[str, Any]) -> dict[str, Any] | None:
    doubtful = mapping(record.get("label_errors"))
    found = rows(doubtful.get("rows"))
    if not found:
        return None
    table = []
    for row in found[:MAX_DOUBTFUL]:
        uri = thumbnails.data_uri(run.path, str(row["image"])) if row.get("image") else None
        table.append({"uri": uri, "small": uri is not None and thumbnails.is_small(uri),
                      "source": str(row.get("source") or ""), "label": str(row.get("label") or ""),
                      "instead": str(row.get("instead") or ""), "margin": decimal(row.get("margin"))})
    count = int(number(doubtful.get("count")) or len(found))
    left = f" The {MAX_DOUBTFUL} surest of {count:,} are shown; metrics.json has more." if count > MAX_DOUBTFUL else ""
    return {"rows": table, "sentence": "Each image was judged by a model that had not seen it. A label is doubtful "
            "where another class reaches the confidence that its own images usually have (confident learning). Some "
            f"are hard images with right labels: look before you change one.{left}"}


def _between(name: str, low: Any, high: Any) -> str:
    a, b = number(low), number(high)
    if a is None or b is None:
        return formatting.MISSING
    if is_percentage(name):  # the interval of a mean knows no bounds
        return f"{100 * max(a, 0.0):.2f} to {100 * min(b, 1.0):.2f}\u202f%"
    return f"{decimal(a)} to {decimal(b)}"


def fold_chart(name: str, folds: Sequence[dict[str, Any]], summary: dict[str, Any]) -> Markup:
    """A row for each fold: its value with its bootstrap interval; the mean of all with one standard deviation."""
    values = []
    for k, row in enumerate(folds, 1):
        metric = mapping(mapping(row.get("metrics")).get(name))
        value = number(metric.get("value"))
        if value is not None:
            values.append((k, value, number(metric.get("low")), number(metric.get("high"))))
    mean, std = number(summary.get("mean")) or 0.0, number(summary.get("std")) or 0.0
    ends = [mean - std, mean + std, *(x for _, *one in values for x in one if x is not None)]
    percent = is_percentage(name)
    axis = Axis(*domain(ends, ceiling=1.0 if percent else None), 58.0, 546.0)
    step, top = (26, 12.0) if len(values) <= 20 else (14, 12.0)
    bottom = top + step * len(values)
    parts = [tag("title", f"{metric_label(name)} by fold"),
             tag("rect", class_="band", x=axis(mean - std), y=top,
                 width=min(axis(mean + std), axis.end) - axis(mean - std), height=bottom - top)]
    for tick in axis.ticks(7):
        parts += [tag("line", class_="grid", x1=axis(tick), x2=axis(tick), y1=top, y2=bottom),
                  tag("text", f"{100 * tick:g}%" if percent else decimal(tick), class_="tick middle", x=axis(tick),
                      y=bottom + 18)]
    parts.append(tag("line", class_="mean", x1=axis(mean), x2=axis(mean), y1=top, y2=bottom))
    for place, (k, value, low, high) in enumerate(values):
        y = top + step * (place + 0.5)
        words = f"fold {k}: {metric_text(name, value)}" + ("" if low is None else f" ({_between(name, low, high)})")
        reach = [] if low is None or high is None else [tag("line", class_="reach", x1=axis(low), x2=axis(high), y1=y,
                                                            y2=y)]
        if step > 20 or place % 5 == 0:
            parts.append(tag("text", f"fold {k}", class_="tick end", x=48.0, y=y + 4))
        parts.append(tag("g", tag("title", words), *reach, tag("circle", class_="dot", r=5 if step > 20 else 3,
                                                              cx=axis(value), cy=y)))
    return tag("svg", *parts, class_="visus-chart fold-chart", xmlns="http://www.w3.org/2000/svg", role="img",
               viewBox=f"0 0 564 {round(bottom + 28)}")


