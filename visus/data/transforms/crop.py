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
from visus.data.transforms.placement import (
    MIN_VISIBLE,
    Geometric,
    Placement,
    check_fill,
    check_sizes,
    resizing,
    window,
)

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomCrop(Geometric):
    """Pad by `padding` pixels on each side, then cut the old size at a random place (Krizhevsky 2009 for CIFAR), or
    `size`: one number or (height, width), as 224 of 256 (Krizhevsky et al. 2012). What is smaller is padded to it.

    padding_mode: 'zeros' (black) or 'reflect'. min_visible: objects of which less stays are dropped. Exact on uint8 and
    float.
    """

    padding: int = 4
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    size: int | tuple[int, int] | None = None
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int):
            raise RecipeError("must be a whole number of pixels",
                              where=f"augmentation.RandomCrop.padding={self.padding!r}")
        check_range(self, "padding", self.padding, 0, 1024)
        if self.padding_mode not in ("zeros", "reflect"):
            raise RecipeError("must be 'zeros' or 'reflect'",
                              where=f"augmentation.RandomCrop.padding_mode={self.padding_mode!r}")
        if self.size is not None:
            check_sizes(self, "size", self.size)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        self._check_reflect(height, width)
        rows, columns = (height, width) if self.size is None else check_sizes(self, "size", self.size)
        u = draws.uniform(2)[0]
        top = math.floor(u[0] * (max(height + 2 * self.padding - rows, 0) + 1)) - self.padding
        left = math.floor(u[1] * (max(width + 2 * self.padding - columns, 0) + 1)) - self.padding
        return (window(top, left, rows, columns, outside="fill" if self.padding_mode == "zeros" else "reflect",
                       min_visible=self.min_visible),)

    def _check_reflect(self, height: int, width: int) -> None:
        if self.padding_mode == "reflect" and self.padding >= min(height, width):
            raise RecipeError(f"reflect needs less than the image's {min(height, width)} pixels",
                              where=f"augmentation.RandomCrop.padding={self.padding}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        if self.size is not None:
            return super().__call__(images, draws)
        batch, channels, height, width = images.shape
        self._check_reflect(height, width)
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
class CenterCrop(Geometric):
    """The middle of the image, `size` (one number or height and width) pixels; what is smaller is padded with `fill`.
    An odd remainder is cut at the bottom and the right, as Preprocessing does. min_visible: objects of which less stays
    are dropped. Exact on uint8 and float.
    """

    size: int | tuple[int, int] = 224
    fill: float | tuple[float, float, float] = 0.0
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sizes(self, "size", self.size)
        check_fill(self, self.fill)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        rows, columns = check_sizes(self, "size", self.size)
        top = round((height - rows) / 2) if height >= rows else -((rows - height) // 2)
        left = round((width - columns) / 2) if width >= columns else -((columns - width) // 2)
        return (window(top, left, rows, columns, fill=check_fill(self, self.fill), min_visible=self.min_visible),)


@dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """A box of random area and aspect, resized to the model's size (Szegedy et al. 2015, "Going deeper", section 6).

    scale: area of the box as a share of the image. ratio: width over height. Of files the box is cut from the image in
    its full size, while it is decoded, or from what the cache holds of it (visus.data.cache); of images in memory, from
    the image in the model's size. Resampling is bilinear, and antialiased where it shrinks. min_visible: objects of
    which less stays are dropped.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "scale", self.scale, 1e-4, 1)
        check_interval(self, "ratio", self.ratio, 0.01, 100)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        box = self.boxes(np.array([height]), np.array([width]), draws)[0].tolist()
        return window(*box, min_visible=self.min_visible), resizing(box[2], box[3], height, width)

    def of_batch(self, height: int, width: int, draws: Draws) -> list[tuple[Placement, ...]]:
        batch = len(draws.index)
        return [(window(*box, min_visible=self.min_visible), resizing(box[2], box[3], height, width))
                for box in self.boxes(np.full(batch, height), np.full(batch, width), draws).tolist()]

    def boxes(self, heights: np.ndarray, widths: np.ndarray, draws: Draws) -> np.ndarray:
        """int64 [B, 4] (top, left, height, width), each inside its image. Ten tries, then the largest centred box whose
        aspect is allowed."""
        heights, widths = np.asarray(heights)[:, None], np.asarray(widths)[:, None]
        u = self.numbers(draws)
        area, ratio = heights * widths * u[..., 0], u[..., 1]
        w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= widths) & (h > 0) & (h <= heights)
        rows, first = np.arange(len(u)), fits.argmax(1)
        top = np.floor(u[..., 2] * (heights - h + 1)).astype(np.int64)
        left = np.floor(u[..., 3] * (widths - w + 1)).astype(np.int64)
        drawn = np.stack([top, left, h, w], -1)[rows, first]
        aspect = np.clip(widths / heights, *self.ratio)[:, 0]
        h_all, w_all = heights[:, 0], widths[:, 0]
        w_c = np.minimum(w_all, np.rint(h_all * aspect)).astype(np.int64).clip(1)
        h_c = np.minimum(h_all, np.rint(w_all / aspect)).astype(np.int64).clip(1)
        centred = np.stack([(h_all - h_c) // 2, (w_all - w_c) // 2, h_c, w_c], -1)
        return np.where(fits.any(1)[:, None], drawn, centred)

    def numbers(self, draws: Draws) -> np.ndarray:
        """float64 [B, 10, 4]: of each try the box's share of the area, its aspect, and how far down and right it lies,
        as a share of the way that it has."""
        tries = draws.index[:, None] * 16 + np.arange(_ATTEMPTS)
        u = uniform(tries, draws.seed, draws.epoch, draws.stream, draws=4)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        u[..., 0] = self.scale[0] + u[..., 0] * (self.scale[1] - self.scale[0])
        u[..., 1] = np.exp(low + u[..., 1] * (high - low))
        return u

    def box(self, numbers: list, height: int, width: int) -> tuple[int, int, int, int]:
        """The row of `boxes` for one image, from its `numbers` [10, 4] as lists: in a loader a hundred times faster."""
        for share, ratio, down, right in numbers:
            area = height * width * share
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return math.floor(down * (height - h + 1)), math.floor(right * (width - w + 1)), h, w
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        batch, _, height, width = images.shape
        return _enlarged(images, self.boxes(np.full(batch, height), np.full(batch, width), draws))


@dataclass(frozen=True)
class SimpleRandomCrop(Geometric):
    """The largest square, at a random place along the longer side, resized to the model's size: the aspect stays, and
    nearly all of the image is seen (Touvron et al., DeiT III, ECCV 2022, arXiv:2204.07118, section 3.2).

    The paper's shift by up to 4 pixels across is the step {name: random_crop, padding: 4, padding_mode: reflect} behind
    it. Of files the square is cut from the image in its full size or from what the cache holds of it; images in memory
    have the model's already, and of a square nothing is cut. min_visible: objects of which less stays are dropped.
    """

    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        box = self.boxes(np.array([height]), np.array([width]), draws)[0].tolist()
        return window(*box, min_visible=self.min_visible), resizing(box[2], box[3], height, width)

    def boxes(self, heights: np.ndarray, widths: np.ndarray, draws: Draws) -> np.ndarray:
        """int64 [B, 4] (top, left, height, width), each inside its image."""
        sizes = np.stack([heights, widths], -1)  # [B, 2]
        side = sizes.min(1, keepdims=True)
        start = np.floor(draws.uniform(1) * (sizes - side + 1)).astype(np.int64)
        return np.concatenate([start, side, side], 1)

    def numbers(self, draws: Draws) -> np.ndarray:
        """float64 [B, 1]: how far along the longer side the square lies, as a share of the way that it has."""
        return draws.uniform(1)

    def box(self, numbers: list, height: int, width: int) -> tuple[int, int, int, int]:
        """The row of `boxes` for one image, from its `numbers` [1] as a list."""
        side, share = min(height, width), numbers[0]
        return math.floor(share * (height - side + 1)), math.floor(share * (width - side + 1)), side, side

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


augmentations.add(CenterCrop, {"center_crop": {}})
augmentations.add(RandomCrop, {"random_crop": {}})
augmentations.add(RandomResizedCrop, {"random_resized_crop": {}})
augmentations.add(SimpleRandomCrop, {"simple_random_crop": {}})
