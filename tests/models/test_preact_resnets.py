"""Pre-activation and wide residual networks for small images against what the papers state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.models.cnn.preact_resnet import PreactResNet, PreactResNetConfig
from visus.models.cnn.wide_resnet_cifar import WideResNet, WideResNetConfig
from visus.run.models import create_model


@pytest.mark.parametrize("depth", [110, 164, 1001])
def test_preact_resnet_has_as_many_weighted_layers_as_its_name_says(depth):
    with torch.device("meta"):
        model = create_model(f"preact_resnet{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for n, m in model.named_modules() if "downsample" not in n) == depth


@pytest.mark.parametrize(("name", "depth"), [("wrn28_10", 28), ("wrn40_2", 40), ("wrn16_4", 16)])
def test_wide_resnet_has_as_many_convolutions_as_its_name_says(name, depth):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == depth


def test_preact_resnet1001_without_its_norms_costs_what_the_passport_says():
    with torch.device("meta"):
        model = create_model("preact_resnet1001")
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - norms == 10_178_490


def silence(model: nn.Module, last: str) -> nn.Module:
    """Every residual branch ends in zero, so that blocks of one shape add nothing."""
    for name, module in model.named_modules():
        if name.endswith(last):
            nn.init.zeros_(module.weight)
    return model.double().eval()


@pytest.mark.parametrize(("block", "last"), [("basic", "convs.1"), ("bottleneck", "convs.2")])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_nothing_but_shortcuts_lies_between_blocks(block, last, shortcut):
    """Equation 5: x_L = x_l + the sum of residuals, also across zero and negative values."""
    model = silence(PreactResNet(PreactResNetConfig(block=block, depth=3, shortcut=shortcut)), last)
    maps = torch.randn(2, 16 if block == "basic" else 64, 8, 8, dtype=torch.float64)
    assert torch.equal(model.layer1[1:](maps), maps)
    if shortcut == "A":
        doubled = model.layer2(maps)
        half = maps.shape[1]
        assert torch.equal(doubled[:, :half], maps[:, :, ::2, ::2]) and doubled[:, half:].abs().sum() == 0


def test_first_block_shares_its_activation_with_its_shortcut():
    model = silence(PreactResNet(PreactResNetConfig(block="basic", depth=1, shortcut="A")), "convs.1")
    maps = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model.layer1(maps), F.relu(maps) / (1 + 1e-5) ** 0.5, rtol=1e-12, atol=1e-12)


def written_out(block: nn.Module, maps: Tensor) -> Tensor:
    active = F.relu(block.bn1(maps))
    out = F.conv2d(active, block.conv1.weight, stride=2, padding=1)
    out = F.conv2d(F.relu(block.bn2(out)), block.conv2.weight, padding=1)
    return out + F.conv2d(active, block.downsample.weight, stride=2)


def test_wide_block_that_halves_is_the_papers_formula():
    block = WideResNet(WideResNetConfig(depth=1, width=2)).double().layer2[0].eval()
    maps = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(maps), written_out(block, maps), rtol=1e-12, atol=1e-12)


def test_dropout_lies_between_the_convolutions():
    model = WideResNet(WideResNetConfig(depth=2, width=1, dropout=0.5)).train()
    block, maps = model.layer1[1], torch.randn(2, 16, 8, 8)
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(maps), maps)


@pytest.mark.parametrize(("config", "field"), [({"block": "wide"}, "block"), ({"shortcut": "C"}, "shortcut"),
                                               ({"depth": 0}, "depth")])
def test_wrong_preact_configs_are_refused(config, field):
    with pytest.raises(UserError, match=field):
        PreactResNetConfig(**config)


@pytest.mark.parametrize(("config", "field"), [({"width": 0}, "width"), ({"dropout": 1.0}, "dropout")])
def test_wrong_wide_configs_are_refused(config, field):
    with pytest.raises(UserError, match=field):
        WideResNetConfig(**config)
