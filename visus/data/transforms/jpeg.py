"""What JPEG compression does to an image, for a whole batch at once.

The lossy part of ITU-T T.81 with 4:2:0 colours as libjpeg does it: YCbCr, halved colour planes, 8 x 8 cosine transform,
quantisation, and all of it back. The lossless part, the coding of the numbers, changes no pixel and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.groups import on_chosen
from visus.data.transforms.levels import as_levels

# T.81, tables K.1 and K.2
_LUMINANCE = ((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
              (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
              (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99))
_CHROMINANCE = ((17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
                (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4)
_RED, _BLUE = 0.299, 0.114  # T.871: luma weights; green has the rest


@dataclass(frozen=True)
class JPEGCompression:
    """Compressed and decompressed at a quality drawn from `quality` (1 to 100, libjpeg's scale), with `probability`.

    Of photographs the mean difference from Pillow is below 0.35 of 255 levels.
    """

    quality: tuple[int, int] = (30, 95)
    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "quality", self.quality, 1, 100)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        low, high = self.quality
        quality = np.floor(low + u[:, 0] * (high - low + 1))
        return on_chosen(images, u[:, 1] < self.probability, as_levels(jpeg), quality)


def jpeg(images: Tensor, quality: np.ndarray) -> Tensor:
    """uint8 [B, 3 or 1, H, W] at qualities [B] -> uint8 of the same shape."""
    height, width = images.shape[-2:]
    tables = [torch.from_numpy(_table(table, quality)).to(images.device)[:, None, None, :, None, :]
              for table in (_LUMINANCE, _CHROMINANCE)]
    planes = images.to(torch.float32)
    if images.shape[1] == 1:
        return _quantised(_filled(planes, 8), tables[0])[..., :height, :width].to(torch.uint8)
    red, green, blue = planes.unbind(1)
    luma = _RED * red + (1 - _RED - _BLUE) * green + _BLUE * blue
    chroma = torch.stack([(blue - luma) / (2 * (1 - _BLUE)), (red - luma) / (2 * (1 - _RED))], 1) + 128
    luma = _quantised(_filled(luma.round()[:, None], 16), tables[0])[:, 0, :height, :width]
    # every second sum of four is rounded up, the others down
    half = F.avg_pool2d(_filled(chroma.round(), 16), 2)
    half = torch.floor(half + torch.tensor([0.25, 0.5], device=images.device).repeat(half.shape[-1] // 2))
    half = _quantised(half, tables[1])[..., :-(-height // 2), :-(-width // 2)]
    chroma = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    # whole sixteenths: halves are rounded up in every first column, down in every second
    chroma += torch.tensor([0.5, 0.4375], device=images.device).repeat(-(-width // 2))[:width]
    blueness, redness = (chroma.floor_() - 128).unbind(1)
    red = luma + (2 * (1 - _RED) * redness).round()
    blue = luma + (2 * (1 - _BLUE) * blueness).round()
    green = luma - ((2 * _RED * (1 - _RED) * redness + 2 * _BLUE * (1 - _BLUE) * blueness)
                    / (1 - _RED - _BLUE)).round()
    return torch.stack([red, green, blue], 1).clamp_(0, 255).to(torch.uint8)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Whole float [B, C, H, W], sides divisible by 8, through cosine transform and quantisation by [B, 1, 1, 8, 1, 8]
    and back to whole levels."""
    batch, channels, height, width = planes.shape
    basis = torch.from_numpy(_cosines()).to(planes.device)
    rows = (basis @ (planes - 128).view(-1, 8, width)).view(-1, 8)
    numbers = (rows @ basis.T).mul_(8).round_().view(batch, channels, height // 8, 8, width // 8, 8)
    # eighths of whole numbers, halves rounded away from zero
    numbers = numbers.abs().div_(8 * table).add_(0.5).floor_().mul_(table).copysign_(numbers)
    rows = (numbers.view(-1, 8) @ basis).view(-1, 8, width)
    return (basis.T @ rows).view(planes.shape).add_(128.5 + 2**-12).floor_().clamp_(0, 255)  # halves up


def _table(table: tuple[tuple[int, ...], ...], quality: np.ndarray) -> np.ndarray:
    """float32 [B, 8, 8]: the steps of each frequency at qualities [B], in libjpeg's whole numbers."""
    quality = np.asarray(quality, np.int64)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    return ((np.array(table) * percent + 50) // 100).clip(1, 255).astype(np.float32)


def _cosines() -> np.ndarray:
    """float32 [8, 8]: the orthonormal cosine transform, a row for each frequency."""
    frequency, place = np.arange(8)[:, None], np.arange(8)
    basis = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _filled(planes: Tensor, side: int) -> Tensor:
    """The last row and column repeated until both sides are divisible by `side`."""
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % side, 0, -height % side), mode="replicate")


augmentations.add(JPEGCompression, {"jpeg_compression": {}})
