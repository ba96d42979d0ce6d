"""Residual networks against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.zero_pad_shortcut import ZeroPadShortcut
from visus.models.cnn.cifar_resnet import CifarResNet, CifarResNetConfig, StochasticDepth, survivals
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


@pytest.mark.parametrize("depth", [18, 34, 20, 32, 44, 56, 110])
def test_plain_nets_have_as_many_layers_as_their_names_say_and_no_others(depth):
    with torch.device("meta"):
        model = create_model(f"plain{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


@pytest.mark.parametrize(("name", "maps", "blocks"), [("plain18", (2, 3, 64, 64), 8), ("plain20", (2, 3, 16, 16), 9)])
def test_a_plain_net_is_its_convolutions_in_a_row(name, maps, blocks):
    model, images = create_model(name, num_classes=5).double().eval(), torch.randn(maps, dtype=torch.float64)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.bias, -0.1, 0.1)
    out = images
    for conv, norm in zip([m for m in model.modules() if isinstance(m, nn.Conv2d)], norms, strict=True):
        out = torch.relu(norm(conv(out)))
        if conv.kernel_size == (7, 7):
            out = nn.functional.max_pool2d(out, 3, 2, 1)
    assert len(norms) == 2 * blocks + 1
    torch.testing.assert_close(model(images), model.fc(out.mean((2, 3))), rtol=1e-10, atol=1e-10)


def test_options_differ_in_parameters_as_the_paper_says():
    """A has none, so as many as the plain net; B projects where the shape changes; C in every block."""
    count = {}
    for name in ("plain34", "resnet34_a", "resnet34", "resnet34_c"):
        with torch.device("meta"):
            count[name] = sum(p.numel() for p in create_model(name).parameters())
    changes = sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512)))
    others = sum(n * (d * d + 2 * d) for d, n in ((64, 3), (128, 3), (256, 5), (512, 2)))
    assert count["plain34"] == count["resnet34_a"] == count["resnet34"] - changes
    assert count["resnet34_c"] == count["resnet34"] + others


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
def test_what_is_left_of_a_block_without_its_branch(block, shortcut):
    model = ResNet(ResNetConfig(block=block, shortcut=shortcut, depths=(2, 1, 1, 1))).double().eval()
    for name, norm in model.named_modules():
        if name.endswith("bn2" if block == "basic" else "bn3"):
            nn.init.zeros_(norm.weight)
    dim = 64 if block == "basic" else 256
    maps = torch.rand(2, dim, 7, 9, dtype=torch.float64)
    same, changed = model.layer1[1](maps), model.layer2[0](maps)
    if shortcut == "none":
        assert not same.any() and not changed.any()
    elif shortcut == "A":
        assert torch.equal(same, maps) and torch.equal(changed[:, :dim], maps[:, :, ::2, ::2])
        assert changed.shape[1] == 2 * dim and not changed[:, dim:].any()
    else:
        assert torch.equal(same, maps) == (shortcut == "B")
        conv = model.layer2[0].downsample[0]
        expected = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], maps[:, :, ::2, ::2]) / (1 + 1e-5)**0.5
        torch.testing.assert_close(changed, torch.relu(expected), rtol=1e-12, atol=1e-12)


def test_survival_falls_linearly_to_the_last_block():
    """Huang et al., section 3: with p_L = 0.5 and 54 blocks 40.25 are expected to be left, (3 L - 1) / 4."""
    kept = survivals(0.5, 54)
    assert kept[-1] == 0.5 and kept[26] == pytest.approx(0.75) and sum(kept) == pytest.approx((3 * 54 - 1) / 4)
    with torch.device("meta"):
        model = create_model("resnet110_sd")
    assert [m.survival for m in model.modules() if isinstance(m, StochasticDepth)] == kept
    assert model.state_dict().keys() == create_model("resnet110").state_dict().keys()


@pytest.mark.parametrize("survival", [0.5, 0.9])
def test_a_batch_is_dropped_as_one_and_as_often_as_stated(survival):
    torch.manual_seed(0)
    drop, branch, draws = StochasticDepth(survival).train(), torch.randn(4, 3, 2, 2), 4000
    kept = 0
    for _ in range(draws):
        out = drop(branch)
        kept += torch.equal(out, branch)
        assert torch.equal(out, branch) or not out.any()
    assert abs(kept / draws - survival) < 4 * (survival * (1 - survival) / draws)**0.5
    assert torch.equal(drop.eval()(branch), branch * survival)


def test_stochastic_blocks_are_the_papers_equations():
    """Equation 2 in training, for both faces of the coin, and equation 5 in eval."""
    torch.manual_seed(0)
    block = CifarResNet(CifarResNetConfig(survival=0.5)).double().layer3[2]
    maps = torch.randn(4, 64, 6, 6, dtype=torch.float64).relu()

    def branch():
        return block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(maps)))))

    whole, found = torch.relu(branch() + maps), set()
    for _ in range(20):
        out = block(maps)
        found.add("dropped" if torch.equal(out, maps) else "kept")
        assert torch.equal(out, maps) or torch.allclose(out, whole, rtol=1e-12, atol=1e-12)
    assert found == {"dropped", "kept"}
    block.eval()
    torch.testing.assert_close(block(maps), torch.relu(0.5 * branch() + maps), rtol=1e-12, atol=1e-12)


def test_a_dropped_branch_gets_no_gradient():
    block = CifarResNet(CifarResNetConfig(survival=1e-9)).layer3[2]
    maps = torch.rand(2, 64, 4, 4, requires_grad=True)
    block(maps).sum().backward()
    assert torch.equal(maps.grad, torch.ones_like(maps))
    assert not any(p.grad.any() for p in block.parameters())


def test_stochastic_depth_is_one_graph():
    model = create_model("resnet20", depth=1, survival=0.5)
    images = torch.randn(2, 3, 8, 8)
    model(images)  # one step, so that running statistics are not those of the start
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(images).shape == (2, 10)
    model.eval()
    torch.testing.assert_close(compiled(images), model(images))
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), model(images))


@pytest.mark.parametrize(("config", "field"), [({"shortcut": "D"}, "shortcut"),
                                               ({"shortcut": "none", "zero_init_residual": True},
                                                "zero_init_residual")])
def test_wrong_resnet_configs_are_refused(config, field):
    with pytest.raises(UserError, match=field):
        ResNetConfig(**config)


@pytest.mark.parametrize(("config", "field"), [({"shortcut": "C"}, "shortcut"), ({"survival": 0}, "survival"),
                                               ({"survival": 1.5}, "survival"), ({"survival": True}, "survival"),
                                               ({"shortcut": "none", "survival": 0.5}, "survival")])
def test_wrong_cifar_resnet_configs_are_refused(config, field):
    with pytest.raises(UserError, match=field):
        CifarResNetConfig(**config)
