"""The one place that opens image files: training, evaluation, prediction and serving see the same pixels.

A file gives the pixels that a careful viewer shows, or an ImageError that names it. No file is written.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from visus.core.errors import ImageError

MAX_PIXELS = 250_000_000
MIN_SIDE = 2
MAX_ASPECT = 100

# What a file name promises. MPO is a JPEG with more pictures behind the first.
EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "JPEG", ".png": "PNG",
    ".apng": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".gif": "GIF", ".avif": "AVIF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
}

# What its first bytes say.
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n", "GIF": rb"GIF8[79]a", "BMP": rb"BM",
    "WEBP": rb"RIFF....WEBP", "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "AVIF": rb"....ftypavi[fs]",
    "PPM": rb"P[1-6]\s",
}
_MAGIC_PATTERN = re.compile(b"|".join(b"(?P<%s>%s)" % (k.encode(), v) for k, v in _MAGIC.items()), re.DOTALL)
_HEAD_BYTES = 1024

_OTHER_FILES = [  # (first bytes, what it is, what to do)
    (rb"version https://git-lfs", "is a Git-LFS pointer, the image itself was not fetched",
     "Run: git lfs pull"),
    (rb"\s*<(!doctype\s+html|html|head|body)", "is an HTML page, not an image",
     "A download went wrong: fetch the image again"),
    (rb"\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!doctype svg.*?)?<svg", "is an SVG drawing, which has no pixels",
     "Export it as PNG"),
    (rb"%PDF-", "is a PDF document, not an image", "Export its pages as PNG"),
    (rb"PK\x03\x04", "is a ZIP archive, not an image", "Unpack it"),
    (rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)", "is a HEIC photo, which is not supported",
     "Convert it to JPEG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "is a JPEG 2000 image, which is not supported",
     "Convert it to PNG"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "is a JPEG XL image, which is not supported", "Convert it to PNG"),
    (rb"8BPS", "is a Photoshop document, which is not supported", "Export it as PNG"),
    (rb"P[Ff]\s", "is a floating-point image (PFM), whose value range is not known",
     "Convert it to 8-bit or 16-bit PNG with the range that you mean"),
]
_NOT_IMAGES = [(re.compile(pattern, re.DOTALL | re.IGNORECASE), what, remedy)
               for pattern, what, remedy in _OTHER_FILES]

_SMALLER = "Make the image smaller"
_DAMAGED = "Replace the file, or leave it out with --on-bad-image skip"

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
    """What a file says of itself before it is decoded. width, height: as shown, EXIF orientation applied."""

    width: int
    height: int
    channels: int
    format: str


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
    where = name if name is not None else ("image" if isinstance(source, bytes) else os.fspath(source))
    with _opened(source, where) as file, _lenient_pillow():
        kind = _recognise(file, where)
        image = _decoder(file, kind, where)
        _check_size(image.size, where, max_pixels, min_side, max_aspect)
        notes = [] if isinstance(source, bytes) else _extension_notes(os.fspath(source), kind)
        try:
            if kind == "TIFF":  # Pillow turns it while loading, and forgets the orientation
                _orientation(image, notes)
            image = _loaded(image, file, kind, notes)
            transposed = None if kind == "TIFF" else _orientation(image, notes)
            upright = image if transposed is None else image.transpose(transposed)
            pixels = _to_pixels(upright, kind, background, notes, where)
            frames = _frames(image)
        except ImageError:
            raise
        except MemoryError as error:
            raise ImageError("does not fit into memory", where=where, remedy=_SMALLER) from error
        except Exception as error:  # decoders raise anything on damaged files
            raise ImageError(_damage(error), where=where, remedy=_DAMAGED) from error
    if frames is None:
        notes.append("more than one frame, the first is used")
    elif frames > 1:
        notes.append(f"{frames} frames, the first is used")
    return ReadImage(pixels, tuple(notes))


def read_header(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE,
                max_aspect: float = MAX_ASPECT, name: str | None = None) -> ImageHeader:
    """The size and kind of an image file without decoding it.

    Raises ImageError as `read_image` does, except for damage that only decoding shows.
    """
    where = name if name is not None else ("image" if isinstance(source, bytes) else os.fspath(source))
    with _opened(source, where) as file, _lenient_pillow():
        kind = _recognise(file, where)
        image = _decoder(file, kind, where)
        _check_size(image.size, where, max_pixels, min_side, max_aspect)
        _check_mode(image, kind, where)
        width, height = image.size
        decodes = kind == "PNG" and "exif" not in image.info  # Pillow looks for EXIF behind the pixels
        transposed = None if decodes else _orientation(image, [])
        if kind != "TIFF" and transposed in _SWAPS_SIDES:  # Pillow swaps those of TIFF itself
            width, height = height, width
        channels = 1 if image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16") else 3
        return ImageHeader(width, height, channels, kind)


def looks_like_image(path: str) -> bool:
    """Whether the first bytes of a regular file are those of a format that `read_image` decodes."""
    try:
        with _opened(path, path) as file:
            return _MAGIC_PATTERN.match(file.read(16)) is not None
    except ImageError:
        return False


@contextmanager
def _opened(source: str | Path | bytes, where: str) -> Iterator[IO[bytes]]:
    """The file, opened only when it is a regular one: opening a FIFO or a device can hang or act."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    path = os.fspath(source)
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"is {_file_type(about.st_mode)}, not an image file", where=where,
                             remedy="Remove it from the data, or leave it out with --on-bad-image skip")
        file = open(path, "rb")  # noqa: SIM115 (closed below; opening has errors of its own)
    except OSError as error:
        raise ImageError(_open_problem(error, path), where=where,
                         remedy="Check the path and the permissions, or leave it out with --on-bad-image skip"
                         ) from error
    except ValueError as error:  # a NUL in the name
        raise ImageError("is not a possible file name", where=where) from error
    with file:
        yield file


def _file_type(mode: int) -> str:
    for test, text in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO (named pipe)"),
                       (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return text
    return "a device"


def _open_problem(error: OSError, path: str) -> str:
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"is a dangling link: its target {os.readlink(path)!r} does not exist"
    if error.errno == errno.ENOENT:
        return "no such file"
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    return f"cannot be opened: {error.strerror or error}"


def _recognise(file: IO[bytes], where: str) -> str:
    """The format by the first bytes, or an ImageError that says what the file is instead."""
    try:
        head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=where, remedy=_DAMAGED) from error
    file.seek(0)
    if not head:
        raise ImageError("empty file (0 bytes)", where=where, remedy=_DAMAGED)
    if not head.strip(b"\0"):
        raise ImageError("starts with nothing but zero bytes: a copy or download was cut", where=where,
                         remedy=_DAMAGED)
    match = _MAGIC_PATTERN.match(head)
    if match is not None:
        kind = match.lastgroup
        assert kind is not None
        return kind
    bare = head.removeprefix(b"\xef\xbb\xbf")
    for pattern, what, remedy in _NOT_IMAGES:
        if pattern.match(bare):
            raise ImageError(what, where=where, remedy=remedy)
    if len(head) < 12:
        raise ImageError(f"too short to be an image ({len(head)} byte{'s' if len(head) > 1 else ''})",
                         where=where, remedy=_DAMAGED)
    if _is_text(head):
        start = head[:40].decode("utf-8", "replace").split("\n")[0].strip()
        raise ImageError(f"is a text file, not an image (it starts with {start!r})", where=where,
                         remedy="Remove it from the data, or leave it out with --on-bad-image skip")
    raise ImageError("is not an image of a known format", where=where,
                     remedy="Known: " + ", ".join(sorted(_MAGIC)) + ". " + _DAMAGED)


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character cut by the end of the head
            return False
        text = head[:error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() for c in text)


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
                         where=where, remedy=_DAMAGED) from error


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
                         where=where, remedy=_DAMAGED)
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


def _loaded(image: Image.Image, file: IO[bytes], kind: str, notes: list[str]) -> Image.Image:
    """The image, decoded.

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
