"""Real images for the tests of classical models: the 1,797 digits that the package brings, 8 x 8, grey."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import visus
from visus.classical.fitted import Examples

Split = tuple[Tensor, Tensor]


@cache
def digits(side: int = 8, channels: int = 1) -> tuple[Split, Split]:
    """((images [1257, channels, side, side], labels), the same of 540 others), mean 0 and deviation 1 over all pixels
    of the first. side 16, 32: each pixel becomes a square of its own."""
    with np.load(Path(visus.__file__).parent / "data" / "builtin" / "digits.npz") as data:
        images, labels = (torch.from_numpy(data[name]) for name in ("images", "labels"))
    images = images.float().reshape(-1, 1, 8, 8).repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
    images = images.expand(-1, channels, -1, -1).contiguous()
    images = (images - images[:1257].mean()) / images[:1257].std()
    return (images[:1257], labels[:1257].long()), (images[1257:], labels[1257:].long())


def batches(split: Split, size: int = 256):
    def epoch():
        yield from zip(split[0].split(size), split[1].split(size), strict=True)
    return epoch


def examples(train: Split | None = None, val: Split | None = None, *, side: int = 8, channels: int = 1,
             num_classes: int = 10, seed: int = 0, **told) -> Examples:
    """Of these splits, or of the digits."""
    usual = digits(side, channels)
    train, val = train or usual[0], val or usual[1]
    return Examples(train=batches(train), val=batches(val), count=len(train[1]), num_classes=num_classes, seed=seed,
                    device=torch.device("cpu"), **told)
