"""One hidden layer can come as close as wanted to any continuous function: bumps, pieces and what is learnt."""

from __future__ import annotations

import numpy as np

from visus.foundations.layers import sigmoid
from visus.report.demo import Drawing, Shown, Table, below, near, shown
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "networks"
SUMMARY = "one hidden layer approximates any continuous function: error against hidden units"
SOURCE = ("Cybenko, Mathematics of Control, Signals and Systems 2 (1989); Hornik, Neural Networks 4 (1991); Stanford "
          "CS231n, Neural Networks Part 1")

UNITS = (4, 8, 16, 32, 64, 128)
GRID = np.linspace(0, 1, 4001)


def target(x: np.ndarray) -> np.ndarray:
    """The function to be approximated, on [0, 1]."""
    return np.sin(2 * np.pi * x) + 0.4 * np.sin(6 * np.pi * x + 1)


SLOPE = 2 * np.pi + 0.4 * 6 * np.pi  # no |f'| is larger
CURVATURE = (2 * np.pi) ** 2 + 0.4 * (6 * np.pi) ** 2  # no |f''| is larger


def bumps(x: np.ndarray, count: int, steepness: float = 4000.0) -> np.ndarray:
    """A step up at the begin of each of `count` intervals and down at its end: sigmoid units in pairs; neighbours share
    one, so that count + 1 are needed. The height of a bump is the function in its middle."""
    edges, middles = np.linspace(0, 1, count + 1), (np.arange(count) + 0.5) / count
    steps = sigmoid(steepness * count / 8 * (x[:, None] - edges))  # [points, count + 1]
    return (steps[:, :-1] - steps[:, 1:]) @ target(middles)


def pieces(x: np.ndarray, count: int) -> np.ndarray:
    """`count` ReLUs that bend a line at equal distances: the function at the knots, straight between them."""
    knots = np.linspace(0, 1, count + 1)
    slopes = np.diff(target(knots)) * count
    weights = np.diff(slopes, prepend=0.0)
    return target(knots[:1]) + np.maximum(x[:, None] - knots[:-1], 0) @ weights


def fitted(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` tanh units of random weights; the weights of the sum are fitted to 400 points by least squares."""
    scale, bias = rng.normal(0, 12, count), rng.uniform(0, 1, count)

    def hidden(points: np.ndarray) -> np.ndarray:
        return np.concatenate([np.tanh(scale * (points[:, None] - bias)), np.ones((len(points), 1))], 1)
    known = np.linspace(0, 1, 400)
    found = np.linalg.lstsq(hidden(known), target(known), rcond=1e-10)[0]
    return hidden(x) @ found


def make(seed: int, advance: Tell) -> Shown:
    inside = (GRID > 1e-3) & (GRID < 1 - 1e-3)  # a step at 0 and at 1 is only half done there

    def worst(found: np.ndarray) -> float:
        return float(np.abs(found - target(GRID))[inside].max())

    errors: dict[str, list[float]] = {"sigmoid bumps": [], "ReLU pieces": [], "tanh, fitted": []}
    for done, count in enumerate(UNITS, 1):
        errors["sigmoid bumps"].append(worst(bumps(GRID, count)))
        errors["ReLU pieces"].append(worst(pieces(GRID, count)))
        errors["tanh, fitted"].append(worst(fitted(GRID, count, np.random.default_rng(seed))))
        advance(done, len(UNITS))

    def order(name: str) -> float:
        """The power of 1 / units with which the error falls over the last three doublings."""
        return -float(np.polyfit(np.log(UNITS[-4:]), np.log(errors[name][-4:]), 1)[0])

    facts = [
        below("bumps: error times units, never above max |f'|", max(e * n for e, n in
              zip(errors["sigmoid bumps"], UNITS, strict=True)), SLOPE),
        near("bumps: the error falls as units to the power of -1", order("sigmoid bumps"), 1.0, 0.15),
        below("ReLU pieces: error times units^2, never above max |f''| / 8", max(e * n * n for e, n in
              zip(errors["ReLU pieces"], UNITS, strict=True)), CURVATURE / 8),
        near("ReLU pieces: the error falls as units to the power of -2", order("ReLU pieces"), 2.0, 0.15),
        below("tanh with a fitted sum: error with 128 units", errors["tanh, fitted"][-1], 1e-3),
        shown("every way comes closer with every doubling from 8 units on",
              all(b < a for e in errors.values() for a, b in zip(e[1:], e[2:], strict=False)), "yes", "yes"),
    ]
    some = np.linspace(0, 1, 241)
    figures = []
    for count in (8, 32):
        figures.append(Drawing(plot(
            [("the function", list(zip(some, target(some), strict=True))),
             (f"{count} bumps", list(zip(some, bumps(some, count), strict=True))),
             (f"{count} ReLU pieces", list(zip(some, pieces(some, count), strict=True)))], x_label="x",
            title=f"{count} hidden units"), f"Two constructions with {count} hidden units, nothing learnt.",
            f"{count} units"))
    return Shown(
        "Universal approximation",
        "A step up and a step down make a bump; bumps side by side follow any continuous function; and a steep sigmoid "
        "is a step. So one hidden layer suffices, if it is wide enough: that is Cybenko's theorem made by hand. ReLUs "
        "bend a line at each unit, which is better: the error falls with the square of their number.\n\nWhat the "
        "theorem does not say: how many units a function needs, and that learning finds the weights. Depth reuses what "
        "a layer computed; width has to draw every bump.",
        [*figures, Drawing(plot([(name, list(zip(map(float, UNITS), e, strict=True))) for name, e in errors.items()],
                                x_label="hidden units", y_label="largest error", log_x=True, log_y=True,
                                title="Error against units"),
                           "A straight line here is a power of the number of units.", "Error against hidden units")],
        facts, [Table("Largest error on [0, 1]", ["units", *errors], [
            [str(n), *(f"{errors[name][i]:.2g}" for name in errors)] for i, n in enumerate(UNITS)])])
