"""Pyramids of transformer stages: equal weights and images in visus and in a peer give equal outputs, gradients and
running statistics."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, peer, randomise
from tools.peers import load_peer
from visus.run.models import create_model, load_weights

_PVT_V2 = {"depths": (1, 1, 2, 1), "dims": (8, 16, 30, 32)}


def pvt_v2(maker: str) -> nn.Module:
    return peer("timm", maker, num_classes=6, depths=(1, 1, 2, 1), embed_dims=(8, 16, 30, 32))


def mvit_v2(size: int, **options) -> nn.Module:
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    return MultiScaleVit(MultiScaleVitCfg(**options), img_size=(size, size), num_classes=6)


ROWS = {  # test id -> (name, our config, origin, peer's maker, size)
    "pvt_v2_b0": ("pvt_v2_b0", _PVT_V2, "timm", partial(pvt_v2, "pvt_v2_b0"), 64),
    "pvt_v2_b2_linear": ("pvt_v2_b2_linear", _PVT_V2, "timm", partial(pvt_v2, "pvt_v2_b2_li"), 75),
    "pvt_v2_b5": ("pvt_v2_b5", _PVT_V2, "timm", partial(pvt_v2, "pvt_v2_b5"), 71),
    "mvit_v2_tiny": ("mvit_v2_tiny", {"depths": (1, 2, 2, 1), "dim": 8, "image_size": 64}, "timm",
                     partial(mvit_v2, 64, depths=(1, 2, 2, 1), embed_dim=8), 64),
    "mvit_v2_base": ("mvit_v2_base", {"depths": (2, 1, 1, 2), "dim": 12, "num_heads": 2, "image_size": 96}, "timm",
                     partial(mvit_v2, 96, depths=(2, 1, 1, 2), embed_dim=12, num_heads=2), 96),
    "mvit_v2_widened_late": ("mvit_v2_base", {"depths": (2, 2, 1, 1), "dim": 12, "num_heads": 2, "image_size": 64,
                                              "widen_in_attention": False}, "timm",
                             partial(mvit_v2, 64, depths=(2, 2, 1, 1), embed_dim=12, num_heads=2, expand_attn=False),
                             64),
}
FULL = {  # test id -> (name, peer's name)
    "pvt_v2_b1": ("pvt_v2_b1", "pvt_v2_b1"),
    "pvt_v2_b2_linear": ("pvt_v2_b2_linear", "pvt_v2_b2_li"),
    "mvit_v2_tiny": ("mvit_v2_tiny", "mvitv2_tiny"),
}


def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Of transformers' models the field `logits`."""
    out = model(images)
    return out if isinstance(out, torch.Tensor) else out.logits


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, origin, make, size = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, num_classes=6, **config)
    assert load_weights(ours, theirs.state_dict(), origin) == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_the_peers(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), logits_of(theirs.eval(), images), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_the_peers(row):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    assert_same_step(ours, theirs, images, ROWS[row][2])


@pytest.mark.parametrize("row", [row for row in ROWS if ROWS[row][2] == "timm"])
def test_features_equal_timms(row):
    ours, theirs, images = pair(row, torch.float64)
    with torch.no_grad():
        found, expected = ours.eval().features(images), theirs.eval().forward_intermediates(images)[1]
        assert len(found) == 4
        for a, b in zip(found, expected, strict=True):
            assert_near(a, b, 1e-10, "features")


@SLOW
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_the_peers(row):
    name, maker = FULL[row]
    theirs = peer("timm", maker, num_classes=1000)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "timm")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)), tolerance,
                        row)
