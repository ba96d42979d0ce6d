"""Lab fully_connected: a network of any depth, as a loop over layers.

Affine, ReLU, affine, ReLU, ..., affine, softmax loss: with modular layers a network is a list, its forward pass a loop
over it and its backward pass the same loop in reverse. Sizes are those of the layers: [64, 40, 40, 10] has two hidden
layers and the parameters w1 [64, 40], b1 [40], w2 [40, 40], b2 [40], w3 [40, 10], b3 [10].

    loss = mean of -log p_y  +  1/2 reg (sum of the squares of all matrices w)

How the weights begin matters more the deeper it is: too small, and the signal dies on its way; too large, and it
explodes. Normal numbers times sqrt(2 / fan_in) keep its size where half of the units are 0 (He et al. 2015).

You may use your layers of the lab layers, or those of visus.foundations.layers.

    visus lab check fully_connected.py
    visus lab show fully_connected.py

Source: Stanford CS231n, assignment 2 (fully-connected networks).
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "fully_connected"


def initialise(sizes: list[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters: w1, b1, w2, ... Biases are 0; w of layer i is sqrt(2 / fan_in) rng.standard_normal(its shape).

    Draw the matrices in their order, each with one call, so that your numbers can be compared.
    """
    raise NotWritten


def scores(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The scores [N, C] of images x [N, D], or of any shape [N, ...] that flattens to it. len(params) // 2 layers."""
    raise NotWritten


def loss(params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray,
         reg: float) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and the gradient of each parameter as a dict with the keys of params."""
    raise NotWritten
