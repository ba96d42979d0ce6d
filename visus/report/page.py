"""The page: what a run folder holds, put into words and laid out by assets/page.html.

Nothing on the page is computed from images or predictions; it shows what metrics.json, the log and the rest record.
Every text from the run is escaped by the template (autoescape is on for all of it), the page's policy admits only the
style and the script whose hashes it names and images from data URIs, and data for the script travels as JSON in which
no tag can begin.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from visus import __version__
from visus.core.files import write_text
from visus.core.record import Evaluation, Example, Metric, RunFolder
from visus.report import charts, doctor, ensemble, formatting, profile, thumbnails, trust
from visus.report import templates as class_templates
from visus.report.contents import Contents, mapping, optional_text, read_contents, rows, texts
from visus.report.curves import learning_curves
from visus.report.figures import MAX_CLASSES, chart_style
from visus.report.formatting import decimal, integer, metric_label, metric_text, number, plural

PAGE_NAME = "report.html"
MAX_ROWS = 200  # of the tables by class and of problems
MAX_EPOCH_ROWS = 100
MAX_PAIRS = 40
MAX_EXAMPLES = 24
MAX_RECIPE = 20_000  # characters

_ASSETS = Path(__file__).parent / "assets"
_STATUS = {
    "finished": ("good", "good", "Finished"),
    "interrupted": ("warn", "warning", "Interrupted"),
    "started": ("warn", "note", "Not finished"),
    "running": ("warn", "note", "Not finished"),
    "failed": ("bad", "error", "Failed"),
    "diverged": ("bad", "error", "Diverged"),
}
_TASKS = {"classification": "Classification", "multilabel": "Multi-label classification"}
_SCORES = (
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("f1", "F1"),
    ("average_precision", "Avg. precision"),
    ("roc_auc", "ROC-AUC"),
)
_SECTIONS = (
    ("numbers", "Key numbers"),
    ("ensemble", "Ensemble"),
    ("curves", "Curves"),
    ("profile", "Time"),
    ("metrics", "Metrics"),
    ("baselines", "Baselines"),
    ("confusion", "Confusion"),
    ("classes", "Classes"),
    ("calibration", "Calibration"),
    ("examples", "Images"),
    ("templates", "Templates"),
    ("explanations", "Explanations"),
    ("robustness", "Robustness"),
    ("embedding", "Embedding"),
    ("findings", "Doctor"),
    ("data", "Data"),
    ("reproduce", "Reproduce"),
    ("environment", "Environment"),
)


def write(run: RunFolder) -> Path:
    """Draw the run into its folder as report.html, in one step, and return that path.

    Raises RunError when a file of the run cannot be read, ResourceError when the page cannot be written.
    """
    path = run.path / PAGE_NAME
    if run.about.get("kind") == "folds":
        from visus.report.folds import render_folds

        write_text(path, render_folds(run))
    else:
        write_text(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """The run as one HTML page that needs nothing else: no file, no network. A run that is not finished shows what
    it has. Raises RunError naming a file of the run that cannot be read."""
    contents = read_contents(run)
    evaluation = contents.evaluation
    panels = learning_curves(contents.log, contents.headline, number(contents.about.get("best_epoch")))
    data_for_script: dict[str, Any] = {panel.name: panel.data() for panel in panels}
    confusion = confusion_view(evaluation)
    if confusion and confusion["svg"] and evaluation and evaluation.confusion:
        data_for_script["confusion"] = confusion_data(evaluation.confusion)
    examined, of_doctor = doctor.view(run, contents, panels)
    data_for_script |= of_doctor
    model, dataset = page_names(contents)
    style, script = page_style(), asset("page.js")
    trusted = trust.view(run, contents.trust, contents.calibration)
    joined = ensemble.view(contents, mapping(mapping(run.read("metrics.json")).get("ensemble")))
    view: dict[str, Any] = {
        "policy": policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "chart_data": embedded_json(data_for_script),
        "title": f"{formatting.shorten(f'{model} on {dataset}' if dataset else model, 90)} \u2013 Visus report",
        "model": model,
        "dataset": dataset,
        "status": status_view(contents),
        "eyebrow": _eyebrow(contents, run),
        "notice": _notice(contents, run),
        "hero": _hero(contents),
        "facts": _facts(contents),
        "ensemble": joined,
        "curves": None if joined else {"charts": [{"title": p.title, "svg": p.svg()} for p in panels],
                                       **_epoch_table(contents)},
        "profile": profile.view(mapping(run.read(profile.FILE))),
        "metric_splits": list(contents.evaluations),
        "metric_rows": _metric_rows(contents),
        "baselines": _baselines(contents, model),
        "confusion": confusion,
        "classes": classes_view(evaluation),
        "reliability": reliability_view(evaluation),
        "examples_split": formatting.shorten(evaluation.split, 40) if evaluation else "",
        "mistakes": examples_view(run, evaluation.mistakes) if evaluation else [],
        "hits": examples_view(run, evaluation.hits) if evaluation else [],
        "templates": class_templates.view(run),
        **trusted,
        "doctor": examined,
        "data": data_view(contents),
        "command": shell_command(texts(contents.about.get("command"))),
        "started_with": shell_command(texts(contents.about.get("started_with"))),
        "recipe": formatting.legible_lines(contents.recipe[:MAX_RECIPE]),
        "environment": [{"label": label, "value": value} for label, value in flat(contents.environment)],
        "version": __version__,
        "folder": run.path.name or str(run.path),
    }
    present = {
        "ensemble": joined,
        "curves": view["curves"],
        "profile": view["profile"],
        "metrics": view["metric_rows"],
        "baselines": view["baselines"],
        "confusion": confusion,
        "classes": view["classes"],
        "calibration": view["reliability"] or view["calibrated"],
        "examples": view["mistakes"] or view["hits"],
        "templates": view["templates"],
        "explanations": view["explanations"],
        "robustness": view["robustness"],
        "embedding": view["embedding"],
    }
    view["sections"] = [(id_, text) for id_, text in _SECTIONS if present.get(id_, True)]
    return template("page.html").render(view)


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: nothing but this style, this script and images inside of the page."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded_json(value: Any) -> Markup:
    """JSON fit to stand inside of <script>: all but ASCII, and <, >, &, as \\u escapes."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def shell_command(arguments: Sequence[str]) -> str:
    """The arguments as a line for sh, or for bash and zsh ($'...') where one holds characters that do not print."""
    return " ".join(shlex.quote(a) if a.isprintable() else _dollar_quote(a) for a in arguments)


def _dollar_quote(argument: str) -> str:
    def one(c: str) -> str:
        if c in "\\'":
            return "\\" + c
        if c.isprintable():
            return c
        if 0xDC80 <= ord(c) <= 0xDCFF:  # an undecodable byte of a file name
            return f"\\x{os.fsencode(c)[0]:02x}"
        return c.encode("unicode_escape", "surrogatepass").decode("ascii")

    return "$'" + "".join(one(c) for c in argument) + "'"


def flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) rows in their order; lists joined by commas, empty values left out."""
    result: list[tuple[str, str]] = []
    for key, item in value.items():
        label = f"{prefix}{key}"
        if isinstance(item, dict):
            result += flat(item, f"{label}.")
        elif isinstance(item, list):
            result.append((label, ", ".join(str(one) for one in item)))
        elif item is not None:
            result.append((label, {True: "yes", False: "no"}[item] if isinstance(item, bool) else str(item)))
    return [(label, text) for label, text in result if text]


@cache
def template(name: str) -> jinja2.Template:
    """A page of assets/, in which every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"legible": formatting.legible, "shorten": formatting.shorten}
    return environment.get_template(name)


@cache
def asset(name: str) -> str:
    """A style or a script, without the indentation that only its reader needs."""
    return "\n".join(line.strip() for line in (_ASSETS / name).read_text("utf-8").splitlines()).strip()


@cache
def page_style() -> str:
    """The style of all pages, charts included."""
    bars = "".join(f".w{percent}{{--w:{percent}e-2}}" for percent in range(101))
    whole = re.sub(r"\s*([{};,])\s*", r"\1", f"{asset('page.css')}{chart_style()}{bars}")  # spaces say nothing there
    return re.sub(r":\s+", ":", whole).replace(";}", "}")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def page_names(contents: Contents) -> tuple[str, str | None]:
    """The model's name and the data's short name."""
    model = (
        optional_text(contents.about.get("model"))
        or optional_text(contents.model.get("name"))
        or optional_text(mapping(contents.settings.get("model")).get("name"))
        or "Model"
    )
    data = optional_text(contents.about.get("data")) or optional_text(contents.data.get("path"))
    return model, (data.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or data) if data else None


def status_view(contents: Contents) -> dict[str, str]:
    status = str(contents.about.get("status") or "started")
    tone, icon, text = _STATUS.get(status, ("warn", "note", formatting.shorten(status, 30)))
    return {"tone": tone, "icon": icon, "text": text}


def _eyebrow(contents: Contents, run: RunFolder) -> list[str]:
    task = optional_text(contents.about.get("task"))
    created = optional_text(contents.about.get("created"))
    return [
        part
        for part in (
            _TASKS.get(task, task) if task else None,
            f"run {run.path.resolve().name}",
            created[:16].replace("T", " ") if created else None,
        )
        if part
    ]


def _notice(contents: Contents, run: RunFolder) -> dict[str, str] | None:
    """A sentence above everything for a run that is not finished, with the way on."""
    status = contents.about.get("status")
    if status == "finished":
        return None
    epochs = contents.log.epochs
    done = f" after epoch {epochs[-1]['epoch']:g}" if epochs else ""
    resume = shell_command(["visus", "train", "--resume", str(run.path)])
    if status == "interrupted":
        return {"text": f"This run was interrupted{done}. It goes on from there with", "command": resume}
    if status in ("failed", "diverged"):
        return {"text": f"This run stopped with an error{done}. The findings say what was seen.", "command": ""}
    return {
        "text": f"This run has not ended{done}: it is under way, or it was killed and goes on with",
        "command": resume,
    }


def interval_text(name: str, metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    if formatting.is_percentage(name):
        return f"{100 * metric.low:.2f} to {100 * metric.high:.2f}\u202f%"
    return f"{decimal(metric.low)} to {decimal(metric.high)}"


def _hero(contents: Contents) -> dict[str, str] | None:
    evaluation, metric, name = contents.evaluation, contents.headline_metric, contents.headline
    if evaluation is None or metric is None or name is None:
        return None
    interval = interval_text(name, metric)
    return {
        "label": metric_label(name),
        "value": metric_text(name, metric.value),
        "interval": f"95 % interval {interval}" if interval else "",
        "split": f"{formatting.shorten(evaluation.split, 40)} split, {plural(evaluation.count, 'image')}",
    }


def _facts(contents: Contents) -> list[dict[str, str]]:
    """The cards below the headline. What was not recorded has no card."""
    about, epochs, name = contents.about, contents.log.epochs, contents.headline
    facts = []

    def add(label: str, value: str, detail: str = "") -> None:
        if value != formatting.MISSING:
            facts.append({"label": label, "value": value, "detail": detail})

    main = contents.evaluation
    for split, evaluation in contents.evaluations.items():
        if name and evaluation is not main and name in evaluation.metrics:
            metric = evaluation.metrics[name]
            add(
                f"{metric_label(name)}, {formatting.shorten(split, 20)}",
                metric_text(name, metric.value),
                interval_text(name, metric),
            )
    trained = number(about.get("seconds"))
    add("Time" if about.get("kind") == "ensemble" else "Training time", formatting.duration(trained))
    best = number(about.get("best_epoch"))
    if epochs:
        add("Epochs", f"{epochs[-1]['epoch']:g}", "" if best is None else f"best: epoch {best:g}")
    parameters = number(about.get("parameters")) or number(contents.model.get("parameters"))
    add("Parameters", formatting.magnitude(parameters))
    add(
        "Multiply-adds",
        formatting.magnitude(number(about.get("macs")) or number(contents.model.get("macs"))),
        "per image",
    )
    add("Model file", formatting.file_size(contents.model_bytes or number(about.get("model_bytes"))))
    if epochs:
        add("Training speed", integer(epochs[-1].get("images_per_s")), "images/s, last epoch")
        memory = number(epochs[-1].get("peak_memory_mb"))
        add("Peak memory", formatting.file_size(memory * 1e6 if memory is not None else None))
    counts = _split_counts(contents)
    if counts:
        add("Images", integer(sum(counts.values())), ", ".join(f"{integer(n)} {split}" for split, n in counts.items()))
    classes = contents.data.get("classes")
    if isinstance(classes, list) and classes:
        add("Classes", integer(len(classes)))
    if contents.findings:
        errors, warnings = (sum(f.severity == kind for f in contents.findings) for kind in ("error", "warning"))
        add("Findings", integer(len(contents.findings)), f"{plural(errors, 'error')}, {plural(warnings, 'warning')}")
    return facts or [{"label": "Numbers", "value": "none yet", "detail": "the run recorded none so far"}]


def _epoch_table(contents: Contents) -> dict[str, Any]:
    """Rows for `Values by epoch`: at most MAX_EPOCH_ROWS, the last epoch among them."""
    epochs = contents.log.epochs
    if not epochs and not contents.log.steps:
        if contents.about.get("fitted"):
            return {"sentence": "This model was fitted to all images at once: there are no epochs to draw.",
                    "headings": [], "rows": []}
        return {"sentence": "No step was logged yet.", "headings": [], "rows": []}
    stride = -(-len(epochs) // MAX_EPOCH_ROWS) if epochs else 1
    shown = [row for k, row in enumerate(epochs) if (len(epochs) - 1 - k) % stride == 0]
    names = list(dict.fromkeys(name for row in epochs for name in mapping(row.get("metrics"))))[:6]
    table = [
        [
            f"{row['epoch']:g}",
            decimal(row.get("train_loss")),
            decimal(row.get("val_loss")),
            *(metric_text(name, mapping(row.get("metrics")).get(name)) for name in names),
            _rate(row.get("lr")),
            formatting.duration(row.get("seconds")),
        ]
        for row in shown
    ]
    log_steps = len(contents.log.steps)
    return {
        "sentence": f"{plural(len(epochs), 'epoch')}, {plural(log_steps, 'logged step')}. "
        "Point at a chart, or focus it and use the arrow keys, to read values.",
        "headings": [
            "Epoch",
            "Train loss",
            "Validation loss",
            *(metric_label(name) for name in names),
            "Learning rate",
            "Time",
        ],
        "rows": table,
    }


def _rate(value: Any) -> str:
    """A learning rate in three significant digits."""
    x = number(value)
    return formatting.MISSING if x is None else f"{x:.3g}"


def _metric_rows(contents: Contents) -> list[dict[str, Any]]:
    """One row a metric, the headline first, with a cell for each evaluated split."""
    names = dict.fromkeys(name for evaluation in contents.evaluations.values() for name in evaluation.metrics)
    ordered = sorted(names, key=lambda name: name != contents.headline)
    result = []
    for name in ordered:
        metrics = [evaluation.metrics.get(name, Metric(None)) for evaluation in contents.evaluations.values()]
        result.append(
            {
                "label": metric_label(name),
                "headline": name == contents.headline,
                "cells": [{"value": metric_text(name, m.value), "interval": interval_text(name, m)} for m in metrics],
            }
        )
    return result


def _baselines(contents: Contents, model: str) -> dict[str, Any] | None:
    """The model and each baseline by the headline metric, best first."""
    name = contents.headline
    if not contents.baselines or name is None:
        return None
    entries = [(row.name, row.description, row.metrics.get(name, Metric(None)), False) for row in contents.baselines]
    if contents.headline_metric is not None:
        entries.append((model, "This run", contents.headline_metric, True))
    lower = not contents.higher_is_better
    worst = float("inf") if lower else float("-inf")
    entries.sort(key=lambda entry: worst if entry[2].value is None else entry[2].value, reverse=not lower)
    largest = max((max(m.value or 0, m.high or 0) for *_, m, _ in entries), default=0)
    top = 1.0 if largest <= 1 else largest * 1.05
    split = formatting.shorten(contents.evaluation.split, 40) if contents.evaluation else ""
    table = []
    for row_name, description, metric, ours in entries:
        bar = (
            None
            if metric.value is None
            else charts.interval_bar(metric.value, metric.low, metric.high, top, accent=ours)
        )
        table.append(
            {
                "name": row_name,
                "description": description,
                "ours": ours,
                "bar": bar,
                "value": metric_text(name, metric.value),
                "interval": interval_text(name, metric),
            }
        )
    scale = "0 to 100 %" if top == 1.0 and formatting.is_percentage(name) else f"0 to {top:.3g}"
    return {
        "metric": f"{metric_label(name)}, {scale}",
        "rows": table,
        "sentence": f"What the model adds over simpler methods on the same {split} split. "
        f"The thin line on a bar is the 95 % interval; {'lower' if lower else 'higher'} is better."
        f"{_over_the_best(contents)}",
        "left_out": contents.baselines_left_out,
    }


def _over_the_best(contents: Contents) -> str:
    """How far the run is from the best baseline, for a metric that is a share; '' otherwise."""
    name, ours = contents.headline, contents.headline_metric
    known = [(value, row.name) for row in contents.baselines
             if (value := row.metrics.get(name or "", Metric(None)).value) is not None]
    if not known or ours is None or ours.value is None or not formatting.is_percentage(name or ""):
        return ""
    value, best = max(known) if contents.higher_is_better else min(known)
    points = 100 * (ours.value - value)
    side = "above" if points >= 0 else "below"
    return f" This run is {abs(points):.1f} points {side} the best of them, {formatting.shorten(best, 48)}."


def confusion_view(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None or (evaluation.confusion is None and not evaluation.confused):
        return None
    labels = evaluation.confusion["labels"] if evaluation.confusion else []
    drawn = 0 < len(labels) <= MAX_CLASSES
    svg = (
        charts.heat_map(labels, evaluation.confusion["counts"], name="confusion")
        if drawn and evaluation.confusion
        else None
    )
    counts = {str(row.get("name")): number(row.get("count")) for row in evaluation.per_class}
    pairs = []
    for row in evaluation.confused[: 8 if drawn else MAX_PAIRS]:
        count, of = number(row.get("count")), counts.get(str(row.get("truth")))
        pairs.append(
            {
                "truth": str(row.get("truth", "")),
                "predicted": str(row.get("predicted", "")),
                "count": integer(count),
                "share": f"{100 * count / of:.1f}\u202f% of the class" if count and of else "",
            }
        )
    if svg is None and not pairs:
        return None
    sentence = (
        "Counts, truth in rows. Colour is the share of the row: blue where the prediction is right, orange "
        "where it is wrong."
        if drawn
        else "The most frequent confusions; there are too many classes for a matrix that can be read."
    )
    return {"svg": svg, "pairs": pairs, "large": len(labels) > 12, "sentence": sentence}


def confusion_data(confusion: dict[str, Any]) -> dict[str, Any]:
    size = charts.heat_map_size(confusion["labels"])
    return {
        "labels": [formatting.shorten(label, 60) for label in confusion["labels"]],
        "counts": confusion["counts"],
        "left": size.left,
        "top": size.top,
        "cell": size.cell,
    }


def classes_view(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """The table by class, weakest first, with the scores that were computed for any class."""
    if evaluation is None or not evaluation.per_class:
        return None
    scores = [
        (key, label) for key, label in _SCORES if any(number(row.get(key)) is not None for row in evaluation.per_class)
    ]
    keys = [key for key, _ in scores]
    by = (
        "average_precision"
        if not evaluation.confusion and "average_precision" in keys
        else "f1"
        if "f1" in keys
        else keys[0]
        if keys
        else None
    )

    def rank(row: dict[str, Any]) -> float:
        value = number(row.get(by)) if by else None
        return float("-inf") if value is None else value

    ordered = sorted(evaluation.per_class, key=rank)
    table = [
        {
            "name": str(row.get("name", "")),
            "count": integer(row.get("count")),
            "scores": [_score(row.get(key)) for key in keys],
        }
        for row in ordered[:MAX_ROWS]
    ]
    left = len(ordered) - len(table)
    sentence = f"On the {formatting.shorten(evaluation.split, 40)} split, weakest first. Click a heading to sort."
    if left:
        sentence = (
            f"The {MAX_ROWS} weakest of {len(ordered):,} classes on the "
            f"{formatting.shorten(evaluation.split, 40)} split; the rest are in metrics.json."
        )
    columns = [
        {"label": "Class", "sort": None},
        {"label": "Images", "sort": None},
        *({"label": label, "sort": "ascending" if key == by else None} for key, label in scores),
    ]
    return {"columns": columns, "rows": table, "sentence": sentence}


def _score(value: Any) -> dict[str, Any]:
    x = number(value)
    return {
        "text": formatting.MISSING if x is None else f"{x:.3f}",
        "width": None if x is None else min(100, max(0, round(100 * x))),
    }


def reliability_view(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None or evaluation.reliability is None:
        return None
    bins = rows(evaluation.reliability.get("bins"))
    if not bins:
        return None
    facts = [
        {"label": metric_label(name), "value": metric_text(name, evaluation.metrics[name].value)}
        for name in ("accuracy", "nll", "brier")
        if name in evaluation.metrics
    ]
    return {"svg": charts.reliability_diagram(bins), "ece": decimal(evaluation.reliability.get("ece")), "facts": facts}


def examples_view(run: RunFolder, examples: Sequence[Example]) -> list[dict[str, Any]]:
    result = []
    for example in examples[:MAX_EXAMPLES]:
        truth, predicted = (" + ".join(names) or "none" for names in (example.truth, example.predicted))
        uri = thumbnails.data_uri(run.path, example.image)
        result.append(
            {
                "uri": uri,
                "small": uri is not None and thumbnails.is_small(uri),
                "alt": f"truth {formatting.shorten(truth)}, predicted {formatting.shorten(predicted)}",
                "truth": truth,
                "predicted": predicted,
                "source": example.source,
                "confidence": f"{100 * example.confidence:.1f}\u202f%",
            }
        )
    return result


def _several_labels(contents: Contents) -> bool:
    return contents.about.get("task") == "multilabel"


def _split_counts(contents: Contents) -> dict[str, int]:
    """Images in each split, from the counts by class; empty for several labels an image: there these do not add up."""
    if _several_labels(contents):
        return {}
    data = contents.data
    return {
        str(split): int(sum(number(n) or 0 for n in counts.values()))
        for split, counts in mapping(data.get("counts")).items()
        if isinstance(counts, dict)
    }


def data_view(contents: Contents) -> dict[str, Any]:
    data = contents.data
    splits = [split for split in ("train", "val", "test") if isinstance(mapping(data.get("counts")).get(split), dict)]
    pairs = [
        ("Source", data.get("path")),
        ("Format", data.get("format")),
        ("Image size", _image_sizes(mapping(data.get("image_sizes")))),
        ("Channels", _channels(data.get("channels"))),
        ("Splits", ", ".join(f"{integer(n)} {split}" for split, n in _split_counts(contents).items())),
    ]
    problems = rows(data.get("problems"))
    return {
        "recognised": optional_text(data.get("recognised")),
        "split": optional_text(data.get("split")),
        "pairs": [{"label": label, "value": str(value)} for label, value in pairs if value],
        "notes": texts(data.get("notes"))[:MAX_ROWS],
        "problems": [
            {"file": str(row.get("file", "")), "problem": str(row.get("problem", ""))} for row in problems[:MAX_ROWS]
        ],
        "problems_title": plural(len(problems), "file with a problem", "files with problems")
        + (f" (the first {MAX_ROWS})" if len(problems) > MAX_ROWS else ""),
        "balance": _balance(mapping(data.get("balance"))),
        **_class_counts(data, splits),
    }


def _balance(record: dict[str, Any]) -> dict[str, Any] | None:
    """What was done against classes of different sizes: sentences, and by class the images, draws and weights."""
    said = [text for text in (optional_text(record.get("sampling")), optional_text(record.get("loss"))) if text]
    if not said:
        return None
    table = [
        {
            "name": str(row.get("name") or ""),
            "images": integer(row.get("images")),
            "draws": decimal(row.get("draws")),
            "weight": decimal(row.get("weight")),
        }
        for row in rows(record.get("classes"))[:MAX_ROWS]
    ]
    weighed = any(number(row.get("weight")) is not None for row in rows(record.get("classes")))
    return {"sentence": "; ".join(said)[:1].upper() + "; ".join(said)[1:] + ".", "rows": table, "weighed": weighed}


def _class_counts(data: dict[str, Any], splits: Sequence[str]) -> dict[str, Any]:
    """Rows of `Images by class` in the order of the classes, at most MAX_ROWS."""
    counts = {split: mapping(data["counts"][split]) for split in splits}
    classes = texts(data.get("classes")) or list(dict.fromkeys(name for split in splits for name in counts[split]))
    table = {name: [int(number(counts[split].get(name)) or 0) for split in splits] for name in classes}
    totals = [sum(values) for values in table.values()]
    if not any(totals):
        return {"classes": [], "class_splits": [], "classes_left": ""}
    shown = list(table.items())[:MAX_ROWS]
    left = (
        ""
        if len(shown) == len(table)
        else (
            f"The first {MAX_ROWS} of {len(table):,} classes; over all, a class has {min(totals):,} to {max(totals):,} "
            f"images, {median(totals):,.0f} in the middle."
        )
    )
    return {
        "class_splits": splits,
        "classes_left": left,
        "classes": [
            {
                "name": name,
                "counts": [integer(n) for n in values],
                "bar": charts.stacked_bar(
                    [(f"split-{split}", n) for split, n in zip(splits, values) if n], max(totals)
                ),
            }
            for name, values in shown
        ],
    }


def _image_sizes(sizes: dict[str, Any]) -> str:
    """'32 x 32 px', or the smallest, median and largest; recorded as [height, width], written width first."""
    text = {
        key: f"{integer(value[1])} \u00d7 {integer(value[0])}"
        for key, value in sizes.items()
        if isinstance(value, list) and len(value) == 2
    }
    if not text:
        return ""
    if len(set(text.values())) == 1:
        return f"{next(iter(text.values()))} px (width \u00d7 height)"
    order = (("min", "smallest"), ("median", "median"), ("max", "largest"))
    return ", ".join(f"{word} {text[key]}" for key, word in order if key in text) + " px (width \u00d7 height)"


def _channels(channels: Any) -> str:
    if isinstance(channels, int):
        return {1: "1 (grey)", 3: "3 (RGB)"}.get(channels, str(channels))
    return channels if isinstance(channels, str) else ""
