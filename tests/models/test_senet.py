"""Squeeze-and-excitation networks against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.models.cnn.senet import SENet, SENetConfig, from_timm
from visus.run.models import create_model, describe_model


def gates_of(name: str) -> list[SqueezeExcitation]:
    with torch.device("meta"):
        return [m for m in create_model(name).modules() if isinstance(m, SqueezeExcitation)]


@pytest.mark.parametrize(("name", "plain"), [("seresnet50", "resnet50"), ("seresnet101", "resnet101"),
                                             ("seresnet152", "resnet152"), ("seresnext50_32x4d", "resnext50_32x4d")])
def test_gates_add_what_equation_5_says(name, plain):
    """2 / r times the sum over stages of N_s C_s^2, for the weights of the two layers; and their biases."""
    added = describe_model(name).params - describe_model(plain).params
    gates = gates_of(name)
    weights = sum(2 * gate.fc1.in_channels**2 // 16 for gate in gates)
    assert added == weights + sum(gate.fc1.in_channels * 17 // 16 for gate in gates)
    if name == "seresnet50":  # "about 2.5 million additional parameters", 10 % of 25 million
        assert weights == 2_514_944


@pytest.mark.parametrize(("name", "billions"), [("seresnet50_v1", 3.872), ("seresnet101_v1", 7.593),
                                                ("seresnet152_v1", 11.315), ("seresnext50_32x4d", 4.244),
                                                ("seresnext101_32x4d", 7.993)])
def test_means_and_scalings_cost_what_the_passport_says(name, billions):
    """Each place of what a gate scales is added once and multiplied once."""
    with torch.device("meta"):
        model = create_model(name)
    places = sum(2 * len(stage) * channels * (224 // stride)**2
                 for stage, channels, stride in zip((model.layer1, model.layer2, model.layer3, model.layer4),
                                                    model.feature_channels, model.feature_strides, strict=True))
    assert (describe_model(name).macs + places) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_a_block_is_the_papers_equations():
    """z, the mean of a channel (equation 2); s = sigmoid(W_2 relu(W_1 z)) (3); the branch times s (4), then added."""
    torch.manual_seed(0)
    block = SENet(SENetConfig()).layer1[1].double().eval()
    maps = torch.rand(2, 256, 5, 6, dtype=torch.float64)
    branch = block.bn1(block.conv1(maps)).relu()
    branch = block.bn3(block.conv3(block.bn2(block.conv2(branch)).relu()))
    first, second = (layer.weight[:, :, 0, 0] for layer in (block.se.fc1, block.se.fc2))
    inner = torch.relu(branch.mean((2, 3)) @ first.T + block.se.fc1.bias)
    scale = torch.sigmoid(inner @ second.T + block.se.fc2.bias)
    assert inner.shape == (2, 16)
    expected = torch.relu(maps + branch * scale[:, :, None, None])
    torch.testing.assert_close(block(maps), expected, rtol=1e-12, atol=1e-12)


def test_senet154_is_the_network_of_the_appendix():
    with torch.device("meta"):
        model = create_model("senet154")
    convs = [m for n, m in model.named_modules()
             if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in n and ".se" not in n]
    assert len(convs) == 154 and model.dropout.p == 0.2  # 3 of the stem, 150 of the blocks, the classifier
    widths = [(stage[0].conv1.out_channels, stage[0].conv2.out_channels, stage[0].conv3.out_channels)
              for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
    assert widths == [(128, 256, 256), (256, 512, 512), (512, 1024, 1024), (1024, 2048, 2048)]
    assert {b.conv2.groups for stage in (model.layer1, model.layer4) for b in stage} == {64}
    kernels = [stage[0].downsample[0].kernel_size for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
    assert kernels == [(1, 1), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize(("name", "strides"), [("seresnet50", (1, 2)), ("seresnet50_v1", (2, 1))])
def test_where_a_bottleneck_halves_its_maps(name, strides):
    with torch.device("meta"):
        block = create_model(name).layer2[0]
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


@pytest.mark.parametrize("name", ["seresnet50_v1", "senet154"])
def test_names_of_the_authors_weights_are_understood_whole(name):
    """Strict both ways: each of our names comes from one of theirs, and a name of ours stays as it is."""
    with torch.device("meta"):
        state = create_model(name).state_dict()
    deep = {"conv1.0.": "layer0.conv1.", "conv1.1.": "layer0.bn1.", "conv1.3.": "layer0.conv2.",
            "conv1.4.": "layer0.bn2.", "conv1.6.": "layer0.conv3.", "bn1.": "layer0.bn3."}
    stem = deep if name == "senet154" else {"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1."}
    theirs = {}
    for key, tensor in state.items():
        old = next((stem[start] + key.removeprefix(start) for start in stem if key.startswith(start)), key)
        theirs[old.replace(".se.", ".se_module.").replace("fc.", "last_linear.", key.startswith("fc."))] = tensor
    assert theirs.keys() != state.keys()
    found = from_timm(theirs)
    assert found.keys() == state.keys() and all(found[key] is state[key] for key in state)
    assert from_timm(state).keys() == state.keys()


@pytest.mark.parametrize("config", [{"block": "wide"}, {"depths": (1, 1, 1)}, {"first_share": 0.7}, {"projection": 2},
                                    {"dropout": 1.0}, {"caffe_pool": 1}, {"block": "basic", "groups": 2},
                                    {"block": "basic", "stride_in_first": True}])
def test_wrong_configs_are_refused(config):
    with pytest.raises(UserError, match=list(config)[-1]):
        SENetConfig(**config)


def test_it_is_one_graph():
    model, images = create_model("senet154", depths=(1, 1, 1, 1), groups=8), torch.randn(2, 3, 33, 33)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(images).shape == (2, 1000)
    model.eval()
    torch.testing.assert_close(compiled(images), model(images))
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), model(images))
