"""Odd image files, each with the pixels that a careful reader gives, or a part of the sentence that refuses it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = 40, 56


@dataclass(frozen=True)
class Case:
    """file: name on disk (bytes where it is not UTF-8). write: makes it. pixels: uint8 [H, W, C] expected, within
    `tolerance`; or refused: part of the message. note: part of a note that must be there."""

    file: str | bytes
    write: Callable[[bytes], None]
    pixels: np.ndarray | None = None
    refused: str | None = None
    note: str | None = None
    tolerance: int = 0

    def path(self, folder: Path) -> bytes:
        name = self.file if isinstance(self.file, bytes) else self.file.encode()
        return os.path.join(os.fsencode(folder), name)


def photo() -> np.ndarray:
    """uint8 [40, 56, 3], smooth and with another value in every corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x + y) * 255 // (WIDTH + HEIGHT - 2)],
                    -1).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """What Pillow itself makes of a plain file."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data)
            + png_chunk(b"IEND", b""))


def content(data: bytes) -> Callable[[bytes], None]:
    def write(path: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)
    return write


def cases() -> list[Case]:
    rgb = photo()
    image = Image.fromarray(rgb)
    grey = np.asarray(image.convert("L"))
    jpeg = encoded(image, "JPEG", quality=95)
    progressive = encoded(image, "JPEG", quality=95, progressive=True)
    plain_png = encoded(image, "PNG")
    jpeg_pixels = decoded(jpeg)
    found: list[Case] = []

    def good(name: str | bytes, data: bytes, pixels: np.ndarray, note: str | None = None, tolerance: int = 0) -> None:
        found.append(Case(name, content(data), pixels=pixels, note=note, tolerance=tolerance))

    def bad(name: str | bytes, data: bytes, refused: str) -> None:
        found.append(Case(name, content(data), refused=refused))

    # rows 1 to 7: nothing, too little, cut, something else
    bad("empty.jpg", b"", "empty file (0 bytes)")
    bad("one-byte.png", b"\x89", "too short")
    bad("cut-half.jpg", jpeg[:len(jpeg) // 2], "truncated")
    good("no-end-marker.jpg", jpeg[:-2], jpeg_pixels, "end marker is missing")
    bad("cut-progressive.jpg", progressive[:len(progressive) // 2], "truncated")
    bad("cut.png", plain_png[:len(plain_png) // 2], "truncated")
    damaged = bytearray(plain_png)
    damaged[plain_png.index(b"IDAT") + 20] ^= 0xFF
    bad("bad-crc.png", bytes(damaged), "damaged")
    bad("cut.gif", encoded(image, "GIF")[:-400], "truncated")
    bad("cut.webp", encoded(image, "WEBP", lossless=True)[:60], "damaged")
    bad("cut.bmp", encoded(image, "BMP")[:1000], "truncated")
    bad("cut.tif", encoded(image, "TIFF")[:1000], "truncated")
    bad("text.jpg", b"these are only words, and more words\n" * 5, "text file")
    bad("page.jpg", b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "HTML page")
    bad("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git-LFS pointer")
    bad("drawing.png", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG")
    bad("document.jpg", b"%PDF-1.7 and so on and on", "PDF")
    bad("archive.png", b"PK\x03\x04" + bytes(40), "ZIP")
    bad("zeros.jpg", bytes(5000), "zero bytes")
    bad("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(100), "HEIC")
    bad("noise.jpg", np.random.default_rng(0).bytes(4000), "not an image")
    # row 8: the name lies
    good("png-named.jpg", plain_png, rgb, "content is PNG")
    good("webp-named.jpg", encoded(image, "WEBP", lossless=True), rgb, "content is WEBP")
    # rows 9 to 13: colour and depth
    cmyk = Image.fromarray(rgb).convert("CMYK")
    good("cmyk.jpg", encoded(cmyk, "JPEG", quality=100, subsampling=0), rgb, "CMYK", tolerance=3)
    good("cmyk.tif", encoded(cmyk, "TIFF"), rgb, "CMYK")
    exif_image = Image.Exif()
    for orientation in range(2, 9):
        exif_image[0x0112] = orientation
        data = encoded(image, "JPEG", quality=95, exif=exif_image)
        good(f"exif-{orientation}.jpg", data, decoded(data), f"orientation {orientation} applied")
    exif_image[0x0112] = 9
    good("exif-9.jpg", encoded(image, "JPEG", quality=95, exif=exif_image), jpeg_pixels, "does not exist")
    exif_image[0x0112] = 6
    good("exif-6.png", encoded(image, "PNG", exif=exif_image), np.rot90(rgb, -1), "orientation 6 applied")
    good("exif-6.tif", encoded(image, "TIFF", exif=exif_image), np.rot90(rgb, -1), "orientation 6 applied")
    good("exif-damaged.jpg", encoded(image, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), jpeg_pixels)
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    scaled = np.rint(deep / 257).astype(np.uint8)[..., None]
    good("grey16.png", encoded(Image.fromarray(deep), "PNG"), scaled, "1/257")
    good("grey16.tif", encoded(Image.fromarray(deep), "TIFF"), scaled, "1/257")
    good("grey16.pgm", b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes(), scaled, "1/257")
    floats = np.linspace(-1, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    bad("float.tif", encoded(Image.fromarray(floats), "TIFF"), "floating-point")
    bad("int32.tif", encoded(Image.fromarray(deep.astype(np.int32) * 9), "TIFF"), "32-bit")
    bad("float.pfm", b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + floats.tobytes(), "floating-point")
    # rows 14 and 15: palettes, bits, alpha
    palette = image.quantize(32)
    good("palette.png", encoded(palette, "PNG"), np.asarray(palette.convert("RGB")))
    indices = np.asarray(palette)
    clear = np.asarray(palette.convert("RGB")).copy()
    clear[indices == 5] = 255
    good("palette-clear.png", encoded(palette, "PNG", transparency=5), clear, "composited on white")
    good("palette.gif", encoded(palette, "GIF"), np.asarray(palette.convert("RGB")))
    bits = grey > 127
    good("one-bit.png", encoded(Image.fromarray(bits), "PNG"), bits[..., None].astype(np.uint8) * 255)
    good("grey.png", encoded(Image.fromarray(grey), "PNG"), grey[..., None])
    flat_grey = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)
    good("grey.jpg", encoded(Image.fromarray(flat_grey[..., 0]), "JPEG"), flat_grey)
    alpha = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))
    share = alpha[..., None] / 255.0
    on_white = np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)
    grey_on_white = np.rint(grey[..., None] * share + 255 * (1 - share)).astype(np.uint8)
    good("grey-alpha.png", encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha.copy())]), "PNG"),
         grey_on_white, "composited on white")
    rgba = Image.merge("RGBA", [*image.split(), Image.fromarray(alpha.copy())])
    good("alpha.png", encoded(rgba, "PNG"), on_white, "composited on white")
    good("alpha.tif", encoded(rgba, "TIFF"), on_white, "composited on white")
    opaque = Image.merge("RGBA", [*image.split(), Image.new("L", (WIDTH, HEIGHT), 255)])
    good("opaque-alpha.png", encoded(opaque, "PNG"), rgb)
    good("colour-key.png", encoded(image, "PNG", transparency=tuple(int(v) for v in rgb[3, 7])),
         np.where((rgb == rgb[3, 7]).all(-1, keepdims=True), 255, rgb).astype(np.uint8), "composited on white")
    # row 16: several frames
    frames = [Image.fromarray(np.roll(rgb, 9 * k, 1)) for k in range(3)]
    good("moving.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), rgb,
         "3 frames")
    good("moving.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), rgb, "3 frames")
    good("pages.tif", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), rgb, "3 frames")
    flat = [f.quantize(16) for f in frames]
    good("moving.gif", encoded(flat[0], "GIF", save_all=True, append_images=flat[1:]),
         np.asarray(flat[0].convert("RGB")), "3 frames")
    # rows 17 to 20: sizes
    bad("dot.png", encoded(Image.new("RGB", (1, 1)), "PNG"), "under the limit of 2 pixels")
    bad("line.png", encoded(Image.new("RGB", (1, 4000)), "PNG"), "under the limit of 2 pixels")
    bad("strip.png", encoded(Image.new("L", (20000, 2)), "PNG"), "more than 100 times")
    rows = zlib.compress(bytes(30001), 9)
    bad("bomb.png", png(30000, 30000, rows), "megapixels")
    bad("lie.png", png(60000, 60000, zlib.compress(b"\0" * 100)), "megapixels")
    bad("lie.ppm", b"P6\n60000 60000\n255\n" + bytes(100), "megapixels")
    bad("short.ppm", b"P6\n400 400\n255\n" + bytes(100), "truncated")
    # rows 21 to 24: baggage
    grey_rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in grey))
    bomb = zlib.compress(bytes(64 << 20), 9)
    bad("text-bomb.png", png(WIDTH, HEIGHT, grey_rows, extra=png_chunk(b"zTXt", b"Comment\0\0" + bomb)), "metadata")
    found.append(Case("profile-bomb.png", content(
        png(WIDTH, HEIGHT, grey_rows, extra=png_chunk(b"iCCP", b"icc\0\0" + bomb))), refused="metadata"))
    good("bad-profile.jpg", encoded(image, "JPEG", quality=95, icc_profile=b"garbage" * 50), jpeg_pixels)
    good("zeros-behind.jpg", jpeg + bytes(1 << 20), jpeg_pixels)
    good("zip-behind.jpg", jpeg + b"PK\x03\x04" + bytes(500), jpeg_pixels)
    # rows 25 and 26: names
    for name in ("снимок 図 é.png", "<img src=x onerror=alert(1)>.png", "new\nline.png", "-dash.png",
                 "a" * 251 + ".png", b"not-utf8-\xff\xfe.png", "UPPER.PNG", "no-extension"):
        good(name, plain_png, rgb)
    good("photo.JFIF", jpeg, jpeg_pixels)
    avif = encoded(image, "AVIF", quality=90)
    good("photo.avif", avif, decoded(avif))
    # row 27: not a regular file
    found.append(Case("dangling.jpg", lambda p: os.symlink(b"nowhere.jpg", p), refused="dangling link"))
    found.append(Case("loop.jpg", lambda p: os.symlink(os.path.basename(p), p), refused="leads back to itself"))
    found.append(Case("fifo.jpg", lambda p: os.mkfifo(p), refused="FIFO"))
    return found


def write_zoo(folder: Path) -> list[Case]:
    """All files of the zoo, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = cases()
    for case in made:
        case.write(case.path(folder))
    return made


def tree_state(folder: Path) -> dict[bytes, tuple[int, int, bytes]]:
    """name -> (mode, time of change, content) of everything below: equal before and after means nothing was written."""
    state = {}
    for where, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(where, name)
            about = os.lstat(path)
            regular = os.path.isfile(path) and not os.path.islink(path)
            state[path] = (about.st_mode, about.st_mtime_ns, Path(os.fsdecode(path)).read_bytes() if regular else b"")
    return state
