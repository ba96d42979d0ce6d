"""Colour channels exchanged or left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_range


@dataclass(frozen=True)
class ChannelShuffle:
    """The channels in a random order, with `probability`; every order is as likely. Exact on uint8 and float."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        channels = images.shape[1]
        u = draws.uniform(channels + 1)
        order = np.where(u[:, :1] < self.probability, np.argsort(u[:, 1:], 1), np.arange(channels))
        return with_channels(images, order)


@dataclass(frozen=True)
class ChannelDropout:
    """One channel set to `fill`, in [0, 1], with `probability`. Images of one channel stay as they are."""

    fill: float = 0.0
    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "fill", self.fill, 0, 1)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        channels = images.shape[1]
        if channels == 1:
            return images
        u = draws.uniform(2)
        gone = np.where(u[:, 0] < self.probability, np.floor(u[:, 1] * channels), -1)
        mask = torch.from_numpy(np.arange(channels) == gone[:, None]).to(images.device)[:, :, None, None]
        return images.masked_fill(mask, round(255 * self.fill) if images.dtype == torch.uint8 else self.fill)


def with_channels(images: Tensor, order: np.ndarray) -> Tensor:
    """Channel c of image b becomes its channel order[b, c]. images: [B, C, H, W]; order: [B, C]."""
    batch, channels = images.shape[:2]
    rows = torch.from_numpy((np.arange(batch)[:, None] * channels + order).ravel()).to(images.device)
    return images.reshape(batch * channels, *images.shape[2:]).index_select(0, rows).view(images.shape)


augmentations.add(ChannelShuffle, {"channel_shuffle": {}})
augmentations.add(ChannelDropout, {"channel_dropout": {}})
