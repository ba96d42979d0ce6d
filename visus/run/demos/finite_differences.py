"""Numeric gradients: how their error depends on the step, what float32 does to them, and what a kink does."""

from __future__ import annotations

import math

import numpy as np

from visus.foundations import layers as L
from visus.foundations.floating_point import best_step, precision
from visus.foundations.gradient_check import check_gradient
from visus.report.demo import Drawing, Shown, Table, above, below, near, same, shown
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "gradients"
SUMMARY = "error O(h) or O(h^2), the best step, the floor of float32, subgradients at kinks"
SOURCE = ("Press et al., Numerical Recipes, section 5.7; Goldberg, ACM Computing Surveys 23 (1991); Stanford CS231n, "
          "Neural Networks Part 3: Gradient checks")

STEPS = 10.0 ** np.arange(-14, 0.01, 0.25)
ORDERS = {"forward": 1, "centred": 2, "five points": 4}


def quotient(kind: str, x: np.ndarray, h: float) -> np.ndarray:
    """The difference quotient of sin(x) e^x in the precision of x."""
    def f(v: np.ndarray) -> np.ndarray:
        return np.sin(v) * np.exp(v)
    step = x.dtype.type(h)
    if kind == "forward":
        return (f(x + step) - f(x)) / step
    centred = (f(x + step) - f(x - step)) / (2 * step)
    if kind == "centred":
        return centred
    return (4 * centred - (f(x + 2 * step) - f(x - 2 * step)) / (4 * step)) / 3


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.3, 1.3, 200)
    errors: dict[tuple[str, str], np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for dtype in (np.float64, np.float32):
            for kind in ORDERS:
                given = x.astype(dtype)
                truth = (np.sin(given.astype(float)) + np.cos(given.astype(float))) * np.exp(given.astype(float))
                errors[kind, np.dtype(dtype).name] = np.array([
                    np.median(np.abs(quotient(kind, given, h).astype(float) - truth) / truth) for h in STEPS])
    advance(1, 2)

    def power(kind: str, low: float, high: float) -> float:
        inside = np.array([low * 0.99 <= h <= high * 1.01 for h in STEPS])
        return float(np.polyfit(np.log(STEPS[inside]), np.log(errors[kind, "float64"][inside]), 1)[0])

    def best(kind: str, dtype: str) -> tuple[float, float]:
        at = int(np.argmin(errors[kind, dtype]))
        return float(STEPS[at]), float(errors[kind, dtype][at])

    def off(kind: str, dtype: str) -> float:
        """Powers of ten between the best step found and the rule."""
        return abs(math.log10(best(kind, dtype)[0] / best_step(ORDERS[kind], dtype)))

    kink = np.array([0.0])
    sides = [float((L.relu_forward(kink + a)[0] - L.relu_forward(kink + b)[0])[0] / (a - b))
             for a, b in ((1e-6, 0.0), (0.0, -1e-6), (1e-6, -1e-6))]
    by_hand = float(L.relu_backward(np.ones(1), L.relu_forward(kink)[1])[0])
    many = rng.normal(size=400)
    many[::4] = rng.uniform(-5e-6, 5e-6, 100)
    analytic = L.relu_backward(np.ones(400), L.relu_forward(many)[1])
    naive = check_gradient(lambda v: L.relu_forward(v)[0], many, analytic, rng=rng, entries=400)
    handled = check_gradient(lambda v: L.relu_forward(v)[0], many, analytic, rng=rng, entries=400,
                             winners=lambda v: v > 0)
    lines = np.linspace(-2, 2, 401)
    under = all((np.abs(lines) >= g * lines - 1e-15).all() for g in (-1.0, -0.4, 0.0, 0.7, 1.0))
    over = any((np.abs(lines) < g * lines).any() for g in (-1.01, 1.01))
    advance(2, 2)
    facts = [
        near("forward: the error falls as this power of h", power("forward", 1e-6, 1e-2), 1.0, 0.05),
        near("centred: as this power of h", power("centred", 1e-4, 1e-1), 2.0, 0.05),
        near("five points: as this power of h", power("five points", 10**-1.75, 10**-0.5), 4.0, 0.2),
        below("forward, float64: best step against sqrt(epsilon), in powers of ten", off("forward", "float64"), 1.0),
        below("centred, float64: best step against epsilon^(1/3), in powers of ten", off("centred", "float64"), 1.0),
        below("centred, float64: its error at the best step", best("centred", "float64")[1], 1e-9),
        above("centred, float32: its error at the best step; a check below 1e-7 is out of reach",
              best("centred", "float32")[1], 1e-7),
        above("step too small, 1e-14 in float64: the error of both is rounding, as large as",
              min(errors["forward", "float64"][0], errors["centred", "float64"][0]), 1e-4),
        same("ReLU at 0: quotient from the right, from the left, centred", [round(s, 9) for s in sides],
             [1.0, 0.0, 0.5]),
        same("ReLU at 0: the slope that backpropagation takes", by_hand, 0.0),
        same("|x| lies above each line through 0 of slope -1 to 1, its subgradients", under, True),
        same("and not above those of slope -1.01 or 1.01", over, True),
        above("gradient check across kinks, as if there were none: relative error", naive.error, 0.1),
        below("the same check, entries that cross a kink left out", handled.error, 1e-7),
        shown("how many of the 100 entries near zero were left out", 90 <= handled.redrawn <= 101, str(handled.redrawn),
              "90 to 101"),
    ]
    figures = []
    for name in ("float64", "float32"):
        curves = [(kind, [(float(h), float(max(e, 1e-16))) for h, e in zip(STEPS, errors[kind, name], strict=True)
                          if np.isfinite(e)]) for kind in ORDERS]
        figures.append(Drawing(plot(curves, x_label="step h", y_label="relative error", log_x=True, log_y=True,
                                    ranges=(1e-14, 1.0, 1e-14, 10.0), title=f"Error by step, {name}"),
                               f"{name} keeps {precision(name).digits:.1f} digits. Right of the lowest point the "
                               "curve of the function is the error, left of it rounding.", name))
    relu = np.linspace(-2, 2, 81)
    figures.append(Drawing(plot([("|x|", [(float(v), abs(float(v))) for v in relu])]
                                + [(f"slope {g:g}", [(-2.0, -2 * g), (2.0, 2 * g)]) for g in (-0.5, 0.0, 0.6)],
                                x_label="x", ranges=(-2, 2, -1.3, 2), title="Subgradients of |x| at 0"),
                           "At a kink every line that touches from below is a subgradient; backpropagation takes one.",
                           "Subgradients"))
    return Shown(
        "Numeric gradients and their error",
        "A difference quotient needs only the function, and so judges every gradient made by hand. Its step is a "
        "bargain: a large one sees the function's curve, O(h) for the forward quotient and O(h^2) for the centred one; "
        "a small one subtracts nearly equal numbers and is left with their rounding, epsilon / h. The best step "
        "balances both.\n\nfloat32 keeps so few digits that no step is good: check gradients in float64. And at a kink "
        "the quotient is the slope of neither side: entries whose step crosses one are left out.",
        figures, facts,
        [Table("At the best step", ["quotient", "float64: step", "error", "float32: step", "error "], [
            [kind, *(f"{v:.1e}" for dtype in ("float64", "float32") for v in best(kind, dtype))] for kind in ORDERS])])
