"""Resizing, cropping and padding of image tensors [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-R 601 luma in 16-bit fixed point, the rounding that Pillow's convert("L") uses.
_LUMA = (19595, 38470, 7471)

# What F.interpolate calls after a good deal of Python, which counts for small images; None where torch renames it.
_KERNELS = {name: getattr(torch._C._nn, f"_upsample_{name}2d_aa", None) for name in ("bilinear", "bicubic")}


def antialiased_kernel(interpolation: str) -> Callable[..., Tensor] | None:
    """(images [B, C, H, W], size, False, None, None) -> images of that size: what `resize` calls; None where it asks
    torch's public function."""
    return _KERNELS.get(interpolation)


def resize(images: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """To `size` = (height, width), antialiased; uint8 stays uint8 (rounded), float stays float.

    Antialiased resampling widens the kernel by the scale when shrinking, as Pillow does.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if interpolation == "nearest":
        return F.interpolate(images, size=size, mode="nearest-exact")
    kernel = _KERNELS.get(interpolation)
    if kernel is not None and images.ndim == 4:
        return kernel(images, size, False, None, None)
    return F.interpolate(images, size=size, mode=interpolation, antialias=True, align_corners=False)


def center_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The centre of `size`; an odd remainder goes to the bottom and right, as in torchvision."""
    height, width = images.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return images[..., top:top + size[0], left:left + size[1]]


def pad_to(images: Tensor, size: tuple[int, int], background: tuple[int, ...]) -> Tensor:
    """Centred on a canvas of `size` in the colour `background` (RGB, 0..255)."""
    height, width = images.shape[-2:]
    colour = torch.tensor(background, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    colour = to_channels(colour, images.shape[1]).to(images.dtype)
    canvas = colour.expand(images.shape[0], -1, *size).clone()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[..., top:top + height, left:left + width] = images
    return canvas


def to_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 [B, 1 or 3, H, W] -> [B, channels, H, W]: grey is repeated, RGB becomes luma."""
    have = images.shape[1]
    if have == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    r, g, b = (images[:, i:i + 1].to(torch.int32) * w for i, w in enumerate(_LUMA))
    return ((r + g + b + 0x8000) >> 16).to(torch.uint8)
