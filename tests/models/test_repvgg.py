"""RepVGG against what the paper states of its fused form, and against timm's fused form."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import peer, randomise
from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models.cnn.repvgg import PUBLISHED, VARIANTS, RepVGGBlock
from visus.run.models import create_model, load_weights

SMALL = {"depths": (1, 3, 2, 1), "dims": (16, 24, 32, 48), "num_classes": 5}


@pytest.mark.parametrize("name", VARIANTS)
def test_fused_form_has_the_papers_counts(name):
    """Table 4 and 5: millions of parameters, cut after two digits, and billions of multiply-adds."""
    with torch.device("meta"):
        plain = create_model(name).fuse()
    summary = summarise(plain, (1, 3, 224, 224))
    params, macs = PUBLISHED[name][:2]
    cut = Decimal(summary.params).scaleb(-6)
    assert cut - Decimal("0.01") < Decimal(params["value"]).scaleb(-6) <= cut
    assert summary.macs / 1e9 == pytest.approx(float(macs["value"]) / 1e9, abs=0.05)
    assert str(summary.params) in params["reason"] and f"{summary.macs / 1e9:.3f}e9" in macs["reason"]


def test_the_grouped_layers_are_every_other_after_the_first():
    with torch.device("meta"):
        model = create_model("repvgg_b1g2")
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock)]
    assert len(blocks) == 28
    assert [block.conv_kxk.conv.groups for block in blocks] == [1, *[1, 2] * 13, 1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"squeeze": True}], ids=str)
def test_fused_equals_three_branches(options, dtype, tolerance):
    model = create_model("repvgg_a0", **SMALL, **options).to(dtype)
    randomise(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model.eval().fuse()
    images = torch.randn(2, 3, 45, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected, found = model(images), plain(images)
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= tolerance
    assert plain.config.fused and not model.config.fused and plain.fuse() is plain
    assert not [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not {p.data_ptr() for p in plain.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_the_block_follows_figure_4_by_hand():
    """One channel, identity, 1 x 1 of weight 3 and a 3 x 3, with norms that only scale: by 2, 5 and 7."""
    block = RepVGGBlock(1, 1, 1, 1, False).double().eval()
    with torch.no_grad():
        for norm, scale in ((block.identity, 2.0), (block.conv_1x1.bn, 5.0), (block.conv_kxk.bn, 7.0)):
            norm.eps = 0.0
            norm.weight.fill_(scale)
            norm.bias.fill_(scale / 10)
        block.conv_1x1.conv.weight.fill_(3.0)
        block.conv_kxk.conv.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    weight, bias = block.kernel_and_bias()
    expected = 7.0 * torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    expected[0, 0, 1, 1] += 2.0 + 15.0
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(bias, torch.tensor([1.4], dtype=torch.float64))


def test_fused_weights_equal_timms_and_load_into_the_fused_model():
    theirs = peer("timm", "repvgg_a0", num_classes=6)
    randomise(theirs)
    theirs.eval()
    ours = create_model("repvgg_a0", num_classes=6)
    load_weights(ours, theirs.state_dict(), "timm")
    for module in theirs.modules():
        if hasattr(module, "reparameterize"):
            module.reparameterize()
    fused = ours.fuse().state_dict()
    expected = theirs.state_dict()
    assert fused.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(fused[name], tensor, rtol=1e-5, atol=1e-6)
    load_weights(create_model("repvgg_a0", num_classes=6, fused=True), expected, "timm")


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 2, 3)), ("dims", (8, 8, 8, 0)), ("fused", 1),
                                              ("groups", 5), ("squeeze", None)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match="dims|" + field):
        create_model("repvgg_a0", **{field: value})
