"""Gradients are products over the layers: factors below one vanish, factors above one explode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visus.foundations import layers as L
from visus.foundations import recurrent as R
from visus.foundations.initialisers import orthogonal
from visus.report.demo import Drawing, Shown, Table, above, below, near
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "gradient norms by depth: sigmoid, tanh and ReLU nets, and recurrent nets over time"
SOURCE = ("Bengio, Simard, Frasconi, IEEE Trans. Neural Networks 5 (1994); Glorot, Bengio, AISTATS 2010; Pascanu, "
          "Mikolov, Bengio, arXiv:1211.5063; Stanford CS224d, vanishing gradients")

DEPTH, WIDTH, BATCH, STEPS = 20, 64, 64, 40
NETS = {  # name: (forward, backward, spread of the weights times sqrt(width))
    "sigmoid": (L.sigmoid_forward, L.sigmoid_backward, 1.0),
    "tanh": (L.tanh_forward, L.tanh_backward, 1.0),
    "ReLU, weights 1/sqrt(n)": (L.relu_forward, L.relu_backward, 1.0),
    "ReLU, weights sqrt(2/n)": (L.relu_forward, L.relu_backward, 2**0.5),
    "ReLU, weights 2/sqrt(n)": (L.relu_forward, L.relu_backward, 2.0),
}


def make(seed: int, advance: Tell) -> Shown:
    norms = {}
    for done, (name, (forward, backward, scale)) in enumerate(NETS.items(), 1):
        norms[name] = _norms(np.random.default_rng(seed), forward, backward, scale)
        advance(done, len(NETS) + 1)
    rng = np.random.default_rng(seed + 1)
    turning = orthogonal(rng, (32, 32))
    over_time = {f"singular values {s:g}": _through_time(rng, s * turning) for s in (0.8, 1.0, 1.2)}
    cell = _cell()
    advance(len(NETS) + 1, len(NETS) + 1)

    def factor(name: str) -> float:
        """The mean factor from one layer to the one below."""
        return float((norms[name][0] / norms[name][-1]) ** (1 / (DEPTH - 1)))

    slopes = L.sigmoid_backward(np.ones(100_001), L.sigmoid_forward(np.linspace(-10, 10, 100_001))[1])
    worst = max(float(norms["sigmoid"][i] / norms["sigmoid"][i + 1]) for i in range(DEPTH - 1))
    facts = [
        near("largest slope of the sigmoid", float(slopes.max()), 0.25, 1e-9),
        below("sigmoid: mean factor from a layer to the one below", factor("sigmoid"), 0.25),
        below(f"sigmoid: gradient of the first of {DEPTH} layers, of that of the last",
              float(norms["sigmoid"][0] / norms["sigmoid"][-1]), 0.25 ** (DEPTH - 1)),
        below("sigmoid: the largest of the factors", worst, 0.5),
        near("ReLU with weights of variance 1/n: mean factor, sqrt(1/2)", factor("ReLU, weights 1/sqrt(n)"), 0.5**0.5,
             0.07),
        near("ReLU with weights of variance 2/n (Kaiming): mean factor", factor("ReLU, weights sqrt(2/n)"), 1.0, 0.1),
        near("ReLU with weights of variance 4/n: mean factor, sqrt(2)", factor("ReLU, weights 2/sqrt(n)"), 2**0.5,
             0.14),
        above("and the first layer's gradient, of that of the last",
              float(norms["ReLU, weights 2/sqrt(n)"][0] / norms["ReLU, weights 2/sqrt(n)"][-1]), 50.0),
        near(f"recurrent, singular values 0.8: gradient after {STEPS} steps back, of 0.8^{STEPS}",
             over_time["singular values 0.8"][-1] / 0.8**STEPS, 1.0, 1e-6),
        near(f"singular values 1 (orthogonal): after {STEPS} steps", over_time["singular values 1"][-1], 1.0, 1e-6),
        near(f"singular values 1.2: after {STEPS} steps, of 1.2^{STEPS}",
             over_time["singular values 1.2"][-1] / 1.2**STEPS, 1.0, 1e-6),
        near(f"LSTM with its forget gate open: gradient of the cell after {STEPS} steps", cell[-1], 1.0, 1e-3),
    ]
    deep = [(name, [(i + 1.0, float(value)) for i, value in enumerate(norm)]) for name, norm in norms.items()]
    time = [(name, [(float(t), float(value)) for t, value in enumerate(norm)])
            for name, norm in [*over_time.items(), ("LSTM cell, forget gate open", cell)]]
    table = Table("Mean factor on the gradient by one layer", ["network", "factor", f"through {DEPTH} layers"], [
        [name, f"{factor(name):.3f}", f"{norms[name][0] / norms[name][-1]:.2g}"] for name in NETS])
    return Shown(
        "Vanishing and exploding gradients",
        "On its way back, the gradient is multiplied at each layer by the layer's weights and by the slopes of its "
        "activations. The slope of a sigmoid is at most 1/4: with weights that keep the signal, the lower layers of a "
        "deep sigmoid net hear almost nothing. A ReLU has slope 1 where it is on; half of it is off, which Kaiming's "
        "factor of 2 makes up for.\n\n"
        "In time it is the same: a recurrent net multiplies by one and the same matrix at every step, so that its "
        "singular values decide. An LSTM adds to its cell instead of multiplying it.",
        [Drawing(plot(deep, x_label="layer, 1 is next to the images", y_label="norm of the gradient at its sums",
                      log_y=True, title="Gradient norm by layer"),
                 f"{DEPTH} layers of {WIDTH} units, before training. A constant factor is a straight line here.",
                 "By depth", wide=True),
         Drawing(plot(time, x_label="steps back in time", y_label="norm of the gradient", log_y=True, width=520,
                      title="Gradient norm through time"),
                 "A recurrent net around zero, where tanh is straight; its gradient is the singular value to the power "
                 "of the steps.", "By time")], facts, [table])


def _norms(rng: np.random.Generator, forward: Callable, backward: Callable, scale: float) -> np.ndarray:
    """The norm of the gradient at each layer's sums, first layer first, for a random loss gradient at the top."""
    h = rng.standard_normal((BATCH, WIDTH))
    caches = []
    for _ in range(DEPTH):
        w = scale / WIDTH**0.5 * rng.standard_normal((WIDTH, WIDTH))
        z, affine = L.affine_forward(h, w, np.zeros(WIDTH))
        h, active = forward(z)
        caches.append((affine, active))
    d = rng.standard_normal(h.shape) / BATCH
    norms = []
    for affine, active in reversed(caches):
        d = backward(d, active)
        norms.append(float(np.linalg.norm(d)))
        d, _, _ = L.affine_backward(d, affine)
    return np.array(norms[::-1])


def _through_time(rng: np.random.Generator, wh: np.ndarray) -> list[float]:
    """The norm of the gradient at each earlier state, of that at the last."""
    size = len(wh)
    d, norms = rng.standard_normal((1, size)), []
    for _ in range(STEPS + 1):
        norms.append(float(np.linalg.norm(d)))
        _, cache = R.rnn_step_forward(np.zeros((1, 1)), np.zeros((1, size)), np.zeros((1, size)), wh, np.zeros(size))
        _, d, _ = R.rnn_step_backward(d, cache)
    return [norm / norms[0] for norm in norms]


def _cell(size: int = 8) -> list[float]:
    b = np.concatenate([np.zeros(size), np.full(size, 12.0), np.zeros(2 * size)])  # the second quarter is forget
    d, norms, zero = np.ones((1, size)), [], np.zeros((1, size))
    for _ in range(STEPS + 1):
        norms.append(float(np.linalg.norm(d)))
        *_, cache = R.lstm_step_forward(np.zeros((1, 1)), zero, zero, np.zeros((1, 4 * size)),
                                        np.zeros((size, 4 * size)), b)
        d = R.lstm_step_backward(zero, d, cache)[2]
    return [norm / norms[0] for norm in norms]
