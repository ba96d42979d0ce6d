"""What a method of explanation found, as one page and its charts. The pictures come from report/heat.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visus import __version__
from visus.report.charts import Axis, axis_number, domain, tag, text_width
from visus.report.figures import standalone
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import picture_uri

MAX_SHOWN = 24  # images on the page; the files hold all
WIDTH, HEIGHT = 640, 372
LEFT, RIGHT, TOP, BOTTOM = 54.0, 624.0, 52.0, 316.0


@dataclass(frozen=True, kw_only=True)
class ExplainedImage:
    """source: where it came from. answer: what the model said of it, or nothing. overlay, tiles: PNG files, encoded."""

    source: str
    answer: str
    overlay: bytes
    tiles: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class MadePicture:
    """A picture that the method made: its name, and the PNG file, encoded."""

    name: str
    picture: bytes


@dataclass(frozen=True, kw_only=True)
class ExplanationView:
    """What stands on the page. notes: what was decided on the way. checks: what was measured of the
    maps; warnings: what is wrong with them. tiles_title: what the small maps are."""

    method: str
    summary: str
    paper: str
    model: str
    sentence: str
    command: Sequence[str] = ()
    notes: Sequence[str] = ()
    checks: Sequence[str] = ()
    warnings: Sequence[str] = ()
    images: Sequence[ExplainedImage] = ()
    tiles_title: str = ""
    chart: Markup | None = None
    chart_title: str = "Distance"
    similarity: bytes | None = None
    pictures: Sequence[MadePicture] = ()


def render_explanation(view: ExplanationView) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    style = page_style()
    images = [{"source": image.source, "answer": image.answer, "overlay": picture_uri(image.overlay),
               "tiles": None if image.tiles is None else picture_uri(image.tiles)}
              for image in view.images[:MAX_SHOWN]]
    left = len(view.images) - len(images)
    return template("explanation.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, view=view, images=images,
        images_left=f"{left} further images are in the folder." if left else "",
        chart=view.chart, similarity=None if view.similarity is None else picture_uri(view.similarity),
        pictures=[{"name": one.name, "picture": picture_uri(one.picture)} for one in view.pictures[:MAX_SHOWN]],
        command=shell_command(view.command))


def distance_chart(layers: Sequence[tuple[int, Sequence[float]]], uniform_px: float | None) -> Markup:
    """Mean attention distance in pixels: a dot for each head above its layer, a line through the layers' means; the
    dashed line is attention that is the same everywhere. layers: (number, distances of its heads)."""
    values = [value for _, heads in layers for value in heads]
    numbers = [number for number, _ in layers]
    x_axis = Axis(min(numbers) - 0.5, max(numbers) + 0.5, LEFT, RIGHT)
    y_axis = Axis(*domain([*values, *([] if uniform_px is None else [uniform_px]), 0.0], floor=0.0), BOTTOM, TOP)
    parts = [tag("title", "Mean attention distance by layer and head")]
    for value in y_axis.ticks(6):
        y = y_axis(value)
        parts += [tag("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y),
                  tag("text", axis_number(value), class_="tick end", x=LEFT - 8, y=y + 4)]
    for number in numbers[::max(1, -(-len(numbers) // 16))]:
        parts.append(tag("text", str(number), class_="tick middle", x=x_axis(number), y=BOTTOM + 18))
    parts += [tag("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM),
              tag("text", "attention layer", class_="tick middle", x=(LEFT + RIGHT) / 2, y=BOTTOM + 38),
              tag("text", "mean attention distance in pixels", class_="label", x=14, y=20)]
    if uniform_px is not None:
        y = y_axis(uniform_px)
        words = "attention that is the same everywhere"
        parts += [tag("line", class_="mark", x1=LEFT, x2=RIGHT, y1=y, y2=y),
                  tag("text", words, class_="tick", x=RIGHT - text_width(words), y=y - 6)]
    path = " ".join(f"{x_axis(number):.1f},{y_axis(sum(heads) / len(heads)):.1f}" for number, heads in layers)
    parts.append(tag("polyline", class_="line steps", points=path))
    for number, heads in layers:
        parts += [tag("circle", tag("title", f"layer {number}, head {head}: {value:.1f} px"), class_="dot",
                      cx=x_axis(number), cy=y_axis(value), r=4, fill_opacity=0.72) for head, value in enumerate(heads)]
    return tag("svg", *parts, class_="visus-chart distances", xmlns="http://www.w3.org/2000/svg",
               role="img", viewBox=f"0 0 {WIDTH} {HEIGHT}")


def distance_svg(layers: Sequence[tuple[int, Sequence[float]]], uniform_px: float | None) -> str:
    """`distance_chart` as the text of an SVG file."""
    return standalone(distance_chart(layers, uniform_px), WIDTH, HEIGHT, title="Mean attention distance") + "\n"
