"""Mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_range


@dataclass(frozen=True)
class HorizontalFlip:
    """Left and right exchanged, with `probability`. Exact on uint8 and float."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _flipped(images, draws, self.probability, -1)


@dataclass(frozen=True)
class VerticalFlip:
    """Top and bottom exchanged, with `probability`. Exact on uint8 and float."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _flipped(images, draws, self.probability, -2)


def _flipped(images: Tensor, draws: Draws, probability: float, dim: int) -> Tensor:
    kept = torch.from_numpy(np.flatnonzero(draws.uniform(1)[:, 0] >= probability)).to(images.device)
    return images.flip(dim).index_copy_(0, kept, images.index_select(0, kept))


augmentations.add(HorizontalFlip, {"horizontal_flip": {}})
augmentations.add(VerticalFlip, {"vertical_flip": {}})
