"""The experiments on training: their runs, what was measured, and what is drawn and said of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from recipes.optimisation import run
from recipes.optimisation.effects import EFFECTS, SIZES, WIDTHS, Run, judge_begun, judge_counted, judge_scaling

RESULTS = run.HERE / "results.json"
RUNS = {name: one for effect in EFFECTS.values() for name, one in effect.runs.items()}


@pytest.fixture(scope="module")
def results():
    if not RESULTS.exists():
        pytest.skip("the experiments were not run: python recipes/optimisation/run.py all --data FOLDER")
    return json.loads(RESULTS.read_text())


def test_every_run_is_a_valid_recipe_with_what_it_varies():
    assert len(RUNS) == sum(len(effect.runs) for effect in EFFECTS.values()), "no name twice"
    for name, one in RUNS.items():
        recipe = run.recipe_of(one).model_dump()
        for field, value in one.values.items():
            found = recipe
            for part in field.split("."):
                found = found[part]
            assert found == value, f"{name}: {field}"
        assert one.images >= 250 and one.first + one.images <= 60_000
    assert run.recipe_of(RUNS["width-8-0"]).model.config == {"hidden_dims": [8]}
    for size in (4, 32):
        recipe = run.recipe_of(RUNS[f"batch-{size}"])
        assert recipe.train.batch_size * recipe.train.accumulate == 256


def test_results_are_of_these_runs(results):
    assert set(results["runs"]) <= RUNS.keys()
    for name in results["runs"]:
        kept = results["runs"][name]
        assert {key: kept[key] for key in ("values", "images", "first")} == run.stated(RUNS[name])
        assert kept["cpu_minutes"] < 3
    for name in run.present(results):
        assert sum(results["runs"][one]["cpu_minutes"] for one in EFFECTS[name].runs) < 6


def test_figures_and_page_are_those_of_the_results(results):
    for path, text in run.drawings(results, run.ROOT / "docs").items():
        assert path.read_text() == text, f"{path.name} is stale: python recipes/optimisation/run.py draw"


def _runs(**accuracy: float) -> dict:
    one = {name: {"value": value, "count": 4000} for name, value in accuracy.items()}
    return {name.replace("_", "-"): {"test": row, "train": row} for name, row in one.items()}


def test_the_scaling_rule_is_claimed_only_where_it_helps():
    kept = {"batch256_kept": 0.7, "batch1024_kept": 0.5}
    shown, words = judge_scaling(_runs(batch64=0.8, batch256=0.8, batch1024=0.79, **kept))
    assert shown and "holds within the noise up to batches of 1024" in words and "+29.0" in words
    shown, words = judge_scaling(_runs(batch64=0.8, batch256=0.7, batch1024=0.5, **kept))
    assert not shown and "never holds" in words


def test_few_images_are_blamed_only_where_group_norm_does_not_mind_them():
    assert judge_counted(_runs(batch_4=0.5, batch_32=0.7, batch_256=0.7, group_4=0.7, group_256=0.7))[0]
    assert not judge_counted(_runs(batch_4=0.5, batch_32=0.7, batch_256=0.7, group_4=0.5, group_256=0.7))[0]
    assert not judge_counted(_runs(batch_4=0.7, batch_32=0.7, batch_256=0.7, group_4=0.7, group_256=0.7))[0]


def test_a_diverged_net_counts_as_a_guess_and_sensitivity_is_a_range():
    runs = {f"scale-{scale:g}-{norm}": {"test": {"value": value, "count": 4000}} for norm, values in
            (("batch", (0.7, 0.7, 0.7, 0.6)), ("none", (0.1, 0.1, 0.7, None))) for scale, value in
            zip((1e-3, 1e-2, 1e-1, 1.0), values, strict=True) if value is not None}
    runs["scale-1-none"] = {}
    shown, words = judge_begun(runs)
    assert shown and "nothing is learnt from 0.001, 0.01, 1" in words and "between 60.0 and 70.0 %" in words


def test_bias_and_variance_add_up_to_the_brier_score(tmp_path):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 50)
    for part in range(4):
        logits = rng.normal(size=(50, 3)) + np.eye(3)[targets]
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        (tmp_path / str(part) / "evaluation").mkdir(parents=True)
        np.savez(tmp_path / str(part) / "evaluation" / "test.npz", probs=probs, targets=targets, index=np.arange(50))
    found = run.bias_and_variance([tmp_path / str(part) for part in range(4)])
    assert found["bias"] + found["variance"] == pytest.approx(found["brier"])
    same = run.bias_and_variance([tmp_path / "0"] * 3)
    assert same["variance"] == pytest.approx(0, abs=1e-15) and same["bias"] == pytest.approx(same["brier"])


def test_lines_are_drawn_through_the_numbers_of_each_chart():
    runs = {name: {"test": {"value": 0.5, "count": 4000}, "train": {"value": 0.9, "count": 800},
                   "parts": {"bias": 0.4, "variance": 0.1}} for name in EFFECTS["capacity"].runs}
    charts = EFFECTS["capacity"].charts(runs)
    assert [y for _, y in charts[0].series["test"]] == pytest.approx([50.0] * len(WIDTHS))
    assert [y for _, y in charts[1].series["sum"]] == pytest.approx([50.0] * len(WIDTHS))
    svg = run.drawn("capacity", charts)
    assert len(re.findall("<circle", svg)) == 5 * len(WIDTHS) + 2 * len(SIZES)


def test_the_factor_of_the_gradient_is_told_by_rule():
    rows = [{"gradient": 10.0**power} for power in (-4, -3, -2, -1)]
    assert run.fade({"xavier": rows}) == "Factor of the gradient from each layer to the one before it: xavier 0.10."
    assert Run().images == 12_000
