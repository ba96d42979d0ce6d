"""The charts of registered models and of the ILSVRC winners."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tools import model_chart as drawn
from visus.cli.main import main
from visus.report import model_chart
from visus.run.models import passports


@pytest.mark.parametrize("name", ["models", "ilsvrc"])
def test_a_chart_of_models_is_fresh(name: str):
    path = drawn.FIGURES / f"{name}.svg"
    assert path.read_text() == drawn.figures()[path], "stale: python tools/model_chart.py"


def test_bubbles_lie_where_the_passports_say():
    svg = model_chart.model_chart(passports().values())
    found = re.findall(r'<circle class="bubble [a-z ]+" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"><title>(\w+): '
                       r"([\d.]+) % top-1, ([\d.]+) GMACs", svg)
    known = {name: p for name, p in passports().items() if p.top1 is not None and p.top1[1] == "ImageNet-1k"
             and p.family != "convnext_ladder"}
    assert sorted(row[3] for row in found) == sorted(known)
    places = {name: (float(x), float(y), float(r)) for x, y, r, name, *_ in found}
    a, b, c = (known[name] for name in ("alexnet", "resnet50", "vgg16"))
    (xa, ya, ra), (xb, yb, _), (xc, yc, rc) = (places[p.name] for p in (a, b, c))
    assert (rc / ra) ** 2 == pytest.approx(c.params / a.params, rel=0.02), "the area is the number of parameters"
    assert (xb - xa) / (xc - xa) == pytest.approx(np.log(b.macs / a.macs) / np.log(c.macs / a.macs), abs=1e-3)
    assert (yb - ya) / (yc - ya) == pytest.approx((b.top1[0] - a.top1[0]) / (c.top1[0] - a.top1[0]), abs=1e-3)


def test_each_main_net_is_registered_and_named_on_the_chart_without_overlap():
    svg = model_chart.model_chart(passports().values())
    names = re.findall(r'<text class="name [a-z]+" x="([\d.]+)" y="([\d.]+)">(\w+)</text>', svg)
    assert sorted(name for *_, name in names) == sorted(model_chart.MAIN)
    boxes = [(float(x), float(y) - 9, float(x) + model_chart.text_width(name, model_chart.LABEL_PX), float(y) + 2)
             for x, y, name in names]
    for number, box in enumerate(boxes):
        for other in boxes[:number]:
            assert box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1], names[number]


def test_the_winners_are_the_eight_of_the_challenge():
    svg = model_chart.winners_chart()
    heights = [float(h) for h in re.findall(r'<rect class="value[^>]* height="([\d.]+)"', svg)]
    errors = [w.error for w in model_chart.WINNERS]
    assert [w.year for w in model_chart.WINNERS] == list(range(2010, 2018)) and errors == sorted(errors, reverse=True)
    assert heights == pytest.approx([h * heights[0] / errors[0] for h in errors], abs=0.1)


def test_the_verb_writes_the_chart(tmp_path, capsys):
    assert main(["models", "chart", "--out", str(tmp_path / "m.svg"), "--family", "resnet"]) == 0
    svg = (tmp_path / "m.svg").read_text()
    assert "resnet50" in svg and "vgg16" not in svg and "m.svg" in capsys.readouterr().out
    assert main(["models", "chart", "--out", str(tmp_path / "m.svg"), "--family", "nosuch"]) == 2
