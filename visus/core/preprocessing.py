"""What a model does to an image before its first layer; travels with it through checkpoint, bundle and server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visus.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a decoded uint8 image to the tensor that the model takes.

    size: (height, width) in pixels. channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
    resize: 'squash' (to size, ignoring the aspect), 'crop' (short side to size / crop_fraction, then the centre), or
    'pad' (long side to size, the rest filled with `background`).
    interpolation: 'bilinear' or 'bicubic' (both antialiased, in uint8) or 'nearest'.
    mean, std: per channel, in units of [0, 1]. labels: class names, in the order of the model's outputs.
    background: RGB in 0..255 under transparent pixels and beside padded images.
    views: of which an answer is the mean (`answers`): 'none' the image alone, 'flip' it and its mirror image,
    'flip_shift' both also moved by a pixel along the diagonal, either way.
    """

    size: tuple[int, int]
    channels: int = 3
    resize: Literal["squash", "crop", "pad"] = "squash"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    background: tuple[int, int, int] = (255, 255, 255)
    labels: tuple[str, ...] = ()
    views: Literal["none", "flip", "flip_shift"] = "none"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise CheckpointError(f"{len(getattr(self, name))} values for {self.channels} channels",
                                      where=f"preprocessing.{name}={getattr(self, name)}")
        if min(self.std) <= 0:
            raise CheckpointError("every value must be above 0", where=f"preprocessing.std={self.std}")

    def resized(self, pixels: np.ndarray) -> Tensor:
        """uint8 [H, W, C] -> uint8 [channels, height, width], before normalisation."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.resized_planes(pixels)))

    def resized_planes(self, pixels: np.ndarray) -> np.ndarray:
        """As `resized`, as a view of an array that may have another order in memory."""
        import torch

        array = pixels if pixels.flags.c_contiguous and pixels.flags.writeable else np.array(pixels, order="C")
        # a batch of one with all its strides (None or unsqueeze would give it others), so that torch sees channels_last
        # and takes a kernel that is twice as fast
        images = torch.from_numpy(array.reshape(1, *array.shape).transpose(0, 3, 1, 2))
        return self.resized_batch(images).numpy()[0]

    def resized_batch(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8 [B, channels, height, width], before normalisation."""
        from visus.ops.resample import resize, to_channels

        if self.resize == "squash":
            return resize(to_channels(images, self.channels), self.size, self.interpolation)
        from visus.ops.resample import center_crop, pad_to

        images = to_channels(images, self.channels)
        scaled = resize(images, self.scaled_size(*images.shape[-2:]), self.interpolation)
        return center_crop(scaled, self.size) if self.resize == "crop" else pad_to(scaled, self.size, self.background)

    def resized_array(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 1 or 3] -> uint8 [height, width, channels]: the same bytes as `resized`, without torch."""
        from visus.ops import resample_arrays as arrays

        image = arrays.to_channels(pixels, self.channels)
        if self.resize == "squash":
            return np.ascontiguousarray(arrays.resize(image, self.size, self.interpolation))
        scaled = self.scaled_size(*image.shape[:2])
        if self.resize == "crop":
            window = arrays.centre(scaled, self.size)
            return np.ascontiguousarray(arrays.resize(image, scaled, self.interpolation, window))
        return arrays.pad_to(arrays.resize(image, scaled, self.interpolation), self.size, self.background)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the whole image before it is cropped or padded to `size`."""
        target_h, target_w = self.size
        if self.resize == "crop":
            scale = max(target_h / self.crop_fraction / height, target_w / self.crop_fraction / width)
            return max(target_h, round(height * scale)), max(target_w, round(width * scale))
        scale = min(target_h / height, target_w / width)
        return max(1, min(target_h, round(height * scale))), max(1, min(target_w, round(width * scale)))

    def normalise(self, images: Tensor) -> Tensor:
        """float [B, C, H, W] in [0, 1] -> (images - mean) / std."""
        import torch

        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        scale = torch.tensor([1 / s for s in self.std], dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        return torch.addcmul(-mean * scale, images, scale)  # one pass over the pixels

    def answers(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """float [B, C, H, W] in [0, 1] -> the model's logits [B, K], their mean over the `views`: half of it of the
        images in place and half of the moved ones, whose edge is mirrored (Jordan 2024, arXiv:2404.00498, section 3.5).
        """
        images = self.normalise(images)
        if self.views == "none":
            return model(images)
        logits = (model(images) + model(images.flip(-1))) / 2
        if self.views == "flip":
            return logits
        import torch

        padded = torch.nn.functional.pad(images, (1, 1, 1, 1), "reflect")
        for moved in (padded[..., :-2, :-2], padded[..., 2:, 2:]):
            logits = logits + (model(moved) + model(moved.flip(-1))) / 4
        return logits / 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise CheckpointError(f"unknown fields {sorted(unknown)}", where="preprocessing",
                                  remedy="The file comes from a newer version of visus: upgrade")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)
