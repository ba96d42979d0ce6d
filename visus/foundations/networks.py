"""Networks put together from `layers`: two layers written out, and any depth as a loop.

A network has `params` (name -> array), `scores(x)` for test time and `loss(x, labels)` for training, which gives the
loss and the gradient of each parameter under the same names. x: [N, ...], flattened; labels: [N] integers.

Source: Stanford CS231n, assignments 1 and 2.
"""

from __future__ import annotations

import numpy as np

from visus.core.errors import UserError
from visus.foundations import layers as L
from visus.foundations.initialisers import kaiming_normal, small_random


class TwoLayerNet:
    """affine, ReLU, affine, softmax loss, and an L2 penalty 1/2 reg |W|^2 on both matrices."""

    def __init__(self, in_features: int, hidden: int, num_classes: int, *, rng: np.random.Generator,
                 scale: float = 1e-3, reg: float = 0.0):
        self.reg = reg
        self.params = {"w1": small_random(rng, (in_features, hidden), scale), "b1": np.zeros(hidden),
                       "w2": small_random(rng, (hidden, num_classes), scale), "b2": np.zeros(num_classes)}

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[N, ...] -> [N, C]."""
        p = self.params
        hidden = np.maximum(x.reshape(len(x), -1) @ p["w1"] + p["b1"], 0)
        return hidden @ p["w2"] + p["b2"]

    def loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and its gradients, every step on the page."""
        p = self.params
        rows = x.reshape(len(x), -1)
        hidden = np.maximum(rows @ p["w1"] + p["b1"], 0)
        loss, dscores = L.softmax_loss(hidden @ p["w2"] + p["b2"], labels)
        loss += 0.5 * self.reg * float((p["w1"] ** 2).sum() + (p["w2"] ** 2).sum())
        dhidden = (dscores @ p["w2"].T) * (hidden > 0)
        return loss, {"w1": rows.T @ dhidden + self.reg * p["w1"], "b1": dhidden.sum(axis=0),
                      "w2": hidden.T @ dscores + self.reg * p["w2"], "b2": dscores.sum(axis=0)}


class FullyConnectedNet:
    """(affine, normalisation, ReLU, dropout) for each hidden size, then affine and the softmax loss.

    normalisation: None, "batch" or "layer", between affine and ReLU, with gamma and beta. keep: the probability that
    inverted dropout keeps a unit; 1 is none. reg: the L2 penalty 1/2 reg |W|^2 on the matrices.
    """

    def __init__(self, in_features: int, hidden: tuple[int, ...], num_classes: int, *, rng: np.random.Generator,
                 normalisation: str | None = None, keep: float = 1.0, reg: float = 0.0):
        if normalisation not in (None, "batch", "layer"):
            raise UserError(f"normalisation is {normalisation!r}", where="FullyConnectedNet",
                            remedy="It is None, 'batch' or 'layer'")
        if not 0 < keep <= 1:
            raise UserError(f"a keep probability of {keep}", where="FullyConnectedNet", remedy="It lies in (0, 1]")
        self.hidden, self.normalisation, self.keep, self.reg, self.rng = hidden, normalisation, keep, reg, rng
        sizes = (in_features, *hidden, num_classes)
        self.params: dict[str, np.ndarray] = {}
        for i in range(1, len(sizes)):
            self.params[f"w{i}"] = kaiming_normal(rng, (sizes[i - 1], sizes[i]))
            self.params[f"b{i}"] = np.zeros(sizes[i])
            if normalisation and i < len(sizes) - 1:
                self.params[f"gamma{i}"], self.params[f"beta{i}"] = np.ones(sizes[i]), np.zeros(sizes[i])
        self.running = [L.RunningStatistics.of(size) for size in hidden]

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[N, ...] -> [N, C], with running statistics and without dropout."""
        p = self.params
        for i in range(1, len(self.hidden) + 1):
            x, _ = L.affine_forward(x, p[f"w{i}"], p[f"b{i}"])
            if self.normalisation == "batch":
                x, _ = L.batchnorm_test(x, p[f"gamma{i}"], p[f"beta{i}"], self.running[i - 1])
            elif self.normalisation == "layer":
                x, _ = L.layernorm_forward(x, p[f"gamma{i}"], p[f"beta{i}"])
            x = L.inverted_dropout_test(np.maximum(x, 0))
        last = len(self.hidden) + 1
        return L.affine_forward(x, p[f"w{last}"], p[f"b{last}"])[0]

    def loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """One training pass forth and back: the loss and the gradient of every parameter."""
        p, last = self.params, len(self.hidden) + 1
        caches: list[tuple[L.Cache, L.Cache | None, L.Cache, L.Cache | None]] = []
        for i in range(1, last):
            x, affine = L.affine_forward(x, p[f"w{i}"], p[f"b{i}"])
            norm: L.Cache | None = None
            dropped: L.Cache | None = None
            if self.normalisation == "batch":
                x, norm = L.batchnorm_train(x, p[f"gamma{i}"], p[f"beta{i}"], self.running[i - 1])
            elif self.normalisation == "layer":
                x, norm = L.layernorm_forward(x, p[f"gamma{i}"], p[f"beta{i}"])
            x, active = L.relu_forward(x)
            if self.keep < 1:
                x, dropped = L.inverted_dropout_train(x, self.keep, self.rng)
            caches.append((affine, norm, active, dropped))
        scores, top = L.affine_forward(x, p[f"w{last}"], p[f"b{last}"])
        loss, dscores = L.softmax_loss(scores, labels)

        grads: dict[str, np.ndarray] = {}
        dx, grads[f"w{last}"], grads[f"b{last}"] = L.affine_backward(dscores, top)
        for i in range(last - 1, 0, -1):
            affine, norm, active, dropped = caches[i - 1]
            if dropped is not None:
                dx = L.dropout_backward(dx, dropped)
            dx = L.relu_backward(dx, active)
            if norm is not None:
                backward = L.batchnorm_backward if self.normalisation == "batch" else L.layernorm_backward
                dx, grads[f"gamma{i}"], grads[f"beta{i}"] = backward(dx, norm)
            dx, grads[f"w{i}"], grads[f"b{i}"] = L.affine_backward(dx, affine)
        for i in range(1, last + 1):
            loss += 0.5 * self.reg * float((p[f"w{i}"] ** 2).sum())
            grads[f"w{i}"] += self.reg * p[f"w{i}"]
        return loss, grads
