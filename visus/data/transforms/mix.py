"""Two images and their labels in one: mixup and CutMix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.data.transforms import Draws


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Each image of a batch with the next one, and their targets alike, by a share lam ~ Beta(alpha, alpha).

    mixup: its alpha; 0 switches it off. x = lam x_a + (1 - lam) x_b, y = lam y_a + (1 - lam) y_b (Zhang et al., mixup,
    ICLR 2018, equation 1). cutmix: its alpha; a box of b is pasted into a, sides sqrt(1 - lam) of the image's, centre
    uniform, cut off at the border, and lam is then the share of a's pixels that is left (Yun et al., CutMix, ICCV
    2019, equations 1 and 2). cutmix_share: of the mixed images where both are on. probability: of being mixed at all.

    lam, box and choice are drawn for each image; who the next one is, the batch decides. Batches are shuffled.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_share: float = 0.5
    probability: float = 1.0

    def __call__(self, images: Tensor, targets: Tensor, num_classes: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """Float images [B, C, H, W]; labels int64 [B] or targets float [B, K] -> mixed images and targets float [B, K].
        """
        soft = targets if targets.is_floating_point() else F.one_hot(targets, num_classes).float()
        if not (self.mixup or self.cutmix) or not len(images):
            return images, soft
        u = draws.uniform(6)
        mixed = u[:, 0] < self.probability
        pasted = mixed & (u[:, 1] < (self.cutmix_share if self.mixup else 1.0)) if self.cutmix else np.zeros_like(mixed)
        blended = mixed & ~pasted
        share = np.ones(len(u))
        if blended.any():
            share[blended] = symmetric_beta(self.mixup, u[blended, 2], u[blended, 3])
        if pasted.any():
            share[pasted] = symmetric_beta(self.cutmix, u[pasted, 2], u[pasted, 3])
        lam = torch.from_numpy(share.astype(np.float32)).to(images.device)
        others, others_soft = images.roll(-1, 0), soft.roll(-1, 0)
        out = images
        if blended.any():
            out = torch.lerp(others, images, torch.where(_on(blended, images), lam, 1.0)[:, None, None, None])
        if pasted.any():
            boxes = cut_boxes(np.where(pasted, share, 1.0), u[:, 4:6], *images.shape[-2:])
            inside = box_masks(boxes, *images.shape[-2:]).to(images.device)  # [B, 1, H, W]
            out = torch.where(inside, others, out)
            left = 1 - inside.float().mean((1, 2, 3))
            lam = torch.where(_on(pasted, images), left, lam)
        return out, torch.lerp(others_soft, soft, lam[:, None])


def symmetric_beta(alpha: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Beta(alpha, alpha) from two uniform numbers each: (1 + t / sqrt(2 alpha + t^2)) / 2, where t of 2 alpha degrees
    of freedom is Student's, made by Bailey's polar method (Mathematics of Computation 62, 1994)."""
    direction = np.cos(2 * np.pi * v)
    with np.errstate(divide="ignore", over="ignore"):
        spread = direction**2 * (np.asarray(u, np.float64) ** (-1 / alpha) - 1)  # t^2 / (2 alpha), may be infinite
        return 0.5 + 0.5 * np.sign(direction) / np.sqrt(1 + 1 / spread)


def cut_boxes(share: np.ndarray, centre: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 [B, 4] (top, left, bottom, right) of boxes of 1 - share of the image's area about `centre` [B, 2], (y, x)
    in [0, 1), cut off at the border."""
    size = np.array([height, width])
    sides = np.rint(size * np.sqrt(1 - share)[:, None]).astype(np.int64)
    start = np.floor(centre * size).astype(np.int64) - sides // 2
    return np.concatenate([start.clip(0), (start + sides).clip(None, size)], 1)


def box_masks(boxes: np.ndarray, height: int, width: int) -> Tensor:
    """bool [B, 1, height, width]: inside boxes [B, 4] (top, left, bottom, right)."""
    rows, columns = np.arange(height), np.arange(width)
    in_rows = (rows >= boxes[:, :1]) & (rows < boxes[:, 2:3])  # [B, H]
    in_columns = (columns >= boxes[:, 1:2]) & (columns < boxes[:, 3:])  # [B, W]
    return torch.from_numpy(in_rows[:, None, :, None] & in_columns[:, None, None, :])


def _on(chosen: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(images.device)
