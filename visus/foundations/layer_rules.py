"""Update rules by hand that look at a layer's weights as a whole: by their length, or as a matrix.

Written from the papers' equations like `visus.foundations.adaptive_rules`, and tested in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visus.foundations.update_rules import State, adam_direction


@dataclass
class LARS:
    """v = momentum v + lr r (dw + weight_decay w); w - v; r = trust |w| / (|dw| + weight_decay |w|): a layer moves by a
    share of its size. Without weight decay r is 1. (You et al. 2017, Algorithm 1.)"""

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust: float = 0.02

    def start(self, w: np.ndarray) -> State:
        return {"velocity": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        size, slope = float(np.linalg.norm(w)), float(np.linalg.norm(dw))
        ratio = 1.0
        if self.weight_decay and size > 0 and slope > 0:
            ratio = self.trust * size / (slope + self.weight_decay * size)
        state["velocity"] = self.momentum * state["velocity"] + self.lr * ratio * (dw + self.weight_decay * w)
        return w - state["velocity"]


@dataclass
class LAMB:
    """Adam's direction u, to which weight_decay w is added, at the length lr |w|: w - lr |w| / |u| u. Without weight
    decay it is Adam. (You et al. 2020, Algorithm 2.)"""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w), "squares": np.zeros_like(w), "steps": 0}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        u = adam_direction(self, dw, state) + self.weight_decay * w
        size, length = np.linalg.norm(w), np.linalg.norm(u)
        return w - self.lr * (size / length if self.weight_decay and size > 0 and length > 0 else 1.0) * u


@dataclass
class Muon:
    """For a matrix w [R, C]: the momentum m = b m + (1 - b) dw, looked ahead, is made nearly orthogonal by five rounds
    of a s + b s^3 + c s^5 on its singular values s, done here on the singular values themselves; w then moves by
    lr 0.2 sqrt(max(R, C)) of it. (Jordan 2024; the size of the step: Liu et al. 2025.)"""

    lr: float
    momentum: float = 0.95
    weight_decay: float = 0.0

    def start(self, w: np.ndarray) -> State:
        return {"mean": np.zeros_like(w)}

    def step(self, w: np.ndarray, dw: np.ndarray, state: State) -> np.ndarray:
        state["mean"] = self.momentum * state["mean"] + (1 - self.momentum) * dw
        ahead = (1 - self.momentum) * dw + self.momentum * state["mean"]
        left, singular, right = np.linalg.svd(ahead, full_matrices=False)
        singular = singular / max(np.linalg.norm(ahead), 1e-7)
        for _ in range(5):
            singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
        size = 0.2 * np.sqrt(max(w.shape))
        return (1 - self.lr * self.weight_decay) * w - self.lr * size * (left * singular) @ right
