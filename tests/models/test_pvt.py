"""PVT against what the paper states."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.vit.pvt import PVT, Attention, PVTConfig
from visus.run.models import create_model, load_weights

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 30, 32), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5,
        "image_size": 64}


@torch.no_grad()
def test_keys_and_values_come_from_windows_of_the_map():
    """Equations 1 to 3, head by head: each window of 2 x 2 becomes one key and one value."""
    torch.manual_seed(0)
    layer, tokens = Attention(8, 2, 2, 0.0).double(), torch.randn(2, 24, 8, dtype=torch.float64)
    windows = tokens.view(2, 4, 6, 8).unfold(1, 2, 2).unfold(2, 2, 2)  # [B, 2, 3, dim, 2, 2]
    small = layer.norm(torch.einsum("bhwcij,ocij->bhwo", windows, layer.sr.weight) + layer.sr.bias).flatten(1, 2)
    q, (k, v) = layer.q(tokens), layer.kv(small).chunk(2, -1)
    out = [(q[..., part] @ k[..., part].mT / 4**0.5).softmax(-1) @ v[..., part] for part in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(layer(tokens, (4, 6)), layer.proj(torch.cat(out, -1)), rtol=1e-10, atol=1e-12)


def test_only_the_last_stage_has_a_class_token_and_all_have_positions():
    model = PVT(PVTConfig(**TINY))
    assert [name for name, _ in model.named_parameters() if "cls_token" in name] == ["stages.3.cls_token"]
    assert [tuple(stage.pos_embed.shape) for stage in model.stages] == [(1, 256, 8), (1, 64, 16), (1, 16, 30),
                                                                        (1, 5, 32)]


@torch.no_grad()
def test_positions_are_those_of_the_larger_map_at_run_time_and_on_loading():
    """An image of another size gives what the model built for that size gives with the same weights."""
    small, large = (PVT(PVTConfig(**TINY | {"image_size": size})).double().eval() for size in (64, 96))
    notes = load_weights(large, small.state_dict())
    assert notes[0] == "stages.0.pos_embed was resized from 16 x 16 places to 24 x 24" and len(notes) == 4
    images = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    torch.testing.assert_close(small(images), large(images), rtol=1e-6, atol=1e-7)  # tables are resized in float32
    before, after = small.stages[1].pos_embed, large.stages[1].pos_embed
    expected = F.interpolate(before.detach().view(8, 8, 16).permute(2, 0, 1)[None].float(), (12, 12), mode="bilinear")
    torch.testing.assert_close(after[0].T.reshape(1, 16, 12, 12), expected.double())
    torch.testing.assert_close(large.stages[3].pos_embed[:, 0], small.stages[3].pos_embed[:, 0].float().double())
    assert load_weights(PVT(PVTConfig(**TINY)), small.float().state_dict()) == []


@torch.no_grad()
def test_oblong_and_odd_images_go_and_windows_that_do_not_fit_are_left_out():
    model = PVT(PVTConfig(**TINY)).eval()
    maps = model.features(torch.randn(1, 3, 71, 102))
    assert [tuple(m.shape[2:]) for m in maps] == [(17, 25), (8, 12), (4, 6), (2, 3)]
    with pytest.raises(UserError, match="31x64.*32 pixels"):
        PVT(PVTConfig(**TINY)).features(torch.zeros(1, 3, 31, 64))


def test_the_authors_names_are_read():
    """Names in classification/pvt.py of whai362/PVT."""
    model = create_model("pvt_tiny", **TINY)
    theirs = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("stages."):
            stage, rest = int(name[7]) + 1, name[9:]
            name = "cls_token" if rest == "cls_token" else rest.replace(
                "pos_embed", f"pos_embed{stage}").replace("patch_embed.", f"patch_embed{stage}.").replace(
                "blocks.", f"block{stage}.")
        theirs[name] = tensor
    assert {"patch_embed1.proj.weight", "pos_embed4", "block2.0.attn.sr.weight", "block4.0.attn.kv.bias", "cls_token",
            "block3.0.mlp.fc2.bias", "norm.weight", "head.bias"} < theirs.keys()
    assert load_weights(model, theirs, "original") == []


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 1)), ("dims", (8, 16, 31, 32)), ("image_size", 31),
                                              ("mlp_ratios", (8, 8, 4, 0)), ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        PVTConfig(**{field: value})
