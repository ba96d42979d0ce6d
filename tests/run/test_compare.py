"""Several runs side by side: the tests made in pairs, when they are refused, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import visus
from tests.report.sample_run import make_sample_run
from visus.cli.main import main
from visus.core.errors import UserError
from visus.metrics.significance import holm, mcnemar, paired_bootstrap
from visus.report.compare import render_comparison
from visus.run.compare import compare


def make(path: Path, skill: float, *, seed: int = 0, count: int = 400, digest: str = "same", **more) -> Path:
    """A finished run whose predictions for the test images are right with probability `skill`."""
    make_sample_run(path, skill=skill, examples=0, **more)
    rng, chance = np.random.default_rng(7), np.random.default_rng(seed)
    targets = rng.integers(0, 10, count)
    guess = np.where(chance.random(count) < skill, targets, (targets + chance.integers(1, 10, count)) % 10)
    probs = np.full((count, 10), 0.02)
    probs[np.arange(count), guess] = 0.82
    np.savez_compressed(path / "evaluation" / "test.npz", probs=probs, targets=targets, index=np.arange(count))
    data = json.loads((path / "data.json").read_text())
    (path / "data.json").write_text(json.dumps(data | {"digest": digest, "classes": list("0123456789")}))
    return path


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [make(tmp_path / "weak", 0.7), make(tmp_path / "strong", 0.95, seed=1, epochs=25)]


def right(path: Path) -> np.ndarray:
    with np.load(path / "evaluation" / "test.npz") as arrays:
        return arrays["probs"].argmax(1) == arrays["targets"]


def test_each_test_is_that_of_the_saved_predictions(runs):
    record = compare(runs).record
    tests = {row["metric"]: row for row in record["tests"]}
    assert list(tests) == ["accuracy", "nll", "brier", "ece"] and record["refused"] is None
    a, b = right(runs[0]), right(runs[1])
    counted, drawn = mcnemar(a, b), paired_bootstrap(a, b, resamples=2000)
    accuracy = tests["accuracy"]
    assert (accuracy["p"], accuracy["exact"]) == (counted.mid_p, counted.exact)
    assert (accuracy["only_first"], accuracy["only_second"]) == (counted.only_first, counted.only_second)
    assert accuracy["difference"] == pytest.approx(drawn.value)
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((drawn.low, drawn.high))
    assert accuracy["better"] == 1 and tests["nll"]["better"] == 1 and tests["nll"]["difference"] < 0
    np.testing.assert_allclose([row["adjusted"] for row in record["tests"]],
                               holm(np.array([row["p"] for row in record["tests"]])))


def test_equal_models_are_not_told_apart(tmp_path):
    record = compare([make(tmp_path / "a", 0.9, seed=3), make(tmp_path / "b", 0.9, seed=4)]).record
    assert all(row["better"] is None for row in record["tests"])
    page = render_comparison(record)
    assert "No two runs differ in accuracy by more than chance explains." in page and "no difference seen" in page


def test_many_pairs_are_corrected_together_and_can_still_be_told_apart(tmp_path):
    paths = [make(tmp_path / f"r{k}", 0.6 if k else 0.97, seed=k) for k in range(5)]
    record = compare(paths).record
    assert len(record["tests"]) == 10 * 4
    clear = [row for row in record["tests"] if row["first"] == 0]
    assert all(row["better"] == 0 for row in clear if row["metric"] != "ece")
    assert not [row for row in record["tests"] if row["first"] > 0 and row["better"] is not None]
    assert "4 of 10 pairs differ in accuracy" in render_comparison(record)


def test_only_what_differs_is_listed_and_the_best_is_marked(runs):
    record = compare(runs).record
    assert record["settings"] == [{"name": "train.epochs", "values": ["20", "25"]}]
    metrics = {row["name"]: row for row in record["metrics"]}
    for name, row in metrics.items():
        values = [one["value"] for one in row["values"]]
        expected = None if values[0] == values[1] else int(values[1] > values[0]) ^ (name in ("nll", "brier", "ece"))
        assert row["best"] == expected, name
    assert [curve["name"] for curve in record["curves"]] == ["train_loss", "val_loss", "accuracy"]
    assert [len(line) for line in record["curves"][1]["runs"]] == [20, 25]
    spreads = [row["spread"] for row in record["classes"]]
    assert len(spreads) == 10 and spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize("other, word", [
    ({"digest": "another"}, "other images, labels or splits"), ({"count": 300}, "tested on 300 images"),
    ({"classes": "abc"}, "other classes"), ({"multi_label": True}, "another task")])
def test_runs_on_other_test_images_are_shown_but_not_tested(tmp_path, other, word, capsys):
    first, second = make(tmp_path / "a", 0.9), make(tmp_path / "b", 0.8, **{k: v for k, v in other.items()
                                                                          if k != "classes"})
    if "classes" in other:
        data = json.loads((second / "data.json").read_text())
        (second / "data.json").write_text(json.dumps(data | {"classes": list("abcdefghij")}))
    page = tmp_path / "page.html"
    assert main(["report", str(first), str(second), "--out", str(page)]) == 0
    assert word in capsys.readouterr().out
    text = page.read_text()
    assert word in text and "Is it chance?" not in text and "<h2>Metrics</h2>" in text


def test_a_run_without_predictions_is_shown_too(tmp_path):
    begun = make_sample_run(tmp_path / "b", evaluated=False, status="interrupted")
    record = compare([make(tmp_path / "a", 0.9), begun.path]).record
    assert "did not come to its end" in record["refused"] and record["classes"] == []
    assert "interrupted" in render_comparison(record)


def test_the_page_needs_nothing_else_and_escapes_every_name(tmp_path, capsys):
    paths = [make(tmp_path / "x" / "<b>run", 0.7), make(tmp_path / "y" / "<b>run", 0.9, seed=2, model="<i>net")]
    page = tmp_path / "page.html"
    assert main(["report", *map(str, paths), "--out", str(page)]) == 0
    said, text = capsys.readouterr().out, page.read_text()
    assert "x/<b>run -> y/<b>run: accuracy" in said and str(page) in said
    assert "<b>run" not in text and "<i>net" not in text and "&lt;i&gt;net" in text
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "") and "<script" not in text
    assert "default-src &#39;none&#39;" in text and "style=" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    assert json.loads(page.with_suffix(".json").read_text())["tests"]


def test_several_labels_are_tested_on_exact_matches(tmp_path):
    paths = [make_sample_run(tmp_path / name, multi_label=True, examples=0).path for name in "ab"]
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 10)) < 0.3).astype(np.float32)
    for number, path in enumerate(paths):
        probs = np.clip(targets * 0.6 + 0.2 + rng.normal(0, 0.1 + 0.3 * number, targets.shape), 0, 1)
        np.savez_compressed(path / "evaluation" / "test.npz", probs=probs, targets=targets, index=np.arange(200))
        data = json.loads((path / "data.json").read_text())
        (path / "data.json").write_text(json.dumps(data | {"digest": "same"}))
    tests = {row["metric"]: row for row in compare(paths).record["tests"]}
    assert set(tests) == {"subset_accuracy", "hamming_loss"} and all(row["better"] == 0 for row in tests.values())
    assert tests["subset_accuracy"]["test"] == "McNemar, mid-p" and tests["hamming_loss"]["difference"] > 0


def test_wrong_runs_are_named(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="9 runs cannot be compared"):
        compare([runs[0]] * 9)
    with pytest.raises(UserError, match="is given twice"):
        compare([runs[0], runs[1], runs[0]])
    assert main(["report", str(runs[0]), str(tmp_path / "nowhere")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "--out", "x.html"]) == 2
    assert "is for several runs" in capsys.readouterr().err


def test_one_run_is_drawn_into_its_folder_as_before(runs, capsys):
    assert main(["report", str(runs[0])]) == 0
    assert capsys.readouterr().out.strip() == str(runs[0] / "report.html")
    assert visus.load(runs[0]).report.is_file()
