"""The experiments: their recipes, what was measured, and what is drawn and said of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from recipes.experiments import figures, run, transformers
from recipes.experiments.convolution import judge_depth, judge_shortcuts
from recipes.experiments.experiment import HERE, TEST_IMAGES, difference, percent, score
from visus.core.passport import agrees
from visus.core.preprocessing import Preprocessing
from visus.run.models import create_model, describe_model

RESULTS = json.loads((HERE / "results.json").read_text())
NAMES = sorted({name for experiment in run.EXPERIMENTS.values() for name in experiment.runs})


def test_every_recipe_belongs_to_an_experiment():
    assert {path.stem for path in HERE.glob("*.yaml")} == {run.variation(name).recipe for name in NAMES}
    assert run.VARIATIONS.keys() <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_a_model_and_its_result_is_of_this_recipe(name: str):
    recipe = run.recipe_of(name)
    measured = RESULTS["runs"][name]
    assert measured["recipe"] == json.loads(json.dumps(run.stated(name))) and measured["changed"] == {}
    assert measured["params"] == sum(p.numel() for p in run.model_of(recipe).parameters())
    for seed in measured["seeds"]:
        assert [row["epoch"] for row in seed["curve"]] == list(range(1, recipe.train.epochs + 1))
        assert seed["train"]["count"] == pytest.approx(0.8 * run.variation(name).images, abs=10)  # by class
        assert seed["test"]["count"] == TEST_IMAGES


def test_figures_and_page_are_those_of_the_results():
    for path, text in run.drawings(RESULTS, run.ROOT / "docs").items():
        assert path.read_text() == text, f"{path.name} is stale: python recipes/experiments/run.py draw"
    page = (run.ROOT / "docs" / "experiments.md").read_text()
    for name, experiment in run.EXPERIMENTS.items():
        drawn = (run.ROOT / f"docs/figures/experiments_{name}.svg").read_text()
        for recipe in experiment.runs:
            mean = np.mean([seed["test"]["value"] for seed in RESULTS["runs"][recipe]["seeds"]])
            assert f"{100 * mean:.1f} %" in drawn and f"| {100 * mean:.1f} %" in page


def test_bars_are_as_long_as_the_accuracy():
    experiment = run.EXPERIMENTS["shortcuts"]
    svg = figures.figure(experiment, RESULTS["runs"])
    lengths = [float(w) for w in re.findall(r'<rect class="(?:first|second)"[^>]* width="([\d.]+)"', svg)]
    accuracies = [np.mean([seed["test"]["value"] for seed in RESULTS["runs"][name]["seeds"]])
                  for name in experiment.runs]
    assert lengths == pytest.approx([(figures.BARS_WIDTH - 84) * a for a in accuracies], abs=0.06)


def test_lines_go_through_the_measured_accuracies():
    svg = figures.figure(run.EXPERIMENTS["data_size"], RESULTS["runs"])
    drawn = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    heights = {kind: [float(y) for k, _, y in drawn if k == kind] for kind in ("first", "second")}
    for kind, net in (("first", "cnn"), ("second", "vit")):
        values = [np.mean([s["test"]["value"] for s in RESULTS["runs"][transformers.of_size(net, size)]["seeds"]])
                  for size in (*transformers.SIZES, run.TRAIN_IMAGES)]
        assert len(heights[kind]) == 4 and abs(np.corrcoef(heights[kind], values)[0, 1] + 1) < 1e-4
    across = [float(x) for k, x, _ in drawn if k == "first"]
    assert np.diff(across) == pytest.approx([np.diff(across)[0]] * 3, abs=0.11), "doublings are equal steps"


def _runs(**accuracy: float) -> dict:
    row = {name: {"value": value, "low": value, "high": value, "count": 4000} for name, value in accuracy.items()}
    return {name: {"seeds": [{"train": one, "test": one}]} for name, one in row.items()}


def test_degradation_is_claimed_only_where_the_deep_plain_net_alone_is_worse():
    assert judge_depth(_runs(plain20=0.5, plain56=0.3, resnet20=0.5, resnet56=0.52))[0]
    assert not judge_depth(_runs(plain20=0.5, plain56=0.5, resnet20=0.5, resnet56=0.5))[0]
    assert not judge_depth(_runs(plain20=0.5, plain56=0.3, resnet20=0.5, resnet56=0.3))[0], "both are worse"
    assert not judge_shortcuts({name: {**one, "params": 1} for name, one in
                                    _runs(**{"resnet20": 0.50, "resnet20-b": 0.51}).items()})[0], "within the noise"


def test_built_in_is_shown_only_where_permuting_ends_the_cnns_lead_and_leaves_the_mlp():
    def verdict(mlp: float, cnn: float, vit: float) -> bool:
        plain = _runs(mlp=0.5, cnn=0.6, vit=0.55)
        mixed = _runs(**{"mlp-permuted": mlp, "cnn-permuted": cnn, "vit-permuted": vit})
        for net, lost in (("mlp", 0.2), ("cnn", 0.05), ("vit", 0.1)):
            start = plain[net]["seeds"][0]["test"]["value"]
            plain[net]["seeds"][0]["shifts"] = [{"shift": s, "accuracy": start - lost * s / 4} for s in range(5)]
        return transformers.judge_built_in(plain | mixed)[0]

    assert verdict(0.5, 0.5, 0.52)
    assert not verdict(0.4, 0.4, 0.52), "the MLP cares"
    assert not verdict(0.5, 0.55, 0.52), "the CNN is still ahead"
    assert not verdict(0.5, 0.6, 0.55), "nothing happens"


def test_a_permutation_moves_whole_pixels_and_a_shift_whole_rows():
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    mixed = run.permuted(images)
    assert not np.array_equal(mixed, images)
    for before, after in zip(images, mixed, strict=True):
        assert sorted(map(tuple, before.reshape(-1, 3))) == sorted(map(tuple, after.reshape(-1, 3)))
    where = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    moved = run.permuted(np.concatenate([where, where]))
    assert np.array_equal(moved[0], moved[1]) and len(np.unique(moved)) == 256
    assert np.array_equal(images.reshape(3, 256, 3)[:, moved[0, ..., 0].ravel()], mixed.reshape(3, 256, 3))


def test_accuracy_by_shift_sees_each_image_moved_by_that_many_pixels():
    class ByCorner(torch.nn.Module):
        """Class 1 where the bright pixel is at (8, 8) of the 16 x 16 pixels."""

        def forward(self, images):
            bright = images[:, 0, 8, 8]
            return torch.stack([torch.full_like(bright, 0.5), bright], 1)

    class Run:
        model = ByCorner()
        preprocessing = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)

    images = np.zeros((4, 16, 16, 3), np.uint8)
    for image, (y, x) in zip(images, ((8, 8), (9, 8), (8, 6), (5, 8)), strict=True):
        image[y, x] = 255
    found = {row["shift"]: row["accuracy"] for row in run.by_shift(Run(), images, np.ones(4, np.int64))}
    assert found == {0: 0.25, 1: 0.0625, 2: 0.0625, 3: 0.0625, 4: 0.0}


def test_a_diverged_run_counts_as_a_guess():
    runs = {**_runs(a=0.5), "b": {"seeds": [{"curve": []}]}}
    assert difference(runs, "a", "b", "test")[0] == pytest.approx(40.0)
    assert percent(runs["b"], "test") == "diverged"


def test_two_standard_errors_are_those_of_a_binomial_share():
    drawn = np.random.Generator(np.random.PCG64(0)).binomial(4000, 0.6, 20_000) / 4000
    assert score(_runs(a=0.6)["a"], "test").error == pytest.approx(200 * drawn.std(), rel=0.02)


def test_an_experiment_runs_from_images_to_page_and_is_not_repeated(tmp_path, capsys):
    generator = np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", 200), ("test", 60)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 60, (count, 32, 32, 3), dtype=np.uint8) + 15 * labels[:, None, None, None]
        np.savez(tmp_path / f"cifar10_{split}.npz", images=images.astype(np.uint8), labels=labels)
    command = ["shortcuts", "--data", str(tmp_path), "--out", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs"),
               "--results", str(tmp_path / "results.json"), "--set", "data.image_size=8", "--set"]
    assert run.main([*command, "train.epochs=1"]) == 0
    first = (tmp_path / "results.json").read_text()
    measured = json.loads(first)["runs"]
    for name in ("resnet20", "resnet20-b"):
        metrics = json.loads((tmp_path / f"runs/{name}-seed0/metrics.json").read_text())
        assert measured[name]["seeds"][0]["test"] == {**metrics["splits"]["test"]["metrics"]["accuracy"], "count": 60}
        assert measured[name]["changed"] == {"data.image_size": 8, "train.epochs": 1}
        assert measured[name]["seeds"][0]["train"]["count"] == 160
    page = (tmp_path / "docs/experiments.md").read_text()
    assert percent(measured["resnet20-b"], "test") in page and (tmp_path / "docs/figures").exists()
    finished = (tmp_path / "runs/resnet20-seed0/run.json").stat().st_mtime_ns
    assert run.main([*command, "train.epochs=1"]) == 0
    assert (tmp_path / "results.json").read_text() == first
    assert (tmp_path / "runs/resnet20-seed0/run.json").stat().st_mtime_ns == finished
    assert run.main([*command, "train.epochs=2"]) == 2
    assert "train.epochs" in capsys.readouterr().err


def test_without_images_the_runner_says_what_is_missing(capsys):
    assert run.main(["depth"]) == 2
    assert "--data" in capsys.readouterr().err


def test_a_separable_pair_costs_one_over_filters_and_one_ninth_of_a_full_convolution():
    light = [row for row in describe_model(create_model("mobilenet_v1"), 224).rows if row.type == "Conv2d"][1:]
    full = [row for row in describe_model(create_model("mobilenet_v1", separable=False), 224).rows
            if row.type == "Conv2d"][1:]
    assert len(light) == 2 * len(full) == 26
    for by_channel, across, whole in zip(light[::2], light[1::2], full, strict=True):
        filters = whole.output_shape[1]
        assert across.output_shape == whole.output_shape
        for cost in ("macs", "params"):
            pair = getattr(by_channel, cost) + getattr(across, cost)
            assert 9 * filters * pair == (9 + filters) * getattr(whole, cost)  # 1 / filters + 1 / 9


def test_the_full_mobilenet_has_the_counts_of_table_4():
    summary = describe_model(create_model("mobilenet_v1", separable=False), 224)
    assert agrees(summary.params, "29.3e6")
    assert agrees(summary.macs - 1000 * 1024, "4866e6"), "the paper leaves out the classifier"
