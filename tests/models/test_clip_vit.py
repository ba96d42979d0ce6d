"""CLIP's image tower: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.models.vit.clip_vit import CLIPViT, CLIPViTConfig
from visus.run.models import create_model, load_weights

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "embed_dim": 10, "num_classes": 5}


def tiny(**config) -> CLIPViT:
    torch.manual_seed(0)
    return CLIPViT(CLIPViTConfig(**{**TINY, **config})).eval()


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 25), ("embed_dim", 0), ("drop_path", 1.0),
                                              ("quick_gelu", 1), ("antialias", None)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value!r}"):
        CLIPViTConfig(**{**TINY, field: value})


@pytest.mark.parametrize(("name", "params"), [("clip_vit_base_32", 87_849_216), ("clip_vit_base_16", 86_192_640),
                                              ("clip_vit_large_14", 303_966_208)])
def test_towers_without_a_classifier_have_the_authors_parameters(name, params):
    """By hand from Table 20 of the paper: 12 d^2 + 13 d a block, patches without bias, three norms, the projection."""
    with on_meta():
        model = create_model(name)
    c = model.config
    side = c.image_size // c.patch_size
    block = 12 * c.dim**2 + 13 * c.dim
    expected = (c.depth * block + 3 * c.patch_size**2 * c.dim + (2 + side**2) * c.dim + 4 * c.dim
                + c.dim * c.embed_dim)
    counted = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("head."))
    assert counted == expected == params


def test_embedding_is_the_projected_class_token_and_the_classifier_does_not_read_it():
    model, images = tiny(), torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        token = model.tokens(images)[:, 0]
        torch.testing.assert_close(model.embed(images), token @ model.proj.weight.T)
        before = model(images)
        torch.testing.assert_close(before, model.head(token))
        model.proj.weight.mul_(2)
        assert torch.equal(model(images), before)


def test_a_constant_added_to_all_channels_of_all_tokens_is_lost_in_the_first_norm():
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model.embed(images)
        model.pos_embed += 3.0
        torch.testing.assert_close(model.embed(images), before, rtol=1e-4, atol=1e-4)
        model.pos_embed += torch.randn_like(model.pos_embed)
        assert not torch.allclose(model.embed(images), before, rtol=1e-2, atol=1e-2)


def test_positions_of_another_size_are_resized_and_said():
    large = tiny(image_size=48)
    assert load_weights(large, tiny().state_dict()) == ["pos_embed was resized from 4 x 4 patches to 6 x 6"]


def test_a_fine_tuned_timm_file_fills_the_classifier_and_a_plain_one_the_projection():
    """timm has one last layer for both; the authors' projection has no bias."""
    state = tiny().state_dict()
    bodies = {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "proj."))}
    model = tiny()
    tuned = {**bodies, "head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
    assert load_weights(model, tuned, "timm") == ["the weights have no projection: proj starts fresh"]
    assert torch.equal(model.head.weight, tuned["head.weight"])
    plain = {**bodies, "head.weight": torch.ones(10, 24), "head.bias": torch.zeros(10)}
    assert load_weights(model, plain, "timm") == ["the weights have no classifier: head starts fresh"]
    assert torch.equal(model.proj.weight, plain["head.weight"])
