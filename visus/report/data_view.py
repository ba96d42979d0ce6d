"""A data set as one page: what it is, its images, what is marked in them, its numbers, an augmentation's effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markupsafe import Markup

from visus import __version__
from visus.report.data_charts import Chart, svg
from visus.report.formatting import integer
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import picture_uri

MAX_CLASSES = 200


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image with its marks. picture: an encoded PNG or JPEG file."""

    picture: bytes
    source: str
    captions: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class DataSetView:
    """What stands on the page. facts: (label, value, detail). problems: files that cannot be read, in words. counts:
    column -> class -> number. augmented: a strip of pictures each, encoded; steps: the augmentation in words."""

    name: str
    recognised: str
    facts: Sequence[tuple[str, str, str]]
    contact: bytes
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    classes: Sequence[str] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    annotated: Sequence[Shown] = ()
    charts: Sequence[Chart] = ()
    augmented: Sequence[bytes] = ()
    steps: str = ""
    command: Sequence[str] = ()


def render_data_view(view: DataSetView) -> str:
    """The page's text: nothing else is needed, no file, no network. Every text of the data is escaped."""
    style = f"{page_style()}\n{_own_style()}"
    rows = [{"name": name, "counts": [integer(column.get(name, 0)) for column in view.counts.values()]}
            for name in view.classes[:MAX_CLASSES]]
    return template("data_view.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, view=view, rows=rows,
        left=len(view.classes) - len(rows), contact=picture_uri(view.contact),
        annotated=[{"uri": picture_uri(one.picture), "source": one.source, "captions": list(one.captions)}
                   for one in view.annotated],
        charts=[svg(chart) for chart in view.charts], augmented=[picture_uri(one) for one in view.augmented],
        command=shell_command(view.command))


@cache
def _own_style() -> str:
    return (Path(__file__).parent / "assets" / "data_view.css").read_text("utf-8").strip()
