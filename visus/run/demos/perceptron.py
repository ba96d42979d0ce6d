"""The perceptron's rule, mistake by mistake, and the bound that it never breaks."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.report.demo import Drawing, Shown, Table, above, below, same, shown
from visus.report.plane import beside, plane, points_of
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "the perceptron's rule drawn step by step, and Novikoff's bound on its mistakes"
SOURCE = ("Rosenblatt, Psychological Review 65 (1958); Novikoff, Symposium on the Mathematical Theory of Automata "
          "(1962); Minsky, Papert, Perceptrons, 1969")

EXTENT, MARGINS = (-2.2, 2.2, -2.2, 2.2), (0.4, 0.2, 0.1, 0.05, 0.025)


def learn(x: np.ndarray, y: np.ndarray, epochs: int = 2000) -> tuple[np.ndarray, list[tuple[np.ndarray, int]]]:
    """w += y x at every mistake, in turn, until a pass has none. x: [N, D], the last column 1; y: [N] of -1 and 1.

    Returns w and, for each mistake, the weights before it and the example. Stops after `epochs` passes.
    """
    w, mistakes = np.zeros(x.shape[1]), []
    for _ in range(epochs):
        clean = True
        for i in range(len(x)):
            if y[i] * (w @ x[i]) <= 0:
                mistakes.append((w.copy(), i))
                w = w + y[i] * x[i]
                clean = False
        if clean:
            break
    return w, mistakes


def separable(rng: np.random.Generator, count: int, margin: float, dim: int = 2) -> tuple[np.ndarray, np.ndarray, float,
                                                                                       float]:
    """Points of two classes with the given distance from a random border through the middle: x with a column of ones,
    y, the margin and the radius as Novikoff has them."""
    u = rng.normal(size=dim)
    u /= np.linalg.norm(u)
    x = rng.uniform(-2, 2, (40 * count, dim))
    x = x[np.abs(x @ u) >= margin][:count]
    y = np.where(x @ u > 0, 1.0, -1.0)
    rows = np.concatenate([x, np.ones((len(x), 1))], 1)
    return rows, y, float((y * (x @ u)).min()), float(np.linalg.norm(rows, axis=1).max())


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x, y, gap, radius = separable(rng, 60, 0.12)
    w, mistakes = learn(x, y)
    advance(1, 3)
    runs = []
    for margin in MARGINS:
        for _ in range(8):
            rows, signs, own, reach = separable(rng, 100, margin)
            runs.append((margin, own, len(learn(rows, signs)[1]), (reach / own) ** 2))
    advance(2, 3)
    xor = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    unlearnt = learn(xor, np.array([-1.0, 1, 1, -1]), epochs=200)[1]
    growth = [float(np.linalg.norm(before + y[i] * x[i]) ** 2) for before, i in mistakes]
    lower = [k * gap for k in range(1, len(mistakes) + 1)]
    advance(3, 3)
    facts = [
        same("the last border makes no mistake on the points", int((y * (x @ w) <= 0).sum()), 0),
        below("its mistakes on the way", len(mistakes), (radius / gap) ** 2),
        below("runs that broke the bound (R / gamma)^2, of 40", float(sum(m > bound for _, _, m, bound in runs)), 0.0),
        above("smallest share of the bound left unused", min(1 - m / bound for _, _, m, bound in runs), 0.0),
        above("at mistake k the weights reach k gamma along the separator, so |w| >= k gamma: smallest surplus",
              min(g**0.5 - low for g, low in zip(growth, lower, strict=True)), -1e-9),
        below("and |w|^2 <= k R^2: largest excess", max(g - (k + 1) * radius**2 for k, g in enumerate(growth)), 1e-9),
        shown("mistakes grow as the margin shrinks, on the mean", _mean(runs, MARGINS[-1]) > _mean(runs, MARGINS[0]),
              f"{_mean(runs, MARGINS[0]):.0f} to {_mean(runs, MARGINS[-1]):.0f}", "rising"),
        shown("XOR cannot be separated: mistakes in 200 passes, at least one in each", len(unlearnt) >= 200,
              str(len(unlearnt)), "at least 200"),
    ]
    asked = points_of(EXTENT, 60)
    steps = sorted({min(k, len(mistakes) - 1) for k in (1, 2, 3, 5, 8, 13, len(mistakes) - 1)})[:7]
    panels = [_panel(x, y, asked, before, wrong, f"mistake {k + 1}") for k, (before, wrong) in enumerate(mistakes)
              if k in steps]
    panels.append(_panel(x, y, asked, w, None, f"done: {len(mistakes)} mistakes"))
    return Shown(
        "The perceptron and Novikoff's bound",
        "Go through the points in turn. At a mistake add the point to the weights, or subtract it, whichever its class "
        "says: the border turns towards getting it right. That is all.\n\nIf a border with margin gamma exists and all "
        "points lie within R, there are at most (R / gamma)^2 mistakes: each one moves the weights at least gamma "
        "along the good direction, but lengthens them by the root of R^2 k only, and a projection is not longer than "
        "the whole. The bound counts mistakes, not passes, and holds in any dimension. Where no border exists, as for "
        "XOR, the rule never rests.",
        [Drawing(beside(panels, 210, 232, columns=4, title="The border at each mistake"),
                 "The regions before some of the mistakes; the ring marks the point that is wrong and is learnt next.",
                 "Step by step", wide=True),
         Drawing(plot([("bound (R / gamma)^2", [(own, bound) for _, own, _, bound in runs]),
                       ("mistakes made", [(own, max(1.0, float(m))) for _, own, m, _ in runs])], x_label="margin gamma",
                      log_x=True, log_y=True, points=True, title="Mistakes and bound by margin"),
                 "40 data sets of 100 points: one dot each, and its bound.", "Mistakes against the margin"),
         Drawing(plot([("|w|^2", [(k + 1.0, g) for k, g in enumerate(growth)]),
                       ("k R^2", [(k + 1.0, (k + 1) * radius**2) for k in range(len(growth))]),
                       ("(k gamma)^2", [(k + 1.0, low**2) for k, low in enumerate(lower)])], x_label="mistake k",
                      log_y=True, title="The proof as curves"),
                 "The squared length of the weights stays between the two curves of the proof; where they cross, the "
                 "rule must have stopped.", "The proof")], facts,
        [Table("Means of 8 data sets", ["margin asked for", "mistakes", "bound"], [
            [f"{m:g}", f"{_mean(runs, m):.0f}", f"{_mean(runs, m, 3):,.0f}"]
            for m in MARGINS])])


def _mean(runs: list, margin: float, column: int = 2) -> float:
    """The mean number of mistakes (column 2) or of the bound (3) over the runs of a margin."""
    return float(np.mean([run[column] for run in runs if run[0] == margin]))


def _panel(x: np.ndarray, y: np.ndarray, asked: np.ndarray, w: np.ndarray, wrong: int | None,
           name: str) -> Markup:
    score = asked @ w[:2] + w[2]
    probs = np.stack([score > 0, score <= 0], 1).astype(float) if np.any(w) else np.full((len(asked), 2), 0.5)
    ringed = np.zeros(len(x), bool)
    if wrong is not None:
        ringed[wrong] = True
    return plane(probs, x[:, :2], (y < 0).astype(int), EXTENT, name=name, ringed=ringed)
