"""A computational graph drawn as SVG: values in green above the edges, gradients in red below, as on the blackboard.

    loss.backward()
    svg = draw(loss)

Operands stand to the left of their results: the column of a node is the length of the longest path to it. An edge
carries the value that flows forward and, after `backward`, the gradient of the final quantity with respect to that
value.

Source: the circuit diagrams of Stanford CS231n, "Backpropagation, Intuitions".
"""

from __future__ import annotations

from html import escape

import numpy as np

from visus.foundations.autodiff import Array, topological_order

COLUMN, ROW, RADIUS, MARGIN = 150, 86, 21, 46
STYLE = ("text{font:12px system-ui,sans-serif;text-anchor:middle}.value{fill:#1a7f37}.gradient{fill:#cf222e}"
         "circle{fill:#fff;stroke:#57606a}path{fill:none;stroke:#8c959f}")


def draw(output: Array, *, title: str = "computational graph") -> str:
    """The graph that ends in `output` as one SVG document. Names and titles are escaped."""
    nodes = topological_order(output)
    places = layout(nodes)
    width = MARGIN * 2 + COLUMN * (max(column for column, _ in places.values()) + 1)
    height = MARGIN * 2 + ROW * max(row for _, row in places.values())
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
             f'height="{height:g}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>']
    points = {node: (MARGIN + COLUMN * column, MARGIN + ROW * row) for node, (column, row) in places.items()}
    for node in nodes:
        for parent in dict.fromkeys(node.parents):  # x * x is one edge
            parts.append(_edge(points[parent], points[node]))
    for node in nodes:
        parts.append(_circle(node, *points[node]))
    return "\n".join([*parts, "</svg>"])


def layout(nodes: list[Array]) -> dict[Array, tuple[int, float]]:
    """Node -> (column, row). Column: the longest path from a leaf, leaves beside their first user; rows centred."""
    column: dict[Array, int] = {}
    for node in nodes:  # operands come first
        column[node] = 1 + max((column[parent] for parent in node.parents), default=-1)
    for node in reversed(nodes):
        users = [column[user] for user in nodes if node in user.parents]
        if not node.parents and users:
            column[node] = min(users) - 1
    members: dict[int, list[Array]] = {}
    for node in nodes:
        members.setdefault(column[node], []).append(node)
    tallest = max(len(group) for group in members.values())
    return {node: (index, row + (tallest - len(group)) / 2)
            for index, group in members.items() for row, node in enumerate(group)}


def number(array: np.ndarray) -> str:
    """A few entries in three significant digits, or the shape of what has more."""
    if array.ndim == 0:
        return f"{float(array):.3g}"
    if array.size <= 3:
        return "[" + ", ".join(f"{v:.3g}" for v in array.ravel()) + "]"
    return "×".join(map(str, array.shape))


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = start, end
    x0, x1 = x0 + RADIUS, x1 - RADIUS
    bend = (x1 - x0) / 2
    return f'<path d="M{x0:g} {y0:g} C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}"/>'


def _circle(node: Array, x: float, y: float) -> str:
    """The gate with its label, the value that leaves it and the gradient that comes back."""
    after = x + COLUMN / 2 - 8
    parts = [f'<g><circle cx="{x:g}" cy="{y:g}" r="{RADIUS}"/>',
             f'<text x="{x:g}" y="{y + 4:g}">{escape(_label(node))}</text>',
             f'<text class="value" x="{after:g}" y="{y - 6:g}">{escape(number(node.data))}</text>']
    if node.grad is not None:
        parts.append(f'<text class="gradient" x="{after:g}" y="{y + 15:g}">{escape(number(node.grad))}</text>')
    if node.op and node.name:
        parts.append(f'<text x="{x:g}" y="{y - RADIUS - 5:g}">{escape(node.name)}</text>')
    return "".join([*parts, "</g>"])


def _label(node: Array) -> str:
    return node.op or node.name or "const"
