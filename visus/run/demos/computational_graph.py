"""A formula as a graph: values flow forwards, gradients flow back, and each gate does one simple thing with them."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.foundations import autodiff as ad
from visus.foundations.autodiff import Array, topological_order
from visus.foundations.gradient_check import five_point_difference
from visus.foundations.graph import number
from visus.foundations.worked_examples import sigmoid_neuron, staged_computation
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, below, near, same
from visus.report.sketch import edge, node, sheet, words
from visus.run.demo import Tell

TOPIC = "gradients"
SUMMARY = "values forwards, gradients backwards: what add, multiply, max and copy gates do"
SOURCE = ("Rumelhart, Hinton, Williams, Nature 323 (1986); Stanford CS231n, Backpropagation, Intuitions; Baydin et "
          "al., arXiv:1502.05767")


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    gates, gate_facts = _gates()
    advance(1, 3)

    w, x = np.array([2.0, -3.0, -3.0]), np.array([-1.0, -2.0])
    leaves = [Array(v, name=n) for v, n in zip([*w, *x], ["w0", "w1", "w2", "x0", "x1"], strict=True)]
    w0, w1, w2, x0, x1 = leaves
    neuron = 1.0 / (ad.exp(-(w0 * x0 + w1 * x1 + w2)) + 1.0)
    neuron.backward()
    value, by_hand = sigmoid_neuron(w, x)
    engine = np.array([leaf.grad for leaf in leaves])
    lines = np.concatenate([by_hand["w"], by_hand["x"]])
    advance(2, 3)

    a, b = Array(3.0, name="x"), Array(-4.0, name="y")
    staged = (a + ad.sigmoid(b)) / (ad.sigmoid(a) + (a + b) ** 2)
    staged.backward()
    _, stages = staged_computation(3.0, -4.0)
    numeric = five_point_difference(lambda v: staged_computation(float(v[0]), float(v[1]))[0], np.array([3.0, -4.0]))
    found = np.array([float(a.grad), float(b.grad)])  # type: ignore[arg-type]
    u, v = rng.normal(size=3), rng.normal(size=4)
    weights, start = rng.normal(size=(3, 4)), rng.normal(size=4)

    def layer(given: Array) -> Array:
        return ad.tanh(ad.matmul(weights, given))
    forwards = ad.jacobian_vector_product(layer, start, v)[1]
    backwards = ad.vector_jacobian_product(layer, start, u)[1]
    advance(3, 3)

    facts = [
        *gate_facts,
        near("the neuron's output, as the course prints it", value, 0.73, 0.005),
        same("its gradients (w0, w1, w2, x0, x1), rounded", " ".join(f"{g:.2f}" for g in engine),
             "-0.20 -0.39 0.20 0.39 -0.59"),
        below("the graph's gradients against the same lines by hand, largest difference",
              float(np.abs(engine - lines).max()), 1e-15),
        near("all gates from the sum to the output, as one: f (1 - f)", float(engine[2]), value * (1 - value), 1e-15),
        below("eight stages by hand against the graph, largest difference",
              float(np.abs(found - [float(stages["x"]), float(stages["y"])]).max()), 1e-15),
        below("and against differences of the value alone", float(np.abs(found - numeric).max()), 1e-10),
        below("forward and reverse mode agree: u (J v) - (J^T u) v", abs(float(u @ forwards - backwards @ v)), 1e-14),
    ]
    return Shown(
        "The computational graph and the flow back through it",
        "Every formula is a graph of small operations. Forwards, each computes its output from its operands (blue). "
        "Backwards, each receives the gradient of the end result with respect to its output and hands on to each "
        "operand that gradient times its own local slope (orange). That is the chain rule, and all of "
        "backpropagation.\n\n"
        "Four gates make most of deep learning: an add gate distributes the gradient, a multiply gate swaps its "
        "operands, a max gate routes the gradient to the winner, and a value that is used twice adds up what comes "
        "back.",
        [Drawing(gates[name], text, name) for name, text in GATES.items()]
        + [Drawing(_graph(neuron, "A sigmoid neuron"), "1 / (1 + e^-(w0 x0 + w1 x1 + w2)). Blue above: the value that "
                   "flows forwards. Orange below: the gradient that flows back.", "A sigmoid neuron, gate by gate",
                   wide=True),
           Drawing(_graph(staged, "A staged computation"), "(x + s(y)) / (s(x) + (x + y)^2) with s the sigmoid, here "
                   "(tanh(z / 2) + 1) / 2. Nobody writes this derivative in one line. x is used three times and y "
                   "twice: their gradients add up.", "A staged computation", wide=True)], facts)


GATES = {
    "Add: distributes": "Both operands get the gradient as it came.",
    "Multiply: swaps": "Each operand gets the gradient times the other one: a large input makes a large gradient for "
                       "its weight.",
    "Max: routes": "The larger operand gets all of it, the other one nothing.",
    "Copy: adds up": "A value that is used twice gets the sum of what comes back.",
}


def _gates() -> tuple[dict[str, Markup], list]:
    def two() -> tuple[Array, Array]:
        return Array(3.0, name="x"), Array(-4.0, name="y")

    drawn, facts, up = {}, [], np.array(2.0)
    for name, make_gate, expected in (
            ("Add: distributes", lambda x, y: x + y, "2 2"), ("Multiply: swaps", lambda x, y: x * y, "-8 6"),
            ("Max: routes", ad.maximum, "2 0"), ("Copy: adds up", lambda x, y: x * y + x, "-6 6")):
        x, y = two()
        out = make_gate(x, y)
        out.backward(up)
        drawn[name] = _graph(out, name)
        facts.append(same(f"{name.split(':')[0].lower()} gate at x = 3, y = -4, upstream 2: gradients of x and y",
                          f"{float(x.grad):g} {float(y.grad):g}", expected))  # type: ignore[arg-type]
    return drawn, facts


def _graph(output: Array, title: str) -> Markup:
    """The graph from left to right. Constants are left out; their value stands in the gate."""
    nodes = [n for n in topological_order(output) if n.parents or n.name]
    kept = set(nodes)
    at = _places(nodes)
    low, high = (pick(y for _, y in at.values()) for pick in (min, max))
    parts = []
    for n in nodes:
        for parent in dict.fromkeys(p for p in n.parents if p in kept):
            parts.append(_way(at[parent], at[n], low, high))
    for n in nodes:
        x, y = at[n]
        constants = [p for p in n.parents if p not in kept]
        text = n.name or n.op + (f"{float(constants[0].data):g}" if constants and constants[0].data.ndim == 0 else "")
        parts += [node(x, y, text, "node first" if n.name else "node"),
                  words(number(n.data), x + 17, y - 6, "first", 11)]
        if n.grad is not None:
            parts.append(words(number(n.grad), x + 17, y + 14, "second", 11))
    width = max(x for x, _ in at.values()) + 70
    return sheet(max(width, 250), max(y for _, y in at.values()) + 40, *parts, title=title)


def _way(start: tuple[float, float], end: tuple[float, float], low: float, high: float) -> Markup:
    """An edge; one that passes other columns goes around, above the lowest or below the highest y of the gates."""
    middle = (low + high) / 2
    (x0, y0), (x1, y1) = start, end
    if x1 - x0 < 100:
        return edge(x0 + 15, y0, x1 - 15, y1)
    up = y0 <= middle
    bend = (low if up else high) + (-1 if up else 1) * (14 + 0.12 * (x1 - x0))
    first, last = (y + (-10 if up else 10) for y in (y0, y1))
    return tag("path", class_="edge", d=f"M{x0 + 11:.1f} {first:.1f}C{x0 + 50:.1f} {bend:.1f} {x1 - 40:.1f} {bend:.1f} "
                                        f"{x1 - 11:.1f} {last:.1f}")


def _places(nodes: list[Array]) -> dict[Array, tuple[float, float]]:
    """The centre of each gate: the column is the longest path from a leaf, leaves stand beside their first user."""
    columns: dict[Array, int] = {}
    for n in nodes:
        columns[n] = 1 + max((columns[p] for p in n.parents if p in columns), default=-1)
    for n in nodes:
        users = [columns[user] for user in nodes if n in user.parents]
        if n.name and users:
            columns[n] = min(users) - 1
    members: dict[int, list[Array]] = {}
    for n in nodes:
        members.setdefault(columns[n], []).append(n)
    tallest = max(map(len, members.values()))
    rows: dict[Array, float] = {}
    for index in sorted(members):
        heights = {n: [rows[p] for p in n.parents if p in rows] for n in members[index]}
        middles = {n: sum(held) / len(held) if held else -float(nodes.index(n)) for n, held in heights.items()}
        group = sorted(members[index], key=middles.__getitem__)
        rows |= {n: place + (tallest - len(group)) / 2 for place, n in enumerate(group)}
    return {n: (32 + 84.0 * columns[n], 44 + 62.0 * rows[n]) for n in nodes}
