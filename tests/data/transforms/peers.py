"""Images and peers that the tests of transforms share."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.peers import load_peer
from visus.data.transforms import Draws


def torchvision_functional() -> ModuleType:
    """torchvision.transforms.v2.functional, or a skipped test."""
    try:
        load_peer("torchvision")
        import torchvision.transforms.v2.functional as functional
    except ImportError as error:
        pytest.skip(str(error))
    return functional


def noise(batch: int = 6, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    """uint8 [B, C, H, W], every level as likely."""
    return torch.randint(0, 256, (batch, channels, height, width), generator=torch.Generator().manual_seed(0),
                         dtype=torch.uint8)


def smooth(batch: int = 6, height: int = 40, width: int = 37) -> Tensor:
    """uint8 [B, 3, H, W]: colours that change slowly, each image of another contrast and mean."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.stack([torch.sin(4 * x + k) * torch.cos((2 + k) * y) for k in range(3)])  # [3, H, W]
    span = torch.linspace(10, 120, batch).view(-1, 1, 1, 1)
    middle = torch.linspace(60, 180, batch).view(-1, 1, 1, 1)
    return (middle + span * waves).round().clamp(0, 255).to(torch.uint8)


def draws(batch: int, epoch: int = 0) -> Draws:
    return Draws(np.arange(batch), 0, epoch, "x")
