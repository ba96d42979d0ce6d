"""Lab update_rules: what is done with a gradient. Momentum, RMSProp, Adam.

Plain descent, w - lr dw, crawls along narrow valleys and bounces between their walls. Three cures that remember:

    momentum    v = momentum v - lr dw,   w + v             a ball that gathers speed, with friction
    RMSProp     s = decay s + (1 - decay) dw^2,   w - lr dw / (sqrt(s) + eps)
                                                            steep directions take smaller steps
    Adam        both at once: m = beta1 m + (1 - beta1) dw,   s = beta2 s + (1 - beta2) dw^2.
                Both start at 0 and are too small at first; at step t = 1, 2, ... they are divided by 1 - beta^t:
                w - lr (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps)

Each function is one step: it takes the weights, their gradient and what is remembered, and returns the new ones in new
arrays; what went in stays as it was. All arrays have the shape of w.

    visus lab check update_rules.py
    visus lab show update_rules.py

Source: Stanford CS231n, neural networks part 3 and assignment 2; Kingma and Ba 2014 (Adam); Tieleman and Hinton 2012.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "update_rules"


def sgd(w: np.ndarray, dw: np.ndarray, lr: float) -> np.ndarray:
    """Plain descent: the new weights."""
    raise NotWritten


def momentum(w: np.ndarray, dw: np.ndarray, velocity: np.ndarray, lr: float,
             friction: float) -> tuple[np.ndarray, np.ndarray]:
    """The new weights and the new velocity. friction: the factor on the old velocity, usually 0.9."""
    raise NotWritten


def rmsprop(w: np.ndarray, dw: np.ndarray, squares: np.ndarray, lr: float, decay: float,
            eps: float) -> tuple[np.ndarray, np.ndarray]:
    """The new weights and the new average of squares. decay: usually 0.99; eps: 1e-8, beside the root, not below it."""
    raise NotWritten


def adam(w: np.ndarray, dw: np.ndarray, mean: np.ndarray, squares: np.ndarray, t: int, lr: float, beta1: float,
         beta2: float, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The new weights, mean and squares. t: the number of this step, 1 for the first.

    Return mean and squares as they are averaged; only the step uses the corrected ones.
    """
    raise NotWritten
