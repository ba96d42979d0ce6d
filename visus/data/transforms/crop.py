"""Random crops: of a padded image at its own scale, of random area and aspect, and of the largest square, resized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
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
        corners = torch.from_numpy(np.floor(draws.uniform(2) * (2 * self.padding + 1)).astype(np.int64))
        padded = self._padded(images)
        rows, columns = padded.shape[-2:]
        # every run of `width` pixels in memory is a row of `runs`; a window is `height` of them
        runs = padded.flatten().as_strided((padded.numel() - width + 1, width), (1, 1))
        plane = torch.arange(batch * channels).view(batch, channels, 1) * (rows * columns)
        start = (corners[:, :1] + torch.arange(height)) * columns + corners[:, 1:]  # [B, H]
        places = (plane + start[:, None, :]).flatten().to(images.device)  # [B, C, H] -> one list
        return runs.index_select(0, places).view(batch, channels, height, width)

    def _padded(self, images: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return F.pad(images, (self.padding,) * 4)
        for dim in (-2, -1):
            size = images.shape[dim]
            place = torch.arange(-self.padding, size + self.padding, device=images.device).abs()
            images = images.index_select(dim, torch.where(place >= size, 2 * (size - 1) - place, place))
        return images.contiguous()


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized to the model's size (Szegedy et al. 2015, "Going deeper", section 6).

    scale: area of the box as a share of the image. ratio: width over height. Of files the box is cut from the image in
    its full size, while it is decoded; of images in memory or in the cache, from the image in the model's size.
    Resampling is bilinear, and antialiased where it shrinks.
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
        return _enlarged(images, self.boxes(np.full(batch, height), np.full(batch, width), draws))


@dataclass(frozen=True)
class SimpleRandomCrop:
    """The largest square, at a random place along the longer side, resized to the model's size: the aspect stays, and
    nearly all of the image is seen (Touvron et al., DeiT III, ECCV 2022, arXiv:2204.07118, section 3.2).

    The paper's shift by up to 4 pixels across is the step {name: random_crop, padding: 4, padding_mode: reflect} behind
    it. Of files the square is cut from the image in its full size; images in memory or in the cache have the model's
    size already, and of a square nothing is cut.
    """

    any_dtype: ClassVar[bool] = True

    def boxes(self, heights: np.ndarray, widths: np.ndarray, draws: Draws) -> np.ndarray:
        """int64 [B, 4] (top, left, height, width), each inside its image."""
        sizes = np.stack([heights, widths], -1)  # [B, 2]
        side = sizes.min(1, keepdims=True)
        start = np.floor(draws.uniform(1) * (sizes - side + 1)).astype(np.int64)
        return np.concatenate([start, side, side], 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        batch, _, height, width = images.shape
        if height == width:
            return images
        return _enlarged(images, self.boxes(np.full(batch, height), np.full(batch, width), draws))


def _enlarged(images: Tensor, boxes: np.ndarray) -> Tensor:
    """float [B, C, H, W]: the box [B, 4] (top, left, height, width) of each image in the image's size."""
    y = _source_coordinates(boxes[:, 0], boxes[:, 2], images.shape[2])
    x = _source_coordinates(boxes[:, 1], boxes[:, 3], images.shape[3])
    grid = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), -1)  # [B, H, W, 2]
    return F.grid_sample(to_unit(images), torch.from_numpy(grid).to(images.device), mode="bilinear",
                         align_corners=False)


def _source_coordinates(start: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """float32 [B, size]: where in an axis of `size` pixels each pixel of the enlarged box [start, start + length) lies.

    In grid_sample's coordinates, and inside the box, so that nothing beyond it is mixed in. Enlarging needs no
    antialiasing.
    """
    start, length = start[:, None], length[:, None]
    pixel = (start + (np.arange(size) + 0.5) * (length / size) - 0.5).clip(start, start + length - 1)
    return ((2 * pixel + 1) / size - 1).astype(np.float32)


augmentations.add(RandomCrop, {"random_crop": {}})
augmentations.add(RandomResizedCrop, {"random_resized_crop": {}})
augmentations.add(SimpleRandomCrop, {"simple_random_crop": {}})
