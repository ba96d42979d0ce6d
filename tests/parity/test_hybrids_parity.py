"""Convolution and attention in one network: equal weights and images in visus and in timm give equal outputs,
gradients and running statistics."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, peer, randomise
from tools.peers import load_peer
from visus.run.models import create_model, load_weights

_COATNET = {"dims": (8, 16, 32, 64), "depths": (1, 2, 2, 1), "stem_dims": (8, 16), "head_dim": 16}
_PAPERS = {"conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2"}


def coatnet(maker: str, size: int, **options) -> nn.Module:
    """timm's CoAtNet, small."""
    return peer("timm", maker, num_classes=6, img_size=size, embed_dim=(8, 16, 32, 64), depths=(1, 2, 2, 1),
                stem_width=(8, 16), transformer_dim_head=16, **options)


def vit_hybrid(depths: tuple[int, ...], size: int, patch: int = 1) -> nn.Module:
    """timm's ViT of two blocks behind BiT's ResNet of some depths."""
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    hybrid = importlib.import_module("timm.models.vision_transformer_hybrid")
    embed = partial(hybrid.HybridEmbed, backbone=hybrid._resnetv2(depths))
    return hybrid.VisionTransformer(img_size=size, patch_size=patch, embed_dim=24, depth=2, num_heads=3, num_classes=6,
                                    embed_layer=embed)


_HYBRID = {"dim": 24, "depth": 2, "num_heads": 3}
ROWS = {  # test id -> (name, our config, peer's maker, size)
    "coatnet_0": ("coatnet_0", _COATNET | {"image_size": 96},
                  partial(coatnet, "coatnet_0_224", 96, head_hidden_size=64, **_PAPERS), 96),
    **{name: (name, _COATNET | {"image_size": 64}, partial(coatnet, f"{name}_224", 64), 64)
       for name in ("coatnet_nano_rw", "coatnet_0_rw", "coatnet_1_rw", "coatnet_2_rw")},
    "vit_tiny_r_s16_p8": ("vit_tiny_r_s16_p8", _HYBRID | {"image_size": 64}, partial(vit_hybrid, (), 64, 8), 64),
    "vit_base_r50_s16": ("vit_base_r50_s16", _HYBRID | {"image_size": 80, "resnet_depths": (1, 1, 1)},
                         partial(vit_hybrid, (1, 1, 1), 80), 80),
    "vit_small_r26_s32": ("vit_small_r26_s32", _HYBRID | {"image_size": 40, "resnet_depths": (2, 1)},
                          partial(vit_hybrid, (2, 1), 40), 40),
}
FULL = {  # test id -> (name, peer's name, peer's options)
    "coatnet_0": ("coatnet_0", "coatnet_0_224", _PAPERS),
    "coatnet_1_rw": ("coatnet_1_rw", "coatnet_1_rw_224", {}),
    "vit_small_r26_s32": ("vit_small_r26_s32", "vit_small_r26_s32_224", {}),
}


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, make, size = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, num_classes=6, **config)
    assert load_weights(ours, theirs.state_dict(), "timm") == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_timms(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_timms(row):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    assert_same_step(ours, theirs, images, "timm")


@SLOW
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_timms(row):
    name, maker, options = FULL[row]
    theirs = peer("timm", maker, num_classes=1000, **options)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "timm")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)), tolerance,
                        row)
