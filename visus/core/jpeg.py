"""JPEG files through simplejpeg (extra `fast`), where it gives the very pixels that Pillow gives, and faster.

Both are libjpeg-turbo with the accurate integer transform and smooth colour upsampling, so whoever decodes, the bits
are the same; whatever is unusual about a file is left to Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

REDUCTIONS = (1, 2, 4, 8)  # what the inverse cosine transform can give directly: every REDUCTIONS-th pixel, averaged
_CONTEXT_ROWS = 8  # smooth upsampling looks at the colours of the next rows

# Frames that are decoded here: baseline, extended and progressive, Huffman coded (ITU-T T.81, table B.1)
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


@dataclass(frozen=True, slots=True)
class JpegLayout:
    """What the markers of a JPEG say. height, width: as stored. components: 1 or 3. block_rows: pixel rows of one row
    of coded blocks. sequential: rows are coded from top to bottom, once. described: it has EXIF or XMP data, which may
    turn it. height_at: where in the file its height is written."""

    height: int
    width: int
    components: int
    block_rows: int
    sequential: bool
    described: bool
    height_at: int


def jpeg_layout(data: bytes) -> JpegLayout | None:
    """The layout of a whole JPEG of one picture, 8 bits, grey or three colours; None for any other."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    position, described, found = 2, False, None
    end = len(data)
    while position + 4 <= end:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2:position + 4], "big")
        body = position + 4
        if length < 2 or body + length - 2 > end:
            return None
        if marker == 0xDA:
            return None if found is None else JpegLayout(*found[:5], described, found[5])
        if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
            if found is not None or length < 8 or data[body] != 8:
                return None
            height, width = (int.from_bytes(data[body + at:body + at + 2], "big") for at in (1, 3))
            components = data[body + 5]
            if components not in (1, 3) or length < 8 + 3 * components or not height or not width:
                return None
            sampling = max(data[body + 7 + 3 * c] & 15 for c in range(components))
            found = (height, width, components, 8 * sampling, marker != _PROGRESSIVE, body + 1)
        elif marker in _OTHER_FRAMES:
            return None
        elif marker == 0xE1:
            described = True
        elif marker < 0xC0 or marker in (0xD8, 0xD9) or (marker == 0xE2 and data[body:body + 4] == b"MPF\0"):
            return None  # no segment, or one that says that more pictures follow
        position = body + length - 2
    return None


def decode_jpeg(data: bytes, layout: JpegLayout, reduction: int = 1, last_row: int | None = None) -> np.ndarray | None:
    """uint8 [ceil(height / reduction), ceil(width / reduction), components], as stored, or its first rows.

    reduction: one of `REDUCTIONS`. last_row: rows of the result from this one on are not needed; at least so many are
    given where that saves work. None where simplejpeg is not installed or finds anything wrong with the file.
    """
    library = _simplejpeg()
    if library is None:
        return None
    height, strict = layout.height, True
    if last_row is not None and layout.sequential:
        rows = -(-(last_row * reduction + _CONTEXT_ROWS) // layout.block_rows) * layout.block_rows
        if rows < height:  # a smaller height in the header: the rest of the coded rows is passed over
            data = data[:layout.height_at] + rows.to_bytes(2, "big") + data[layout.height_at + 2:]
            height, strict = rows, False  # what is passed over is a warning
    size = -(-height // reduction), -(-layout.width // reduction)
    try:
        pixels = library.decode_jpeg(data, "RGB" if layout.components == 3 else "GRAY", min_height=size[0],
                                     min_width=size[1], min_factor=reduction, strict=strict)
    except (ValueError, RuntimeError, MemoryError):  # Pillow has the last word on it
        return None
    return pixels if pixels.shape == (*size, layout.components) else None


def fast_jpeg() -> bool:
    """Whether simplejpeg is installed."""
    return _simplejpeg() is not None


def jpeg_decoder() -> str:
    """Who decodes JPEG files here, with version."""
    library = _simplejpeg()
    if library is not None:
        return f"simplejpeg {library.__version__}"
    import PIL

    return f"Pillow {PIL.__version__}"


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
