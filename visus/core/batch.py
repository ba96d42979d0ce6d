"""The batch and the predictions that travel between rooms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """images: float32 [B, C, H, W] in [0, 1] (RGB or grey), not yet normalised.
    targets: int64 [B] class labels, or float32 [B, K] for several labels or soft labels.
    index: int64 [B], each sample's position in its data set.
    copies: so many processes of a job hold this very batch, which is too small to be shared out.
    """

    images: Tensor
    targets: Tensor
    index: Tensor
    copies: int = 1

    def to(self, device: str | torch.device, *, non_blocking: bool = False, channels_last: bool = False) -> ImageBatch:
        layout = torch.channels_last if channels_last else torch.preserve_format
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking, memory_format=layout),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ImageBatch:
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())

    @property
    def weight(self) -> float:
        """Samples that the batch stands for in the sum over all processes of a job."""
        return len(self) / self.copies

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, slots=True)
class ClassPredictions:
    """probs: float32 [N, K] (rows sum to 1 for one label, each in [0, 1] for several).
    targets: int64 [N] or float32 [N, K]; index: int64 [N].
    """

    probs: Tensor
    targets: Tensor
    index: Tensor
