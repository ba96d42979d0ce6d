"""Further update rules by hand with a step size of its own for each number, as in `visus.foundations.update_rules`.

Each is written from its paper's equations, without the shortcuts of an optimizer that must be fast; the tests drive
each beside the optimizer of `visus train` on the same gradients. Where a rule takes a weight decay, it says where it
goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visus.foundations.update_rules import State


@dataclass
class Rprop:
    """Each number has its own step size, which grows by `up` while the gradient keeps its sign and shrinks by `down`
    when it turns; after a turn it rests once. Only signs count, so it wants whole batches. (Riedmiller, Braun 1993.)"""

    lr: float
    down: float = 0.5
    up: float = 1.2
    smallest: float = 1e-6
    largest: float = 50.0

    def start(self, w: np.ndarray) -> State:
        return {"sizes": np.full_like(w, self.lr), "last": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        turned = np.sign(dw * state["last"])
        factor = np.where(turned > 0, self.up, np.where(turned < 0, self.down, 1.0))
        state["sizes"] = np.clip(state["sizes"] * factor, self.smallest, self.largest)
        state["last"] = np.where(turned < 0, 0.0, dw)
        return w - state["sizes"] * np.sign(state["last"])


@dataclass
class AdaDelta:
    """w - lr dw sqrt(d + eps) / sqrt(s + eps): s averages dw^2, d the squares of the steps taken, so that the step has
    the units of w. (Zeiler 2012, Algorithm 1.)"""

    lr: float = 1.0
    decay: float = 0.9
    eps: float = 1e-6

    def start(self, w: np.ndarray) -> State:
        return {"squares": np.zeros_like(w), "steps": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["squares"] = self.decay * state["squares"] + (1 - self.decay) * dw**2
        move = dw * np.sqrt(state["steps"] + self.eps) / np.sqrt(state["squares"] + self.eps)
        state["steps"] = self.decay * state["steps"] + (1 - self.decay) * move**2
        return w - self.lr * move


@dataclass
class Adamax:
    """Adam with the largest recent |dw| in place of the root mean square: u = max(beta2 u, |dw| + eps), never corrected
    since a maximum has no bias to 0 of its own. (Kingma and Ba 2015, Algorithm 2; eps as in torch.)"""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "largest": np.zeros_like(w), "steps": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["steps"] += 1
        state["mean"] = self.beta1 * state["mean"] + (1 - self.beta1) * dw
        state["largest"] = np.maximum(self.beta2 * state["largest"], np.abs(dw) + self.eps)
        return w - self.lr / (1 - self.beta1 ** state["steps"]) * state["mean"] / state["largest"]


@dataclass
class NAdam:
    """Adam with Nesterov's look ahead: the next step's share of the mean and this step's gradient, each corrected by
    the product of the momenta so far; beta1 warms up as beta1 (1 - 0.5 0.96^(t psi)). (Dozat 2016, Algorithm 2.)"""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    psi: float = 0.004

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "squares": np.zeros_like(w), "steps": 0, "product": 1.0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["steps"] += 1
        t = state["steps"]
        now, after = (self.beta1 * (1 - 0.5 * 0.96 ** (k * self.psi)) for k in (t, t + 1))
        state["product"] *= now
        state["mean"] = self.beta1 * state["mean"] + (1 - self.beta1) * dw
        state["squares"] = self.beta2 * state["squares"] + (1 - self.beta2) * dw**2
        root = np.sqrt(state["squares"] / (1 - self.beta2**t)) + self.eps
        ahead = (1 - now) * dw / (1 - state["product"]) + after * state["mean"] / (1 - state["product"] * after)
        return w - self.lr * ahead / root


@dataclass
class RAdam:
    """Adam once enough gradients were seen for their variance to mean something (rho > 5), momentum before; then the
    step is scaled by the ratio of the variances. (Liu et al. 2020, Algorithm 2.)"""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "squares": np.zeros_like(w), "steps": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["steps"] += 1
        t = state["steps"]
        state["mean"] = self.beta1 * state["mean"] + (1 - self.beta1) * dw
        state["squares"] = self.beta2 * state["squares"] + (1 - self.beta2) * dw**2
        mean = state["mean"] / (1 - self.beta1**t)
        limit = 2 / (1 - self.beta2) - 1
        rho = limit - 2 * t * self.beta2**t / (1 - self.beta2**t)
        if rho <= 5:
            return w - self.lr * mean
        ratio = ((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) ** 0.5
        return w - self.lr * ratio * mean * (1 - self.beta2**t) ** 0.5 / (np.sqrt(state["squares"]) + self.eps)


@dataclass
class Lion:
    """w - lr (sign(beta1 m + (1 - beta1) dw) + weight_decay w), then m = beta2 m + (1 - beta2) dw. (Chen et al. 2023,
    Algorithm 2.)"""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        sign = np.sign(self.beta1 * state["mean"] + (1 - self.beta1) * dw)
        state["mean"] = self.beta2 * state["mean"] + (1 - self.beta2) * dw
        return w - self.lr * (sign + self.weight_decay * w)
