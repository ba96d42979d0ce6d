"""Rotation, translation, scale and shear in one matrix and one resampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_interval, check_range


@dataclass(frozen=True)
class Affine:
    """A random affine map about the centre, with `probability`, sampled bilinearly.

    degrees: rotation drawn from +-degrees (clockwise on screen for positive). translate: shift drawn from +-translate,
    as a share of width and height. scale: enlargement. shear: drawn from +-shear degrees, along x.
    padding_mode: what lies outside: 'zeros' (black), 'border' or 'reflection'.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    probability: float = 1.0
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "degrees", self.degrees, 0, 180)
        check_range(self, "translate", self.translate, 0, 1)
        check_interval(self, "scale", self.scale, 0.01, 100)
        check_range(self, "shear", self.shear, 0, 80)
        check_range(self, "probability", self.probability, 0, 1)
        if self.padding_mode not in ("zeros", "border", "reflection"):
            raise RecipeError("must be 'zeros', 'border' or 'reflection'",
                              where=f"augmentation.Affine.padding_mode={self.padding_mode!r}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        u = draws.uniform(6)
        angle = np.radians(self.degrees * (2 * u[:, 0] - 1))
        shift = self.translate * (2 * u[:, 1:3] - 1) * (width, height)
        scale = self.scale[0] + u[:, 3] * (self.scale[1] - self.scale[0])
        shear = np.radians(self.shear * (2 * u[:, 4] - 1))
        return affine(images, angle, shift, scale, shear, chosen=u[:, 5] < self.probability,
                      padding_mode=self.padding_mode)


def affine(images: Tensor, angle: np.ndarray, shift: np.ndarray, scale: np.ndarray, shear: np.ndarray, *,
           chosen: np.ndarray, padding_mode: str = "zeros") -> Tensor:
    """Float images [B, C, H, W] mapped by x -> scale * R(angle) * [[1, -tan(shear)], [0, 1]] * x + shift about the
    centre, where `chosen` [B]; the rest unchanged. angle, shear: radians [B]; shift: pixels (x, y) [B, 2]; scale: [B].
    """
    height, width = images.shape[-2:]
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(shear)
    forward = scale[:, None, None] * np.stack([np.stack([cos, -cos * tan - sin], -1),
                                               np.stack([sin, -sin * tan + cos], -1)], -2)  # [B, 2, 2]
    inverse = np.linalg.inv(forward)
    offset = -(inverse @ shift[:, :, None])
    # from pixels about the centre to grid_sample's coordinates, in which width and height are 2
    half = np.array([width / 2, height / 2])
    theta = np.concatenate([inverse * half[None, None, :] / half[None, :, None], offset / half[None, :, None]], -1)
    theta = torch.from_numpy(theta.astype(np.float32)).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)
    if chosen.all():
        return moved
    return torch.where(torch.from_numpy(chosen).to(images.device)[:, None, None, None], moved, images)


augmentations.add(Affine, {"affine": {}})
