"""Xception against its paper, and separable convolutions against what they replace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.test_models_parity import assert_near, peer, randomise
from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models.cnn.xception import Block, SeparableConv, Xception, XceptionConfig
from visus.run.models import create_model, load_weights

SMALL = {"depth": 1, "dims": (16, 24, 32, 40, 48, 56)}


@pytest.mark.parametrize(("in_dim", "dim", "side"), [(8, 16, 7), (32, 8, 5), (64, 128, 4)])
def test_a_separable_convolution_costs_1_over_channels_plus_1_over_9(in_dim, dim, side):
    whole = nn.Conv2d(in_dim, dim, 3, padding=1, bias=False)
    parts = SeparableConv(in_dim, dim)
    for cost in (lambda m: summarise(m, (1, in_dim, side, side)).macs,
                 lambda m: sum(p.numel() for p in m.parameters())):
        assert cost(parts) / cost(whole) == pytest.approx(1 / dim + 1 / 9)


def test_a_separable_convolution_is_a_whole_one_of_rank_one_kernels():
    """The kernel from channel i to j is the filter of i times the weight of the pair."""
    torch.manual_seed(0)
    layer, maps = SeparableConv(4, 6).double(), torch.randn(2, 4, 7, 5).double()
    with torch.no_grad():
        kernel = layer.pointwise.weight * layer.conv1.weight.transpose(0, 1)  # [6, 4, 1, 1] * [1, 4, 3, 3]
        torch.testing.assert_close(layer(maps), F.conv2d(maps, kernel, padding=1), rtol=1e-10, atol=1e-12)


def test_xception_has_the_flows_of_figure_5():
    """Entry flow 128, 256, 728; eight middle blocks of three separable convolutions; exit 1024, 1536, 2048: 36
    convolutional layers, residuals around 12 of the 14 modules."""
    with torch.device("meta"):
        model = create_model("xception").eval()
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 147, 147), (128, 74, 74), (256, 37, 37), (728, 19, 19),
                                                  (2048, 10, 10)]
    separable = [m for m in model.modules() if isinstance(m, SeparableConv)]
    dims = [m.pointwise.out_channels for m in separable]
    assert dims == [128] * 2 + [256] * 2 + [728] * 2 + [728] * 24 + [728, 1024] + [1536, 2048]
    assert len(separable) + 2 == 36 and sum(isinstance(m, Block) for m in model.modules()) == 12
    assert [n for n, m in model.named_modules() if n.endswith(".skip")] == [f"block{i}.skip" for i in (1, 2, 3, 12)]
    stats = sum(b.numel() for n, b in model.named_buffers() if not n.endswith("tracked"))
    assert stats == 54_528  # which the count of tf.keras.applications includes


def test_a_block_activates_before_its_convolutions_and_not_its_input_beside_them():
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 6, 6)
    kept = maps.clone()
    first, later = Block(4, (5, 5), 2, relu_first=False).eval(), Block(4, (4, 4), 1).eval()
    with torch.no_grad():
        for block, start in ((first, maps), (later, maps.clamp(min=0))):
            convolutions = [m for m in block.rep if isinstance(m, SeparableConv)]
            norms = [m for m in block.rep if isinstance(m, nn.BatchNorm2d)]
            out = norms[1](convolutions[1](F.relu(norms[0](convolutions[0](start)))))
            if block is first:
                out = F.max_pool2d(out, 3, 2, 1) + block.skipbn(block.skip(maps))
            else:
                out = out + maps
            torch.testing.assert_close(block(maps), out, rtol=1e-5, atol=1e-6)
    assert torch.equal(maps, kept)


def test_features_equal_timms():
    theirs = peer("timm", "legacy_xception", features_only=True, out_indices=(0, 1, 2, 3, 4))
    ours = create_model("xception")
    randomise(theirs)
    body = {n.removeprefix("body."): t for n, t in theirs.state_dict().items()}
    head = {n: t for n, t in ours.state_dict().items() if n.startswith("fc.")}
    assert load_weights(ours, {**body, **head}, "timm") == []
    images = torch.randn(1, 3, 65, 52, dtype=torch.float64)
    assert tuple(theirs.feature_info.channels()) == ours.feature_channels
    assert tuple(theirs.feature_info.reduction()) == ours.feature_strides
    with torch.no_grad():
        for a, b in zip(ours.double().eval().features(images), theirs.double().eval()(images), strict=True):
            assert_near(a, b, 1e-10, "features")


@pytest.mark.parametrize("size", [(7, 7), (8, 9), (20, 7)])
def test_the_least_images_are_taken_and_smaller_ones_refused(size):
    model = Xception(XceptionConfig(num_classes=2, **SMALL)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size)).isfinite().all()
    with pytest.raises(UserError, match=f"6x{size[1]}: .*at least 7 pixels"):
        model(torch.randn(1, 3, 6, size[1]))


@pytest.mark.parametrize("wrong", [{"dims": (1, 2, 3)}, {"dims": (8, 8, 8, 8, 8, 0)}, {"depth": 0}, {"dropout": 1.0}])
def test_wrong_configs_are_refused_by_field(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        XceptionConfig(**wrong)


@pytest.mark.slow
def test_compiles_as_one_graph_and_exports():
    torch.manual_seed(0)
    model = Xception(XceptionConfig(num_classes=3, **SMALL)).eval()
    images = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        expected = model(images)
        found = torch.compile(model, fullgraph=True, backend="eager")(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-5)
