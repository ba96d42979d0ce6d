"""The ladder from ResNet-50 to ConvNeXt-T: its ends are those two networks, and each step changes what it names."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.channel_norm import ChannelNorm
from visus.models.cnn.convnext import ConvNeXt, ConvNeXtConfig
from visus.models.cnn.convnext_ladder import (
    VARIANTS,
    Block,
    ConvNeXtLadder,
    ConvNeXtLadderConfig,
    from_torchvision,
)
from visus.models.cnn.resnet import ResNet, ResNetConfig

NAMES = list(VARIANTS)
SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 5}


def rung(name: str, **config) -> ConvNeXtLadder:
    return ConvNeXtLadder(ConvNeXtLadderConfig(**VARIANTS[name] | config))


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * p[0].numel() ** -0.5 if p.ndim in (2, 4) else noise * 0.1 + (not name.endswith("bias")))


def assert_equal_steps(ours: nn.Module, theirs: nn.Module, size: int) -> None:
    """Outputs in both modes, and every gradient of one step, in float64."""
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    ours, theirs = ours.double(), theirs.double()
    ours.load_state_dict(from_torchvision(theirs.state_dict()), strict=True)
    for model in (ours.train(), theirs.train()):
        nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    expected = from_torchvision({name: p.grad for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-8, atol=1e-11, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-10, atol=1e-10)
    for a, b in zip(ours.features(images), theirs.features(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_first_rung_is_resnet50():
    with torch.device("meta"):
        ours, theirs = rung(NAMES[0]), ResNet(ResNetConfig(block="bottleneck", depths=(3, 4, 6, 3)))
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in from_torchvision(theirs.state_dict()).items()}
    ours = rung(NAMES[0], depths=(2, 1, 1, 1), num_classes=5)
    theirs = ResNet(ResNetConfig(block="bottleneck", depths=(2, 1, 1, 1), num_classes=5))
    randomise(theirs)
    assert_equal_steps(ours, theirs, 64)


def test_the_last_rung_is_convnext_tiny():
    with torch.device("meta"):
        ours, theirs = rung(NAMES[-1]), ConvNeXt(ConvNeXtConfig())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 28_589_128
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in from_torchvision(theirs.state_dict()).items()}
    ours, theirs = rung(NAMES[-1], **SMALL), ConvNeXt(ConvNeXtConfig(**SMALL))
    randomise(theirs)
    assert_equal_steps(ours, theirs, 67)


STEPS = [("0_resnet50", "1_stage_ratio", {"depths"}), ("1_stage_ratio", "2_patchify", {"patchify"}),
         ("2_patchify", "3_depthwise", {"depthwise"}), ("3_depthwise", "4_width", {"dims"}),
         ("4_width", "5_inverted", {"block"}), ("5_inverted", "6_moved_up", {"block"}),
         *[("6_moved_up", f"7_kernel{k}", {"kernel"}) for k in (5, 7, 9, 11)],
         ("7_kernel7", "8_gelu", {"activation"}), ("8_gelu", "9_fewer_activations", {"fewer_activations"}),
         ("9_fewer_activations", "10_fewer_norms", {"fewer_norms"}), ("10_fewer_norms", "11_layer_norm", {"norm"}),
         ("11_layer_norm", "12_separate_downsampling", {"separate_downsampling", "layer_scale"})]


def test_each_step_changes_the_field_that_it_is_named_for():
    configs = {name.removeprefix("convnext_ladder_"): dataclasses.asdict(ConvNeXtLadderConfig(**fields))
               for name, fields in VARIANTS.items()}
    assert {step for _, step, _ in STEPS} | {"0_resnet50"} == set(configs)
    for before, after, changed in STEPS:
        assert {f for f in configs[before] if configs[before][f] != configs[after][f]} == changed, after


# norms, activations (in a block that keeps its shape) and which convolution sees more than one place
ANATOMY = {
    "0_resnet50": ([nn.BatchNorm2d] * 3, [nn.ReLU] * 3, (1, 3, 1)),
    "5_inverted": ([nn.BatchNorm2d] * 3, [nn.ReLU] * 3, (1, 3, 1)),
    "6_moved_up": ([nn.BatchNorm2d] * 3, [nn.ReLU] * 3, (3, 1, 1)),
    "7_kernel11": ([nn.BatchNorm2d] * 3, [nn.ReLU] * 3, (11, 1, 1)),
    "8_gelu": ([nn.BatchNorm2d] * 3, [nn.GELU] * 3, (7, 1, 1)),
    "9_fewer_activations": ([nn.BatchNorm2d] * 3, [nn.Identity, nn.GELU, nn.Identity], (7, 1, 1)),
    "10_fewer_norms": ([nn.BatchNorm2d, nn.Identity, nn.Identity], [nn.Identity, nn.GELU, nn.Identity], (7, 1, 1)),
    "11_layer_norm": ([ChannelNorm, nn.Identity, nn.Identity], [nn.Identity, nn.GELU, nn.Identity], (7, 1, 1)),
}


@pytest.mark.parametrize("step", ANATOMY)
def test_a_block_has_the_norms_activations_and_kernels_of_its_step(step):
    """Figure 3 for the order of convolutions, figure 4 for norms and activations."""
    model = rung(f"convnext_ladder_{step}", **SMALL)
    norms, acts, kernels = ANATOMY[step]
    block = [m for m in model.modules() if isinstance(m, Block)][-2]
    assert [type(getattr(block, f"norm{i}")) for i in (1, 2, 3)] == norms
    assert [type(getattr(block, f"act{i}")) for i in (1, 2, 3)] == acts
    assert tuple(getattr(block, f"conv{i}").kernel_size[0] for i in (1, 2, 3)) == kernels
    for i in (1, 2, 3):  # a bias unless a batch norm follows
        assert (getattr(block, f"conv{i}").bias is None) == (norms[i - 1] is nn.BatchNorm2d)


def test_an_inverted_block_is_wide_in_the_middle_and_a_bottleneck_narrow():
    widths = {}
    for step in ("4_width", "5_inverted", "6_moved_up"):
        block = rung(f"convnext_ladder_{step}", **SMALL).stages[0][0]
        widths[step] = (block.conv1.in_channels, block.conv2.in_channels, block.conv2.out_channels,
                        block.conv3.out_channels)
    assert widths == {"4_width": (8, 8, 8, 32), "5_inverted": (8, 32, 32, 8), "6_moved_up": (8, 8, 32, 8)}


@pytest.mark.parametrize(("field", "value"), [
    ("depths", (3, 3)), ("dims", (8, 8, 8)), ("kernel", 4), ("block", "basic"), ("activation", "silu"),
    ("norm", "group"), ("patchify", 1), ("layer_scale", -1), ("fewer_norms", True), ("fewer_activations", True)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        ConvNeXtLadderConfig(**{field: value})


def test_the_moved_up_convolution_is_depthwise():
    with pytest.raises(UserError, match="depthwise=False"):
        ConvNeXtLadderConfig(block="moved_up")
