"""The experiments: their recipes, what was measured, and what is drawn and said of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from recipes.experiments import run
from visus.core.passport import agrees
from visus.run.models import create_model, describe_model
from visus.run.recipe import Recipe

RESULTS = json.loads((run.HERE / "results.json").read_text())
NAMES = sorted({name for experiment in run.EXPERIMENTS.values() for name in experiment.runs})


def test_every_recipe_belongs_to_an_experiment():
    assert sorted(path.stem for path in run.HERE.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_a_model_and_its_result_is_of_this_recipe(name: str):
    recipe = Recipe.load(run.HERE / f"{name}.yaml")
    model = create_model(recipe.model.name, num_classes=10, **recipe.model.config)
    measured = RESULTS["runs"][name]
    assert measured["recipe"] == run.stated(name) and measured["changed"] == {}
    assert measured["params"] == sum(p.numel() for p in model.parameters())
    for seed in measured["seeds"]:
        assert [row["epoch"] for row in seed["curve"]] == list(range(1, recipe.train.epochs + 1))
        assert seed["train"]["count"] == 0.8 * run.TRAIN_IMAGES and seed["test"]["count"] == run.TEST_IMAGES


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
    svg = run.figure(experiment, RESULTS["runs"])
    lengths = [float(w) for w in re.findall(r'<rect class="(?:first|second)"[^>]* width="([\d.]+)"', svg)]
    accuracies = [np.mean([seed["test"]["value"] for seed in RESULTS["runs"][name]["seeds"]])
                  for name in experiment.runs]
    assert lengths == pytest.approx([(run.BARS_WIDTH - 84) * a for a in accuracies], abs=0.06)


def _runs(**accuracy: float) -> dict:
    row = {name: {"value": value, "low": value, "high": value, "count": 4000} for name, value in accuracy.items()}
    return {name: {"seeds": [{"train": one, "test": one}]} for name, one in row.items()}


def test_degradation_is_claimed_only_where_the_deep_plain_net_alone_is_worse():
    assert run.judge_depth(_runs(plain20=0.5, plain56=0.3, resnet20=0.5, resnet56=0.52))[0]
    assert not run.judge_depth(_runs(plain20=0.5, plain56=0.5, resnet20=0.5, resnet56=0.5))[0]
    assert not run.judge_depth(_runs(plain20=0.5, plain56=0.3, resnet20=0.5, resnet56=0.3))[0], "both are worse"
    assert not run.judge_shortcuts({name: {**one, "params": 1} for name, one in
                                    _runs(**{"resnet20": 0.50, "resnet20-b": 0.51}).items()})[0], "within the noise"


def test_a_diverged_run_counts_as_a_guess():
    runs = {**_runs(a=0.5), "b": {"seeds": [{"curve": []}]}}
    assert run.difference(runs, "a", "b", "test")[0] == pytest.approx(40.0)
    assert run.percent(runs["b"], "test") == "diverged"


def test_two_standard_errors_are_those_of_a_binomial_share():
    drawn = np.random.Generator(np.random.PCG64(0)).binomial(4000, 0.6, 20_000) / 4000
    assert run.score(_runs(a=0.6)["a"], "test").error == pytest.approx(200 * drawn.std(), rel=0.02)


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
    assert run.percent(measured["resnet20-b"], "test") in page and (tmp_path / "docs/figures").exists()
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
