"""Public weights by name: fetched from a server (here on the loopback device) once, checked, fitted."""

from __future__ import annotations

import hashlib
import io
import logging

import numpy as np
import pytest
import torch

from tests.loopback import Server, serve
from visus.core.errors import CheckpointError, UserError
from visus.core.weights import write_state_dict
from visus.models import registry
from visus.run.models import create_model, load_weights
from visus.run.pretrained import weights_file

NAME = "squeezenet1_1"


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A server with weights of NAME under the file name that torchvision gives them; (server, state dict)."""
    torch.manual_seed(3)
    state = create_model(NAME).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    file = f"squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    entry = registry.get(NAME)
    monkeypatch.setitem(entry.weights, "torchvision", {**entry.weights["torchvision"], "file": file})
    server = Server()
    server.behave = lambda h, p, n: serve(h, p, n, content=content)
    monkeypatch.setenv("VISUS_MIRROR", server.url)
    monkeypatch.setenv("VISUS_CACHE", str(tmp_path / "cache"))
    yield server, state
    server.close()


def test_weights_by_the_name_of_their_origin_are_fetched_once(public, caplog):
    server, state = public
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model = create_model(NAME, weights="torchvision")
            assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert len(server.seen) == 1 and server.seen[0][0].startswith("/torchvision/squeezenet1_1-")
    assert caplog.records == []


def test_a_file_with_another_digest_is_refused(public, monkeypatch):
    entry = registry.get(NAME)
    monkeypatch.setitem(entry.weights, "torchvision", {**entry.weights["torchvision"], "file": "s-00000000.pth"})
    with pytest.raises(UserError, match="SHA-256"):
        create_model(NAME, weights="torchvision")


def test_other_classes_and_channels_are_fitted_and_said(public, caplog):
    _, state = public
    with caplog.at_level(logging.WARNING):
        model = create_model(NAME, weights="torchvision", num_classes=7, in_channels=1)
    assert "have 1000 classes, the model 7: classifier.1.weight, classifier.1.bias start fresh" in caplog.text
    assert "take 3 channels, the model 1: features.0.weight was summed" in caplog.text
    got = model.state_dict()
    assert torch.equal(got["features.0.weight"], state["features.0.weight"].sum(1, keepdim=True))
    assert got["classifier.1.weight"].shape[0] == 7
    assert all(torch.equal(got[n], state[n]) for n in got if n.split(".")[0] == "features" and n != "features.0.weight")


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_fitted_channels_give_a_repeated_image_the_same_maps(channels):
    torch.manual_seed(0)
    one = create_model("resnet20", num_classes=3).eval()
    two = create_model("resnet20", num_classes=3, in_channels=channels, weights=one.state_dict()).eval()
    grey = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        expected, found = one(grey.expand(-1, 3, -1, -1)), two(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_being_asked_another_count_is_an_error():
    state = create_model("resnet20", num_classes=5).state_dict()
    with pytest.raises(CheckpointError, match=r"fc.weight: \[5, 64\] in the file, \[10, 64\] in the model"):
        create_model("resnet20", weights=state)
    with pytest.raises(CheckpointError):
        load_weights(create_model("resnet20", num_classes=4), state)


def test_fitting_hides_no_other_mismatch():
    state = create_model("resnet20").state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:8]
    with pytest.raises(CheckpointError, match="layer1.0.conv1.weight"):
        create_model("resnet20", weights=state, num_classes=3)


def test_an_origin_that_the_model_lacks_is_named():
    with pytest.raises(UserError, match="no public weights"):
        weights_file("resnet20", "torchvision")
    with pytest.raises(UserError, match="origin='timm'"):
        create_model(NAME, weights="torchvision", origin="timm")


def test_a_run_starts_from_public_weights(public, tmp_path):
    import visus

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=rng.integers(0, 255, (40, 64, 64, 3), dtype=np.uint8),
             labels=np.arange(40) % 4)
    run = visus.train(tmp_path / "d.npz", out=tmp_path / "run", progress=False, values={
        "model.name": NAME, "model.weights": "torchvision", "train.epochs": 1, "data.image_size": 64,
        "train.layout": "contiguous", "train.threads": 1})
    recipe = run.folder.about["recipe"]
    assert recipe["model"]["origin"] == "torchvision" and recipe["data"]["normalise"] == "model"
    assert run.folder.read("preprocessing.json")["mean"] == [0.485, 0.456, 0.406]
    assert recipe["optimizer"]["lr"] < 0.01
    assert len(public[0].seen) == 1


@pytest.mark.parametrize(("values", "message"), [
    ({"model.weights": "torchvision"}, "--model"),
    ({"model.name": NAME, "model.weights": "torchvison"}, "Did you mean 'torchvision'"),
    ({"model.name": "resnet20", "model.weights": "nowhere.pth"}, "no such file"),
])
def test_wrong_weights_end_before_a_folder_is_made(tmp_path, values, message):
    import visus

    with pytest.raises(UserError, match=message):
        visus.train("digits", out=tmp_path / "run", values=values, progress=False)
    assert not (tmp_path / "run").exists()


def test_fields_that_public_weights_need_are_set_unless_given(tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = create_model("mobilenet_v3_small", width=0.5).state_dict()
    write_state_dict(tmp_path / "cache/weights/here/small.safetensors", state)
    monkeypatch.setenv("VISUS_CACHE", str(tmp_path / "cache"))
    entry = registry.get("mobilenet_v3_small")
    about = {"file": "small", "licence": "", "config": {"bn_eps": 1e-5, "width": 0.5}}
    monkeypatch.setitem(entry.weights, "here", about)
    monkeypatch.setitem(entry.about["origins"], "here", dict)
    assert create_model("mobilenet_v3_small", weights="here").config.bn_eps == 1e-5
    assert create_model("mobilenet_v3_small", weights="here", bn_eps=1e-4).config.bn_eps == 1e-4


def test_every_public_file_states_a_licence_and_fields_that_exist():
    from dataclasses import fields

    for entry in registry.entries():
        known = {field.name for field in fields(entry.build.Config)}
        for origin, about in entry.weights.items():
            assert about["file"] and about["licence"], (entry.name, origin)
            assert set(about) <= {"file", "licence", "url", "sha256", "config", "preprocessing"}, (entry.name, origin)
            assert set(about.get("config", {})) <= known and origin in entry.about["origins"], (entry.name, origin)


def test_the_mean_of_an_origin_of_its_own_is_used():
    from visus.run.pretrained import preprocessing_of

    assert preprocessing_of("vit_base_16", "torchvision")["mean"] == (0.485, 0.456, 0.406)
    assert preprocessing_of("vit_base_16", "timm")["mean"] == (0.5, 0.5, 0.5)


def test_a_frozen_backbone_keeps_every_bit_and_the_classifier_learns(tmp_path):
    import visus

    torch.manual_seed(0)
    first = create_model("resnet20", num_classes=10, in_channels=1)
    write_state_dict(tmp_path / "w.safetensors", first.state_dict())
    run = visus.train("digits", out=tmp_path / "run", progress=False, values={
        "model.name": "resnet20", "model.weights": str(tmp_path / "w.safetensors"), "model.freeze": "backbone",
        "train.epochs": 1, "train.ema": None, "train.layout": "contiguous", "train.threads": 1})
    after = run.model.state_dict()
    changed = {name for name, tensor in first.state_dict().items() if not torch.equal(tensor, after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_frozen_backbone_without_weights_is_refused(tmp_path):
    import visus

    with pytest.raises(UserError, match="frozen network needs weights"):
        visus.train("digits", out=tmp_path / "run", progress=False, values={"model.freeze": "backbone"})


def test_a_size_that_is_asked_for_wins_over_the_one_of_the_weights(tmp_path, monkeypatch):
    small = {"dim": 24, "depth": 1, "num_heads": 3}
    state = create_model("vit_tiny_16", image_size=32, **small).state_dict()
    write_state_dict(tmp_path / "cache/weights/here/v.safetensors", state)
    monkeypatch.setenv("VISUS_CACHE", str(tmp_path / "cache"))
    entry = registry.get("vit_tiny_16")
    monkeypatch.setitem(entry.weights, "here", {"file": "v", "licence": "", "config": {"image_size": 32}})
    monkeypatch.setitem(entry.about["origins"], "here", dict)
    assert create_model("vit_tiny_16", weights="here", **small).config.image_size == 32
    assert create_model("vit_tiny_16", weights="here", image_size=64, **small).config.image_size == 64
