"""Which parameters decay, and how fast each learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from visus.core.errors import UserError

EMBEDDINGS = frozenset({"cls_token", "dist_token", "reg_token", "mask_token", "pos_embed", "pos_embedding",
                        "position_embedding", "class_token", "relative_position_bias_table"})


def is_weight(name: str, parameter: Tensor) -> bool:
    """Whether it is a kernel or a matrix: two axes or more, of which, where it is not called weight, two are longer
    than 1. A gain per channel of shape [C, 1, 1] is none."""
    return parameter.ndim > 1 and (name.endswith("weight") or parameter.numel() > max(parameter.shape))


def decays(name: str, parameter: Tensor) -> bool:
    """False for what is no kernel and no matrix (biases, scales and shifts of norms, layer scale) and for class tokens
    and position embeddings, known by the last part of their name (`EMBEDDINGS`); true for the rest (Goyal et al. 2017,
    section 5.3; He et al. 2019; Dosovitskiy et al. 2021)."""
    return is_weight(name, parameter) and name.rsplit(".", 1)[-1] not in EMBEDDINGS


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, 'decay' and 'no_decay', over the parameters that train, each once, in the model's order.

    weight_decay: of those that decay (`decays`). A group without parameters is left out. Frozen parameters are in no
    group. Raises UserError when nothing trains.
    """
    return _grouped(model, weight_decay, lambda name: ("", 1.0), None)


def scaled_groups(model: nn.Module, weight_decay: float, lr: float, scales: Mapping[str, float],
                  names: Mapping[str, str]) -> list[dict[str, Any]]:
    """As `parameter_groups`, but each group has a rate of its own: lr times the scale of its parameters.

    scales: parameter name -> factor above 0. names: parameter name -> what to call those with the same scale, such as
    'layer 3'; groups are called 'layer 3, decay' and so on. The group whose scale is nearest to 1 comes first: its rate
    is the one that is logged.
    """
    groups = _grouped(model, weight_decay, lambda name: (names[name], scales[name]), lr)
    return sorted(groups, key=lambda group: abs(math.log(group["lr"] / lr)))


def _grouped(model: nn.Module, weight_decay: float, of: Any, lr: float | None) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float, str], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "decay" if decays(name, parameter) else "no_decay"
            groups.setdefault((*of(name), kind), []).append(parameter)
    if not groups:
        raise UserError("no parameter of the model trains", where=type(model).__name__,
                        remedy="Unfreeze a part of it, its head for instance")
    rates = {"decay": weight_decay, "no_decay": 0.0}
    ordered = sorted(groups.items(), key=lambda item: item[0][2]) if lr is None else groups.items()
    return [{"name": f"{label}, {kind}" if label else kind, "params": params, "weight_decay": rates[kind]}
            | ({} if lr is None else {"lr": lr * scale}) for (label, scale, kind), params in ordered]
