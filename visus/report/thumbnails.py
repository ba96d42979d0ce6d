"""Thumbnails of a run as data URIs. Only raster files that lie in the run's own images/ folder are taken."""

from __future__ import annotations

import base64
from pathlib import Path

from visus.core.errors import UserError
from visus.core.files import child

FOLDER = "images"
MAX_BYTES = 512 << 10


def data_uri(run: Path, image: str) -> str | None:
    """`image` (relative to the run folder) as a data URI.

    None when it is missing, lies outside of run/images (links are followed first), is larger than MAX_BYTES or is
    not PNG, JPEG or WebP by its first bytes.
    """
    data = encoded(run, image)
    return None if data is None else picture_uri(data)


def picture_uri(data: bytes) -> str:
    """An encoded PNG, JPEG or WebP file as a data URI."""
    return f"data:image/{_kind(data)};base64,{base64.b64encode(data).decode('ascii')}"


def encoded(run: Path, image: str) -> bytes | None:
    """The bytes of the file, under the same conditions."""
    try:
        path = child(run / FOLDER, str(run.resolve() / image))
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        data = path.read_bytes()
    except (UserError, OSError, ValueError):  # ValueError: a name that holds a null character
        return None
    return data if _kind(data) else None


def is_small(uri: str) -> bool:
    """Whether a PNG is at most 64 px wide: such a one is shown with its pixels as squares."""
    head = base64.b64decode(uri.partition(",")[2][:32])
    return uri.startswith("data:image/png") and int.from_bytes(head[16:20], "big") <= 64


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None
