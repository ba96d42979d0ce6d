"""Optimizers by name, torch's own and ours, each on the fastest kernel that fits the parameters.

On the CPU torch's multi-tensor ("foreach") kernels are slower than a plain loop and the fused ones two to
four times faster: fused where it exists, else the plain loop. On other devices fused where it exists, else
torch's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import RecipeError, did_you_mean
from visus.optim.averaged_sgd import AveragedSGD
from visus.optim.diagonal_lm import DiagonalLM
from visus.optim.fused_adamw import FusedAdamW
from visus.optim.lamb import Lamb
from visus.optim.lars import Lars
from visus.optim.lbfgs import LBFGS
from visus.optim.lion import Lion
from visus.optim.lookahead import Lookahead
from visus.optim.muon import Muon
from visus.optim.newton import Newton
from visus.optim.sam import SAM
from visus.optim.weight_search import LocalSearch, RandomSearch


@dataclass(frozen=True, slots=True)
class Kind:
    """takes: which of momentum, betas, nesterov, eps and history it has. fused: device types with a fused kernel.
    foreach: it has torch's two other kernels. decays: it has weight decay. momentum: where none is given."""

    build: Callable[..., torch.optim.Optimizer]
    takes: frozenset[str]
    fused: frozenset[str] = frozenset()
    foreach: bool = True
    decays: bool = True
    momentum: float = 0.9


_ANY = frozenset({"cpu", "cuda", "mps", "xpu"})
_ADAM = frozenset({"betas", "eps"})

OPTIMIZERS: dict[str, Kind] = {
    "sgd": Kind(torch.optim.SGD, frozenset({"momentum", "nesterov"}), _ANY),
    "adam": Kind(torch.optim.Adam, _ADAM, _ANY),
    "adamw": Kind(torch.optim.AdamW, _ADAM, _ANY),
    "nadam": Kind(torch.optim.NAdam, _ADAM),
    "radam": Kind(torch.optim.RAdam, _ADAM),
    "adamax": Kind(torch.optim.Adamax, _ADAM),
    "rmsprop": Kind(torch.optim.RMSprop, frozenset({"momentum", "eps"})),
    "adagrad": Kind(torch.optim.Adagrad, frozenset({"eps"}), frozenset({"cpu"})),
    "adadelta": Kind(torch.optim.Adadelta, frozenset({"eps"})),
    "rprop": Kind(torch.optim.Rprop, frozenset(), decays=False),
    "lamb": Kind(Lamb, _ADAM, foreach=False),
    "lars": Kind(Lars, frozenset({"momentum"}), foreach=False),
    "lion": Kind(Lion, frozenset({"betas"}), foreach=False),
    "muon": Kind(Muon, frozenset({"momentum", "nesterov", "betas", "eps"}), foreach=False, momentum=0.95),
    "muon_sgd": Kind(partial(Muon, scale="jordan", rest="sgd"), frozenset({"momentum", "nesterov"}), foreach=False,
                     momentum=0.95),
    "muon_unit": Kind(partial(Muon, scale="jordan", rest="sgd", unit_weights=True),
                      frozenset({"momentum", "nesterov"}), foreach=False, momentum=0.95),
    "asgd": Kind(AveragedSGD, frozenset(), foreach=False),
    "lbfgs": Kind(LBFGS, frozenset({"history"}), foreach=False),
    "newton": Kind(Newton, frozenset(), foreach=False),
    "diagonal_lm": Kind(DiagonalLM, frozenset(), foreach=False),
    "random_search": Kind(RandomSearch, frozenset(), foreach=False, decays=False),
    "local_search": Kind(LocalSearch, frozenset(), foreach=False, decays=False),
}
# What takes several looks at a batch, or remembers no gradient: no loss scaling, and nothing around it.
WITH_CLOSURE = frozenset({"lbfgs", "newton", "random_search", "local_search"})


def build_optimizer(
    name: str,
    groups: Iterable[nn.Parameter] | Iterable[Mapping[str, Any]],
    *,
    lr: float,
    momentum: float | None = None,
    nesterov: bool = False,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    history: int = 10,
) -> torch.optim.Optimizer:
    """The optimizer `name` over parameters or groups (see `parameter_groups`; for muon `matrix_groups`).

    lr: peak learning rate. weight_decay: for groups that name none; decoupled for adamw, lion, muon, asgd, part of the
    layer-wise scaled update for lamb and lars, an L2 penalty added to the gradient for all others; rprop and the
    searches have none. momentum (sgd, rmsprop, lars: 0.9; muon: 0.95), nesterov (sgd, muon), betas (the Adam family,
    lion), eps (the Adam family and its like), history (lbfgs) reach the optimizers that have them and mean nothing to
    the others; None: the optimizer's own. An optimizer with a true `needs_closure` must be given one in each step.
    Raises RecipeError for an unknown name or a value out of range.
    """
    if name not in OPTIMIZERS:
        raise RecipeError("there is no such optimizer", where=f"optimizer={name!r}",
                          remedy=did_you_mean(name, OPTIMIZERS))
    kind = OPTIMIZERS[name]
    rows: list[Any] = [dict(g) if isinstance(g, Mapping) else g for g in groups]
    momentum = kind.momentum if momentum is None else momentum
    given: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov and momentum > 0, "betas": betas, "eps": eps,
                             "history": history}
    options = {key: value for key, value in given.items() if key in kind.takes and value is not None}
    if kind.decays:
        options["weight_decay"] = weight_decay
    tensors = _tensors(rows)
    build = kind.build
    if name == "adamw" and len({p.dtype for p in tensors}) == 1 and all(
            p.device.type == "cpu" and p.is_floating_point() and type(p) is nn.Parameter for p in tensors):
        build = FusedAdamW
    else:
        options |= _kernel(kind, tensors)
    try:
        return build(rows, lr=lr, **options)
    except ValueError as error:  # torch checks the ranges
        raise RecipeError(str(error), where=f"optimizer={name!r}",
                          remedy="Correct the value in the recipe") from error


def wrap_optimizer(optimizer: torch.optim.Optimizer, *, sam: float = 0.0, sam_adaptive: bool = False,
                   lookahead: int = 0, lookahead_alpha: float = 0.5) -> torch.optim.Optimizer:
    """Sharpness-aware steps of radius `sam`, and around them slow weights every `lookahead` updates; 0: without.

    Raises RecipeError where the optimizer looks at a batch more than once by itself."""
    if (sam or lookahead) and getattr(optimizer, "needs_closure", False):
        field = f"optimizer.sam={sam}" if sam else f"optimizer.lookahead={lookahead}"
        raise RecipeError(f"{type(optimizer).__name__} takes no such steps around its own", where=field,
                          remedy="Set it to 0, or take sgd, adamw, ...")
    if sam:
        optimizer = SAM(optimizer, sam, adaptive=sam_adaptive)
    return Lookahead(optimizer, lookahead, lookahead_alpha) if lookahead else optimizer


def _tensors(rows: list[Any]) -> list[Tensor]:
    return [p for row in rows for p in (row["params"] if isinstance(row, dict) else [row])]


def _kernel(kind: Kind, parameters: list[Tensor]) -> dict[str, bool]:
    devices = {p.device.type for p in parameters}
    if not kind.foreach:  # it chooses by itself, or has one way
        return {}
    if kind.fused and devices <= kind.fused and all(p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {"foreach": False} if "cpu" in devices else {}
