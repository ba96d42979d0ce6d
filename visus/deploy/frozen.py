"""A copy of a model to be asked many questions: explanations, attacks, evaluation.

It computes the same, up to rounding, in less time: batch norms are folded where that is exact, parameters ask for no
gradients (those of the images still flow), and its convolutions hold their weights channels-last.
"""

from __future__ import annotations

import torch
from torch import nn

from visus.deploy.fold import reparameterise


def frozen(model: nn.Module, images_shape: tuple[int, ...] | None = None) -> nn.Module:
    """The copy, in eval mode; the model stays as it was. images_shape: [B, C, H, W] that the model takes, where its own
    config does not tell. A model whose norms cannot be followed keeps them."""
    copy = reparameterise(model, images_shape).model
    return copy.requires_grad_(False).to(memory_format=torch.channels_last)
