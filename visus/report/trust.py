"""What run/trust.py recorded, put into words for the page: explanations, robustness, embedding, what was left out."""

from __future__ import annotations

import math
from typing import Any

from visus.core.record import RunFolder
from visus.report import charts, formatting, thumbnails
from visus.report.calibration import reliability_charts, risk_coverage_chart
from visus.report.contents import mapping, optional_text, rows, texts
from visus.report.embedding_chart import embedding_chart
from visus.report.formatting import number

MAX_EXPLAINED = 24
TITLES = {"calibration": "Calibration in detail", "explanations": "What it looked at",
          "robustness": "How easily it breaks", "embedding": "The images as the model sees them"}
MEASURES = {"accuracy": "Accuracy", "nll": "Negative log-likelihood", "brier": "Brier score", "ece": "ECE",
            "adaptive_ece": "Adaptive ECE", "classwise_ece": "Classwise ECE"}
GAPS = {"accuracy_gap": "accuracy", "selection_gap": "how often a class is answered", "recall_gap": "recall of a class"}
AVERAGED = {"accuracy": "accuracy", "nll": "NLL", "brier": "Brier", "ece": "ECE"}
SCORES = {"max_softmax": "largest probability", "max_logit": "largest logit", "energy": "energy",
          "mahalanobis": "Mahalanobis", "knn": "nearest neighbours"}


def view(run: RunFolder, record: dict[str, Any], calibration: dict[str, Any]) -> dict[str, Any]:
    """What the page's template takes: "explanations", "robustness", "embedding", "calibrated" (None where nothing was
    recorded) and "trust_left_out". record: trust.json. calibration: calibration/results.json."""
    sections = mapping(record.get("sections"))
    return {"calibrated": _calibrated(run, calibration),
            "explanations": _explanations(run, mapping(sections.get("explanations"))),
            "robustness": _robustness(mapping(sections.get("robustness"))),
            "embedding": _embedding(run, mapping(sections.get("embedding"))),
            "trust_left_out": [{"section": TITLES.get(str(row.get("section")), str(row.get("section"))),
                                "why": str(row.get("why") or ""), "command": _command(row)}
                               for row in rows(record.get("left_out"))]}


def _command(row: dict[str, Any]) -> str:
    from visus.report.page import shell_command

    return shell_command(texts(row.get("command")))


def _calibrated(run: RunFolder, record: dict[str, Any]) -> dict[str, Any] | None:
    """What `visus calibrate` measured, as charts and tables of texts."""
    from visus.report.page import shell_command

    before, after = mapping(record.get("before")), mapping(record.get("after"))
    if not before:
        return None
    tables = [{"title": "On test images", "columns": ["", "as trained", *(["calibrated"] if after else [])],
               "rows": [[words, *(formatting.metric_text(name, number(of.get(name))) for of in (before, after) if of)]
                        for name, words in MEASURES.items()]}]
    sets = [[str(row.get("method") or "").upper(), _percent(row.get("coverage")),
             f"{_percent(row.get('expected_low'))} to {_percent(row.get('expected_high'))}",
             formatting.decimal(row.get("mean_size"))] for row in rows(record.get("conformal"))]
    alpha = number(record.get("alpha")) or 0.0
    if sets:
        tables.append({"title": f"Sets of classes that hold the true one for {100 * (1 - alpha):g}\u202f% of images",
                       "columns": ["", "coverage", "usual at this size", "classes in a set"], "rows": sets})
    kept = mapping(mapping(record.get("selective")).get("after")) or \
        mapping(mapping(record.get("selective")).get("before"))
    surest = [[_percent(row.get("coverage")), _percent(row.get("accuracy")), formatting.decimal(row.get("confidence"))]
              for row in rows(kept.get("at"))]
    if surest:
        tables.append({"title": "The surest only", "columns": ["answered", "accuracy", "confidence from"],
                       "rows": surest})
    away = [[f"{row.get('set') or ''}: {SCORES.get(str(row.get('score')), str(row.get('score')))}",
             formatting.decimal(row.get("auroc")), formatting.decimal(row.get("fpr95"))]
            for row in rows(mapping(record.get("ood")).get("rows"))]
    if away:
        tables.append({"title": "Telling its own images from others", "columns": ["", "AUROC", "FPR at 95 % TPR"],
                       "rows": away})
    groups = mapping(record.get("groups"))
    if rows(groups.get("rows")):
        tables.append({"title": f"By {groups.get('column')}", "columns": ["", "images", "accuracy", "95 % interval"],
                       "rows": [[str(row.get("group") or ""), formatting.integer(row.get("count")),
                                 _percent(row.get("accuracy")), _interval(row)] for row in rows(groups.get("rows"))]})
    gaps = [[words, _percent(gap.get("value")), _interval(gap)]
            for key, words in GAPS.items() if (gap := mapping(groups.get(key)))]
    if gaps:
        tables.append({"title": f"Largest gaps by {groups.get('column')}", "columns": ["", "gap", "95 % interval"],
                       "rows": gaps})
    for key, title in (("ensemble", "Several runs averaged"), ("dropout", "Dropout left on, passes averaged")):
        averaged = mapping(record.get(key))
        if rows(averaged.get("rows")):
            tables.append({"title": title, "columns": ["", *AVERAGED.values()], "rows": [
                [formatting.shorten(str(row.get("name") or ""), 40),
                 *(formatting.metric_text(name, number(row.get(name))) for name in AVERAGED)]
                for row in rows(averaged.get("rows"))]})
    charts_of = reliability_charts(record)
    command = texts(record.get("command")) or ["visus", "calibrate", str(run.path)]
    return {"sentence": optional_text(mapping(record.get("choice")).get("sentence")) or "", "tables": tables,
            "after": charts_of.get("after"), "risk": risk_coverage_chart(record), "command": shell_command(command)}


def _percent(value: Any) -> str:
    x = number(value)
    return formatting.MISSING if x is None else f"{100 * x:.1f}\u202f%"


def _explanations(run: RunFolder, section: dict[str, Any]) -> dict[str, Any] | None:
    items = [{"uri": thumbnails.data_uri(run.path, str(row.get("image") or "")), "hit": row.get("hit") is True,
              "source": str(row.get("source") or ""), "truth": ", ".join(texts(row.get("truth"))),
              "predicted": ", ".join(texts(row.get("predicted"))),
              "confidence": formatting.metric_text("accuracy", number(row.get("confidence")))}
             for row in rows(section.get("items"))[:MAX_EXPLAINED]]
    items = [item for item in items if item["uri"]]
    if not items:
        return None
    return {"sentence": optional_text(section.get("sentence")) or "", "checks": texts(section.get("checks")),
            "warnings": texts(section.get("warnings")),
            "method": optional_text(section.get("method")) or "", "command": _command(section),
            "mistakes": [item for item in items if not item["hit"]], "hits": [item for item in items if item["hit"]]}


def _robustness(section: dict[str, Any]) -> dict[str, Any] | None:
    """Accuracy by the size of the perturbation, in 255ths of the range for linf; accuracy on corrupted images."""
    found = [(number(row.get("eps")), number(row.get("accuracy")), row) for row in rows(section.get("points"))]
    points = sorted(((eps, accuracy, row) for eps, accuracy, row in found if eps is not None and accuracy is not None),
                    key=lambda point: point[0])
    if len(points) < 2:
        return None
    unit = 255 if section.get("norm") == "linf" else 1
    attack = optional_text(section.get("attack")) or ""
    heading = "Perturbation, 255ths" if unit == 255 else f"Perturbation, {section.get('norm')}"
    series = [charts.Series(attack, [(unit * eps, accuracy) for eps, accuracy, _ in points], "val")]
    x_axis, y_axis = charts.line_axes(series, percentage=True)
    axes = x_axis, charts.Axis(0.0, 1.0, y_axis.start, y_axis.end)
    corruptions = [(str(row.get("name") or ""), number(row.get("accuracy")))
                   for row in rows(section.get("corruptions"))]
    clean = points[0][1] if points[0][0] == 0 else None
    return {
        "sentence": optional_text(section.get("sentence")) or "", "heading": heading, "command": _command(section),
        "svg": charts.line_chart("Accuracy by perturbation", series, axes, x_label=heading, percentage=True),
        "rows": [{"eps": f"{unit * eps:g}", "accuracy": formatting.metric_text("accuracy", accuracy),
                  "interval": _interval(row)} for eps, accuracy, row in points],
        "corruptions": [{"name": name.replace("_", " "), "accuracy": formatting.metric_text("accuracy", accuracy),
                         "bar": charts.interval_bar(accuracy, None, None, max(clean or 1.0, 1e-9), accent=False)}
                        for name, accuracy in corruptions if accuracy is not None]}


def _interval(row: dict[str, Any]) -> str:
    low, high = number(row.get("low")), number(row.get("high"))
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}\u202f%"


def _embedding(run: RunFolder, section: dict[str, Any]) -> dict[str, Any] | None:
    """The map with the thumbnails that the run kept; points without one have none."""
    points = [(number(p[0]), number(p[1])) for p in section.get("points") or () if isinstance(p, list) and len(p) == 2]
    targets, classes = section.get("targets"), texts(section.get("classes"))
    if not points or not isinstance(targets, list) or len(targets) != len(points):
        return None
    labels = [classes[t] if isinstance(t, int) and 0 <= t < len(classes) else "" for t in targets]
    names = (texts(section.get("sources")) + [""] * len(points))[:len(points)]
    pictures: list[bytes | None] = [None] * len(points)
    for place, image in enumerate(texts(section.get("images"))[:len(points)]):
        pictures[place] = thumbnails.encoded(run.path, image)
    places = [(math.nan if x is None else x, math.nan if y is None else y) for x, y in points]
    return {"sentence": optional_text(section.get("sentence")) or "", "command": _command(section),
            "svg": embedding_chart(places, labels, names, pictures)}
