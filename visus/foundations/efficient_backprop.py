"""The heuristics of Efficient BackProp, one by one: a squashing function of the right size, targets within its reach,
inputs around zero, examples in random order.

Source: LeCun, Bottou, Orr, Mueller, Efficient BackProp, in Neural Networks: Tricks of the Trade, 1998, sections 4.1
(shuffling), 4.3 (inputs), 4.4 (the sigmoid), 4.5 (targets), 4.6 (initial weights). Their diagonal Levenberg-Marquardt
method is the optimizer `diagonal_lm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError

HEIGHT, SLOPE = 1.7159, 2 / 3
VARIANTS = ("all of it", "logistic", "inputs from 0 to 1", "sorted by class", "targets at the asymptotes")


def scaled_tanh(x: np.ndarray) -> np.ndarray:
    """1.7159 tanh(2 x / 3), any shape: +-1 at +-1, where its curvature is largest; of unit variance for inputs of unit
    variance, nearly."""
    return HEIGHT * np.tanh(SLOPE * x)


def scaled_tanh_backward(dout: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The gradient at the input from that at the output and the output itself."""
    return dout * SLOPE * (HEIGHT - out**2 / HEIGHT)


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def signed_targets(labels: np.ndarray, classes: int, high: float = 1.0) -> np.ndarray:
    """[N] -> [N, classes]: `high` for the class, -high for the rest. At 1 the scaled tanh bends most; at its asymptote,
    1.7159, the weights would have to grow without end."""
    found = np.full((len(labels), classes), -high)
    found[np.arange(len(labels)), labels] = high
    return found


def standardised(x: np.ndarray) -> np.ndarray:
    """[N, D] with mean 0 and variance 1 in each column; columns that never change become 0."""
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 1e-12, spread, np.inf)


def curvature_spread(x: np.ndarray) -> float:
    """The largest eigenvalue of X^T X / N against the mean of the positive ones: how much narrower than along its mean
    direction the ravine of a linear unit's squared error is. A mean that is not 0 makes one eigenvalue large (4.3)."""
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    kept = values[values > 1e-10 * values[-1]]
    return float(values[-1] / kept.mean())


@dataclass(frozen=True)
class Trial:
    """errors: share of the examples that are misclassified after each epoch, at `rate`, the best of those tried.
    reach: mean size of the sums that go into the output units at the end: far beyond 1 they are saturated."""

    name: str
    rate: float
    errors: tuple[float, ...]
    reach: float


def compare_tricks(images: np.ndarray, labels: np.ndarray, *, epochs: int = 4, hidden: int = 24,
                   rates: Sequence[float] = (0.003, 0.01, 0.03, 0.1, 0.3), seed: int = 0) -> list[Trial]:
    """One network of two layers, trained example by example on the squared error, with all heuristics and with each one
    turned round (`VARIANTS`); every variant has the same rates to choose from, by the mean error over its epochs.

    On a few hundred digits the error says at once what logistic units, inputs that are not centred and sorted examples
    cost. Targets at the asymptotes cost nothing there in so few epochs: what they do shows in `reach`.
    images: [N, D] in [0, 1]. labels: [N] from 0. Some seconds for a few hundred images. Raises UserError for shapes
    that do not fit.
    """
    if images.ndim != 2 or labels.shape != images.shape[:1] or not len(labels):
        raise UserError(f"images {images.shape} and labels {labels.shape} do not fit", remedy="Give [N, D] and [N]")
    found = []
    for name in VARIANTS:
        trials = [Trial(name, rate, *_train(name, images, labels, epochs, hidden, rate, seed)) for rate in rates]
        found.append(min(trials, key=lambda trial: (sum(trial.errors), trial.rate)))
    return found


def _train(name: str, images: np.ndarray, labels: np.ndarray, epochs: int, hidden: int, rate: float,
           seed: int) -> tuple[tuple[float, ...], float]:
    rng = np.random.default_rng(seed)
    x = images if name == "inputs from 0 to 1" else standardised(images)
    squash = logistic if name == "logistic" else scaled_tanh
    classes = int(labels.max()) + 1
    targets = signed_targets(labels, classes, HEIGHT if name == "targets at the asymptotes" else 1.0)
    if name == "logistic":
        targets = (targets + 1) / 2
    x = np.concatenate([x, np.ones((len(x), 1))], 1)  # the bias is a weight of a constant
    w1 = rng.normal(size=(x.shape[1], hidden)) / np.sqrt(x.shape[1])  # 4.6: sums of unit variance
    w2 = rng.normal(size=(hidden + 1, classes)) / np.sqrt(hidden + 1)
    errors = []
    for _ in range(epochs):
        order = np.argsort(labels, kind="stable") if name == "sorted by class" else rng.permutation(len(x))
        for k in order:
            h = squash(x[k] @ w1)
            inner = np.append(h, 1.0)
            y = squash(inner @ w2)
            dout = _slope(name, y - targets[k], y)
            dh = _slope(name, w2[:-1] @ dout, h)
            w2 = w2 - rate * np.outer(inner, dout)
            w1 = w1 - rate * np.outer(x[k], dh)
        h = squash(x @ w1)
        y = np.concatenate([h, np.ones((len(h), 1))], 1) @ w2
        errors.append(float((y.argmax(1) != labels).mean()))
    return tuple(errors), float(np.abs(y).mean())


def _slope(name: str, dout: np.ndarray, out: np.ndarray) -> np.ndarray:
    return dout * out * (1 - out) if name == "logistic" else scaled_tanh_backward(dout, out)
