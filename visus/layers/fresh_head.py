"""A classifier over a backbone whose public file has none."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def fresh_head(state: Mapping[str, Tensor], model: nn.Module, name: str = "head",
               what: str = "classifier") -> tuple[dict[str, Tensor], list[str]]:
    """The state with the model's own initial layer `name` where the state has none of its tensors, and what was done
    in words. A state with some of them is left for strict loading to refuse."""
    state = dict(state)
    own = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(f"{name}.")}
    if not own or state.keys() & own.keys():
        return state, []
    return state | own, [f"the weights have no {what}: {name} starts fresh"]
