"""visus doctor --depth: the table, the drawing, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import visus.cli.main as cli
from visus.core.errors import UserError
from visus.report.depth_chart import depth_chart
from visus.run.depth import depth

SMALL = {"model.name": "mlp", "model.config.hidden_dims": [24, 24, 24], "model.config.activation": "sigmoid",
         "data.image_size": 8}


def test_each_rule_has_its_rows_and_a_place_in_the_drawing(tmp_path):
    found = depth("digits", values=SMALL, inits=("auto", "small", "lsuv"), out=tmp_path / "depth.svg")
    assert {rule: len(rows) for rule, rows in found.rows.items()} == {"auto": 4, "small": 4, "lsuv": 4}
    assert all(row.std == pytest.approx(1, abs=1e-3) for row in found.rows["lsuv"])
    assert all(row.saturated is not None for row in found.rows["auto"][:-1])
    slopes = [row.gradient for row in found.rows["small"]]
    assert slopes[0] < slopes[1] < slopes[2] < slopes[3]
    text = str(found)
    assert text.count("hidden.0") == 3 and "init=lsuv" in text
    svg = (tmp_path / "depth.svg").read_text()
    assert all(f">{rule}</text>" in svg for rule in found.rows) and svg.startswith("<svg")
    assert svg.count('class="line std"') == svg.count('class="line slope"') == 3


def test_the_command_writes_the_drawing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = cli.main(["doctor", "digits", "--depth", "--quiet", "--inits", "auto", "--model", "mlp"])
    assert code == 0 and Path("depth.svg").exists()
    assert "hidden.0" in capsys.readouterr().out


def test_an_unknown_rule_and_one_that_the_model_refuses_are_named():
    with pytest.raises(UserError, match="he"):
        depth("digits", values=SMALL, inits=("kaiming", "he"))
    with pytest.raises(UserError, match="fixup"):
        depth("digits", values=SMALL, inits=("fixup",))


def _row(std: float, gradient: float | None, zeros: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(name="a & b", std=std, gradient=gradient, zeros=zeros, dead=None, saturated=None,
                           reach=3 * std, counts=(1, 2, 1) if std > 0 else (0, 0, 0))


def test_lines_are_drawn_to_one_logarithmic_scale_and_end_where_nothing_is_left():
    svg = depth_chart({"one": [_row(1, 1), _row(0.1, 1), _row(0.01, 1)], "two": [_row(1, 1), _row(0, 0), _row(0, 0)]},
                      "a < b")
    lines = re.findall(r'class="line std" points="([^"]+)"', svg)
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11) and heights[0] < heights[2]
    assert len(lines[1].split()) == 1, "zeros have no logarithm"
    assert "a &lt; b" in svg and "a &amp; b" in svg and svg.count("gone") >= 2
