"""Checks of the lab two_layer_net."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations.layers import softmax_loss
from visus.foundations.networks import TwoLayerNet
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Shown, Tiles

Params = dict[str, np.ndarray]


def _net(params: Params, reg: float = 0.0) -> TwoLayerNet:
    d, h = params["w1"].shape
    net = TwoLayerNet(d, h, len(params["b2"]), rng=np.random.Generator(np.random.PCG64(0)), reg=reg)
    net.params = dict(params)
    return net


def _scores(params: Params, x: np.ndarray, rectify: bool = True, biases: bool = True) -> np.ndarray:
    hidden = x @ params["w1"] + biases * params["b1"]
    return (np.maximum(hidden, 0) if rectify else hidden) @ params["w2"] + biases * params["b2"]


def _loss(params: Params, x: np.ndarray, labels: np.ndarray, reg: float, *, gate: bool = True, slope: float = 1.0,
          penalty: float = 0.5, mean: bool = False, dtimes: bool = False, raw: bool = False,
          biased: bool = False) -> tuple[float, Params]:
    """The right answer, or with its switches the mistakes."""
    before = x @ params["w1"] + params["b1"]
    hidden = np.maximum(before, 0)
    loss, dscores = softmax_loss(hidden @ params["w2"] + params["b2"], labels)
    dscores = dscores * (len(x) if dtimes else 1)
    dhidden = dscores @ params["w2"].T * ((before > 0) if gate else 1)
    total = np.mean if mean else np.sum
    grads = {"w1": x.T @ dhidden + slope * reg * params["w1"], "b1": total(dhidden, axis=0),
             "w2": (before if raw else hidden).T @ dscores + slope * reg * params["w2"], "b2": total(dscores, axis=0)}
    if biased:
        grads |= {name: grads[name] + reg * params[name] for name in ("b1", "b2")}
    return loss + penalty * reg * float((params["w1"] ** 2).sum() + (params["w2"] ** 2).sum()), grads


def _step(params: Params, x: np.ndarray, labels: np.ndarray, reg: float, lr: float) -> tuple[Params, float]:
    loss, grads = _net(params, reg).loss(x, labels)
    return {name: value - lr * grads[name] for name, value in params.items()}, loss


def _make(n: int, d: int, h: int, c: int, **more: Any) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        params = {"w1": rng.normal(size=(d, h)), "b1": rng.normal(size=h), "w2": rng.normal(size=(h, c)),
                  "b2": rng.normal(size=c)}
        labels = {"labels": rng.integers(c, size=n)} if more else {}
        return {"params": params, "x": rng.normal(size=(n, d)), **labels, **more}

    return make


CASES = (Case("5 images of 4 numbers, 7 hidden units, 3 classes, no penalty", _make(5, 4, 7, 3, reg=0.0),
              {5: "the number of images"}),
         Case("6 images, 5 hidden units, 4 classes, reg 0.3", _make(6, 3, 5, 4, reg=0.3), {6: "the number of images"}))


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))
    rng = np.random.Generator(np.random.PCG64(0))
    params = {"w1": 0.1 * rng.normal(size=(64, 32)), "b1": np.zeros(32), "w2": 0.1 * rng.normal(size=(32, 10)),
              "b2": np.zeros(10)}
    losses, train, val = [], [], []
    for step in range(900):
        rows = rng.integers(len(x), size=64)
        params, value = my.train_step(params, x[rows], y[rows], 1e-4, 0.5)
        losses.append((step, float(value)))
        if step % 30 == 29:
            train.append((step + 1, float((my.scores(params, x[:300]).argmax(axis=1) == y[:300]).mean())))
            val.append((step + 1, float((my.scores(params, xv).argmax(axis=1) == yv).mean())))
    share = val[-1][1]
    return Shown(
        "Your network of 64, 32 and 10 units, trained by your own steps on 1,200 of the built-in digits.",
        (Lines("Loss of each batch", "It begins near log 10 = 2.303.", "step", {"loss": losses}),
         Lines("Right answers", "On 300 images of the training set and on 300 others.", "step",
               {"training": train, "others": val}, True),
         Tiles("What the hidden units look for", "The columns of w1: red where ink wakes the unit, blue where it puts "
               "it "
               "to sleep.", [(str(k), params["w1"][:, k].reshape(8, 8)) for k in range(18)], signed=True)),
        (Fact("loss before the first step", f"{losses[0][1]:.3f}", "2.3, within 0.2", abs(losses[0][1] - 2.3) < 0.2),
         Fact("right on the 300 others", f"{share:.1%}", "at least 93%", share >= 0.93)))


LAB = Lab(
    name="two_layer_net", number=4, title="Two-layer network",
    teaches="backpropagation written out for one hidden layer", source="Stanford CS231n, assignment 1",
    parts=(
        Part(name="scores", outputs=("scores",), right=lambda params, x: _net(params).scores(x),
             cases=(Case("5 images, 7 hidden units, 3 classes", _make(5, 4, 7, 3)),),
             mistakes=(Mistake("The hidden layer is not rectified: max(0, ...)", partial(_scores, rectify=False)),
                       Mistake("The biases are missing", partial(_scores, biases=False)),
                       Mistake("The scores are rectified too: only the hidden layer is",
                               lambda p, x: np.maximum(_scores(p, x), 0)))),
        Part(name="loss", outputs=("loss", "grads"),
             right=lambda params, x, labels, reg: _net(params, reg).loss(x, labels), cases=CASES,
             mistakes=(
                 Mistake("The ReLU hands gradients on where it was 0: multiply by hidden > 0", partial(_loss,
                                                                                                       gate=False)),
                 Mistake("The gradient of w2 is taken with the layer before the ReLU, not with hidden",
                         partial(_loss, raw=True)),
                 Mistake("The gradients are not divided by N", partial(_loss, dtimes=True)),
                 Mistake("The gradient of a bias is the sum over images, not the mean: N is divided by already",
                         partial(_loss, mean=True)),
                 Mistake("The gradients lack that of the penalty: add reg * w", partial(_loss, slope=0.0)),
                 Mistake("The gradient of the penalty is doubled: with the 1/2 it is reg * w", partial(_loss,
                                                                                                       slope=2.0)),
                 Mistake("The 1/2 of the penalty is missing", partial(_loss, penalty=1.0)),
                 Mistake("The penalty is missing from the loss", partial(_loss, penalty=0.0)),
                 Mistake("The biases are penalised too: only the matrices are", partial(_loss, biased=True)))),
        Part(name="train_step", outputs=("params", "loss"), right=_step,
             cases=(Case("6 images, reg 0.3, lr 0.2", _make(6, 3, 5, 4, reg=0.3, lr=0.2)),),
             mistakes=(Mistake("It goes along the gradient, uphill: take lr * gradient off",
                               lambda p, x, y, reg, lr: (_step(p, x, y, reg, -lr)[0], None)),
                       Mistake("The learning rate is left out", lambda p, x, y, reg, lr: (_step(p, x, y, reg, 1.0)[0],
                                                                                         None)),
                       Mistake("The loss is that after the step: give the one before it", lambda p, x, y, reg, lr: (
                           None, _net(_step(p, x, y, reg, lr)[0], reg).loss(x, y)[0])))),
    ),
    draw=_draw)
