"""A grey picture full of corners, spots and stripes, for demos of local features."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from visus.ops.resample import resize

_FINE = 3  # drawn so much larger, then reduced: smooth edges


def shapes(seed: int, side: int = 240, count: int = 70) -> Tensor:
    """Polygons and ellipses over one another, float32 [1, 1, side, side] in [0, 1]."""
    rng = np.random.default_rng(seed)
    canvas = Image.new("L", (side * _FINE, side * _FINE), 128)
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        x, y = rng.uniform(0.04, 0.96, 2) * side * _FINE
        radius, grey = rng.uniform(4, 22) * _FINE, int(rng.integers(10, 246))
        if rng.random() < 0.5:
            high = radius * rng.uniform(0.4, 1)
            draw.ellipse([x - radius, y - high, x + radius, y + high], fill=grey)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            draw.polygon([(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles], fill=grey)
    image = torch.from_numpy(np.asarray(canvas).copy()).float()[None, None] / 255
    return resize(image, (side, side))


def as_pixels(image: Tensor) -> np.ndarray:
    """[1, 1, H, W] in [0, 1] -> uint8 [H, W]."""
    return np.asarray((image[0, 0].clamp(0, 1) * 255).round().to(torch.uint8))
