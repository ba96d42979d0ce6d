"""Resizing uint8 images as NumPy arrays, without torch, to the same bytes as `ops.resample`.

The arithmetic is that of torch's antialiased uint8 kernels, which is Pillow's: the kernel is widened by the scale when
shrinking, its weights are rounded to 16-bit fixed point, columns come before rows, and each pass rounds to uint8.

The sums of products are whole numbers below 2^31: a weight has at most 22 bits after the point and the weights of a
place sum to 1, their absolute values to less than 2, so that 255 * 2 * 2^22 < 2^31. Floats hold such numbers exactly,
float32 up to 2^24 and float64 up to 2^53, and so a pass is a product with a banded matrix, block by block, whatever the
order of its additions.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.core.errors import UserError

_LUMA = (19595, 38470, 7471)  # ITU-R 601 in 16-bit fixed point, as in ops.resample
_CUBIC = -0.5                 # the a of Keys' kernel that antialiased resampling takes (Pillow, torch)
_BLOCK = 16                   # outputs of a block: narrower ones cost calls, wider ones products with 0
_PRODUCTS = 250_000           # of one matrix product: libraries compute larger ones on several threads


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H, W, channels]: grey is repeated, RGB becomes luma."""
    have = image.shape[2]
    if have == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    luma = image.astype(np.int32) @ np.array(_LUMA, np.int32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear",
           window: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, C] -> [height, width, C], size = (height, width). window: (top, left, height, width) of the part of
    the result that is wanted; the rest is not computed. Raises UserError for an unknown interpolation."""
    if interpolation not in ("bilinear", "bicubic", "nearest"):
        raise UserError("is not an interpolation", where=f"interpolation={interpolation}",
                        remedy="Take bilinear, bicubic or nearest")
    top, left, rows, columns = window or (0, 0, *size)
    height, width = image.shape[:2]
    if interpolation == "nearest":
        if height != size[0]:
            image = image[_nearest(height, size[0])[top:top + rows]]
        else:
            image = image[top:top + rows]
        return image[:, _nearest(width, size[1])[left:left + columns]] if width != size[1] else \
            image[:, left:left + columns]
    down = None if height == size[0] else _band(height, size[0], interpolation, top, rows)
    across = None if width == size[1] else _band(width, size[1], interpolation, left, columns)
    if down is None:
        image = image[top:top + rows]
    else:
        image = image[down.low:down.high]  # the rows that are read
    if across is None:
        image = image[:, left:left + columns]
        if down is None:
            return image
    planes = image.transpose(2, 0, 1)  # [C, H, W]
    if across is not None:
        planes = _across(planes, across)
    if down is not None:
        planes = _down(planes, down)
    return np.stack(list(planes.astype(np.uint8, copy=False)), -1)  # quicker than a transposed copy


def centre(whole: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The window (top, left, height, width) of `size` in the middle of `whole`, both (height, width); an odd remainder
    goes to the bottom and right."""
    return round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2), *size


def pad_to(image: np.ndarray, size: tuple[int, int], background: tuple[int, int, int]) -> np.ndarray:
    """[H, W, C] centred on a canvas of `size` in the colour `background` (RGB, 0..255)."""
    colour = to_channels(np.array(background, np.uint8).reshape(1, 1, 3), image.shape[2])
    canvas = np.empty((*size, image.shape[2]), np.uint8)
    canvas[:] = colour
    height, width = image.shape[:2]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top:top + height, left:left + width] = image
    return canvas


@dataclass(frozen=True, eq=False)
class _Band:
    """The weights of some outputs of a pass as blocks on the diagonal of a matrix.

    blocks: (first and last + 1 output, first and last + 1 input, weights [inputs, outputs]). low, high: the inputs that
    are read; those of the blocks count from `low`. kind: the float type in which every sum is exact: of whole numbers,
    all divided by one power of 2. clip: whether a rounded sum can lie outside of 0..255.
    """

    blocks: tuple[tuple[int, int, int, int, np.ndarray], ...]
    outputs: int
    low: int
    high: int
    kind: type[np.floating[Any]]
    clip: bool


@functools.lru_cache(maxsize=64)
def _band(side: int, out: int, interpolation: str, start: int, count: int) -> _Band:
    """Of the outputs start to start + count - 1."""
    first, weights, precision = _taps(side, out, interpolation)
    first, weights = first[start:start + count], weights[start:start + count]
    taps = weights.shape[1]
    largest = 255 * int(np.abs(weights.astype(np.int64)).sum(1).max()) + (1 << (precision - 1))
    assert largest < 1 << 31
    kind: type[np.floating[Any]] = np.float32 if largest < 1 << 24 else np.float64
    low, high = int(first[0]), min(side, int(first.max()) + taps)
    blocks = []
    for at in range(0, count, _BLOCK):
        until = min(count, at + _BLOCK)
        begin, end = int(first[at]), min(side, int(first[until - 1]) + taps)
        matrix = np.zeros((end - begin, until - at), kind)
        for place in range(at, until):
            inside = min(taps, end - int(first[place]))  # beyond the kernel's end the weights are 0
            matrix[first[place] - begin:first[place] - begin + inside, place - at] = weights[place, :inside]
        matrix *= 2.0 ** -precision
        blocks.append((at, until, begin - low, end - low, matrix))
    clip = bool((weights < 0).any() or largest >= 256 << precision)
    return _Band(tuple(blocks), count, low, high, kind, clip)


def _across(planes: np.ndarray, band: _Band) -> np.ndarray:
    """[C, H, W] -> whole numbers in 0..255 [C, H, outputs]."""
    lines = planes[:, :, band.low:band.high].astype(band.kind, order="C").reshape(-1, band.high - band.low)
    total = np.empty((len(lines), band.outputs), band.kind)
    for at, until, begin, end, matrix in band.blocks:
        step = max(1, _PRODUCTS // matrix.size)
        for line in range(0, len(lines), step):
            np.matmul(lines[line:line + step, begin:end], matrix, out=total[line:line + step, at:until])
    return _rounded(total, band).reshape(*planes.shape[:2], band.outputs)


def _down(planes: np.ndarray, band: _Band) -> np.ndarray:
    """[C, H, W], of which the first row is the band's first -> whole numbers in 0..255 [C, outputs, W]."""
    planes = planes.astype(band.kind, order="C", copy=False)
    total = np.empty((planes.shape[0], band.outputs, planes.shape[2]), band.kind)
    for at, until, begin, end, matrix in band.blocks:
        step = max(1, _PRODUCTS // matrix.size)
        for plane, sums in zip(planes, total, strict=True):
            for column in range(0, planes.shape[2], step):
                np.matmul(matrix.T, plane[begin:end, column:column + step], out=sums[at:until, column:column + step])
    return _rounded(total, band)


def _rounded(total: np.ndarray, band: _Band) -> np.ndarray:
    total += 0.5
    if band.clip:
        np.clip(total, 0, 255, out=total)
    return np.floor(total, out=total)


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
