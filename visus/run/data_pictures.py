"""Everything that `visus data show` draws of a set, put together as one PNG sheet or one page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visus.core.errors import DataError
from visus.core.seeds import permutation
from visus.data.samples import Samples
from visus.report import data_charts
from visus.report.data_charts import Chart
from visus.run.draw_data import CAPTION, INK, MUTED, draw_objects, draw_regions, fitted, labels_of, legend
from visus.run.measure_data import charts, label_shares

SHEET_PX = 992
ANNOTATED = 9
AUGMENTED = 4
_COLUMNS, _GAP, _HEAD = 3, 10, 34
_TILE = (SHEET_PX - (_COLUMNS + 1) * _GAP) // _COLUMNS
_TITLE_FONT, _FONT, _SMALL = ImageFont.load_default(18), ImageFont.load_default(12), ImageFont.load_default(11)


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """picture: the image with its marks, and its legend below. source: its name. captions: texts that describe it."""

    picture: Image.Image
    source: str
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataPictures:
    """contact: the contact sheet. annotated: images with their marks. charts: numbers. augmented: rows of pictures, the
    first of each is the image as it is; steps: the augmentation in words."""

    contact: Image.Image
    annotated: Sequence[Annotated] = ()
    charts: Sequence[Chart] = ()
    augmented: Sequence[Sequence[Image.Image]] = ()
    steps: str = ""


def look(samples: Samples, augment: str | Path | None = None) -> DataPictures:
    """All pictures of a set. augment: a recipe, or 'auto'. Raises RecipeError when that cannot be used."""
    from visus.run.inspect_data import draw_contact_sheet

    rows, words = augmented_rows(samples, augment) if augment is not None else ([], "")
    maps = samples.label_maps is not None and any(samples.label_maps.paths)
    return DataPictures(contact=draw_contact_sheet(samples), annotated=annotated(samples),
                        charts=charts(samples, label_shares(samples) if maps else None), augmented=rows, steps=words)


def annotated(samples: Samples, limit: int = ANNOTATED) -> list[Annotated]:
    """Up to `limit` images with their marks, chosen so that as many classes as can be are seen. Those that cannot be
    read are passed over."""
    if samples.objects is None and samples.label_maps is None and samples.captions is None:
        return []
    found: list[Annotated] = []
    for i in _varied(samples, 3 * limit):
        if len(found) == limit:
            break
        try:
            pixels = samples.read(i)
            picture, labels, counts = _marked(samples, i, pixels)
        except DataError:
            continue
        below = legend(samples.classes, labels, counts, _TILE) if labels else None
        whole = Image.new("RGB", (_TILE, picture.height + (below.height + 2 if below else 0)), "white")
        whole.paste(picture, ((_TILE - picture.width) // 2, 0))
        if below:
            whole.paste(below, (0, picture.height + 2))
        found.append(Annotated(picture=whole, source=samples.source(i),
                               captions=() if samples.captions is None else samples.captions[i]))
    return found


def augmented_rows(samples: Samples, recipe: str | Path) -> tuple[list[list[Image.Image]], str]:
    """(a row of pictures for each of a few images, the steps in words)."""
    from visus.run.augmented import DRAWS, chosen_augmentation, draw_augmented

    augmentation, size, words = chosen_augmentation(samples, recipe)
    side = (SHEET_PX - (DRAWS + 2) * _GAP) // (DRAWS + 1)
    rows: list[list[Image.Image]] = []
    for i in _varied(samples, 3 * AUGMENTED):
        if len(rows) == AUGMENTED:
            break
        try:
            rows.append(draw_augmented(samples, i, augmentation, size, side_px=side))
        except DataError:
            continue
    return rows, words


def sheet(pictures: DataPictures, title: str) -> Image.Image:
    """One picture of everything. title: above all of it."""
    blocks: list[Image.Image] = [_heading(title)] if title else []
    blocks.append(_framed(pictures.contact))
    if pictures.annotated:
        blocks.append(_heading("What is marked"))
        blocks += [_row([_captioned(one) for one in pictures.annotated[k:k + _COLUMNS]])
                   for k in range(0, len(pictures.annotated), _COLUMNS)]
    if pictures.charts:
        blocks.append(_heading("In numbers"))
        drawn = [data_charts.picture(chart) for chart in pictures.charts]
        blocks += [_row(drawn[k:k + 2]) for k in range(0, len(drawn), 2)]
    if pictures.augmented:
        blocks += [_heading("Augmented"), _line(pictures.steps)]
        blocks.append(_line("left: as it is; then as it comes in five epochs"))
        blocks += [_row(row) for row in pictures.augmented]
    size = max(block.width for block in blocks), sum(block.height for block in blocks) + _GAP
    whole = Image.new("RGB", size, "white")
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    return whole


def encoded(picture: Image.Image) -> bytes:
    """As PNG, or as JPEG of quality 90 where that is smaller."""
    files = []
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 90, "subsampling": 0})):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        files.append(file.getvalue())
    return min(files, key=len)


def row_picture(row: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side on white."""
    return _row(row)


def _marked(samples: Samples, i: int, pixels: np.ndarray) -> tuple[Image.Image, list[int], list[str]]:
    """(the image with its marks, labels in it, how many or how much of each)."""
    height, width = pixels.shape[:2]
    labels = labels_of(samples, i)
    if labels is not None:
        known = labels[(labels >= 0) & (labels < len(samples.classes))]
        shares = np.bincount(known, minlength=len(samples.classes)) / labels.size
        order = [k for k in np.argsort(-shares, kind="stable").tolist() if shares[k] > 0]
        return (draw_regions(pixels, labels, samples.classes, _TILE), order,
                [f"{100 * shares[k]:.2g}%" for k in order])
    if samples.objects is None:
        from visus.report.heat import picture

        return picture(pixels, _TILE), [], []
    objects = samples.objects.of(i, height, width)
    counts = np.bincount(objects.labels, minlength=len(samples.classes))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    return draw_objects(pixels, objects, samples.classes, _TILE), order, [str(counts[k]) for k in order]


def _varied(samples: Samples, limit: int) -> list[int]:
    """Up to `limit` images, drawn at random and the same each time: those first that show a class not yet seen."""
    order = permutation(len(samples), 0, "annotated images")[:4_000].tolist()
    if samples.label_maps is not None:
        marked = [i for i in order if samples.label_maps.paths[i]]
    elif samples.objects is not None:
        marked = [i for i in order if samples.objects.start[i + 1] > samples.objects.start[i]]
    elif samples.captions is not None:
        marked = [i for i in order if samples.captions[i]]
    else:
        marked = order
    seen: set[int] = set()
    first: list[int] = []
    later: list[int] = []
    for i in marked or order:
        held = set(np.flatnonzero(samples.targets[i]).tolist()) if samples.multi_label else {int(samples.targets[i])}
        (later if held <= seen else first).append(i)
        seen |= held
    return (first + later)[:limit]


def _heading(text: str) -> Image.Image:
    image = Image.new("RGB", (SHEET_PX, _HEAD), "white")
    ImageDraw.Draw(image).text((_GAP, _HEAD - 6), fitted(text, _TITLE_FONT, SHEET_PX - 2 * _GAP), fill=INK,
                               font=_TITLE_FONT, anchor="ls")
    return image


def _line(text: str) -> Image.Image:
    image = Image.new("RGB", (SHEET_PX, CAPTION + 2), "white")
    ImageDraw.Draw(image).text((_GAP, 1), fitted(text, _FONT, SHEET_PX - 2 * _GAP), fill=MUTED, font=_FONT)
    return image


def _captioned(one: Annotated) -> Image.Image:
    lines = [fitted(line, _SMALL, _TILE) for line in (one.source, *one.captions[:2])]
    image = Image.new("RGB", (one.picture.width, one.picture.height + CAPTION * len(lines)), "white")
    image.paste(one.picture, (0, 0))
    draw = ImageDraw.Draw(image)
    for k, line in enumerate(lines):
        draw.text((0, one.picture.height + CAPTION * k + 1), line, fill=MUTED if k == 0 else INK, font=_SMALL)
    return image


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    image = Image.new("RGB", (max(SHEET_PX, sum(p.width + _GAP for p in pictures) + _GAP),
                              max(p.height for p in pictures) + _GAP), "white")
    left = _GAP
    for picture in pictures:
        image.paste(picture, (left, _GAP // 2))
        left += picture.width + _GAP
    return image


def _framed(contact: Image.Image) -> Image.Image:
    image = Image.new("RGB", (max(SHEET_PX, contact.width), contact.height), "white")
    image.paste(contact, (0, 0))
    return image
