"""Random crops: of a padded image at its own scale, and of random area and aspect, resized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.core.seeds import uniform
from visus.data.transforms import Draws, augmentations, check_interval, check_range, to_unit

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomCrop:
    """Pad by `padding` pixels on each side, then cut the old size at a random place (Krizhevsky 2009 for CIFAR).

    padding_mode: 'zeros' (black) or 'reflect'. Exact on uint8 and float.
    """

    padding: int = 4
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int):
            raise RecipeError("must be a whole number of pixels",
                              where=f"augmentation.RandomCrop.padding={self.padding!r}")
        check_range(self, "padding", self.padding, 0, 1024)
        if self.padding_mode not in ("zeros", "reflect"):
            raise RecipeError("must be 'zeros' or 'reflect'",
                              where=f"augmentation.RandomCrop.padding_mode={self.padding_mode!r}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        batch, channels, height, width = images.shape
        if self.padding_mode == "reflect" and self.padding >= min(height, width):
            raise RecipeError(f"reflect needs less than the image's {min(height, width)} pixels",
                              where=f"augmentation.RandomCrop.padding={self.padding}")
        shifts = np.floor(draws.uniform(2) * (2 * self.padding + 1)).astype(np.int64) - self.padding
        rows, row_inside = self._source(shifts[:, 0], height)  # [B, H]
        columns, column_inside = self._source(shifts[:, 1], width)  # [B, W]
        place = torch.from_numpy(rows[:, :, None] * width + columns[:, None, :]).to(images.device)
        flat = images.reshape(batch, channels, height * width)
        out = flat.gather(2, place.reshape(batch, 1, -1).expand(-1, channels, -1))
        out = out.reshape(batch, channels, height, width)
        if self.padding_mode == "zeros":
            inside = torch.from_numpy(row_inside[:, :, None] & column_inside[:, None, :]).to(images.device)
            out = out * inside[:, None]  # [B, 1, H, W]
        return out

    def _source(self, shift: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(source coordinate of each output coordinate [B, size], whether it lies in the image)."""
        wanted = np.arange(size) + shift[:, None]
        inside = (wanted >= 0) & (wanted < size)
        if self.padding_mode == "reflect":
            wanted = np.abs(wanted)
            return np.where(wanted >= size, 2 * (size - 1) - wanted, wanted), inside
        return wanted.clip(0, size - 1), inside


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized to the model's size (Szegedy et al. 2015, "Going deeper", section 6).

    scale: area of the box as a share of the image. ratio: width over height. Of files the box is cut from the image in
    its full size, while it is decoded; of images in memory or in the cache, from the image in the model's size.
    Resampling is bilinear and antialiased.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "scale", self.scale, 1e-4, 1)
        check_interval(self, "ratio", self.ratio, 0.01, 100)

    def boxes(self, heights: np.ndarray, widths: np.ndarray, draws: Draws) -> np.ndarray:
        """int64 [B, 4] (top, left, height, width), each inside its image. Ten tries, then the largest centred box whose
        aspect is allowed."""
        heights, widths = np.asarray(heights)[:, None], np.asarray(widths)[:, None]
        tries = draws.index[:, None] * 16 + np.arange(_ATTEMPTS)
        u = uniform(tries, draws.seed, draws.epoch, draws.stream, draws=4)  # [B, 10, 4]
        area = heights * widths * (self.scale[0] + u[..., 0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + u[..., 1] * (high - low))
        w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= widths) & (h > 0) & (h <= heights)
        rows, first = np.arange(len(tries)), fits.argmax(1)
        top = np.floor(u[..., 2] * (heights - h + 1)).astype(np.int64)
        left = np.floor(u[..., 3] * (widths - w + 1)).astype(np.int64)
        drawn = np.stack([top, left, h, w], -1)[rows, first]
        aspect = np.clip(widths / heights, *self.ratio)[:, 0]
        h_all, w_all = heights[:, 0], widths[:, 0]
        w_c = np.minimum(w_all, np.rint(h_all * aspect)).astype(np.int64).clip(1)
        h_c = np.minimum(h_all, np.rint(w_all / aspect)).astype(np.int64).clip(1)
        centred = np.stack([(h_all - h_c) // 2, (w_all - w_c) // 2, h_c, w_c], -1)
        return np.where(fits.any(1)[:, None], drawn, centred)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        batch, _, height, width = images.shape
        boxes = self.boxes(np.full(batch, height), np.full(batch, width), draws)
        rows = torch.from_numpy(_triangle_weights(boxes[:, 0], boxes[:, 2], height, height)).to(images.device)
        columns = torch.from_numpy(_triangle_weights(boxes[:, 1], boxes[:, 3], width, width)).to(images.device)
        # [B, 1, h, H] @ [B, C, H, W] @ [B, 1, W, w]
        out = rows[:, None] @ to_unit(images) @ columns[:, None].transpose(-1, -2)
        return out.clamp_(0, 1)


def _triangle_weights(start: np.ndarray, length: np.ndarray, size: int, out: int) -> np.ndarray:
    """float32 [B, out, size]: the antialiased bilinear filter that resizes [start, start + length) to `out` samples.

    The triangle kernel is widened by the scale when shrinking; its weights stay inside the box and sum to one.
    """
    scale = (length / out)[:, None, None]
    support = np.maximum(scale, 1.0)
    centre = start[:, None, None] + (np.arange(out)[:, None] + 0.5) * scale
    position = np.arange(size)
    weights = np.maximum(0.0, 1 - np.abs(position + 0.5 - centre) / support)
    weights *= (position >= start[:, None, None]) & (position < (start + length)[:, None, None])
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


augmentations.add(RandomCrop, {"random_crop": {}})
augmentations.add(RandomResizedCrop, {"random_resized_crop": {}})
