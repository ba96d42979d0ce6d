"""Mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.placement import Geometric, Placement


@dataclass(frozen=True)
class HorizontalFlip(Geometric):
    """Left and right exchanged, with `probability`. Exact on uint8 and float."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _flipped(images, self.chosen(draws), -1)

    def chosen(self, draws: Draws) -> np.ndarray:
        """bool [B]: which images are mirrored."""
        return draws.uniform(1)[:, 0] < self.probability

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        return (_mirrored(height, width),) if self.chosen(draws)[0] else ()


@dataclass(frozen=True)
class AlternatingFlip(Geometric):
    """Left and right exchanged in every second epoch of an image, which draws whether those are the even or the odd
    ones: any two epochs in a row show both sides of each image (Jordan 2024, arXiv:2404.00498, section 3.6). Exact on
    uint8 and float."""

    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _flipped(images, self.chosen(draws), -1)

    def chosen(self, draws: Draws) -> np.ndarray:
        """bool [B]: which images are mirrored."""
        first = Draws(draws.index, draws.seed, 0, draws.stream).uniform(1)[:, 0] < 0.5
        return first ^ bool(draws.epoch % 2)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        return (_mirrored(height, width),) if self.chosen(draws)[0] else ()


@dataclass(frozen=True)
class VerticalFlip(Geometric):
    """Top and bottom exchanged, with `probability`. Exact on uint8 and float."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _flipped(images, self.chosen(draws), -2)

    def chosen(self, draws: Draws) -> np.ndarray:
        """bool [B]: which images are mirrored."""
        return draws.uniform(1)[:, 0] < self.probability

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        matrix = np.array([[1, 0, 0], [0, -1, height], [0, 0, 1]], np.float64)
        return (Placement(matrix=matrix, height=height, width=width),) if self.chosen(draws)[0] else ()


def _mirrored(height: int, width: int) -> Placement:
    matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], np.float64)
    return Placement(matrix=matrix, height=height, width=width)


def _flipped(images: Tensor, chosen: np.ndarray, dim: int) -> Tensor:
    kept = torch.from_numpy(np.flatnonzero(~chosen)).to(images.device)
    return images.flip(dim).index_copy_(0, kept, images.index_select(0, kept))


augmentations.add(HorizontalFlip, {"horizontal_flip": {}})
augmentations.add(AlternatingFlip, {"alternating_flip": {}})
augmentations.add(VerticalFlip, {"vertical_flip": {}})
