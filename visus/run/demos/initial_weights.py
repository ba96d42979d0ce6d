"""How a network starts: too small, too large, all equal, or dead; and what keeps the signal alive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from visus.foundations.initialisers import kaiming_normal, small_random, xavier_normal
from visus.foundations.networks import TwoLayerNet
from visus.foundations.solver import Solver, accuracy
from visus.foundations.update_rules import SGD
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, above, below, near, same
from visus.report.plane import beside
from visus.report.sketch import edge, plot, words
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "weight scales, the symmetry of equal weights, saturated tanhs and dead ReLUs"
SOURCE = ("Glorot, Bengio, AISTATS 2010; He et al., arXiv:1502.01852; Maas et al., ICML 2013 (dead units); Stanford "
          "CS231n, Neural Networks Part 2")

LAYERS, WIDTH = 10, 256
Start = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
STARTS: dict[str, tuple[Start, Callable[[np.ndarray], np.ndarray]]] = {
    "tanh, 0.01": (small_random, np.tanh),
    "tanh, 1": (lambda rng, shape: small_random(rng, shape, 1.0), np.tanh),
    "tanh, Xavier": (xavier_normal, np.tanh),
    "ReLU, Xavier": (xavier_normal, lambda x: np.maximum(x, 0)),
    "ReLU, Kaiming": (kaiming_normal, lambda x: np.maximum(x, 0)),
}


def make(seed: int, advance: Tell) -> Shown:
    spreads, signals = {}, {}
    for done, (name, (start, squash)) in enumerate(STARTS.items(), 1):
        signals[name] = _signals(np.random.default_rng(seed), start, squash)
        spreads[name] = [float(np.sqrt((h**2).mean())) for h in signals[name]]
        advance(done, 8)
    saturated = float((np.abs(signals["tanh, 1"][-1]) > 0.99).mean())
    equal = _symmetry(seed)
    advance(6, 8)
    before, after, healthy = _dead(seed)
    advance(8, 8)

    facts = [
        below("tanh, weights of 0.01: size of the signal after 10 layers", spreads["tanh, 0.01"][-1], 1e-6),
        above("tanh, weights of 1: share of the last layer beyond 0.99, where the slope is below 0.02", saturated, 0.8),
        above("tanh, Xavier: size of the signal after 10 layers", spreads["tanh, Xavier"][-1], 0.2),
        below("ReLU, Xavier: half of the power is lost at each layer, 2^-5 of the size after 10",
              spreads["ReLU, Xavier"][-1], 2.0**-4),
        near("ReLU, Kaiming: size of the signal after 10 layers", spreads["ReLU, Kaiming"][-1],
             spreads["ReLU, Kaiming"][0], 0.35),
        below("all weights 0.1, trained: largest difference between two of the 16 hidden units",
              equal["all equal"][1], 1e-12),
        below("right answers on a disc in a ring, 16 equal units, which are one", equal["all equal"][0], 0.8),
        above("right answers, 16 random units", equal["random"][0], 0.95),
        same("all weights zero: the gradient of the first matrix is zero for ever", equal["all zero"][1], 0.0),
        below("dead ReLUs before training: share of units that no example turns on", before, 0.05),
        above("after 100 steps with a learning rate of 30", after, 0.3),
        below("after 100 steps with a learning rate of 0.5", healthy, 0.1),
    ]
    curves = [(name, [(k + 1.0, max(s, 1e-12)) for k, s in enumerate(spread)]) for name, spread in spreads.items()]
    drawn = [_histogram(name, signals[name]) for name in ("tanh, 0.01", "tanh, 1", "tanh, Xavier")]
    return Shown(
        "How a network starts: weight scale, symmetry, dead units",
        "A layer sums n products of weights and inputs: its variance is n times that of a weight. Weights that are too "
        "small lose the signal from layer to layer, and the gradient with it; weights that are too large drive a tanh "
        "into its flat ends, where the slope is almost 0. 1/n (Xavier) keeps the variance, 2/n (Kaiming) makes up for "
        "the half that a ReLU sets to zero.\n\nEqual weights stay equal: every hidden unit computes the same, gets the "
        "same gradient, and a layer of 16 is a layer of one. And a ReLU that no example turns on has gradient zero: it "
        "is dead, and one large step can do it.",
        [Drawing(plot(curves, x_label="layer", y_label="root mean square of the activations", log_y=True,
                      title="Size of the signal by layer"),
                 f"{LAYERS} layers of {WIDTH} units, before training, inputs of variance 1.", "Size of the signal"),
         Drawing(beside(drawn, 250, 190, columns=3, title="Activations by layer"),
                 "Histograms of what each tanh layer gives, first layer at the top. Weights of 0.01: all near zero. "
                 "Weights of 1: all at -1 and 1. Xavier: alive in every layer.", "What the layers hold", wide=True)],
        facts)


def _signals(rng: np.random.Generator, start: Start, squash: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    h, found = rng.standard_normal((200, WIDTH)), []
    for _ in range(LAYERS):
        h = squash(h @ start(rng, (WIDTH, WIDTH)))
        found.append(h)
    return found


def rings(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc and a ring around it, which no line separates. [2 count, 2] and labels."""
    angle = rng.uniform(0, 2 * np.pi, 2 * count)
    radius = np.concatenate([rng.uniform(0, 0.8, count), rng.uniform(1.2, 1.8, count)])
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), np.repeat([0, 1], count)


def _symmetry(seed: int) -> dict[str, tuple[float, float]]:
    """Start -> (right answers after training, largest difference between the weights of two hidden units)."""
    examples, found = rings(np.random.default_rng(seed), 100), {}
    for name, hidden, value in (("random", 16, None), ("all equal", 16, 0.1), ("all zero", 16, 0.0)):
        net = TwoLayerNet(2, hidden, 2, rng=np.random.default_rng(seed + 1), scale=0.7)
        if value is not None:
            net.params |= {key: np.full_like(net.params[key], value) for key in ("w1", "w2")}
        Solver(net, train=examples, val=examples, rule=SGD(lr=0.5), rng=np.random.default_rng(seed + 2), batch_size=200,
               epochs=250).train()
        spread = np.ptp(net.params["w1"], axis=1).max() if value else float(np.abs(net.params["w1"]).max())
        found[name] = accuracy(net, *examples), float(spread)
    return found


def _dead(seed: int) -> tuple[float, float, float]:
    """Share of hidden units that are off for all examples: before, after large steps, after moderate ones."""
    x, labels = rings(np.random.default_rng(seed), 100)

    def share(net: TwoLayerNet) -> float:
        return float(((x @ net.params["w1"] + net.params["b1"]) <= 0).all(0).mean())

    found = []
    for lr in (0.0, 30.0, 0.5):
        net = TwoLayerNet(2, 100, 2, rng=np.random.default_rng(seed + 3), scale=0.7)
        for _ in range(100 if lr else 0):
            _, grads = net.loss(x, labels)
            net.params = {name: w - lr * grads[name] for name, w in net.params.items()}
        found.append(share(net))
    return found[0], found[1], found[2]


def _histogram(name: str, layers: list[np.ndarray]) -> Markup:
    """One row a layer: how often each value from -1 to 1 occurs."""
    parts, height = [words(name, 0, 12, "label bold")], 17.0
    for k, h in enumerate(layers):
        counts, _ = np.histogram(h, bins=50, range=(-1.0, 1.0))
        tall = counts / counts.max() * (height - 3)
        base = 22 + (k + 1) * height - 3
        parts += [tag("rect", class_="hue0", x=24 + 4.4 * j, y=base - float(v), width=4.0, height=float(v))
                  for j, v in enumerate(tall) if v > 0]
        parts += [edge(24, base, 244, base, "grid"), words(str(k + 1), 14, base, "tick end", 10)]
    parts += [words(text, x, 32 + LAYERS * height, "tick middle", 10) for text, x in (("-1", 24), ("1", 244))]
    return tag("g", *parts)
