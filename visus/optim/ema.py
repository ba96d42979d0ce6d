"""Exponential moving average of a model's weights (Polyak and Juditsky 1992; as used by Tan and Le 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError


class EMA:
    """The average a of the weights x over the updates: a <- a + (1 - d) (x - a).

    All floating-point parameters and buffers (the running statistics of batch norm included) are averaged, in
    one contiguous buffer, float32 (float64 where the model is); integer buffers, such as counters, are
    copied. The average starts as the weights that the model has now. With `warmup` the decay of update t = 0,
    1, ... is d = min(decay, (1 + t) / (10 + t)), so that a short run does not remember its random start; else
    d = decay. Each update is one lerp into the buffer per tensor, straight from the model: no staging copy.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, *, warmup: bool = True):
        assert 0 <= decay < 1, decay
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        averaged, copied = _tensors(model)
        self.names = list(averaged)
        dtype = torch.float32
        for tensor in averaged.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        device = next(iter(averaged.values())).device if averaged else torch.device("cpu")
        self.flat = torch.empty(sum(t.numel() for t in averaged.values()), dtype=dtype, device=device)
        self._views: list[Tensor] = []
        start = 0
        for tensor in averaged.values():
            strides = torch.empty_like(tensor, device="meta").stride()  # a channels-last weight keeps its layout
            self._views.append(self.flat.as_strided(tensor.shape, strides, start))
            self._views[-1].copy_(tensor.detach())
            start += tensor.numel()
        self.copied = {name: tensor.detach().clone() for name, tensor in copied.items()}

    def decay_at(self, update: int) -> float:
        """The decay d of update number `update`, from 0."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights that the model has now; once after each optimizer step."""
        averaged, copied = _tensors(model)
        assert list(averaged) == self.names, "the model's tensors changed since the average was begun"
        weight = 1 - self.decay_at(self.updates)
        tensors = [t.detach() for t in averaged.values()]
        if self.flat.device.type == "cpu":
            for view, tensor in zip(self._views, tensors, strict=True):
                view.lerp_(tensor.to(view.dtype), weight)
        else:
            torch._foreach_lerp_(self._views, [t.to(self.flat.dtype) for t in tensors], weight)
        for name, tensor in copied.items():
            self.copied[name].copy_(tensor)
        self.updates += 1

    def copy_to(self, model: nn.Module) -> Swap:
        """Write the average into the model, at once. As `with ema.copy_to(model): ...` the model has its own
        weights back, bit for bit, when the block ends, however it ends."""
        averaged, copied = _tensors(model)
        assert list(averaged) == self.names, "the model's tensors changed since the average was begun"
        targets = [*averaged.values(), *copied.values()]
        return Swap(targets, [*self._views, *(self.copied[name] for name in copied)])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, whatever the memory layout; for `load_state_dict` over the same model."""
        flat = torch.cat([view.reshape(-1) for view in self._views]) if self._views else self.flat.clone()
        return {"updates": self.updates, "names": list(self.names), "flat": flat,
                "copied": {name: tensor.clone() for name, tensor in self.copied.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError when the state is of another model; nothing is changed then."""
        names, copied = list(state["names"]), state["copied"]
        same = names == self.names and copied.keys() == self.copied.keys()
        if not same or state["flat"].shape != self.flat.shape:
            odd = sorted({*names, *copied} ^ {*self.names, *self.copied})
            what = "its tensors differ" + (f": {', '.join(odd[:8])}" if odd else " in size or order")
            raise CheckpointError(f"the averaged weights are of another model ({what})", where="ema",
                                  remedy="Resume with the recipe that the run was started with")
        parts = state["flat"].split([view.numel() for view in self._views])
        for view, part in zip(self._views, parts, strict=True):
            view.copy_(part.view(view.shape))
        for name, tensor in self.copied.items():
            tensor.copy_(copied[name])
        self.updates = int(state["updates"])


class Swap:
    """Values written into tensors, with the old ones kept; `restore`, or the end of a with block, puts those
    back."""

    @torch.no_grad()
    def __init__(self, tensors: list[Tensor], values: list[Tensor]):
        self._tensors = tensors
        self._before = [tensor.detach().clone() for tensor in tensors]
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in zip(self._tensors, self._before, strict=True):
            tensor.copy_(value)

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's parameters and buffers, floating-point and other, by name, each once."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    averaged = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
    return averaged, {name: tensor for name, tensor in named.items() if name not in averaged}
