"""The charts of registered models, of their kinds and of the ILSVRC winners."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tools import model_chart as drawn
from visus.cli.main import main
from visus.report import kind_chart, model_chart
from visus.run.models import passports


@pytest.mark.parametrize("name", ["models", "kinds", "ilsvrc"])
def test_a_chart_of_models_is_fresh(name: str):
    path = drawn.FIGURES / f"{name}.svg"
    assert path.read_text() == drawn.figures()[path], "stale: python tools/model_chart.py"


def test_bubbles_lie_where_the_passports_say():
    svg = model_chart.model_chart(passports().values())
    found = re.findall(r'<circle class="bubble [a-z ]+" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"><title>(\w+): '
                       r"([\d.]+) % top-1, ([\d.,]+) GMACs", svg)
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


# -- kinds ---------------------------------------------------------------------------------------------------------


def known_accuracies():
    return [p for p in passports().values() if p.task == "classification" and p.top1 is not None
            and p.top1[1] == "ImageNet-1k"]


def test_every_family_with_a_published_accuracy_has_a_kind():
    without = {p.family for p in known_accuracies() if kind_chart.kind_of(p) is None}
    assert not without, f"put them into KINDS of visus/report/kind_chart.py: {sorted(without)}"
    named = [family for families in kind_chart.KINDS.values() for family in families]
    assert len(named) == len(set(named)), "a family has one kind"
    assert {kind_chart.kind_of(p) for p in known_accuracies()} == set(kind_chart.KINDS)


def test_a_family_that_nobody_placed_is_seen():
    vit = passports()["vit_base_16"]
    assert kind_chart.kind_of(replace(vit, family="newcomer")) is None
    assert kind_chart.kind_of(replace(vit, family="newcomer", module="visus.models.cnn.newcomer")) == "ConvNet"


@pytest.mark.parametrize("name, top1, why", [
    ("convnext_tiny", 82.1, ""), ("vit_base_16", 81.072, ""), ("swin_large", 86.3, "more images than ImageNet-1k"),
    ("deit_base_distilled_16", 83.4, "a teacher"), ("efficientnet_b7", 84.122, "600 pixels"),
    ("cvt_w24", 87.6, "more images than ImageNet-1k, 384 pixels"), ("resnet50d", 77.16, ""),
    ("senet154", 81.32, ""),
    ("vit_large_r50_s32", 84.42, "more images than ImageNet-1k"),
    ("dino_small_16", 77.0, "a linear classifier on frozen features")])
def test_what_can_be_compared_is_told_from_what_cannot(name: str, top1: float, why: str):
    found = kind_chart.rating(passports()[name])
    assert found is not None and (found.top1, found.why, found.comparable) == (top1, why, not why)


@pytest.mark.parametrize("name", ["resnet18d", "cait_s36", "resnet20", "convnext_ladder_2_patchify"])
def test_figures_of_other_sizes_and_data_are_left_out(name: str):
    assert kind_chart.rating(passports()[name]) is None


def test_kinds_lie_where_the_passports_say_and_fronts_only_rise():
    svg = kind_chart.kind_chart(passports().values())
    found = re.findall(r'<circle class="bubble (\w+) (main|other)" cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+"><title>'
                       r"(\w+): ([\d.]+) % top-1", svg)
    drawn_names = {p.name for p in known_accuracies() if kind_chart.drawn(p)}
    assert {row[4] for row in found} == drawn_names
    for hue, style, _, _, name, top1 in found:
        rating = kind_chart.rating(passports()[name])
        assert (hue, style == "main") == (kind_chart.HUE[rating.kind], rating.comparable)
        assert float(top1) == pytest.approx(rating.top1, abs=0.01)
    by_height = sorted(found, key=lambda row: float(row[3]))
    tops = [float(row[5]) for row in by_height]
    assert all(a >= b - 0.05 for a, b in zip(tops, tops[1:], strict=False))
    for points in re.findall(r'<polyline class="front \w+" points="([^"]+)"', svg):
        pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
        assert pairs == sorted(pairs) and [y for _, y in pairs] == sorted((y for _, y in pairs), reverse=True)


def test_the_verb_draws_kinds(tmp_path, capsys):
    out = tmp_path / "k.svg"
    assert main(["models", "chart", "--by", "kind", "--out", str(out)]) == 0
    assert out.read_text() == kind_chart.kind_chart(passports().values())
    assert main(["models", "chart", "--by", "kind", "--family", "alexnet", "--out", str(out)]) == 2
    assert "could be drawn" in capsys.readouterr().err
