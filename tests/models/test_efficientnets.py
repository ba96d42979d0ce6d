"""EfficientNets and the other networks of inverted residuals: what their papers and files state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visus.core.errors import CheckpointError
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.layers.timm_blocks import split_timm_blocks
from visus.models.cnn.efficientnet_lite import SameConv2d, from_original
from visus.run.models import create_model, load_weights


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (8, 5), (5, 12), (1, 2)])
def test_same_convolution_pads_as_tensorflow(kernel, sides):
    """Output place i of ceil(n / s) begins at i s - floor(p / 2), where p = (ceil(n / s) - 1) s + k - n."""
    conv = SameConv2d(2, 3, kernel, 2).double()
    maps = torch.randn(2, 2, *sides, dtype=torch.float64)
    outs = [-(-side // 2) for side in sides]
    starts = [((out - 1) * 2 + kernel - side) // 2 for out, side in zip(outs, sides, strict=True)]
    expected = torch.zeros(2, 3, *outs, dtype=torch.float64)
    for row in range(outs[0]):
        for column in range(outs[1]):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * 2 - starts[0] + i, column * 2 - starts[1] + j
                    if 0 <= y < sides[0] and 0 <= x < sides[1]:
                        expected[:, :, row, column] += maps[:, :, y, x] @ conv.weight[:, :, i, j].T.detach()
    with torch.no_grad():
        torch.testing.assert_close(conv(maps), expected)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_lite_keeps_stem_head_and_ends_and_has_no_gates(size):
    with torch.device("meta"):
        model, plain = create_model(f"efficientnet_lite{size}"), create_model(f"efficientnet_b{size}")
    assert model.conv_stem.out_channels == 32 and model.feature_channels[-1] == 1280
    assert not any(isinstance(m, SqueezeExcitation | nn.SiLU) for m in model.modules())
    assert len(model.blocks[0]) == len(model.blocks[6]) == 1
    assert [len(stage) for stage in list(model.blocks)[1:6]] == [len(stage) for stage in list(plain.features)[2:7]]
    assert model.feature_channels[:-1] == plain.feature_channels[:-1]


def test_same_convolution_takes_any_size_in_one_graph():
    layer = nn.Sequential(SameConv2d(2, 3, 5, 2), SameConv2d(3, 2, 3, 2))
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    graph = torch.export.export(layer, (torch.randn(2, 2, 16, 22),), dynamic_shapes=(sides,)).module()
    with torch.no_grad():
        for shape in ((2, 2, 15, 12), (2, 2, 8, 33)):
            maps = torch.randn(shape)
            torch.testing.assert_close(graph(maps), layer(maps))


def test_original_names_of_lite_cover_the_model():
    """The packages' names for Lite0: 16 blocks in a row, of which the first does not widen."""
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
             "conv_pwl": "_project_conv", "bn3": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    with torch.device("meta"):
        model = create_model("efficientnet_lite0", num_classes=5)
    ours = model.state_dict()
    blocks = [(str(s), str(i)) for s, stage in enumerate(model.blocks) for i in range(len(stage))]
    theirs = {}
    for name, tensor in ours.items():
        layer, _, leaf = name.rpartition(".")
        if layer.startswith("blocks."):
            _, stage, index, part = layer.split(".")
            layer = f"_blocks.{blocks.index((stage, index))}.{(first if stage == '0' else later)[part]}"
        else:
            layer = outside[layer]
        theirs[f"{layer}.{leaf}"] = tensor
    assert len(blocks) == 16 and len(theirs) == len(ours)
    back = from_original(dict(sorted(theirs.items())))
    assert back.keys() == ours.keys() and all(back[name] is ours[name] for name in ours)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s", "mobilenet_v2", "mobilenet_v3_small",
                                  "mnasnet_100"])
def test_a_name_that_timm_does_not_use_is_refused(name):
    with torch.device("meta"):
        model = create_model(name)
    with pytest.raises(CheckpointError, match=r"unexpected \(2\): stray\.bias, blocks\.0\.0\.extra\.weight"):
        load_weights(model, {"blocks.0.0.extra.weight": torch.zeros(1), "stray.bias": torch.zeros(1)}, "timm")


def test_timm_blocks_are_told_apart_in_any_order():
    """A gated block that widens, a block of one convolution and one that does not widen; safetensors sorts names."""
    names = ["blocks.2.0.bn1", "blocks.2.0.bn2", "blocks.2.0.bn3", "blocks.2.0.conv_dw", "blocks.2.0.conv_pw",
             "blocks.2.0.conv_pwl", "blocks.2.0.se.conv_expand", "blocks.2.0.se.conv_reduce", "blocks.10.0.bn1",
             "blocks.10.0.conv", "blocks.0.1.bn1", "blocks.0.1.bn2", "blocks.0.1.conv_dw", "blocks.0.1.conv_pw", "bn1"]
    outside, blocks = split_timm_blocks({f"{name}.weight": torch.tensor(i) for i, name in enumerate(names)})
    found = {names[b.tensor.item()].split(".", 3)[3]: (b.step, b.layer) for b in blocks if b.place == (2, 0, 1)}
    assert found == {"conv_pw": (0, "conv"), "bn1": (0, "bn"), "conv_dw": (1, "conv"), "bn2": (1, "bn"),
                     "se.conv_reduce": (2, "fc1"), "se.conv_expand": (2, "fc2"), "conv_pwl": (3, "conv"),
                     "bn3": (3, "bn")}
    assert {b.place for b in blocks} == {(0, 1, 0), (2, 0, 1), (10, 0, 2)} and set(outside) == {"bn1.weight"}
    assert [(b.step, b.steps) for b in blocks if b.place[0] == 10] == [(0, 1), (0, 1)]
    assert {(names[b.tensor.item()][-7:], b.step) for b in blocks if b.place[0] == 0 and b.layer == "conv"} == {
        ("conv_dw", 0), ("conv_pw", 1)}


def test_early_stages_of_v2_are_fused():
    """Table 4 of the paper: Fused-MBConv in stages 1 to 3, MBConv with gates in the others."""
    with torch.device("meta"):
        model = create_model("efficientnet_v2_s")
    gated = [any(isinstance(m, SqueezeExcitation) for m in stage.modules()) for stage in list(model.features)[1:-1]]
    assert gated == [False] * 3 + [True] * 3
    assert [len(stage) for stage in list(model.features)[1:-1]] == [2, 4, 4, 6, 9, 15]


def test_a_fused_block_is_a_wide_convolution_and_a_narrow_one():
    model = create_model("efficientnet_v2_s", width=0.25, depth=0.5, num_classes=3).double().eval()
    block = model.features[2][1]  # the second of stage 2: no stride, so that it adds its input
    (wide, wide_norm, _), (narrow, narrow_norm) = block.block
    maps = torch.randn(2, wide.in_channels, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        hidden = F.silu(wide_norm(F.conv2d(maps, wide.weight, padding=1)))
        expected = maps + narrow_norm(F.conv2d(hidden, narrow.weight))
        torch.testing.assert_close(block(maps), expected)
    assert wide.weight.shape[:2] == (4 * maps.shape[1], maps.shape[1]) and wide.kernel_size == (3, 3)
