"""AlexNet, VGG and their kin against what the papers state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.response_norm import ResponseNorm
from visus.models.cnn.alexnet import AlexNet, AlexNetConfig
from visus.models.cnn.vgg import seed_from_shallower
from visus.run.models import create_model, describe_model

# what Krizhevsky et al. 2012, figure 2 and section 3.5 give: layer -> weights, multiply-accumulates, output side
ALEXNET_2012 = {
    "features.0": (96 * 3 * 11 * 11, 105_415_200, 55), "features.4": (256 * 48 * 5 * 5, 223_948_800, 27),
    "features.8": (384 * 256 * 3 * 3, 149_520_384, 13), "features.10": (384 * 192 * 3 * 3, 112_140_288, 13),
    "features.12": (256 * 192 * 3 * 3, 74_760_192, 13), "classifier.0": (4096 * 9216, 4096 * 9216, None),
    "classifier.3": (4096 * 4096, 4096 * 4096, None), "classifier.6": (1000 * 4096, 1000 * 4096, None),
}


def test_the_layers_of_alexnet_are_the_papers():
    rows = {row.name: row for row in describe_model("alexnet_original").rows}
    weighted = {name for name, row in rows.items() if row.params}
    assert weighted == set(ALEXNET_2012)
    for name, (weights, macs, side) in ALEXNET_2012.items():
        row = rows[name]
        assert row.params == weights + row.output_shape[1] and row.macs == macs
        assert side is None or row.output_shape[2:] == (side, side)
    assert rows["features.14"].output_shape == (1, 256, 6, 6)


def test_alexnets_fourth_convolution_costs_twice_without_groups():
    """The two counts that course notes mix in one row: 1.3 million weights and 112 million operations."""
    from visus.core.summary import summarise

    with torch.device("meta"):
        model = AlexNet(AlexNetConfig(layout="two_towers", dims=(96, 256, 384, 384, 256), groups=1))
    row = next(r for r in summarise(model, (1, 3, 227, 227)).rows if r.name == "features.10")
    assert (row.params - 384, row.macs) == (1_327_104, 224_280_576)
    assert sum(p.numel() for p in model.parameters()) == 62_378_344


def test_alexnet_takes_the_papers_maps_through_the_same_sizes_at_227_and_one_tower_at_224():
    for name in ("alexnet", "alexnet_original"):
        shapes = [row.output_shape[2] for row in describe_model(name).rows if row.type in ("Conv2d", "MaxPool2d")]
        assert shapes == [55, 27, 27, 13, 13, 13, 13, 6]


def test_local_response_normalisation_is_the_papers_sum():
    """b_i = a_i / (2 + 1e-4 sum of a_j^2 over |j - i| <= 2) ^ 0.75, section 3.3."""
    layer = create_model("alexnet_original", dims=(8, 8, 8, 8, 8), hidden_dim=4).features[2]
    maps = torch.randn(2, 8, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 50
    expected = torch.stack([maps[:, i] / (2 + 1e-4 * maps[:, max(i - 2, 0):i + 3].square().sum(1)) ** 0.75
                            for i in range(8)], dim=1)
    torch.testing.assert_close(layer(maps), expected, rtol=1e-12, atol=1e-12)


def test_alexnet_starts_as_the_paper_says():
    torch.manual_seed(0)
    model = create_model("alexnet_original", hidden_dim=64)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [m.bias.unique().tolist() for m in weighted] == [[0], [1], [0], [1], [1], [1], [1], [0]]
    assert all(m.weight.std().item() == pytest.approx(0.01, rel=0.05) for m in weighted)


def test_features_are_what_forward_classifies_and_a_slice_is_a_plain_sequential():
    model = create_model("alexnet", hidden_dim=8).eval()
    images = torch.randn(2, 3, 63, 63)
    with torch.no_grad():
        maps = model.features(images)
        assert torch.equal(model.classifier(model.avgpool(maps[-1]).flatten(1)), model(images))
        assert torch.equal(model.features[:2](images), maps[0])
    assert not isinstance(model.features[:2], FeatureSequential) and isinstance(model.features[-1], nn.MaxPool2d)


@pytest.mark.parametrize(("name", "weighted"), [
    ("vgg11", 11), ("vgg11_lrn", 11), ("vgg13_bn", 13), ("vgg16", 16), ("vgg16_c", 16), ("vgg19", 19)])
def test_vgg_has_as_many_weighted_layers_as_its_name_says(name, weighted):
    summary = describe_model(name)
    assert sum(row.type in ("Conv2d", "Linear") for row in summary.rows) == weighted
    assert [row.output_shape[2] for row in summary.rows if row.type == "MaxPool2d"] == [112, 56, 28, 14, 7]


def test_configuration_c_is_d_with_1_x_1_third_convolutions():
    c, d = (describe_model(name) for name in ("vgg16_c", "vgg16"))
    thirds = (256 * 256, 512 * 512, 512 * 512)
    assert d.params - c.params == 8 * sum(thirds)
    assert d.macs - c.macs == 8 * (thirds[0] * 56**2 + thirds[1] * 28**2 + thirds[2] * 14**2)
    assert [row.output_shape for row in c.rows] == [row.output_shape for row in d.rows]


def test_a_lrn_has_one_normalisation_after_the_first_relu_and_no_parameter_more():
    plain, normalised = (create_model(name, dims=(4, 4, 4, 4, 4), hidden_dim=4) for name in ("vgg11", "vgg11_lrn"))
    kinds = [type(layer) for layer in normalised.features]
    assert kinds.index(ResponseNorm) == 2 and kinds.count(ResponseNorm) == 1
    assert [p.shape for p in plain.parameters()] == [p.shape for p in normalised.parameters()]


def small_vgg(name: str, seed: int, **config) -> nn.Module:
    torch.manual_seed(seed)
    model = create_model(name, **{"dims": (4, 5, 6, 7, 8), "hidden_dim": 9, "num_classes": 3} | config)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor))
    return model


# Table 1: where conv1-1, conv2-1, conv3-1 and conv3-2 of A lie in each network
_CONVOLUTIONS_OF_A = {"vgg11": (0, 3, 6, 8), "vgg13": (0, 5, 10, 12), "vgg16_c": (0, 5, 10, 12),
                      "vgg16": (0, 5, 10, 12), "vgg19": (0, 5, 10, 12), "vgg11_bn": (0, 4, 8, 11),
                      "vgg19_bn": (0, 7, 14, 17)}


@pytest.mark.parametrize(("deep", "shallow"), [("vgg13", "vgg11"), ("vgg16_c", "vgg11"), ("vgg16", "vgg11_lrn"),
                                               ("vgg19", "vgg11"), ("vgg19_bn", "vgg11_bn")])
def test_a_deep_vgg_takes_the_first_four_convolutions_and_the_full_layers_of_net_a(deep, shallow):
    ours, theirs = small_vgg(deep, 0), small_vgg(shallow, 1)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    source = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    step = 1 if shallow == "vgg11_lrn" else 0  # its normalisation comes after the first ReLU
    pairs = {f"features.{a}": f"features.{b + step * (b > 0)}" for a, b in zip(
        _CONVOLUTIONS_OF_A[deep], _CONVOLUTIONS_OF_A[shallow.removesuffix("_lrn")], strict=True)}
    if "bn" in deep:
        pairs |= {f"features.{a + 1}": f"features.{b + 1}" for a, b in zip(
            _CONVOLUTIONS_OF_A[deep], _CONVOLUTIONS_OF_A[shallow], strict=True)}
    pairs |= {f"classifier.{layer}": f"classifier.{layer}" for layer in (0, 3, 6)}
    copied = seed_from_shallower(ours, theirs)
    leaves = {name.rpartition(".")[0] for name in copied}
    assert leaves == set(pairs) and len(set(copied)) == len(copied) == sum(
        name.rpartition(".")[0] in pairs for name in before)
    for name, tensor in ours.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        if layer in pairs:
            assert torch.equal(tensor, source[f"{pairs[layer]}.{leaf}"]), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, source[name]) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize(("deep", "shallow", "config", "words"), [
    ("vgg11", "vgg11", {}, "fewer convolutions"), ("vgg11", "vgg16", {}, "fewer convolutions"),
    ("vgg13_bn", "vgg11", {}, "batch norm"), ("vgg13", "vgg11_bn", {}, "batch norm"),
    ("vgg16", "vgg11", {"num_classes": 4}, "classifier.6.weight"), ("vgg16", "vgg11", {"in_channels": 2}, "features.0"),
    ("vgg16", "vgg11", {"dims": (4, 5, 7, 7, 8)}, "features.10.weight"),
    ("vgg16", "vgg11", {"hidden_dim": 8}, "classifier.0")])
def test_seeding_from_a_network_that_does_not_fit_is_refused_and_changes_nothing(deep, shallow, config, words):
    ours, theirs = small_vgg(deep, 0), small_vgg(shallow, 1, **config)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(UserError, match=words):
        seed_from_shallower(ours, theirs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_vggs_receptive_field_is_the_known_one():
    """Araujo, Norris, Sim, Distill 2019: 212 for VGG-16 up to its last pooling."""
    assert describe_model("vgg16").receptive_field == 212


@pytest.mark.parametrize(("name", "sides"), [("squeezenet1_0", [109, 54, 27, 13]),
                                              ("squeezenet1_1", [111, 55, 27, 13])])
def test_squeezenets_maps_and_their_channels(name, sides):
    """Eight fire modules whose squeeze filters are an eighth of what they put out."""
    with torch.device("meta"):
        model = create_model(name)
        maps = model.features(torch.empty(1, 3, 224, 224))
    assert [m.shape[2] for m in maps] == sides and [m.shape[1] for m in maps] == list(model.feature_channels)
    fires = [m for m in model.features if hasattr(m, "squeeze")]
    assert [8 * fire.squeeze.out_channels for fire in fires] == [128, 128, 256, 256, 384, 384, 512, 512]


def test_squeezenet_has_a_fiftieth_of_alexnets_parameters():
    assert 48 < describe_model("alexnet_original").params / describe_model("squeezenet1_0").params < 50


def test_all_cnn_c_is_nine_convolutions_and_averages_6_x_6_places():
    rows = describe_model("all_cnn_c").rows
    shapes = [row.output_shape[1:3] for row in rows if row.type == "Conv2d"]
    assert shapes == [(96, 32), (96, 32), (96, 16), (192, 16), (192, 16), (192, 8), (192, 6), (192, 6), (10, 6)]
    assert not any("Pool" in row.type for row in rows[:-1])


def test_network_in_network_averages_the_maps_of_its_last_1_x_1_convolution():
    model = create_model("nin").eval()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [5, 1, 1, 5, 1, 1, 3, 1, 1]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = convolutions[-1](model.features(images)[-1])
        assert maps.shape == (2, 10, 8, 8)
        torch.testing.assert_close(model(images), maps.clamp(min=0).mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "field", "value"), [
    ("nin", "dims", (8,) * 7), ("nin", "dropout", 1),
    ("squeezenet1_0", "pool_before", (1, 2)), ("squeezenet1_0", "pool_before", (5, 2)),
    ("squeezenet1_0", "squeeze_dims", ()), ("all_cnn_c", "dims", (8,)), ("all_cnn_c", "input_dropout", 1),
    ("vgg16", "depths", (1, 2)), ("vgg16", "dims", (8, 8, 8, 8, -8)), ("vgg16", "third_kernel", 2),
    ("vgg16", "norm", "layer"), ("vgg16", "dropout", -0.1),
    ("alexnet", "layout", "three"), ("alexnet", "dims", (1, 2)), ("alexnet", "dims", (64, 0, 3, 4, 5)),
    ("alexnet_original", "groups", 5), ("alexnet", "dropout", 1.0), ("alexnet", "hidden_dim", 0),
])
def test_wrong_configs_are_refused_by_name(name, field, value):
    with pytest.raises(UserError, match="dims|" + field):
        create_model(name, **{field: value})
