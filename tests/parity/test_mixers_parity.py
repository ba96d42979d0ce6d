"""MLP-Mixer, ResMLP, gMLP and ConvMixer against timm's: equal weights and images, equal outputs, gradients, running
statistics and features."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, peer, randomise
from tools.peers import load_peer
from visus.run.models import create_model, load_weights


def timm_mlp(block: str, depth: int, image_size: int, patch_size: int, affine: bool = False, **options) -> nn.Module:
    """timm's MlpMixer of `depth` blocks of 48 channels."""
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.layers import GatedMlp
    from timm.models import mlp_mixer

    if block == "SpatialGatingBlock":
        options["mlp_layer"] = GatedMlp
    if affine:
        options["norm_layer"] = mlp_mixer.Affine
    return mlp_mixer.MlpMixer(num_classes=6, img_size=image_size, patch_size=patch_size, num_blocks=depth, embed_dim=48,
                              block_layer=getattr(mlp_mixer, block), **options)


def timm_convmixer(**options) -> nn.Module:
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.convmixer import ConvMixer

    return ConvMixer(48, num_classes=6, **options)


SMALL = {"num_classes": 6, "dim": 48}
MIXER = {**SMALL, "token_dim": 24, "channel_dim": 192}
ROWS = {  # id -> (our name, config, makes the peer, side of the images)
    "mixer_base_16": ("mixer_base_16", {**MIXER, "image_size": 32, "patch_size": 8, "depth": 2},
                      partial(timm_mlp, "MixerBlock", 2, 32, 8), 32),
    "mixer_small_32": ("mixer_small_32", {**MIXER, "image_size": 35, "patch_size": 7, "depth": 3},
                       partial(timm_mlp, "MixerBlock", 3, 35, 7), 35),
    "resmlp_12": ("resmlp_12", {**SMALL, "image_size": 32, "patch_size": 8, "depth": 2},
                  partial(timm_mlp, "ResBlock", 2, 32, 8, affine=True, mlp_ratio=4), 32),
    "resmlp_big_24": ("resmlp_big_24", {**SMALL, "image_size": 35, "patch_size": 7, "depth": 3},
                      partial(timm_mlp, "ResBlock", 3, 35, 7, affine=True, mlp_ratio=4), 35),
    "gmlp_small_16": ("gmlp_small_16", {**SMALL, "hidden_dim": 288, "image_size": 32, "patch_size": 8, "depth": 2},
                      partial(timm_mlp, "SpatialGatingBlock", 2, 32, 8, mlp_ratio=6), 32),
    "gmlp_tiny_16": ("gmlp_tiny_16", {**SMALL, "hidden_dim": 288, "image_size": 35, "patch_size": 7, "depth": 3},
                     partial(timm_mlp, "SpatialGatingBlock", 3, 35, 7, mlp_ratio=6), 35),
    "convmixer_1536_20": ("convmixer_1536_20", {**SMALL, "depth": 2},
                          partial(timm_convmixer, depth=2, kernel_size=9, patch_size=7), 59),
    "convmixer_768_32": ("convmixer_768_32", {**SMALL, "depth": 3},
                         partial(timm_convmixer, depth=3, kernel_size=7, patch_size=7, act_layer=nn.ReLU), 42),
    "convmixer_1024_20": ("convmixer_1024_20", {**SMALL, "depth": 2},
                          partial(timm_convmixer, depth=2, kernel_size=9, patch_size=14), 70),
}
FULL = {
    "mixer_small_32": "mixer_s32_224", "mixer_small_16": "mixer_s16_224", "mixer_base_32": "mixer_b32_224",
    "mixer_base_16": "mixer_b16_224", "resmlp_12": "resmlp_12_224", "resmlp_24": "resmlp_24_224",
    "gmlp_tiny_16": "gmlp_ti16_224", "gmlp_small_16": "gmlp_s16_224", "convmixer_768_32": "convmixer_768_32",
    "convmixer_1024_20": "convmixer_1024_20_ks9_p14",
}


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, make, size = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, **config)
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
    ours, theirs, images = pair(row, torch.float64)
    assert_same_step(ours, theirs, images, "timm")


@pytest.mark.parametrize("row", ROWS)
def test_state_loads_into_timms_too(row):
    ours, theirs, _ = pair(row, torch.float32)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("row", ROWS)
def test_features_equal_timms(row):
    ours, theirs, images = pair(row, torch.float64)
    with torch.no_grad():
        expected = theirs.eval().forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        found = ours.eval().features(images)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 1e-10, row)


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    for row in ("mixer_base_16", "resmlp_12", "gmlp_small_16"):
        ours, theirs, images = pair(row, torch.float64)
        with torch.no_grad():
            ours.blocks[0].mlp_channels.fc1.weight[3, 3] += 1e-3
            assert (ours.eval()(images) - theirs.eval()(images)).abs().max().item() > 1e-8


@SLOW
@pytest.mark.parametrize("name", FULL)
def test_full_size_model_equals_timms(name):
    theirs = peer("timm", FULL[name], num_classes=1000)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "timm")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)), tolerance,
                        name)
