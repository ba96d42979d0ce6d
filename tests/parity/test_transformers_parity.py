"""Equal weights and images in visus and in Hugging Face transformers: equal outputs, gradients and running
statistics."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import SLOW, TOLERANCE, assert_near, assert_same_step, randomise
from tools.peers import load_peer
from visus.core.errors import CheckpointError
from visus.core.meta import on_meta
from visus.core.weights import write_state_dict
from visus.models import registry
from visus.run.models import create_model, load_weights

FAMILIES = {"resnet": "ResNet", "regnet": "RegNet", "convnext": "ConvNext", "convnextv2": "ConvNextV2", "vit": "ViT",
            "cvt": "Cvt", "pvt": "Pvt", "pvt_v2": "PvtV2", "swin": "Swin", "swinv2": "Swinv2"}
BACKBONES = ("dinov2", "dino", "mae", "clip_vit", "sam_vit")
EPS = {"layer_norm_eps": 1e-6}  # the authors' of ConvNeXt and ViT; 1e-12 is transformers' own
NARROW = (8, 16, 24, 32)
ROWS = {  # test id -> (name, our config, transformers' family, its config, size)
    "resnet18": ("resnet18", {}, "resnet",
                 {"layer_type": "basic", "depths": (2, 2, 2, 2), "hidden_sizes": (64, 128, 256, 512)}, 64),
    "resnet50": ("resnet50", {"depths": (1, 2, 1, 1)}, "resnet", {"depths": (1, 2, 1, 1)}, 71),
    "regnet_x_800mf": ("regnet_x_800mf", {}, "regnet",
                       {"layer_type": "x", "depths": (1, 3, 7, 5), "hidden_sizes": (64, 128, 288, 672),
                        "groups_width": 16}, 64),
    "regnet_y_400mf": ("regnet_y_400mf", {}, "regnet",
                       {"layer_type": "y", "depths": (1, 3, 6, 6), "hidden_sizes": (48, 104, 208, 440),
                        "groups_width": 8}, 49),
    **{f"{name}_{size}": (f"{name}_{size}", {"depths": depths, "dims": NARROW}, family,
                          {"depths": depths, "hidden_sizes": NARROW, **EPS}, side)
       for name, family, size, depths, side in (
           ("convnext", "convnext", "tiny", (1, 1, 2, 1), 64), ("convnext", "convnext", "base", (2, 1, 1, 2), 67),
           ("convnext_v2", "convnextv2", "atto", (1, 1, 2, 1), 64),
           ("convnext_v2", "convnextv2", "tiny", (2, 1, 1, 2), 67))},
    **{f"vit_{size}_16": (f"vit_{size}_16", {"image_size": side, "dim": dim, "depth": depth, "num_heads": heads}, "vit",
                          {"image_size": side, "patch_size": 16, "hidden_size": dim, "num_hidden_layers": depth,
                           "num_attention_heads": heads, "intermediate_size": 4 * dim, **EPS}, side)
       for size, side, dim, depth, heads in (("base", 48, 48, 2, 4), ("large", 32, 32, 3, 2))},
}
WHOLE = {  # model with public weights -> the config in the same folder (of RegNets in transformers' conversion script)
    **{f"resnet{depth}": {"layer_type": "basic", "depths": depths, "hidden_sizes": (64, 128, 256, 512)}
       for depth, depths in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)))},
    **{f"resnet{depth}": {"depths": depths} for depth, depths in
       ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3)))},
    **{f"regnet_{kind}_{size}": {"layer_type": kind, "depths": depths, "hidden_sizes": widths, "groups_width": group}
       for kind, size, depths, widths, group in (
           ("x", "800mf", (1, 3, 7, 5), (64, 128, 288, 672), 16),
           ("x", "1_6gf", (2, 4, 10, 2), (72, 168, 408, 912), 24),
           ("x", "3_2gf", (2, 6, 15, 2), (96, 192, 432, 1008), 48),
           ("x", "8gf", (2, 5, 15, 1), (80, 240, 720, 1920), 120),
           ("x", "16gf", (2, 6, 13, 1), (256, 512, 896, 2048), 128),
           ("x", "32gf", (2, 7, 13, 1), (336, 672, 1344, 2520), 168),
           ("y", "400mf", (1, 3, 6, 6), (48, 104, 208, 440), 8),
           ("y", "1_6gf", (2, 6, 17, 2), (48, 120, 336, 888), 24),
           ("y", "3_2gf", (2, 5, 13, 1), (72, 216, 576, 1512), 24),
           ("y", "16gf", (2, 4, 11, 1), (224, 448, 1232, 3024), 112),
           ("y", "32gf", (2, 5, 12, 1), (232, 696, 1392, 3712), 232))},
    **{f"convnext_{size}": {"depths": (3, 3, depth, 3), "hidden_sizes": tuple(dim << i for i in range(4))}
       for size, depth, dim in (("tiny", 9, 96), ("small", 27, 96), ("base", 27, 128), ("large", 27, 192))},
    **{f"convnext_v2_{size}": {"depths": depths, "hidden_sizes": tuple(dim << i for i in range(4))}
       for size, depths, dim in (
           ("atto", (2, 2, 6, 2), 40), ("femto", (2, 2, 6, 2), 48), ("pico", (2, 2, 6, 2), 64),
           ("nano", (2, 2, 8, 2), 80), ("tiny", (3, 3, 9, 3), 96), ("base", (3, 3, 27, 3), 128),
           ("large", (3, 3, 27, 3), 192), ("huge", (3, 3, 27, 3), 352))},
    "vit_base_16": {},
    "vit_large_16": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                     "intermediate_size": 4096},
    "cvt_13": {}, "cvt_21": {"depth": (1, 4, 16)},
    "cvt_w24": {"depth": (2, 2, 20), "num_heads": (3, 12, 16), "embed_dim": (192, 768, 1024)},
    **{f"pvt_v2_{size}": {"depths": depths, "hidden_sizes": (64, 128, 320, 512), "mlp_ratios": ratios,
                          "linear_attention": size == "b2_linear"}
       for size, depths, ratios in (
           ("b1", (2, 2, 2, 2), (8, 8, 4, 4)), ("b2", (3, 4, 6, 3), (8, 8, 4, 4)),
           ("b2_linear", (3, 4, 6, 3), (8, 8, 4, 4)), ("b3", (3, 4, 18, 3), (8, 8, 4, 4)),
           ("b4", (3, 8, 27, 3), (8, 8, 4, 4)), ("b5", (3, 6, 40, 3), (4, 4, 4, 4)))},
    "pvt_v2_b0": {},
    **{f"swin_{size}{more}": {"embed_dim": dim, "depths": (2, 2, depth, 2), "window_size": window, "image_size": pixels,
                              "num_heads": tuple(heads << i for i in range(4))}
       for size, dim, depth, heads in (("tiny", 96, 6, 3), ("small", 96, 18, 3), ("base", 128, 18, 4),
                                       ("large", 192, 18, 6))
       for more, window, pixels in (("", 7, 224), ("_w12", 12, 384)) if not more or size in ("base", "large")},
    **{f"swin_v2_{size}{more}": {"embed_dim": dim, "depths": (2, 2, depth, 2), "window_size": window,
                                 "image_size": pixels, "num_heads": tuple(heads << i for i in range(4)),
                                 "pretrained_window_sizes": (12, 12, 12, 6) if "to" in more else (0, 0, 0, 0)}
       for size, dim, depth, heads in (("tiny", 96, 6, 3), ("small", 96, 18, 3), ("base", 128, 18, 4),
                                       ("large", 192, 18, 6))
       for more, window, pixels in (("", 8, 256), ("_w16", 16, 256), ("_w12", 12, 192), ("_w12to16", 16, 256),
                                    ("_w12to24", 24, 384))
       if size == "base" or (size == "large") == ("w12" in more)},
}


def peer(family: str, **config: Any) -> nn.Module:
    """transformers' classifier, built from its config alone."""
    try:
        load_peer("transformers")
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError as error:
        pytest.skip(str(error))
    kind = FAMILIES[family]
    own = getattr(importlib.import_module(f"transformers.models.{family}.configuration_{family}"), f"{kind}Config")
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    if family == "regnet":
        config["downsample_in_first_stage"] = True
    return getattr(module, f"{kind}ForImageClassification")(own(**config))


def whole(name: str) -> nn.Module:
    """transformers' model that the public weights of ours belong to."""
    family = next(family for start, family in (
        ("resnet", "resnet"), ("regnet", "regnet"), ("vit", "vit"), ("convnext_v2", "convnextv2"),
        ("convnext", "convnext"), ("cvt", "cvt"), ("pvt_v2", "pvt_v2"), ("pvt", "pvt"), ("swin_v2", "swinv2"),
        ("swin", "swin")) if name.startswith(start))
    eps = EPS if family in ("convnext", "convnextv2", "vit") else {}
    labels = config_of(name).num_classes
    return as_trained(peer(family, num_labels=labels, **WHOLE[name], **eps))


def config_of(name: str) -> Any:
    entry = registry.get(name)
    return entry.build.Config(**entry.variant)


def as_trained(model: nn.Module) -> nn.Module:
    """With what the authors' code, which made the public weights, has otherwise: CvT's activation, and PVT's epsilon of
    layer norms that follow a convolution."""
    family = model.config.model_type
    if family == "cvt":
        from transformers.activations import QuickGELUActivation

        for module in model.modules():
            if isinstance(getattr(module, "activation", None), nn.GELU):
                module.activation = QuickGELUActivation()
    if family in ("pvt", "pvt_v2"):
        for name, module in model.named_modules():
            if name.endswith((".patch_embedding.layer_norm", ".attention.layer_norm", ".attention.self.layer_norm")) \
                    or ".patch_embeddings." in name and name.endswith(".layer_norm"):
                module.eps = 1e-5
    return model


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, family, theirs_config, size = ROWS[row]
    theirs = peer(family, num_labels=6, **theirs_config)
    randomise(theirs)
    ours = create_model(name, num_classes=6, **config)
    assert load_weights(ours, theirs.state_dict(), "transformers") == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_transformers(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images).logits, TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_transformers(row):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    assert_same_step(ours, theirs, images, "transformers")


def test_a_stride_in_the_first_convolution_is_seen():
    """The comparison itself can fail: ResNet as in the paper has the same names and other outputs."""
    name, config, family, theirs_config, size = ROWS["resnet50"]
    theirs = peer(family, num_labels=6, **theirs_config, downsample_in_bottleneck=True)
    randomise(theirs)
    ours = create_model(name, num_classes=6, **config)
    load_weights(ours, theirs.state_dict(), "transformers")
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_near(ours.eval()(images), theirs.eval()(images).logits, 1e-2, name)


def test_every_model_with_public_weights_is_here():
    """Backbones whose objective is their own are in test_backbones_parity.py."""
    assert {entry.name for entry in registry.entries()
            if "transformers" in entry.weights and entry.about["family"] not in BACKBONES} == set(WHOLE)


QUICK = ("cvt_13", "pvt_v2_b0", "pvt_v2_b2_linear", "swin_tiny", "swin_v2_tiny", "swin_v2_base_w12")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [SLOW])
                                  if name.startswith(("cvt", "pvt", "swin")) else name for name in WHOLE])
def test_tensors_of_the_public_model_are_the_ones_of_ours(name):
    """By name and shape, at full size and with 1000 classes."""
    with on_meta():
        theirs, ours = whole(name), create_model(name)
    convert = registry.get(name).about["origins"]["transformers"]
    shapes = {key: tensor.shape for key, tensor in convert(theirs.state_dict()).items()}
    assert shapes == {key: tensor.shape for key, tensor in ours.state_dict().items()}


@pytest.mark.parametrize(("row", "old"), [
    ("vit_base_16", (("vit.layers.", "vit.encoder.layer."), (".q_proj.", ".attention.query."),
                     (".k_proj.", ".attention.key."), (".v_proj.", ".attention.value."),
                     (".o_proj.", ".output.dense."), (".mlp.fc1.", ".intermediate.dense."),
                     (".mlp.fc2.", ".output.dense."))),
    ("convnext_v2_atto", ((".grn.weight", ".grn.gamma"), (".grn.bias", ".grn.beta"))),
])
def test_names_of_older_files_are_read(row, old):
    ours, theirs, _ = pair(row, torch.float32)
    state = {}
    for name, tensor in theirs.state_dict().items():
        for today, before in old:
            name = name.replace(today, before)
        state[name] = tensor
    assert state.keys().isdisjoint(name for name in theirs.state_dict() if ".q_proj." in name or ".grn." in name)
    name, config, *_ = ROWS[row]
    again = create_model(name, num_classes=6, **config)
    load_weights(again, state, "transformers")
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize(("name", "file"), [("resnet18", "microsoft--resnet-18.safetensors"),
                                            ("regnet_y_400mf", "facebook--regnet-y-004.pt")])
def test_a_fetched_file_becomes_the_model(name, file, tmp_path, monkeypatch):
    """Both kinds of file, as they lie in the cache, by the name of the origin."""
    theirs = whole(name)
    monkeypatch.setenv("VISUS_CACHE", str(tmp_path))
    path = tmp_path / "weights" / "transformers" / file
    path.parent.mkdir(parents=True)
    if path.suffix == ".pt":
        torch.save(theirs.state_dict(), path)
    else:
        write_state_dict(path, theirs.state_dict())
    ours = create_model(name, weights="transformers")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images).logits, TOLERANCE[torch.float32], name)


def test_a_pooler_is_left_out_and_a_lost_query_is_named():
    ours, theirs, _ = pair("vit_base_16", torch.float32)
    state = theirs.state_dict()
    assert load_weights(ours, {**state, "vit.pooler.dense.weight": torch.ones(48, 48)}, "transformers") == []
    del state["vit.layers.1.attention.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"missing \(1\): blocks\.1\.attn\.qkv\.bias"):
        load_weights(ours, state, "transformers")


@SLOW
@pytest.mark.parametrize("name", WHOLE)
def test_full_size_model_equals_transformers(name):
    theirs = whole(name)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "transformers")
    side = 224 if name.startswith(("vit", "pvt")) else registry.get(name).about["preprocessing"]["size"][0] \
        if name.startswith("swin") else 64
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)).logits,
                        tolerance, name)
