"""visus probe: features of a frozen network, fitted on train, chosen on val, measured on test."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import visus
from visus.core.errors import UserError
from visus.metrics.probes import fit_linear
from visus.run.models import create_model

PLAIN = {"train.layout": "contiguous", "train.threads": 1, "report.budget_s": 0, "train.epochs": 3, "model.name": "mlp",
         "model.config.hidden_dims": [16], "train.batch_size": 16, "data.image_size": 8, "doctor.watch": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data, a run on them)."""
    folder = tmp_path_factory.mktemp("probe")
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 160, (150, 8, 8), dtype=np.uint8), np.arange(150) % 3
    for i, label in enumerate(labels):
        images[i, :, 2 * label:2 * label + 2] += 60
    np.savez(folder / "d.npz", images=images, labels=labels)
    return folder / "d.npz", visus.train(folder / "d.npz", out=folder / "run", progress=False, values=PLAIN)


@pytest.fixture(scope="module")
def probed(trained):
    return visus.probe(trained[1].path, out=trained[0].parent / "page.html")


def test_the_features_are_what_goes_into_the_classifier(trained, probed):
    _, run = trained
    features, targets = probed.features["test"]
    model, images = run.model, []
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    head.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
    from visus.data.loader import Loader
    from visus.run.evaluate import own_split

    samples, index = own_split(run.folder, run.recipe, "test")
    batch = next(Loader(samples, index, run.preprocessing, batch_size=len(index)).epoch(0))
    with torch.no_grad():
        model(run.preprocessing.normalise(batch.images))
    assert torch.allclose(features, images[0], atol=1e-5) and torch.equal(targets, batch.targets)


def test_the_rows_are_those_of_the_probes_on_these_features(probed):
    rows = {row["name"]: row for row in probed.record["rows"]}
    assert set(rows) == {"linear", "neighbours", "own classifier"}
    again = fit_linear(*probed.features["train"], 3, probed.record["trials"]["chosen"]["strength"])
    features, targets = probed.features["test"]
    accuracy = float((again(features).argmax(1) == targets).double().mean())
    assert rows["linear"]["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert rows["linear"]["metrics"]["accuracy"]["low"] is not None


def test_its_own_classifier_has_the_accuracy_of_the_run(trained, probed):
    row = next(row for row in probed.record["rows"] if row["name"] == "own classifier")
    assert row["metrics"]["accuracy"]["value"] == trained[1].metrics["accuracy"]


def test_the_page_needs_nothing_else_and_shows_both_probes(probed):
    page = probed.files[0].read_text()
    assert "neighbours" in page and "What was tried" in page and page.count("<svg") >= 5
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page
    assert json.loads(probed.files[1].read_text())["counts"] == probed.record["counts"]


def test_nothing_in_the_network_is_trained_and_the_same_call_gives_the_same_numbers(trained, probed):
    again = visus.probe(trained[1].path)
    assert again.files == () and again.record["rows"] == probed.record["rows"]


def test_a_run_is_probed_on_other_images(trained, tmp_path):
    images = np.random.default_rng(1).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", images=images, labels=np.arange(60) % 2)
    found = visus.probe(tmp_path / "other.npz", trained[1].path, images=20)
    assert found.record["counts"]["train"] == 20 and len(found.record["rows"]) == 2
    assert any("20 of" in note for note in found.record["notes"])


def test_a_registered_model_with_a_file_of_other_classes_and_another_size(trained, tmp_path):
    from visus.core.weights import write_state_dict

    torch.manual_seed(0)
    write_state_dict(tmp_path / "w.safetensors", create_model("resnet20", num_classes=7).state_dict())
    found = visus.probe(trained[0], "resnet20", weights=str(tmp_path / "w.safetensors"), image_size=16)
    assert found.record["dim"] == 64 and found.record["image_size"] == [16, 16]
    control = visus.probe(trained[0], "resnet20", weights="none", image_size=16)
    assert control.record["weights"] == "random weights"


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "no network to probe"),
    ({"model": "resnet20"}, "has learnt nothing"),
    ({"model": "resnet20", "weights": "torchvisoin"}, "no such file, and no public weights"),
    ({"model": "resnet21", "weights": "none"}, "Did you mean"),
    ({"model": "resnet20", "weights": "none", "images": 0}, "images=0"),
])
def test_what_cannot_be_is_refused(trained, arguments, message):
    with pytest.raises(UserError, match=message):
        visus.probe(trained[0], **arguments)


def test_the_command_prints_a_table_and_writes_a_page(trained, tmp_path, capsys, monkeypatch):
    from visus.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["probe", str(trained[1].path)]) == 0
    said = capsys.readouterr().out
    assert "neighbours" in said and "probes/1.html" in said.replace("\n", "")
    assert (tmp_path / "probes/1.html").is_file() and (tmp_path / "probes/1.json").is_file()
    assert main(["probe", str(trained[1].path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["name"] == "linear"
