"""One network that holds all others: candidates are scored with weights that they share, without training each.

Papers: Guo et al., Single Path One-Shot Neural Architecture Search with Uniform Sampling (SPOS), ECCV 2020,
arXiv:1904.00420: each step trains one path, drawn uniformly; a candidate inherits its weights, its batch norm
statistics are measured anew, and evolution looks for the best. Liu, Simonyan, Yang, DARTS, ICLR 2019, arXiv:1806.09055:
all operations at once, mixed by a softmax that is learnt by gradient (here the first-order form, xi = 0). Departures:
paths are cells, not blocks in a row; DARTS' mixture has no operation "none".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.seeds import permutation
from visus.core.validate import positive
from visus.models.cnn.cell_net import (
    NUM_INPUTS,
    OPERATIONS,
    CellNet,
    CellNetConfig,
    CellPlan,
    parse_cell,
    plan_cells,
)
from visus.search.cell_space import Cells, CellSpace
from visus.search.proxy import Protocol, ProxyData, accuracy, fit, seeded


class SharedCell(nn.Module):
    """Every operation from every place to every node that comes after it, of one cell of the stack."""

    def __init__(self, plan: CellPlan, space: CellSpace):
        super().__init__()
        self.prepare = nn.ModuleList(plan.prepare(source) for source in range(NUM_INPUTS))
        self.edges = nn.ModuleDict({
            f"{source}_{node}": nn.ModuleDict({name: OPERATIONS[name](plan.dim, plan.stride(source))
                                               for name in space.operations})
            for node in range(space.num_nodes) for source in range(NUM_INPUTS + node)})

    def forward(self, before: Tensor, last: Tensor, nodes: tuple[str, ...]) -> Tensor:
        """The cell that `nodes` describes: [B, dim * nodes, H, W]."""
        places = [self.prepare[0](before), self.prepare[1](last)]
        for number, node in enumerate(parse_cell(nodes)):
            first, second = (self.edges[f"{source}_{number}"][name](places[source]) for source, name in node)
            places.append(first + second)
        return torch.cat(places[NUM_INPUTS:], 1)

    def mixture(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        """All operations at once. weights: [edges, operations], in the order of `edges`, each edge of sum 1."""
        places, row = [self.prepare[0](before), self.prepare[1](last)], 0
        while row < len(self.edges):
            total: Tensor | float = 0.0
            for source, maps in enumerate(places):
                operations = self.edges[f"{source}_{len(places) - NUM_INPUTS}"].values()
                total = total + sum(w * operation(maps) for w, operation in zip(weights[row + source], operations,
                                                                                strict=True))
            row += len(places)
            places.append(total)
        return torch.cat(places[NUM_INPUTS:], 1)


class SuperNet(nn.Module):
    """The stack of a CellNet with shared cells. `forward(images, cells)` runs one path of it."""

    def __init__(self, space: CellSpace, *, num_cells: int = 3, dim: int = 8, stem_dim: int = 16, in_channels: int = 1,
                 num_classes: int = 10, seed: int = 0):
        super().__init__()
        positive(num_cells=num_cells, dim=dim, stem_dim=stem_dim, in_channels=in_channels, num_classes=num_classes)
        self.space = space
        self.shape = {"num_cells": num_cells, "dim": dim, "stem_dim": stem_dim, "in_channels": in_channels,
                      "num_classes": num_classes}
        self.plans = plan_cells(num_cells, dim, stem_dim, (space.num_nodes, space.num_nodes))
        with seeded(seed):
            self.stem = nn.Sequential(nn.Conv2d(in_channels, stem_dim, 3, 1, 1, bias=False), nn.BatchNorm2d(stem_dim))
            self.cells = nn.ModuleList(SharedCell(plan, space) for plan in self.plans)
            self.fc = nn.Linear(self.plans[-1].dim * space.num_nodes, num_classes)

    def forward(self, images: Tensor, cells: Cells) -> Tensor:
        """[B, C, H, W] -> [B, num_classes] through the operations of `cells` alone."""
        before = last = self.stem(images)
        for plan, cell in zip(self.plans, self.cells, strict=True):
            before, last = last, cell(before, last, cells.reduction if plan.reduces else cells.normal)
        return self.fc(last.mean((2, 3)))  # [B, D, H, W] -> [B, num_classes]

    def mixture(self, images: Tensor, normal: Tensor, reduction: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_classes] through all operations, weighted: [edges, operations] for each kind."""
        before = last = self.stem(images)
        for plan, cell in zip(self.plans, self.cells, strict=True):
            before, last = last, cell.mixture(before, last, reduction if plan.reduces else normal)
        return self.fc(last.mean((2, 3)))  # [B, D, H, W] -> [B, num_classes]

    def child(self, cells: Cells) -> CellNet:
        """The stand-alone network of `cells` with copies of the shared weights that it uses."""
        with seeded(0):  # its own first weights are all replaced
            child = CellNet(CellNetConfig(**cells.config(), **self.shape)).to(self.fc.weight)
        child.stem.load_state_dict(self.stem.state_dict())
        child.fc.load_state_dict(self.fc.state_dict())
        for own, shared in zip(child.cells, self.cells, strict=True):
            for source in range(NUM_INPUTS):
                if any(source == read for node in own.nodes for read, _ in node):
                    own.prepare[source].load_state_dict(shared.prepare[source].state_dict())
            for number, (node, pair) in enumerate(zip(own.nodes, own.operations, strict=True)):
                for (source, name), operation in zip(node, pair, strict=True):
                    operation.load_state_dict(shared.edges[f"{source}_{number}"][name].state_dict())
        return child


def train_shared(supernet: SuperNet, data: ProxyData, protocol: Protocol) -> None:
    """SPOS: each batch goes through one path, drawn uniformly from the space."""
    generator = np.random.Generator(np.random.PCG64(protocol.model_seed))
    space = supernet.space
    fit(supernet, data.train_images, data.train_labels, protocol,
        lambda images: supernet(images, space.decode(space.draw(generator))))


@torch.no_grad()
def measure_statistics(model: nn.Module, images: Tensor, batch_size: int = 256) -> None:
    """Replace the running statistics of every batch norm by their mean over batches of `images`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    model.train()
    for batch in images.split(batch_size):
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def inherited_score(supernet: SuperNet, cells: Cells, data: ProxyData, statistics_images: int = 512) -> float:
    """Validation accuracy of the candidate with inherited weights and statistics of its own."""
    child = supernet.child(cells)
    measure_statistics(child, data.train_images[:statistics_images])
    return accuracy(child, data.val_images, data.val_labels)


def evolve(space: CellSpace, score: Callable[[tuple[int, ...]], float], seed: int, *, population: int = 12,
           generations: int = 8, parents: int = 5, mutation: float = 0.1) -> list[tuple[tuple[int, ...], float]]:
    """SPOS, Algorithm 1: the best `parents` of all so far make the next population, half by mutation (each decision is
    redrawn with this probability) and half by crossing two. Decisions are scored once. Best first."""
    generator = np.random.Generator(np.random.PCG64(seed))
    seen: dict[tuple[int, ...], float] = {}
    ranked: list[tuple[tuple[int, ...], float]] = []
    for generation in range(generations):
        for number in range(population):
            best = [tokens for tokens, _ in ranked[:parents]]
            if generation == 0 or not best:
                tokens = space.draw(generator)
            elif number % 2 == 0:
                tokens = _mutated(best[generator.integers(len(best))], space, mutation, generator)
            else:
                first, second = (best[i] for i in generator.integers(len(best), size=2))
                tokens = tuple(a if generator.random() < 0.5 else b for a, b in zip(first, second, strict=True))
            if tokens not in seen:
                seen[tokens] = score(tokens)
        ranked = sorted(seen.items(), key=lambda item: -item[1])
    return ranked


def _mutated(tokens: tuple[int, ...], space: CellSpace, mutation: float,
             generator: np.random.Generator) -> tuple[int, ...]:
    fresh = space.draw(generator)
    return tuple(b if generator.random() < mutation else a for a, b in zip(tokens, fresh, strict=True))


class Relaxation(nn.Module):
    """DARTS' architecture parameters, one row an edge: [edges, operations] for each kind of cell."""

    def __init__(self, space: CellSpace):
        super().__init__()
        edges = sum(NUM_INPUTS + node for node in range(space.num_nodes))
        self.space = space
        self.normal = nn.Parameter(torch.zeros(edges, len(space.operations)))
        self.reduction = nn.Parameter(torch.zeros(edges, len(space.operations)))

    def forward(self, supernet: SuperNet, images: Tensor) -> Tensor:
        return supernet.mixture(images, self.normal.softmax(1), self.reduction.softmax(1))

    def derive(self) -> Cells:
        """Of each node, the two inputs whose best operation weighs most, with that operation (section 2.4)."""
        return Cells(self._cell(self.normal), self._cell(self.reduction))

    @torch.no_grad()
    def _cell(self, alphas: Tensor) -> tuple[str, ...]:
        best, names = alphas.softmax(1).max(1)
        nodes, row = [], 0
        for node in range(self.space.num_nodes):
            count = NUM_INPUTS + node
            sources = sorted(best[row:row + count].topk(NUM_INPUTS).indices.tolist())
            nodes.append(" ".join(f"{self.space.operations[int(names[row + i])]}:{i}" for i in sources))
            row += count
        return tuple(nodes)


def train_relaxation(supernet: SuperNet, data: ProxyData, protocol: Protocol, alpha_lr: float = 3e-3) -> Relaxation:
    """DARTS, first order: before each step of the weights on a batch of one half of the training images, one of the
    architecture parameters on a batch of the other half, with the weights as they are."""
    relaxation = Relaxation(supernet.space)
    half = len(data.train_images) // 2
    images, labels = data.train_images[half:], data.train_labels[half:]
    alphas = torch.optim.Adam(relaxation.parameters(), alpha_lr, betas=(0.5, 0.999), weight_decay=1e-3)
    size, step = min(protocol.batch_size, len(images)), 0

    def forward(batch: Tensor) -> Tensor:
        nonlocal step
        order = permutation(len(images), protocol.model_seed, "alphas", step)[:size]
        step += 1
        picks = torch.from_numpy(order)
        loss = F.cross_entropy(relaxation(supernet, images[picks]), labels[picks])
        gradients = torch.autograd.grad(loss, list(relaxation.parameters()))
        for parameter, gradient in zip(relaxation.parameters(), gradients, strict=True):
            parameter.grad = gradient
        alphas.step()
        return supernet.mixture(batch, relaxation.normal.detach().softmax(1), relaxation.reduction.detach().softmax(1))

    fit(supernet, data.train_images[:half], data.train_labels[:half], protocol, forward)
    return relaxation


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: agreement of two rankings in [-1, 1], corrected for ties; 0 where one of them is all ties."""
    a, b = (np.sign(np.subtract.outer(x, x)) for x in (np.asarray(first, float), np.asarray(second, float)))
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale else 0.0
