"""Residual networks against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.models.cnn.cifar_resnet import CifarResNet, CifarResNetConfig, ZeroPadShortcut
from visus.models.cnn.resnet import ResNet, ResNetConfig
from visus.run.models import create_model, describe_model


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_cifar_resnet_has_as_many_weighted_layers_as_its_name_says(depth):
    with torch.device("meta"):
        model = create_model(f"resnet{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_has_as_many_weighted_layers_as_its_name_says(depth):
    with torch.device("meta"):
        model = create_model(f"resnet{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for n, m in model.named_modules()
               if "downsample" not in n) == depth


def test_zero_pad_shortcut_has_no_parameters_and_keeps_every_other_place():
    maps = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = ZeroPadShortcut(3)(maps)
    assert torch.equal(out[:, :2], maps[:, :, ::2, ::2]) and out[:, 2:].abs().sum() == 0 and out.shape[1] == 5


def test_projection_shortcuts_cost_what_two_projections_cost():
    count = {s: sum(p.numel() for p in CifarResNet(CifarResNetConfig(shortcut=s)).parameters()) for s in "AB"}
    assert count["B"] - count["A"] == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize(("name", "billions"),
                         [("resnet50", 3.858), ("resnet101", 7.570), ("resnet152", 11.282)])
def test_the_papers_stride_placement_costs_what_the_passport_says(name, billions):
    summary = describe_model(name)
    rows = {row.name: row for row in summary.rows}
    saved = sum(rows[f"layer{i}.0.conv1"].macs * 3 // 4 for i in (2, 3, 4))
    assert (summary.macs - saved) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_option_a_of_resnet34_costs_what_the_passport_says():
    summary = describe_model("resnet34")
    projections = sum(row.macs for row in summary.rows if "downsample" in row.name)
    assert (summary.macs - projections) / 1e9 == pytest.approx(3.644, abs=5e-4)


def test_receptive_fields_equal_the_known_ones():
    """Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, for the
    layers of ResNet; 18: 435, 50 with the stride in the 3 x 3 convolution: 427."""
    assert describe_model("resnet18").receptive_field == 435
    assert describe_model("resnet50").receptive_field == 427
    assert describe_model("lenet5").receptive_field == 32


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_residual_makes_identity_blocks_at_start(block):
    model = ResNet(ResNetConfig(block=block, zero_init_residual=True, depths=(2, 1, 1, 1))).eval()
    maps = torch.rand(1, 64 if block == "basic" else 256, 8, 8)
    assert torch.equal(model.layer1[1](maps), maps)


@pytest.mark.parametrize(("name", "widths", "groups"), [("resnext50_32x4d", (128, 256, 512, 1024), 32),
                                                        ("resnext101_32x8d", (256, 512, 1024, 2048), 32),
                                                        ("resnext101_64x4d", (256, 512, 1024, 2048), 64),
                                                        ("wide_resnet50_2", (128, 256, 512, 1024), 1)])
def test_grouped_bottlenecks_are_as_wide_as_the_paper_says(name, widths, groups):
    """ResNeXt, Table 1; Wide ResNet: the 3 x 3 convolution is twice as wide."""
    with torch.device("meta"):
        model = create_model(name)
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert tuple(stage[-1].conv2.out_channels for stage in stages) == widths
    assert {block.conv2.groups for stage in stages for block in stage} == {groups}
    assert model.feature_channels == (256, 512, 1024, 2048)


def test_grouped_convolution_is_the_sum_of_the_papers_paths():
    """Figure 3: C separate paths of 1 x 1, 3 x 3, 1 x 1, summed, equal one block with C groups."""
    block = ResNet(ResNetConfig(block="bottleneck", groups=8, width_per_group=4)).layer1[1].double().eval()
    maps = torch.rand(2, 256, 6, 6, dtype=torch.float64)
    total = maps.clone()
    for path in torch.arange(32).split(4):
        inner = torch.relu(nn.functional.conv2d(maps, block.conv1.weight[path]) * _scale(block.bn1)[path])
        inner = torch.relu(nn.functional.conv2d(inner, block.conv2.weight[path], padding=1) * _scale(block.bn2)[path])
        total += nn.functional.conv2d(inner, block.conv3.weight[:, path]) * _scale(block.bn3)
    torch.testing.assert_close(block(maps), torch.relu(total), rtol=1e-10, atol=1e-10)


def _scale(norm: nn.BatchNorm2d) -> torch.Tensor:
    """What a normalisation that was never trained multiplies by; it adds nothing."""
    return (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]


@pytest.mark.parametrize(("field", "value"), [("groups", 2), ("width_per_group", 128)])
def test_basic_blocks_have_no_groups(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        ResNetConfig(block="basic", **{field: value})
