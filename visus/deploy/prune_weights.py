"""Pruning by magnitude: the smallest weights become zero and stay zero, the others learn on.

Han, Pool, Tran, Dally, Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015,
arXiv:1506.02626: learn, prune what is below a threshold, learn again, in rounds. Scales, shifts and biases are never
pruned. A zero takes as much time as any other number in a dense kernel: what is saved is room (visus.deploy.deep_file).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from visus.core.errors import UserError

SCOPES = ("global", "layer")
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Constraint(Protocol):
    """What the Trainer asks of a regulariser."""

    def penalty(self, model: nn.Module) -> Tensor | None: ...

    def constrain(self, model: nn.Module) -> None: ...


class HeldAtZero:
    """Masks that are applied after each update, so that no optimizer moves a pruned weight: a regulariser for the
    Trainer. base: another one, which acts first."""

    def __init__(self, masks: Mapping[str, Tensor], base: Constraint | None = None):
        self.masks, self.base = dict(masks), base

    def penalty(self, model: nn.Module) -> Tensor | None:
        return None if self.base is None else self.base.penalty(model)

    def constrain(self, model: nn.Module) -> None:
        if self.base is not None:
            self.base.constrain(model)
        apply_masks(model, self.masks)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The kernels and matrices of convolutions and full layers, each once, by name."""
    owned = {id(parameter) for module in model.modules() if isinstance(module, _WEIGHTED)
             for parameter in [module._parameters.get("weight")] if parameter is not None}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def magnitude_masks(model: nn.Module, amount: float, scope: str = "global") -> dict[str, Tensor]:
    """bool masks by name of parameter, False at the `amount` (share, 0 to below 1) of the weights with the least
    absolute values. scope: 'global', of all weights together; 'layer', of each tensor. What is zero already goes first.

    Raises UserError for a wrong share or scope, and for a model without a kernel or matrix.
    """
    if not 0 <= amount < 1:
        raise UserError("is a share from 0 to below 1", where=f"amount={amount}")
    if scope not in SCOPES:
        raise UserError("is not a scope", where=f"scope={scope!r}", remedy="Use global or layer")
    weights = prunable(model)
    if not weights:
        raise UserError("has no kernel and no matrix that could be pruned", where=type(model).__name__)
    if scope == "layer":
        return {name: _least(weight.detach().abs().flatten(), amount).reshape(weight.shape)
                for name, weight in weights.items()}
    kept = _least(torch.cat([weight.detach().abs().flatten() for weight in weights.values()]), amount)
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {name: part.reshape(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set what the masks leave out to zero, in place."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def rounds(amount: float, count: int) -> list[float]:
    """The shares of `count` rounds of pruning and learning, by the cubic rule of Zhu and Gupta 2017 (arXiv:1710.01878,
    equation 1): much at first, while much is superfluous, little at the end."""
    if count < 1:
        raise UserError("must be at least 1", where=f"rounds={count}")
    return [amount * (1 - (1 - (k + 1) / count) ** 3) for k in range(count)]


def sparsity(model: nn.Module) -> dict[str, float]:
    """The share of zeros in each kernel and matrix."""
    return {name: float((weight == 0).float().mean()) for name, weight in prunable(model).items()}


def zeros_of(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Masks that hold what is zero now, of all kernels and matrices or of those named."""
    return {name: weight.detach() != 0 for name, weight in prunable(model).items() if names is None or name in names}


def _least(values: Tensor, amount: float) -> Tensor:
    """bool [n]: False at the round(amount * n) least of the values."""
    kept = torch.ones(len(values), dtype=torch.bool, device=values.device)
    count = round(amount * len(values))
    if count:
        kept[torch.topk(values, count, largest=False).indices] = False
    return kept
