"""DeiT III: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.deit3 import DeiT3, DeiT3Config
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def tiny(**config) -> DeiT3:
    torch.manual_seed(0)
    return DeiT3(DeiT3Config(**{**TINY, **config}))


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("drop_path", -0.1),
                                              ("mlp_ratio", 0), ("depth", 0), ("layer_scale", 0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        DeiT3Config(**{**TINY, field: value})


def test_a_side_that_patches_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x37.*multiples of the patches' 8 pixels.*40 x 40"):
        tiny()(torch.zeros(1, 3, 40, 37))


def test_with_scales_of_one_and_a_class_token_without_position_it_is_a_vit():
    model, vit = tiny(layer_scale=1.0).eval(), create_model("vit_tiny_16", **TINY).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if ".ls" not in name}
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), state["pos_embed"]], dim=1)
    assert load_weights(vit, state) == []
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), vit(images))


def test_layer_scale_starts_each_block_near_the_identity():
    model, images = tiny().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        patches = model.patch_embed(images) + model.pos_embed
        torch.testing.assert_close(model.tokens(images)[:, 1:], model.norm(patches), rtol=0, atol=1e-4)
        assert not torch.equal(model.tokens(images)[:, 1:], model.norm(patches))


def test_a_scale_of_zero_closes_its_branch():
    model, images = tiny(layer_scale=0.5).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model.blocks[0].ls2.gamma.zero_()
        before = model(images)
        model.blocks[0].mlp.fc2.weight.mul_(3)
        assert torch.equal(model(images), before)
        model.blocks[0].attn.proj.weight.mul_(3)
        assert not torch.allclose(model(images), before)


def test_drop_path_has_one_rate():
    assert [block.drop_path.rate for block in tiny(depth=4, drop_path=0.3).blocks] == [0.3] * 4


def test_positions_of_another_size_are_resized_and_said():
    large = tiny(image_size=48)
    assert load_weights(large, tiny().state_dict()) == ["pos_embed was resized from 4 x 4 patches to 6 x 6"]
    assert large.pos_embed.shape == (1, 36, 24)
