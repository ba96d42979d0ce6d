"""Ensembles and soups as a verb: whose answers, which mean, who is let in, and what the folder is good for."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import visus
from tests.report.page_reader import PageReader
from tests.run.test_folds import write_set
from visus.cli.main import main
from visus.core.errors import CheckpointError, RunError, UserError
from visus.core.weights import read_state_dict
from visus.data.opening import open_samples
from visus.metrics.significance import mcnemar
from visus.run.averaged import combine
from visus.run.bundle import load_model
from visus.train.checkpoint import CheckpointStore

VALUES = {"model.name": "softmax_regression", "data.image_size": 6, "train.epochs": 2, "train.batch_size": 16,
          "augmentation": [], "train.threads": 1, "train.layout": "contiguous", "report.budget_s": 0,
          "doctor.watch": False, "optimizer.lr": 0.02}


def saved(path, split="test"):
    with np.load(path / "evaluation" / f"{split}.npz") as file:
        return {name: file[name] for name in file.files}


def record_of(run):
    return json.loads((run.path / "metrics.json").read_text())["ensemble"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs of other seeds, the second with another normalisation and mirrored views, and the images."""
    folder = tmp_path_factory.mktemp("members")
    data = write_set(folder / "data.npz", count=150)
    other = {"data.normalise": "none", "evaluate.tta": "flip"}
    runs = [visus.train(data, values=VALUES | {"train.seed": seed} | (other if seed == 1 else {}),
                        out=folder / f"r{seed}", progress=False).path for seed in range(3)]
    return runs, data


@pytest.fixture(scope="module")
def three(made, tmp_path_factory):
    return visus.ensemble(made[0], out=tmp_path_factory.mktemp("out") / "e", report_budget_s=0)


def test_it_answers_with_the_numpy_mean_of_its_members_probabilities(made, three):
    runs, data = made
    wanted = np.mean([saved(path)["probs"].astype(np.float64) for path in runs], 0)
    np.testing.assert_allclose(saved(three.path)["probs"], wanted, atol=1e-6)
    samples, index = open_samples(data), saved(three.path)["index"]
    found = visus.predict(three.path, [samples.read(int(i), (255, 255, 255)) for i in index], top=3)
    labels = three.trained.labels
    for row, one in zip(wanted, found, strict=True):
        answers = dict(zip(one.labels, one.probs, strict=True))
        assert answers == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-6)
    accuracy = float((wanted.argmax(1) == saved(three.path)["targets"]).mean())
    assert three.metrics["accuracy"] == pytest.approx(accuracy)
    assert visus.evaluate(three.path).metrics["accuracy"].value == pytest.approx(accuracy)


def test_logits_average_to_the_geometric_mean_and_votes_are_counted():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (5, 40, 4))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    geometric = np.exp(np.log(probs).mean(0))
    found = combine(torch.from_numpy(logits), "logits").softmax(-1).numpy()
    np.testing.assert_allclose(found, geometric / geometric.sum(-1, keepdims=True), atol=1e-12)
    votes = np.eye(4)[probs.argmax(-1)].mean(0)
    found = combine(torch.from_numpy(logits), "votes").softmax(-1).numpy()
    np.testing.assert_allclose(found, votes, atol=2e-4)
    tied = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 0.5, 0.0]]], dtype=torch.float64)  # one vote each
    assert combine(tied, "votes").argmax(-1).item() == 0 and combine(tied.flip(-1), "votes").argmax(-1).item() == 2


def test_several_labels_average_their_sigmoids():
    logits = torch.randn(3, 10, 4, dtype=torch.float64)
    torch.testing.assert_close(combine(logits, "probs", True).sigmoid(), logits.sigmoid().mean(0))
    shares = (logits >= 0).double().mean(0)
    torch.testing.assert_close(combine(logits, "votes", True).sigmoid(), shares, atol=2e-4, rtol=0)


def test_the_record_says_what_is_gained_and_how_sure_that_is(made, three):
    runs, _ = made
    record = record_of(three)
    parts = [saved(path) for path in runs]
    values = [float((part["probs"].argmax(1) == part["targets"]).mean()) for part in (saved(r, "val") for r in runs)]
    assert [row["val"] for row in record["members"]] == pytest.approx(values)
    assert record["best"] == int(np.argmax(values))
    right = [part["probs"].argmax(1) == part["targets"] for part in (*parts, saved(three.path))]
    counted = mcnemar(right[record["best"]], right[-1])
    test = next(row for row in record["over_best"] if row["metric"] == "accuracy")
    assert test["p"] == counted.mid_p and test["second"] == 3
    assert record["over_mean"]["accuracy"]["value"] == pytest.approx(right[-1].mean() - np.mean(right[:3]))
    answers = [part["probs"].argmax(1) for part in parts]
    differ = [np.mean(answers[a] != answers[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert record["disagreement"] == pytest.approx(np.mean(differ))
    counts = record["by_count"]
    assert [row["subsets"] for row in counts] == [3, 3, 1]
    assert counts[0]["mean"] == pytest.approx(np.mean(right[:3]))
    assert counts[2]["mean"] == pytest.approx(right[-1].mean())


def test_the_best_by_validation_are_taken_though_the_test_split_says_otherwise(made, tmp_path):
    runs = [tmp_path / name for name in "abc"]
    for place, (source, path) in enumerate(zip(made[0], runs, strict=True)):
        shutil.copytree(source, path)
        metrics = json.loads((path / "metrics.json").read_text())
        metrics["splits"]["val"]["metrics"]["accuracy"]["value"] = (0.7, 0.9, 0.8)[place]
        metrics["splits"]["test"]["metrics"]["accuracy"]["value"] = (0.99, 0.1, 0.2)[place]
        (path / "metrics.json").write_text(json.dumps(metrics))
    found = visus.ensemble(runs, top=2, out=tmp_path / "e", report_budget_s=0)
    assert [row["name"] for row in record_of(found)["members"]] == ["b", "c"]
    for wrong in (0, 4):
        with pytest.raises(UserError, match="is not between 1 and 3"):
            visus.ensemble(runs, top=wrong, out=tmp_path / "w")


def test_a_soup_of_one_is_the_member_to_the_bit(made, tmp_path):
    soup = visus.ensemble(made[0][:1], soup="uniform", out=tmp_path / "s", report_budget_s=0)
    one, two = (read_state_dict(path / "model" / "model.safetensors") for path in (soup.path, made[0][0]))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert np.array_equal(saved(soup.path)["probs"], saved(made[0][0])["probs"])


def test_a_uniform_soup_is_the_mean_of_weights_and_an_ordinary_model(made, tmp_path):
    runs = [made[0][0], made[0][2]]
    soup = visus.ensemble(runs, soup="uniform", out=tmp_path / "s", report_budget_s=0)
    states = [read_state_dict(path / "model" / "model.safetensors") for path in (soup.path, *runs)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, (states[1][name] + states[2][name]) / 2)
    assert soup.trained.name == "softmax_regression" and record_of(soup)["kind"] == "soup"
    again = visus.ensemble([soup.path, *runs], out=tmp_path / "e", report_budget_s=0)  # so it can be a member
    assert len(record_of(again)["members"]) == 3


def test_a_greedy_soup_is_never_below_its_best_member_on_validation(made, tmp_path):
    runs = [made[0][0], made[0][2]]
    soup = visus.ensemble(runs, soup="greedy", out=tmp_path / "s", report_budget_s=0)
    record = record_of(soup)
    part = saved(soup.path, "val")
    assert (part["probs"].argmax(1) == part["targets"]).mean() >= max(row["val"] for row in record["members"])
    assert record["tasted"][0]["ingredient"] == record["best"] and len(record["tasted"]) == 2


def test_snapshots_of_one_run_are_its_members(made, tmp_path):
    run = visus.train(made[1], values=VALUES | {"train.epochs": 6, "train.snapshots": 3}, out=tmp_path / "run",
                      progress=False).path
    found = visus.ensemble(run, snapshots=True, out=tmp_path / "e", report_budget_s=0)
    assert [row["name"] for row in record_of(found)["members"]] == ["epoch 2", "epoch 4", "epoch 6"]
    for k, path in enumerate(CheckpointStore(run / "checkpoints").snapshots(), 1):
        kept, state = load_model(found.path / "model" / f"member-{k}").model.state_dict(), read_state_dict(path)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())
    with pytest.raises(RunError, match="keeps no snapshots"):
        visus.ensemble(made[0][1], snapshots=True, out=tmp_path / "w")
    with pytest.raises(UserError, match="states of one run, 2 are given"):
        visus.ensemble([run, made[0][1]], snapshots=True, out=tmp_path / "w")


def test_checkpoints_of_one_run_are_its_best_and_its_resumable_weights(tmp_path):
    data = write_set(tmp_path / "data.npz", count=150)
    run = visus.train(data, values=VALUES | {"train.ema": 0.9, "train.epochs": 3}, out=tmp_path / "r", progress=False)
    found = visus.ensemble(run, checkpoints=True, out=tmp_path / "e", report_budget_s=0)
    members, store = record_of(found)["members"], CheckpointStore(run.path / "checkpoints")
    assert members[0]["name"] == "best" and members[0]["val"] == pytest.approx(max(row["val"] for row in members))
    step = int(members[1]["name"].removeprefix("step "))
    flat = store.state_at(step)["ema"]["flat"]
    state = load_model(found.path / "model" / "member-2").model.state_dict()
    torch.testing.assert_close(torch.cat([tensor.flatten() for tensor in state.values()]), flat)


def test_the_folder_stands_alone_and_every_verb_takes_it(made, three, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(three.path, moved)
    shutil.copytree(three.path / "model", tmp_path / "alone")
    assert load_model(tmp_path / "alone").labels == three.trained.labels
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.fromarray(np.full((6, 6), 90, np.uint8)).save(picture)
    for words in (["predict", str(moved), str(picture)], ["evaluate", str(moved), "--split", "val"],
                  ["explain", str(moved), str(picture), "--out", str(tmp_path / "x")],
                  ["attack", str(moved), "--method", "fgsm", "--eps", "0.05", "--out", str(tmp_path / "y")],
                  ["calibrate", str(moved), "--method", "temperature", "--ood", "none"],
                  ["predict", str(moved), str(picture), "--calibrated"], ["report", str(moved)],
                  ["report", str(moved), str(made[0][0]), "--out", str(tmp_path / "c.html")]):
        assert main([*words, "--debug"]) == 0, words
    page = PageReader((moved / "report.html").read_text())
    assert page.unbalanced == [] and "ensemble" in page.ids and "curves" not in page.ids
    assert "Mean of the members" in page.text("main") and "number of members" in page.text("main")
    for words in (["doctor", str(moved)], ["train", "--resume", str(moved)]):
        assert main(words) == 2
    assert "Give one of the runs that it was made of" in capsys.readouterr().err


def test_wrong_members_are_refused_by_name_and_nothing_is_written(made, three, tmp_path):
    runs, data = made
    other = write_set(tmp_path / "other.npz", count=120)
    cases = [visus.train(other, values=VALUES, out=tmp_path / "images", progress=False).path,
             visus.train(data, values=VALUES | {"data.image_size": 5}, out=tmp_path / "size", progress=False).path,
             visus.train(data, values=VALUES | {"data.split_seed": 5}, out=tmp_path / "split", progress=False).path]
    for path, words in zip((*cases, three.path, runs[0], tmp_path / "nothing"),
                           ("was tested on", "sees images with size 5 x 5, r0 with 6 x 6", "was tested on other images",
                            "is an ensemble itself", "is given twice", "no such run folder"), strict=True):
        with pytest.raises(UserError, match=words):
            visus.ensemble([runs[0], path], out=tmp_path / "e")
    with pytest.raises(UserError, match="no ensemble"):
        visus.ensemble(runs[:1], out=tmp_path / "e")
    with pytest.raises(UserError, match="must be one of probs, logits, votes"):
        visus.ensemble(runs, of="mean", out=tmp_path / "e")
    with pytest.raises(RunError, match="sees images with mean"):  # weights of other inputs have no mean
        visus.ensemble(runs[:2], soup="uniform", out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_soup_of_other_architectures_is_refused(made, tmp_path):
    runs, data = made
    net = visus.train(data, values=VALUES | {"model.name": "mlp", "train.epochs": 1}, out=tmp_path / "mlp",
                      progress=False)
    with pytest.raises(RunError, match="is a mlp, r0 a softmax_regression"):
        visus.ensemble([runs[0], net], soup="greedy", out=tmp_path / "s")
    both = visus.ensemble([runs[0], net], of="votes", out=tmp_path / "e", report_budget_s=0)
    assert both.trained.name == "softmax_regression + mlp"


def test_members_that_are_damaged_or_named_out_of_the_folder_are_refused(three, tmp_path):
    path = tmp_path / "e"
    shutil.copytree(three.path, path)
    about = json.loads((path / "model" / "model.json").read_text())
    for wrong in (["../../r0"], [".."], [], "member-1"):
        (path / "model" / "model.json").write_text(json.dumps(about | {"members": wrong}))
        with pytest.raises(CheckpointError, match="does not describe an ensemble"):
            load_model(path)
    (path / "model" / "model.json").write_text(json.dumps(about))
    (path / "model" / "member-2" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(path)
