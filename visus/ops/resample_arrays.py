"""Resizing uint8 images as NumPy arrays, without torch, to the same bytes as `ops.resample`.

The arithmetic is that of torch's antialiased uint8 kernels, which is Pillow's: the kernel is widened by the scale when
shrinking, its weights are rounded to 16-bit fixed point, columns come before rows, and each pass rounds to uint8.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from visus.core.errors import UserError

_LUMA = (19595, 38470, 7471)  # ITU-R 601 in 16-bit fixed point, as in ops.resample
_CUBIC = -0.5                 # the a of Keys' kernel that antialiased resampling takes (Pillow, torch)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H, W, channels]: grey is repeated, RGB becomes luma."""
    have = image.shape[2]
    if have == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    luma = image.astype(np.int32) @ np.array(_LUMA, np.int32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """uint8 [H, W, C] -> [height, width, C], size = (height, width). Raises UserError for an unknown interpolation."""
    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image
    if interpolation == "nearest":
        rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
        return image[rows][:, columns]
    if interpolation not in ("bilinear", "bicubic"):
        raise UserError("is not an interpolation", where=f"interpolation={interpolation}",
                        remedy="Take bilinear, bicubic or nearest")
    if width != size[1]:
        image = _along(image.transpose(1, 0, 2), size[1], interpolation).transpose(1, 0, 2)
    if height != size[0]:
        image = _along(image, size[0], interpolation)
    return np.ascontiguousarray(image)


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C] -> its centre; an odd remainder goes to the bottom and right."""
    height, width = image.shape[:2]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[top:top + size[0], left:left + size[1]]


def pad_to(image: np.ndarray, size: tuple[int, int], background: tuple[int, int, int]) -> np.ndarray:
    """[H, W, C] centred on a canvas of `size` in the colour `background` (RGB, 0..255)."""
    colour = to_channels(np.array(background, np.uint8).reshape(1, 1, 3), image.shape[2])
    canvas = np.empty((*size, image.shape[2]), np.uint8)
    canvas[:] = colour
    height, width = image.shape[:2]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top:top + height, left:left + width] = image
    return canvas


def _along(image: np.ndarray, out: int, interpolation: str) -> np.ndarray:
    """uint8 [N, M, C] -> [out, M, C]."""
    first, weights, precision = _taps(image.shape[0], out, interpolation)
    rows = image.reshape(image.shape[0], -1)
    total = np.full((out, rows.shape[1]), 1 << (precision - 1), np.int32)
    for tap in range(weights.shape[1]):  # one pass for each tap of the kernel, over all of the image
        at = np.minimum(first + tap, image.shape[0] - 1)  # beyond the kernel's end the weight is 0
        total += rows[at] * weights[:, tap, None]
    return np.clip(total >> precision, 0, 255).astype(np.uint8).reshape(out, *image.shape[1:])


@functools.lru_cache(maxsize=64)
def _taps(side: int, out: int, interpolation: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The first source index of each output [out], its fixed-point weights int32 [out, K], and their bits."""
    scale = side / out
    half = (1.0 if interpolation == "bilinear" else 2.0) * max(scale, 1.0)
    inverse = 1 / scale if scale >= 1 else 1.0
    most = math.ceil(half) * 2 + 1
    first, weights = np.zeros(out, np.int64), np.zeros((out, most))
    for place in range(out):
        center = scale * (place + 0.5)
        low = max(int(center - half + 0.5), 0)
        count = min(int(center + half + 0.5), side) - low
        count = max(0, min(count, most))
        distance = np.abs((np.arange(count) + low - center + 0.5) * inverse)
        values = np.maximum(1 - distance, 0) if interpolation == "bilinear" else _keys(distance)
        first[place], weights[place, :count] = low, values / values.sum()
    precision = 0
    largest = weights.max()
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    scaled = weights * (1 << precision)
    return first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), precision


def _keys(distance: np.ndarray) -> np.ndarray:
    a = _CUBIC
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _nearest(side: int, out: int) -> np.ndarray:
    """Source indices of torch's nearest-exact, in its float32 arithmetic."""
    scale = np.float32(side) / np.float32(out)
    at = np.floor((np.arange(out, dtype=np.float32) + np.float32(0.5)) * scale).astype(np.int64)
    return np.minimum(at, side - 1)
