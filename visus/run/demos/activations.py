"""Every activation with its slope: where it saturates, what it does to zero, and what it costs the gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations import layers as L
from visus.foundations.gradient_check import five_point_difference
from visus.report.demo import Drawing, Shown, Table, below, near, same, shown
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "networks"
SUMMARY = "sigmoid to maxout: eleven activation functions, their slopes, where they saturate"
SOURCE = ("Nair, Hinton, ICML 2010 (ReLU); Maas et al. 2013 (leaky); He et al., arXiv:1502.01852 (PReLU); Clevert et "
          "al., arXiv:1511.07289 (ELU); Klambauer et al., arXiv:1706.02515 (SELU); Hendrycks, Gimpel, arXiv:1606.08415 "
          "(GELU); Ramachandran et al., arXiv:1710.05941 (swish); Howard et al., arXiv:1905.02244 (hard swish); "
          "Goodfellow et al., arXiv:1302.4389 (maxout)")

Pair = tuple[Callable[[np.ndarray], tuple[np.ndarray, tuple]], Callable[[np.ndarray, tuple], np.ndarray]]


def _prelu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    return L.prelu_forward(x[:, None], np.array([0.25]))


TOP = 3.2  # of the drawings
PIECES = np.array([[[-1.0]], [[0.2]], [[1.5]]]), np.array([[-1.0], [0.0], [-1.0]])  # three lines


def _maxout(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    out, cache = L.maxout_forward(x[:, None], *PIECES)
    return out[:, 0], cache


ACTIVATIONS: dict[str, tuple[Pair, str]] = {
    "sigmoid": ((L.sigmoid_forward, L.sigmoid_backward), "Squashes to (0, 1). Flat on both sides, never centred on 0."),
    "tanh": ((L.tanh_forward, L.tanh_backward), "A sigmoid from -1 to 1: centred, but flat on both sides too."),
    "ReLU": ((L.relu_forward, L.relu_backward), "Slope 1 or 0: no saturation above zero, nothing at all below."),
    "leaky ReLU": ((lambda x: L.leaky_relu_forward(x, 0.1), L.leaky_relu_backward),
                   "A small slope below zero (here 0.1): no unit dies."),
    "PReLU": ((_prelu, lambda up, cache: L.prelu_backward(up[:, None], cache)[0][:, 0]),
              "The slope below zero is learnt, one a channel; it begins at 0.25."),
    "ELU": ((L.elu_forward, L.elu_backward), "Bends to -1: means closer to zero."),
    "SELU": ((L.selu_forward, L.selu_backward), "An ELU scaled so that mean 0 and variance 1 reproduce themselves."),
    "GELU": ((L.gelu_forward, L.gelu_backward), "x times the normal distribution function: dips below zero."),
    "SiLU, swish": ((L.silu_forward, L.silu_backward), "x times its sigmoid: nearly GELU, and cheaper."),
    "hard swish": ((L.hard_swish_forward, L.hard_swish_backward), "Swish of straight pieces: kinks at -3 and 3."),
    "maxout": ((_maxout, lambda up, cache: L.maxout_backward(up[:, None], cache)[0][:, 0]),
               "The largest of several lines that are learnt: any convex shape."),
}


def make(seed: int, advance: Tell) -> Shown:
    x = np.linspace(-5, 5, 201)
    wide = np.linspace(-10, 10, 8001)
    figures, rows, facts, slopes = [], [], [], {}
    worst = 0.0
    for done, (name, ((forward, backward), text)) in enumerate(ACTIVATIONS.items(), 1):
        value, slope = partial(_value, forward), partial(_slope, forward, backward)
        off_kinks = np.linspace(-4.9, 4.9, 40) + 0.0123
        worst = max(worst, float(np.abs(slope(off_kinks) - five_point_difference(value, off_kinks, h=1e-4)).max()))
        slopes[name] = slope(wide)
        curves = [(told, [(a, b) for a, b in zip(x, of(x), strict=True) if b <= TOP])
                  for told, of in ((name, value), ("slope", slope))]
        figures.append(Drawing(plot(curves, x_label="x", width=330, height=230, ranges=(-5, 5, -2, TOP), title=name),
                               text, name))
        flat = np.abs(slopes[name]) < 0.01
        rows.append([name, f"{slopes[name].max():.3f}", f"{slopes[name].min():.3f}",
                     f"{flat[wide < -5].mean():.0%}", f"{flat[wide > 5].mean():.0%}",
                     f"{value(np.random.default_rng(seed).standard_normal(20_000)).mean():.2f}"])
        advance(done, len(ACTIVATIONS) + 1)

    rng = np.random.default_rng(seed)
    h = rng.standard_normal((400, 300))
    for _ in range(30):
        h = L.selu_forward(h @ (rng.standard_normal((300, 300)) / 300**0.5))[0]
    two = np.array([[[1.0]], [[-1.0]]]), np.zeros((2, 1))
    grid = wide[:, None]
    advance(len(ACTIVATIONS) + 1, len(ACTIVATIONS) + 1)
    facts = [
        below("slopes by hand against differences, largest over all activations", worst, 1e-8),
        near("sigmoid: largest slope", float(slopes["sigmoid"].max()), 0.25, 1e-6),
        near("tanh: largest slope, four times that", float(slopes["tanh"].max()), 1.0, 1e-6),
        below("tanh(x) = 2 sigmoid(2x) - 1, largest difference",
              float(np.abs(np.tanh(wide) - (2 * L.sigmoid(2 * wide) - 1)).max()), 1e-15),
        same("ReLU: its slopes", sorted(set(slopes["ReLU"].tolist())), [0.0, 1.0]),
        near("leaky ReLU: smallest slope, so that no unit dies", float(slopes["leaky ReLU"].min()), 0.1, 1e-12),
        near("SELU: variance after 30 layers of weights of variance 1/n", float(h.var()), 1.0, 0.2),
        near("SELU: mean after 30 layers", float(h.mean()), 0.0, 0.1),
        shown("GELU and swish dip below zero and turn: smallest slopes",
              slopes["GELU"].min() < -0.1 and slopes["SiLU, swish"].min() < -0.09,
              f"{slopes['GELU'].min():.3f}, {slopes['SiLU, swish'].min():.3f}", "below 0"),
        below("hard swish against swish, largest distance", float(np.abs(
            L.hard_swish_forward(wide)[0] - L.silu_forward(wide)[0]).max()), 0.15),
        same("maxout of the lines x and -x is |x|", bool(np.array_equal(
            L.maxout_forward(grid, *two)[0], np.abs(grid))), True),
        shown("maxout is convex: its slope never falls", bool((np.diff(slopes["maxout"]) >= 0).all()), "rising",
              "rising"),
    ]
    return Shown(
        "Activation functions and their slopes",
        "Without a bend between them, two layers are one. The bend decides what the gradient meets on its way back: "
        "where the slope (orange) is near zero, nothing is learnt. Sigmoid and tanh are flat on both sides; ReLU is "
        "flat below zero, exactly, which makes units die; its successors keep a slope there, or a smooth bend.",
        figures, facts,
        [Table("In numbers", ["function", "largest slope", "smallest slope", "flat below -5", "flat above 5",
                              "mean output"], rows,
               "Flat: a slope of size below 0.01. Mean output: for normal inputs of mean 0 and variance 1.")])


def _value(forward: Callable, x: np.ndarray) -> np.ndarray:
    return np.asarray(forward(x)[0]).reshape(-1)


def _slope(forward: Callable, backward: Callable, x: np.ndarray) -> np.ndarray:
    return np.asarray(backward(np.ones(len(x)), forward(x)[1])).reshape(-1)
