"""Drawings of a plane: where points, lines and dots come to lie."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from visus.report.plane import beside, plane, points_of

EXTENT = (-1.0, 3.0, 0.0, 2.0)


def test_the_points_are_the_centres_of_the_cells_rows_from_the_top():
    found = points_of(EXTENT, 2)
    assert found.tolist() == [[0.0, 1.5], [2.0, 1.5], [0.0, 0.5], [2.0, 0.5]]


def drawn(**options):
    probs = np.eye(2)[(points_of(EXTENT, 8)[:, 0] > 1).astype(int)]
    part = plane(probs, np.array([[-1.0, 2.0], [3.0, 0.0]]), np.array([0, 1]), EXTENT, side=100, **options)
    return beside([part, part], 100, 120, columns=2, title="Two <planes>")


def test_examples_lie_at_their_places_in_the_colour_of_their_class():
    svg = drawn(ringed=np.array([False, True]))
    circles = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert circles[:3] == [("hue0", "0", "20"), ("cursor", "100", "120"), ("hue1", "100", "120")]
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox") == "0 0 218 120" and root[0].text == "Two <planes>" and len(root) == 3


def test_a_line_is_cut_at_the_edges_and_left_out_where_it_does_not_pass():
    inside = drawn(lines=[(1.0, 0.0, -1.0)])  # x = 1, the middle
    assert 'x1="50" y1="120" x2="50" y2="20"' in inside
    assert "<line" not in drawn(lines=[(1.0, 0.0, -9.0)])
