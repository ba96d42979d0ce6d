"""Checks of the lab update_rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import update_rules as U
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Points, Shown

Array = np.ndarray


def _momentum(w: Array, dw: Array, velocity: Array, lr: float, friction: float) -> tuple[Array, Array]:
    state = {"velocity": velocity}
    new = U.Momentum(lr, friction).step(w, dw, state)
    return new, state["velocity"]


def _rmsprop(w: Array, dw: Array, squares: Array, lr: float, decay: float, eps: float, *, swapped: bool = False,
             square: bool = True, root: bool = True, inside: bool = False, old: bool = False) -> tuple[Array, Array]:
    """The right answer (see the foundations' RMSProp), or with its switches the mistakes."""
    a, b = (1 - decay, decay) if swapped else (decay, 1 - decay)
    new = a * squares + b * (dw ** 2 if square else dw)
    used = squares if old else new
    divisor = (np.sqrt(used + eps) if inside else np.sqrt(used) + eps) if root else used + eps
    return w - lr * dw / divisor, new


def _adam(w: Array, dw: Array, mean: Array, squares: Array, t: int, lr: float, beta1: float, beta2: float,
          eps: float) -> tuple[Array, Array, Array]:
    state: dict[str, Any] = {"mean": mean, "squares": squares, "steps": t - 1}
    new = U.Adam(lr, beta1, beta2, eps).step(w, dw, state)
    return new, state["mean"], state["squares"]


def _adam_wrong(w: Array, dw: Array, mean: Array, squares: Array, t: int, lr: float, beta1: float, beta2: float,
                eps: float, *, correct: bool = True, kept: bool = False, square: bool = True, late: int = 0,
                inside: bool = False, swapped: bool = False) -> tuple[Array, Array, Array]:
    b1, b2 = (1 - beta1, 1 - beta2) if swapped else (beta1, beta2)
    m, s = b1 * mean + (1 - b1) * dw, b2 * squares + (1 - b2) * (dw ** 2 if square else dw)
    mc, sc = (m / (1 - beta1 ** (t + late)), s / (1 - beta2 ** (t + late))) if correct else (m, s)
    divisor = np.sqrt(sc + eps) if inside else np.sqrt(sc) + eps
    return w - lr * mc / divisor, mc if kept else m, sc if kept else s


def _make(**numbers: float) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs: dict[str, Any] = {"w": rng.normal(size=(3, 4)), "dw": rng.normal(size=(3, 4))}
        for name, value in numbers.items():
            inputs[name] = value
            if name in ("velocity", "mean"):
                inputs[name] = rng.normal(size=(3, 4))
            if name == "squares":
                inputs[name] = rng.random((3, 4))
        return inputs

    return make


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y) = digits.train[0].reshape(-1, 64), digits.train[1]
    from visus.foundations.networks import FullyConnectedNet

    def train(step: Callable[..., Any]) -> Points:
        rng = np.random.Generator(np.random.PCG64(0))
        net = FullyConnectedNet(64, (40, 40), 10, rng=rng)
        memory = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in net.params.items()}
        losses = Points()
        for t in range(1, 241):
            rows = rng.integers(len(x), size=64)
            loss, grads = net.loss(x[rows], y[rows])
            losses.append((t, loss))
            for name, w in net.params.items():
                net.params[name], memory[name] = step(w, grads[name], memory[name], t)
        return losses

    lines = {
        "sgd": train(lambda w, dw, kept, t: (my.sgd(w, dw, 0.02), kept)),
        "momentum": train(lambda w, dw, kept, t: _keep(my.momentum(w, dw, kept[0], 0.02, 0.9))),
        "rmsprop": train(lambda w, dw, kept, t: _keep(my.rmsprop(w, dw, kept[0], 2e-3, 0.99, 1e-8))),
        "adam": train(lambda w, dw, kept, t: _keep(my.adam(w, dw, *kept, t, 3e-3, 0.9, 0.999, 1e-8)))}
    last = {name: float(np.mean([loss for _, loss in points[-30:]])) for name, points in lines.items()}
    return Shown(
        "The same network of 64, 40, 40 and 10 units, from the same weights, with the same batches of the built-in "
        "digits, moved by your four rules.",
        (Lines("Loss of each batch", "Rates: 0.02 for sgd and momentum, 0.002 for RMSProp, 0.003 for Adam.", "step",
               lines),),
        tuple(Fact(f"mean loss of the last 30 steps, {name}", f"{last[name]:.3f}", words, holds) for name, words,
              holds in (
            ("sgd", "the largest of the four", last["sgd"] == max(last.values())),
            ("momentum", "below 0.25", last["momentum"] < 0.25), ("rmsprop", "below 0.25", last["rmsprop"] < 0.25),
            ("adam", "below 0.25", last["adam"] < 0.25))))


def _keep(answer: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
    return answer[0], answer[1:]


RMS = {"squares": 0.0, "lr": 0.02, "decay": 0.9, "eps": 1e-3}
ADAM = {"mean": 0.0, "squares": 0.0, "t": 5, "lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
LAB = Lab(
    name="update_rules", number=9, title="Update rules", teaches="momentum, RMSProp and Adam, one step each",
    source="Stanford CS231n, assignment 2, Q1; Kingma and Ba 2014; Tieleman and Hinton 2012",
    parts=(
        Part(name="sgd", outputs=("w",), right=lambda w, dw, lr: w - lr * dw,
             cases=(Case("3 x 4 weights, lr 0.3", _make(lr=0.3)),),
             mistakes=(Mistake("It goes along the gradient, uphill: take lr * dw off", lambda w, dw, lr: w + lr * dw),
                       Mistake("The learning rate is left out", lambda w, dw, lr: w - dw))),
        Part(name="momentum", outputs=("w", "velocity"), right=_momentum,
             cases=(Case("3 x 4 weights, lr 0.1, friction 0.7", _make(velocity=0.0, lr=0.1, friction=0.7)),),
             mistakes=(
                 Mistake("The velocity goes uphill: v = friction v - lr dw, then w + v",
                         lambda w, dw, v, lr, f: (w + f * v + lr * dw, f * v + lr * dw)),
                 Mistake("The weights move by the old velocity: by the new one", lambda w, dw, v, lr, f: (w + v, None)),
                 Mistake("The velocity is taken off: with v = friction v - lr dw it is added",
                         lambda w, dw, v, lr, f: (w - (f * v - lr * dw), None)),
                 Mistake("The gradient is weighted by 1 - friction: here v = friction v - lr dw",
                         lambda w, dw, v, lr, f: (w + f * v - (1 - f) * lr * dw, f * v - (1 - f) * lr * dw)),
                 Mistake("The old velocity is forgotten: v = friction v - lr dw", lambda w, dw, v, lr, f: (
                     w - lr * dw, -lr * dw)),
                 Mistake("This is Nesterov's momentum, which looks ahead", lambda w, dw, v, lr, f: (
                     w - f * v + (1 + f) * (f * v - lr * dw), None)))),
        Part(name="rmsprop", outputs=("w", "squares"), right=_rmsprop,
             cases=(Case("3 x 4 weights, lr 0.02, decay 0.9, eps 0.001", _make(**RMS)),),
             mistakes=(
                 Mistake("decay and 1 - decay are swapped: the old average keeps decay", partial(_rmsprop,
                                                                                                 swapped=True)),
                 Mistake("The gradient is not squared in the average", partial(_rmsprop, square=False)),
                 Mistake("The root is missing: divide by sqrt(s) + eps", partial(_rmsprop, root=False)),
                 Mistake("eps lies below the root: sqrt(s) + eps", partial(_rmsprop, inside=True)),
                 Mistake("The step divides by the old average: by the new one", partial(_rmsprop, old=True)),
                 Mistake("All squares are added up: that is AdaGrad, whose steps shrink for ever",
                         lambda w, dw, s, lr, decay, eps: (w - lr * dw / (np.sqrt(s + dw ** 2) + eps), s + dw ** 2)))),
        Part(name="adam", outputs=("w", "mean", "squares"), right=_adam,
             cases=(Case("3 x 4 weights, step 5", _make(**ADAM)), Case("step 1", _make(**(ADAM | {"t": 1})))),
             mistakes=(
                 Mistake("The correction by 1 - beta^t is missing", partial(_adam_wrong, correct=False)),
                 Mistake("The corrected averages are returned: return them as averaged", partial(_adam_wrong,
                                                                                                 kept=True)),
                 Mistake("t counts from 1, as it is given: not t + 1", partial(_adam_wrong, late=1)),
                 Mistake("The gradient is not squared in the second average", partial(_adam_wrong, square=False)),
                 Mistake("eps lies below the root: sqrt(s) + eps", partial(_adam_wrong, inside=True)),
                 Mistake("beta and 1 - beta are swapped: the old averages keep beta", partial(_adam_wrong,
                                                                                              swapped=True)))),
    ),
    draw=_draw)
