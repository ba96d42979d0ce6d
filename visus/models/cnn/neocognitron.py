"""Neocognitron: layers of simple and of complex cells in turn, which learn without a teacher.

Paper: Fukushima, Neocognitron: A Self-organizing Neural Network Model for a Mechanism of Pattern Recognition
Unaffected by Shift in Position, Biological Cybernetics 36, 1980, after what Hubel and Wiesel found in the cat's visual
cortex. An S-cell answers to the pattern that it has learnt, a C-cell to the same pattern at any place near by; cells
of a plane share their weights. `learn` is the paper's rule; gradient may train the same weights, but call `learn`
first: at the start all cells answer faintly and alike, and gradient alone moves them slowly.
Departures: logits come from a linear read-out of the last C-cells, trained by gradient, where the paper looks which
of them answers; `learn` teaches layer after layer, not all at once; maps keep their size in S-layers and halve in the
first two C-layers (sides 16, 16, 8, 8, 4, 4, 1 for the paper's 16, 16, 10, 8, 6, 2, 1, from memory), so that any
size fits; there the later stages need a selectivity of 3 for the paper's 1.5, which puts different digits in one
plane; the fixed weights fall by 0.9 a pixel and the first weights are random, of a scale chosen here.
forward: images [B, C, H, W], values of at least 0, bright on dark -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, require

KERNEL = 5  # side of the area that a cell sees
DECAY = 0.9  # of the fixed weights, for each pixel from the centre
START = 0.01  # response that weights of the start give to an input of 1 everywhere
SMALLEST = 1e-12  # mean square under which an area counts as empty: the root has no slope at 0


@dataclass(frozen=True, kw_only=True)
class NeocognitronConfig:
    """For each of three stages, dims: cell planes of its S- and of its C-layer; selectivities: r, a learnt cell answers
    to what has a cosine above r / (1 + r) with its pattern; rates: q, how much one presentation teaches. saturation:
    alpha, the input to which a C-cell answers with 1/2. column: side of the areas in which S-cells compete."""

    dims: tuple[int, ...] = (24, 24, 24)
    selectivities: tuple[float, ...] = (4.0, 3.0, 3.0)
    rates: tuple[float, ...] = (1.0, 16.0, 16.0)
    saturation: float = 0.5
    column: int = 5
    in_channels: int = 1
    num_classes: int = 10

    def __post_init__(self) -> None:
        for field in ("dims", "selectivities", "rates"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) == 3, field, value, "be three numbers, one a stage")
        positive(in_channels=self.in_channels, num_classes=self.num_classes, column=self.column)
        for dim in self.dims:
            positive(dims=dim)
            require(dim >= 2, "dims", dim, "be at least 2: C-cells compare their plane with the mean of all")
        _above_zero("selectivities", *self.selectivities)
        _above_zero("rates", *self.rates)
        _above_zero("saturation", self.saturation)
        require(self.column % 2 == 1, "column", self.column, "be odd, so that it has a centre")


class SimpleCells(nn.Module):
    """S-layer, [B, in_dim, H, W] -> [B, dim, H, W]: r phi[(1 + sum a u) / (1 + 2r / (1 + r) b v) - 1], where phi cuts
    below 0 and v is the root of the weighted mean of u squared over the same area."""

    def __init__(self, in_dim: int, dim: int, selectivity: float, rate: float, column: int):
        super().__init__()
        self.selectivity, self.rate, self.column = selectivity, rate, column
        self.register_buffer("c", _fading())  # [1, 1, 5, 5], the efficacies that v sums with
        start = 2 * START / in_dim * torch.rand(dim, in_dim, KERNEL, KERNEL)
        self.a = nn.Parameter(start * self.c)  # excitatory
        self.b = nn.Parameter(torch.zeros(dim))  # inhibitory

    def intensity(self, maps: Tensor) -> Tensor:
        """What the inhibitory cells give: v, [B, 1, H, W]."""
        squares = maps.square().mean(1, keepdim=True)
        return F.conv2d(squares, self.c, padding=KERNEL // 2).clamp(min=SMALLEST).sqrt()

    def forward(self, maps: Tensor) -> Tensor:
        excitation = F.conv2d(maps, self.a.clamp(min=0), padding=KERNEL // 2)
        strength = 2 * self.selectivity / (1 + self.selectivity) * self.b.clamp(min=0)
        inhibition = strength.view(-1, 1, 1) * self.intensity(maps)  # [B, dim, H, W]
        # (1 + e) / (1 + h) - 1, without the difference of two numbers near 1
        return self.selectivity * ((excitation - inhibition) / (1 + inhibition)).relu_()

    @torch.no_grad()
    def reinforce(self, maps: Tensor) -> None:
        """One presentation of [B, in_dim, H, W]: each plane's seed cell takes a += q c u and b += q / 2 v of its own
        area, and with it the whole plane. With q / 2 a cell's answer to what it learnt tends to 1."""
        index, found = seed_cells(self(maps), self.column)  # [B, dim]
        patches = F.unfold(maps, KERNEL, padding=KERNEL // 2)  # [B, in_dim 5 5, H W]
        taught = patches.transpose(1, 2).gather(1, index[:, :, None].expand(-1, -1, patches.shape[1]))
        taught = (taught * found[:, :, None]).sum(0).view_as(self.a)  # [B, dim, in_dim 5 5] -> [dim, in_dim, 5, 5]
        seen = self.intensity(maps).flatten(1).gather(1, index)  # [B, 1, H, W] -> [B, H W] -> [B, dim]
        self.a += self.rate / maps.shape[1] * self.c * taught
        self.b += self.rate / 2 * (seen * found).sum(0)


class ComplexCells(nn.Module):
    """C-layer, [B, K, H, W] -> [B, K, H / 2, W / 2]: psi[(1 + sum d u) / (1 + s) - 1], where s is the mean of that sum
    over planes and psi(x) = x / (alpha + x) above 0."""

    def __init__(self, dim: int, saturation: float):
        super().__init__()
        self.dim, self.saturation = dim, saturation
        self.register_buffer("d", _fading())  # [1, 1, 5, 5]

    def forward(self, maps: Tensor) -> Tensor:
        near = F.conv2d(maps, self.d.expand(self.dim, 1, KERNEL, KERNEL), None, 2, KERNEL // 2, groups=self.dim)
        return _saturated(near, self.saturation)


class Neocognitron(nn.Module):
    """features(images): the maps of the first two C-layers and of the last S-layer."""

    Config = NeocognitronConfig

    def __init__(self, config: NeocognitronConfig):
        super().__init__()
        self.config = config
        in_dims = (config.in_channels, *config.dims)
        self.simple = nn.ModuleList(
            SimpleCells(in_dim, dim, selectivity, rate, config.column) for in_dim, dim, selectivity, rate
            in zip(in_dims, config.dims, config.selectivities, config.rates, strict=False))
        self.complex = nn.ModuleList(ComplexCells(dim, config.saturation) for dim in config.dims[:2])
        self.head = nn.Linear(config.dims[2], config.num_classes)
        self.feature_channels = config.dims
        self.feature_strides = (2, 4, 4)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2, 4 and 4."""
        first = self.complex[0](self.simple[0](images))
        second = self.complex[1](self.simple[1](first))
        return [first, second, self.simple[2](second)]

    def planes(self, images: Tensor) -> Tensor:
        """The last C-cells, one a plane, which see all places: [B, C, H, W] -> [B, dims[2]] in [0, 1). The largest is
        what the network takes the image for, in categories of its own."""
        return _saturated(self.features(images)[-1].mean((2, 3)), self.config.saturation)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.planes(images))

    @torch.no_grad()
    def learn(self, images: Tensor, steps: int) -> list[int]:
        """The paper's learning without a teacher: [B, C, H, W], shown one by one in turn, `steps` times in all to each
        layer. Gives the number of planes of each S-layer that have learnt a pattern."""
        positive(steps=steps)
        if images.ndim != 4 or not len(images) or images.shape[1] != self.config.in_channels or images.min() < 0:
            raise UserError(f"learning takes images [B, {self.config.in_channels}, H, W] with values of at least 0",
                            where=f"images of {tuple(images.shape)}", remedy="Give them bright on dark, not centred")
        maps = images
        for stage, simple in enumerate(self.simple):
            for step in range(steps):
                simple.reinforce(maps[step % len(maps)][None])
            if stage < 2:
                maps = self.complex[stage](simple(maps))
        return [int((simple.b > 0).sum()) for simple in self.simple]


def seed_cells(responses: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """The representatives of a layer, [B, K, H, W] -> the place of each plane's, [B, K] in H W, and whether it has one.

    A cell is a candidate where it is the largest, above 0, of all planes in one of the `column` x `column` areas that
    it lies in, which overlap; of several candidates a plane keeps the largest.
    """
    middle = column // 2
    largest = F.max_pool2d(responses.amax(1, keepdim=True), column, 1, middle)  # in the area around each place
    least = -F.max_pool2d(-largest, column, 1, middle)  # least of those over the areas that hold this place
    candidates = torch.where(responses >= least, responses, 0).flatten(2)  # [B, K, H W]
    value, index = candidates.max(2)
    return index, value > 0


def _saturated(near: Tensor, saturation: float) -> Tensor:
    mean = near.mean(1, keepdim=True)
    above = ((near - mean) / (1 + mean)).relu_()  # (1 + near) / (1 + mean) - 1
    return above / (saturation + above)


def _fading() -> Tensor:
    """Weights that fall with the distance from the centre and sum to 1: [1, 1, 5, 5]."""
    side = torch.arange(KERNEL, dtype=torch.float32) - KERNEL // 2
    weights = DECAY ** torch.hypot(side[:, None], side[None])
    return (weights / weights.sum()).view(1, 1, KERNEL, KERNEL)


def _above_zero(field: str, *values: float) -> None:
    for value in values:
        require(isinstance(value, int | float) and not isinstance(value, bool) and value > 0, field, value,
                "be above 0")


VARIANTS = {"neocognitron": {"dims": (24, 24, 24), "selectivities": (4.0, 3.0, 3.0), "rates": (1.0, 16.0, 16.0)}}

models.add(Neocognitron, VARIANTS, family="neocognitron", task="classification",
           paper="Fukushima: Neocognitron: A Self-organizing Neural Network Model for a Mechanism of Pattern "
                 "Recognition Unaffected by Shift in Position, Biological Cybernetics 1980",
           # light intensities: a blank image is 0
           preprocessing={"size": (16, 16), "channels": 1, "mean": (0.0,), "std": (1.0,)})
