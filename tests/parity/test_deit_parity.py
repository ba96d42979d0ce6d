"""Equal weights and images in visus and in timm: DeiT, CaiT and DeiT III."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, peer, randomise
from visus.models.vit import cait, deit, deit3
from visus.run.models import create_model, load_weights

OURS = {"image_size": 40, "patch_size": 8, "depth": 2, "num_classes": 6, "dim": 48, "num_heads": 4}
THEIRS = {"img_size": 40, "patch_size": 8, "depth": 2, "num_classes": 6, "embed_dim": 48, "num_heads": 4}
ODD, ODD_THEIRS = {"image_size": 35, "patch_size": 7}, {"img_size": 35, "patch_size": 7}
ROWS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {  # test id -> (name, config, peer, its options)
    "deit_tiny": ("deit_tiny_16", OURS, "deit_tiny_patch16_224", THEIRS),
    "deit_base-odd": ("deit_base_16", OURS | ODD, "deit_base_patch16_224", THEIRS | ODD_THEIRS),
    "deit_tiny_distilled": ("deit_tiny_distilled_16", OURS, "deit_tiny_distilled_patch16_224", THEIRS),
    "deit_base_distilled-odd": ("deit_base_distilled_16", OURS | ODD, "deit_base_distilled_patch16_224",
                                THEIRS | ODD_THEIRS),
    "cait_xxs24": ("cait_xxs24", OURS, "cait_xxs24_224", THEIRS),
    "cait_s36-odd": ("cait_s36", OURS | ODD, "cait_s36_384", THEIRS | ODD_THEIRS),
    "cait_m36-deep": ("cait_m36", OURS | {"depth": 3, "class_depth": 3}, "cait_m36_384",
                      THEIRS | {"depth": 3, "depth_token_only": 3}),
    "deit3_small": ("deit3_small_16", OURS, "deit3_small_patch16_224", THEIRS),
    "deit3_base-odd": ("deit3_base_16", OURS | ODD, "deit3_base_patch16_224", THEIRS | ODD_THEIRS),
}
FULL = {**deit.PEERS, **cait.PEERS, **deit3.PEERS}


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, maker, options = ROWS[row]
    theirs = peer("timm", maker, **options)
    randomise(theirs)
    ours = create_model(name, **config)
    assert load_weights(ours, theirs.state_dict(), "timm") == []
    side = config["image_size"]
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_timms(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_timms(row):
    """Outputs and every gradient, in train mode and float64."""
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
        for a, b in zip(ours.eval().features(images), expected, strict=True):
            assert_near(a, b, 1e-10, row)


@pytest.mark.parametrize("row", ["deit_tiny_distilled", "deit_base_distilled-odd"])
def test_both_heads_equal_timms_in_distilled_training(row):
    ours, theirs, images = pair(row, torch.float64)
    theirs.train().set_distilled_training(True)
    with torch.no_grad():
        for a, b in zip(ours.train().distillation_logits(images), theirs(images), strict=True):
            assert_near(a, b, 1e-10, row)


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    for row in ROWS:
        ours, theirs, images = pair(row, torch.float64)
        with torch.no_grad():
            ours.blocks[0].mlp.fc1.weight[3, 3] += 1e-3
            assert (ours.eval()(images) - theirs.eval()(images)).abs().max().item() > 1e-8, row


@SLOW
@pytest.mark.parametrize("name", FULL)
def test_full_size_model_equals_timms(name):
    theirs = peer(*FULL[name])
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "timm")
    side = ours.config.image_size
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)),
                        tolerance, name)
