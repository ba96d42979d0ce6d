"""Learning curves: which lines of the log make which panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from visus.report import charts
from visus.report.contents import Log, epochs_of_steps, mapping
from visus.report.formatting import is_percentage, metric_label, number


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of lines. name: what the page's script calls it; best: x of the epoch whose weights were kept."""

    name: str
    title: str
    series: tuple[charts.Series, ...]
    x_label: str
    percentage: bool = False
    from_zero: bool = True
    best: float | None = None

    def axes(self) -> tuple[charts.Axis, charts.Axis]:
        return charts.line_axes(self.series, percentage=self.percentage, from_zero=self.from_zero)

    def svg(self) -> Markup:
        return charts.line_chart(
            self.title,
            self.series,
            self.axes(),
            x_label=self.x_label,
            name=self.name,
            percentage=self.percentage,
            mark=self.best,
            mark_label="" if self.best is None else f"best: epoch {self.best:g}",
        )

    def data(self) -> dict[str, Any]:
        return charts.line_data(self.series, self.axes(), x_label=self.x_label, percentage=self.percentage)


def learning_curves(log: Log, headline: str | None, best_epoch: float | None = None) -> list[Panel]:
    """Panels for loss, headline metric and learning rate; those without a number are left out.

    Without a headline (no metrics.json yet) the first metric of the log stands in.
    """
    at = epochs_of_steps(log)
    if at is None and not log.epochs:
        at, x_label = [step for step, _, _ in log.steps], "step"
    else:
        at, x_label = at or [], "epoch"
    step_losses = [(x, loss) for x, (_, loss, _) in zip(at, log.steps) if loss is not None]
    step_rates = [(x, lr) for x, (_, _, lr) in zip(at, log.steps) if lr is not None]
    names = [name for row in log.epochs for name in mapping(row.get("metrics"))]
    metric = headline if headline in names else next(iter(names), None)
    panels = [
        Panel(
            "loss",
            "Loss",
            _drawn(
                charts.Series("train, by step", step_losses, "steps"),
                charts.Series("train", _column(log, "train_loss"), "train"),
                charts.Series("validation", _column(log, "val_loss"), "val"),
            ),
            x_label,
            best=best_epoch,
        )
    ]
    if metric is not None:
        values = [
            (row["epoch"], value)
            for row in log.epochs
            if (value := number(mapping(row.get("metrics")).get(metric))) is not None
        ]
        panels.append(
            Panel(
                "metric",
                metric_label(metric),
                _drawn(charts.Series("validation", values, "val")),
                x_label,
                is_percentage(metric) and all(0 <= y <= 1 for _, y in values),
                False,
                best_epoch,
            )
        )
    panels.append(
        Panel(
            "lr",
            "Learning rate",
            _drawn(charts.Series("learning rate", step_rates or _column(log, "lr"), "lr")),
            x_label,
        )
    )
    return [panel for panel in panels if panel.series]


def _column(log: Log, name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], value) for row in log.epochs if (value := number(row.get(name))) is not None]


def _drawn(*series: charts.Series) -> tuple[charts.Series, ...]:
    return tuple(one for one in series if one.points)
