"""The drawing holds every gate, value and gradient, and is a whole SVG document."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from visus.foundations.autodiff import Array, topological_order
from visus.foundations.graph import draw, layout, number

NS = "{http://www.w3.org/2000/svg}"


def worked_example():
    """f = (x + y) z at (-2, 5, -4): the first circuit of the course; gradients -4, -4, 3."""
    x, y, z = Array(-2.0, name="x"), Array(5.0, name="y"), Array(-4.0, name="z")
    f = (x + y) * z
    f.backward()
    return f


def texts(svg, kind):
    root = ElementTree.fromstring(svg)
    return sorted(t.text for t in root.iter(NS + "text") if t.get("class") == kind)


def test_the_courses_first_circuit_shows_its_values_and_gradients():
    svg = draw(worked_example())
    assert texts(svg, "value") == sorted(["-2", "5", "-4", "3", "-12"])
    assert texts(svg, "gradient") == sorted(["-4", "-4", "3", "-4", "1"])
    assert texts(svg, None) == sorted(["x", "y", "z", "+", "*"])
    assert len(list(ElementTree.fromstring(svg).iter(NS + "path"))) == 4


def test_before_backward_no_gradient_is_drawn():
    assert texts(draw(Array(1.0) + 2.0), "gradient") == []


def test_operands_stand_left_of_results_and_nothing_covers_another():
    w = Array(np.ones((2, 3)), name="w")
    out = ((w @ np.ones(3)).tanh() * 2.0 + w.sum()).sum()
    nodes = topological_order(out)
    places = layout(nodes)
    assert len(set(places.values())) == len(nodes)
    assert all(places[p][0] < places[n][0] for n in nodes for p in n.parents)
    root = ElementTree.fromstring(draw(out))
    width, height = (float(v) for v in root.get("viewBox").split()[2:])
    for circle in root.iter(NS + "circle"):
        assert 21 <= float(circle.get("cx")) <= width - 21 and 21 <= float(circle.get("cy")) <= height - 21


def test_names_are_escaped():
    svg = draw(Array(1.0, name="</text><script>&\"'"), title="<b>&")
    assert "<script>" not in svg and "<b>" not in svg
    assert texts(svg, None) == ["</text><script>&\"'"]


def test_numbers():
    assert number(np.array(1.23456)) == "1.23"
    assert number(np.array([1.0, 0.5])) == "[1, 0.5]"
    assert number(np.ones((4, 5))) == "4×5"
