"""CellNet: a network for small images that repeats two small cells, each written down as a list of nodes.

Papers: Zoph, Vasudevan, Shlens, Le, Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018,
arXiv:1707.07012: search a normal cell and a reduction cell, then stack them. Liu, Simonyan, Yang, DARTS: Differentiable
Architecture Search, ICLR 2019, arXiv:1806.09055: the operations, the concatenation of all nodes and the stack as they
are here (a reduction at one third and at two thirds of the depth). Departures: no auxiliary head and no path dropout;
an input that no node of a cell reads is not prepared. `visus.search` finds such cells.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, require

NUM_INPUTS = 2  # of a cell: what the cell before the last put out (0), and what the last one did (1)
Node = tuple[tuple[int, str], ...]  # (input, operation), twice


@dataclass(frozen=True, kw_only=True)
class CellNetConfig:
    """normal, reduction: the nodes of the two cells, each "OPERATION:INPUT OPERATION:INPUT" whose results are added;
    inputs 0 and 1 are the outputs of the cell before the last and of the last, 2 is the first node and so on. Some node
    reads input 1. Operations: see OPERATIONS. num_cells: cells in all; dim: channels of a node in the first of them,
    doubled by each reduction; stem_dim: channels of the stem."""

    normal: tuple[str, ...] = ("sep_3:1 identity:0", "sep_3:1 identity:2", "avg_3:0 identity:3")
    reduction: tuple[str, ...] = ("sep_3:1 max_3:0", "sep_5:0 identity:2", "max_3:1 identity:2")
    num_cells: int = 5
    dim: int = 16
    stem_dim: int = 32
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        for field in ("normal", "reduction"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) > 0, field, value, "be a tuple of nodes")
            require(any(source == 1 for node in parse_cell(value) for source, _ in node), field, value,
                    "read input 1, the output of the cell before, or that cell is idle")
        positive(num_cells=self.num_cells, dim=self.dim, stem_dim=self.stem_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.num_cells >= 3, "num_cells", self.num_cells, "be at least 3, for two reductions")
        require(self.dim % 2 == 0, "dim", self.dim, "be even: a reduction makes half of its channels from each grid")


def parse_cell(nodes: tuple[str, ...]) -> tuple[Node, ...]:
    """("sep_3:1 identity:0", ...) -> (((1, "sep_3"), (0, "identity")), ...). Raises UserError where a node is not
    two known operations upon earlier places."""
    cell = []
    for number, text in enumerate(nodes):
        found = re.fullmatch(r"(\w+):(\d+) (\w+):(\d+)", text) if isinstance(text, str) else None
        if found is None:
            raise UserError('must look like "sep_3:1 identity:0"', where=f"node {number}: {text!r}")
        node = ((int(found[2]), found[1]), (int(found[4]), found[3]))
        for source, operation in node:
            require(operation in OPERATIONS, f"node {number}", text, f"name operations among {', '.join(OPERATIONS)}")
            require(source < NUM_INPUTS + number, f"node {number}", text,
                    f"read an input below {NUM_INPUTS + number}: the cell's two, or an earlier node")
        cell.append(node)
    return tuple(cell)


def format_cell(cell: tuple[Node, ...]) -> tuple[str, ...]:
    """What `parse_cell` reads."""
    return tuple(" ".join(f"{operation}:{source}" for source, operation in node) for node in cell)


class ReLUConvBN(nn.Sequential):
    """[B, in_dim, H, W] -> [B, dim, H, W] by a 1 x 1 convolution."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(nn.ReLU(), nn.Conv2d(in_dim, dim, 1, bias=False), nn.BatchNorm2d(dim))


class FactorizedReduce(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, ceil(H / 2), ceil(W / 2)]: half of the channels from the even places, half from the
    odd ones, so that none is lost."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.even = nn.Conv2d(in_dim, dim // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(in_dim, dim - dim // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.relu(maps)
        height, width = maps.shape[2] % 2, maps.shape[3] % 2
        odd = F.pad(maps, (-1, width, -1, height)) if height or width else maps[:, :, 1:, 1:]
        return self.bn(torch.cat([self.even(maps), self.odd(odd)], 1))  # 2 x [B, dim / 2, ...] -> [B, dim, ...]


def _depthwise(dim: int, kernel: int, stride: int, dilation: int = 1, inplace: bool = False) -> list[nn.Module]:
    """ReLU (in place only where nothing else reads its input), a depthwise and a 1 x 1 convolution, batch norm."""
    padding = dilation * (kernel // 2)
    return [nn.ReLU(inplace), nn.Conv2d(dim, dim, kernel, stride, padding, dilation, groups=dim, bias=False),
            nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim)]


def _separable(dim: int, stride: int, kernel: int) -> nn.Module:
    """Applied twice, the stride in the first."""
    return nn.Sequential(*_depthwise(dim, kernel, stride), *_depthwise(dim, kernel, 1, inplace=True))


# name -> what makes it from (dim, stride): [B, dim, H, W] -> [B, dim, ceil(H / stride), ceil(W / stride)]
OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": lambda dim, stride: nn.Identity() if stride == 1 else FactorizedReduce(dim, dim),
    "sep_3": lambda dim, stride: _separable(dim, stride, 3),
    "sep_5": lambda dim, stride: _separable(dim, stride, 5),
    "dil_3": lambda dim, stride: nn.Sequential(*_depthwise(dim, 3, stride, 2)),
    "dil_5": lambda dim, stride: nn.Sequential(*_depthwise(dim, 5, stride, 2)),
    "avg_3": lambda dim, stride: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "max_3": lambda dim, stride: nn.MaxPool2d(3, stride, 1),
}


@dataclass(frozen=True)
class CellPlan:
    """One cell of the stack. in_dims: channels of its two inputs; dim: of a node; reduces: whether it halves the maps;
    after_reduction: whether input 0 is still twice as large as input 1."""

    in_dims: tuple[int, int]
    dim: int
    reduces: bool
    after_reduction: bool

    def prepare(self, source: int) -> nn.Module:
        """What brings an input of the cell to `dim` channels and to the size of input 1."""
        halves = source == 0 and self.after_reduction
        return (FactorizedReduce if halves else ReLUConvBN)(self.in_dims[source], self.dim)

    def stride(self, source: int) -> int:
        """Of an operation upon this place: a cell that reduces does so where its own inputs are read."""
        return 2 if self.reduces and source < NUM_INPUTS else 1


def plan_cells(num_cells: int, dim: int, stem_dim: int, num_nodes: tuple[int, int]) -> list[CellPlan]:
    """The stack for cells of num_nodes = (normal, reduction) nodes: reductions at one and two thirds."""
    plans, before, last, after = [], stem_dim, stem_dim, False
    for number in range(num_cells):
        reduces = number in (num_cells // 3, 2 * num_cells // 3)
        dim = 2 * dim if reduces else dim
        plans.append(CellPlan((before, last), dim, reduces, after))
        before, last, after = last, dim * num_nodes[reduces], reduces
    return plans


class Cell(nn.Module):
    """The outputs of the two cells before -> [B, dim * nodes, H, W], halved by a reduction."""

    def __init__(self, plan: CellPlan, nodes: tuple[Node, ...]):
        super().__init__()
        self.nodes = nodes
        read = {source for node in nodes for source, _ in node}
        self.prepare = nn.ModuleList(plan.prepare(i) if i in read else nn.Identity() for i in range(NUM_INPUTS))
        self.operations = nn.ModuleList(
            nn.ModuleList(OPERATIONS[operation](plan.dim, plan.stride(source)) for source, operation in node)
            for node in nodes)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        places = [self.prepare[0](before), self.prepare[1](last)]
        for node, pair in zip(self.nodes, self.operations, strict=True):
            places.append(pair[0](places[node[0][0]]) + pair[1](places[node[1][0]]))
        return torch.cat(places[NUM_INPUTS:], 1)  # nodes x [B, dim, H, W] -> [B, dim * nodes, H, W]


class CellNet(nn.Module):
    Config = CellNetConfig

    def __init__(self, config: CellNetConfig):
        super().__init__()
        self.config = config
        kinds = (parse_cell(config.normal), parse_cell(config.reduction))
        plans = plan_cells(config.num_cells, config.dim, config.stem_dim, (len(kinds[0]), len(kinds[1])))
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, config.stem_dim, 3, 1, 1, bias=False),
                                  nn.BatchNorm2d(config.stem_dim))
        self.cells = nn.ModuleList(Cell(plan, kinds[plan.reduces]) for plan in plans)
        dims = [plan.dim * len(kinds[plan.reduces]) for plan in plans]
        self.ends = tuple(i for i in range(len(plans)) if i + 1 == len(plans) or plans[i + 1].reduces)
        self.fc = nn.Linear(dims[-1], config.num_classes)
        self.feature_channels = tuple(dims[end] for end in self.ends)
        self.feature_strides = (1, 2, 4)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the last maps of strides 1, 2 and 4."""
        before = last = self.stem(images)
        out = []
        for number, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            if number in self.ends:
                out.append(last)
        return out

    def forward(self, images: Tensor) -> Tensor:
        before = last = self.stem(images)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.fc(last.mean((2, 3)))  # [B, D, H, W] -> [B, num_classes]


VARIANTS = {
    "cell_net": {},
    "darts_cifar10": {
        "normal": ("sep_3:0 sep_3:1", "sep_3:0 sep_3:1", "sep_3:1 identity:0", "identity:0 dil_3:2"),
        "reduction": ("max_3:0 max_3:1", "identity:2 max_3:1", "max_3:0 identity:2", "identity:2 max_3:1"),
        "num_cells": 20, "dim": 36, "stem_dim": 108,
    },
}

_TABLE_1 = "Liu et al. 2019 (from memory), Table 1, DARTS (second order) + cutout"
PUBLISHED = {
    "darts_cifar10": [{"what": "params", "value": "3.3e6", "source": _TABLE_1},
                      {"what": "params", "value": "3349342", "source": "printed by the authors' code (from memory)"},
                      {"what": "top1", "value": "97.24", "data": "CIFAR-10", "source": _TABLE_1}],
}

_PREPROCESSING = {"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
models.add(CellNet, VARIANTS, family="cell_net", task="classification", published=PUBLISHED,
           paper="Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, arXiv:1806.09055",
           preprocessing=_PREPROCESSING)
