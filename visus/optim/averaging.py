"""The plain average of a model's weights over the last part of a run.

Of each update's weights it is Polyak's average (Polyak and Juditsky 1992), of those at the end of each epoch it is
stochastic weight averaging (Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI
2018, algorithm 1), whose batch norms get statistics of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from visus.optim.batch_statistics import measure_batch_norms
from visus.optim.ema import EMA, Swap


class WeightAverage(EMA):
    """The mean a_n of n sets of weights x: a <- a + (x - a) / (n + 1), n = 0, 1, ...

    start: the updates that pass before the first is taken in. every: of the updates after them those are taken in
    whose number is a multiple of `every`: the updates of an epoch for SWA, 1 for Polyak. Until then `copy_to` lends
    out the model's own weights. batches: what the model takes, float [B, C, H, W]; the statistics of the batch norms
    that train are measured over them, without a gradient or a random number, whenever the average is asked for and
    has changed; None leaves them the average of what they were.
    """

    def __init__(self, model: nn.Module, *, start: int, every: int = 1,
                 batches: Callable[[], Iterable[Tensor]] | None = None):
        assert start >= 0 and every >= 1, (start, every)
        super().__init__(model, decay=0.0, warmup=False)
        self.start, self.every, self.batches = start, every, batches
        self.seen = 0
        self._measured: dict[str, Tensor] | None = None

    def weight_at(self, update: int) -> float:
        return 1 / (update + 1)

    def update(self, model: nn.Module) -> None:
        """Once after each optimizer step: count it, and take its weights in where they are due."""
        self.seen += 1
        if self.seen > self.start and self.seen % self.every == 0:
            super().update(model)
            self._measured = None

    def copy_to(self, model: nn.Module) -> Swap:
        """As `EMA.copy_to`, with batch norms measured for the average."""
        if not self.updates:
            return Swap([], [])
        swap = super().copy_to(model)
        try:
            self._set_batch_norms(model)
        except BaseException:
            swap.restore()
            raise
        return swap

    @torch.no_grad()
    def _set_batch_norms(self, model: nn.Module) -> None:
        if self.batches is None:
            return
        buffers = _statistics(model)
        if not any(trains for _, trains in buffers.values()):
            return
        if self._measured is None:
            before = {name: tensor.clone() for name, (tensor, trains) in buffers.items() if not trains}
            measure_batch_norms(model, self.batches())
            for name, values in before.items():
                buffers[name][0].copy_(values)
            self._measured = {name: tensor.clone() for name, (tensor, _) in buffers.items()}
        for name, values in self._measured.items():
            buffers[name][0].copy_(values)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.seen, self._measured = int(state["seen"]), None


def _statistics(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """The buffers of all batch norms by name, and whether the norm trains: one whose scale and shift are frozen keeps
    the statistics that it came with."""
    found: dict[str, tuple[Tensor, bool]] = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters())
            trains = not parameters or any(p.requires_grad for p in parameters)
            found |= {f"{name}.{key}": (buffer, trains) for key, buffer in module.named_buffers(recurse=False)}
    return found
