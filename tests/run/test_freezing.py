"""Partial fine-tuning by names, and weights that come from another image size or with another classifier."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.core.weights import write_state_dict
from visus.run.freezing import freeze
from visus.run.models import create_model
from visus.run.recipe import Recipe
from visus.train.mode import train_mode

PLAIN = {"train.layout": "contiguous", "train.threads": 1, "report.budget_s": 0, "train.epochs": 1}


@pytest.fixture
def data(tmp_path):
    """60 grey images of 16 px in three classes."""
    images = np.random.default_rng(0).integers(0, 255, (60, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(60) % 3)
    return tmp_path / "d.npz"


def test_only_the_named_parts_are_frozen():
    model = create_model("resnet20", num_classes=10)
    said = freeze(model, ["conv1", "bn1", "layer1.0"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(("conv1.", "bn1.", "layer1.0."))}
    assert said is not None and "conv1, bn1, layer1.0 frozen" in said


def test_a_parameter_is_frozen_by_its_name_too():
    model = create_model("vit_tiny_16", image_size=32, dim=24, depth=1, num_heads=3)
    freeze(model, ["pos_embed"])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["pos_embed"]


@pytest.mark.parametrize(("names", "message"), [
    (["layer11"], "Did you mean 'layer1'"),
    (["layer1.9"], r"Did you mean 'layer1\.\d'"),
    ([""], "no module of this name"),
    (["conv1", "bn1", "layer1", "layer2", "layer3", "fc"], "nothing is left to train"),
])
def test_wrong_names_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        freeze(create_model("resnet20", num_classes=10), names)


def test_batch_norms_of_a_frozen_part_keep_their_statistics_and_the_others_do_not():
    model = create_model("resnet20", num_classes=10)
    freeze(model, ["conv1", "bn1", "layer1"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    train_mode(model)
    model(torch.rand(4, 3, 32, 32))
    kept = {name for name, tensor in before.items() if torch.equal(tensor, model.state_dict()[name])}
    assert kept == {name for name in before if name.startswith(("bn1.", "layer1."))}


def test_a_run_leaves_the_frozen_parts_as_they_were_to_the_bit_and_trains_the_rest(data, tmp_path):
    import visus

    torch.manual_seed(0)
    first = create_model("resnet20", num_classes=3, in_channels=1)
    write_state_dict(tmp_path / "w.safetensors", first.state_dict())
    run = visus.train(data, out=tmp_path / "run", progress=False, values=PLAIN | {
        "model.name": "resnet20", "model.weights": str(tmp_path / "w.safetensors"),
        "model.freeze": ["conv1", "bn1", "layer1"]})
    after = run.model.state_dict()
    same = {name for name, tensor in first.state_dict().items() if torch.equal(tensor, after[name])}
    assert same == {name for name in after if name.startswith(("conv1.", "bn1.", "layer1."))}
    assert Recipe.load(run.path / "recipe.yaml").model.freeze == ("conv1", "bn1", "layer1")


def test_a_wrong_name_ends_before_a_folder_is_made(tmp_path):
    import visus

    write_state_dict(tmp_path / "w.safetensors", create_model("resnet20", num_classes=10, in_channels=1).state_dict())
    with pytest.raises(UserError, match="Did you mean 'layer1'"):
        visus.train("digits", out=tmp_path / "run", progress=False, values={
            "model.name": "resnet20", "model.weights": str(tmp_path / "w.safetensors"), "model.freeze": ["leyer1"]})
    assert not (tmp_path / "run").exists()


SMALL_VIT = {"dim": 24, "depth": 2, "num_heads": 3}
RESIZED = [
    ("vit_tiny_16", {**SMALL_VIT, "patch_size": 8}, 32, 48),
    ("deit_tiny_distilled_16", {**SMALL_VIT, "patch_size": 8}, 32, 48),
    ("deit3_small_16", {**SMALL_VIT, "patch_size": 8}, 32, 48),
    ("swin_tiny", {"dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 3)}, 224, 256),
    ("resnet20", {}, 32, 48),
]


@pytest.mark.parametrize(("name", "config", "size", "other"), RESIZED, ids=[row[0] for row in RESIZED])
def test_weights_of_one_image_size_start_a_model_of_another(name, config, size, other):
    torch.manual_seed(0)
    state = create_model(name, image_size=size, num_classes=7, **config).state_dict()
    model = create_model(name, image_size=other, num_classes=7, weights=state, **config).eval()
    same = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, state.get(key, torch.empty(0)))]
    assert len(same) >= 0.8 * len(state)  # the kernels are those of the file; positions alone are resampled
    with torch.no_grad():
        assert model(torch.rand(2, 3, other, other)).isfinite().all()


def test_another_classifier_and_another_size_are_said_aloud(data, tmp_path, capsys):
    import visus

    torch.manual_seed(0)
    state = create_model("vit_tiny_16", image_size=32, patch_size=8, num_classes=7, **SMALL_VIT).state_dict()
    write_state_dict(tmp_path / "w.safetensors", state)
    visus.train(data, out=tmp_path / "run", values=PLAIN | {
        "model.name": "vit_tiny_16", "model.weights": str(tmp_path / "w.safetensors"), "data.image_size": 16,
        "model.config.patch_size": 8, **{f"model.config.{k}": v for k, v in SMALL_VIT.items()},
        "model.freeze": ["patch_embed"]})
    said = " ".join(capsys.readouterr().out.split())
    assert "the weights have 7 classes, the model 3" in said and "start fresh" in said
    assert "pos_embed was resized from 4 x 4 patches to 2 x 2" in said and "patch_embed frozen" in said


def test_create_model_logs_what_it_changed(caplog):
    state = create_model("resnet20", num_classes=7).state_dict()
    with caplog.at_level(logging.WARNING, logger="visus"):
        create_model("resnet20", num_classes=10, weights=state)
    assert "fc.weight, fc.bias start fresh" in caplog.text


# -- the lab: ResNet-50 with dense layers of 1,024 and 512 on CIFAR-10, its images enlarged seven times ---------------


LAB = {"num_classes": 10, "head_dims": (1024, 512)}


def test_the_labs_classifier_is_global_pooling_and_dense_1024_512_10():
    from visus.core.meta import on_meta

    with on_meta():
        model = create_model("resnet50", **LAB)
    dense = [module for module in model.fc if isinstance(module, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in dense] == [(2048, 1024), (1024, 512), (512, 10)]
    assert [type(module).__name__ for module in model.fc] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    count = sum(p.numel() for p in model.parameters())
    assert count == 23_508_032 + (2048 * 1024 + 1024) + (1024 * 512 + 512) + (512 * 10 + 10)


def test_dense_layers_start_fresh_on_a_file_with_one_and_the_rest_is_the_files():
    torch.manual_seed(0)
    state = create_model("resnet18").state_dict()
    model = create_model("resnet18", num_classes=10, head_dims=(12, 8))
    own = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("fc.")}
    from visus.run.models import load_weights

    notes = load_weights(model, state, "torchvision", fit=["classes"])
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items() if not name.startswith("fc."))
    assert all(torch.equal(after[name], tensor) for name, tensor in own.items())
    assert notes == ["the classifier of the weights is left out: dense layers of 12, 8, 10 start fresh"]
    freeze(model, "backbone")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(own)
    again = create_model("resnet18", num_classes=10, head_dims=(12, 8), weights=after)
    assert all(torch.equal(tensor, after[name]) for name, tensor in again.state_dict().items())


def test_a_nearest_resize_to_seven_times_the_side_repeats_each_pixel_as_the_labs_layer_does():
    from visus.core.preprocessing import Preprocessing

    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    found = Preprocessing(size=(224, 224), interpolation="nearest").resized(pixels).numpy()
    assert np.array_equal(found, pixels.repeat(7, 0).repeat(7, 1).transpose(2, 0, 1))


def test_wrong_widths_are_refused():
    with pytest.raises(UserError, match="head_dims"):
        create_model("resnet18", head_dims=(0,))


def test_the_labs_recipe_runs_with_a_file_on_small_colour_images(tmp_path):
    """At a small size and with a small network of the same family; the recipe's other fields are as they ship."""
    import visus

    torch.manual_seed(0)
    write_state_dict(tmp_path / "w.safetensors", create_model("resnet18", depths=(1, 1, 1, 1)).state_dict())
    images = np.random.default_rng(0).integers(0, 255, (40, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(40) % 4)
    run = visus.train(tmp_path / "d.npz", recipe="cifar10-resnet50-transfer", out=tmp_path / "run", progress=False,
                      values=PLAIN | {"model.name": "resnet18", "model.weights": str(tmp_path / "w.safetensors"),
                                      "model.origin": "torchvision", "model.config.depths": [1, 1, 1, 1],
                                      "data.image_size": 28, "doctor.watch": False})
    assert [type(module).__name__ for module in run.model.fc] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert run.recipe.optimizer.momentum == 0.0 and run.recipe.data.interpolation == "nearest"
