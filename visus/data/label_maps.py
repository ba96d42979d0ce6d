"""Maps of labels from image files: one label for each pixel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from visus.core.errors import DataError, ImageError
from visus.core.images import stored_image
from visus.data.objects import IGNORED, LabelMaps

IGNORED_WIDE = -1  # where there are more classes than a byte holds
_KINDS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
_AT_ONCE = 1 << 20  # pixels looked up in one go, so that memory stays at a few bytes a pixel
_UNKNOWN = np.iinfo(np.int32).min


def read_label_map(maps: LabelMaps, i: int, size: tuple[int, int] | None = None,
                   num_classes: int | None = None) -> np.ndarray:
    """The labels of image i: uint8 [H, W], 255 (`IGNORED`) where nothing is claimed.

    size: (height, width) of the image, which the map must have; an image without a map is ignored all over.
    num_classes: all of them, where the map of one image names only some. With more than 254 of them the labels are
    int32, and -1 (`IGNORED_WIDE`) is ignored.

    Raises DataError naming the file: not a map that can be read, another size, values that stand for no class (with
    the nearest that do).
    """
    table = dict(maps.table)
    if maps.per_image is not None:
        table.update(maps.per_image[i])
    highest = max(table.values(), default=-1) + 1 if num_classes is None else num_classes
    dtype, ignored = (np.uint8, IGNORED) if highest <= 254 else (np.int32, IGNORED_WIDE)
    if not maps.paths[i]:
        if size is None:
            raise DataError("has no map of labels", where=f"image {i}", remedy="Give the size of the image")
        return np.full(size, ignored, dtype)
    path = maps.path(i)
    values = read_values(path, colours=maps.colours)
    if size is not None and values.shape != tuple(size):
        turned = " (the two are swapped: is the image turned by EXIF?)" if values.shape == size[::-1] else ""
        raise DataError(f"has {values.shape[1]} x {values.shape[0]} pixels, its image {size[1]} x {size[0]}{turned}",
                        where=path, remedy="Give each image a map of its own size")
    keys = np.array(sorted(table), np.int64)
    labels = np.array([table[key] for key in keys.tolist()], np.int64)
    labels = np.where(labels < 0, ignored, labels).astype(np.int32)
    out = np.empty(values.shape, dtype)
    rows = max(1, _AT_ONCE // max(1, values.shape[1]))
    unknown: dict[int, int] = {}
    for top in range(0, len(values), rows):
        block = values[top:top + rows]
        found = _looked_up(block, keys, labels)
        strange = found == _UNKNOWN
        if strange.any():
            for value, count in zip(*np.unique(block[strange], return_counts=True), strict=True):
                unknown[int(value)] = unknown.get(int(value), 0) + int(count)
        else:
            out[top:top + rows] = found
    if unknown:
        raise DataError(_unknown_values(unknown, keys, maps.colours), where=path,
                        remedy="Correct these pixels, or add the values to the table of classes")
    return out


def read_values(path: str, *, colours: bool = False) -> np.ndarray:
    """What the pixels of an image file hold: [H, W] of uint8, uint16 or int32, or uint32 R + 256 G + 65536 B.

    colours: the colours that are seen; else grey levels, or positions in the palette. Raises DataError naming the file:
    not a PNG, BMP, TIFF, GIF or PPM (a JPEG changes values), over the limit of pixels, damaged, colours where numbers
    are wanted.
    """
    with stored_image(path) as image:
        if image.format not in _KINDS:
            raise ImageError(f"is a {image.format} file: it cannot hold a map of labels, as it changes values",
                             where=path, remedy="Save maps of labels as PNG")
        if image.mode == "F":
            raise ImageError("holds floating-point values, not numbers of classes", where=path,
                             remedy="Save maps of labels as PNG of 8 or 16 bits")
        image.load()
        return _coded(image, path) if colours else _numbers(image, path)


def stored_mode(path: str) -> str:
    """How an image file stores its pixels, by its header: Pillow's mode, such as L, P, I;16, RGB. Raises ImageError."""
    with stored_image(path) as image:
        return image.mode


def distinct_values(values: np.ndarray) -> set[int]:
    """What occurs in the result of `read_values`, without sorting pixels."""
    if values.dtype in (np.uint8, np.uint16, np.uint32):
        seen = np.zeros(1 << 24 if values.dtype == np.uint32 else np.iinfo(values.dtype).max + 1, bool)
        seen[values] = True
        return set(np.flatnonzero(seen).tolist())
    return set(np.unique(values).tolist())


def colour_code(red: int, green: int, blue: int) -> int:
    return red + 256 * green + 65536 * blue


def colour_name(code: int) -> str:
    """'#4080c0' of a colour code."""
    return f"#{code & 255:02x}{code >> 8 & 255:02x}{code >> 16 & 255:02x}"


def _numbers(image: Image.Image, path: str) -> np.ndarray:
    if image.mode in ("L", "P", "1") or image.mode.startswith("I"):
        values = np.asarray(image)
        return values.astype(np.uint8) if values.dtype == bool else values.astype(
            values.dtype.newbyteorder("="), copy=False)
    layers = np.asarray(image if image.mode in ("LA", "PA", "RGB", "RGBA") else image.convert("RGB"))
    grey = layers[..., 0]
    if image.mode not in ("LA", "PA") and not (np.array_equal(grey, layers[..., 1])
                                               and np.array_equal(grey, layers[..., 2])):
        raise ImageError("holds colours, where the number of a class is wanted for each pixel", where=path,
                         remedy="Say which colour is which class: classes.csv with lines of name,r,g,b")
    return grey


def _coded(image: Image.Image, path: str) -> np.ndarray:
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        raise ImageError("holds numbers of more than 8 bits, where colours are wanted", where=path,
                         remedy="Give maps of one kind")
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB") or [], np.uint32).reshape(-1, 3)
        codes = np.zeros(256, np.uint32)
        codes[:len(palette)] = palette @ np.array([1, 256, 65536], np.uint32)
        return codes[np.asarray(image)]
    layers = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))
    code = layers[..., 2].astype(np.uint32)
    for layer in (1, 0):
        code <<= 8
        code |= layers[..., layer]
    return code


def _looked_up(values: np.ndarray, keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int32, `_UNKNOWN` for a value that is no key."""
    if values.dtype in (np.uint8, np.uint16):
        whole = np.full(np.iinfo(values.dtype).max + 1, _UNKNOWN, np.int32)
        inside = (keys >= 0) & (keys < len(whole))
        whole[keys[inside]] = labels[inside]
        return whole[values]
    if not len(keys):
        return np.full(values.shape, _UNKNOWN, np.int32)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return np.where(keys[place] == values, labels[place], np.int32(_UNKNOWN))


def _unknown_values(unknown: Mapping[int, int], keys: np.ndarray, colours: bool) -> str:
    shown = []
    for value, count in sorted(unknown.items(), key=lambda item: -item[1])[:10]:
        text = f"{colour_name(value) if colours else value} ({count:,} pixels"
        if len(keys):
            near = int(keys[np.argmin(_distance(keys, value, colours))])
            text += f", nearest {colour_name(near) if colours else near}"
        shown.append(text + ")")
    more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
    kind = "colour" if colours else "value"
    return f"{len(unknown):,} {kind}{'s' if len(unknown) > 1 else ''} that stand for no class: {', '.join(shown)}{more}"


def _distance(keys: np.ndarray, value: int, colours: bool) -> np.ndarray:
    if not colours:
        return np.abs(keys - value)
    return sum((np.abs((keys >> shift & 255) - (value >> shift & 255)) for shift in (0, 8, 16)), np.zeros(len(keys)))
