"""What a classical method found in images, as one page: boxes, regions or edges beside the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from visus import __version__
from visus.report.heat import GAP, GROUND, colours, picture, png
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import picture_uri

MAX_SHOWN = 24  # images on the page
MAX_BOXES = 40  # drawn of an image, the most promising ones
SIDE_PX = 560
_LINE = (255, 235, 59)


@dataclass(frozen=True)
class ShownImage:
    """source: where it came from. sentence: what was found. sheet: a PNG file, encoded. caption: what it shows."""

    source: str
    sentence: str
    sheet: bytes
    caption: str


@dataclass(frozen=True)
class RegionsView:
    """What stands on the page. settings: name and value of each option. count: of images in all."""

    method: str
    title: str
    summary: str
    paper: str
    settings: Sequence[tuple[str, str]]
    images: Sequence[ShownImage]
    count: int
    notes: Sequence[str] = ()
    command: Sequence[str] = ()


def shown_image(source: str, sentence: str, pixels: np.ndarray, labels: np.ndarray | None, boxes: np.ndarray | None,
                edges: np.ndarray | None) -> ShownImage:
    """pixels: uint8 [H, W, 1 or 3]; labels: int [H, W]; boxes: [N, 4]; edges: [H, W] in [0, 1]."""
    plain = picture(pixels, SIDE_PX)
    if boxes is not None:
        drawn, caption = [_with_boxes(plain, boxes, pixels.shape)], \
            f"The first {min(MAX_BOXES, len(boxes))} boxes by their order, the first the brightest."
    elif labels is not None:
        drawn, caption = [_with_borders(plain, labels), _in_mean_colours(plain, labels)], \
            "The borders of the regions, and each region in its mean colour."
    else:
        assert edges is not None
        ink = Image.fromarray(np.rint(255 * (1 - edges)).astype(np.uint8))
        how = Image.Resampling.NEAREST if plain.width >= 2 * ink.width else Image.Resampling.BOX
        drawn, caption = [ink.resize(plain.size, how)], "The darker, the stronger."
    return ShownImage(source, sentence, png(_abreast([plain, *drawn])), caption)


def render_regions(view: RegionsView) -> str:
    """The page's text: nothing else is needed, no file, no network."""
    style = page_style()
    images: list[dict[str, Any]] = [
        {"source": one.source, "sentence": one.sentence, "caption": one.caption, "sheet": picture_uri(one.sheet)}
        for one in view.images]
    left = view.count - len(images)
    return template("regions.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, view=view, images=images,
        left=f"{left:,} further image{'s were' if left != 1 else ' was'} searched and not drawn." if left else "",
        command=shell_command(view.command))


def _with_boxes(plain: Image.Image, boxes: np.ndarray, shape: tuple[int, ...]) -> Image.Image:
    drawn = Image.fromarray((0.55 * np.asarray(plain)).astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    scale = np.array([plain.width / shape[1], plain.height / shape[0]] * 2)
    count = min(MAX_BOXES, len(boxes))
    tones = colours(np.linspace(1, 0.25, count))
    for box, tone in reversed(list(zip(boxes[:count] * scale, tones, strict=True))):
        left, top, right, bottom = box.tolist()
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=tuple(tone.tolist()), width=2)
    return drawn


def _resized(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels [H, W] at size = (width, height), the nearest."""
    rows = (np.arange(size[1]) + 0.5) * labels.shape[0] / size[1]
    columns = (np.arange(size[0]) + 0.5) * labels.shape[1] / size[0]
    return labels[rows.astype(np.int64)[:, None], columns.astype(np.int64)]


def _with_borders(plain: Image.Image, labels: np.ndarray) -> Image.Image:
    small, canvas = _resized(labels, plain.size), np.array(plain)
    border = np.zeros(small.shape, bool)
    border[:-1] |= small[:-1] != small[1:]
    border[:, :-1] |= small[:, :-1] != small[:, 1:]
    canvas[border] = _LINE
    return Image.fromarray(canvas)


def _in_mean_colours(plain: Image.Image, labels: np.ndarray) -> Image.Image:
    small, canvas = _resized(labels, plain.size).ravel(), np.asarray(plain).reshape(-1, 3)
    sizes = np.maximum(np.bincount(small), 1)
    means = np.stack([np.bincount(small, weights=channel) / sizes for channel in canvas.T], 1)
    return Image.fromarray(np.rint(means[small]).astype(np.uint8).reshape(plain.height, plain.width, 3))


def _abreast(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    tall = len(pictures) > 1 and width > 1.2 * height and len(pictures) == 3  # three wide ones: two rows
    columns = 2 if tall else len(pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), GROUND)
    for number, one in enumerate(pictures):
        sheet.paste(one.convert("RGB"), (number % columns * (width + GAP), number // columns * (height + GAP)))
    return sheet
