"""The one place that opens image files: training, evaluation, prediction and serving see the same pixels.

A file gives the pixels that a careful viewer shows, or an ImageError that names it. No file is written.
"""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from visus.core.errors import ImageError
from visus.core.image_files import DAMAGED, EXTENSIONS, opened, read_small, recognise
from visus.core.image_files import looks_like_image as looks_like_image
from visus.core.jpeg import decode_jpeg, fast_jpeg, jpeg_layout

MAX_PIXELS = 250_000_000
MIN_SIDE = 2
MAX_ASPECT = 100

_QUICK_BYTES = 256 << 20  # a larger JPEG is read piece by piece

_SMALLER = "Make the image smaller"

# EXIF orientation -> the operation that makes the picture upright (CIPA DC-008, tag 0x0112)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = tuple(_UPRIGHT[value] for value in (5, 6, 7, 8))


@dataclass(frozen=True, slots=True)
class ReadImage:
    """pixels: uint8 [H, W, 3] RGB, or [H, W, 1] for a grey file. notes: what had to be decided, in words."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself before it is decoded. width, height: as shown, EXIF orientation (1 to 8) applied."""

    width: int
    height: int
    channels: int
    format: str
    orientation: int = 1


class Part(NamedTuple):
    """A box of an upright image, in its full-size pixels, wanted at 1 / `reduction` (1, 2, 4 or 8) of its size."""

    top: int
    left: int
    height: int
    width: int
    reduction: int = 1

    def reduced(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the reduced image of height x width pixels that hold the box, whole pixels of it."""
        top, left, box_height, box_width, by = self
        return (slice(top // by, min(-(-(top + box_height) // by), height)),
                slice(left // by, min(-(-(left + box_width) // by), width)))


Limits = tuple[int, int, float]  # max_pixels, min_side, max_aspect


def read_image(source: str | Path | bytes, *, background: tuple[int, int, int] = (255, 255, 255),
               max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, max_aspect: float = MAX_ASPECT,
               name: str | None = None) -> ReadImage:
    """Decode one image file (a path, or its bytes) to uint8 RGB or grey.

    EXIF orientation is applied, transparency composited on `background` (RGB, 0..255), 16-bit grey scaled
    by 1/257, CMYK converted, of several frames the first taken. `max_pixels`, `min_side` (pixels) and
    `max_aspect` (long side over short side) are checked from the header, before anything is decoded. `name`
    stands for bytes in messages.

    Raises ImageError, naming the file and the remedy: missing, not a regular file (never opened), not an
    image (and what it is instead), over the limits, of floating-point or 32-bit values, damaged or truncated.
    """
    return _read(source, None, background, (max_pixels, min_side, max_aspect), name)


def read_part(source: str | Path | bytes, choose: Callable[[int, int], Part], *,
              background: tuple[int, int, int] = (255, 255, 255), name: str | None = None) -> ReadImage:
    """The part that `choose(height, width)` of the upright image names, for training: less is decoded than in
    `read_image`.

    At reduction 1 the pixels are those of `read_image`. A reduced JPEG comes from shortened inverse cosine transforms,
    whoever decodes; of other formats the squares of `reduction` pixels are averaged. Raises as `read_image` does,
    except for damage below the part, which may go unseen.
    """
    return _read(source, choose, background, (MAX_PIXELS, MIN_SIDE, MAX_ASPECT), name)


def _read(source: str | Path | bytes, choose: Callable[[int, int], Part] | None, background: tuple[int, int, int],
          limits: Limits, name: str | None) -> ReadImage:
    where = name if name is not None else ("image" if isinstance(source, bytes) else os.fspath(source))
    quick = _quick_jpeg(source, choose, limits, where) if fast_jpeg() else None
    if quick is not None:
        return quick
    with opened(source, where) as file:
        kind = recognise(file, where)
        notes = [] if isinstance(source, bytes) else _extension_notes(os.fspath(source), kind)
        with _lenient_pillow():
            return _with_pillow(file, kind, choose, background, limits, notes, where)


def _quick_jpeg(source: str | Path | bytes, choose: Callable[[int, int], Part] | None, limits: Limits,
                where: str) -> ReadImage | None:
    """An ordinary JPEG, decoded by simplejpeg; None where Pillow has to look at it, or say what is wrong."""
    data = source if isinstance(source, bytes) else read_small(os.fspath(source), _QUICK_BYTES)
    layout = None if data is None else jpeg_layout(data)
    if data is None or layout is None:
        return None
    _check_size((layout.width, layout.height), where, *limits)
    notes = [] if isinstance(source, bytes) else _extension_notes(os.fspath(source), "JPEG")
    transposed = None
    if layout.described:
        with _lenient_pillow():
            try:
                transposed = _orientation(_decoder(io.BytesIO(data), "JPEG", where), notes)
            except ImageError:
                return None
    height, width = layout.height, layout.width
    if transposed in _SWAPS_SIDES:
        height, width = width, height
    if choose is None:
        pixels = decode_jpeg(data, layout)
    else:
        part = choose(height, width)
        by = part.reduction
        rows, columns = part.reduced(-(-height // by), -(-width // by))
        pixels = decode_jpeg(data, layout, by, rows.stop if transposed is None else None)
    if pixels is None:
        return None
    if transposed is not None:
        turned = np.array(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).transpose(transposed))
        pixels = turned if turned.ndim == 3 else turned[:, :, None]
    return ReadImage(pixels if choose is None else pixels[rows, columns], tuple(notes))


def _with_pillow(file: IO[bytes], kind: str, choose: Callable[[int, int], Part] | None,
                 background: tuple[int, int, int], limits: Limits, notes: list[str], where: str) -> ReadImage:
    image = _decoder(file, kind, where)
    _check_size(image.size, where, *limits)
    notes, part, by = list(notes), None, 1
    try:
        if kind == "TIFF":  # Pillow turns it while loading, and forgets the orientation
            _orientation(image, notes)
        if choose is not None and kind == "JPEG" and image.mode in ("L", "RGB"):
            width, height = image.size
            swapped = _orientation(image, []) in _SWAPS_SIDES
            part = choose(width, height) if swapped else choose(height, width)
            by = _shrink(image, part.reduction)
        image = _loaded(image, file, kind, by, notes)
        transposed = None if kind == "TIFF" else _orientation(image, notes)
        upright = image if transposed is None else image.transpose(transposed)
        pixels = _to_pixels(upright, kind, background, notes, where)
        frames = _frames(image)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("does not fit into memory", where=where, remedy=_SMALLER) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise ImageError(_damage(error), where=where, remedy=DAMAGED) from error
    if frames is None:
        notes.append("more than one frame, the first is used")
    elif frames > 1:
        notes.append(f"{frames} frames, the first is used")
    if choose is not None:
        pixels = _part_of(pixels, part or choose(*pixels.shape[:2]), by)
    return ReadImage(pixels, tuple(notes))


def _shrink(image: Image.Image, reduction: int) -> int:
    """Have Pillow decode a JPEG at 1 / reduction of its size. By how much it will be: `reduction`, or 1."""
    width, height = image.size
    if reduction > 1 and width >= reduction and height >= reduction:
        image.draft(image.mode, (width // reduction, height // reduction))
        assert image.size == (-(-width // reduction), -(-height // reduction)), "a draft of the size asked for"
        return reduction
    return 1


def _part_of(pixels: np.ndarray, part: Part, done: int) -> np.ndarray:
    """The part of an upright image that was already decoded at 1 / done of its size."""
    by = part.reduction // done
    height, width = pixels.shape[:2]
    rows, columns = part.reduced(-(-height // by), -(-width // by))
    if by == 1:
        return pixels[rows, columns]
    cut = pixels[rows.start * by:rows.stop * by, columns.start * by:columns.stop * by]
    grey = cut.shape[2] == 1
    reduced = np.array(Image.fromarray(cut[:, :, 0] if grey else cut).reduce(by))
    return reduced[:, :, None] if grey else reduced


def read_header(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE,
                max_aspect: float = MAX_ASPECT, name: str | None = None) -> ImageHeader:
    """The size and kind of an image file without decoding it.

    Raises ImageError as `read_image` does, except for damage that only decoding shows.
    """
    where = name if name is not None else ("image" if isinstance(source, bytes) else os.fspath(source))
    with opened(source, where) as file, _lenient_pillow():
        kind = recognise(file, where)
        image = _decoder(file, kind, where)
        _check_size(image.size, where, max_pixels, min_side, max_aspect)
        _check_mode(image, kind, where)
        width, height = image.size
        decodes = kind == "PNG" and "exif" not in image.info  # Pillow looks for EXIF behind the pixels
        transposed = None if decodes else _orientation(image, [])
        if kind != "TIFF" and transposed in _SWAPS_SIDES:  # Pillow swaps those of TIFF itself
            width, height = height, width
        channels = 1 if image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16") else 3
        turned = next((value for value, operation in _UPRIGHT.items() if operation == transposed), 1)
        return ImageHeader(width, height, channels, kind, turned)


@contextmanager
def stored_image(path: str) -> Iterator[Image.Image]:
    """The image as the file stores it, for what is no picture (maps of labels): not decoded yet, its palette and bits
    kept, EXIF not applied. Whatever the block raises about it becomes an ImageError that names the file."""
    with opened(path, path) as file, _lenient_pillow():
        image = _decoder(file, recognise(file, path), path)
        _check_size(image.size, path, MAX_PIXELS, 1, math.inf)
        try:
            yield image
        except ImageError:
            raise
        except MemoryError as error:
            raise ImageError("does not fit into memory", where=path, remedy=_SMALLER) from error
        except Exception as error:  # decoders raise anything on damaged files
            raise ImageError(_damage(error), where=path, remedy="Replace the file") from error


def _decoder(file: IO[bytes], kind: str, where: str) -> Image.Image:
    try:
        return Image.open(file, formats=[kind])
    except MemoryError as error:
        raise ImageError("does not fit into memory", where=where, remedy=_SMALLER) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"its header claims a size over the limit of {MAX_PIXELS / 1e6:.0f} megapixels",
                         where=where, remedy=_SMALLER) from error
    except Exception as error:  # plugins raise anything on damaged headers
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise ImageError(f"is a {kind} file with a damaged header" if unknown else _damage(error),
                         where=where, remedy=DAMAGED) from error


def _damage(error: Exception) -> str:
    text = str(error) or type(error).__name__
    lower = text.lower()
    if isinstance(error, EOFError) or any(w in lower for w in (
            "truncated", "not enough data", "unexpected end of file", "could not read", "unexpected eof")):
        return f"truncated: the file ends before the image does ({text})"
    if "too large" in lower or "max_text" in lower:
        return f"holds metadata that unpacks to an unreasonable size ({text})"
    return f"damaged: {text}"


def _check_size(size: tuple[int, int], where: str, max_pixels: int, min_side: int, max_aspect: float) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are {width * height / 1e6:.0f} megapixels, over the "
                         f"limit of {max_pixels / 1e6:.0f}", where=where, remedy=_SMALLER)
    short, long = min(size), max(size)
    if short < min_side:
        raise ImageError(f"{width} x {height} pixels: a side is under the limit of {min_side} pixels",
                         where=where, remedy=DAMAGED)
    if long > max_aspect * short:
        raise ImageError(f"{width} x {height} pixels: one side is more than {max_aspect:g} times the other",
                         where=where,
                         remedy="Cut the image into pieces, or leave it out with --on-bad-image skip")


def _check_mode(image: Image.Image, kind: str, where: str) -> None:
    if image.mode == "F":
        raise ImageError("holds floating-point values, whose range is not known", where=where,
                         remedy="Convert it to 8-bit or 16-bit with the range that you mean")
    if image.mode == "I" and kind == "TIFF":
        raise ImageError("holds 32-bit integers, whose range is not known", where=where,
                         remedy="Convert it to 8-bit or 16-bit with the range that you mean")
    if image.mode == "LAB":
        raise ImageError("is in the LAB colour space, which is not supported", where=where,
                         remedy="Convert it to RGB")


def _extension_notes(path: str, kind: str) -> list[str]:
    extension = os.path.splitext(path)[1].lower()
    promised = EXTENSIONS.get(extension)
    return [] if promised in (None, kind) else [f"extension {extension} but content is {kind}"]


def _orientation(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        notes.append("EXIF data is damaged and was ignored")
        return None
    transposed = _UPRIGHT.get(value) if isinstance(value, int) else None
    if transposed is not None:
        notes.append(f"EXIF orientation {value} applied")
    elif value != 1:
        notes.append(f"EXIF orientation {value!r} does not exist and was ignored")
    return transposed


def _loaded(image: Image.Image, file: IO[bytes], kind: str, reduction: int, notes: list[str]) -> Image.Image:
    """The image, decoded; a JPEG as `_shrink` had it reduced.

    A baseline JPEG that lacks its end marker is whole when two different continuations decode to equal
    pixels: then every block came from the file. Otherwise it is truncated.
    """
    try:
        image.load()
        return image
    except OSError as error:
        if kind != "JPEG" or "truncated" not in str(error) or image.info.get("progressive"):
            raise
        file.seek(0)
        data = file.read()
        ended, continued = (Image.open(io.BytesIO(data + tail + b"\xff\xd9"), formats=["JPEG"])
                            for tail in (b"", bytes(range(1, 251)) * 4))
        for again in (ended, continued):
            _shrink(again, reduction)
        if ended.tobytes() != continued.tobytes():
            raise
        notes.append("JPEG end marker is missing, all pixels are there")
        return ended


def _frames(image: Image.Image) -> int | None:
    """Number of frames of a decoded file; None when a later one is damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the first frame was decoded; only the count is unknown
        return None


def _to_pixels(image: Image.Image, kind: str, background: tuple[int, int, int], notes: list[str],
               where: str) -> np.ndarray:
    """A loaded Pillow image of any mode -> uint8 [H, W, 1 or 3]."""
    _check_mode(image, kind, where)
    mode = image.mode
    if mode.startswith("I"):  # 16-bit grey: 65535 -> 255
        values = np.asarray(image).astype(np.uint32).clip(0, 65535)
        notes.append("16-bit scaled by 1/257")
        return ((values + 128) // 257).astype(np.uint8)[:, :, None]
    if image.has_transparency_data:
        grey = mode in ("1", "L", "LA", "La") and len(set(background)) == 1
        layers = np.array(image.convert("LA" if grey and mode != "La" else "RGBA"))
        if grey and mode == "La":
            layers = layers[:, :, [0, 3]]
        colour, alpha = layers[:, :, :-1], layers[:, :, -1:]
        if alpha.min() == 255:
            return np.ascontiguousarray(colour)
        notes.append("alpha composited on " + _colour_name(background))
        canvas = np.asarray(background[:colour.shape[2]], np.uint32)
        alpha = alpha.astype(np.uint32)
        return ((colour * alpha + canvas * (255 - alpha) + 127) // 255).astype(np.uint8)
    if mode in ("1", "L"):
        return np.array(image.convert("L"))[:, :, None]
    if mode == "CMYK":
        notes.append("CMYK converted to RGB")
    return np.array(image.convert("RGB"))


def _colour_name(colour: tuple[int, int, int]) -> str:
    return {(255, 255, 255): "white", (0, 0, 0): "black"}.get(colour, f"RGB {colour}")


_lenient_lock = threading.Lock()
_lenient_depth = 0
_lenient_restore: tuple[Any, int | None] = (None, None)


@contextmanager
def _lenient_pillow() -> Iterator[None]:
    """Pillow silent and with our size limit while any thread is inside; afterwards as it was.

    Both are process-wide state: the first to enter sets them, the last to leave restores.
    """
    global _lenient_depth, _lenient_restore
    with _lenient_lock:
        if _lenient_depth == 0:
            quiet = warnings.catch_warnings()
            quiet.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _lenient_restore = (quiet, Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        _lenient_depth += 1
    try:
        yield
    finally:
        with _lenient_lock:
            _lenient_depth -= 1
            if _lenient_depth == 0:
                quiet, Image.MAX_IMAGE_PIXELS = _lenient_restore
                quiet.__exit__(None, None, None)
