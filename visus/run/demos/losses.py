"""Losses and their gradients side by side: what each punishes, how hard it pulls, and what one wild example does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from visus.foundations import layers as L
from visus.foundations.regression_losses import best_constants, l1_loss, smooth_l1_loss
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, below, near
from visus.report.sketch import plot, plot_axes
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "hinge, cross-entropy, L2, L1 and smooth L1 with their gradients, and why L2 is fragile"
SOURCE = ("Weston, Watkins, ESANN 1999; Bridle 1990; Huber, Annals of Mathematical Statistics 35 (1964); Girshick, "
          "Fast R-CNN, ICCV 2015; Stanford CS231n, Linear Classification and Neural Networks Part 2")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = np.linspace(-4, 4, 161)
    regression, pulls = _curves(x[:, None], {
        "L2, 1/2 d^2": lambda d: L.squared_error(d, np.zeros_like(d)),
        "L1, |d|": lambda d: l1_loss(d, np.zeros_like(d)),
        "smooth L1": lambda d: smooth_l1_loss(d, np.zeros_like(d))})
    margins, forces = _curves(x[:, None], {
        "hinge": lambda s: L.svm_loss(np.concatenate([s, np.zeros_like(s)], 1), np.zeros(1, int)),
        "cross-entropy": lambda s: L.softmax_loss(np.concatenate([s, np.zeros_like(s)], 1), np.zeros(1, int)),
        "squared error": lambda s: L.squared_error(s, np.ones_like(s))})
    advance(1, 3)

    a = np.linspace(-1, 1, 21)
    y = 0.8 * a + 0.2 + 0.05 * rng.standard_normal(21)
    wild = y.copy()
    wild[-1] = -4.0
    lines = {name: (_line(a, y, loss), _line(a, wild, loss)) for name, loss in (
        ("L2", L.squared_error), ("L1", l1_loss), ("smooth L1", lambda p, t: smooth_l1_loss(p, t, 0.1)))}
    moved = {name: abs(after[0] - before[0]) for name, (before, after) in lines.items()}
    advance(2, 3)

    scores, labels = rng.normal(size=(20, 10)) * 3, rng.integers(0, 10, 20)
    dscores = L.softmax_loss(scores, labels)[1]
    hinge = L.svm_loss(scores, labels)[1]
    zeros = np.zeros((20, 10))
    targets = rng.standard_normal(21)
    constants = best_constants(targets)
    targets[np.argmax(targets)] = 1000.0
    after = best_constants(targets)
    certain = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    advance(3, 3)
    p = L.softmax(scores)
    facts = [
        near("cross-entropy of 10 equal scores: ln 10", L.softmax_loss(zeros, labels)[0], float(np.log(10)), 1e-12),
        near("hinge of 10 equal scores: 10 - 1", L.svm_loss(zeros, labels)[0], 9.0, 1e-12),
        below("cross-entropy: its gradient against (p - y) / N, largest difference",
              float(np.abs(dscores - (p - np.eye(10)[labels]) / 20).max()), 1e-15),
        below("gradients of both sum to zero over the classes",
              float(max(np.abs(dscores.sum(1)).max(), np.abs(hinge.sum(1)).max())), 1e-15),
        near("cross-entropy of a wrong answer that is off by 1000: no overflow",
             L.softmax_loss(certain, np.array([1, 0]))[0], 1000.0, 1e-9),
        below("hinge: nothing to gain beyond the margin, largest gradient there", max(
            (abs(g) for s, g in forces[0][1] if s > 1.001), default=1.0), 0.0),
        above("squared error punishes a score of 4 for being too right", dict(margins[2][1])[4.0], 1.0),
        near("pull of L2 on an error of 4, of that on 1", pulls[0][1][-1][1] / pulls[0][1][100][1], 4.0, 1e-9),
        near("pull of L1 and of smooth L1 on an error of 4", max(pulls[1][1][-1][1], pulls[2][1][-1][1]), 1.0, 1e-12),
        above("one wild example of 21: slope of the L2 line moves by", moved["L2"], 0.5),
        below("slope of the L1 line moves by", moved["L1"], 0.1),
        below("slope of the smooth L1 line moves by", moved["smooth L1"], 0.2),
        near("best constant for L1 (the median) after one target became 1000", after["l1"], constants["l1"], 1e-12),
        above("best constant for L2 (the mean)", after["l2"] - constants["l2"], 40.0),
    ]
    return Shown(
        "Losses and how they pull",
        "A loss is read best by its gradient, the force on the score. The hinge pulls with one strength until the "
        "margin is kept, then not at all. Cross-entropy pulls with p - y: less and less, but never nothing. The "
        "squared error pulls in proportion to the distance, also on scores that are too right.\n\nThe same for "
        "numbers: L2 pulls the harder the farther off a target is, so that one wild example outweighs all others; L1 "
        "pulls with one strength from anywhere. Smooth L1 takes L2 near zero, where L1 has a kink, and L1 beyond.",
        [Drawing(plot(margins, x_label="score of the right class, that of the other is 0", y_label="loss",
                      ranges=(-4, 4, 0, 5), title="Losses of a class"), "Two classes.", "Classification: loss"),
         Drawing(plot(forces, x_label="score of the right class", y_label="gradient", ranges=(-4, 4, -5, 3),
                      title="Gradients of a class"), "Negative: the score is pushed up.", "Classification: gradient"),
         Drawing(plot(regression, x_label="error d = prediction - target", y_label="loss", ranges=(-4, 4, 0, 5),
                      title="Losses of a number"), "Smooth L1 turns from a parabola to a line at 1.",
                 "Regression: loss"),
         Drawing(plot(pulls, x_label="error d", y_label="gradient", ranges=(-4, 4, -4, 4),
                      title="Gradients of a number"), "The pull of L2 has no limit.", "Regression: gradient"),
         Drawing(_fits(a, wild, lines), "A line fitted to 21 points of which one was spoilt, by each loss.",
                 "One wild example")], facts,
        [Table("Slope of the fitted line", ["loss", "clean", "one spoilt", "moved by"], [
            [name, f"{before[0]:.3f}", f"{after_[0]:.3f}", f"{moved[name]:.3f}"]
            for name, (before, after_) in lines.items()])])


def _curves(points: np.ndarray, losses: dict) -> tuple[list, list]:
    """(name, [(x, loss)]) and (name, [(x, gradient)]), one example at a time."""
    values, slopes = [], []
    for name, loss in losses.items():
        found = [loss(point[None]) for point in points]
        values.append((name, [(float(x), float(v)) for (x,), (v, _) in zip(points, found, strict=True) if v <= 5]))
        slopes.append((name, [(float(x), float(g[0, 0])) for (x,), (_, g) in zip(points, found, strict=True)]))
    return values, slopes


def _line(x: np.ndarray, y: np.ndarray, loss: Callable) -> tuple[float, float]:
    """Slope and offset that minimise the loss: gradient descent with falling steps."""
    w = np.zeros(2)
    rows = np.stack([x, np.ones_like(x)], 1)
    for step in range(1500):
        _, pull = loss((rows @ w)[:, None], y[:, None])
        w -= 0.5 / (1 + step / 100) * (rows.T @ pull[:, 0])
    return float(w[0]), float(w[1])


def _fits(x: np.ndarray, y: np.ndarray, lines: dict) -> Markup:
    curves = [(name, [(-1.0, -fit[0] + fit[1]), (1.0, fit[0] + fit[1])]) for name, (_, fit) in lines.items()]
    ranges = (-1.05, 1.05, -4.4, 1.6)
    across, up, _ = plot_axes(curves, ranges=ranges)
    dots = [tag("circle", class_="under", cx=across(float(a)), cy=up(float(b)), r=3.0)
            for a, b in zip(x, y, strict=True)]
    return plot(curves, x_label="x", ranges=ranges, over=dots, title="Lines fitted with one wild example")
