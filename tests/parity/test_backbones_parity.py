"""Backbones of self-supervised, multimodal and segmentation models with equal weights and images as in timm and
transformers: outputs, training steps, resized positions, and the tokens that their objectives need."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.test_models_parity import TOLERANCE, assert_near, assert_same_step, peer, randomise
from tools.peers import load_peer
from visus.core.meta import on_meta
from visus.models import registry
from visus.models.vit.mae import draw_keep
from visus.run.models import create_model, load_weights

SMALL = {"dim": 24, "depth": 2, "num_heads": 3, "num_classes": 6}
OTHER = {"dim": 32, "depth": 3, "num_heads": 2, "num_classes": 6}


def timm_vit(maker: str, config: dict[str, Any], side: int, **options: Any) -> nn.Module:
    return peer("timm", maker, embed_dim=config["dim"], depth=config["depth"], num_heads=config["num_heads"],
                num_classes=config["num_classes"], img_size=side, **options)


def hub_class(family: str, kind: str, name: str) -> tuple[Any, Any]:
    """transformers' class and its config's."""
    try:
        load_peer("transformers")
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError as error:
        pytest.skip(str(error))
    own = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
    return getattr(module, name), getattr(own, f"{kind}Config")


def hub_sizes(config: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_size": config["dim"], "num_hidden_layers": config["depth"],
            "num_attention_heads": config["num_heads"]}


def hub_dinov2(config: dict[str, Any], side: int, patch: int, registers: bool = False, **options: Any) -> nn.Module:
    family, kind = ("dinov2_with_registers", "Dinov2WithRegisters") if registers else ("dinov2", "Dinov2")
    build, own = hub_class(family, kind, f"{kind}ForImageClassification")
    model = build(own(**hub_sizes(config), image_size=side, patch_size=patch, num_labels=config["num_classes"],
                      **options))
    if registers:  # its class token and that token's position are one tensor here: their equal gradients count once
        def patches_alone(gradient: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(gradient[:, :1]), gradient[:, 1:]], dim=1)

        getattr(model, family).embeddings.position_embeddings.register_hook(patches_alone)
    return model


def hub_clip(config: dict[str, Any], side: int, patch: int, embed_dim: int) -> nn.Module:
    build, own = hub_class("clip", "CLIPVision", "CLIPVisionModelWithProjection")
    return build(own(**hub_sizes(config), image_size=side, patch_size=patch, intermediate_size=4 * config["dim"],
                     projection_dim=embed_dim))


def hub_mae(config: dict[str, Any], side: int, patch: int, mask_ratio: float) -> nn.Module:
    build, own = hub_class("vit_mae", "ViTMAE", "ViTMAEModel")
    return build(own(**hub_sizes(config), image_size=side, patch_size=patch, intermediate_size=4 * config["dim"],
                     mask_ratio=mask_ratio, layer_norm_eps=1e-6))


def hub_dino(config: dict[str, Any], side: int, patch: int) -> nn.Module:
    build, own = hub_class("vit", "ViT", "ViTForImageClassification")
    return build(own(**hub_sizes(config), image_size=side, patch_size=patch, intermediate_size=4 * config["dim"],
                     num_labels=config["num_classes"], layer_norm_eps=1e-6))


def timm_sam(maker: str, config: dict[str, Any], side: int) -> nn.Module:
    """With the authors' epsilon, which timm's has not."""
    return timm_vit(maker, config, side, patch_size=8, window_size=config["window"], neck_chans=config["neck_dim"],
                    global_attn_indexes=config["global_blocks"], norm_layer=partial(nn.LayerNorm, eps=1e-6))


_V2 = {"image_size": 40, "patch_size": 8}
_GIANT = {"mlp_ratio": 2.66667 * 2}  # timm's gated width for a dim that is a multiple of 24
_ANY = {"dynamic_img_size": True}
_CLIP = {**_V2, "embed_dim": 10}
_MAE = {**_V2, "learn_positions": True}
_HUB_V2 = {"pool": "class_mean", "antialias": False}
ROWS = {  # test id -> (name, config, origin, peer's maker, height, width)
    "dinov2-small-timm": ("dinov2_small_14", {**SMALL, **_V2}, "timm",
                          partial(timm_vit, "vit_small_patch14_dinov2", SMALL, 40, patch_size=8), 40, 40),
    "dinov2-base-timm-other-size": ("dinov2_base_14", {**OTHER, **_V2}, "timm",
                                    partial(timm_vit, "vit_base_patch14_dinov2", OTHER, 40, patch_size=8, **_ANY), 24,
                                    56),
    "dinov2-giant-timm": ("dinov2_giant_14", {**SMALL, **_V2}, "timm",
                          partial(timm_vit, "vit_giant_patch14_dinov2", SMALL, 40, patch_size=8, **_GIANT), 40, 40),
    "dinov2-small-reg-timm-other-size": ("dinov2_small_14_reg", {**SMALL, **_V2}, "timm",
                                         partial(timm_vit, "vit_small_patch14_reg4_dinov2", SMALL, 40, patch_size=8,
                                                 **_ANY), 16, 48),
    "dinov2-base-transformers": ("dinov2_base_14", {**SMALL, **_V2, **_HUB_V2}, "transformers",
                                 partial(hub_dinov2, SMALL, 40, 8), 40, 40),
    "dinov2-small-transformers-other-size": ("dinov2_small_14", {**OTHER, **_V2, **_HUB_V2}, "transformers",
                                             partial(hub_dinov2, OTHER, 40, 8), 24, 56),
    "dinov2-giant-transformers": ("dinov2_giant_14", {**OTHER, **_V2, **_HUB_V2}, "transformers",
                                  partial(hub_dinov2, OTHER, 40, 8, use_swiglu_ffn=True), 40, 40),
    "dinov2-small-reg-transformers-other-size": (
        "dinov2_small_14_reg", {**SMALL, **_V2, "pool": "class_mean"}, "transformers",
        partial(hub_dinov2, SMALL, 40, 8, True), 24, 56),
    "clip-base-16-timm": ("clip_vit_base_16", {**SMALL, **_CLIP}, "timm",
                          partial(timm_vit, "vit_base_patch16_clip_quickgelu_224", SMALL, 40, patch_size=8), 40, 40),
    "clip-large-14-timm-other-size": ("clip_vit_large_14", {**OTHER, **_CLIP}, "timm",
                                      partial(timm_vit, "vit_large_patch14_clip_quickgelu_224", OTHER, 40, patch_size=8,
                                              **_ANY), 24, 56),
    "clip-base-32-gelu-timm": ("clip_vit_base_32", {**OTHER, **_CLIP, "quick_gelu": False}, "timm",
                               partial(timm_vit, "vit_base_patch32_clip_224", OTHER, 40, patch_size=8), 40, 40),
    "mae-base-timm": ("mae_base_16", {**SMALL, **_MAE}, "timm",
                      partial(timm_vit, "vit_base_patch16_224", SMALL, 40, patch_size=8, global_pool="avg"), 40, 40),
    "mae-large-timm-other-size": ("mae_large_16", {**OTHER, **_MAE}, "timm",
                                  partial(timm_vit, "vit_large_patch16_224", OTHER, 40, patch_size=8,
                                          global_pool="avg", **_ANY), 24, 56),
    "mae-huge-class-timm": ("mae_huge_14", {**SMALL, **_MAE, "pool": "class"}, "timm",
                            partial(timm_vit, "vit_huge_patch14_224", SMALL, 40, patch_size=8), 40, 40),
    "dino-small-16-timm": ("dino_small_16", {**SMALL, **_V2}, "timm",
                           partial(timm_vit, "vit_small_patch16_224", SMALL, 40, patch_size=8), 40, 40),
    "dino-base-8-timm-other-size": ("dino_base_8", {**OTHER, **_V2}, "timm",
                                    partial(timm_vit, "vit_base_patch8_224", OTHER, 40, patch_size=8, **_ANY), 24, 56),
    "dino-small-8-transformers": ("dino_small_8", {**OTHER, **_V2}, "transformers",
                                  partial(hub_dino, OTHER, 40, 8), 40, 40),
}
_SAM = {"window": 3, "global_blocks": (1,), "neck_dim": 8}
ROWS |= {
    "sam-base-timm": ("sam_vit_base_16", {**SMALL, **_SAM, **_V2}, "timm",
                      partial(timm_sam, "samvit_base_patch16", {**SMALL, **_SAM}, 40), 40, 40),
    "sam-large-timm-other-size": ("sam_vit_large_16", {**OTHER, **_SAM, **_V2}, "timm",
                                  partial(timm_sam, "samvit_large_patch16", {**OTHER, **_SAM}, 40), 24, 64),
}
SAID = {"clip": ["the weights have no projection: proj starts fresh"]}  # family -> what loading says of these rows


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor]:
    name, config, origin, make, height, width = ROWS[row]
    theirs = make()
    randomise(theirs)
    theirs = theirs.to(dtype)  # before converters add up tensors
    ours = create_model(name, **config).to(dtype)
    assert load_weights(ours, theirs.state_dict(), origin) == SAID.get(row.split("-")[0], [])
    return ours, theirs, torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


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
    if row.startswith("clip"):  # a classifier reads what the projection would
        del ours.proj
        ours.adapt = lambda state: (state, [])
    assert_same_step(ours, theirs, images, ROWS[row][2])


def assert_same_tokens_and_gradients(ours: nn.Module, found: Tensor, theirs: nn.Module, expected: Tensor, origin: str,
                                     still: set[str]) -> None:
    """As assert_same_step, of any output. still: our parameters that it does not depend on."""
    assert_near(found, expected, 1e-10, "outputs")
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=found.dtype)
    for out in (found, expected):
        (out * weights).sum().backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    converted = registry.get(ours.registered).about["origins"][origin]({**theirs.state_dict(), **gradients})
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (name in still), name
        if parameter.grad is not None and max(parameter.grad.abs().max(), converted[name].abs().max()) > 1e-13:
            assert_near(parameter.grad, converted[name], 1e-9, name)


@pytest.mark.parametrize(("name", "config"), [("clip_vit_base_16", SMALL), ("clip_vit_large_14_336", OTHER)])
@pytest.mark.parametrize("size", [(40, 40), (24, 56)])
def test_clips_embeddings_and_their_gradients_equal_transformers(name, config, size):
    theirs = hub_clip(config, 40, 8, 10)
    randomise(theirs)
    ours = create_model(name, **config, **_CLIP, antialias=False).double()
    ours.registered = name
    said = load_weights(ours, theirs.double().state_dict(), "transformers")
    assert said == ["the weights have no classifier: head starts fresh"]
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    if size == (40, 40):
        with torch.no_grad():
            single = ours.float().embed(images), theirs.float()(images).image_embeds
            assert_near(*single, TOLERANCE[torch.float32], name)
        ours, theirs = ours.double(), theirs.double()
    images = images.double()
    expected = theirs(images, interpolate_pos_encoding=True).image_embeds
    if size == (40, 40):
        assert_same_tokens_and_gradients(ours, ours.embed(images), theirs, expected, "transformers",
                                         {"head.weight", "head.bias"})
    else:  # transformers resamples in float64, we in float32
        assert_near(ours.embed(images), expected, 1e-6, name)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
def test_maes_tokens_of_visible_patches_and_their_gradients_equal_transformers(mask_ratio):
    """The same noise, the same tokens in the same order."""
    theirs = hub_mae(SMALL, 40, 8, mask_ratio)
    randomise(theirs)
    ours = create_model("mae_base_16", **SMALL, **_V2).double()
    ours.registered = "mae_base_16"
    said = load_weights(ours, theirs.double().state_dict(), "transformers")
    assert said == ["the weights have no classifier: head starts fresh"]
    images = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.rand(3, 25, generator=torch.Generator().manual_seed(4))
    keep = draw_keep(3, 25, mask_ratio, torch.Generator().manual_seed(4))
    assert keep.shape == (3, 25 if mask_ratio == 0 else 6)
    assert_same_tokens_and_gradients(ours, ours.encode(images, keep), theirs,
                                     theirs(images, noise=noise).last_hidden_state, "transformers",
                                     {"head.weight", "head.bias", "pos_embed"})


def test_maes_first_positions_are_transformers():
    """Whose function has the halves for rows and columns the other way round than the public files."""
    hub_class("vit_mae", "ViTMAE", "ViTMAEModel")
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    rows, columns = build_2d_sinusoidal_position_embedding(5, 5, 24, cls_token=True).chunk(2, dim=1)
    ours = create_model("mae_base_16", **SMALL, **_V2)
    torch.testing.assert_close(ours.pos_embed[0].detach(), torch.cat([columns, rows], dim=1), rtol=1e-5, atol=1e-6)


def test_a_pre_training_file_loads_without_its_decoder():
    build, own = hub_class("vit_mae", "ViTMAE", "ViTMAEForPreTraining")
    theirs = build(own(**hub_sizes(SMALL), image_size=40, patch_size=8, intermediate_size=96, decoder_hidden_size=16,
                       decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32))
    ours = create_model("mae_base_16", **SMALL, **_V2)
    assert load_weights(ours, theirs.state_dict(), "transformers") == [
        "the weights have no classifier: head starts fresh"]
    assert torch.equal(ours.norm.weight, theirs.vit.layernorm.weight)
    full = {**ours.state_dict(), "mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 26, 16),
            "decoder_blocks.0.attn.qkv.bias": torch.zeros(48)}
    assert load_weights(create_model("mae_base_16", **SMALL, **_V2), full, "original") == []


@pytest.mark.parametrize("name", ["sam_vit_base_16", "sam_vit_huge_16"])
def test_sams_embedding_and_its_gradients_equal_transformers(name):
    build, own = hub_class("sam", "SamVision", "SamVisionModel")
    theirs = build(own(**hub_sizes(SMALL), image_size=40, patch_size=8, window_size=3, global_attn_indexes=[1],
                       output_channels=8, mlp_ratio=4.0))
    randomise(theirs)
    ours = create_model(name, **SMALL, **_SAM, **_V2).double()
    ours.registered = name
    said = load_weights(ours, theirs.double().state_dict(), "transformers")
    assert said == ["the weights have no classifier: head starts fresh"]
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same_tokens_and_gradients(ours, ours.embed(images), theirs, theirs(images).last_hidden_state, "transformers",
                                     {"head.weight", "head.bias"})


def test_sams_own_names_are_read_as_timm_reads_them():
    ours, theirs, _ = pair("sam-base-timm", torch.float32)
    from timm.models.vision_transformer_sam import checkpoint_filter_fn

    state = {"mask_decoder.iou_token.weight": torch.ones(1, 8), "prompt_encoder.no_mask_embed.weight": torch.ones(1)}
    for key, tensor in theirs.state_dict().items():
        if not key.startswith("head."):
            state["image_encoder." + key.replace(".mlp.fc", ".mlp.lin")] = tensor + 1
    again = create_model("sam_vit_base_16", **ROWS["sam-base-timm"][1])
    assert load_weights(again, state, "original") == ["the weights have no classifier: head starts fresh"]
    for key, tensor in checkpoint_filter_fn(state, theirs).items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_openais_names_are_read_as_timm_reads_them():
    """`visual.*` beside a text tower, a transposed projection."""
    from timm.models.vision_transformer import _convert_openai_clip

    ours = create_model("clip_vit_base_16", **SMALL, **_CLIP)
    state = {"visual.class_embedding": torch.randn(24), "visual.positional_embedding": torch.randn(26, 24),
             "visual.conv1.weight": torch.randn(24, 3, 8, 8), "visual.proj": torch.randn(24, 10),
             "logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(5),
             "positional_embedding": torch.ones(7, 5)}
    for norm in ("ln_pre", "ln_post"):
        state |= {f"visual.{norm}.weight": torch.randn(24), f"visual.{norm}.bias": torch.randn(24)}
    for i in range(2):
        block = f"visual.transformer.resblocks.{i}."
        for name, shape in (("attn.in_proj_weight", (72, 24)), ("attn.in_proj_bias", (72,)),
                            ("attn.out_proj.weight", (24, 24)), ("attn.out_proj.bias", (24,)), ("ln_1.weight", (24,)),
                            ("ln_1.bias", (24,)), ("ln_2.weight", (24,)), ("ln_2.bias", (24,)),
                            ("mlp.c_fc.weight", (96, 24)), ("mlp.c_fc.bias", (96,)), ("mlp.c_proj.weight", (24, 96)),
                            ("mlp.c_proj.bias", (24,))):
            state[block + name] = torch.randn(shape)
    assert load_weights(ours, state, "original") == ["the weights have no classifier: head starts fresh"]
    expected = _convert_openai_clip(state, None)
    assert torch.equal(ours.proj.weight, expected.pop("head.weight")) and not expected.pop("head.bias").any()
    for key, tensor in expected.items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    again = create_model("clip_vit_base_16", **SMALL, **_CLIP)
    stored = {**expected, "head.weight": ours.proj.weight.detach(), "head.bias": torch.zeros(10)}
    assert load_weights(again, stored, "timm") == ["the weights have no classifier: head starts fresh"]
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(again.embed(images), ours.embed(images))


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    ours, theirs, images = pair("dinov2-small-timm", torch.float64)
    with torch.no_grad():
        ours.blocks[1].ls2.gamma[3] += 1e-3
        difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
    assert difference > 1e-9


@pytest.mark.parametrize("row", ["dinov2-base-transformers", "dinov2-small-reg-transformers-other-size"])
def test_tokens_of_an_image_with_masked_patches_equal_transformers(row):
    ours, theirs, images = pair(row, torch.float64)
    theirs = theirs.base_model.eval()
    grid = ours.patch_embed.grid(images)
    masked = torch.rand(3, grid[0] * grid[1], generator=torch.Generator().manual_seed(2)) < 0.4
    with torch.no_grad():
        expected = theirs(images, bool_masked_pos=masked).last_hidden_state
        found = ours.eval().tokens(images, masked, theirs.embeddings.mask_token[0])
        assert_near(found, expected, 1e-10, row)
        assert not torch.allclose(ours.tokens(images), found)


def test_last_layers_equal_timms():
    ours, theirs, images = pair("dinov2-base-timm-other-size", torch.float64)
    with torch.no_grad():
        found = ours.eval().last_tokens(images, 2)
        expected = theirs.eval().get_intermediate_layers(images, n=2, norm=True)
        assert len(found) == 2
        for a, b in zip(found, expected, strict=True):
            assert_near(a[:, 1:], b, 1e-10, "last layers")


def test_positions_of_a_file_are_resized_to_a_smaller_model_as_timm_does():
    """518 -> 224 pixels in full size is 37 x 37 patches -> 16 x 16."""
    ours, theirs, _ = pair("dinov2-small-timm", torch.float32)
    from timm.models.vision_transformer import checkpoint_filter_fn

    smaller = timm_vit("vit_small_patch14_dinov2", SMALL, 24, patch_size=8)
    again = create_model("dinov2_small_14", **{**SMALL, **_V2, "image_size": 24})
    assert load_weights(again, theirs.state_dict(), "timm") == ["pos_embed was resized from 5 x 5 patches to 3 x 3"]
    expected = checkpoint_filter_fn(theirs.state_dict(), smaller)["pos_embed"]
    torch.testing.assert_close(again.pos_embed.detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("row", "timms"), [
    ("dinov2-small-timm", "vit_small_patch14_dinov2"), ("dinov2-giant-timm", "vit_giant_patch14_dinov2"),
    ("dinov2-small-reg-timm-other-size", "vit_small_patch14_reg4_dinov2")])
def test_original_dinov2_names_are_read_as_timm_reads_them(row, timms):
    """The authors' files hold a mask token, and with registers a position of the class token."""
    ours, theirs, _ = pair(row, torch.float32)
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("head.")}
    state["mask_token"] = torch.ones(1, 24)
    for old, new in ((".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3.")):
        if "giant" in row:
            state = {key.replace(old, new): tensor for key, tensor in state.items()}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.full((1, 1, 24), 0.25), state["pos_embed"]], dim=1)
    again = create_model(ROWS[row][0], **ROWS[row][1])
    assert load_weights(again, state, "original") == ["the weights have no classifier: head starts fresh"]
    expected = checkpoint_filter_fn(dict(state), theirs)
    assert expected.keys() == {key for key in again.state_dict() if not key.startswith("head.")}
    for key, tensor in expected.items():
        assert torch.equal(again.state_dict()[key], tensor), key


_BEFORE_5 = {"dinov2": ((".attention.q_proj.", ".attention.attention.query."),
                        (".attention.k_proj.", ".attention.attention.key."),
                        (".attention.v_proj.", ".attention.attention.value."),
                        (".attention.o_proj.", ".attention.output.dense."), (".mlp.down_proj.", ".mlp.weights_out."))}


@pytest.mark.parametrize("row", ["dinov2-base-transformers", "dinov2-giant-transformers"])
def test_names_of_older_files_are_read(row):
    """Names of before transformers 5, in which public files are written."""
    ours, theirs, _ = pair(row, torch.float32)
    state = {}
    for name, tensor in theirs.state_dict().items():
        for today, before in _BEFORE_5[row.split("-")[0]]:
            name = name.replace(today, before)
        state[name] = tensor
    for name in [name for name in state if ".mlp.gate_proj." in name]:
        up = state.pop(name.replace("gate_proj", "up_proj"))
        state[name.replace("gate_proj", "weights_in")] = torch.cat([state.pop(name), up])
    assert not any("_proj." in name for name in state)
    again = create_model(ROWS[row][0], **ROWS[row][1])
    assert load_weights(again, state, "transformers") == []
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in again.state_dict().items())


FULL = {  # test id -> (name, peer's name, options of the peer, size)
    f"dinov2_{size}_14{more}": (f"dinov2_{size}_14{more}", f"vit_{size}_patch14{timms}_dinov2", _ANY, 112)
    for size in ("small", "base") for more, timms in (("", ""), ("_reg", "_reg4"))
}


@pytest.mark.slow
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_timms(row):
    name, maker, options, size = FULL[row]
    theirs = peer("timm", maker, num_classes=1000, **options)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), "timm")
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)), tolerance,
                        row)


_HUB_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16),
              "giant": (1536, 40, 24)}


def hub_whole(name: str) -> nn.Module:
    """transformers' model whose public weights are ours too, by the config in their folder."""
    family, size = name.rsplit("_vit_", 1) if "_vit_" in name else name.split("_", 1)
    dim, depth, heads = _HUB_SIZES[size.split("_")[0]]
    sizes = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads}
    model = registry.get(name).build.Config(**registry.get(name).variant)
    sides = {"image_size": model.image_size, "patch_size": model.patch_size}
    if family == "dinov2":
        kind, hub = ("Dinov2WithRegisters", "dinov2_with_registers") if "reg" in name else ("Dinov2", "dinov2")
        build, own = hub_class(hub, kind, f"{kind}Model")
        return build(own(**sizes, **sides, use_swiglu_ffn="giant" in name))
    kind, hub, made, more = {
        "dino": ("ViT", "vit", "ViTModel", {"intermediate_size": 4 * dim}),
        "mae": ("ViTMAE", "vit_mae", "ViTMAEForPreTraining", {"intermediate_size": 4 * dim}),
        "clip": ("CLIPVision", "clip", "CLIPVisionModelWithProjection",
                 {"intermediate_size": 4 * dim, "projection_dim": 512 if "base" in name else 768}),
        "sam": ("SamVision", "sam", "SamVisionModel",
                {"mlp_dim": 4 * dim, "global_attn_indexes": list(range(depth // 4 - 1, depth, depth // 4))})}[family]
    build, own = hub_class(hub, kind, made)
    return build(own(**sizes, **sides, **more))


@pytest.mark.parametrize("name", [f"dinov2_{size}_14{more}" for size in ("small", "giant") for more in ("", "_reg")]
                         + ["dino_small_8", "dino_base_16", "mae_base_16", "mae_huge_14", "clip_vit_base_32",
                            "clip_vit_large_14_336", "sam_vit_base_16", "sam_vit_huge_16"])
def test_tensors_of_transformers_public_model_are_the_ones_of_ours(name):
    """By name and shape, at full size."""
    with on_meta():
        theirs, ours = hub_whole(name), create_model(name)
    convert = registry.get(name).about["origins"]["transformers"]
    shapes = {key: tensor.shape for key, tensor in convert(theirs.state_dict()).items()}
    assert shapes == {key: tensor.shape for key, tensor in ours.state_dict().items() if not key.startswith("head.")}
