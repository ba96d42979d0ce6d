"""How one update is computed: by this process alone, or by copies of the model in several (data parallel).

Each process has its share of every batch. With n_r of the N samples of an update on process r of S, it weighs its mean
loss by S n_r / N, and the mean of the gradients over the processes is that of the loss over all N samples, whatever the
shares are (Goyal et al., arXiv:1706.02677, section 3). Gradients are summed while the backward pass still runs, and
once an update: of accumulated batches only the last waits for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from visus.core.batch import ImageBatch
from visus.optim.clip import clip_gradients
from visus.train.contracts import Averager, TrainingTask
from visus.train.mode import same_statistics
from visus.train.sync_norm import SHARED_NORMS
from visus.train.world import World


class Engine:
    """One process. weights: the module whose parameters the optimizer moves, averages and prices see."""

    sharded = False

    def __init__(self, model: nn.Module, task: TrainingTask, world: World | None = None):
        self.model, self.task = model, task
        self.world = world or World()
        self.weights: nn.Module = model
        self._local = [buffer for module in model.modules() if not isinstance(module, SHARED_NORMS)
                       for buffer in module.buffers(recurse=False)]

    def loss(self, batch: ImageBatch) -> Tensor:
        """The mean loss over this process's share, to differentiate."""
        return self.task.loss(self.model, batch)[0]

    def together(self, last: bool) -> AbstractContextManager[Any]:
        """Around a backward pass. last: of an update, after which gradients are those of all processes."""
        return nullcontext()

    def samples(self, group: Sequence[ImageBatch]) -> float:
        """Samples of the group's batches, over all processes."""
        own = sum(batch.weight for batch in group)
        return own if self.world.size == 1 else round(self.world.sum([own])[0])

    def share(self, batch: ImageBatch, samples: float) -> float:
        """What the mean loss of a batch weighs in the mean over `samples`, before gradients are averaged."""
        return self.world.size * batch.weight / samples

    def collect(self) -> None:
        """After the last backward pass: gradients into `weights`, where they are not there yet."""

    def settle(self) -> None:
        """After an update: running statistics that are each process's own become those of the first, as in Goyal et
        al., so that what is averaged, measured and kept is one model."""
        if self.world.size == 1:
            return
        for kind in dict.fromkeys(buffer.dtype for buffer in self._local):  # in one order everywhere
            same = [buffer for buffer in self._local if buffer.dtype == kind]
            flat = torch.cat([buffer.reshape(-1) for buffer in same])
            dist.broadcast(flat, 0)
            for buffer, part in zip(same, flat.split([buffer.numel() for buffer in same]), strict=True):
                buffer.copy_(part.view(buffer.shape))

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)

    def clip(self, max_norm: float, optimizer: torch.optim.Optimizer | None = None) -> float:
        """Clip the gradients; -> their norm before, over all weights. optimizer: its next step may do the scaling."""
        return float(clip_gradients(self.weights.parameters(), max_norm, optimizer))

    # -- states --------------------------------------------------------------------------------------------------

    def state(self, optimizer: torch.optim.Optimizer, average: Averager | None) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": optimizer.state_dict(),
                "ema": average.state_dict() if average is not None else None}

    def load(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer, average: Averager | None) -> None:
        """The inverse of `state`. All processes read the whole state."""
        self.model.load_state_dict(state["model"], strict=True)
        optimizer.load_state_dict(state["optimizer"])
        for parameter, values in optimizer.state.items():  # fused kernels want the layout of the parameter
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if average is not None:
            average.load_state_dict(whole_average(state["ema"]))

    def own_weights(self) -> dict[str, Tensor]:
        """What this process holds of the weights."""
        return self.model.state_dict()

    def whole_weights(self) -> dict[str, Tensor]:
        """The weights as they are, as one process has them."""
        return self.model.state_dict()


class Copies(Engine):
    """The same weights in every process, by DistributedDataParallel: gradients are averaged in buckets."""

    def __init__(self, model: nn.Module, task: TrainingTask, world: World):
        super().__init__(model, task, world)
        self._copies: nn.parallel.DistributedDataParallel | None = None

    def loss(self, batch: ImageBatch) -> Tensor:
        return self._wrapped(batch)(batch)

    def together(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last or self._copies is None else self._copies.no_sync()

    def _wrapped(self, batch: ImageBatch) -> nn.parallel.DistributedDataParallel:
        """The wrapped loss; made at the first batch, which tells whether some parameters have no part in it. To look
        for such in every step costs a walk over the graph."""
        if self._copies is None:
            loss = _Loss(self.model, self.task)
            unused, = self.world.max([float(_some_unused(loss, batch))])
            self._copies = nn.parallel.DistributedDataParallel(loss, find_unused_parameters=bool(unused),
                                                               forward_sync_buffers=False)
        return self._copies


def whole_average(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an average as one process has it, of one that was written in parts by name (`Shards.state`)."""
    flat = state.get("flat")
    if not isinstance(flat, Mapping):
        return dict(state)
    return dict(state) | {"flat": torch.cat([flat[name].reshape(-1) for name in state["names"]])}


def alike(model: nn.Module, world: World) -> None:
    """The weights and buffers of the first process, in all of them."""
    if world.size > 1:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)


def _some_unused(loss: nn.Module, batch: ImageBatch) -> bool:
    """Whether the loss of a batch depends on less than all parameters that train; moves no statistics, draws nothing.
    """
    parameters = [p for p in loss.parameters() if p.requires_grad]
    with torch.random.fork_rng(), same_statistics(loss):
        return any(slope is None for slope in torch.autograd.grad(loss(batch), parameters, allow_unused=True))


class _Loss(nn.Module):
    """The whole computation of the loss as one module, so that every way to call the model is seen."""

    def __init__(self, model: nn.Module, task: TrainingTask):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: ImageBatch) -> Tensor:
        return self.task.loss(self.model, batch)[0]
