"""Heat maps as pictures: over a photograph, as tiles side by side, and a grid compared with itself."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Eleven steps of viridis (van der Walt, Smith, 2015), which grows evenly in lightness, also in grey and for the
# colour-blind.
VIRIDIS = np.array([
    (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140), (34, 168, 132),
    (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
])  # fmt: skip
# From blue through near white to red, for values around zero (Brewer's RdBu, reversed).
BLUE_RED = np.array([
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247), (253, 219, 199),
    (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
])  # fmt: skip
INK, MUTED, GROUND = "#17212e", "#57657a", "#ffffff"
GAP = 12
BAR_PX = 14  # height of a colour bar
FINE, FINE_TOP = 4096, 99.5  # places from which a map is fine; the percentile at which its scale ends
OVERLAY = 0.62  # share of the heat in a picture that shows through it


def colours(values: np.ndarray, scale: np.ndarray = VIRIDIS) -> np.ndarray:
    """Values in [0, 1], any shape -> uint8 [..., 3], along the colours of `scale`, [K, 3]."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(scale) - 1)
    low = np.minimum(place.astype(np.int64), len(scale) - 2)
    share = (place - low)[..., None]
    return np.rint((1 - share) * scale[low] + share * scale[low + 1]).astype(np.uint8)


def stretched(heat: np.ndarray) -> np.ndarray:
    """The values moved and scaled to [0, 1]; all zero where they are all the same."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def picture(pixels: np.ndarray, side_px: int) -> Image.Image:
    """uint8 [H, W, 1 or 3] as RGB whose longer side has side_px pixels; small ones keep their pixels as squares."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def plain(pixels: np.ndarray, side_px: int = 420) -> Image.Image:
    """The picture as it is, small ones enlarged to side_px."""
    return picture(pixels, max(side_px, *pixels.shape[:2]))


def overlay(pixels: np.ndarray, heat: np.ndarray, side_px: int = 420, signed: bool = False) -> Image.Image:
    """The picture, and beside it the heat [h, w] over the picture in grey, with the scale below. signed: zero in the
    middle of the scale, blue below it and red above."""
    shown = picture(pixels, side_px)
    top = 100.0 if heat.size < FINE else FINE_TOP  # a few pixels of a fine map would leave the rest dark
    most = float(np.percentile(np.abs(heat) if signed else heat, top))
    low, high = (-most, most) if signed else (float(heat.min()), most)
    scaled = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    scaled = np.clip(scaled, 0, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize(shown.size, Image.Resampling.BILINEAR))
    colour = BLUE_RED if signed else VIRIDIS
    grey = np.asarray(shown.convert("L"), np.float32)[..., None]
    mixed = Image.fromarray(np.rint((1 - OVERLAY) * grey + OVERLAY * colours(smooth, colour)).astype(np.uint8))
    width, height = shown.size
    sheet = Image.new("RGB", (2 * width + GAP, height + 2 * BAR_PX + 22), GROUND)
    sheet.paste(shown, (0, 0))
    sheet.paste(mixed, (width + GAP, 0))
    _scale(sheet, (width + GAP, height + 8), width, low, high, colour)
    return sheet


def _scale(sheet: Image.Image, corner: tuple[int, int], width: int, low: float, high: float,
           colour: np.ndarray = VIRIDIS) -> None:
    """A colour bar with its two ends named below."""
    bar = np.broadcast_to(colours(np.linspace(0, 1, width), colour), (BAR_PX, width, 3))
    sheet.paste(Image.fromarray(np.ascontiguousarray(bar)), corner)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    y = corner[1] + BAR_PX + 3
    draw.text((corner[0], y), f"{low:.3g}", fill=INK, font=font)
    draw.text((corner[0] + width, y), f"{high:.3g}", fill=INK, font=font, anchor="ra")


def tile_sheet(tiles: np.ndarray, names: tuple[str, ...], tile_px: int = 132, columns: int = 6) -> Image.Image:
    """Maps [K, h, w], each on a scale of its own from its least to its largest value, which is written below it."""
    count, height, width = tiles.shape
    columns = min(columns, count)
    scale = tile_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    cell = (size[0] + GAP, size[1] + 24 + GAP)
    sheet = Image.new("RGB", (columns * cell[0] - GAP, -(-count // columns) * cell[1] - GAP), GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        x, y = number % columns * cell[0], number // columns * cell[1]
        square = Image.fromarray(colours(stretched(tile))).resize(size, Image.Resampling.NEAREST)
        sheet.paste(square, (x, y))
        draw.text((x, y + size[1] + 4), name, fill=INK, font=font)
        draw.text((x + size[0], y + size[1] + 4), f"{tile.max():.2g}", fill=MUTED, font=font, anchor="ra")
    return sheet


def similarity_sheet(similarity: np.ndarray, side_px: int = 720) -> Image.Image:
    """[h, w, h, w] in [-1, 1]: for each place of a grid a tile, in which its likeness to every place is shown."""
    rows, columns = similarity.shape[:2]
    cell = max(1, (side_px // max(rows, columns) - 4) // max(rows, columns))
    tile_h, tile_w, gap = rows * cell, columns * cell, 4
    canvas = np.full((rows * (tile_h + gap) - gap, columns * (tile_w + gap) - gap, 3), 255, np.uint8)
    painted = colours((similarity + 1) / 2).repeat(cell, 2).repeat(cell, 3)  # [rows, columns, tile_h, tile_w, 3]
    for i in range(rows):
        for j in range(columns):
            y, x = i * (tile_h + gap), j * (tile_w + gap)
            canvas[y:y + tile_h, x:x + tile_w] = painted[i, j]
    left, top = 46, 26
    height, width = canvas.shape[:2]
    sheet = Image.new("RGB", (left + width, top + height + 2 * BAR_PX + 28), GROUND)
    sheet.paste(Image.fromarray(canvas), (left, top))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    stride = max(1, -(-max(rows, columns) // 14))
    for number in range(0, columns, stride):
        draw.text((left + number * (tile_w + gap) + tile_w / 2, top - 7), str(number), fill=MUTED, font=font,
                  anchor="ms")
    for number in range(0, rows, stride):
        draw.text((left - 8, top + number * (tile_h + gap) + tile_h / 2), str(number), fill=MUTED, font=font,
                  anchor="rm")
    draw.text((left, 2), "", fill=MUTED, font=font)
    _scale(sheet, (left, top + height + 8), width, -1.0, 1.0)
    draw.text((left + width / 2, top + height + BAR_PX + 11), "cosine; rows and columns of patches",
              fill=MUTED, font=font, anchor="ma")
    return sheet


def png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
