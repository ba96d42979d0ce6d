"""Checks of the lab batchnorm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Pace, Part, Shown

Array = np.ndarray


def _forward(x: Array, gamma: Array, beta: Array, eps: float, *, axis: int = 0, ddof: int = 0, outside: bool = False,
             root: bool = True) -> Array:
    """The right answer, or with its switches the mistakes."""
    mean, var = x.mean(axis=axis, keepdims=True), x.var(axis=axis, ddof=ddof, keepdims=True)
    divisor = (np.sqrt(var) + eps if outside else np.sqrt(var + eps)) if root else var + eps
    return gamma * (x - mean) / divisor + beta


def _gradients(x: Array, gamma: Array, beta: Array, eps: float, dout: Array) -> tuple[Any, ...]:
    running = L.RunningStatistics.of(x.shape[1])
    return L.batchnorm_backward(dout, L.batchnorm_train(x, gamma, beta, running, eps)[1])


def _wrong(x: Array, gamma: Array, beta: Array, eps: float, dout: Array, *, g_mean: float = 1.0, along: float = 1.0,
           std: bool = True, scale: bool = True) -> tuple[Any, ...]:
    """dx with a part of it left out."""
    s = np.sqrt(x.var(axis=0) + eps)
    z, g = (x - x.mean(axis=0)) / s, dout * (gamma if scale else 1)
    return (g - g_mean * g.mean(axis=0) - along * z * (g * z).mean(axis=0)) / (s if std else 1), None, None


def _running(x: Array, mean: Array, var: Array, momentum: float, *, swapped: bool = False, biased: bool = False,
             std: bool = False) -> tuple[Array, Array]:
    keep = momentum if swapped else 1 - momentum
    batch_var = x.var(axis=0, ddof=0 if biased else 1)
    return (keep * mean + (1 - keep) * x.mean(axis=0),
            keep * var + (1 - keep) * (np.sqrt(batch_var) if std else batch_var))


def _test(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> Array:
    return L.batchnorm_test(x, gamma, beta, L.RunningStatistics(mean, var), eps)[0]


def _make(n: int, d: int, kind: str) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        x: Inputs = {"x": rng.normal(1.0, 2.0, size=(n, d))}
        scale = {"gamma": rng.normal(size=d), "beta": rng.normal(size=d)}
        running = {"running_mean": rng.normal(size=d), "running_var": 0.5 + rng.random(d)}
        more: dict[str, Inputs] = {
            "train": {**scale, "eps": 0.1}, "back": {**scale, "eps": 0.1, "dout": rng.normal(size=(n, d))},
            "running": {**running, "momentum": 0.1}, "test": {**scale, **running, "eps": 0.1}}
        return x | more[kind]

    return make


BACK = (Case("5 images of 4 features, eps 0.1", _make(5, 4, "back"), {5: "the number of images"}),
        Case("4 images of 4 features", _make(4, 4, "back"), {4: "the number of images"}))
MISTAKES = (
    Mistake("The way through the mean is missing: x enters it, too (the term mean(g))", partial(_wrong, g_mean=0.0)),
    Mistake("The way through the variance is missing: the batch's var depends on x (the term z mean(g z))",
            partial(_wrong, along=0.0)),
    Mistake("Only the direct way is there: x also enters the mean and the variance",
            partial(_wrong, g_mean=0.0, along=0.0)),
    Mistake("It is not divided by sqrt(var + eps)", partial(_wrong, std=False)),
    Mistake("gamma is left out of dx: g = dout gamma", partial(_wrong, scale=False)),
    Mistake("The slope of var's square is 2 (x - mean): the factor 2 is missing", partial(_wrong, along=0.5)),
    Mistake("dgamma is taken with x, not with the normalised z", lambda x, gamma, beta, eps, dout: (
        None, (dout * x).sum(axis=0), None)),
    Mistake("dgamma is the mean over images, not the sum", lambda x, gamma, beta, eps, dout: (
        None, _gradients(x, gamma, beta, eps, dout)[1] / len(x), None)),
    Mistake("dbeta is the mean over images, not the sum", lambda x, gamma, beta, eps, dout: (
        None, None, dout.mean(axis=0))),
)


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y) = digits.train[0].reshape(-1, 64), digits.train[1]
    rng = np.random.Generator(np.random.PCG64(0))
    signal, plain, stds, plains, pictures = x[:256], x[:256], [], [], []
    for depth in range(1, 9):
        w = 0.05 * rng.normal(size=(64, 64))
        plain = np.maximum(plain @ w, 0)
        normed = my.batchnorm_train(signal @ w, np.ones(64), np.zeros(64), 1e-5)[0]
        signal = np.maximum(normed, 0)
        stds.append((depth, float(signal.std())))
        plains.append((depth, max(float(plain.std()), 1e-12)))
        counts = np.histogram(normed, bins=32, range=(-4, 4))[0]
        if depth in (1, 4, 8):
            pictures.append((f"layer {depth}", list(zip(np.linspace(-4, 4, 32).tolist(),
                                                        (counts / counts.sum()).tolist(),
                                                        strict=True))))
    losses: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    for name in losses:
        rng = np.random.Generator(np.random.PCG64(1))
        w1, w2 = 0.02 * rng.normal(size=(64, 40)), 0.02 * rng.normal(size=(40, 10))
        gamma, beta = np.ones(40), np.zeros(40)
        for step in range(200):
            rows = rng.integers(len(x), size=64)
            a = x[rows] @ w1
            h, cache = my.batchnorm_train(a, gamma, beta, 1e-5) if name == "with" else (a, ())
            hidden = np.maximum(h, 0)
            loss, ds = L.softmax_loss(hidden @ w2, y[rows])
            losses[name].append((step, loss))
            dh = ds @ w2.T * (h > 0)
            da, dgamma, dbeta = my.backward_simplified(dh, cache) if name == "with" else (dh, 0.0, 0.0)
            w1, w2 = w1 - 0.5 * x[rows].T @ da, w2 - 0.5 * hidden.T @ ds
            gamma, beta = gamma - 0.5 * dgamma, beta - 0.5 * dbeta
    ends = {name: float(np.mean([v for _, v in line[-20:]])) for name, line in losses.items()}
    return Shown(
        "Weights that are too small, with and without your normalisation: what reaches eight layers, and how a network "
        "learns from there.",
        (Lines("Spread of the activations by layer", "Standard deviation after the ReLU of layers with weights of "
               "0.05.",
               "layer", {"with your batch norm": stds, "without": plains}),
         Lines("Distribution of what your layer gives", "Before the ReLU, in three of the layers: each has mean 0 and "
               "variance 1.", "value", dict(pictures)),
         Lines("Loss of each batch", "Two layers from weights of 0.02, the same batches.", "step",
               {f"{name} batch norm": line for name, line in losses.items()})),
        (Fact("spread after layer 8, with", f"{stds[-1][1]:.3f}", "0.5 to 0.65: half of a normal distribution",
              0.5 < stds[-1][1] < 0.65),
         Fact("spread after layer 8, without", f"{plains[-1][1]:.1e}", "below 0.01", plains[-1][1] < 0.01),
         Fact("mean loss of the last 20 steps, with and without", f"{ends['with']:.3f}, {ends['without']:.3f}",
              "smaller with it", ends["with"] < ends["without"])))


def _part(name: str) -> Part:
    return Part(name=name, outputs=("dx", "dgamma", "dbeta"), forward="batchnorm_train", right=_gradients, cases=BACK,
                mistakes=MISTAKES, pace=Pace(_make(2000, 100, "back"),
                                             "backward_staged" if name == "backward_simplified" else None))


LAB = Lab(
    name="batchnorm", number=10, title="Batch normalisation", teaches="train and test, backwards in stages and closed",
    source="Ioffe and Szegedy 2015; Stanford CS231n, assignment 2, Q2",
    parts=(
        Part(name="batchnorm_train", outputs=("out",), cached=True,
             right=lambda x, gamma, beta, eps: L.batchnorm_train(x, gamma, beta, L.RunningStatistics.of(x.shape[1]),
                                                                 eps)[0],
             cases=(Case("5 images of 4 features, eps 0.1", _make(5, 4, "train")),
                    Case("4 images of 4 features", _make(4, 4, "train"))),
             mistakes=(Mistake("It is normalised along axis 1, over features: that is layer norm; a batch is axis 0",
                               partial(_forward, axis=1)),
                       Mistake("The variance is taken over N - 1: over N here", partial(_forward, ddof=1)),
                       Mistake("eps is added outside of the root: sqrt(var + eps)", partial(_forward, outside=True)),
                       Mistake("It is divided by the variance: by its root", partial(_forward, root=False)),
                       Mistake("gamma is left out", lambda x, g, b, eps: _forward(x, np.ones_like(g), b, eps)),
                       Mistake("beta is left out", lambda x, g, b, eps: _forward(x, g, np.zeros_like(b), eps)))),
        Part(name="running_averages", outputs=("running_mean", "running_var"), right=_running,
             cases=(Case("5 images of 4 features, momentum 0.1", _make(5, 4, "running")),
                    Case("4 images of 4 features", _make(4, 4, "running"))),
             mistakes=(Mistake("The momentum is swapped: here 0.1 is the weight of the new batch",
                               partial(_running, swapped=True)),
                       Mistake("The variance is the biased one: for the running average times N / (N - 1)",
                               partial(_running, biased=True)),
                       Mistake("The standard deviation is averaged, not the variance", partial(_running, std=True)),
                       Mistake("It holds the batch's own values, without the old average", lambda x, m, v, k: (
                           x.mean(axis=0), x.var(axis=0, ddof=1))))),
        Part(name="batchnorm_test", outputs=("out",), right=_test,
             cases=(Case("5 images of 4 features", _make(5, 4, "test")), Case("1 image", _make(1, 4, "test"))),
             mistakes=(Mistake("It uses the statistics of the batch: at test time the running ones",
                               lambda x, g, b, m, v, eps: _forward(x, g, b, eps)),
                       Mistake("It is divided by the variance: by its root",
                               lambda x, g, b, m, v, eps: g * (x - m) / (v + eps) + b),
                       Mistake("eps is left out", lambda x, g, b, m, v, eps: g * (x - m) / np.sqrt(v) + b),
                       Mistake("The running mean is not taken off", lambda x, g, b, m, v, eps:
                               g * x / np.sqrt(v + eps) + b))),
        _part("backward_staged"),
        _part("backward_simplified"),
    ),
    draw=_draw)
