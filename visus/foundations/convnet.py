"""A three-layer convolutional network by hand, for the `Solver`: conv, ReLU, 2 x 2 max pooling, affine, ReLU, affine.

Source: Stanford CS231n, assignment 2, ThreeLayerConvNet.
"""

from __future__ import annotations

import numpy as np

from visus.core.errors import UserError
from visus.foundations import layers as L
from visus.foundations.convolution import same_padding
from visus.foundations.initialisers import kaiming_normal
from visus.foundations.sandwiches import (
    affine_relu_backward,
    affine_relu_forward,
    conv_relu_pool_backward,
    conv_relu_pool_forward,
)


class ThreeLayerConvNet:
    """The softmax loss plus an L2 penalty 1/2 reg |W|^2 on the three weights. Images [N, C, H, W], H and W even.

    kernel: odd, padded so that the maps keep their size; scale: the standard deviation of the weights, or None for
    sqrt(2 / fan_in).
    """

    def __init__(self, image: tuple[int, int, int], num_classes: int, *, rng: np.random.Generator, filters: int = 32,
                 kernel: int = 7, hidden: int = 100, scale: float | None = None, reg: float = 0.0):
        channels, h, w = image
        if h % 2 or w % 2:
            raise UserError(f"images of {h} x {w} pixels", where="ThreeLayerConvNet",
                            remedy="2 x 2 pooling takes even sizes")
        self.reg, self.padding = reg, same_padding(kernel)
        shapes = {"w1": (filters, channels, kernel, kernel), "w2": (filters * h * w // 4, hidden),
                  "w3": (hidden, num_classes)}
        self.params: dict[str, np.ndarray] = {}
        for name, shape in shapes.items():
            self.params[name] = kaiming_normal(rng, shape) if scale is None else scale * rng.standard_normal(shape)
            self.params["b" + name[1]] = np.zeros(shape[0] if name == "w1" else shape[1])

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[N, C, H, W] -> [N, classes]."""
        return self._forward(x)[0]

    def loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and the gradient of each parameter."""
        p, grads = self.params, {}
        scores, (conv, hidden, top) = self._forward(x)
        loss, dscores = L.softmax_loss(scores, labels)
        dout, grads["w3"], grads["b3"] = L.affine_backward(dscores, top)
        dout, grads["w2"], grads["b2"] = affine_relu_backward(dout, hidden)
        _, grads["w1"], grads["b1"] = conv_relu_pool_backward(dout, conv)
        for name in ("w1", "w2", "w3"):
            loss += 0.5 * self.reg * float((p[name] ** 2).sum())
            grads[name] = grads[name] + self.reg * p[name]
        return loss, grads

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[L.Cache, L.Cache, L.Cache]]:
        p = self.params
        out, conv = conv_relu_pool_forward(x, p["w1"], p["b1"], 1, self.padding)
        out, hidden = affine_relu_forward(out, p["w2"], p["b2"])
        scores, top = L.affine_forward(out, p["w3"], p["b3"])
        return scores, (conv, hidden, top)
