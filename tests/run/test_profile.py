"""visus train --profile: the same bits, operations counted right, and advice that follows from numbers."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import visus
from tests.report.page_reader import PageReader
from tests.run.test_folds import write_set
from visus.core.files import sha256
from visus.report.profile import summary_lines, view
from visus.run.advice import advice
from visus.run.models import create_model, describe_model
from visus.run.profile import fractions, matmul_peak, pass_flops, probe_batches

VALUES = {"model.name": "mlp", "data.image_size": 6, "train.epochs": 2, "train.batch_size": 16, "train.ema": 0.9,
          "train.clip_norm": 1.0, "augmentation": [], "train.threads": 1, "train.layout": "contiguous",
          "report.budget_s": 0, "optimizer.lr": 0.02}

RECORD = {
    "device": "cpu", "precision": "fp32", "layout": "contiguous", "threads": 1, "processes": 1, "batch": 32,
    "accumulate": 1, "workers": 0, "cache": False, "steps": 100, "step_s": 0.1, "images_per_s": 320.0,
    "parts": [{"name": name, "seconds": share / 10, "share": share} for name, share in (
        ("data", 0.02), ("forward", 0.35), ("backward", 0.55), ("clip", 0.01), ("optimizer", 0.04), ("average", 0.01),
        ("other", 0.02))],
    "whole_step_s": None, "run_s": 12.0, "outside": [{"name": "validation", "seconds": 1.2, "share": 0.1}],
    "memory": {"weights": 1.0, "gradients": 1.0, "optimizer": 2.0, "peak": 500.0},
    "peak": {"flops_per_s": 1e10, "size": 1024}, "flops": {"forward": 1e8, "backward": 2e8}, "fraction": {"step": 0.3},
    "batches": [{"batch": 32, "images_per_s": 300.0}, {"batch": 64, "images_per_s": 310.0}], "note": ""}


def changed(**shares):
    """RECORD with other shares of parts, of what is outside, or other fields."""
    record = copy.deepcopy(RECORD)
    for row in (*record["parts"], *record["outside"]):
        row["share"] = shares.pop(row["name"], row["share"])
    return record | shares


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    data = write_set(folder / "data.npz", count=150)
    return [visus.train(data, values=VALUES | {"train.profile": on}, out=folder / f"r{on}", progress=False)
            for on in (False, True)]


def test_a_profile_changes_no_bit_of_the_result(both):
    one, two = (sha256(run.path / "model" / "model.safetensors") for run in both)
    assert one == two and not (both[0].path / "profile.json").exists()


def test_the_parts_of_a_step_add_up_to_it_and_all_are_there(both):
    record = json.loads((both[1].path / "profile.json").read_text())
    assert sum(row["seconds"] for row in record["parts"]) == pytest.approx(record["step_s"], rel=1e-9)
    names = {row["name"] for row in record["parts"]}
    assert names == {"data", "to device", "forward", "backward", "clip", "optimizer", "average", "watch", "other"}
    assert {row["name"] for row in record["outside"]} == {"validation", "checkpoint", "between epochs"}
    steps = record["steps"] * record["step_s"]
    assert steps + sum(row["seconds"] for row in record["outside"]) <= record["run_s"]
    assert 0 < record["fraction"]["step"] < 1.5 and record["memory"]["weights"] > 0
    assert record["advice"] and [row["batch"] for row in record["batches"]][0] == 16


def test_the_page_and_the_terminal_show_it(both):
    page = PageReader(both[1].report.read_text())
    assert page.unbalanced == [] and "profile" in page.ids
    assert "Where the time goes" in page.text("main") and "backward pass" in page.text("main")
    assert "profile" not in PageReader(both[0].report.read_text()).ids
    lines = summary_lines(RECORD)
    assert any("backward pass" in text and "55.0 %" in text for _, text in lines)
    shown = view(RECORD)
    assert shown is not None and shown["parts"][-1] == {"name": "a step", "time": "100.00 ms", "share": "100.0\u202f%",
                                                        "hue": None, "fraction": "30.0\u202f%"}
    assert view({}) is None


def test_counted_operations_are_twice_the_macs_of_the_summary_and_thrice_with_the_way_back():
    model = create_model("resnet20", num_classes=10).train()
    images = torch.randn(2, 3, 32, 32)
    forward, backward = pass_flops(model, images)
    assert forward == 2 * 2 * describe_model("resnet20", image_size=32).macs
    first = 2 * 2 * 32 * 32 * 16 * 27  # the first layer has no gradient for the images
    assert backward == 2 * forward - first


def test_frozen_layers_have_no_way_back():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Linear(20, 5))
    model[1].requires_grad_(False)
    assert pass_flops(model, torch.randn(4, 3, 2, 2)) == (2 * 4 * (240 + 100), 2 * 4 * 100)


def test_fractions_are_operations_by_seconds_by_peak():
    assert fractions(RECORD) == pytest.approx({"forward": 1e8 / 0.035 / 1e10, "backward": 2e8 / 0.055 / 1e10,
                                               "step": 3e8 / 0.1 / 1e10})
    assert fractions(RECORD | {"accumulate": 2, "whole_step_s": 0.2})["step"] == pytest.approx(6e8 / 0.2 / 1e10)


def test_the_peak_is_a_rate_that_no_product_of_that_size_beats():
    found = matmul_peak(torch.device("cpu"), "fp32", seconds=0.0)
    assert 1e8 < found < 1e14


def test_larger_batches_are_probed_in_turn():
    found = probe_batches(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(3, 3, 2, 2), "fp32")
    assert [row["batch"] for row in found] == [3, 6, 12] and all(row["images_per_s"] > 0 for row in found)


@pytest.mark.parametrize(("record", "because", "do"), [
    (changed(data=0.4), "40% of a step waits for images", "data.cache=true keeps the decoded images, --set data.wor"),
    (changed(data=0.4, cache=True), "40% of a step waits", "--set data.workers=2 loads ahead"),
    (changed(data=0.4, cache=True, workers=3), "40% of a step waits", "--set data.workers=6"),
    (changed(optimizer=0.2, clip=0.05), "26% of a step changes the weights (optimizer alone 20%)", "--batch-size"),
    (changed(validation=0.5), "50% of the run measures the validation split", "data.val=0.05"),
    (changed(other=0.3), "30% of a step is none of these", "A larger --batch-size"),
    (changed(batches=[{"batch": 32, "images_per_s": 300.0}, {"batch": 64, "images_per_s": 600.0}]),
     "batches of 64 compute 2.00 times as many images a second as those of 32", "optimizer.lr_batch=32"),
    (changed(device="NVIDIA H200"), "the GPU computes in float32", "train.precision=bf16"),
    (changed(), "forward and backward passes take 90% of a step, at 30% of", "Nothing stands out"),
])
def test_advice_follows_from_the_numbers(record, because, do):
    found = advice(record)
    assert because in found[0]["because"] and do in found[0]["do"] and len(found) == 1


def test_what_costs_most_comes_first():
    found = advice(changed(data=0.3, validation=0.6, other=0.2))
    assert [row["because"].split("%")[0] for row in found] == ["60", "30", "20"]
