"""Pictures made of the built-in digits, with boxes around the object that a detector is to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visus.data import builtin
from visus.ops.boxes import box_iou
from visus.ops.resample import resize


def digit_images() -> tuple[Tensor, Tensor]:
    """All 1,797: float32 [N, 1, 8, 8] in [0, 1], and their labels, int64 [N]."""
    held = np.load(Path(builtin.__file__).parent / "digits.npz")
    return torch.from_numpy(held["images"]).float()[:, None] / 255, torch.from_numpy(held["labels"]).long()


def scene(images: Tensor, labels: Tensor, what: tuple[int, ...], draw: torch.Generator, *, size: tuple[int, int],
          digit_px: tuple[int, int], others: int, sway: int = 0, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """A grey picture [1, H, W] with one object and its box [1, 4], `others` single digits of other classes around it.

    what: the object's digits from left to right. digit_px: least and largest side of a digit. sway: how far the digits
    of the object move from their places, in px.
    """
    height, width = size
    canvas, taken = torch.zeros(1, height, width), torch.zeros(0, 4)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, max(low, high) + 1, (), generator=draw))

    def one(classes: tuple[int, ...], side: int) -> Tensor:
        kind = classes[number(0, len(classes) - 1)]
        own = (labels == kind).nonzero()[:, 0]
        return resize(images[own[number(0, len(own) - 1)]][None], (side, side), "bicubic")[0].clamp(0, 1)

    def paste(picture: Tensor, top: int, left: int) -> Tensor:
        side = picture.shape[-1]
        part = canvas[:, top:top + side, left:left + side]
        part.copy_(part.maximum(picture))
        return torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)

    side = number(*digit_px)
    top, left = number(sway, height - side - sway), number(0, width - len(what) * side - 2 * sway)
    pieces = [paste(one((digit,), side), top + number(-sway, sway), left + place * side + number(0, 2 * sway))
              for place, digit in enumerate(what)]
    corners = torch.cat(pieces)
    box = torch.cat([corners[:, :2].amin(0), corners[:, 2:].amax(0)])[None]
    taken = box
    rest = tuple(kind for kind in labels.unique().tolist() if len(what) > 1 or kind not in what)
    for _ in range(20 * others):
        if len(taken) > others:
            break
        side = number(*digit_px)
        top, left = number(0, height - side), number(0, width - side)
        place = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
        if not bool((box_iou(place, taken) > 0).any()):
            taken = torch.cat([taken, paste(one(rest, side), top, left)])
    canvas = canvas + noise * torch.randn(canvas.shape, generator=draw)
    return canvas.clamp(0, 1), box
