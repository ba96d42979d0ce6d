"""The picture of a schedule before a run: what is drawn is what the optimizer will get."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import torch

from visus.core.errors import RecipeError, UserError
from visus.run.build import make_optimizer, make_schedule
from visus.run.models import create_model
from visus.run.recipe import Recipe
from visus.run.schedule_preview import preview_schedule, preview_table

VIT = {"model.name": "vit_tiny_16", "model.config": {"patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2,
                                                     "image_size": 16},
       "optimizer.name": "adamw", "optimizer.lr": 0.01, "optimizer.weight_decay": 0.05,
       "optimizer.layer_decay": 0.5, "train.epochs": 10}


def test_the_rates_are_those_that_the_optimizers_groups_will_have():
    recipe = Recipe().with_values(VIT | {"schedule.warmup_epochs": 1.0})
    record = preview_schedule(recipe)
    model = create_model("vit_tiny_16", **recipe.model.config)
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, record["updates_per_epoch"])
    for step in (0, 15, 100, 299):
        schedule.apply(step)
        at, factor = record["points"][step]
        assert at == pytest.approx(step / 30)
        assert sorted(group["lr"] * factor for group in record["groups"]) == pytest.approx(
            sorted(group["lr"] for group in optimizer.param_groups))
    assert sum(group["weights"] for group in record["groups"]) == sum(p.numel() for p in model.parameters())
    assert [group["lr"] for group in record["groups"]] == sorted(group["lr"] for group in record["groups"])


def test_warm_up_snapshots_sizes_and_averaging_are_marked(tmp_path):
    record = preview_schedule("cifar10-resnet20", tmp_path / "a.svg", values={
        "schedule.name": "cosine", "train.epochs": 12, "train.snapshots": 3, "train.sizes": [[0, 0.5], [0.5, 1]],
        "schedule.warmup_epochs": 1.0})
    assert record["snapshots"] == [4, 8, 12] and record["sizes"] == [[0, 0.5], [6, 1]]
    text = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 4  # three snapshots, one in the legend
    assert all(part in text for part in ("warm-up: 1 epoch<", "images at 50 %", "images at 100 %",
                                         "snapshot after epoch 8", "268,336"))
    preview_schedule("cifar10-resnet20", tmp_path / "b.svg", values={"train.average_from": 0.75})
    assert "average from here" in (tmp_path / "b.svg").read_text()


def test_a_page_is_self_contained_and_has_a_row_for_each_group(tmp_path):
    record = preview_schedule(Recipe().with_values(VIT), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text and "<script" not in text
    assert all(row[0] in text and row[1] in text for row in preview_table(record))
    assert len(preview_table(record)) == 8  # four layers, decay and none


def test_rates_that_the_data_decide_are_shares_of_the_peak():
    record = preview_schedule(Recipe().with_values({"train.epochs": 5}))
    assert record["relative"] and {row[1] for row in preview_table(record)} == {"1 of the peak"}
    assert any("optimizer.lr=auto" in note for note in record["notes"])
    assert [row[3] for row in preview_table(record)] == ["–", "–"]


@pytest.mark.parametrize("values, field", [
    ({}, r"train\.epochs=auto"),
    ({"train.epochs": 5, "optimizer.layer_decay": 0.5}, r"model\.name=auto, optimizer\.layer_decay=0\.5"),
    ({"train.epochs": 2, "train.snapshots": 3}, "cycles=3"),
])
def test_what_cannot_be_drawn_yet_is_refused_with_what_to_set(values, field):
    with pytest.raises(RecipeError, match=field):
        preview_schedule(Recipe().with_values(values))


def test_frozen_parameters_are_in_no_row():
    record = preview_schedule("cifar10-resnet20", values={"model.freeze": "backbone"})
    assert [group["tensors"] for group in record["groups"]] == [1, 1]


def test_only_svg_and_html_are_drawn(tmp_path):
    with pytest.raises(UserError, match=r"a\.png"):
        preview_schedule("cifar10-resnet20", tmp_path / "a.png")


def test_the_model_of_a_preview_takes_no_memory(monkeypatch):
    seen = []
    original = torch.optim.SGD.__init__
    monkeypatch.setattr(torch.optim.SGD, "__init__", lambda *a, **k: seen.append(1) or original(*a, **k))
    record = preview_schedule(Recipe().with_values({"model.name": "resnet50", "train.epochs": 3, "optimizer.lr": 1.0}))
    assert sum(group["weights"] for group in record["groups"]) == 25_557_032 and not seen
