"""Checks of the lab fully_connected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.foundations.networks import FullyConnectedNet
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Points, Shown

Array = np.ndarray
Params = dict[str, Array]


def _initialise(sizes: list[int], rng: np.random.Generator, rule: Callable[[int, int], float] = lambda a, b: (
        2 / a) ** 0.5) -> Params:
    params: Params = {}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        params[f"w{i}"], params[f"b{i}"] = rule(a, b) * rng.standard_normal((a, b)), np.zeros(b)
    return params


def _net(params: Params, reg: float = 0.0) -> FullyConnectedNet:
    last = len(params) // 2
    hidden = tuple(len(params[f"b{i}"]) for i in range(1, last))
    net = FullyConnectedNet(len(params["w1"]), hidden, len(params[f"b{last}"]), reg=reg,
                            rng=np.random.Generator(np.random.PCG64(0)))
    net.params = dict(params)
    return net


def _scores(params: Params, x: Array, *, rectify: bool = True, end: bool = False) -> Array:
    last = len(params) // 2
    for i in range(1, last + 1):
        x, _ = L.affine_forward(x, params[f"w{i}"], params[f"b{i}"])
        x = np.maximum(x, 0) if (rectify and i < last) or (end and i == last) else x
    return x


def _loss(params: Params, x: Array, labels: Array, reg: float, *, gate: bool = True, slope: float = 1.0,
          penalty: float = 0.5, biased: bool = False, first_only: bool = False, times: int = 0) -> tuple[float, Params]:
    """The right answer, or with its switches the mistakes."""
    last, caches, out = len(params) // 2, [], x
    for i in range(1, last + 1):
        before, cache = L.affine_forward(out, params[f"w{i}"], params[f"b{i}"])
        caches.append((cache, before))
        out = np.maximum(before, 0) if i < last else before
    loss, d = L.softmax_loss(out, labels)
    d = d * len(x) ** times
    grads: Params = {}
    for i in range(last, 0, -1):
        cache, before = caches[i - 1]
        if i < last and gate:
            d = d * (before > 0)
        d, grads[f"w{i}"], grads[f"b{i}"] = L.affine_backward(d, cache)
    for i in range(1, last + 1):
        w = params[f"w{i}"]
        loss += penalty * reg * float((w ** 2).sum()) * (not first_only or i == 1)
        grads[f"w{i}"] += slope * reg * w * (not first_only or i == 1)
        grads[f"b{i}"] += reg * params[f"b{i}"] * biased
    return loss, grads


def _make(sizes: list[int], n: int, shape: tuple[int, ...] = (), **more: Any) -> Callable[[np.random.Generator],
                                                                                          Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        params = {name: w if w.ndim > 1 else 0.5 * rng.normal(size=w.shape) for name, w in _initialise(sizes,
                                                                                                       rng).items()}
        inputs = {"params": params, "x": rng.normal(size=(n, *(shape or sizes[:1])))}
        return inputs | ({"labels": rng.integers(sizes[-1], size=n)} | more if more else {})

    return make


def _sizes(sizes: list[int]) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"sizes": list(sizes), "rng": np.random.Generator(np.random.PCG64(11))}


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))

    def train(params: Params, count: int, lr: float, steps: int) -> tuple[list[tuple[float, float]], Params]:
        rng, losses = np.random.Generator(np.random.PCG64(1)), Points()
        for step in range(steps):
            rows = rng.integers(count, size=50)
            value, grads = my.loss(params, x[rows], y[rows], 0.0)
            params = {name: w - lr * grads[name] for name, w in params.items()}
            losses.append((step, float(value)))
        return losses, params

    def fresh(sizes: list[int], factor: float = 1.0) -> Params:
        params = my.initialise(sizes, np.random.Generator(np.random.PCG64(0)))
        return {name: w * factor if name[0] == "w" else w for name, w in params.items()}

    deep = [64, 50, 50, 50, 50, 10]
    lines = {name: train(fresh(deep, factor), 1200, 0.1, 200)[0] for name, factor in (
        ("weights as they are", 1.0), ("a fifth as large", 0.2))}
    tiny, params = train(fresh(deep), 50, 0.15, 400)
    caught = float((my.scores(params, x[:50]).argmax(axis=1) == y[:50]).mean())
    _, wide = train(fresh([64, 60, 60, 10]), 1200, 0.2, 350)
    share = float((my.scores(wide, xv).argmax(axis=1) == yv).mean())
    return Shown(
        "Your network with five layers on the built-in digits: how it learns from weights as you begin them, and from "
        "smaller ones; and whether it can learn 50 images by heart, which a network that is put together rightly can.",
        (Lines("Loss of each batch", "A fifth of the weights, through five layers: the signal is 3,000 times smaller, "
               "and "
               "so are the gradients.", "step", lines),
         Lines("50 images by heart", "The loss of a network that sees nothing else goes to 0.", "step",
               {"loss": tiny})),
        (Fact("right on the 50 images", f"{caught:.0%}", "100%", caught == 1.0),
         Fact("right on 300 others, two hidden layers of 60", f"{share:.1%}", "at least 93%", share >= 0.93),
         Fact("last loss from small weights", f"{lines['a fifth as large'][-1][1]:.2f}", "above 2.2: it has learnt "
              "nothing",
              lines["a fifth as large"][-1][1] > 2.2)))


CASES = (Case("5 images, layers of 4, 6, 5 and 3, no penalty", _make([4, 6, 5, 3], 5, reg=0.0),
              {5: "the number of images"}),
         Case("4 images of 2 x 3, layers of 6, 7 and 4, reg 0.3", _make([6, 7, 4], 4, (2, 3), reg=0.3),
              {4: "the number of images"}),
         Case("3 images, no hidden layer, reg 0.2", _make([4, 3], 3, reg=0.2), {3: "the number of images"}))
LAB = Lab(
    name="fully_connected", number=8, title="Network of any depth",
    teaches="layers in a loop, initial weights, overfitting 50",
    source="Stanford CS231n, assignment 2, Q1; He et al. 2015",
    parts=(
        Part(name="initialise", outputs=("params",), right=_initialise,
             cases=(Case("layers of 5, 7, 4 and 3", _sizes([5, 7, 4, 3])), Case("layers of 6 and 2", _sizes([6, 2]))),
             hint="Draw each matrix with one call of rng.standard_normal((fan_in, fan_out)), in their order.",
             mistakes=(Mistake("It is divided by fan_out: by fan_in, the rows of w", partial(
                           _initialise, rule=lambda a, b: (2 / b) ** 0.5)),
                       Mistake("The 2 is missing: half of the units are 0 behind a ReLU", partial(
                           _initialise, rule=lambda a, b: a ** -0.5)),
                       Mistake("The root is missing: sqrt(2 / fan_in)", partial(_initialise, rule=lambda a, b: 2 / a)),
                       Mistake("The scale is missing: sqrt(2 / fan_in) times", partial(_initialise, rule=lambda a,
                                                                                       b: 1.0)),
                       Mistake("All weights are 0: then all units stay equal for ever", partial(
                           _initialise, rule=lambda a, b: 0.0)))),
        Part(name="scores", outputs=("scores",), right=lambda params, x: _net(params).scores(x),
             cases=(Case("5 images, layers of 4, 6, 5 and 3", _make([4, 6, 5, 3], 5)),
                    Case("4 images of 2 x 3, layers of 6, 7 and 4", _make([6, 7, 4], 4, (2, 3)))),
             mistakes=(Mistake("The last layer is rectified, too: the scores are not", partial(_scores, end=True)),
                       Mistake("The ReLUs are missing: without them all layers are one", partial(_scores,
                                                                                                 rectify=False)))),
        Part(name="loss", outputs=("loss", "grads"), right=lambda params, x, y, reg: _net(params, reg).loss(x, y),
             cases=CASES, mistakes=(
                 Mistake("The ReLUs hand gradients on where they were 0", partial(_loss, gate=False)),
                 Mistake("The gradients are not divided by N", partial(_loss, times=1)),
                 Mistake("The gradients lack that of the penalty: add reg * w", partial(_loss, slope=0.0)),
                 Mistake("The gradient of the penalty is doubled: with the 1/2 it is reg * w", partial(_loss,
                                                                                                       slope=2.0)),
                 Mistake("The 1/2 of the penalty is missing", partial(_loss, penalty=1.0)),
                 Mistake("The penalty is missing from the loss", partial(_loss, penalty=0.0)),
                 Mistake("Only the first matrix is penalised: all are", partial(_loss, first_only=True)),
                 Mistake("The biases are penalised too: only the matrices are", partial(_loss, biased=True)))),
    ),
    draw=_draw)
