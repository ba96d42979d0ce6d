"""What is done with a gradient: each rule is a small class with its numbers, `start` and `step`.

    rule = Momentum(lr=0.1)
    state = rule.start(w)
    w = rule.step(w, dw, state)          # a new array; `state` holds what the rule remembers

`step` updates the arrays of `state` and returns the new weights; w and dw are left as they were, of any equal shape.

Sources: Polyak 1964 (momentum); Nesterov 1983; Sutskever et al. 2013; Bengio et al. 2012, arXiv:1212.0901; Duchi et
al. 2011 (AdaGrad); Tieleman and Hinton 2012 (RMSProp); Kingma and Ba 2014, arXiv:1412.6980 (Adam); Loshchilov and
Hutter 2017, arXiv:1711.05101 (AdamW). The conventions are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

State = dict[str, Any]


class UpdateRule(Protocol):
    """What the solver asks of a rule."""

    lr: float

    def start(self, w: np.ndarray) -> State: ...

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray: ...


@dataclass
class SGD:
    """w - lr dw."""

    lr: float

    def start(self, w: np.ndarray) -> State:
        return {}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        return w - self.lr * dw


@dataclass
class Momentum:
    """v = momentum v - lr dw; w + v: a ball with friction that rolls on through small bumps."""

    lr: float
    momentum: float = 0.9

    def start(self, w: np.ndarray) -> State:
        return {"velocity": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["velocity"] = self.momentum * state["velocity"] - self.lr * dw
        return w + state["velocity"]


@dataclass
class Nesterov:
    """Nesterov momentum in variables of the point ahead, u = w + momentum v, where the gradient is taken.

    v' = momentum v - lr dw(u); u' = u - momentum v + (1 + momentum) v'. It needs the gradient at the current variables
    only, and so fits where `Momentum` does. The weights it holds are the points ahead of `nesterov_lookahead`.
    """

    lr: float
    momentum: float = 0.9

    def start(self, w: np.ndarray) -> State:
        return {"velocity": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        old = state["velocity"]
        state["velocity"] = self.momentum * old - self.lr * dw
        return w - self.momentum * old + (1 + self.momentum) * state["velocity"]


def nesterov_lookahead(w: np.ndarray, velocity: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], *,
                       lr: float, momentum: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Nesterov momentum as first written: look ahead, take the gradient there, then step. Returns w and velocity.

    v' = momentum v - lr gradient(w + momentum v); w' = w + v'.
    """
    velocity = momentum * velocity - lr * gradient(w + momentum * velocity)
    return w + velocity, velocity


@dataclass
class AveragedSGD:
    """w = w - r dw with r = lr / (1 + rate_decay lr t)^power; state["average"] is the plain mean of the weights from
    step `begin` on, and is what one uses. (Polyak and Juditsky 1992; Bottou 2012, section 5.3.)"""

    lr: float
    rate_decay: float = 0.0
    power: float = 0.75
    begin: int = 100

    def start(self, w: np.ndarray) -> State:
        return {"average": w.copy(), "steps": 0, "kept": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        w = w - self.lr * (1 + self.rate_decay * self.lr * state["steps"]) ** -self.power * dw
        state["steps"] += 1
        state["kept"] = max(1, state["steps"] - self.begin)
        state["average"] = state["average"] + (w - state["average"]) / state["kept"]
        return w


@dataclass
class AdaGrad:
    """w - lr dw / (sqrt(sum of all dw^2) + eps): steep directions take smaller steps, for ever smaller."""

    lr: float
    eps: float = 1e-10

    def start(self, w: np.ndarray) -> State:
        return {"squares": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["squares"] = state["squares"] + dw ** 2
        return w - self.lr * dw / (np.sqrt(state["squares"]) + self.eps)


@dataclass
class RMSProp:
    """AdaGrad that forgets: a decaying average of dw^2 in place of their sum."""

    lr: float
    decay: float = 0.99
    eps: float = 1e-8

    def start(self, w: np.ndarray) -> State:
        return {"squares": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["squares"] = self.decay * state["squares"] + (1 - self.decay) * dw ** 2
        return w - self.lr * dw / (np.sqrt(state["squares"]) + self.eps)


@dataclass
class Adam:
    """Averages m of dw and s of dw^2, each divided by 1 - beta^t since they start at 0: w - lr m / (sqrt s + eps).

    `weight_decay` is the L2 penalty: it joins the gradient, and is then scaled by the adaptive step like the rest.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "squares": np.zeros_like(w), "steps": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        return w - self.lr * adam_direction(self, dw + self.weight_decay * w, state)


@dataclass
class AdamW:
    """Adam whose weight decay stands beside the adaptive step: (1 - lr weight_decay) w - lr m / (sqrt s + eps)."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "squares": np.zeros_like(w), "steps": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        return (1 - self.lr * self.weight_decay) * w - self.lr * adam_direction(self, dw, state)


class AdamNumbers(Protocol):
    """What Adam's direction is made with."""

    beta1: float
    beta2: float
    eps: float


def adam_direction(rule: AdamNumbers, dw: np.ndarray, state: State) -> np.ndarray:
    """m / (sqrt s + eps), both corrected for their start at 0; `state` takes this gradient in."""
    state["steps"] += 1
    state["mean"] = rule.beta1 * state["mean"] + (1 - rule.beta1) * dw
    state["squares"] = rule.beta2 * state["squares"] + (1 - rule.beta2) * dw ** 2
    mean = state["mean"] / (1 - rule.beta1 ** state["steps"])
    squares = state["squares"] / (1 - rule.beta2 ** state["steps"])
    return mean / (np.sqrt(squares) + rule.eps)
