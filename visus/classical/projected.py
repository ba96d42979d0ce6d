"""What the models share that look at images through their first principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from visus.classical.fitted import Fitted
from visus.core.errors import UserError

ABSENT = 30.0  # by which the logit of a class without images is below the least of the others


class ProjectedFitted(Fitted):
    """Buffers center, float32 [D], and axes [K, D], with D = C S S."""

    center: Tensor
    axes: Tensor

    def coefficients_of(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, K], along the axes. Raises UserError for images of another size."""
        flat = images.flatten(1)
        if flat.shape[1] != len(self.center):
            raise UserError(f"images of {flat.shape[1]} values, fitted to {len(self.center)}",
                            where=f"images {tuple(images.shape)}", remedy="Give images of the size of the training")
        return (flat - self.center) @ self.axes.T


def below_the_others(logits: Tensor, absent: Tensor) -> Tensor:
    """logits [B, C] with those of absent classes, bool [C], ABSENT below the least of the others: never an answer, and
    finite."""
    return torch.where(absent, logits.masked_fill(absent, torch.inf).amin(1, keepdim=True) - ABSENT, logits)
