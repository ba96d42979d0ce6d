"""AlexNet over several processes, each kind of layer in its own way: convolutions by data, full layers by model.

Paper: Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997, section 3, scheme
(a). Convolutions hold 5 % of the weights and nine tenths of the work: each process computes its share of the batch,
and gradients are summed. Full layers hold the weights: each process has some columns of each (the units that it
computes), sees the whole batch, and hands its activations round, so that none of their weights or gradients is sent.

    convolutions, own rows -> all rows -> own columns of full layer 1 -> all columns -> ... -> logits of the own rows

Shares of the batch are equal. Dropout draws in each process for its own units. The 2012 net is the special case of two
GPUs with grouped convolutions (`alexnet_original`: groups=2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from visus.train.world import World


class OneWeirdTrick(nn.Module):
    """convolutions: images [b, C, H, W] -> features [b, D], copied in all processes. full: a classifier whose linear
    layers are split by columns; whatever is between them works on each unit alone. Made from the same weights in all
    processes. forward: this process's rows of the images -> its rows of the logits [b, num_classes]."""

    def __init__(self, convolutions: nn.Module, full: nn.Sequential, world: World):
        super().__init__()
        self.convolutions, self.world = convolutions, world
        self.full = nn.ModuleList([
            _Columns(layer, world) if isinstance(layer, nn.Linear) else layer for layer in full])

    def forward(self, images: Tensor) -> Tensor:
        own = self.convolutions(images)  # [b, D]
        x = _Gathered.apply(own, 0, self.world.rank, [len(own)] * self.world.size)  # [B, D]
        waiting = None  # sizes of the columns that are not handed round yet: what is between works on the own ones
        for layer in self.full:
            if isinstance(layer, _Columns):
                x = x if waiting is None else _Gathered.apply(x, 1, self.world.rank, waiting)
                waiting = layer.sizes
            x = layer(x)
        logits = x if waiting is None else _Gathered.apply(x, 1, self.world.rank, waiting)
        start = self.world.rank * len(own)
        return logits[start:start + len(own)]

    def sum_gradients(self) -> None:
        """After the backward pass of the own rows' part of the loss: gradients of the convolutions are summed; those of
        the full layers are complete."""
        for parameter in self.convolutions.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


class _Columns(nn.Module):
    """This process's columns of a linear layer: [B, D] -> [B, own units]. sizes: units of each process."""

    def __init__(self, whole: nn.Linear, world: World):
        super().__init__()
        parts = torch.arange(whole.out_features).tensor_split(world.size)
        self.sizes, own = [len(part) for part in parts], parts[world.rank]
        self.weight = nn.Parameter(whole.weight.detach()[own].clone())
        self.bias = nn.Parameter(whole.bias.detach()[own].clone()) if whole.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Gathered(torch.autograd.Function):
    """The parts of all processes along an axis, in order of rank. Every process uses the whole for something else, so
    the gradient of a part is the sum of what all of them send back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: int, rank: int, sizes: list[int]) -> Tensor:
        ctx.axis, ctx.rank, ctx.sizes = axis, rank, sizes
        longest = max(sizes)
        shape = list(part.shape)
        shape[axis] = longest  # all parts travel at one size
        padded = part.new_zeros(shape)
        padded.narrow(axis, 0, sizes[rank]).copy_(part)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([p.narrow(axis, 0, size) for p, size in zip(parts, sizes, strict=True)], axis)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        total = slope.contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes, ctx.axis)[ctx.rank], None, None, None
