"""PVT v2 against what the paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.pvt_v2 import Attention, ConvMLP, PVTv2, PVTv2Config

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 30, 32), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5}


def by_hand(layer: Attention, maps: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Attention of each place of `maps` over the places of `small`, head by head."""
    dim, heads = maps.shape[-1], layer.num_heads
    q = layer.q(maps.flatten(1, 2))
    k, v = layer.kv(small.flatten(1, 2)).chunk(2, dim=-1)
    out = []
    for part in torch.arange(dim).chunk(heads):
        scores = q[..., part] @ k[..., part].mT / (dim / heads) ** 0.5
        out.append(scores.softmax(-1) @ v[..., part])
    return layer.proj(torch.cat(out, -1)).view_as(maps)


@torch.no_grad()
def test_keys_and_values_come_from_windows_of_the_map():
    """Spatial reduction: each window of 2 x 2 becomes one key and one value."""
    torch.manual_seed(0)
    layer, maps = Attention(8, 2, 2, False, 0.0).double(), torch.randn(2, 4, 6, 8, dtype=torch.float64)
    windows = maps.unfold(1, 2, 2).unfold(2, 2, 2)  # [B, 2, 3, dim, 2, 2]
    small = layer.norm(torch.einsum("bhwcij,ocij->bhwo", windows, layer.sr.weight) + layer.sr.bias)
    torch.testing.assert_close(layer(maps), by_hand(layer, maps, small), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_linear_attention_has_49_keys_whatever_the_image():
    torch.manual_seed(0)
    layer, maps = Attention(8, 2, 8, True, 0.0).double(), torch.randn(1, 14, 21, 8, dtype=torch.float64)
    pooled = maps.reshape(1, 7, 2, 7, 3, 8).mean((2, 4))  # equal windows of 2 x 3
    small = torch.nn.functional.gelu(layer.norm(pooled @ layer.sr.weight.flatten(1).T + layer.sr.bias))
    torch.testing.assert_close(layer(maps), by_hand(layer, maps, small), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_token_sees_its_neighbours_in_the_mlp_and_no_further():
    torch.manual_seed(0)
    layer, maps = ConvMLP(4, 8, False, 0.0), torch.randn(1, 7, 7, 4)
    changed = maps.clone()
    changed[0, 3, 3] += 1
    moved = (layer(changed) - layer(maps)).abs().sum(-1)[0] > 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(moved, expected)


def test_the_linear_variant_takes_what_the_others_refuse():
    images = torch.zeros(1, 3, 28, 40)
    with pytest.raises(UserError, match="28x40.*29 pixels"):
        PVTv2(PVTv2Config(**TINY)).eval()(images)
    with torch.no_grad():
        assert PVTv2(PVTv2Config(**TINY)).eval()(torch.zeros(1, 3, 29, 40)).isfinite().all()
        assert PVTv2(PVTv2Config(**TINY, linear=True)).eval()(images).isfinite().all()


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 1)), ("dims", (8, 16, 31, 32)),
                                              ("mlp_ratios", (8, 8, 4, 0)),
                                              ("linear", 1), ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        PVTv2Config(**{field: value})
