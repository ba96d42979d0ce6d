"""Pictures that claim, or have, far more pixels than bytes; written by hand, as no encoder would hold them."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

BLOCK = 1 << 20  # zeros that are packed once, as a block that can follow itself (RFC 1951)
ROW_KINDS = {1: (1, 0), 8: (8, 0), 24: (8, 2)}  # bits of a pixel -> bit depth and colour type of a PNG


def png(width: int, height: int, bits: int = 24, rows: int | None = None) -> bytes:
    """A black PNG (RFC 2083) of width x height pixels; `rows` of them are there, all when None."""
    depth, colour = ROW_KINDS[bits]
    size = (1 + (width * bits + 7) // 8) * (height if rows is None else rows)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    blocks = [packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    last = packer.compress(bytes(size % BLOCK)) + packer.flush()
    checksum = struct.pack(">HH", size % 65521, 1)  # Adler-32 of zeros
    packed = b"\x78\xda" + blocks[1] * (size // BLOCK) + last + checksum
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
            + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with_text(size: int) -> bytes:
    """A small PNG with a compressed text of `size` bytes (zTXt), which decoders unpack before the picture."""
    small = png(8, 8)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9))
    return small[:33] + text + small[33:]


def claiming(kind: str, side: int) -> bytes:
    """A small picture of the kind whose header says side x side pixels."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 90)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = bytearray(file.getvalue())
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place:place + 4] = struct.pack(">HH", side, side)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
        place = data.index(b",")
        data[place + 5:place + 9] = struct.pack("<HH", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "WEBP":
        place = data.index(b"VP8L") + 9
        old = int.from_bytes(data[place:place + 4], "little") & ~0xFFFFFFF
        data[place:place + 4] = (old | (side - 1) | (side - 1) << 14).to_bytes(4, "little")
    elif kind == "TIFF":
        start, = struct.unpack_from("<I", data, 4)
        for entry in range(struct.unpack_from("<H", data, start)[0]):
            at = start + 2 + 12 * entry
            tag, held = struct.unpack_from("<HH", data, at)
            if tag in (256, 257):
                struct.pack_into("<H" if held == 3 else "<I", data, at + 8, side)
    return bytes(data)
