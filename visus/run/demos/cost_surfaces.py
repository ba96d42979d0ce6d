"""Logistic regression with two losses: cross-entropy is a bowl, the squared error of a sigmoid is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from visus.foundations.layers import sigmoid
from visus.foundations.worked_examples import logistic_curvature, logistic_regression
from visus.report.charts import tag
from visus.report.contours import contour_path
from visus.report.demo import Drawing, Shown, above, below, same, shown
from visus.report.heat import colours
from visus.report.sketch import picture, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "convex and not: cross-entropy against squared error of a sigmoid, with descent on both"
SOURCE = ("Cox, JRSS B 20 (1958); Boyd, Vandenberghe, Convex Optimization, 2004, section 3.1; Solla, Levin, Fleisher, "
          "Complex Systems 2 (1988)")

SPAN, CELLS, SIDE = 8.0, 41, 300.0
Loss = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
STARTS = ((-6.5, 6.0), (6.0, -6.0), (-6.0, -5.0))


def squared(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of 1/2 (s(X w) - y)^2 and its gradient: the factor s (1 - s) is what stops it on the flats."""
    p = sigmoid(x @ w)
    return float(0.5 * ((p - y) ** 2).mean()), x.T @ ((p - y) * p * (1 - p)) / len(x)


def entropy(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    value, grads = logistic_regression(w, x, y)
    return value, grads["w"]


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    y = np.repeat([0.0, 1.0], 30)
    x = np.concatenate([rng.normal(np.where(y == 0, -0.8, 0.8)[:, None], 1.0), np.ones((60, 1))], 1)
    axis = np.linspace(-SPAN, SPAN, CELLS)
    grid = np.stack([np.tile(axis, CELLS), np.repeat(axis[::-1], CELLS)], 1)
    losses = {"cross-entropy": entropy, "squared error": squared}
    heights = {name: np.array([loss(w, x, y)[0] for w in grid]).reshape(CELLS, CELLS) for name, loss in losses.items()}
    advance(1, 3)
    paths = {name: [_descend(loss, np.array(start), x, y) for start in STARTS] for name, loss in losses.items()}
    advance(2, 3)
    curved = {"cross-entropy": min(float(np.linalg.eigvalsh(logistic_curvature(w, x))[0]) for w in grid[::11]),
              "squared error": min(float(np.linalg.eigvalsh(_hessian(w, x, y))[0]) for w in grid[::11])}
    chords = {name: _chords(loss, x, y, rng) for name, loss in losses.items()}
    at = np.array(STARTS[0])
    ends = {name: [loss(path[-1], x, y)[0] for path in paths[name]] for name, loss in losses.items()}
    advance(3, 3)
    lowest = {name: float(h.min()) for name, h in heights.items()}
    facts = [
        above("cross-entropy: the smallest curvature on the map is not negative", curved["cross-entropy"], 0.0),
        below("squared error: its smallest curvature is negative", curved["squared error"], -1e-3),
        same("cross-entropy: of 1,000 chords, how many lie below the curve", chords["cross-entropy"], 0),
        above("squared error: of 1,000 chords, how many lie below the curve somewhere", chords["squared error"], 100),
        below("cross-entropy: where descent ends, above the lowest point of the map, from all starts",
              max(ends["cross-entropy"]) - lowest["cross-entropy"], 0.02),
        above("squared error: the same from the worst start, after as many steps",
              max(ends["squared error"]) - lowest["squared error"], 0.1),
        above("at that start, the gradient of cross-entropy, of that of the squared error",
              float(np.linalg.norm(entropy(at, x, y)[1]) / np.linalg.norm(squared(at, x, y)[1])), 5.0),
        shown("the derivative is X^T (p - y) / N: largest difference from differences of the loss",
              (found := _derivative_error(x, y)) < 1e-9, f"{found:.1e}", "below 1e-9"),
    ]
    t = np.linspace(-8, 8, 161)
    line = np.stack([t, np.zeros_like(t)], 1)
    one = (np.array([[1.0, 0.0]]), np.array([1.0]))
    return Shown(
        "Cost surfaces: convex or not",
        "A function is convex if every chord lies above it: then each valley is the valley, and descent from anywhere "
        "ends there. Cross-entropy of a sigmoid is convex in the weights, since its second derivative is a Gram "
        "matrix, X^T diag(p (1 - p)) X. The squared error of the same sigmoid is not: far out, where the sigmoid is "
        "flat, the answer may be wholly wrong and the gradient almost nothing.",
        [Drawing(_surface(name, heights[name], paths[name]), text, name.capitalize()) for name, text in (
            ("cross-entropy", "Weight to the right, bias upwards; dark is low. Three descents of 200 equal steps reach "
                              "the same place."),
            ("squared error", "The same data, weights, starts and steps. The flats far out hold the descents fast."))]
        + [Drawing(plot([(name, [(float(a), loss(w, *one)[0]) for a, w in zip(t, line, strict=True)])
                         for name, loss in losses.items()], x_label="score z = w x of an example of class 1",
                        title="Loss of one example"),
                   "One example: cross-entropy grows on, the squared error flattens out at 1/2.", "One example"),
           Drawing(plot([(name, [(float(a), float(loss(w, *one)[1][0])) for a, w in zip(t, line, strict=True)])
                         for name, loss in losses.items()], x_label="score z", y_label="derivative",
                        title="Derivative of one example"),
                   "p - 1 against (p - 1) p (1 - p).", "Its derivative")], facts)


def _descend(loss: Loss, w: np.ndarray, x: np.ndarray, y: np.ndarray, lr: float = 1.0, steps: int = 200) -> np.ndarray:
    path = [w]
    for _ in range(steps):
        path.append(path[-1] - lr * loss(path[-1], x, y)[1])
    return np.array(path)


def _hessian(w: np.ndarray, x: np.ndarray, y: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Of the squared error, by differences of its gradient."""
    return np.stack([(squared(w + h * e, x, y)[1] - squared(w - h * e, x, y)[1]) / (2 * h) for e in np.eye(2)])


def _chords(loss: Loss, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, count: int = 1000) -> int:
    """How many random chords are undercut: the function in their middle is above the mean of their ends."""
    ends = rng.uniform(-SPAN, SPAN, (count, 2, 2))
    return sum(loss(pair.mean(0), x, y)[0] > (loss(pair[0], x, y)[0] + loss(pair[1], x, y)[0]) / 2 + 1e-12
               for pair in ends)


def _derivative_error(x: np.ndarray, y: np.ndarray, h: float = 1e-5) -> float:
    w = np.array([0.7, -0.3])
    numeric = [(entropy(w + h * e, x, y)[0] - entropy(w - h * e, x, y)[0]) / (2 * h) for e in np.eye(2)]
    return float(np.abs(entropy(w, x, y)[1] - numeric).max())


def _surface(name: str, heights: np.ndarray, paths: list[np.ndarray]) -> Markup:
    """The map of the loss, its contours and the descents on it."""
    share = (heights - heights.min()) / (heights.max() - heights.min())
    pixels = colours(np.sqrt(share))
    levels = [float(heights.min() + (heights.max() - heights.min()) * s**2) for s in np.linspace(0.1, 0.95, 9)]
    parts = [picture(pixels, 0, 0, SIDE),
             tag("path", class_="edge soft", d=contour_path(heights, levels, (0.0, SIDE, 0.0, SIDE)))]
    for place, path in enumerate(paths):
        at = [(SIDE * (a + SPAN) / (2 * SPAN), SIDE * (SPAN - b) / (2 * SPAN)) for a, b in np.clip(path, -SPAN, SPAN)]
        parts += [tag("polyline", class_="line curve3", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in at)),
                  tag("circle", class_="node", cx=at[0][0], cy=at[0][1], r=4.5),
                  tag("circle", class_="hue3", cx=at[-1][0], cy=at[-1][1], r=4.5),
                  words(str(place + 1), at[0][0] + 8, at[0][1] + 4, "label bold on")]
    return sheet(SIDE, SIDE, *parts, title=f"Cost surface of {name}")
