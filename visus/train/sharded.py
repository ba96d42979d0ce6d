"""Split weights: each process holds a part of every parameter, its gradient and its optimizer state (FSDP2).

Parameters are split along their first axis, `fully_shard` collects those of one block while it computes, and sums each
gradient into the parts (Zhao et al., PyTorch FSDP, VLDB 2023; Rajbhandari et al., ZeRO, SC 2020, stage 3). What moves,
averages and prices weights one by one sees this process's parts as plain parameters: `Shards.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from visus.core.batch import ImageBatch
from visus.optim.clip import NORM_EPSILON
from visus.train.contracts import Averager, TrainingTask
from visus.train.engine import Engine
from visus.train.mode import repeated_blocks
from visus.train.world import World


class Shards(Engine):
    """The model is changed in place: its parameters become DTensors."""

    sharded = True

    def __init__(self, model: nn.Module, task: TrainingTask, world: World, device: torch.device):
        super().__init__(model, task, world)
        self.mesh = init_device_mesh(device.type, (world.size,))
        before = dict(model.named_parameters())
        for block in repeated_blocks(model):
            fully_shard(block, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        for method in ("training_logits", "distillation_logits"):
            if hasattr(model, method):
                register_fsdp_forward_method(model, method)
        self.weights = _Local(model)
        own = dict(self.weights.named_parameters())
        self._pairs = [(parameter, own[name]) for name, parameter in model.named_parameters()]
        self._twin = {id(before[name]): local for name, local in own.items() if name in before}
        self._whole = {name: (tuple(p.shape), p.stride()) for name, p in model.named_parameters()}

    def take_over(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer that was made for the whole parameters, and has not stepped yet, move the parts."""
        for group in optimizer.param_groups:
            group["params"] = [self._twin[id(parameter)] for parameter in group["params"]]

    def loss(self, batch: ImageBatch) -> Tensor:
        return self.task.loss(self.model, batch)[0]

    def together(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def collect(self) -> None:
        for parameter, local in self._pairs:
            gradient = parameter.grad
            local.grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter, local in self._pairs:
            parameter.grad = local.grad = None

    @torch.no_grad()
    def clip(self, max_norm: float, optimizer: torch.optim.Optimizer | None = None) -> float:
        gradients = [local.grad for _, local in self._pairs if local.grad is not None]
        own = sum(float(gradient.double().square().sum()) for gradient in gradients)
        norm = self.world.sum([own])[0] ** 0.5
        scale = max_norm / (norm + NORM_EPSILON)
        if scale < 1:  # False for a norm that is not finite
            for gradient in gradients:
                gradient.mul_(scale)
        return norm

    # -- states: the whole tensors as DTensors, which `save_sharded` writes in parts ----------------------------------

    def state(self, optimizer: torch.optim.Optimizer, average: Averager | None) -> dict[str, Any]:
        held = optimizer.state_dict()
        places = {index: local for group, plain in zip(optimizer.param_groups, held["param_groups"], strict=True)
                  for local, index in zip(group["params"], plain["params"], strict=True)}
        names = {id(local): name for name, local in self.weights.named_parameters()}
        held["state"] = {index: {key: self._spread(value, names[id(places[index])], places[index])
                                 for key, value in values.items()} for index, values in held["state"].items()}
        return {"model": self.model.state_dict(), "optimizer": held,
                "ema": None if average is None else self._average_state(average.state_dict())}

    def load(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer, average: Averager | None) -> None:
        own = self.model.state_dict()
        assert own.keys() == state["model"].keys(), "a state of another model"
        with torch.no_grad():
            for name, tensor in own.items():
                (tensor.to_local() if isinstance(tensor, DTensor) else tensor).copy_(self._own(state["model"][name],
                                                                                              tensor))
        names = {id(local): name for name, local in self.weights.named_parameters()}
        parameters = [local for group in optimizer.param_groups for local in group["params"]]
        given = dict(state["optimizer"])
        given["state"] = {
            index: {key: self._own_of(value, names[id(parameters[index])]) for key, value in values.items()}
            for index, values in given["state"].items()}
        optimizer.load_state_dict(given)
        if average is not None:
            average.load_state_dict(self._own_average(state["ema"]))

    def own_weights(self) -> dict[str, Tensor]:
        return {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor
                for name, tensor in self.model.state_dict().items()}

    def whole_weights(self) -> dict[str, Tensor]:
        return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                for name, tensor in self.model.state_dict().items()}

    def _spread(self, value: Any, name: str, local: Tensor) -> Any:
        """A tensor of the optimizer that lies over the part of a parameter -> a part itself."""
        if not isinstance(value, Tensor) or value.shape != local.shape or value.dim() == 0:
            return value
        return self._part(value, name)

    def _part(self, local: Tensor, name: str) -> Tensor:
        shape, stride = self._whole[name]
        return DTensor.from_local(local, self.mesh, (Shard(0),), run_check=False, shape=torch.Size(shape),
                                  stride=stride)

    def _own(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's rows of a whole tensor."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole.to(like.device), self.mesh, like.placements, src_data_rank=None).to_local()

    def _own_of(self, value: Any, name: str) -> Any:
        shape, _ = self._whole[name]
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dim() == 0:
            return value
        return distribute_tensor(value, self.mesh, (Shard(0),), src_data_rank=None).to_local().clone()

    def _average_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An EMA's flat buffer over the parts -> {"flat": by name}, parts of parameters and whole buffers."""
        sizes = dict(self.weights.named_parameters()) | dict(self.weights.named_buffers())
        pieces = state["flat"].split([sizes[name].numel() for name in state["names"]])
        named = {name: piece.view(sizes[name].shape) for name, piece in zip(state["names"], pieces, strict=True)}
        return state | {"flat": {name: self._part(piece, name) if name in self._whole else piece
                                 for name, piece in named.items()}}

    def _own_average(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse, from a whole state: a dict by name, or the flat buffer that one process wrote."""
        flat = state["flat"]
        if isinstance(flat, Tensor):
            shapes = {name: shape for name, (shape, _) in self._whole.items()} | {
                name: tuple(buffer.shape) for name, buffer in self.weights.named_buffers()}
            pieces = flat.split([torch.Size(shapes[name]).numel() for name in state["names"]])
            flat = {name: piece.view(shapes[name]) for name, piece in zip(state["names"], pieces, strict=True)}
        own = [self._own_of(flat[name], name) if name in self._whole else flat[name] for name in state["names"]]
        return dict(state) | {"flat": torch.cat([piece.reshape(-1) for piece in own])}


class _Local(nn.Module):
    """A model's parameters as this process holds them, and its buffers, each under its name in the model and in its
    memory: a tree of plain modules that compute nothing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, _Local(child))
        for name, parameter in model.named_parameters(recurse=False):
            own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            self.register_parameter(name, nn.Parameter(own.detach(), parameter.requires_grad))
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
