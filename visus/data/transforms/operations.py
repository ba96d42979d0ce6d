"""The operations that augmentation policies choose from, one table for all of them, on uint8 batches.

Each has a magnitude for each image; a batch is worked on operation by operation. A policy's range says how a strength,
as a share of the strongest, becomes that magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.data.transforms import enhance, levels
from visus.data.transforms.groups import on_rows_

Interpolation = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Operation:
    """work: (uint8 images [B, C, H, W], magnitudes [B]) -> images. matrix, of those that move pixels instead:
    (magnitudes [B], height, width) -> float64 [B, 3, 3] from input to output pixel coordinates, where the pixel in
    column x covers [x, x + 1]. signed: whether its magnitude may as well be negative."""

    name: str
    signed: bool = False
    work: Callable[[Tensor, np.ndarray], Tensor] | None = None
    matrix: Callable[[np.ndarray, int, int], np.ndarray] | None = None


@dataclass(frozen=True)
class Range:
    """Magnitudes from `low` at strength 0 to `high` at 1. unit: 'whole' numbers, shares of the 'width' or 'height' in
    whole pixels rounded to zero, or whole 'pixels', too."""

    low: float = 0.0
    high: float = 0.0
    unit: Literal["", "whole", "width", "height", "pixels"] = ""

    def magnitudes(self, strength: np.ndarray, height: int, width: int) -> np.ndarray:
        """float64 [B] for strengths [B] in [0, 1]; for signed operations not yet with their sign."""
        value = self.low + strength * (self.high - self.low)
        if self.unit == "whole":
            return np.rint(value)
        if self.unit:
            return np.trunc(value * {"width": width, "height": height}.get(self.unit, 1) + 1e-9)
        return value


def _shear(magnitude: np.ndarray, row: int) -> np.ndarray:
    """About the upper left corner, as the published code does it."""
    out = _eyes(magnitude)
    out[:, row, 1 - row] = -magnitude
    return out


def _translate(magnitude: np.ndarray, row: int) -> np.ndarray:
    out = _eyes(magnitude)
    out[:, row, 2] = magnitude
    return out


def _rotate(magnitude: np.ndarray, height: int, width: int) -> np.ndarray:
    """Against the clock, in degrees, about the centre."""
    cos, sin = np.cos(np.radians(magnitude)), np.sin(np.radians(magnitude))
    out = _eyes(magnitude)
    out[:, 0, 0], out[:, 0, 1], out[:, 1, 0], out[:, 1, 1] = cos, sin, -sin, cos
    centre = np.array([width / 2, height / 2])
    out[:, :2, 2] = centre - out[:, :2, :2] @ centre
    return out


def _eyes(magnitude: np.ndarray) -> np.ndarray:
    return np.tile(np.eye(3), (len(magnitude), 1, 1))


OPERATIONS: Mapping[str, Operation] = {operation.name: operation for operation in (
    Operation("shear_x", True, matrix=lambda m, height, width: _shear(m, 0)),
    Operation("shear_y", True, matrix=lambda m, height, width: _shear(m, 1)),
    Operation("translate_x", True, matrix=lambda m, height, width: _translate(m, 0)),
    Operation("translate_y", True, matrix=lambda m, height, width: _translate(m, 1)),
    Operation("rotate", True, matrix=_rotate),
    Operation("brightness", True, lambda x, m: enhance.brightness(x, 1 + m)),
    Operation("color", True, lambda x, m: enhance.saturation(x, 1 + m)),
    Operation("contrast", True, lambda x, m: enhance.contrast(x, 1 + m)),
    Operation("sharpness", True, lambda x, m: enhance.sharpness(x, 1 + m)),
    Operation("posterize", False, levels.posterize),
    Operation("solarize", False, lambda x, m: levels.solarize_levels(x, 255 * m)),
    Operation("autocontrast", False, lambda x, m: levels.autocontrast(x)),
    Operation("equalize", False, lambda x, m: levels.equalize(x)),
    Operation("invert", False, lambda x, m: levels.invert(x)))}

# AutoAugment, table 6; RandAugment has the same. Its 150 pixels are those of images of 331
PUBLISHED: Mapping[str, Range] = {
    "shear_x": Range(0, 0.3), "shear_y": Range(0, 0.3), "translate_x": Range(0, 150 / 331, "width"),
    "translate_y": Range(0, 150 / 331, "height"), "rotate": Range(0, 30), "brightness": Range(0, 0.9),
    "color": Range(0, 0.9), "contrast": Range(0, 0.9), "sharpness": Range(0, 0.9), "posterize": Range(8, 4, "whole"),
    "solarize": Range(1, 0), "autocontrast": Range(), "equalize": Range()}
# TrivialAugment, table 5, 'Wide'
WIDE: Mapping[str, Range] = {
    **PUBLISHED, "shear_x": Range(0, 0.99), "shear_y": Range(0, 0.99), "translate_x": Range(0, 32, "pixels"),
    "translate_y": Range(0, 32, "pixels"), "rotate": Range(0, 135), "brightness": Range(0, 0.99),
    "color": Range(0, 0.99), "contrast": Range(0, 0.99), "sharpness": Range(0, 0.99),
    "posterize": Range(8, 2, "whole")}


def apply_(images: Tensor, names: np.ndarray, magnitudes: np.ndarray, fill: float = 0.5,
           interpolation: Interpolation = "nearest") -> Tensor:
    """uint8 images [B, C, H, W], changed in place: each by the operation names[b] ('' for none) with magnitudes[b]."""
    height, width = images.shape[-2:]
    matrices = np.zeros((len(images), 3, 3))
    for name in sorted(set(names.tolist())):
        if not name:
            continue
        operation, rows = OPERATIONS[name], np.flatnonzero(names == name)
        if operation.work is not None:
            on_rows_(images, rows, operation.work, magnitudes)
        else:
            assert operation.matrix is not None
            matrices[rows] = operation.matrix(magnitudes[rows], height, width)
    on_rows_(images, np.flatnonzero(matrices[:, 2, 2]), lambda x, m: warped(x, m, fill, interpolation), matrices)
    return images


def warped(images: Tensor, matrices: np.ndarray, fill: float = 0.5, interpolation: Interpolation = "nearest") -> Tensor:
    """uint8 [B, C, H, W], each moved by its affine matrix [B, 3, 3]; beyond it `fill`, in [0, 1].

    nearest: the pixel under the centre of each output pixel. bilinear: of four, without antialiasing.
    """
    batch, channels, height, width = images.shape
    inverse = torch.from_numpy(np.linalg.inv(matrices)[:, :2].astype(np.float32)).to(images.device)[..., None, None]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    source_x = inverse[:, 0, 0] * x + (inverse[:, 0, 1] * y + inverse[:, 0, 2])  # [B, H, W]
    source_y = inverse[:, 1, 0] * x + (inverse[:, 1, 1] * y + inverse[:, 1, 2])
    level = round(255 * fill)
    if interpolation == "bilinear":
        grid = torch.stack([source_x * (2 / width) - 1, source_y * (2 / height) - 1], -1)
        moved = F.grid_sample(images.to(torch.float32) - level, grid, mode="bilinear", align_corners=False)
        return moved.add_(level).round_().clamp_(0, 255).to(torch.uint8)
    column, row = source_x.floor_().clamp(0, width - 1), source_y.floor_().clamp(0, height - 1)
    inside = (column == source_x).logical_and_(row == source_y).view(torch.uint8)[:, None]
    place = row.mul_(width).add_(column).to(torch.int64).view(batch, 1, -1).expand(-1, channels, -1)
    moved = images.reshape(batch, channels, -1).gather(2, place).view(images.shape)
    return moved.sub_(level).mul_(inside).add_(level)  # modulo 256
