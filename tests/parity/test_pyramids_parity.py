"""Pyramids of transformer stages: equal weights and images in visus and in a peer give equal outputs, gradients and
running statistics."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, peer, randomise
from tests.parity.test_transformers_parity import as_trained
from tests.parity.test_transformers_parity import peer as transformers
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


class OneFrame(nn.Module):
    """torchvision's video MViT with one frame and kernels of one frame, which is the image model; its parameters under
    PyTorchVideo's names, and the frame's part of the position embedding zero."""

    NAMES = (("conv_proj.", "patch_embed.patch_model."), ("pos_encoding.class_token", "cls_token"),
             ("pos_encoding.class_pos", "pos_embed_class"), ("pos_encoding.spatial_pos", "pos_embed_spatial"),
             ("pos_encoding.temporal_pos", "pos_embed_temporal"), (".pool.weight", ".weight"),
             (".attn.project.0.", ".attn.proj."), (".project.", ".proj."), (".mlp.0.", ".mlp.fc1."),
             (".mlp.3.", ".mlp.fc2."), ("head.1.", "head."))

    def __init__(self, size: int, depths: tuple[int, ...], dim: int, num_heads: int):
        super().__init__()
        try:
            load_peer("torchvision")
        except ImportError as error:
            pytest.skip(str(error))
        from torchvision.models.video.mvit import MSBlockConfig, MViT

        blocks = []
        for i, depth in enumerate(depths):
            for j in range(depth):
                stride, key_stride = 2 if i and j == 0 else 1, (4, 2, 1, 1)[i]
                out_dim = 2 * dim if j == depth - 1 and i < 3 else dim
                blocks.append(MSBlockConfig(num_heads=num_heads << i, input_channels=dim, output_channels=out_dim,
                                            kernel_q=[1, 3, 3] if stride > 1 else [], kernel_kv=[1, 3, 3],
                                            stride_q=[1, 2, 2] if stride > 1 else [],
                                            stride_kv=[1, key_stride, key_stride]))
                dim = out_dim
        self.video = MViT((size, size), 1, blocks, residual_pool=False, residual_with_cls_embed=False,
                          rel_pos_embed=False, proj_after_attn=False, dropout=0.0, num_classes=6,
                          patch_embed_kernel=(1, 7, 7), patch_embed_stride=(1, 4, 4), patch_embed_padding=(0, 3, 3))
        nn.init.zeros_(self.video.pos_encoding.temporal_pos).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.video(images[:, :, None])

    def name(self, theirs: str) -> str:
        for found, new in self.NAMES:
            theirs = theirs.replace(found, new)
        for part in "qkv":
            theirs = theirs.replace(f".pool_{part}.norm_act.0.", f".norm_{part}.")
        return theirs

    def named_parameters(self, *args, **options):
        for name, parameter in super().named_parameters(*args, **options):
            if parameter.requires_grad:
                yield self.name(name.removeprefix("video.")), parameter

    def state_dict(self, **options):
        return {self.name(name): tensor for name, tensor in self.video.state_dict().items()}


def trained(family: str, **config) -> nn.Module:
    """transformers' model with what the authors' has otherwise."""
    return as_trained(transformers(family, num_labels=6, **config))


PVT_V2 = {"depths": (1, 1, 2, 1), "hidden_sizes": (8, 16, 30, 32), "num_attention_heads": (1, 2, 5, 8),
          "mlp_ratios": (8, 8, 4, 4), "drop_path_rate": 0.0}
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
    "cvt_13": ("cvt_13", {"depths": (1, 2, 3), "dims": (8, 12, 24), "quick_gelu": False}, "transformers",
               partial(transformers, "cvt", num_labels=6, depth=(1, 2, 3), embed_dim=(8, 12, 24),
                       drop_path_rate=(0.0,) * 3), 64),
    "cvt_21": ("cvt_21", {"depths": (2, 2, 4), "dims": (8, 12, 16), "num_heads": (2, 3, 4)}, "transformers",
               partial(trained, "cvt", depth=(2, 2, 4), embed_dim=(8, 12, 16), num_heads=(2, 3, 4),
                       drop_path_rate=(0.0,) * 3), 71),
    "mvit_base_16": ("mvit_base_16", {"depths": (1, 1, 2, 2), "dim": 8, "image_size": 64}, "pytorchvideo",
                     partial(OneFrame, 64, (1, 1, 2, 2), 8, 1), 64),
    "mvit_base_24_wide": ("mvit_base_24_wide", {"depths": (2, 1, 1, 2), "dim": 12, "num_heads": 2, "image_size": 72},
                          "pytorchvideo", partial(OneFrame, 72, (2, 1, 1, 2), 12, 2), 72),
    "pvt_tiny": ("pvt_tiny", _PVT_V2 | {"image_size": 64}, "transformers",
                 partial(trained, "pvt", **PVT_V2, image_size=64), 64),
    "pvt_small": ("pvt_small", {"depths": (2, 1, 1, 2), "dims": (8, 12, 20, 32), "num_heads": (2, 3, 4, 4),
                                "mlp_ratios": (4, 4, 2, 2), "image_size": 71}, "transformers",
                  partial(trained, "pvt", image_size=71, depths=(2, 1, 1, 2), hidden_sizes=(8, 12, 20, 32),
                          num_attention_heads=(2, 3, 4, 4), mlp_ratios=(4, 4, 2, 2), drop_path_rate=0.0), 71),
    "pvt_v2_b0-transformers": ("pvt_v2_b0", _PVT_V2, "transformers", partial(trained, "pvt_v2", **PVT_V2), 64),
    "pvt_v2_b2_linear-transformers": ("pvt_v2_b2_linear", _PVT_V2, "transformers",
                                      partial(trained, "pvt_v2", **PVT_V2, linear_attention=True), 75),
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
