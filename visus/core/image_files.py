"""What a file is before it is decoded: a regular file, and an image by its first bytes, or what it is instead."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from visus.core.errors import ImageError

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

DAMAGED = "Replace the file, or leave it out with --on-bad-image skip"


def looks_like_image(path: str) -> bool:
    """Whether the first bytes of a regular file are those of a format that `read_image` decodes."""
    try:
        with opened(path, path) as file:
            return _MAGIC_PATTERN.match(file.read(16)) is not None
    except ImageError:
        return False


@contextmanager
def opened(source: str | Path | bytes, where: str) -> Iterator[IO[bytes]]:
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


def read_small(path: str, limit: int) -> bytes | None:
    """The bytes of a regular file of 1 to `limit` bytes; None for any other, whose trouble `opened` puts into words."""
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= limit:
            return None
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(handle, about.st_size + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return None
    return data if len(data) == about.st_size else None


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


def recognise(file: IO[bytes], where: str) -> str:
    """The format by the first bytes, or an ImageError that says what the file is instead."""
    try:
        head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=where, remedy=DAMAGED) from error
    file.seek(0)
    if not head:
        raise ImageError("empty file (0 bytes)", where=where, remedy=DAMAGED)
    if not head.strip(b"\0"):
        raise ImageError("starts with nothing but zero bytes: a copy or download was cut", where=where,
                         remedy=DAMAGED)
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
                         where=where, remedy=DAMAGED)
    if _is_text(head):
        start = head[:40].decode("utf-8", "replace").split("\n")[0].strip()
        raise ImageError(f"is a text file, not an image (it starts with {start!r})", where=where,
                         remedy="Remove it from the data, or leave it out with --on-bad-image skip")
    raise ImageError("is not an image of a known format", where=where,
                     remedy="Known: " + ", ".join(sorted(_MAGIC)) + ". " + DAMAGED)


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
