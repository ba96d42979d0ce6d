"""ViT's choices (mean of patches, registers, other image sizes, kinds of positions) against timm and transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import TOLERANCE, assert_near, assert_same_step, randomise
from tools.peers import load_peer
from visus.models.vit.vit import ViT, ViTConfig
from visus.ops.positions import rotary_angles, rotate, sincos_positions
from visus.run.models import load_weights

OURS = {"image_size": 40, "patch_size": 8, "dim": 48, "depth": 2, "num_heads": 4, "num_classes": 6}
THEIRS = {"img_size": 40, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 6,
          "dynamic_img_size": True}
BARE = {"class_token": False, "global_pool": "avg", "fc_norm": False}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # test id -> (our choices, timm's)
    "class": ({}, {}),
    "mean": ({"pool": "mean"}, BARE),
    "registers": ({"registers": 3}, {"reg_tokens": 3, "no_embed_class": True}),
    "mean-registers": ({"pool": "mean", "registers": 2}, {**BARE, "reg_tokens": 2, "no_embed_class": True}),
}
SIZES = [(40, 40), (24, 56)]


def pair(row: str, dtype: torch.dtype, size: tuple[int, int]) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    load_peer("timm")
    from timm.models.vision_transformer import VisionTransformer

    config, options = KINDS[row]
    theirs = VisionTransformer(**THEIRS | options)
    randomise(theirs)
    state = theirs.state_dict()
    if row == "registers":  # timm gives registers' class token no position; ours has one, of 0
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), state["pos_embed"]], dim=1)
    ours = ViT(ViTConfig(**OURS | config))
    assert load_weights(ours, state, "timm") == []
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", KINDS)
def test_eval_output_equals_timms(row, dtype, size):
    ours, theirs, images = pair(row, dtype, size)
    tolerance = TOLERANCE[dtype] if size == (40, 40) else max(TOLERANCE[dtype], 1e-6)  # resampling is in float32
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images), tolerance, row)


@pytest.mark.parametrize("row", [row for row in KINDS if row != "registers"])
def test_training_step_equals_timms(row):
    ours, theirs, images = pair(row, torch.float64, (40, 40))
    assert_same_step(ours, theirs, images, "timm")


def test_sines_and_cosines_are_those_of_masked_autoencoders():
    load_peer("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    down_first = build_2d_sinusoidal_position_embedding(5, 7, 64, dtype=torch.float64)
    expected = down_first.roll(32, dims=1)  # the authors have x first, as that module's initialisation says
    torch.testing.assert_close(sincos_positions((5, 7), 64, expected)[0], expected, rtol=1e-12, atol=1e-12)


def test_rotations_are_timms():
    load_peer("timm")
    from timm.layers import apply_rot_embed_cat
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat

    theirs = RotaryEmbeddingCat(16, in_pixels=False, feat_shape=(5, 6), temperature=100.0).get_embed()
    q = torch.randn(2, 3, 30, 16)
    torch.testing.assert_close(rotate(q, rotary_angles((5, 6), 16, q)), apply_rot_embed_cat(q, theirs))
