"""Cross-validation as a verb: whole runs in one folder, and what they say together."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

import visus
from tests.report.page_reader import PageReader
from visus.core.errors import DataError, RecipeError, RunError
from visus.data.folds import FoldPlan, fold_splits
from visus.data.opening import open_samples
from visus.run import folds as folds_of
from visus.run import train as training
from visus.run.trust import renew

VALUES = {"model.name": "softmax_regression", "data.image_size": 6, "train.epochs": 3, "train.batch_size": 16,
          "augmentation": [], "train.threads": 1, "train.layout": "contiguous", "report.budget_s": 0,
          "doctor.watch": False, "optimizer.lr": 0.05}


def write_set(path, count: int = 72, test: int = 0, twins: bool = False):
    """Three classes of 6 x 6 pixels that a linear model tells apart; one label is wrong."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = random.integers(0, 60, (count, 6, 6, 1)).astype(np.uint8)
    images[np.arange(count), labels * 2] += 150
    labels = labels.copy()
    labels[4] = 2
    if twins:
        images[1::2] = images[::2]
    arrays = {"train_images": images, "train_labels": labels}
    if test:
        arrays |= {"test_images": images[:test] // 2, "test_labels": np.arange(test) % 3}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    data = write_set(folder / "data.npz", test=12)
    return visus.train(data, values=VALUES, folds=3, out=folder / "cv", progress=False), data


def measured(run):
    return json.loads((run.path / "metrics.json").read_text())


def held_out(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_each_fold_is_a_whole_run_that_held_its_part_out(joined):
    run, data = joined
    samples, plan = open_samples(data), FoldPlan(folds=3)
    for k in range(3):
        fold = visus.load(run.path / f"fold-{k + 1}")
        assert fold.status == "finished" and fold.report.exists() and fold.recipe.data.fold == k + 1
        kept = held_out(fold.path / "evaluation" / "test.npz")
        assert sorted(kept["index"].tolist()) == fold_splits(samples, plan, k)["test"].tolist()
    with open(run.path / "folds.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72 and {row["fold"] for row in rows} == {"1", "2", "3"}


def test_pooled_answers_are_the_folds_own_each_image_once(joined):
    run, _ = joined
    pooled = held_out(run.path / "evaluation" / "held-out.npz")
    assert pooled["index"].tolist() == list(range(72))
    for k in range(3):
        part = held_out(run.path / f"fold-{k + 1}" / "evaluation" / "test.npz")
        assert np.array_equal(pooled["probs"][part["index"]], part["probs"])
    accuracy = float((pooled["probs"].argmax(1) == pooled["targets"]).mean())
    assert run.metrics["accuracy"] == pytest.approx(accuracy)


def test_mean_deviation_and_intervals_are_those_of_scipy(joined):
    from scipy import stats

    record = measured(joined[0])["cross_validation"]
    values = [row["metrics"]["nll"]["value"] for row in record["runs"]]
    found = record["summary"]["nll"]
    assert found["mean"] == pytest.approx(np.mean(values)) and found["std"] == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 / 3 + record["overlap"])
    assert found["corrected_high"] == pytest.approx(np.mean(values) + half)
    assert record["overlap"] == pytest.approx(np.mean([row["held_out"] / row["trained_on"] for row in record["runs"]]))


def test_the_given_test_split_is_answered_by_each_model_and_by_their_mean(joined):
    run, data = joined
    samples = open_samples(data)
    images = [samples.images[i] for i in range(72, 84)]
    each = np.stack([[dict(zip(p.labels, p.probs, strict=True)) for p in visus.predict(
        run.path / f"fold-{k}", images, top=3)] for k in (1, 2, 3)])
    mean = [{label: np.mean([row[label] for row in rows]) for label in rows[0]} for rows in each.T]
    averaged = visus.predict(run, images, top=3)
    for found, wanted in zip(averaged, mean, strict=True):
        assert dict(zip(found.labels, found.probs, strict=True)) == pytest.approx(wanted, abs=1e-6)
    kept = held_out(run.path / "evaluation" / "test.npz")
    assert kept["probs"].max(1) == pytest.approx([p.probs[0] for p in averaged], abs=1e-6)
    test = measured(run)["splits"]["test"]["metrics"]
    assert visus.evaluate(run).metrics["accuracy"].value == test["accuracy"]["value"]
    assert len(measured(run)["cross_validation"]["test_summary"]) > 5
    assert all(0 <= row["test"]["accuracy"]["value"] <= 1 for row in measured(run)["cross_validation"]["runs"])


def test_a_wrong_label_is_among_the_doubtful_ones(joined):
    doubtful = measured(joined[0])["cross_validation"]["label_errors"]
    assert any("[4]" in row["source"] and (row["label"], row["instead"]) == ("2", "1") for row in doubtful["rows"])


def test_the_page_links_the_folds_and_has_every_section(joined):
    page = PageReader(joined[0].report.read_text())
    assert page.unbalanced == []
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert {f"fold-{k}/report.html" for k in (1, 2, 3)} <= links
    assert {"folds", "test", "confusion", "classes", "calibration", "labels", "data", "reproduce"} <= set(page.ids)
    assert "3-fold cross-validation" in page.text("header")
    assert "Standard deviation" in page.text("main") and "What the spread says" in page.text("main")


def test_a_stopped_cross_validation_goes_on_to_the_same_bits(joined, tmp_path, monkeypatch):
    run, data = joined
    train, made = training.train, []

    def stopping(*args, **named):
        made.append(named["out"])
        if len(made) == 3:
            raise KeyboardInterrupt
        return train(*args, **named)

    monkeypatch.setattr(training, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(data, values=VALUES, folds=3, out=tmp_path / "cv", progress=False)
    monkeypatch.setattr(training, "train", train)
    assert (tmp_path / "cv/fold-2/report.html").exists() and not (tmp_path / "cv/fold-3").exists()
    with pytest.raises(RunError, match="fold-3 have no model yet"):
        visus.load(tmp_path / "cv").predict([np.zeros((6, 6), np.uint8)])
    before = (tmp_path / "cv/fold-1/report.html").stat().st_mtime_ns
    again = visus.resume(tmp_path / "cv", progress=False)
    assert (tmp_path / "cv/fold-1/report.html").stat().st_mtime_ns == before
    one, two = (held_out(r.path / "evaluation" / "held-out.npz") for r in (run, again))
    assert np.array_equal(one["probs"], two["probs"])
    with pytest.raises(RunError, match="is finished"):
        visus.resume(tmp_path / "cv", progress=False)


def test_a_signal_names_the_joined_run_to_go_on_with(tmp_path, monkeypatch, joined):
    from visus.core.errors import Interrupted

    def stopped(*args, **named):
        raise Interrupted("stopped by SIGTERM, saved", where=named["out"], remedy="resume the fold")

    train = training.train
    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(Interrupted, match="--resume .*cv$") as caught:
        train(joined[1], values=VALUES, folds=3, out=tmp_path / "cv", progress=False)
    assert caught.value.exit_code == 130 and visus.load(tmp_path / "cv").status == "interrupted"


def test_the_command_line_takes_folds_and_a_split_file(tmp_path, capsys):
    from visus.cli.main import main

    data = write_set(tmp_path / "data.npz", count=36)
    settings = [word for name, value in VALUES.items() for word in ("--set", f"{name}={value}")]
    assert main(["train", str(data), "--folds", "2", "--out", str(tmp_path / "cv"), *settings, "--quiet"]) == 0
    assert "accuracy over the folds" in capsys.readouterr().out
    assert main(["train", str(data), "--folds", "many", "--out", str(tmp_path / "no"), *settings]) == 2
    assert "data.folds" in capsys.readouterr().err
    (tmp_path / "split.csv").write_text("path,split\nnothing,test\n")
    assert main(["train", str(data), "--split", str(tmp_path / "split.csv"), "--out", str(tmp_path / "no")]) == 2
    assert "name no image of the data" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_several_labels_and_repeats_are_joined_too(tmp_path):
    random = np.random.default_rng(0)
    rows = ["path,label,group"]
    for i in range(24):
        pixels = random.integers(0, 60, (6, 6), dtype=np.uint8)
        held = [k for k in range(2) if (i >> k) & 1] or [2]
        pixels[held] += 150
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'|'.join('abc'[k] for k in held)},g{i // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    run = visus.train(tmp_path / "labels.csv", values=VALUES | {"data.fold_repeats": 2, "train.epochs": 1}, folds=2,
                      out=tmp_path / "cv", progress=False)
    record = measured(run)
    assert [row["folder"] for row in record["cross_validation"]["runs"]] == [f"fold-{k}" for k in (1, 2, 3, 4)]
    assert record["splits"]["held-out"]["count"] == 24 and record["cross_validation"]["label_errors"] is None
    assert record["headline"]["name"] == "mean_average_precision"
    for k in range(2):
        groups = [{i // 2 for i in held_out(run.path / f"fold-{2 * k + f}" / "evaluation/test.npz")["index"].tolist()}
                  for f in (1, 2)]
        assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 12
    page = PageReader(run.report.read_text())
    assert page.unbalanced == [] and "2-fold cross-validation, 2 times" in page.text("header")
    answers = run.predict([tmp_path / "1.png"])
    each = [dict(zip(p.labels, p.probs, strict=True)) for k in (1, 2, 3, 4)
            for p in visus.predict(run.path / f"fold-{k}", [tmp_path / "1.png"])]
    assert dict(zip(answers[0].labels, answers[0].probs, strict=True)) == pytest.approx(
        {label: np.mean([one[label] for one in each]) for label in "abc"}, abs=1e-5)


@pytest.mark.parametrize("verb", [
    lambda run: visus.calibrate(run), lambda run: visus.doctor(run.path),
    lambda run: renew(run, 5.0)], ids=["calibrate", "doctor", "report"])
def test_verbs_of_one_training_ask_for_a_fold(joined, verb):
    with pytest.raises(RunError, match=r"joins the trainings.*fold-1"):
        verb(joined[0])


def test_twins_in_two_folds_are_told(tmp_path):
    samples = open_samples(write_set(tmp_path / "data.npz", twins=True))
    divisions = [fold_splits(samples, FoldPlan(folds=3), k) for k in range(3)]
    whole = {"train": np.arange(72), "val": np.arange(0), "test": np.arange(0)}
    found = {finding.check: finding for finding in folds_of.leaks(samples, divisions, whole, 20.0)}
    assert found["split-leak"].severity == "error" and "fold 2: " in found["split-leak"].evidence
    assert folds_of.leaks(samples, divisions, whole, 0.0) == []
    clean = open_samples(write_set(tmp_path / "clean.npz"))
    assert folds_of.leaks(clean, divisions, whole, 20.0) == []


def test_a_cross_validation_without_a_test_split_says_what_to_measure_instead(tmp_path, joined):
    run, _ = joined
    with pytest.raises(RunError, match="no val split of its own"):
        visus.evaluate(run, split="val")


@pytest.mark.parametrize("values, error, words", [
    ({"data.folds": 50}, DataError, "training images"),
    ({"data.folds": "groups"}, DataError, "name no groups"),
    ({"data.folds": 1}, RecipeError, "data.folds"),
    ({"data.fold": 2}, RecipeError, "no fold without folds"),
    ({"data.folds": 2, "data.fold": 5}, DataError, "there are 2 folds"),
])
def test_what_cannot_be_divided_leaves_no_folder(tmp_path, values, error, words):
    data = write_set(tmp_path / "data.npz", count=24)
    with pytest.raises(error, match=words):
        visus.train(data, values=VALUES | values, out=tmp_path / "cv", progress=False)
    assert not (tmp_path / "cv").exists()


def test_a_runs_split_is_kept_and_can_be_given_to_another(tmp_path):
    data = write_set(tmp_path / "data.npz")
    one = visus.train(data, values=VALUES | {"data.split_seed": 5}, out=tmp_path / "one", progress=False)
    two = visus.train(data, values=VALUES | {"data.split": str(one.path), "train.seed": 1}, out=tmp_path / "two",
                      progress=False)
    assert (one.path / "splits.csv").read_text() == (two.path / "splits.csv").read_text()
    a, b = (held_out(run.path / "evaluation" / "test.npz") for run in (one, two))
    assert np.array_equal(a["index"], b["index"])
    assert visus.evaluate(two).metrics["accuracy"].value == two.metrics["accuracy"]
