"""Results as SVG: curves of the loss, or accuracies along an axis, and bars of the final accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from recipes.experiments.experiment import Experiment, Lines, Results, percent, score
from visus.report.charts import Axis, tag
from visus.report.figures import standalone

PANEL_WIDTH, BARS_WIDTH, TOP, BOTTOM, ROW = 306, 330, 74.0, 258.0, 50
CHANCE = math.log(10)  # loss of a guess among ten classes
KINDS = ("first", "second", "third")
FIGURE_CSS = """
.visus-chart { --first: #2563b0; --second: #b3530f; --third: #2e7d43; }
@media (prefers-color-scheme: dark) { .visus-chart { --first: #6ea6e8; --second: #f0a35e; --third: #74c48a; } }
.visus-chart .title { font-size: 16px; font-weight: 600; }
.visus-chart .strong { font-weight: 600; }
.visus-chart .whisker { stroke: var(--ink); stroke-width: 1.5; }
.visus-chart .fitted { stroke-dasharray: 5 4; }
""" + "".join(f".visus-chart .line.{k} {{ stroke: var(--{k}); }} .visus-chart .{k} {{ fill: var(--{k}); }}\n"
              f".visus-chart .line.{k} {{ fill: none; }} .visus-chart .pale.{k} {{ opacity: 0.4; }}\n" for k in KINDS)


def figure(experiment: Experiment, runs: Results) -> str:
    """Curves of each panel and the final accuracies as bars: the text of an SVG file."""
    left = PANEL_WIDTH * (1 if experiment.lines else len(experiment.panels))
    width = left + BARS_WIDTH
    height = int(max(BOTTOM + 44, TOP + ROW * len(experiment.runs) + 22)) + 24
    parts = [tag("text", experiment.title, class_="title", x=16, y=26)]
    if experiment.lines:
        parts += lines(experiment.lines(runs))
    else:
        parts += losses(experiment, runs)
        parts.append(tag("text", "dashed: training images; solid: held-out images", class_="tick", x=16, y=height - 12))
    parts += bars(experiment, runs, left)
    parts.append(tag("text", "pale: training images; full: test images", class_="tick", x=left + 20, y=height - 12))
    return standalone(Markup("").join(parts), width, height, title=experiment.title, css=FIGURE_CSS) + "\n"


def losses(experiment: Experiment, runs: Results) -> list[Markup]:
    """A diagram of curves per panel, to one scale."""
    values = [row[key] for name in experiment.runs for seed in runs[name]["seeds"] for row in seed["curve"]
              for key in ("train_loss", "val_loss")]
    axis = Axis(0.92 * min([*values, CHANCE]), 1.08 * CHANCE, BOTTOM, TOP)
    return [part for number, (title, labels) in enumerate(experiment.panels)
            for part in curves(title, labels, runs, axis, PANEL_WIDTH * number)]


def curves(title: str, labels: Mapping[str, str], runs: Results, y_axis: Axis, left: int) -> list[Markup]:
    """Cross-entropy by epoch, of the first seed; what is above the frame lies on its upper edge."""
    rows = {name: runs[name]["seeds"][0]["curve"] for name in labels}
    last = max([row["epoch"] for curve in rows.values() for row in curve], default=1)
    x_axis = Axis(1, max(2, last), left + 46.0, left + PANEL_WIDTH - 84.0)
    parts = [tag("text", title, class_="strong", x=left + 46, y=TOP - 22),
             tag("text", "loss", class_="tick end", x=left + 38, y=TOP - 8),
             tag("text", "epoch", class_="tick middle", x=(x_axis.start + x_axis.end) / 2, y=BOTTOM + 36),
             tag("line", class_="mark", x1=x_axis.start, x2=x_axis.end, y1=y_axis(CHANCE), y2=y_axis(CHANCE)),
             tag("text", "chance", class_="tick end", x=x_axis.end, y=y_axis(CHANCE) - 4)]
    for value in y_axis.ticks(5):
        parts += [tag("line", class_="grid", x1=x_axis.start, x2=x_axis.end, y1=y_axis(value), y2=y_axis(value)),
                  tag("text", f"{value:g}", class_="tick end", x=left + 38, y=y_axis(value) + 4)]
    parts += [tag("text", f"{value:g}", class_="tick middle", x=x_axis(value), y=BOTTOM + 18)
              for value in x_axis.ticks(4, whole=True)]
    parts.append(tag("line", class_="axis", x1=x_axis.start, x2=x_axis.end, y1=BOTTOM, y2=BOTTOM))
    ends = []
    for kind, (name, label) in zip(KINDS, labels.items(), strict=False):
        for key, style in (("train_loss", " fitted"), ("val_loss", "")):
            path = " ".join(f"{x_axis(row['epoch']):.1f},{max(TOP, y_axis(row[key])):.1f}" for row in rows[name])
            parts.append(tag("polyline", class_=f"line {kind}{style}", points=path))
        if rows[name]:
            ends.append((max(TOP, y_axis(rows[name][-1]["val_loss"])), label, kind))
    return parts + names_at(ends, x_axis.end + 6)


def lines(chart: Lines) -> list[Markup]:
    """Accuracies along an axis, a line each."""
    at = sorted({x for line in chart.series.values() for x, _ in line})
    values = [y for line in chart.series.values() for _, y in line]
    x_axis = Axis(at[0], at[-1], 46.0, PANEL_WIDTH - 84.0, log=chart.log)
    y_axis = Axis(max(0.0, min(values) - 5), max(values) + 5, BOTTOM, TOP)
    parts = [tag("text", chart.title, class_="strong", x=46, y=TOP - 22),
             tag("text", "%", class_="tick end", x=38, y=TOP - 8),
             tag("text", chart.x_label, class_="tick middle", x=(x_axis.start + x_axis.end) / 2, y=BOTTOM + 36)]
    for value in y_axis.ticks(5):
        parts += [tag("line", class_="grid", x1=x_axis.start, x2=x_axis.end, y1=y_axis(value), y2=y_axis(value)),
                  tag("text", f"{value:g}", class_="tick end", x=38, y=y_axis(value) + 4)]
    parts += [tag("text", f"{value:,g}", class_="tick middle", x=x_axis(value), y=BOTTOM + 18) for value in at]
    parts.append(tag("line", class_="axis", x1=x_axis.start, x2=x_axis.end, y1=BOTTOM, y2=BOTTOM))
    ends = []
    for kind, (label, line) in zip(KINDS, chart.series.items(), strict=False):
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in line)
        parts.append(tag("polyline", class_=f"line {kind}", points=path))
        parts += [tag("circle", class_=kind, cx=x_axis(x), cy=y_axis(y), r=3) for x, y in line]
        ends.append((y_axis(line[-1][1]), label, kind))
    return parts + names_at(ends, x_axis.end + 8)


def names_at(ends: list[tuple[float, str, str]], x: float) -> list[Markup]:
    """(y, label, kind) of each line's end as text, never one on another."""
    parts, y = [], -math.inf
    for end, label, kind in sorted(ends):
        y = max(y + 14, end)
        parts.append(tag("text", label, class_=kind, x=x, y=y + 4))
    return parts


def bars(experiment: Experiment, runs: Results, left: int) -> list[Markup]:
    """Accuracy on training and test images, the latter with its interval."""
    axis = Axis(0, 100, left + 20.0, left + BARS_WIDTH - 64.0)
    parts = [tag("text", "accuracy at the best epoch", class_="strong", x=axis.start, y=TOP - 22)]
    kinds = {name: kind for _, labels in experiment.panels for kind, name in zip(KINDS, labels, strict=False)}
    for number, (name, label) in enumerate(experiment.runs.items()):
        kind = kinds[name]
        run, y = runs[name], TOP + ROW * number
        size = f"{run['params'] / 1e6:.2f} M parameters, {run['macs'] / 1e6:.1f} M MACs"
        parts += [tag("text", label, class_="label", x=axis.start, y=y + 4),
                  tag("text", size, class_="tick end", x=left + BARS_WIDTH - 12, y=y + 4, font_size=10.5)]
        for split, row, style in (("train", 0, f"pale {kind}"), ("test", 1, kind)):
            found, top = score(run, split), y + 10 + 14 * row
            if found is None:
                parts.append(tag("text", "diverged" if row else "", class_="tick", x=axis.start, y=top + 10))
                continue
            parts += [tag("rect", class_=style, x=axis.start, y=top, width=axis(found.value) - axis.start, height=11),
                      tag("text", percent(run, split), class_="tick" if row == 0 else "strong",
                          x=axis(found.high) + 5, y=top + 9.5, font_size=10.5)]
            if row:
                parts.append(tag("line", class_="whisker", x1=axis(found.low), x2=axis(found.high), y1=top + 5.5,
                                 y2=top + 5.5))
    return parts
