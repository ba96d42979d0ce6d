"""A classifier's answer for many crops of an image: AlexNet's ten, GoogLeNet's 144, and the mean of what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.core.validate import positive, require
from visus.ops.resample import resize

SHARES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)  # GoogLeNet's short sides, over the side of its input


@torch.no_grad()
def crop_evaluate(model: nn.Module, images: Tensor, image_size: int, crops: Literal["ten", "144"] = "ten",
                  preprocessing: Preprocessing | None = None) -> Tensor:
    """Class probabilities [B, num_classes] of images [B, C, H, W], all of one size: the mean softmax over the crops.

    crops: 'ten' of the image whose short side is 8/7 of image_size (Krizhevsky et al. 2012, section 4.1), or
    GoogLeNet's '144' (`crops_of_squares`). images: normalised floats, or uint8, which `preprocessing` normalises after
    resizing (its own size and crop are not used).
    """
    positive(image_size=image_size)
    require(crops in ("ten", "144"), "crops", crops, "be 'ten' or '144'")
    if images.dtype == torch.uint8 and preprocessing is None:
        raise UserError("uint8 images need the model's preprocessing", where="preprocessing=None",
                        remedy="Give it, or images that are normalised already")
    interpolation = "bilinear" if preprocessing is None else preprocessing.interpolation
    dtype = next(model.parameters()).dtype
    if crops == "ten":
        groups: Iterator[Tensor] = iter([ten_crop(short_side(images, round(image_size * 8 / 7), interpolation),
                                                  image_size)])
    else:
        groups = crops_of_squares(images, image_size, [round(share * image_size) for share in SHARES], interpolation)
    total, count = None, 0
    for group in groups:
        for crop in group.unbind(1):
            if preprocessing is not None and crop.dtype == torch.uint8:
                crop = preprocessing.normalise(crop.float() / 255).to(dtype)
            probs = model(crop).softmax(1)
            total, count = probs if total is None else total + probs, count + 1
    assert total is not None
    return total / count


def ten_crop(images: Tensor, size: int) -> Tensor:
    """[B, C, H, W] -> [B, 10, C, size, size]: the corners (upper left, upper right, lower left, lower right) and the
    centre, then the same of the mirrored image."""
    return torch.cat([_five(images, size), _five(images.flip(3), size)], 1)


def crops_of_squares(images: Tensor, size: int = 224, scales: Sequence[int] = (256, 288, 320, 352),
                     interpolation: str = "bilinear") -> Iterator[Tensor]:
    """For each scale, the length of the short side, [B, 36, C, size, size]: of the squares at both ends and in the
    middle of the longer side, the four corners, the centre, and the whole square resized; then all mirrored. With the
    four scales of GoogLeNet 144 (Szegedy et al. 2015, "Going deeper with convolutions", section 7)."""
    for scale in scales:
        require(scale >= size, "scales", scale, f"be at least {size}, the side of a crop")
        scaled = short_side(images, scale, interpolation)
        height, width = scaled.shape[-2:]
        crops = []
        for place in range(3):
            top, left = round(place * (height - scale) / 2), round(place * (width - scale) / 2)
            square = scaled[..., top:top + scale, left:left + scale]
            crops += [_five(square, size), resize(square, (size, size), interpolation)[:, None]]
        plain = torch.cat(crops, 1)
        yield torch.cat([plain, plain.flip(4)], 1)


def short_side(images: Tensor, length: int, interpolation: str = "bilinear") -> Tensor:
    """[B, C, H, W] resized so that the short side has `length` pixels and the aspect stays."""
    height, width = images.shape[-2:]
    size = (max(length, round(length * height / width)), max(length, round(length * width / height)))
    return resize(images, size, interpolation)


def _five(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    require(min(height, width) >= size, "size", size, f"be at most {min(height, width)}, the image's short side")
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return torch.stack([images[..., top:top + size, left:left + size] for top, left in corners], 1)
