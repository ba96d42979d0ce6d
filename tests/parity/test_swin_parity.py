"""Swin and Swin V2 with equal weights and images as in torchvision, timm and transformers: outputs, gradients, resized
tables."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import TOLERANCE, assert_near, assert_same_step, peer, randomise
from tests.parity.test_transformers_parity import peer as transformers_peer
from tools.peers import load_peer
from visus.ops.windows import resize_bias_table
from visus.run.models import create_model, load_weights

SMALL = {"dim": 12, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 3, 4), "num_classes": 6}
OTHER = {"dim": 16, "depths": (1, 3, 2, 2), "num_heads": (2, 2, 4, 8), "num_classes": 6}


def torchvision_swin(config: dict, window: int, version: int = 1) -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    swin = importlib.import_module("torchvision.models.swin_transformer")
    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
    return swin.SwinTransformer(patch_size=[4, 4], embed_dim=config["dim"], depths=config["depths"],
                                num_heads=config["num_heads"], window_size=[window, window],
                                stochastic_depth_prob=0.0, num_classes=config["num_classes"], **parts)


def timm_swin(config: dict, maker: str, size: int, window: int | tuple[int, ...], **options) -> nn.Module:
    return peer("timm", maker, embed_dim=config["dim"], depths=config["depths"], num_heads=config["num_heads"],
                num_classes=config["num_classes"], img_size=size, window_size=window, drop_path_rate=0.0, **options)


def transformers_swin(config: dict, family: str, size: int, window: int, **options) -> nn.Module:
    return transformers_peer(family, embed_dim=config["dim"], depths=config["depths"], num_heads=config["num_heads"],
                             num_labels=config["num_classes"], image_size=size, window_size=window, drop_path_rate=0.0,
                             **options)


ROWS = {  # test id -> (name, config, origin, peer's maker, height, width)
    "tiny-torchvision": ("swin_tiny", {**SMALL, "windows": (4,) * 4}, "torchvision",
                         partial(torchvision_swin, SMALL, 4), 64, 64),
    "base-torchvision": ("swin_base", {**OTHER, "windows": (3,) * 4}, "torchvision",
                         partial(torchvision_swin, OTHER, 3), 64, 64),
    "tiny-torchvision-odd": ("swin_tiny", {**SMALL, "windows": (4,) * 4}, "torchvision",
                             partial(torchvision_swin, SMALL, 4), 59, 98),
    "small-torchvision-narrow": ("swin_small", {**SMALL, "windows": (5,) * 4}, "torchvision",
                                 partial(torchvision_swin, SMALL, 5), 18, 90),
    "tiny-timm": ("swin_tiny", {**SMALL, "windows": (4, 4, 4, 2)}, "timm",
                  partial(timm_swin, SMALL, "swin_tiny_patch4_window7_224", 64, 4), 64, 64),
    "large-timm": ("swin_large", {**OTHER, "windows": (3,) * 4}, "timm",
                   partial(timm_swin, OTHER, "swin_large_patch4_window7_224", 96, 3), 96, 96),
    "v2-tiny-torchvision": ("swin_v2_tiny", {**SMALL, "windows": (4,) * 4}, "torchvision",
                            partial(torchvision_swin, SMALL, 4, 2), 64, 64),
    "v2-base-torchvision-odd": ("swin_v2_base", {**OTHER, "windows": (3,) * 4}, "torchvision",
                                partial(torchvision_swin, OTHER, 3, 2), 59, 98),
    "v2-small-timm": ("swin_v2_small", {**OTHER, "windows": (4, 4, 4, 2)}, "timm",
                      partial(timm_swin, OTHER, "swinv2_small_window8_256", 64, 4), 64, 64),
    "v2-tiny-timm-other-window": ("swin_v2_tiny", {**SMALL, "windows": (4, 4, 4, 2), "trained_windows": (3, 3, 3, 2)},
                                  "timm", partial(timm_swin, SMALL, "swinv2_tiny_window8_256", 64, 4,
                                                  pretrained_window_sizes=(3, 3, 3, 2)), 64, 64),
    # sides of which windows and pairs do not fit: maps of 15 x 25, 8 x 13, 4 x 7 and 2 x 4
    "tiny-timm-odd": ("swin_tiny", {**OTHER, "windows": (2,) * 4}, "timm",
                      partial(timm_swin, OTHER, "swin_tiny_patch4_window7_224", (60, 100), 2), 60, 100),
    "v2-tiny-timm-odd": ("swin_v2_tiny", {**OTHER, "windows": (2,) * 4}, "timm",
                         partial(timm_swin, OTHER, "swinv2_tiny_window8_256", (60, 100), 2), 60, 100),
    "tiny-transformers": ("swin_tiny", {**SMALL, "windows": (4,) * 4}, "transformers",
                          partial(transformers_swin, SMALL, "swin", 128, 4), 128, 128),
    "base-transformers-odd": ("swin_base", {**SMALL, "windows": (2,) * 4}, "transformers",
                              partial(transformers_swin, SMALL, "swin", 64, 2), 60, 100),
    "v2-tiny-transformers": ("swin_v2_tiny", {**SMALL, "windows": (4, 4, 4, 2), "trained_windows": (3, 3, 3, 2)},
                             "transformers", partial(transformers_swin, SMALL, "swinv2", 64, 4,
                                                     pretrained_window_sizes=(3, 3, 3, 2)), 64, 64),
    "v2-base-transformers-odd": ("swin_v2_base", {**SMALL, "windows": (3, 3, 3, 2)}, "transformers",
                                 partial(transformers_swin, SMALL, "swinv2", 64, 3), 60, 100),
}
FULL = {  # test id -> (name, origin, peer's name, size)
    **{f"swin_{size}-torchvision": (f"swin_{size}", "torchvision", f"swin_{size[0]}", 64)
       for size in ("tiny", "small", "base")},
    **{f"swin_{size}-timm": (f"swin_{size}", "timm", f"swin_{size}_patch4_window7_224", 224)
       for size in ("tiny", "small", "base", "large")},
    **{f"swin_v2_{size}-torchvision": (f"swin_v2_{size}", "torchvision", f"swin_v2_{size[0]}", 64)
       for size in ("tiny", "small", "base")},
    **{f"swin_v2_{size}-timm": (f"swin_v2_{size}", "timm", f"swinv2_{size}_window8_256", 256)
       for size in ("tiny", "small", "base")},
    **{f"swin_{size}_w12-timm": (f"swin_{size}_w12", "timm", f"swin_{size}_patch4_window12_384", 384)
       for size in ("base", "large")},
    **{f"swin_v2_{size}_w16-timm": (f"swin_v2_{size}_w16", "timm", f"swinv2_{size}_window16_256", 256)
       for size in ("tiny", "small", "base")},
    **{f"swin_v2_{size}_w12to{window}-timm": (f"swin_v2_{size}_w12to{window}", "timm",
                                              f"swinv2_{size}_window12to{window}_192to{pixels}", pixels)
       for size in ("base", "large") for window, pixels in ((16, 256), (24, 384))},
    **{f"swin_v2_{size}_w12-timm": (f"swin_v2_{size}_w12", "timm", f"swinv2_{size}_window12_192", 192)
       for size in ("base", "large")},
}


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, origin, make, height, width = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, **config)
    assert load_weights(ours, theirs.state_dict(), origin) == []
    images = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_the_peers(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert_near(ours.eval()(images), getattr(expected, "logits", expected), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_the_peers(row):
    """Outputs and every gradient, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    assert_same_step(ours, theirs, images, ROWS[row][2])


def test_names_of_older_files_are_read_and_indices_left_out():
    """Names of before transformers 5, in which public files are written."""
    ours, theirs, _ = pair("tiny-transformers", torch.float32)
    state = {}
    for name, tensor in theirs.state_dict().items():
        for today, before in ((".q_proj.", ".self.query."), (".k_proj.", ".self.key."), (".v_proj.", ".self.value."),
                              (".o_proj.", ".output.dense."), (".mlp.fc1.", ".intermediate.dense."),
                              (".mlp.fc2.", ".output.dense."), (".relative_position_bias.", ".self.")):
            name = name.replace(today, before)
        state[name] = tensor
    assert state.keys() & {"swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"}
    state["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(16, 16)
    again = create_model("swin_tiny", **{**SMALL, "windows": (4,) * 4})
    assert load_weights(again, state, "transformers") == []
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("row", [row for row in ROWS if row.endswith("-torchvision")])
def test_our_state_loads_into_torchvisions(row):
    """All but what follows from the window."""
    ours, theirs, _ = pair(row, torch.float32)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert unexpected == []
    assert {name.rsplit(".", 1)[1] for name in missing} <= {"relative_position_index", "relative_coords_table"}


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    ours, theirs, images = pair("tiny-torchvision", torch.float64)
    with torch.no_grad():
        ours.features[1][1].attn.relative_position_bias_table[3, 0] += 1e-3
        difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
    assert difference > 1e-9


def test_features_equal_timms():
    ours, theirs, images = pair("tiny-timm", torch.float64)
    with torch.no_grad():
        maps = ours.eval().features(images)
        for a, b in zip(maps, theirs.eval().forward_intermediates(images, intermediates_only=True), strict=True):
            assert_near(a, b, 1e-10, "features")
    assert [m.shape[1] for m in maps] == list(ours.feature_channels)


@pytest.mark.parametrize(("window", "new"), [(7, 12), (7, 4), (3, 8)])
def test_resized_table_equals_timms_plain_one(window, new):
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple

    table = torch.randn((2 * window - 1) ** 2, 3, generator=torch.Generator().manual_seed(0))
    theirs = resize_rel_pos_bias_table_simple(table, (new, new), ((2 * new - 1) ** 2, 3))
    torch.testing.assert_close(resize_bias_table(table, new), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_the_peers(row):
    name, origin, maker, size = FULL[row]
    ours = create_model(name)
    theirs = peer(origin, maker, num_classes=ours.config.num_classes)
    randomise(theirs)
    load_weights(ours, theirs.state_dict(), origin)
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)), tolerance,
                        row)
