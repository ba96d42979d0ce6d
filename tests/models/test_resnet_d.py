"""ResNet-D and ResNet-RS against what the papers state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.drop_path import DropPath
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.models.cnn.resnet_d import ResNetD, ResNetDConfig
from visus.run.models import create_model, describe_model


@pytest.mark.parametrize(("name", "extra"), [("resnet18d", 2), ("resnet34d", 2), ("resnet50d", 2), ("resnet101d", 2),
                                             ("resnet152d", 2), ("resnet200d", 2), ("resnetrs50", 3),
                                             ("resnetrs200", 3), ("resnetrs270", 3), ("resnetrs350", 3),
                                             ("resnetrs420", 3)])
def test_depth_is_the_names_and_the_deeper_stems(name, extra):
    """The name counts ResNet's layers; a stem of three convolutions has two more, a convolution for pooling one. The
    names of the two largest ResNet-RS of the paper's table of depths are rounded: 272 and 419 layers."""
    with torch.device("meta"):
        model = create_model(name)
    found = sum(isinstance(m, nn.Conv2d | nn.Linear) for n, m in model.named_modules()
                if "downsample" not in n and ".se" not in n)
    named = int(name.removeprefix("resnet").removeprefix("rs").removesuffix("d"))
    assert found - extra == {270: 272, 350: 350, 420: 419}.get(named, named)


def test_the_three_tweaks_change_the_cost_by_what_the_paper_says():
    """Table 5: B to C and D cost 0.2e9 of the 4.3e9; the means of D cost nothing."""
    d, b = describe_model("resnet50d"), describe_model("resnet50")
    stem = 112 * 112 * (27 * 32 + 9 * 32 * 32 + 9 * 32 * 64) - 112 * 112 * 49 * 3 * 64
    assert d.macs - b.macs == stem
    assert d.params - b.params == 27 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 4 * 32 - 49 * 3 * 64


def test_the_projection_sees_every_place():
    """Section 4.2: a strided 1 x 1 convolution ignores three quarters of its input; with means it sees all of it."""
    for name, share in (("resnet50", 0.25), ("resnet50d", 1.0)):
        block = create_model(name, depths=(1, 1, 1, 1)).layer2[0].eval()
        maps = torch.rand(1, 256, 8, 8, requires_grad=True)
        block.downsample(maps).square().sum().backward()
        assert (maps.grad.abs().sum((0, 1)) > 0).float().mean().item() == share


def test_the_branch_sees_every_place():
    block = create_model("resnet50d", depths=(1, 1, 1, 1)).layer2[0].eval()
    maps = torch.rand(1, 256, 8, 8, requires_grad=True)
    block.bn2(block.conv2(block.conv1(maps))).square().sum().backward()
    assert (maps.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize("side", [7, 8])
def test_projection_takes_means_of_what_is_there(side):
    block = ResNetD(ResNetDConfig(block="basic", depths=(1, 1, 1, 1))).layer2[0].double().eval()
    maps = torch.rand(1, 64, side, side, dtype=torch.float64)
    means = torch.stack([torch.stack([maps[:, :, y:y + 2, x:x + 2].mean((2, 3)) for x in range(0, side, 2)], -1)
                         for y in range(0, side, 2)], -2)
    torch.testing.assert_close(block.downsample(maps), block.downsample[1:](means), rtol=1e-12, atol=1e-12)
    assert block(maps).shape[2] == (side + 1) // 2


def test_rs_squeezes_to_a_quarter_and_drops_ever_more():
    with torch.device("meta"):
        model = create_model("resnetrs200")
    gates = [m for m in model.modules() if isinstance(m, SqueezeExcitation)]
    assert len(gates) == 66 and all(g.fc1.out_channels * 4 == g.fc1.in_channels for g in gates)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates[0] == 0 and rates[-1] == 0.1 and rates[13] == pytest.approx(0.1 * 13 / 65) and len(rates) == 66
    assert model.dropout.p == 0.25 and not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_residual_makes_identity_blocks_at_start(block):
    model = ResNetD(ResNetDConfig(block=block, zero_init_residual=True, depths=(2, 1, 1, 1))).eval()
    maps = torch.rand(1, 64 if block == "basic" else 256, 8, 8)
    assert torch.equal(model.layer1[1](maps), maps)


@pytest.mark.parametrize("config", [{"block": "wide"}, {"depths": (1, 1, 1)}, {"depths": (1, 1, 0, 1)},
                                    {"stem_pool": "mean"}, {"se_ratio": 2}, {"dropout": 1.0}, {"drop_path": -0.1}])
def test_wrong_configs_are_refused(config):
    with pytest.raises(UserError, match=next(iter(config))):
        ResNetDConfig(**config)


def test_it_is_one_graph():
    model, images = create_model("resnetrs50", depths=(1, 1, 1, 1), drop_path=0.1), torch.randn(2, 3, 33, 33)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(images).shape == (2, 1000)
    model.eval()
    torch.testing.assert_close(compiled(images), model(images))
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), model(images))
