"""Images with what is marked in them: boxes, outlines, keypoints with their skeleton, label maps, names and counts.

Colours: the eight of Okabe and Ito, Color Universal Design, 2008, that can be told apart with any colour vision, then
lighter and darker ones. Colour never stands alone: names are drawn beside it. Lines have a dark rim, so that they show
on any ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visus.core.errors import DataError
from visus.data.label_maps import IGNORED_WIDE, read_label_map
from visus.data.masks import runs_mask
from visus.data.objects import IGNORED, Objects
from visus.data.samples import Samples
from visus.report.heat import picture

_BASE = np.array([(86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0),
                  (0, 114, 178), (153, 153, 153)], np.float64)
LEFT, RIGHT, MIDDLE = (86, 180, 233), (230, 159, 0), (255, 255, 255)  # limbs, by the names of their keypoints
INK, MUTED = "#17212e", "#57657a"
RIM = (15, 20, 28)
MAX_NAMED = 40  # objects of an image whose names are drawn
CAPTION = 16  # px, height of a line of text
_NAMED_PX = 200  # pictures whose longer side is shorter have no names in them
_FINE = 2  # geometry is drawn this much larger, and reduced: smooth lines
_FILL, _REGION = 0.34, 0.6  # opacity of outlines and of regions
_FONT, _SMALL = ImageFont.load_default(12), ImageFont.load_default(11)


def colours(count: int) -> np.ndarray:
    """uint8 [count, 3]: one for each class, in their order; repeated after 24."""
    rows = np.concatenate([_BASE, 0.5 * _BASE + 127.5, 0.55 * _BASE])
    return np.rint(rows[np.arange(count) % len(rows)]).astype(np.uint8)


def draw_objects(pixels: np.ndarray, objects: Objects, classes: Sequence[str], side_px: int = 320) -> Image.Image:
    """The objects of one image drawn into it.

    pixels: uint8 [H, W, 1 or 3]. objects: of this image alone, in its pixels (`Objects.of`). side_px: longer side of
    the picture. Boxes around crowds and difficult objects are dashed; a hidden keypoint is a ring, a seen one a disc;
    limbs are blue on the left side of the body, orange on the right. Pictures below 200 px have thin lines, no names.
    """
    height, width = pixels.shape[:2]
    shown = picture(pixels, side_px)
    scale = shown.width / width, shown.height / height
    placed = _scaled(objects, scale[0] * _FINE, scale[1] * _FINE, side_px * _FINE)
    large = shown.resize((shown.width * _FINE, shown.height * _FINE), Image.Resampling.BILINEAR)
    palette = colours(len(classes))
    large = _filled(large, placed, palette)
    draw = ImageDraw.Draw(large)
    small_one = side_px < _NAMED_PX
    thick = 1 if small_one else 2
    order = np.argsort(-_areas(placed.boxes), kind="stable")
    for k in order.tolist():
        colour = _of(palette, placed.labels[k])
        for ring in placed.outlines.rings(k) if placed.outlines is not None else ():
            if len(ring) > 1:
                _line(draw, [*map(tuple, ring), tuple(ring[0])], colour, thick)
        _box(draw, placed.boxes[k], colour, thick, dashed=bool(placed.crowd[k] or placed.difficult[k]))
    if placed.keypoints is not None:
        for k in order.tolist():
            _limbs(draw, placed.keypoints[k], placed, _of(palette, placed.labels[k]), thick)
    small = large.reduce(_FINE)
    if not small_one:
        _names(small, placed, classes, palette, order)
    return small


def draw_regions(pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], side_px: int = 320) -> Image.Image:
    """A label map over its image, with the names of the larger regions.

    pixels: uint8 [H, W, 1 or 3]. labels: integers [H, W], -1 where nothing is claimed (grey and hatched).
    """
    shown = picture(pixels, side_px)
    places = [(np.arange(n) * (full / n)).astype(np.int64) for n, full in zip(
        (shown.height, shown.width), labels.shape, strict=True)]
    small = np.asarray(labels)[np.ix_(*places)]
    palette = colours(len(classes))
    known = (small >= 0) & (small < len(classes))
    ground = np.asarray(shown, np.float64)
    tint = palette[np.where(known, small, 0)].astype(np.float64)
    mixed = np.where(known[..., None], (1 - _REGION) * ground + _REGION * tint, 0.45 * ground + 70)
    y, x = np.indices(small.shape)
    mixed[~known & ((x + y) % 8 < 2)] = 90
    edge = np.zeros(small.shape, bool)
    edge[:, 1:] |= small[:, 1:] != small[:, :-1]
    edge[1:] |= small[1:] != small[:-1]
    mixed[edge] = 0.4 * mixed[edge] + 0.6 * np.array(RIM)
    image = Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
    taken: list[tuple[float, float, float, float]] = []
    most = np.argsort(-np.bincount(small[known], minlength=len(classes)))[:12 if side_px >= _NAMED_PX else 0]
    for label in most.tolist():
        where = small == label
        if where.mean() < 0.02:
            break
        row, column = _inside(where)
        name = fitted(classes[label], _SMALL, 90)
        wide = _SMALL.getlength(name) + 6
        _tag(image, name, _of(palette, label), [(column - wide / 2, row - 8)], taken)
    return image


def labels_of(samples: Samples, i: int) -> np.ndarray | None:
    """int32 [H, W], the labels of the pixels of image i, -1 for what is ignored; None where it has no label map.
    Raises DataError naming the file."""
    maps = samples.label_maps
    if maps is None or not maps.paths[i]:
        return None
    labels = read_label_map(maps, i, num_classes=len(samples.classes))
    ignored = IGNORED if labels.dtype == np.uint8 else IGNORED_WIDE
    return np.where(labels == ignored, -1, labels.astype(np.int32))


def legend(classes: Sequence[str], labels: Sequence[int], counts: Sequence[str], width: int) -> Image.Image:
    """Colour, name and count of each class in `labels`, in as many lines as they need (at most 3)."""
    palette, x = colours(len(classes)), 0.0
    rows: list[list[tuple[float, str, int]]] = [[]]
    for label, count in zip(labels, counts, strict=True):
        text = f"{fitted(classes[label], _SMALL, 110)} {count}".strip()
        wide = 14 + _SMALL.getlength(text) + 10
        if x + wide > width and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((x, text, label))
        x += wide
    left = sum(map(len, rows[3:]))
    image = Image.new("RGB", (width, max(1, CAPTION * min(3, len(rows)))), "white")
    draw = ImageDraw.Draw(image)
    for line, row in enumerate(rows[:3]):
        for x, text, label in row:
            draw.rectangle((x, 16 * line + 3, x + 9, 16 * line + 12), fill=_of(palette, label), outline=RIM)
            draw.text((x + 14, 16 * line + 1), text, fill=MUTED, font=_SMALL)
    if left:
        draw.text((width - 4, 33), f"+{left}", fill=MUTED, font=_SMALL, anchor="ra")
    return image


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> str:
    """The text, cut to this width; what cannot be printed becomes '?'."""
    text = "".join(c if c.isprintable() else "?" for c in text[:200])
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."


def _scaled(objects: Objects, across: float, down: float, side: int) -> Objects:
    """In pixels of the drawing; what is no number or far away is moved to where it can be drawn."""
    def near(points: np.ndarray) -> np.ndarray:
        return np.clip(np.nan_to_num(points), -side, 2 * side)

    outlines = objects.outlines
    if outlines is not None:
        outlines = replace(outlines, points=near(outlines.points * (across, down)))
    points = objects.keypoints
    if points is not None:
        points = np.concatenate([near(points[..., :2] * (across, down)), points[..., 2:]], -1)
    return replace(objects, boxes=near(objects.boxes * (across, down, across, down)), outlines=outlines,
                   keypoints=points)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.abs((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _of(palette: np.ndarray, label: int) -> tuple[int, int, int]:
    return tuple(palette[label].tolist())


def _filled(image: Image.Image, objects: Objects, palette: np.ndarray) -> Image.Image:
    """The image with the shapes of the objects laid over it; run-length masks have no line of their own but an edge."""
    if objects.outlines is None:
        return image
    for k in range(len(objects)):
        rings = [ring for ring in objects.outlines.rings(k) if len(ring) > 2]
        runs = objects.outlines.runs.get(k)
        if not rings and runs is None:
            continue
        mask, edge = Image.new("L", image.size), None
        draw = ImageDraw.Draw(mask)
        for ring in rings:
            draw.polygon([tuple(point) for point in ring], fill=255)
        if runs is not None:
            try:
                shape = Image.fromarray(runs_mask(runs)).resize(image.size, Image.Resampling.NEAREST)
            except DataError:  # larger than what is drawn
                continue
            mask.paste(shape)
            held = np.asarray(mask) > 0
            edge = held & ~(np.roll(held, 2, 0) & np.roll(held, -2, 0) & np.roll(held, 2, 1) & np.roll(held, -2, 1))
        colour = _of(palette, objects.labels[k])
        image.paste(Image.new("RGB", image.size, colour), mask=mask.point(lambda value: int(value * _FILL)))
        if edge is not None:
            image.paste(Image.new("RGB", image.size, colour), mask=Image.fromarray(edge))
    return image


def _line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, ...]], colour: tuple[int, int, int],
          width: int) -> None:
    draw.line(points, fill=RIM, width=(width + (2 if width > 1 else 1)) * _FINE, joint="curve")
    draw.line(points, fill=colour, width=width * _FINE, joint="curve")


def _box(draw: ImageDraw.ImageDraw, box: np.ndarray, colour: tuple[int, int, int], width: int,
         dashed: bool) -> None:
    x1, y1, x2, y2 = box.tolist()
    if not dashed:
        _line(draw, [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1), (x2, y1)], colour, width)
        return
    for a, b in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1.0)
        for start in np.arange(0, length, 12 * _FINE)[:200]:
            low, high = start / length, min(1.0, (start + 7 * _FINE) / length)
            _line(draw, [(a[0] + low * (b[0] - a[0]), a[1] + low * (b[1] - a[1])),
                         (a[0] + high * (b[0] - a[0]), a[1] + high * (b[1] - a[1]))], colour, width)


def _limbs(draw: ImageDraw.ImageDraw, points: np.ndarray, objects: Objects, colour: tuple[int, int, int],
           width: int) -> None:
    """points: [P, 3]."""
    sides = [_side(name, colour) for name in objects.keypoint_names]
    count = len(points)
    for a, b in objects.skeleton:
        if 0 <= a < count and 0 <= b < count and points[a, 2] > 0 and points[b, 2] > 0:
            tint = sides[a] if sides[a] == sides[b] else MIDDLE
            _line(draw, [tuple(points[a, :2]), tuple(points[b, :2])], tint, width)
    for point, tint in zip(points, sides, strict=True):
        if point[2] > 0:
            x, y, radius = point[0], point[1], 1.6 * width * _FINE
            box = (x - radius, y - radius, x + radius, y + radius)
            if point[2] > 1:
                draw.ellipse(box, fill=tint, outline=RIM, width=_FINE)
            else:
                draw.ellipse(box, fill=RIM, outline=tint, width=_FINE)


def _side(name: str, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    words = name.lower()
    if "left" in words or words.startswith(("l_", "l-")):
        return LEFT
    if "right" in words or words.startswith(("r_", "r-")):
        return RIGHT
    return MIDDLE if name else colour


def _names(image: Image.Image, objects: Objects, classes: Sequence[str], palette: np.ndarray,
           order: np.ndarray) -> None:
    taken: list[tuple[float, float, float, float]] = []
    for k in order[:MAX_NAMED].tolist():
        x1, y1, x2, y2 = (objects.boxes[k] / _FINE).tolist()
        name = fitted(classes[objects.labels[k]], _SMALL, 110) + (" (crowd)" if objects.crowd[k] else "")
        wide = _SMALL.getlength(name) + 6
        _tag(image, name, _of(palette, objects.labels[k]),
             [(x1 - 1, y1 - 15), (x2 - wide + 1, y1 - 15), (x1 - 1, y2 + 1), (x1 + 2, y1 + 2),
              (x2 - wide - 2, y2 - 16)], taken)


def _tag(image: Image.Image, name: str, colour: tuple[int, int, int], places: Sequence[tuple[float, float]],
         taken: list[tuple[float, float, float, float]]) -> None:
    """The name on its colour at the first place where nothing else is named; left out when there is none."""
    wide, tall = _SMALL.getlength(name) + 6, 15
    for x, y in places:
        x, y = min(max(x, 0.0), image.width - wide), min(max(y, 0.0), image.height - tall)
        if all(x >= c or x + wide <= a or y >= d or y + tall <= b for a, b, c, d in taken):
            taken.append((x, y, x + wide, y + tall))
            draw = ImageDraw.Draw(image)
            draw.rectangle((x, y, x + wide, y + tall - 1), fill=colour)
            dark = np.dot(colour, (0.299, 0.587, 0.114)) > 120
            draw.text((x + 3, y + 1), name, fill=RIM if dark else "white", font=_SMALL)
            return


def _inside(where: np.ndarray) -> tuple[int, int]:
    """(row, column) of a pixel deep inside a region, bool [h, w] with at least one pixel."""
    step = max(1, max(where.shape) // 96)
    held = where[::step, ::step]
    if not held.any():
        held, step = where, 1
    while True:
        framed = np.pad(held, 1)
        inner = held & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
        if not inner.any():
            row, column = np.argwhere(held)[int(held.sum()) // 2]
            return int(row) * step, int(column) * step
        held = inner
