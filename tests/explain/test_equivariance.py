"""What keeps permutations and shifts, exactly up to rounding, and what does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tools import equivariance as drawn
from visus.core.errors import UserError
from visus.explain.equivariance import (
    patch_permutation_error,
    permute_patches,
    relative_error,
    token_permutation_error,
    translation_error,
    with_circular_padding,
    without_positions,
)
from visus.layers.vit_blocks import SelfAttention
from visus.run.models import create_model

ROUNDING = 1e-12  # in float64
IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(3))
VIT = {"image_size": 32, "patch_size": 8, "depth": 3, "dim": 48, "num_heads": 4, "num_classes": 5}


def build(name: str, **config) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, **config).double().eval()


def test_self_attention_is_equivariant_to_permutations_and_an_mlp_over_tokens_is_not():
    torch.manual_seed(0)
    tokens = torch.randn(2, 16, 48, dtype=torch.float64)
    assert token_permutation_error(SelfAttention(48, 4, 0.0).double(), tokens, ORDER) < ROUNDING
    mixing = nn.Linear(16, 16).double()
    assert token_permutation_error(lambda x: mixing(x.transpose(1, 2)).transpose(1, 2), tokens, ORDER) > 0.5


def test_positions_break_it():
    vit = build("vit_tiny_16", **VIT)
    with torch.no_grad():
        vit.pos_embed.normal_()
    assert patch_permutation_error(vit, IMAGES, ORDER) > 0.1
    assert patch_permutation_error(without_positions(vit), IMAGES, ORDER) < ROUNDING
    assert vit.pos_embed.abs().max() > 1, "the model itself keeps its positions"
    for positions in ("sincos", "rotary"):
        assert patch_permutation_error(build("vit_tiny_16", positions=positions, **VIT), IMAGES, ORDER) > 1e-6
    assert patch_permutation_error(build("vit_tiny_16", positions="none", **VIT), IMAGES, ORDER) < ROUNDING


def test_relative_biases_of_swin_are_positions_too():
    swin = build("swin_tiny", dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), windows=(1, 1, 1, 1))
    assert without_positions(swin).features[1][0].attn.relative_position_bias_table.abs().max() == 0
    with pytest.raises(UserError, match="no learned positions"):
        without_positions(build("resnet20", num_classes=3))


def test_a_conv_net_with_circular_padding_keeps_shifts_and_zeros_break_them_at_the_border():
    net = build("resnet20", num_classes=3)
    circular = with_circular_padding(net)
    for shift in ((4, 0), (0, -8), (12, 20)):
        assert translation_error(circular, IMAGES, shift) < ROUNDING
    assert translation_error(net, IMAGES, (4, 4)) > 0.1
    assert {m.padding_mode for m in net.modules() if isinstance(m, nn.Conv2d)} == {"zeros"}
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert patch_permutation_error(circular, IMAGES, order) > 0.5


def test_away_from_the_border_zero_padding_keeps_shifts_too():
    class OneLayer(nn.Module):
        feature_strides = (1,)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1).double()

        def features(self, images):
            return [self.conv(images)]

    layer = OneLayer()
    assert translation_error(layer, IMAGES, (3, 5)) > 1e-3
    images = torch.zeros_like(IMAGES)
    images[:, :, 8:20, 8:20] = IMAGES[:, :, 8:20, 8:20]
    assert translation_error(layer, images, (3, 5)) < ROUNDING


def test_an_mlp_keeps_no_shift_and_a_vit_does_without_positions():
    mixer = build("mixer_small_16", image_size=32, patch_size=8, dim=48, depth=2, num_classes=5)
    assert translation_error(mixer, IMAGES, (8, 8)) > 0.3
    assert patch_permutation_error(mixer, IMAGES, ORDER) > 0.3
    assert translation_error(build("vit_tiny_16", positions="none", **VIT), IMAGES, (8, 16)) < ROUNDING


def test_patches_move_where_the_order_says():
    images = torch.arange(36.0).reshape(1, 1, 6, 6)
    moved = permute_patches(images, 3, torch.tensor([3, 1, 2, 0]))
    assert torch.equal(moved[..., :3, :3], images[..., 3:, 3:]) and torch.equal(moved[..., 3:, 3:], images[..., :3, :3])
    assert torch.equal(moved[..., :3, 3:], images[..., :3, 3:])
    with pytest.raises(UserError, match="patches of 4"):
        permute_patches(images, 4, torch.arange(4))


def test_the_figure_is_fresh_and_says_what_the_paper_says():
    rows = drawn.rows()
    found = {words: (shift, permutation) for words, shift, permutation in rows}
    assert max(found["ViT without positions"]) < ROUNDING and found["ConvNet, circular padding"][0] < ROUNDING
    assert min(*found["ViT, learned positions"], *found["MLP-Mixer"], *found["ViT, relative positions"]) > 0.05
    assert drawn.FIGURE.read_text() == drawn.chart(rows), "stale: python tools/equivariance.py"


def test_errors_are_relative_and_shifts_between_places_are_refused():
    maps = torch.randn(1, 2, 4, 4)
    assert relative_error(maps, maps) == 0 and relative_error(10 * maps + 3, 10 * maps + 3) == 0
    assert relative_error(2 * maps, maps) == pytest.approx(relative_error(6 * maps, 3 * maps), rel=1e-6)
    other = torch.randn(64, 8, 9, 9), torch.randn(64, 8, 9, 9)
    assert relative_error(*other) == pytest.approx(2**0.5, rel=0.02), "unrelated"
    with pytest.raises(UserError, match="multiple of the map's stride"):
        translation_error(build("vit_tiny_16", **VIT), IMAGES, (4, 0))
