"""Checks of the lab spatial_batchnorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.labs.contract import (
    Case,
    Digits,
    Fact,
    Inputs,
    Lab,
    Mistake,
    Module,
    Part,
    Shown,
    Tiles,
    through,
    without_cache,
)

Array = np.ndarray


def _forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, tuple]:
    return L.spatial_batchnorm_train(x, gamma, beta, L.RunningStatistics.of(x.shape[1]), eps)


def _over(*axes: int) -> Callable[..., Array]:
    def normalised(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        g, b = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (gamma, beta))
        return g * (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps) + b

    return normalised


def _reshaped(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    rows = x.reshape(-1, x.shape[1])
    return L.batchnorm_train(rows, gamma, beta, L.RunningStatistics.of(x.shape[1]), eps)[0].reshape(x.shape)


def _reshaped_back(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    rows = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
    return L.batchnorm_train(rows, gamma, beta, L.RunningStatistics.of(x.shape[1]), eps)[0].reshape(x.shape)


def _group(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> Array:
    return L.groupnorm_forward(x, gamma, beta, groups, eps)[0]


def _interleaved(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> Array:
    order = np.arange(x.shape[1]).reshape(-1, groups).T.ravel()
    back = np.argsort(order)
    return _group(x[:, order], gamma[order], beta[order], groups, eps)[:, back]


def _make(shape: tuple[int, ...], *, dout: bool = False, **more: Any) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(1.0, 2.0, size=shape), "gamma": rng.normal(size=shape[1]),
                  "beta": rng.normal(size=shape[1]), **more, "eps": 0.1}
        return inputs | ({"dout": rng.normal(size=shape)} if dout else {})

    return make


def _direct(axes: tuple[int, ...]) -> Callable[..., tuple[Any, ...]]:
    """dx as if mean and variance did not depend on x."""
    def gradients(x: Array, gamma: Array, beta: Array, eps: float, dout: Array) -> tuple[Any, ...]:
        g = gamma.reshape(-1, *(1,) * (x.ndim - 2)) * dout
        return g / np.sqrt(x.var(axis=axes, keepdims=True) + eps), None, None

    return gradients


def _axis0(x: Array, gamma: Array, eps: float, dout: Array) -> tuple[Any, ...]:
    """The closed form of layer norm with its means over the wrong axis."""
    s = np.sqrt(x.var(axis=1, keepdims=True) + eps)
    z, g = (x - x.mean(axis=1, keepdims=True)) / s, dout * gamma
    return (g - g.mean(axis=0) - z * (g * z).mean(axis=0)) / s, None, None


def _draw(my: Module, digits: Digits) -> Shown:
    images = digits.train[0][:16]
    rng = np.random.Generator(np.random.PCG64(0))
    x = np.stack([images * scale + shift for scale, shift in ((1, 0), (3, 2), (0.2, -1), (-1, 5))], axis=1)
    x = x + 0.05 * rng.normal(size=x.shape)
    out, _ = my.spatial_forward(x, np.ones(4), np.zeros(4), 1e-5)
    grouped, _ = my.groupnorm_forward(x, np.ones(4), np.zeros(4), 2, 1e-5)

    def spread(a: Array) -> str:
        return ", ".join(f"{v:.2f}" for v in a.std(axis=(0, 2, 3)))

    mean = float(np.abs(out.mean(axis=(0, 2, 3))).max())
    return Shown(
        "One digit in four channels of different brightness and contrast, as your layers leave them. All pictures of a "
        "row would look alike if each were stretched; the numbers tell them apart.",
        (Tiles("Before", f"Standard deviations over the batch: {spread(x)}.",
               [(f"channel {c}", x[0, c]) for c in range(4)]),
         Tiles("After your spatial batch norm", f"Standard deviations: {spread(out)}.",
               [(f"channel {c}", out[0, c]) for c in range(4)]),
         Tiles("After your group norm with two groups", f"Standard deviations: {spread(grouped)}. Two channels share "
               "their statistics.", [(f"channel {c}", grouped[0, c]) for c in range(4)])),
        (Fact("largest mean of a channel after spatial batch norm", f"{mean:.1e}", "below 1e-9", mean < 1e-9),
         Fact("spread of each channel", spread(out), "1 each", bool(np.allclose(out.std(axis=(0, 2, 3)), 1,
                                                                                atol=1e-2)))))


SHAPE = (3, 4, 2, 5)
LAB = Lab(
    name="spatial_batchnorm", number=14, title="Normalisation of maps",
    teaches="spatial batch norm, layer and group norm",
    source="Ioffe and Szegedy 2015; Ba et al. 2016; Wu and He 2018; Stanford CS231n, assignment 2",
    parts=(
        Part(name="spatial_forward", outputs=("out",), cached=True, right=without_cache(_forward),
             cases=(Case("3 images of 4 channels, 2 x 5", _make(SHAPE)),
                    Case("4 images of 4 channels, 4 x 4", _make((4, 4, 4, 4)))),
             mistakes=(Mistake("A reshape does not move the channels: transpose(0, 2, 3, 1) first", _reshaped),
                       Mistake("The way back lacks its transpose: reshape to [N, H, W, C], then transpose(0, 3, 1, 2)",
                               _reshaped_back),
                       Mistake("The statistics run over images only: over N, H and W", _over(0)),
                       Mistake("The statistics run over places only, for each image: over N, H and W", _over(2, 3)),
                       Mistake("The statistics run over everything: one for each channel", _over(0, 1, 2, 3)))),
        Part(name="spatial_backward", outputs=("dx", "dgamma", "dbeta"), forward="spatial_forward",
             right=through(_forward, L.spatial_batchnorm_backward),
             cases=(Case("3 images of 4 channels, 2 x 5", _make(SHAPE, dout=True), {30: "images times places",
                                                                                    3: "N"}),),
             mistakes=(Mistake("Only the direct way is there: x also enters the mean and the variance",
                               _direct((0, 2, 3))),
                       Mistake("dgamma is taken with x, not with the normalised maps", lambda x, g, b, eps, d: (
                           None, (d * x).sum(axis=(0, 2, 3)), None)),
                       Mistake("dbeta is summed over images only: over places too", lambda x, g, b, eps, d: (
                           None, None, d.sum(axis=0))))),
        Part(name="layernorm_forward", outputs=("out",), cached=True, right=without_cache(L.layernorm_forward),
             cases=(Case("3 rows of 5 features", _make((3, 5))), Case("4 rows of 4 features", _make((4, 4)))),
             mistakes=(Mistake("It is normalised over images, axis 0: that is batch norm",
                               lambda x, g, b, eps: (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps) * g + b),
                       Mistake("It is normalised over all rows at once: each row for itself",
                               lambda x, g, b, eps: (x - x.mean()) / np.sqrt(x.var() + eps) * g + b),
                       Mistake("eps is added outside of the root: sqrt(var + eps)", lambda x, g, b, eps: (
                           x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + eps) * g + b))),
        Part(name="layernorm_backward", outputs=("dx", "dgamma", "dbeta"), forward="layernorm_forward",
             right=through(L.layernorm_forward, L.layernorm_backward),
             cases=(Case("3 rows of 5 features", _make((3, 5), dout=True), {3: "the number of rows"}),),
             mistakes=(Mistake("Only the direct way is there: x also enters the mean and the variance",
                               lambda x, g, b, eps, d: (d * g / np.sqrt(x.var(axis=1, keepdims=True) + eps), None,
                                                        None)),
                       Mistake("The means of the closed form run over images: over features here, axis 1",
                               lambda x, g, b, eps, d: _axis0(x, g, eps, d)),
                       Mistake("dbeta is summed over features: gamma and beta are one a feature, sum over rows",
                               lambda x, g, b, eps, d: (None, None, d.sum(axis=1))))),
        Part(name="groupnorm_forward", outputs=("out",), cached=True, right=_group,
             cases=(Case("3 images of 4 channels, 2 groups", _make(SHAPE, groups=2)),
                    Case("2 images of 6 channels, 3 groups", _make((2, 6, 3, 3), groups=3))),
             mistakes=(Mistake("A group holds neighbouring channels, not every other one", _interleaved),
                       Mistake("Each channel is normalised for itself: that is instance norm; group them",
                               lambda x, g, b, groups, eps: _group(x, g, b, x.shape[1], eps)),
                       Mistake("All channels are one group: that is layer norm",
                               lambda x, g, b, groups, eps: _group(x, g, b, 1, eps)),
                       Mistake("A group is as many channels as there should be groups: C / groups channels each",
                               lambda x, g, b, groups, eps: _group(x, g, b, x.shape[1] // groups, eps)))),
    ),
    draw=_draw)
