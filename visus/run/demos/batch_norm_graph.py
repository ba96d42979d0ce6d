"""Batch normalisation as a graph of simple steps, its backward pass step by step, and the same in one line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations.gradient_check import check_gradient
from visus.foundations.layers import (
    RunningStatistics,
    batchnorm_backward,
    batchnorm_backward_staged,
    batchnorm_train,
)
from visus.report.demo import Drawing, Fact, Shown, Table, above, below
from visus.report.sketch import arrow, box, sheet, words
from visus.run.demo import Tell

TOPIC = "gradients"
SUMMARY = "batch normalisation's backward pass, gate by gate on a drawn graph, and in closed form"
SOURCE = ("Ioffe and Szegedy, arXiv:1502.03167, section 3; Stanford CS231n, assignment 2 (staged and simplified "
          "backward pass)")

EPS = 1e-5


@dataclass(frozen=True)
class Stage:
    """A node: what it computes, its gradient rule, its value and its gradient, [N] or one number."""

    name: str
    forward: str
    backward: str
    value: np.ndarray
    gradient: np.ndarray


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x, upstream = rng.permutation([1.0, 2.0, 4.0, 7.0]), rng.permutation([1.0, -1.0, 2.0, 0.5])
    stages = staged(x, 1.5, 0.5, upstream)
    advance(1, 2)
    facts = _facts(rng, x, upstream, stages)
    advance(2, 2)
    table = Table("Every step forwards and backwards", ["node", "value", "forward", "its gradient", "backward"],
                  [[one.name, _numbers(one.value), one.forward, _numbers(one.gradient), one.backward]
                   for one in stages.values()],
                  "One feature, four examples; d... is the gradient of the loss with respect to a node.")
    return Shown(
        "Batch normalisation, gate by gate",
        "Batch normalisation subtracts a feature's mean over the batch, divides by its standard deviation, and scales "
        "and shifts the result. Cut into steps of which each has a derivative one can look up, its backward pass is a "
        "walk from right to left. Two nodes are used twice, x and x - mean: what comes back both ways adds up.\n\n"
        "Put together, almost everything cancels: with z the normalised values and g = dout gamma, "
        "dx = (g - mean(g) - z mean(g z)) / std. The layer takes out of the gradient what would only move the mean or "
        "only scale the batch, since it undoes both anyway.",
        [Drawing(_graph(stages), "Above each box its value, below it the gradient (orange). Read forwards from "
                 "the left and backwards from the right.", "The graph", wide=True)],
        facts, [table])


def staged(x: np.ndarray, gamma: float, beta: float, upstream: np.ndarray) -> dict[str, Stage]:
    """The nodes in the order of the forward pass, with the gradient of each. x, upstream: [N]."""
    n = len(x)
    mean = x.mean()
    centred = x - mean
    squares = centred ** 2
    variance = squares.mean()
    std = np.sqrt(variance + EPS)
    inverse = 1 / std
    normal = centred * inverse
    scaled = gamma * normal
    out = scaled + beta

    d_scaled = upstream
    d_normal = gamma * d_scaled
    d_inverse = np.sum(d_normal * centred)
    d_std = -d_inverse / std ** 2
    d_variance = d_std / (2 * std)
    d_squares = np.full(n, d_variance / n)
    d_centred = d_normal * inverse + 2 * centred * d_squares
    d_mean = -d_centred.sum()
    d_x = d_centred + d_mean / n
    return {stage.name: stage for stage in (
        Stage("x", "", "d centred + d mean / N", x, d_x),
        Stage("mean", "mean of x", "- sum of d centred", mean, d_mean),
        Stage("centred", "x - mean", "d normal / std + 2 centred d squares", centred, d_centred),
        Stage("squares", "centred\u00b2", "d variance / N", squares, d_squares),
        Stage("variance", "mean of squares", "d std / (2 std)", variance, d_variance),
        Stage("std", "sqrt(variance + eps)", "- d inverse / std\u00b2", std, d_std),
        Stage("inverse", "1 / std", "sum of d normal centred", inverse, d_inverse),
        Stage("normal", "centred inverse", "gamma d scaled", normal, d_normal),
        Stage("scaled", "gamma normal", "d out", scaled, d_scaled),
        Stage("out", "scaled + beta", "from above", out, upstream),
        Stage("gamma", "", "sum of d out normal", np.asarray(gamma), np.sum(upstream * normal)),
        Stage("beta", "", "sum of d out", np.asarray(beta), upstream.sum()))}


def _facts(rng: np.random.Generator, x: np.ndarray, upstream: np.ndarray, stages: dict[str, Stage]) -> list[Fact]:
    column, up = x[:, None], upstream[:, None]
    gamma, beta = np.array([1.5]), np.array([0.5])
    _, cache = batchnorm_train(column, gamma, beta, RunningStatistics.of(1), EPS)
    gates, closed = batchnorm_backward_staged(up, cache), batchnorm_backward(up, cache)
    drawn = [stages[name].gradient for name in ("x", "gamma", "beta")]

    big, weights = rng.normal(size=(32, 8)), rng.normal(size=(32, 8))
    g, b = rng.normal(size=8), rng.normal(size=8)
    tensors = [torch.tensor(v, requires_grad=True) for v in (big, g, b)]
    F.batch_norm(tensors[0], None, None, tensors[1], tensors[2], training=True, eps=EPS).backward(torch.tensor(weights))
    _, big_cache = batchnorm_train(big, g, b, RunningStatistics.of(8), EPS)
    ours = batchnorm_backward(weights, big_cache)
    theirs = [tensor.grad.numpy() for tensor in tensors if tensor.grad is not None]
    dx = ours[0]
    found = check_gradient(lambda v: batchnorm_train(v, g, b, RunningStatistics.of(8), EPS)[0], big, dx, weights,
                           rng=rng, floor=1e-4)
    normal = big_cache[2]
    plain = weights * g * big_cache[1]  # a layer that takes mean and deviation for constants
    return [
        below("the drawn gradients against the gates of visus.foundations, largest difference",
              max(float(np.abs(a - d.ravel()).max()) for a, d in zip(drawn, gates, strict=True)), 1e-12),
        below("gate by gate against the closed form", _largest(gates, closed), 1e-12),
        below("the closed form against torch on 32 x 8 random numbers", _largest(ours, theirs), 1e-12),
        below("and against centred differences, relative error", found.error, 1e-7),
        below("sum of dx over the batch: moving all examples together changes nothing",
              float(np.abs(dx.sum(axis=0)).max()), 1e-12),
        below("part of dx along z, against eps: scaling the batch changes nothing but for eps",
              float(np.abs((dx * normal).sum(axis=0)).max()), 1e-3),
        above("mistaking mean and deviation for constants: largest error", float(np.abs(plain - dx).max()), 0.1),
    ]


def _largest(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...] | list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value + 0.0:.3g}" for value in np.round(np.atleast_1d(values), 6))


PLACES = {"x": (0, 0), "centred": (1, 0), "normal": (3, 0), "scaled": (4, 0), "out": (5, 0), "mean": (0, 1),
          "squares": (1, 1), "variance": (1, 2), "std": (2, 2), "inverse": (2, 1), "gamma": (4, 1), "beta": (5, 1)}
EDGES = (("x", "mean"), ("x", "centred"), ("mean", "centred"), ("centred", "squares"), ("centred", "normal"),
         ("squares", "variance"), ("variance", "std"), ("std", "inverse"), ("inverse", "normal"), ("normal", "scaled"),
         ("gamma", "scaled"), ("scaled", "out"), ("beta", "out"))
STEP_X, STEP_Y, WIDE, HIGH = 184, 132, 136, 46


def _graph(stages: dict[str, Stage]) -> Markup:
    parts = []
    for start, end in EDGES:
        (column, row), (column2, row2) = PLACES[start], PLACES[end]
        x1, y1, x2, y2 = column * STEP_X, row * STEP_Y, column2 * STEP_X, row2 * STEP_Y
        if row == row2:
            x1, y1, y2 = x1 + WIDE, y1 + HIGH // 2, y2 + HIGH // 2
        elif column == column2:
            x1, x2 = x1 + WIDE // 2, x2 + WIDE // 2
            y1, y2 = (y1 + HIGH + 18, y2 - 18) if row2 > row else (y1 - 18, y2 + HIGH + 18)
        else:
            x1, y1, y2 = x1 + WIDE, y1 + HIGH // 2, y2 + HIGH - 8
        parts.append(arrow(x1 + 20, y1 + 34, x2 + 20, y2 + 34))
    for name, (column, row) in PLACES.items():
        stage, x, y = stages[name], 20 + column * STEP_X, 34 + row * STEP_Y
        kind = "node first" if name in ("x", "gamma", "beta") else "node second" if name == "out" else "node"
        parts += [box(x, y, WIDE, HIGH, name if not stage.forward else f"{name}\n{stage.forward}", kind),
                  words(_numbers(stage.value), x + WIDE / 2, y - 6, "middle", 11),
                  words(_numbers(stage.gradient), x + WIDE / 2, y + HIGH + 14, "middle second", 11)]
    return sheet(40 + 5 * STEP_X + WIDE, 68 + 2 * STEP_Y + HIGH, *parts, title="Graph of batch normalisation")
