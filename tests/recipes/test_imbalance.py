"""The measured remedies against uneven classes: their recipe, and the page that is drawn from the results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recipes.imbalance import run
from visus.data.opening import open_samples
from visus.data.split import split_samples
from visus.run.recipe import read_yaml

RESULTS = json.loads((run.HERE / "results.json").read_text())


def test_results_are_of_the_recipe_and_the_methods_as_they_are():
    stated = {k: v for k, v in read_yaml(run.HERE / "recipe.yaml").items() if k != "description"}
    assert RESULTS["recipe"] == stated and RESULTS["methods"].keys() == run.METHODS.keys()
    for name, found in RESULTS["methods"].items():
        assert found["changes"] == dict(run.METHODS[name][1])
        assert [row["seed"] for row in found["seeds"]] == [0, 1, 2]
        run.recipe_of(name)


def test_the_page_is_drawn_from_the_results():
    page = (run.ROOT / "docs" / "imbalance.md").read_text()
    assert page == run.page(RESULTS), "stale: python recipes/imbalance/run.py draw"
    plain = np.mean([row["balanced_accuracy"] for row in RESULTS["methods"]["none"]["seeds"]])
    assert f"| nothing | – | {100 * plain:.1f} ±" in page


def test_the_verdict_counts_what_is_better_in_every_seed():
    def of(*values):
        return {"seeds": [{"balanced_accuracy": v, "recall": [v] * 10} for v in values]}

    text = run.verdict({"none": of(0.5, 0.6), "weighted": of(0.6, 0.7), "focal": of(0.7, 0.6)})
    assert "better in every seed: `weighted` +10.0." in text and "Not better in every seed: `focal` +10.0." in text
    assert "No method" in run.verdict({"none": of(0.5, 0.6), "focal": of(0.4, 0.6)})


def test_rare_classes_keep_a_tenth_and_the_test_split_all_of_its_images(tmp_path):
    samples = open_samples("digits")
    splits = split_samples(samples, val=0.0, test=run.TEST, seed=0)
    whole = samples.class_counts(splits["train"])
    with np.load(run.thinned(1, tmp_path)) as file:
        counts = np.bincount(file["train_labels"], minlength=10)
        assert np.array_equal(np.bincount(file["test_labels"]), samples.class_counts(splits["test"]))
    for label in range(10):
        assert counts[label] == (whole[label] // run.THINNED if label in run.RARE else whole[label])
    again = run.thinned(2, tmp_path)
    assert again != run.thinned(1, tmp_path) and again.stat().st_size == pytest.approx(
        run.thinned(1, tmp_path).stat().st_size)
