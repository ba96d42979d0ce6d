"""The report's charts alone, as SVG text that brings its own style: for notebooks, slides and documents."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from markupsafe import Markup

from visus.core.errors import RunError
from visus.core.record import Evaluation, RunFolder
from visus.report import charts
from visus.report.contents import read_contents, rows
from visus.report.curves import Panel, learning_curves

MAX_CLASSES = 50  # of a heat map that can be read


@cache
def chart_style() -> str:
    return (Path(__file__).parent / "assets" / "charts.css").read_text("utf-8")


def learning_curves_svg(run: RunFolder) -> str:
    """Loss, headline metric and learning rate one above the other. Raises RunError when no step was logged yet."""
    contents = read_contents(run)
    panels = learning_curves(contents.log, contents.headline)
    if not panels:
        raise RunError(
            "holds no step or epoch to draw yet", where=run.path / "log.jsonl", remedy="Wait for the first epoch to end"
        )
    return standalone(_stack(panels), charts.LINE_WIDTH, len(panels) * (charts.LINE_HEIGHT + 22))


def confusion_svg(evaluation: Evaluation) -> str:
    """The confusion matrix as a heat map, truth in rows.

    Raises RunError when the evaluation holds none, or more than MAX_CLASSES classes: read `evaluation.confused` then.
    """
    if evaluation.confusion is None:
        raise RunError(
            f"the evaluation on {evaluation.split!r} holds no confusion matrix",
            remedy="Several labels an image have none; see evaluation.per_class",
        )
    labels = evaluation.confusion["labels"]
    if len(labels) > MAX_CLASSES:
        raise RunError(
            f"{len(labels)} classes are more than the {MAX_CLASSES} that a heat map shows",
            remedy="evaluation.confused lists the most confused pairs",
        )
    size = charts.heat_map_size(labels)
    return standalone(charts.heat_map(labels, evaluation.confusion["counts"]), size.width, size.height)


def reliability_svg(evaluation: Evaluation) -> str:
    """The reliability diagram. Raises RunError when the evaluation holds none."""
    if evaluation.reliability is None:
        raise RunError(
            f"the evaluation on {evaluation.split!r} holds no reliability bins",
            remedy="Several labels an image have none; see evaluation.per_class",
        )
    return standalone(charts.reliability_diagram(rows(evaluation.reliability.get("bins"))), *charts.RELIABILITY_SIZE)


def _stack(panels: list[Panel]) -> Markup:
    step = charts.LINE_HEIGHT + 22
    return Markup("").join(
        charts.tag(
            "g",
            charts.tag("text", panel.title, class_="label", x=14, y=16, font_size=14),
            charts.tag("svg", panel.svg(), y=22, width=charts.LINE_WIDTH, height=charts.LINE_HEIGHT),
            transform=f"translate(0 {k * step})",
        )
        for k, panel in enumerate(panels)
    )


def standalone(drawing: Markup, width: int, height: int, *, title: str | None = None, css: str = "") -> str:
    """An SVG file of a drawing: its own style, to which `css` adds, and a ground for light and dark pages. title: what
    a screen reader says."""
    named = () if title is None else (charts.tag("title", title),)
    style = charts.tag("style", Markup(chart_style() + css))
    ground = charts.tag("rect", class_="ground", width=width, height=height)
    return str(
        charts.tag(
            "svg",
            *named,
            style,
            ground,
            drawing,
            class_="visus-chart",
            xmlns="http://www.w3.org/2000/svg",
            role=None if title is None else "img",
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
        )
    )
