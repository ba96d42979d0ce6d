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
from visus.data.transforms.placement import (
    MIN_VISIBLE,
    Geometric,
    Outside,
    Placement,
    about_centre,
    check_fill,
    shifting,
)
from visus.data.transforms.warp import moved_image, shrinks

_OUTSIDE: dict[str, Outside] = {"zeros": "fill", "border": "border", "reflection": "symmetric"}


@dataclass(frozen=True)
class Affine(Geometric):
    """A random affine map about the centre, with `probability`, sampled bilinearly, antialiased where it shrinks to
    less than 2/3. As `yolo_affine` it moves and scales by up to 20 % (Redmon et al., CVPR 2016, section 2.2).

    degrees: rotation drawn from +-degrees (clockwise on screen for positive). translate: shift drawn from +-translate,
    as a share of width and height. scale: enlargement. shear: drawn from +-shear degrees, along x.
    padding_mode: what lies outside: 'zeros' (the colour `fill`, black), 'border' or 'reflection'. min_visible: objects
    of which less stays are dropped.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    probability: float = 1.0
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    fill: float | tuple[float, float, float] = 0.0
    min_visible: float = MIN_VISIBLE
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
        check_fill(self, self.fill)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        angle, shift, scale, shear, chosen = self._drawn(height, width, draws)
        if not chosen[0]:
            return ()
        linear = np.eye(3)
        linear[:2, :2] = linear_maps(angle, scale, shear)[0]
        placed = Placement(matrix=shifting(*shift[0]) @ about_centre(linear, height, width), height=height, width=width,
                           outside=_OUTSIDE[self.padding_mode], fill=check_fill(self, self.fill),
                           min_visible=self.min_visible)
        return (placed,)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        angle, shift, scale, shear, chosen = self._drawn(height, width, draws)
        alone = chosen & (shrinks(linear_maps(angle, scale, shear)) | any(check_fill(self, self.fill)))
        out = affine(images, angle, shift, scale, shear, chosen=chosen & ~alone, padding_mode=self.padding_mode)
        if not alone.any():
            return out
        out = out.clone() if out is images else out
        for i in np.flatnonzero(alone).tolist():
            out[i] = moved_image(images[i], self.placements(height, width, draws.of(i)))
        return out

    def _drawn(self, height: int, width: int, draws: Draws
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """angle, shift, scale and shear as `affine` takes them, and which images are moved at all."""
        u = draws.uniform(6)
        angle = np.radians(self.degrees * (2 * u[:, 0] - 1))
        shift = self.translate * (2 * u[:, 1:3] - 1) * (width, height)
        scale = self.scale[0] + u[:, 3] * (self.scale[1] - self.scale[0])
        shear = np.radians(self.shear * (2 * u[:, 4] - 1))
        return angle, shift, scale, shear, u[:, 5] < self.probability


def linear_maps(angle: np.ndarray, scale: np.ndarray, shear: np.ndarray) -> np.ndarray:
    """float64 [B, 2, 2]: scale * R(angle) * [[1, -tan(shear)], [0, 1]], the angles in radians."""
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(shear)
    return scale[:, None, None] * np.stack([np.stack([cos, -cos * tan - sin], -1),
                                            np.stack([sin, -sin * tan + cos], -1)], -2)


def affine(images: Tensor, angle: np.ndarray, shift: np.ndarray, scale: np.ndarray, shear: np.ndarray, *,
           chosen: np.ndarray, padding_mode: str = "zeros") -> Tensor:
    """Float images [B, C, H, W] mapped by x -> scale * R(angle) * [[1, -tan(shear)], [0, 1]] * x + shift about the
    centre, where `chosen` [B]; the rest unchanged. angle, shear: radians [B]; shift: pixels (x, y) [B, 2]; scale: [B].
    """
    height, width = images.shape[-2:]
    forward = linear_maps(angle, scale, shear)
    inverse = np.linalg.inv(forward)
    offset = -(inverse @ shift[:, :, None])
    # from pixels about the centre to grid_sample's coordinates, in which width and height are 2
    half = np.array([width / 2, height / 2])
    theta = np.concatenate([inverse * half[None, None, :] / half[None, :, None], offset / half[None, :, None]], -1)
    matrices = torch.from_numpy(theta.astype(np.float32)).to(images.device)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)
    if chosen.all():
        return moved
    return torch.where(torch.from_numpy(chosen).to(images.device)[:, None, None, None], moved, images)


augmentations.add(Affine, {"affine": {}, "yolo_affine": {"translate": 0.2, "scale": (0.8, 1.2)}})
