"""Features of small images that a linear classifier can use, made without training a net.

Two kinds side by side. Histograms of gradient directions in cells of 4 x 4 pixels, normalised over neighbouring cells
(after Dalal and Triggs, 2005, "Histograms of oriented gradients for human detection"). And responses to patches of the
images themselves, whitened, rectified with both signs and averaged in quarters of the image (after Coates, Lee and Ng,
2011, "An analysis of single-layer networks in unsupervised feature learning"; patches drawn instead of clustered).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 4
DIRECTIONS = 9
PATCH = 6
FILTERS = 96
DRAWN = 20_000  # patches, for the whitening
STRIDE = 2
THRESHOLD = 0.25  # of the rectification, after Coates et al.
BATCH = 256


def features(small: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, C] -> float32 [n, D]: gradient histograms [8 * 8 * 9] and patch responses [2 * 96 * 4]."""
    images = torch.from_numpy(np.ascontiguousarray(small))
    filters = _filters(images)
    with torch.no_grad():
        parts = []
        for block in images.split(BATCH):
            x = block.permute(0, 3, 1, 2).float() / 255  # [b, C, 32, 32]
            parts.append(torch.cat([_gradients(x.mean(1)), _responses(x, *filters)], 1))
    return torch.cat(parts).numpy()


def _gradients(grey: Tensor) -> Tensor:
    """[b, S, S] -> [b, 9 * cells]."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx, dy = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = torch.hypot(dx, dy)
    place = (torch.atan2(dy, dx) % math.pi) / math.pi * DIRECTIONS
    low, part = place.floor().long() % DIRECTIONS, place - place.floor()
    histogram = grey.new_zeros(len(grey), DIRECTIONS, *grey.shape[1:])
    histogram.scatter_add_(1, low[:, None], (strength * (1 - part))[:, None])
    histogram.scatter_add_(1, ((low + 1) % DIRECTIONS)[:, None], (strength * part)[:, None])
    cells = F.avg_pool2d(histogram, CELL) * CELL**2  # [b, 9, 8, 8]
    energy = F.pad((cells**2).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    blocks = F.avg_pool2d(energy, 2, 1) * 4  # [b, 1, 9, 9]: of the four blocks that a cell lies in
    side = cells.shape[-1]
    scaled = [cells / (blocks[:, :, y:y + side, x:x + side] + 1e-3).sqrt() for y in (0, 1) for x in (0, 1)]
    return torch.stack(scaled).mean(0).flatten(1)


def _filters(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [n, S, S, C] -> (kernels [K, C, P, P] for patches of mean 0 and deviation 1, offsets [K])."""
    generator = torch.Generator().manual_seed(0)
    side, channels = images.shape[1], images.shape[3]
    which = torch.randint(len(images), (DRAWN,), generator=generator)
    y, x = torch.randint(side - PATCH + 1, (2, DRAWN), generator=generator)
    step = torch.arange(PATCH)
    patches = images[which[:, None, None], (y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None, :]]
    patches = patches.permute(0, 3, 1, 2).flatten(1).float() / 255  # [N, C * P * P]
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.pow(2).mean(1, keepdim=True) + _FLAT**2).sqrt()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    whiten = vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T
    chosen = (patches - mean)[torch.randperm(DRAWN, generator=generator)[:FILTERS]] @ whiten
    kernels = F.normalize(chosen, dim=1) @ whiten.T
    return kernels.view(FILTERS, channels, PATCH, PATCH), kernels @ mean


_FLAT = 10 / 255  # deviation below which a patch counts as flat


def _responses(x: Tensor, kernels: Tensor, offsets: Tensor) -> Tensor:
    """[b, C, S, S] -> [b, 2 * K * 4]. A patch is brought to mean 0 and deviation 1 before it meets the kernels; as
    that is linear but for the deviation, one convolution does it."""
    mean = F.avg_pool2d(x.mean(1, keepdim=True), PATCH, STRIDE)
    square = F.avg_pool2d((x**2).mean(1, keepdim=True), PATCH, STRIDE)
    deviation = ((square - mean**2).clamp(min=0) + _FLAT**2).sqrt()
    raw = F.conv2d(x, kernels, stride=STRIDE) - mean * kernels.sum((1, 2, 3))[:, None, None]
    response = raw / deviation - offsets[:, None, None]
    both = torch.cat([F.relu(response - THRESHOLD), F.relu(-response - THRESHOLD)], 1)
    return F.adaptive_avg_pool2d(both, 2).flatten(1)
