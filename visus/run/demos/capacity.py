"""More hidden units can draw more bent borders; a penalty on the weights straightens them again."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.foundations.layers import softmax
from visus.foundations.networks import TwoLayerNet
from visus.foundations.solver import accuracy
from visus.foundations.update_rules import Adam
from visus.report.demo import Drawing, Shown, Table, above, below, shown
from visus.report.plane import beside, plane, points_of
from visus.run.demo import Tell

TOPIC = "networks"
SUMMARY = "hidden units and regularisation against the decision boundary, on points in the plane"
SOURCE = "Stanford CS231n, Neural Networks Part 1: setting the number of layers and their sizes"

EXTENT, UNITS, PENALTIES = (-2.6, 2.6, -2.2, 2.2), (1, 3, 6, 50), (0.0, 0.001, 0.01, 0.1)
CELLS = 70


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    epochs = 250 if small else 800
    train, test = moons(np.random.default_rng(seed), 60, 0.32), moons(np.random.default_rng(seed + 1), 500, 0.32)
    found, total = {}, len(UNITS) + len(PENALTIES) - 1
    for units, penalty in [*((u, 0.0) for u in UNITS), *((UNITS[-1], p) for p in PENALTIES[1:])]:
        found[units, penalty] = _trained(units, penalty, train, test, epochs, seed)
        advance(len(found), total)
    by_units = [found[u, 0.0] for u in UNITS]
    by_penalty = [found[UNITS[-1], p] for p in PENALTIES]
    facts = [
        below("one unit: right answers on the training points", by_units[0]["train"], 0.95),
        shown("training accuracy does not fall with more units", all(
            b["train"] >= a["train"] - 0.01 for a, b in zip(by_units, by_units[1:], strict=False)),
            ", ".join(f"{one['train']:.0%}" for one in by_units), "rising"),
        above(f"{UNITS[-1]} units: right answers on the training points", by_units[-1]["train"], 0.94),
        shown("the weights shrink as the penalty grows", all(
            b["norm"] < a["norm"] for a, b in zip(by_penalty, by_penalty[1:], strict=False)),
            ", ".join(f"{one['norm']:.3g}" for one in by_penalty), "falling"),
        below("length of the border with the largest penalty, of that without", by_penalty[-1]["border"]
              / by_penalty[0]["border"], 0.95),
        above("right answers on 1,000 new points at the best penalty, less those without one",
              max(one["test"] for one in by_penalty[1:]) - by_penalty[0]["test"], -0.005),
    ]
    top = [_panel(one, f"{u} unit{'s' if u > 1 else ''}", train) for u, one in zip(UNITS, by_units, strict=True)]
    low = [_panel(one, f"penalty {p:g}", train) for p, one in zip(PENALTIES, by_penalty, strict=True)]
    rows = [[f"{u} unit{'s' if u > 1 else ''}, penalty {p:g}", f"{one['train']:.1%}", f"{one['test']:.1%}",
             f"{one['norm']:.3g}"] for (u, p), one in found.items()]
    return Shown(
        "Capacity: hidden units, regularisation and the decision boundary",
        "Each hidden ReLU adds a fold to the border between the classes. With one, the border is a line; with many it "
        "can run around single points, noise included. A penalty on the weights takes the folds back: a large net then "
        "bends only where the data insist, and the best penalty serves new points no worse than none.",
        [Drawing(beside(top, 210, 232, columns=4, title="Borders by hidden units"),
                 "One hidden layer, without a penalty: noisy training points of two classes, and the regions learnt.",
                 "More units", wide=True),
         Drawing(beside(low, 210, 232, columns=4, title="Borders by penalty"),
                 f"{UNITS[-1]} hidden units, with an L2 penalty on the weights.", "More regularisation", wide=True)],
        facts, [Table("Right answers", ["network", "training points", "new points", "norm of the weights"], rows)])


def moons(rng: np.random.Generator, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that reach into each other, centred, with noise. [2 count, 2] and labels."""
    angle = rng.uniform(0, np.pi, 2 * count)
    labels = np.repeat([0, 1], count)
    sign = np.where(labels == 0, 1.0, -1.0)
    x = np.stack([sign * (np.cos(angle) - 0.5), sign * (np.sin(angle) - 0.25)], 1) * 1.3
    return x + noise * rng.standard_normal(x.shape), labels


def _trained(units: int, penalty: float, train: tuple, test: tuple, epochs: int, seed: int) -> dict:
    net = TwoLayerNet(2, units, 2, rng=np.random.default_rng(seed + 2), scale=1.0, reg=penalty)
    rule = Adam(lr=0.03)
    states = {name: rule.start(w) for name, w in net.params.items()}
    for _ in range(epochs):
        _, grads = net.loss(*train)
        net.params = {name: rule.step(w, grads[name], states[name]) for name, w in net.params.items()}
    probs = softmax(net.scores(points_of(EXTENT, CELLS)))
    best = probs.argmax(1).reshape(CELLS, CELLS)
    border = int((best[1:] != best[:-1]).sum() + (best[:, 1:] != best[:, :-1]).sum())
    norm = float(np.sqrt(sum((net.params[name] ** 2).sum() for name in ("w1", "w2"))))
    return {"probs": probs, "train": accuracy(net, *train), "test": accuracy(net, *test), "border": border,
            "norm": norm}


def _panel(one: dict, name: str, train: tuple[np.ndarray, np.ndarray]) -> Markup:
    return plane(one["probs"], train[0], train[1], EXTENT, name=name)
