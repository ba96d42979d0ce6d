"""Checks of the lab convnet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import convolution as C
from visus.foundations import layers as L
from visus.foundations.convnet import ThreeLayerConvNet
from visus.foundations.update_rules import Adam
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Shown, Tiles

Array = np.ndarray
Params = dict[str, Array]


def _shapes(channels: int, side: int, filters: int, kernel: int, hidden: int, classes: int,
            area: float = 0.25) -> dict[str, tuple[int, ...]]:
    return {"w1": (filters, channels, kernel, kernel), "b1": (filters,), "w2": (int(filters * side * side * area),
                                                                                hidden),
            "b2": (hidden,), "w3": (hidden, classes), "b3": (classes,)}


def _both(params: Params, x: Array, labels: Array, reg: float, *, padding: bool = True, first: bool = True,
          second: bool = True, gates: str = "12", average: bool = False, slope: float = 1.0, penalty: float = 0.5,
          slopes: str = "123", times: int = 0, score: bool = False) -> Any:
    """Loss and gradients (or the scores), with its switches the mistakes."""
    pad = (params["w1"].shape[2] - 1) // 2 if padding else 0
    pool, unpool = (C.average_pool_forward, C.average_pool_backward) if average else (C.max_pool_forward,
                                                                                     C.max_pool_backward)
    a, conv = C.convolution_forward(x, params["w1"], params["b1"], 1, pad)
    r = np.maximum(a, 0) if first else a
    p, pooled = pool(r, 2, 2)
    h, affine = L.affine_forward(p, params["w2"], params["b2"])
    g = np.maximum(h, 0) if second else h
    s, top = L.affine_forward(g, params["w3"], params["b3"])
    if score:
        return s
    loss, d = L.softmax_loss(s, labels)
    d = d * len(x) ** times
    grads: Params = {}
    d, grads["w3"], grads["b3"] = L.affine_backward(d, top)
    d = d * (h > 0) if "2" in gates else d
    d, grads["w2"], grads["b2"] = L.affine_backward(d, affine)
    d = unpool(d, pooled)
    d = d * (a > 0) if "1" in gates else d
    _, grads["w1"], grads["b1"] = C.convolution_backward(d, conv)
    for k in "123":
        loss += penalty * reg * float((params[f"w{k}"] ** 2).sum())
        grads[f"w{k}"] += slope * reg * params[f"w{k}"] * (k in slopes)
    return loss, grads


def _scores(params: Params, x: Array, **switches: Any) -> Array:
    return _both(params, x, np.zeros(len(x), int), 0.0, score=True, **switches)


def _net(params: Params, x: Array, reg: float = 0.0) -> ThreeLayerConvNet:
    filters, _, kernel, _ = params["w1"].shape
    net = ThreeLayerConvNet((x.shape[1], x.shape[2], x.shape[3]), len(params["b3"]), filters=filters, kernel=kernel,
                            reg=reg,
                            hidden=len(params["b2"]), rng=np.random.Generator(np.random.PCG64(0)))
    net.params = dict(params)
    return net


def _make(n: int, channels: int, side: int, filters: int, kernel: int, hidden: int, classes: int,
          **more: Any) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        shapes = _shapes(channels, side, filters, kernel, hidden, classes)
        params = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
        inputs = {"params": params, "x": rng.normal(size=(n, channels, side, side))}
        return inputs | ({"labels": rng.integers(classes, size=n)} | more if more else {})

    return make


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images[:, None], labels) for images, labels in (digits.train, digits.val))
    rng = np.random.Generator(np.random.PCG64(0))
    params: Params = {}
    for name, shape in my.parameter_shapes(1, 8, 8, 3, 40, 10).items():
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        params[name] = np.zeros(shape) if len(shape) == 1 else (2 / fan) ** 0.5 * rng.normal(size=shape)
    rule = Adam(4e-3)
    states = {name: rule.start(w) for name, w in params.items()}
    losses, train, val = [], [], []
    for step in range(160):
        rows = rng.integers(len(x), size=50)
        value, grads = my.loss(params, x[rows], y[rows], 1e-3)
        params = {name: rule.step(w, grads[name], states[name]) for name, w in params.items()}
        losses.append((step, float(value)))
        if step % 16 == 15:
            train.append((step + 1, float((my.scores(params, x[:200]).argmax(axis=1) == y[:200]).mean())))
            val.append((step + 1, float((my.scores(params, xv).argmax(axis=1) == yv).mean())))
    share = val[-1][1]
    return Shown(
        "Your convolutional network, eight filters of 3 x 3 and 40 hidden units, trained by Adam on 1,200 of the "
        "built-in digits.",
        (Lines("Loss of each batch", "With its penalty.", "step", {"loss": losses}),
         Lines("Right answers", "On 200 images of the training set and on 300 others.", "step",
               {"training": train, "others": val}, True),
         Tiles("Its filters", "What your network learnt to look for in its first layer: red where ink speaks for it.",
               [(str(k), params["w1"][k, 0]) for k in range(8)], signed=True)),
        (Fact("right on the 300 others", f"{share:.1%}", "at least 93%", share >= 0.93),))


CASES = (Case("3 images of 2 x 4 x 4, 3 filters of 3 x 3, no penalty", _make(3, 2, 4, 3, 3, 5, 4, reg=0.0),
              {3: "the number of images"}),
         Case("2 images of 1 x 6 x 6, 2 filters of 5 x 5, reg 0.2", _make(2, 1, 6, 2, 5, 4, 3, reg=0.2),
              {2: "the number of images"}))
LAB = Lab(
    name="convnet", number=16, title="Three-layer convolutional network", teaches="layers put together, forth and back",
    source="Stanford CS231n, assignment 2, Q4",
    parts=(
        Part(name="parameter_shapes", outputs=("shapes",), whole=True, right=_shapes,
             cases=(Case("3 x 32 x 32, 16 filters of 7 x 7, 100 hidden, 10 classes", lambda rng: {
                 "channels": 3, "side": 32, "filters": 16, "kernel": 7, "hidden": 100, "classes": 10}),),
             mistakes=(Mistake("w2 is as if nothing was pooled: the maps are half as wide and half as high",
                               partial(_shapes, area=1.0)),
                       Mistake("w2 is as if only one side was halved: the maps are half as wide and half as high",
                               partial(_shapes, area=0.5)))),
        Part(name="scores", outputs=("scores",), right=lambda p, x: _net(p, x).scores(x),
             cases=(Case("3 images of 2 x 4 x 4, 3 filters of 3 x 3", _make(3, 2, 4, 3, 3, 5, 4)),
                    Case("2 images of 1 x 6 x 6, 2 filters of 5 x 5", _make(2, 1, 6, 2, 5, 4, 3))),
             mistakes=(Mistake("The ReLU behind the convolution is missing", partial(_scores, first=False)),
                       Mistake("The ReLU behind the first affine layer is missing", partial(_scores, second=False)),
                       Mistake("It pools the mean: the maximum", partial(_scores, average=True)))),
        Part(name="loss", outputs=("loss", "grads"), right=lambda p, x, y, reg: _net(p, x, reg).loss(x, y), cases=CASES,
             mistakes=(Mistake("The backward pass of the ReLU behind the first affine layer is missing",
                               partial(_both, gates="1")),
                       Mistake("The backward pass of the ReLU behind the convolution is missing", partial(_both,
                                                                                                          gates="2")),
                       Mistake("Both ReLUs hand gradients on where they were 0", partial(_both, gates="")),
                       Mistake("The gradients are not divided by N", partial(_both, times=1)),
                       Mistake("The gradients lack that of the penalty: add reg * w", partial(_both, slope=0.0)),
                       Mistake("The penalty's gradient of the filters w1 is missing", partial(_both, slopes="23")),
                       Mistake("The filters w1 are not penalised in the loss", lambda p, x, y, reg: (
                           _both(p, x, y, reg)[0] - 0.5 * reg * (p["w1"] ** 2).sum(), None)),
                       Mistake("The gradient of the penalty is doubled: with the 1/2 it is reg * w",
                               partial(_both, slope=2.0)),
                       Mistake("The 1/2 of the penalty is missing", partial(_both, penalty=1.0)),
                       Mistake("The penalty is missing from the loss", partial(_both, penalty=0.0)))),
    ),
    draw=_draw)
