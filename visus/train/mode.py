"""Train mode for models of which a part is frozen."""

from __future__ import annotations

from torch import nn


def train_mode(model: nn.Module) -> None:
    """Train mode, but for modules whose parameters are all frozen: their batch norms keep what they have learnt."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
