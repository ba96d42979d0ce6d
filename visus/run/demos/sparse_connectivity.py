"""A convolution connects each output to a few neighbours, and all outputs share one set of weights."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.foundations.convolution import convolution_backward, convolution_forward, convolution_matrix
from visus.report.demo import Drawing, Shown, Table, below, same
from visus.report.sketch import edge, node, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "few connections and shared weights: what a convolution leaves out of a dense layer"
SOURCE = "Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.2; LeCun et al., Neural Computation 1 (1989)"

INPUTS, WIDTH = 7, 3


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(1, 1, 1, WIDTH)), np.zeros(1)
    outputs = INPUTS - WIDTH + 1
    jacobian = _jacobian(weights)
    advance(1, 3)

    # Untied: an own weight on every edge. The tied weight's gradient is the sum over its edges.
    x, upstream = rng.normal(size=(1, 1, 1, INPUTS)), rng.normal(size=(1, 1, 1, outputs))
    _, cache = convolution_forward(x, weights, bias)
    tied = convolution_backward(upstream, cache)[1].ravel()
    untied = np.array([[upstream[0, 0, 0, i] * x[0, 0, 0, i + k] for k in range(WIDTH)] for i in range(outputs)])
    advance(2, 3)
    reach = _reach(layers=3)
    edges = convolution_matrix(np.array([[[[-1.0, 1.0]]]]), (280, 320))
    advance(3, 3)

    dense, local = INPUTS * outputs, WIDTH * outputs
    facts = [
        same("connections: entries of the Jacobian that are not zero", int(np.count_nonzero(jacobian)), local),
        same("a dense layer of the same size has", jacobian.size, dense),
        same("different numbers among these entries: the parameters", len(np.unique(jacobian[jacobian != 0])), WIDTH),
        below("gradient of a shared weight against the sum of the gradients of its edges, largest difference",
              float(np.abs(tied - untied.sum(axis=0)).max()), 1e-12),
        same("inputs that one place sees through 1, 2, 3 layers of width 3", reach, [3, 5, 7]),
        same("edge filter on 280 x 320 pixels, two taps: two products and a sum for each output",
             edges.values.size + edges.shape[0], 267_960),
        same("entries of the dense matrix that does the same", edges.shape[0] * edges.shape[1], 8_003_072_000),
    ]
    table = Table("What each kind of layer costs", ["layer", "connections", "parameters"], [
        ["dense", dense, dense], ["locally connected: sparse, not shared", local, local],
        ["convolution: sparse and shared", local, WIDTH]],
        f"{INPUTS} inputs, {outputs} outputs, filters of width {WIDTH}, without biases.")
    return Shown(
        "Sparse connectivity and shared parameters",
        "A dense layer joins every output to every input, each by a weight of its own. A convolution keeps the "
        f"connections to {WIDTH} neighbours only, and uses the same {WIDTH} weights at every place.\n\n"
        "What is saved is memory and arithmetic, and what is assumed is that a pattern worth finding in one place is "
        "worth finding everywhere. Depth makes up for the narrow view: through several layers a place sees far.",
        [Drawing(_layers(dense=True), "Dense: every line is a parameter of its own.", "Dense layer"),
         Drawing(_layers(dense=False), "Convolution: lines of one colour are one parameter.", "Convolution"),
         Drawing(_through(3), "Three layers of width 3: the places that the one at the top depends on.",
                 "Indirect connections")],
        facts, [table])


def _jacobian(weights: np.ndarray) -> np.ndarray:
    """[outputs, inputs]: the layer's answers to the unit vectors."""
    units = np.eye(INPUTS)[:, None, None, :]
    return convolution_forward(units, weights, np.zeros(1))[0][:, 0, 0, :].T


def _reach(layers: int) -> list[int]:
    """How many inputs the middle place depends on after each layer, padded to keep the size."""
    found, signal = [], np.eye(INPUTS)[:, None, None, :]
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 1] = 1.0
    for _ in range(layers):
        signal = convolution_forward(signal, kernel, np.zeros(1), padding=1)[0]
        found.append(int(np.count_nonzero(signal[:, 0, 0, INPUTS // 2])))
    return found


def _layers(*, dense: bool) -> Markup:
    outputs, step, parts = INPUTS - WIDTH + 1, 54, []
    places = {i: 40 + i * step for i in range(INPUTS)}
    for out in range(outputs):
        for i in range(INPUTS):
            if dense or out <= i < out + WIDTH:
                kind = "edge" if dense else f"line curve{i - out}"
                parts.append(edge(places[i], 150, places[out + 1], 60, kind))
    parts += [node(places[i], 150, f"x{i + 1}") for i in range(INPUTS)]
    parts += [node(places[out + 1], 60, f"y{out + 1}", "node first") for out in range(outputs)]
    count = INPUTS * outputs if dense else WIDTH * outputs
    parts.append(words(f"{count} connections, {count if dense else WIDTH} parameters", 20, 20, "label bold"))
    return sheet(2 * 40 + (INPUTS - 1) * step, 185, *parts, title="Connections of a layer")


def _through(layers: int) -> Markup:
    step, middle, parts = 54, INPUTS // 2, []
    places = [40 + i * step for i in range(INPUTS)]
    heights = [60 + 62 * layer for layer in range(layers + 1)]
    for below_, above_ in zip(range(1, layers + 1), range(layers), strict=True):
        for i in range(INPUTS):
            for k in (-1, 0, 1):
                if 0 <= i + k < INPUTS:
                    inside = abs(i - middle) <= above_ and abs(i + k - middle) <= below_
                    parts.append(edge(places[i + k], heights[below_], places[i], heights[above_],
                                      "edge first" if inside else "edge soft"))
    for layer, height in enumerate(heights):
        name = "x" if layer == layers else "zhg"[layer] if layer < 3 else "h"
        parts += [node(places[i], height, f"{name}{i + 1}", "node first" if abs(i - middle) <= layer else "node")
                  for i in range(INPUTS)]
    parts.append(words("what the middle place of the top layer depends on", 20, 24, "label bold"))
    return sheet(2 * 40 + (INPUTS - 1) * step, heights[-1] + 35, *parts, title="Field through several layers")
