"""What an attack did, as one page: the numbers, robust accuracy by distance, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from visus import __version__
from visus.report import heat
from visus.report.charts import LINE_HEIGHT, LINE_WIDTH, Series, line_axes, line_chart
from visus.report.figures import standalone
from visus.report.formatting import shorten
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import picture_uri

PICTURE_PX = 160  # side of a picture on the sheet
GREY_LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class Pair:
    """original, attacked: uint8 [H, W, C]. difference: float [H, W, C], in units of [0, 1]. before, after: classes.
    distance: in the attack's norm."""

    original: np.ndarray
    attacked: np.ndarray
    difference: np.ndarray
    before: str
    after: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class AttackView:
    """What stands on the page. numbers: (name, value, interval). points: (eps, robust accuracy, interval)."""

    method: str
    summary: str
    paper: str
    model: str
    sentence: str
    norm: str
    numbers: Sequence[tuple[str, str, str]]
    points: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    command: Sequence[str] = ()
    chart: Markup | None = None
    sheet: bytes | None = None


def render_attack(view: AttackView) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    style = page_style()
    return template("attack.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, view=view, chart=view.chart,
        sheet=None if view.sheet is None else picture_uri(view.sheet), command=shell_command(view.command))


def curve_chart(points: Sequence[tuple[float, float, float, float]], norm: str) -> Markup:
    """Robust accuracy by distance. points: (eps, accuracy, low, high), eps ascending; linf is drawn in grey levels."""
    scale = GREY_LEVELS if norm == "linf" else 1
    lines = [Series("robust accuracy", [(scale * p[0], p[1]) for p in points], "train"),
             Series("95 % low", [(scale * p[0], p[2]) for p in points], "steps"),
             Series("95 % high", [(scale * p[0], p[3]) for p in points], "steps")]
    return line_chart("Robust accuracy by distance", lines, line_axes(lines, percentage=True), percentage=True,
                      x_label=f"{norm} distance" + (" in 1/255" if norm == "linf" else ""))


def curve_svg(points: Sequence[tuple[float, float, float, float]], norm: str) -> str:
    """`curve_chart` as the text of an SVG file."""
    return standalone(curve_chart(points, norm), LINE_WIDTH, LINE_HEIGHT, title="Robust accuracy by distance") + "\n"


def sheet(pairs: Sequence[Pair], norm: str) -> bytes:
    """A PNG with a row for each pair: the original, the difference around grey and many times as strong, the attacked
    image; the answers below them."""
    most = max(float(np.abs(pair.difference).max()) for pair in pairs)
    times = max(1, int(0.5 / most)) if most > 0 else 1
    font, small = ImageFont.load_default(13), ImageFont.load_default(12)
    sizes = [heat.picture(pair.original, PICTURE_PX).size for pair in pairs]
    width, line = max(size[0] for size in sizes) + heat.GAP, 22
    room = max(width, PICTURE_PX + heat.GAP)
    sheet_height = line + sum(size[1] + line + heat.GAP for size in sizes)
    canvas = Image.new("RGB", (3 * room + heat.GAP, sheet_height), heat.GROUND)
    draw, top = ImageDraw.Draw(canvas), line
    for column, head in enumerate(("original", f"difference x {times}", "attacked")):
        draw.text((heat.GAP + column * room, 3), head, fill=heat.MUTED, font=small)
    for pair, size in zip(pairs, sizes, strict=True):
        shown = np.rint(255 * np.clip(0.5 + times * pair.difference, 0, 1)).astype(np.uint8)
        below = (shorten(pair.before, 22), f"{norm} {pair.distance:.3g}", shorten(pair.after, 22))
        for column, (pixels, words) in enumerate(zip((pair.original, shown, pair.attacked), below, strict=True)):
            x = heat.GAP + column * room
            canvas.paste(heat.picture(pixels, PICTURE_PX), (x, top))
            draw.text((x, top + size[1] + 3), words, fill=heat.INK, font=font)
        top += size[1] + line + heat.GAP
    return heat.png(canvas)
