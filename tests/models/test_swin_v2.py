"""Swin V2: what parity with a peer does not show."""

from __future__ import annotations

import math

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.swin_v2 import SwinV2, SwinV2Config, WindowAttention, log_offsets
from visus.ops.windows import relative_index
from visus.run.models import create_model, load_weights

SMALL = {"dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "windows": (4, 4, 2, 2), "num_classes": 3}


def test_offsets_are_log_spaced_odd_and_reach_log_9():
    """Equation 4."""
    offsets = log_offsets(5, 5, torch.empty(0, dtype=torch.float64)).reshape(9, 9, 2)
    assert offsets[4, 4].tolist() == [0, 0]
    torch.testing.assert_close(offsets.flip(0, 1), -offsets)
    assert offsets[8, 0].tolist() == pytest.approx([math.log2(9) / 3, -math.log2(9) / 3])
    assert offsets[6, 5].tolist() == pytest.approx([math.log2(5) / 3, math.log2(3) / 3])
    wide = log_offsets(9, 5, torch.empty(0, dtype=torch.float64)).reshape(17, 17, 2)
    torch.testing.assert_close(wide[4:13, 4:13], offsets)  # the offsets that both windows have keep their values
    assert wide[16, 8, 0].item() == pytest.approx(math.log2(17) / 3)


def attention() -> tuple[WindowAttention, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, 0.0).double()
    windows = torch.randn(3, 4, 8, dtype=torch.float64)
    return layer, windows, relative_index(2, windows.device), log_offsets(2, 2, windows)


def test_attention_is_equation_2_by_loops():
    """Cosines over a temperature plus a bias, place by place."""
    layer, windows, index, offsets = attention()
    with torch.no_grad():
        layer.logit_scale.copy_(torch.tensor([0.7, 9.0]).reshape(2, 1, 1))  # the second is held at 100
        found = layer(windows, index, offsets, None)
        bias = 16 / (1 + (-layer.cpb_mlp(offsets)).exp())  # [9, heads]
        q, k, v = (windows @ layer.qkv.weight.T).split(8, -1)
        q, v = q + layer.qkv.bias[:8], v + layer.qkv.bias[16:]
        out = torch.zeros_like(windows)
        for w in range(3):
            for head, scale in enumerate((math.exp(0.7), 100.0)):
                part = slice(4 * head, 4 * head + 4)
                for i in range(4):
                    scores = torch.stack([
                        scale * (q[w, i, part] @ k[w, j, part]) / (q[w, i, part].norm() * k[w, j, part].norm())
                        + bias[(i // 2 - j // 2 + 1) * 3 + i % 2 - j % 2 + 1, head] for j in range(4)])
                    out[w, i, part] = scores.softmax(0) @ v[w, :, part]
    torch.testing.assert_close(found, layer.proj(out))


def test_scale_of_queries_and_keys_and_a_bias_of_keys_change_nothing():
    """Section 3.2: scores do not grow with the width of what they compare."""
    layer, windows, index, offsets = attention()
    with torch.no_grad():
        layer.qkv.bias[:8] = 0
        before = layer(windows, index, offsets, None)
        layer.qkv.weight[:16] *= 1000
        layer.qkv.bias[8:16] += 5
        torch.testing.assert_close(layer(windows, index, offsets, None), before)


def test_norms_end_the_branches():
    """Res-post-norm: with the norms at zero a block is the identity, however large its weights."""
    stage = SwinV2(SwinV2Config(**SMALL)).features[1].eval()
    maps = torch.rand(1, 8, 8, 8)
    with torch.no_grad():
        for block in stage:
            block.attn.proj.weight *= 1e4
            for norm in (block.norm1, block.norm2):
                norm.weight.zero_()
                norm.bias.zero_()
    index, offsets = relative_index(4, maps.device), log_offsets(4, 4, maps)
    assert torch.equal(stage[0](maps, index, offsets, (0, 0), None), maps) and torch.equal(stage(maps), maps)


def test_weights_load_into_other_windows_as_they_are():
    """The biases are a function of the offset: section 3.3."""
    source = create_model("swin_v2_tiny", **SMALL)
    wider = create_model("swin_v2_tiny", **SMALL | {"windows": (8, 8, 4, 4), "trained_windows": SMALL["windows"]})
    assert load_weights(wider, source.state_dict()) == []
    wider.eval()(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("field", "value"),
                         [("depths", (2, 2)), ("num_heads", (1, 3, 2, 4)), ("windows", (7, 7, 0, 7)), ("mlp_ratio", 0),
                          ("trained_windows", (7, 7)), ("dropout", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        SwinV2Config(**SMALL | {field: value})


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match="at least 4 pixels"):
        SwinV2(SwinV2Config(**SMALL))(torch.zeros(1, 3, 3, 40))
