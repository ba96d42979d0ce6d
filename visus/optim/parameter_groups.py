"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from visus.core.errors import UserError

EMBEDDINGS = frozenset({"cls_token", "dist_token", "reg_token", "mask_token", "pos_embed", "pos_embedding",
                        "position_embedding", "class_token", "relative_position_bias_table"})


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, 'decay' and 'no_decay', over the parameters that train, each once, in the model's order.

    No decay for parameters with at most one dimension (biases, scales and shifts of norms, layer scale) and
    for class tokens and position embeddings, known by the last part of their name (`EMBEDDINGS`);
    weight_decay for the rest: kernels and matrices (Goyal et al. 2017, section 5.3; He et al. 2019;
    Dosovitskiy et al. 2021). A group without parameters is left out. Frozen parameters are in no group.
    Raises UserError when nothing trains.
    """
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in EMBEDDINGS
            groups["no_decay" if plain else "decay"].append(parameter)
    if not any(groups.values()):
        raise UserError("no parameter of the model trains", where=type(model).__name__,
                        remedy="Unfreeze a part of it, its head for instance")
    rates = {"decay": weight_decay, "no_decay": 0.0}
    return [{"name": name, "params": params, "weight_decay": rates[name]}
            for name, params in groups.items() if params]
