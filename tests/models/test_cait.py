"""CaiT: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.core.summary import summarise
from visus.models.vit.cait import CaiT, CaiTConfig, ClassAttention, HeadMixing, TalkingHeads
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> CaiT:
    torch.manual_seed(0)
    return CaiT(CaiTConfig(**{**TINY, **config}))


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("drop_path", -0.1),
                                              ("mlp_ratio", 0), ("class_depth", 0), ("layer_scale", 0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        CaiTConfig(**{**TINY, field: value})


def test_a_side_that_patches_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x37.*multiples of the patches' 8 pixels.*40 x 40"):
        tiny()(torch.zeros(1, 3, 40, 37))


@pytest.mark.parametrize(("name", "macs"), [("cait_xs24", "19.3e9"), ("cait_s24", "32.2e9"), ("cait_s36", "48.0e9"),
                                            ("cait_m36", "173.3e9")])
def test_operations_at_384_pixels_are_near_the_authors(name, macs):
    """Ours counts products alone: never more, and at most one in a hundred less."""
    with on_meta():
        model = create_model(name, image_size=384)
    ours = summarise(model, (1, 3, 384, 384)).macs
    assert 0.99 * float(macs) < ours < float(macs)


def test_head_mixing_equals_a_linear_layer_over_the_heads():
    layer, maps = HeadMixing(3).double(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.einsum("gh,bhnm->bgnm", layer.weight, maps) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(maps), expected, rtol=1e-12, atol=1e-12)


def test_heads_that_do_not_talk_are_plain_attention():
    layer, tokens = TalkingHeads(24, 3, 0.0).double(), torch.randn(2, 7, 24, dtype=torch.float64)
    with torch.no_grad():
        for mixing in (layer.proj_l, layer.proj_w):
            mixing.weight.copy_(torch.eye(3))
            mixing.bias.zero_()
    plain = torch.nn.MultiheadAttention(24, 3, batch_first=True, dtype=torch.float64)
    plain.load_state_dict({"in_proj_weight": layer.qkv.weight, "in_proj_bias": layer.qkv.bias,
                           "out_proj.weight": layer.proj.weight, "out_proj.bias": layer.proj.bias})
    expected, _ = plain(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-10, atol=1e-10)


def test_class_attention_is_the_first_row_of_self_attention():
    layer, tokens = ClassAttention(24, 3, 0.0).double(), torch.randn(2, 7, 24, dtype=torch.float64)
    plain = torch.nn.MultiheadAttention(24, 3, batch_first=True, dtype=torch.float64)
    plain.load_state_dict({"in_proj_weight": torch.cat([layer.q.weight, layer.k.weight, layer.v.weight]),
                           "in_proj_bias": torch.cat([layer.q.bias, layer.k.bias, layer.v.bias]),
                           "out_proj.weight": layer.proj.weight, "out_proj.bias": layer.proj.bias})
    expected, _ = plain(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(layer(tokens), expected[:, :1], rtol=1e-10, atol=1e-10)


def test_layer_scale_starts_each_block_near_the_identity():
    model, images = tiny(layer_scale=1e-6).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first = model.patch_embed(images) + model.pos_embed
        assert 0 < (model.patches(images) - first).abs().max() < 1e-4


def test_patches_do_not_see_the_class_token():
    model, images = tiny(layer_scale=0.5).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before, logits = model.features(images)[0], model(images)
        model.cls_token += torch.randn(24)
        assert torch.equal(model.features(images)[0], before)
        assert not torch.allclose(model(images), logits)


def test_drop_path_has_one_rate():
    model = tiny(depth=4, drop_path=0.3)
    assert [block.drop_path.rate for block in model.blocks] == [0.3] * 4


def test_positions_of_another_size_are_resized_and_said():
    large = tiny(image_size=48)
    assert load_weights(large, tiny().state_dict()) == ["pos_embed was resized from 4 x 4 patches to 6 x 6"]
    assert large.pos_embed.shape == (1, 36, 24)
