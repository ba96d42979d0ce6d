"""Exponential moving average of a model's weights (Polyak and Juditsky 1992; as used by Tan and Le 2019)."""

from __future__ import annotations

import weakref
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
    d = decay. Each update goes straight from the model into the buffer, in one pass: no staging copy. The tensors are
    looked up where the model keeps them when it is first seen: its modules must stay the same ones.
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
        self._strides = [view.stride() for view in self._views]
        self._model: weakref.ref[nn.Module] | None = None
        self._averaged_at: list[tuple[dict[str, Any], str]] = []
        self._copied_at: list[tuple[dict[str, Any], str]] = []

    def decay_at(self, update: int) -> float:
        """The decay d of update number `update`, from 0."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def weight_at(self, update: int) -> float:
        """The share that the weights get in update number `update`."""
        return 1 - self.decay_at(update)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights that the model has now; once after each optimizer step."""
        if self._model is None or self._model() is not model:
            self._find(model)
        weight = self.weight_at(self.updates)
        tensors = [held[key] for held, key in self._averaged_at]
        if any(t.dtype != self.flat.dtype for t in tensors):
            tensors = [t.to(self.flat.dtype) for t in tensors]
        if self.flat.device.type != "cpu":
            torch._foreach_lerp_(self._views, tensors, weight)
        elif weight < 0.5 and [t.stride() for t in tensors] == self._strides:
            # a - w (a - x), as lerp has it: SGD's kernel, x for minus the gradient, a weight decay of 1; one call
            torch._fused_sgd_(self._views, tensors, [], weight_decay=1.0, momentum=0.0, lr=weight, dampening=0.0,
                              nesterov=False, maximize=True, is_first_step=False)
        else:
            for view, tensor in zip(self._views, tensors, strict=True):
                view.lerp_(tensor, weight)
        for kept, (held, key) in zip(self.copied.values(), self._copied_at, strict=True):
            kept.copy_(held[key])
        self.updates += 1

    def _find(self, model: nn.Module) -> None:
        """Where the model keeps its tensors: walking through its modules takes longer than averaging small ones."""
        averaged, copied = _tensors(model)
        assert list(averaged) == self.names, "the model's tensors changed since the average was begun"
        places: dict[str, tuple[dict[str, Any], str]] = {}
        for path, module in model.named_modules():
            for held in (module._parameters, module._buffers):
                places |= {f"{path}.{key}" if path else key: (held, key) for key in held}
        self._averaged_at, self._copied_at = ([places[name] for name in names] for names in (averaged, copied))
        self._model = weakref.ref(model)

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
