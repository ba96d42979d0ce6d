"""Weights that an optimizer keeps beside those that it moves, and that are the ones to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from visus.optim.ema import Swap


class KeptWeights:
    """What the loop asks of averaged weights, for those in the state of an optimizer that says `keeps`: the slow ones
    of Lookahead, the mean of averaged SGD. It adds nothing; a parameter that was not moved yet is its own."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.name = str(optimizer.keeps)  # type: ignore[attr-defined]

    def update(self, model: nn.Module) -> None:
        """The optimizer has done it."""

    def copy_to(self, model: nn.Module) -> Swap:
        """Write the kept weights into the model; as a with block it has its own back, bit for bit, at the end."""
        state = self.optimizer.state
        pairs = [(p, state[p][self.name]) for p in model.parameters() if self.name in state.get(p, ())]
        return Swap([p.detach() for p, _ in pairs], [kept for _, kept in pairs])

    def state_dict(self) -> dict[str, Any]:
        """Empty: all of it is in the optimizer's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""
