"""Residual networks against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
