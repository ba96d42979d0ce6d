"""Listing, building, loading and describing models: the verbs in visus.run.models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import CheckpointError, UserError
from visus.models import registry
from visus.run.models import create_model, describe_model, list_models, load_weights

VIT = {"dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}


def test_listing_filters_and_searches():
    assert {row.family for row in list_models(family="vit")} == {"vit"}
    assert [row.name for row in list_models(search="RESNET56")] == ["ac_resnet56", "resnet56"]
    assert [row.name for row in list_models(search="gradient-based")] == ["lenet5", "lenet5_full",
                                                                          "lenet5_relu"]
    assert list_models(task="classification", search="nothing like it") == []
    row = next(row for row in list_models() if row.name == "resnet50")
    assert (row.params, row.image_size, row.weights) == (
        25_557_032, (224, 224), ("torchvision", "transformers", "timm"))
    assert (row.top1, row.top1_data) == (76.13, "ImageNet-1k")


def test_unknown_filter_names_the_nearest():
    with pytest.raises(UserError, match=r"family='resnets'.*'resnet'"):
        list_models(family="resnets")


def test_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match=r"drop_paths=0.1.*'drop_path'"):
        create_model("vit_tiny_16", drop_paths=0.1)


def test_config_fields_override_the_variant_and_lists_become_tuples():
    model = create_model("resnet18", depths=[1, 1, 1, 1], num_classes=3, image_size=64)
    assert model.config.depths == (1, 1, 1, 1) and model.fc.out_features == 3
    assert create_model("vit_tiny_16", image_size=32).config.image_size == 32


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_taken_off_and_told(prefix):
    model, other = create_model("lenet5"), create_model("lenet5")
    notes = load_weights(other, {prefix + name: tensor for name, tensor in model.state_dict().items()})
    assert torch.equal(other.c1.weight, model.c1.weight) and len(notes) == prefix.count(".")


def test_mismatch_lists_missing_unexpected_and_shapes_and_changes_nothing():
    model = create_model("lenet5_full")
    before = model.c1.weight.clone()
    state = create_model("lenet5_full", num_classes=3).state_dict() | {"extra": torch.ones(1)}
    state["c1.weight"] = torch.zeros_like(state["c1.weight"])
    del state["f6.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, state)
    text = str(caught.value)
    for part in ("missing (1): f6.bias", "unexpected (1): extra", "other shape (2)",
                 "output.weight: [3, 84] in the file, [10, 84] in the model"):
        assert part in text
    assert torch.equal(model.c1.weight, before)


def test_non_finite_weights_are_refused_by_name():
    model = create_model("lenet5_full")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["f6.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity in f6.bias"):
        load_weights(model, state)


def test_counters_that_old_files_lack_are_kept():
    model = create_model("resnet20")
    state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert load_weights(create_model("resnet20"), state) == []


def test_unknown_origin_names_the_known_ones():
    with pytest.raises(UserError, match=r"origin='torchvison'.*torchvision"):
        load_weights(create_model("resnet18"), {}, "torchvison")


def test_positions_are_resized_and_told():
    small, large = create_model("vit_tiny_16", image_size=32, **VIT), create_model("vit_tiny_16",
                                                                                   image_size=64, **VIT)
    assert load_weights(large, small.state_dict()) == ["pos_embed was resized from 2 x 2 patches to 4 x 4"]
    assert torch.equal(large.pos_embed[:, 0], small.pos_embed[:, 0])


def test_weights_may_be_given_while_building(tmp_path):
    model = create_model("lenet5_relu")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert torch.equal(create_model("lenet5_relu", weights=tmp_path / "m.pt").c5.weight, model.c5.weight)


def test_a_module_of_another_house_can_be_described():
    summary = describe_model(nn.Sequential(nn.Conv2d(5, 2, 3), nn.Flatten()), image_size=8)
    assert summary.input_shape == (1, 5, 8, 8) and summary.params == 92
    with pytest.raises(UserError, match="image size"):
        describe_model(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_16", "lenet5"])
def test_a_built_model_is_described_as_its_name_is(name):
    assert describe_model(create_model(name)).rows == describe_model(name).rows


def test_every_model_class_is_reached_by_its_module():
    assert all(entry.build.__module__ == entry.module for entry in registry.entries())
