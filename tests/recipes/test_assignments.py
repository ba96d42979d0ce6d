"""The assignments page: a generated file in CIFAR-10's format goes all the way, verdicts can fail, it is fresh."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recipes.assignments import run
from recipes.assignments.first import FIRST, at_least, told_features, told_searches
from recipes.assignments.images import open_images
from recipes.assignments.second import SCALES, SECOND, told_dropout, told_first_weights, told_overfit, told_rules
from visus.core.errors import UserError

RESULTS = run.HERE / "results.json"


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """(folder of two files packed as recipes/reproduce.py says, the images of the test file)."""
    folder, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = (rng.integers(0, 70, (count, 32, 32, 3)) + 18 * labels[:, None, None, None]).astype(np.uint8)
        green = images[..., 1]
        planes = np.stack([green, images[..., 0] - green, images[..., 2] - green])
        for axis in (-2, -1):
            planes = np.diff(planes, axis=axis, prepend=np.zeros_like(planes.take([0], axis)))
        np.savez(folder / f"cifar10_{split}.npz", q=planes, y=labels)
    return folder, images


def test_the_packed_file_is_read_bit_for_bit(cifar10, tmp_path):
    folder, images = cifar10
    data = open_images("cifar10", folder, tmp_path)
    assert (data.images["test"] == images).all() and data.labels["test"].tolist() == [i % 10 for i in range(60)]
    assert {split: len(part) for split, part in data.images.items()} == {"train": 240, "val": 60, "test": 60}
    rows = data.rows(100)
    assert rows["train"][0].shape == (100, 3072) and abs(rows["train"][0].mean()) < 1e-12
    assert rows["train"][0].std() == pytest.approx(1)
    assert data.rows(100, flat=False)["val"][0].shape == (60, 3, 32, 32)


def test_the_command_for_cifar10_goes_all_the_way_and_does_nothing_twice(cifar10, tmp_path, capsys):
    told = ["--small", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json"), "--docs",
            str(tmp_path)]
    for name in ("knn", "rules"):
        assert run.main([name, "--cifar10", str(cifar10[0]), *told]) == 0
    first = json.loads((tmp_path / "results.json").read_text())["exercises"]
    assert first["knn"]["cifar10"]["rows"]["k = 1"]["test"] > 0.2 and set(first) == {"knn", "rules"}
    text = (tmp_path / "assignments.md").read_text()
    assert "### k nearest neighbours" in text and "27.4 %" in text and "Reproduced.** Cross" not in text  # of one set
    assert run.main(["knn", "--cifar10", str(cifar10[0]), *told]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["exercises"] == first
    capsys.readouterr()


@pytest.mark.slow
def test_every_exercise_runs_on_a_generated_cifar10(cifar10, tmp_path):
    told = ["--small", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json"), "--docs",
            str(tmp_path)]
    assert run.main(["all", "--cifar10", str(cifar10[0]), *told]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["exercises"].keys() == run.EXERCISES.keys()


def test_without_images_it_says_what_to_give(tmp_path, capsys):
    assert run.main(["knn", "--results", str(tmp_path / "r.json")]) == 2
    assert "--cifar10" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"cifar10_train\.npz"):
        open_images("cifar10", tmp_path, tmp_path)


def test_page_is_that_of_the_results():
    if not RESULTS.exists():
        pytest.skip("the assignments were not run: python recipes/assignments/run.py all --cifar10 FOLDER ...")
    text = (run.ROOT / "docs" / "assignments.md").read_text()
    assert text == run.page(json.loads(RESULTS.read_text())), "stale: python recipes/assignments/run.py draw"


def test_results_have_a_row_for_all_that_the_course_states():
    if not RESULTS.exists():
        pytest.skip("the assignments were not run")
    made = json.loads(RESULTS.read_text())["exercises"]
    assert made.keys() <= {**FIRST, **SECOND}.keys()
    for name, sets in made.items():
        for found in sets.values():
            stated = set(run.EXERCISES[name].published) - {"best k"}
            assert stated <= found["rows"].keys(), name
            for row in found["rows"].values():
                assert all(0 <= row[split] <= 1 for split in ("train", "val", "test") if split in row)


def both(**rows):
    return {"cifar10": rows, "fashion": rows}


def test_a_number_below_the_courses_is_called_so():
    judge = at_least("by SGD", 0.39)
    assert judge(both(**{"by SGD": {"val": 0.385}}))[0] and not judge(both(**{"by SGD": {"val": 0.37}}))[0]
    assert "37.0 %" in judge(both(**{"by SGD": {"val": 0.37}}))[1]
    weak = {"and SVM": {"val": 0.44}, "and a two-layer net": {"val": 0.50}}
    assert not told_features(both(**weak))[0]


def test_comparisons_are_shown_only_where_they_hold_on_both_sets():
    right = {"random search": {"test": 0.15}, "local search": {"test": 0.2}}
    wrong = {"random search": {"test": 0.25}, "local search": {"test": 0.2}}
    assert told_searches(both(**right))[0] and not told_searches({"cifar10": right, "fashion": wrong})[0]
    rules = {"sgd": {"train": 0.3}, "momentum": {"train": 0.4}, "rmsprop": {"train": 0.2}, "adam": {"train": 0.5}}
    shown, words = told_rules(both(**rules))
    assert not shown and "momentum, adam" in words
    kept = {"keep 1": {"train": 0.99, "val": 0.3}, "keep 0.25": {"train": 0.7, "val": 0.3}}
    assert told_dropout(both(**kept))[0] and not told_dropout(both(**{"keep 1": kept["keep 0.25"],
                                                                      "keep 0.25": kept["keep 1"]}))[0]
    learnt = {name: {"train": 1.0} for name in ("3 layers", "5 layers")}
    assert told_overfit(both(**learnt, **{f"5 layers from {s:g}": {"train": 0.1} for s in (1e-3, 1e-2)}))[0]
    assert not told_overfit(both(**learnt, **{f"5 layers from {s:g}": {"train": 0.9} for s in (1e-3, 1e-2)}))[0]
    flat = {f"{scale:g} with": {"val": 0.3} for scale in SCALES}
    steep = {f"{scale:g} without": {"val": 0.1 + 0.2 * (scale == 1e-1)} for scale in SCALES}
    assert told_first_weights(both(**flat, **steep))[0]
