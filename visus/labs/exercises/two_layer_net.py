"""Lab two_layer_net: a network with one hidden layer, forwards and backwards, every step on the page.

    hidden = max(0, x W1 + b1)        [N, H]
    scores = hidden W2 + b2           [N, C]
    loss   = mean of -log p_y  +  1/2 reg (sum of W1^2 + sum of W2^2)

p are the softmax of the scores. With the 1/2, the gradient of the penalty is just reg * W. Biases are not penalised.

Backwards you walk the same steps in reverse order. Of each product a gradient goes to both factors: of scores =
hidden W2 the gradient of W2 is hidden^T dscores, that of hidden is dscores W2^T. A hidden unit that is 0 hands
nothing on.

`params` is a dict with "w1" [D, H], "b1" [H], "w2" [H, C], "b2" [C]; gradients are a dict of the same names and shapes.

    visus lab check two_layer_net.py
    visus lab show two_layer_net.py

Source: Stanford CS231n, neural networks case study and assignment 1.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "two_layer_net"


def scores(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The scores [N, C] of images x [N, D]."""
    raise NotWritten


def loss(params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray,
         reg: float) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and the gradient of each parameter as a dict with the keys of params.

    labels: [N] right classes. Hints: the gradient of the scores is (p - y) / N, as in the lab softmax; the gradient
    of a bias is a sum over images. Take the largest score off before np.exp.
    """
    raise NotWritten


def train_step(params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray, reg: float,
               lr: float) -> tuple[dict[str, np.ndarray], float]:
    """One step of gradient descent: new parameters in a new dict (params stays as it was), and the loss before it."""
    raise NotWritten
