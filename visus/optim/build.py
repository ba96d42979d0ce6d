"""Optimizers by name, torch's own and LAMB, each on the fastest kernel that fits the parameters.

On the CPU torch's multi-tensor ("foreach") kernels are slower than a plain loop and the fused ones two to
four times faster: fused where it exists, else the plain loop. On other devices fused where it exists, else
torch's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import RecipeError, did_you_mean
from visus.optim.lamb import Lamb


@dataclass(frozen=True, slots=True)
class Kind:
    """takes: which of momentum, betas, nesterov and eps it has. fused: device types with a fused kernel."""

    build: Callable[..., torch.optim.Optimizer]
    takes: frozenset[str]
    fused: frozenset[str] = frozenset()


_ANY = frozenset({"cpu", "cuda", "mps", "xpu"})
_BETAS = frozenset({"betas", "eps"})

OPTIMIZERS: dict[str, Kind] = {
    "sgd": Kind(torch.optim.SGD, frozenset({"momentum", "nesterov"}), _ANY),
    "adam": Kind(torch.optim.Adam, _BETAS, _ANY),
    "adamw": Kind(torch.optim.AdamW, _BETAS, _ANY),
    "nadam": Kind(torch.optim.NAdam, _BETAS),
    "radam": Kind(torch.optim.RAdam, _BETAS),
    "adamax": Kind(torch.optim.Adamax, _BETAS),
    "rmsprop": Kind(torch.optim.RMSprop, frozenset({"momentum", "eps"})),
    "adagrad": Kind(torch.optim.Adagrad, frozenset({"eps"}), frozenset({"cpu"})),
    "adadelta": Kind(torch.optim.Adadelta, frozenset({"eps"})),
    "lamb": Kind(Lamb, _BETAS),
}


def build_optimizer(
    name: str,
    groups: Iterable[nn.Parameter] | Iterable[Mapping[str, Any]],
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """The optimizer `name` over parameters or groups (see `parameter_groups`).

    lr: peak learning rate. weight_decay: for groups that name none; decoupled for adamw, part of the
    layer-wise scaled update for lamb, an L2 penalty added to the gradient for all others. momentum (sgd,
    rmsprop), nesterov (sgd), betas (the Adam family) and eps (all but sgd; None: the optimizer's default)
    reach the optimizers that have them and mean nothing to the others.
    Raises RecipeError for an unknown name or a value out of range.
    """
    if name not in OPTIMIZERS:
        raise RecipeError("there is no such optimizer", where=f"optimizer={name!r}",
                          remedy=did_you_mean(name, OPTIMIZERS))
    kind = OPTIMIZERS[name]
    rows: list[Any] = [dict(g) if isinstance(g, Mapping) else g for g in groups]
    given: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "betas": tuple(betas), "eps": eps}
    options = {key: value for key, value in given.items() if key in kind.takes and value is not None}
    options |= _kernel(kind, _tensors(rows))
    try:
        return kind.build(rows, lr=lr, weight_decay=weight_decay, **options)
    except ValueError as error:  # torch checks the ranges
        raise RecipeError(str(error), where=f"optimizer={name!r}",
                          remedy="Correct the value in the recipe") from error


def _tensors(rows: list[Any]) -> list[Tensor]:
    return [p for row in rows for p in (row["params"] if isinstance(row, dict) else [row])]


def _kernel(kind: Kind, parameters: list[Tensor]) -> dict[str, bool]:
    devices = {p.device.type for p in parameters}
    if kind.fused and devices <= kind.fused and all(p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {"foreach": False} if "cpu" in devices else {}
