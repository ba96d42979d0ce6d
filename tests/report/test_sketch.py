"""The parts of a demo's drawing: what is drawn where, in which class, and that texts are escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from visus.report.sketch import arrow, bounds, box, grid, node, picture, plot, plot_axes, sheet, words

SVG = "{http://www.w3.org/2000/svg}"


def parsed(*parts, width=100, height=100):
    return ElementTree.fromstring(sheet(width, height, *parts, title="a < b"))


def test_signs_differ_in_hue_and_sizes_in_depth():
    root = parsed(grid([[2, -2], [0, 1]], 0, 0, 20))
    kinds = {path.get("class"): path.get("d").count("M") for path in root.iter(f"{SVG}path")}
    assert kinds == {"hit level9": 1, "miss level9": 1, "empty": 1, "hit level4": 1}
    assert [text.text for text in root.iter(f"{SVG}text")] == ["2", "-2", "0", "1"]


def test_void_cells_are_dashed_and_empty_and_zero_has_no_sign():
    root = parsed(grid(np.array([[-0.0, 5.0]]), 0, 0, 20, void=np.array([[False, True]]), form=lambda v: f"{v:g}"))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["0"]
    assert "void" in {path.get("class") for path in root.iter(f"{SVG}path")}


def test_long_numbers_shrink_to_their_cell():
    short, long = (float(parsed(grid([[value]], 0, 0, 30)).find(f".//{SVG}text").get("font-size"))
                   for value in (3, 123456))
    assert short == 12 and long < 9


def test_an_arrow_ends_where_it_points():
    root = parsed(arrow(10, 50, 90, 50))
    head = root.find(f".//{SVG}path").get("d")
    assert re.search(r"L90\.0 50\.0L", head)


def test_texts_are_escaped_and_the_title_is_said():
    root = parsed(words("<b>", 1, 2), box(0, 0, 10, 10, "x & y\nz"), node(5, 5, "<"), bounds(0, 0, 1, 1))
    assert root.find(f"{SVG}title").text == "a < b"
    assert {text.text for text in root.iter(f"{SVG}text")} == {"<b>", "x & y", "z", "<"}


def test_a_picture_lies_inside_of_the_drawing():
    root = parsed(picture(np.zeros((4, 8, 3), np.uint8), 0, 0, 40))
    image = root.find(f".//{SVG}image")
    assert image.get("href").startswith("data:image/png;base64,") and float(image.get("height")) == 20


def test_curves_map_onto_the_axes_and_stay_in_the_field():
    curves = [("one", [(0, 0.0), (10, 100.0)]), ("two", [(0, 50.0), (10, 5000.0)])]
    x_axis, y_axis, top = plot_axes(curves, ranges=(None, None, 0, 100))
    drawn = ElementTree.fromstring(plot(curves, x_label="x", ranges=(None, None, 0, 100), title="t"))
    lines = [line.get("points") for line in drawn.iter(f"{SVG}polyline")]
    assert lines[0] == f"{x_axis(0):.1f},{y_axis(0):.1f} {x_axis(10):.1f},{y_axis(100):.1f}"
    assert lines[1].endswith(f"{y_axis(100):.1f}") and y_axis(100) == pytest.approx(top)


def test_names_of_many_curves_take_several_lines_above_the_field():
    curves = [(f"a curve with a long name {i}", [(0, 0.0), (1, 1.0)]) for i in range(6)]
    assert plot_axes(curves)[2] > plot_axes(curves[:1])[2]
    drawn = ElementTree.fromstring(plot(curves, x_label="x", title="t"))
    assert max(float(text.get("x")) for text in drawn.iter(f"{SVG}text") if "curve" in (text.text or "")) < 460


def test_logarithmic_axes_leave_out_what_has_no_logarithm():
    drawn = ElementTree.fromstring(plot([("", [(1, 0.0), (10, 1.0), (100, 10.0)])], x_label="x", log_x=True, log_y=True,
                                        title="t"))
    assert len(drawn.find(f".//{SVG}polyline").get("points").split()) == 2
