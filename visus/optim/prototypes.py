"""The shapes and noises of which the unit tests of Schaul, Antonoglou and Silver are made (ICLR 2014, arXiv:1312.6055).

A shape begins at a point with a value and a slope and has a width; shapes are chained so that the next begins with the
value and the slope at which the last ended (paper, sections 2.1 and 2.2); the two outer ones go on for ever. How far a
shape reaches (four widths of a Gaussian, a tenth of the slope at the end of a convex parabola, ten times the slope
beyond a cliff, breaks where both arms are equally long), the noise levels and the curl are the numbers of the authors'
published test bench (its definitions, not its code). Two things are ours: dimensions are added up where the bench also
adds absolute values, and multiplicative noise is log-normal, as in the bench, whatever the paper's words leave open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Shape = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]  # t from the start, slope, width -> rise, slope there
STEEPNESS = 10.0  # of the wall behind a cliff's edge, against the slope before it
TAIL = 1e-7  # the slope with which a bell begins after a level shape
DECAY = math.log(1000.0)  # an exponential's slope falls by this within its width


def _line(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
    return slope * t, slope + 0 * t


def _quad_bowl(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
    return slope * t * (1 - t / width), slope * (1 - 2 * t / width)


def _quad_convex(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Down to a tenth of the slope, or, uphill, up to ten times of it."""
    change = torch.where(slope > 0, slope.new_tensor(9.0), slope.new_tensor(-0.9)) / width
    return slope * t * (1 + change * t / 2), slope * (1 + change * t)


def _exponential(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
    rate = DECAY / width
    return slope / rate * (1 - torch.exp(-rate * t)), slope * torch.exp(-rate * t)


def _bell(kind: str, near: float, far: float) -> Shape:
    """Part of a well: -exp(-s^2) (kind gauss) or -exp(-|s|) (laplace), s in units of its width from its middle, between
    `far` and `near`, the inner end; near = -far: the floor. Uphill it is the same part beyond the middle."""

    def height(s: Tensor) -> tuple[Tensor, Tensor]:
        if kind == "gauss":
            well = torch.exp(-(s**2))
            return -well, 2 * s * well
        well = torch.exp(-s.abs())
        return -well, torch.sign(s) * well

    def shape(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
        slope = torch.where(slope == 0, slope.new_tensor(-TAIL), slope)
        unit = width / (far - near)
        begin = torch.where(slope > 0, slope.new_tensor(near), slope.new_tensor(-far))
        start, slope_there = height(begin)
        value, slope_here = height(begin + t / unit)
        scale = slope * unit / slope_there
        return scale * (value - start), scale / unit * slope_here

    return shape


def _corner(turned: Callable[[Tensor], Tensor]) -> Shape:
    """Two straight arms of one length; turned: the second's slope from the first's."""

    def shape(t: Tensor, slope: Tensor, width: float) -> tuple[Tensor, Tensor]:
        after = turned(slope)
        edge = width / (1 + torch.sqrt((1 + slope**2) / (1 + after**2)))
        rise = torch.where(t > edge, slope * edge + after * (t - edge), slope * t)
        return rise, torch.where(t > edge, after, torch.where(t < edge, slope, 0.0))

    return shape


_INFLECTION = 1 / math.sqrt(2)
SHAPES: dict[str, Shape] = {
    "line": _line,
    "quad_bowl": _quad_bowl,
    "quad_convex": _quad_convex,
    "exponential": _exponential,
    "gauss_nonconvex": _bell("gauss", _INFLECTION, 4.0),
    "gauss_convex": _bell("gauss", 0.1, _INFLECTION),
    "gauss_bowl": _bell("gauss", -0.1, 0.1),
    "laplace_nonconvex": _bell("laplace", 1.0, 8.0),
    "laplace_convex": _bell("laplace", 0.1, 1.0),
    "laplace_bowl": _bell("laplace", -0.1, 0.1),
    "abs": _corner(lambda slope: -slope),
    "relu": _corner(lambda slope: 0 * slope),
    "bend": _corner(lambda slope: torch.where(slope == 0, -1.0, slope)),
    "cliff": _corner(lambda slope: -STEEPNESS * slope),
    "ridge": _corner(lambda slope: STEEPNESS * slope),
}


def chain(names: tuple[str, ...], x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The shapes of these names one after the other over [0, 1]: value (0 at 0) and derivative at x.

    x, slope: of one shape; slope: at x = 0, where the first begins. A bend begins level, and its second arm has the
    slope that was there before the level part (its first slope where it stands alone).
    """
    width = 1 / len(names)
    value, derivative = torch.zeros_like(x), torch.zeros_like(x)
    begin, at, before = torch.zeros_like(slope), slope, slope
    ends = [k * width for k in range(len(names) + 1)]
    for number, (name, (left, _)) in enumerate(zip(names, pairwise(ends), strict=True)):
        if name == "bend":
            rise_at, slope_at = _bent(x - left, before, width)
            rise, end_slope = _bent(torch.full_like(slope, width), before, width)
        else:
            rise_at, slope_at = SHAPES[name](x - left, at, width)
            rise, end_slope = SHAPES[name](torch.full_like(slope, width), at, width)
        inside = x >= left if number else torch.ones_like(x, dtype=torch.bool)
        value = torch.where(inside, begin + rise_at, value)
        derivative = torch.where(inside, slope_at, derivative)
        before = torch.where(at != 0, at, before)
        begin, at = begin + rise, end_slope
    return value, derivative


def _bent(t: Tensor, after: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Level, then the slope `after`."""
    edge = width / (1 + torch.sqrt(1 / (1 + after**2)))
    return torch.where(t > edge, after * (t - edge), 0.0), torch.where(t > edge, after, 0.0)


# kind, level: of the noise on a gradient
NOISES: dict[str, tuple[str, float]] = {
    "exact": ("none", 0.0),
    "gauss 0.01": ("add", 0.01),
    "gauss 0.1": ("add", 0.1),
    "gauss 10": ("add", 10.0),
    "times 0.1": ("times", 0.1),
    "times 1": ("times", 1.0),
    "times 10": ("times", 10.0),
    "mask 0.1": ("mask", 0.1),
    "mask 0.9": ("mask", 0.9),
    "cauchy 1": ("cauchy", 1.0),
}


def draw_noise(kind: str, level: float, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A factor and an addend for gradients, float64 of `shape`: noisy = factor * gradient + addend.

    add: level * N(0, 1). cauchy: level * a Cauchy number. times: exp(level * N(0, 1)). mask: 0 with probability level.
    """
    one, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    if kind == "add":
        return one, level * torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "cauchy":
        return one, level * torch.empty(shape, dtype=torch.float64).cauchy_(generator=generator)
    if kind == "times":
        return torch.exp(level * torch.randn(shape, generator=generator, dtype=torch.float64)), zero
    if kind == "mask":
        return (torch.rand(shape, generator=generator, dtype=torch.float64) >= level).double(), zero
    return one, zero
