"""An optimizer around an optimizer: the same groups and the same state, another step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Wrapped(torch.optim.Optimizer):
    """Groups and state are those of `base`, so that a schedule reaches it and its state_dict holds all there is."""

    def __init__(self, base: torch.optim.Optimizer):
        super().__init__(base.param_groups, base.defaults)
        self.base = base
        self.needs_closure = bool(getattr(base, "needs_closure", False))
        self._link()

    def _link(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.base.load_state_dict(dict(state_dict))
        self._link()
