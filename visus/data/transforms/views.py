"""Several views of each image, for learning without labels: k of one kind, or a few large and many small crops."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Augmentation, build_augmentation, to_unit
from visus.ops.resample import resize


@dataclass(frozen=True)
class View:
    """One kind of view. augmentation: its steps, None for the image as it is. size: its side in pixels, None for that
    of the image; the crop of the first step goes to it in one resampling, other images are resized at the end."""

    augmentation: Augmentation | None
    size: int | None = None


@dataclass(frozen=True)
class Views:
    """Every image as several views; each has draws of its own, a function of (seed, epoch, sample, view)."""

    views: tuple[View, ...]

    def __call__(self, images: Tensor, index: np.ndarray, seed: int, epoch: int) -> list[Tensor]:
        """uint8 or float in [0, 1] images [B, C, H, W] of the samples `index` [B] -> for each view float32
        [B, C, size, size]."""
        return [self._one(view, images, index, _seed_of(seed, number), epoch) for number, view in enumerate(self.views)]

    def _one(self, view: View, images: Tensor, index: np.ndarray, seed: int, epoch: int) -> Tensor:
        augmentation, size = view.augmentation, view.size
        crop = None if augmentation is None else augmentation.decode_crop
        if crop is not None and size is not None:
            assert augmentation is not None
            batch, _, height, width = images.shape
            draws = augmentation.draws(0, np.asarray(index), seed, epoch)
            boxes = crop.boxes(np.full(batch, height), np.full(batch, width), draws)
            images = cut_and_resized(images, boxes, size)
        if augmentation is not None:
            images = augmentation(images, index, seed, epoch, cropped=crop is not None and size is not None)
        if size is not None and images.shape[-2:] != (size, size):
            images = resize(images, (size, size))
        return to_unit(images).clamp(0, 1)


def cut_and_resized(images: Tensor, boxes: np.ndarray, size: int) -> Tensor:
    """[B, C, H, W]: the box [B, 4] (top, left, height, width) of each image as [B, C, size, size], of the same type,
    antialiased where it shrinks."""
    out = images.new_empty((*images.shape[:2], size, size))
    for place, (top, left, height, width) in enumerate(boxes.tolist()):
        out[place] = resize(images[place:place + 1, :, top:top + height, left:left + width], (size, size))[0]
    return out if images.dtype == torch.uint8 else out.clamp_(0, 1)


def k_views(steps: Sequence[Mapping[str, Any]], count: int = 2, size: int | None = None) -> Views:
    """`count` views of the same steps (SimCLR and MoCo: 2). Raises RecipeError as build_augmentation does."""
    _positive("count", count)
    return Views((View(build_augmentation(steps), _side(size)),) * count)


def multi_crop(large_size: int = 224, small_size: int = 96, large: int = 2, small: int = 6, *,
               large_scale: tuple[float, float] = (0.4, 1.0), small_scale: tuple[float, float] = (0.05, 0.4),
               steps: Sequence[Mapping[str, Any]] = ()) -> Views:
    """`large` global and `small` local crops (Caron et al. 2020, "Unsupervised learning of visual features by
    contrasting cluster assignments", section 3.2), by random area and aspect, each followed by `steps`.

    The numbers are DINO's (Caron et al. 2021, "Emerging properties in self-supervised vision transformers", section 3.1
    and appendix; 2 and 6 to 10 crops). `DINO_STEPS` are its steps but for what it does to single views.
    """
    _positive("large", large)
    _positive("small", small, least=0)
    views = [View(build_augmentation([{"name": "random_resized_crop", "scale": list(scale)}, *steps]), _side(size))
             for scale, size in ((large_scale, large_size), (small_scale, small_size))]
    return Views((views[0],) * large + (views[1],) * small)


DINO_STEPS: tuple[Mapping[str, Any], ...] = (
    {"name": "horizontal_flip"},
    {"name": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "order": "random",
     "probability": 0.8},
    {"name": "grayscale", "probability": 0.2}, {"name": "gaussian_blur", "sigma": [0.1, 2.0], "probability": 0.5})
# SimCLR at strength 1 (Chen et al. 2020, appendix A)
SIMCLR_STEPS: tuple[Mapping[str, Any], ...] = (
    {"name": "random_resized_crop"}, {"name": "horizontal_flip"},
    {"name": "color_jitter", "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "order": "random",
     "probability": 0.8},
    {"name": "grayscale", "probability": 0.2}, {"name": "gaussian_blur", "sigma": [0.1, 2.0], "probability": 0.5})


def _seed_of(seed: int, view: int) -> int:
    """A seed for each view; the first keeps the run's."""
    if not view:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} view {view}".encode()).digest()[:7], "little")


def _positive(field: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RecipeError(f"must be a whole number of at least {least}", where=f"views.{field}={value!r}")


def _side(size: int | None) -> int | None:
    if size is not None:
        _positive("size", size)
    return size
