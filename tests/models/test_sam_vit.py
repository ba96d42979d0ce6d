"""SAM's image encoder: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.sam_vit import DecomposedAttention, SAMViT, SAMViTConfig, line_of
from visus.ops.attention import seen_attention
from visus.run.models import load_weights

TINY = {"image_size": 48, "patch_size": 8, "dim": 12, "depth": 2, "num_heads": 3, "window": 4, "global_blocks": (1,),
        "neck_dim": 8, "num_classes": 5}


def tiny(**config) -> SAMViT:
    torch.manual_seed(0)
    model = SAMViT(SAMViTConfig(**{**TINY, **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".rel_pos_" in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("dim", 13), ("window", 0), ("neck_dim", 0),
                                              ("drop_path", 1.0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value!r}"):
        SAMViTConfig(**{**TINY, field: value})


@pytest.mark.parametrize("blocks", [(2,), (-1,)])
def test_a_global_block_that_is_none_is_refused(blocks):
    with pytest.raises(UserError, match="global_blocks="):
        SAMViTConfig(**{**TINY, "global_blocks": blocks})


def test_a_score_has_the_querys_products_with_its_offsets_vectors():
    """Equation 4 of MViTv2, pair by pair."""
    torch.manual_seed(0)
    attention = DecomposedAttention(8, 2, 3, 0)
    with torch.no_grad():
        attention.rel_pos_h.normal_()
        attention.rel_pos_w.normal_()
        q = torch.randn(1, 2, 9, 4)
        _, _, bias = attention.placed(q, q, (3, 3))
        for i in range(9):
            for j in range(9):
                down, right = i // 3 - j // 3 + 2, i % 3 - j % 3 + 2
                expected = q[0, :, i] @ (attention.rel_pos_h[down] + attention.rel_pos_w[right])
                torch.testing.assert_close(bias[0, :, i, j], expected)


def test_tables_of_another_length_are_resampled_with_their_middle_and_order_kept():
    table = torch.arange(7.0)[:, None]  # offsets -3 to 3
    assert torch.equal(line_of(table, 4)[..., 0], torch.arange(4.0)[:, None] - torch.arange(4.0) + 3)
    longer = line_of(table, 7)[..., 0]
    assert longer.shape == (7, 7)
    torch.testing.assert_close(longer.diagonal(), torch.full((7,), 3.0))
    assert (longer.diff(dim=0) >= 0).all() and longer[0, -1] < longer[-1, 0]


def test_windows_do_not_see_each_other_and_global_blocks_see_all():
    images = torch.randn(1, 3, 48, 48)
    other = images.clone()
    other[..., 40:, 40:] += 1  # the last patch, in the last of four windows
    for blocks, changed in (((), 4), ((1,), 36)):
        model = tiny(global_blocks=blocks)
        with torch.no_grad():
            apart = (model.tokens(images) - model.tokens(other)).abs().amax(2)[0] > 1e-7
        assert apart.sum() == changed, blocks


def test_attention_is_seen_in_windows_and_everywhere():
    model = tiny()
    with torch.no_grad(), seen_attention() as seen:
        model(torch.randn(2, 3, 48, 40))
    assert [tuple(weights.shape) for weights in seen] == [(2 * 4, 3, 16, 16), (2, 3, 30, 30)]


def test_any_multiple_of_the_patch_has_a_map_and_others_are_refused():
    model = tiny()
    with torch.no_grad():
        for height, width in ((48, 48), (8, 8), (72, 16)):
            images = torch.randn(1, 3, height, width)
            maps = model.features(images)
            assert [m.shape for m in maps] == [(1, 8, height // 8, width // 8)]
            assert torch.equal(maps[0], model.embed(images))
    with pytest.raises(UserError, match=r"44x48.*multiples of the patches' 8 pixels"):
        model(torch.zeros(1, 3, 44, 48))


def test_tables_of_another_size_are_resized_and_said():
    large = tiny(image_size=64, window=5)
    assert load_weights(large, tiny().state_dict()) == [
        "pos_embed was resized from 6 x 6 patches to 8 x 8",
        "relative positions were resized from 7 offsets to 9",
        "relative positions were resized from 11 offsets to 15"]
    model, images = tiny(), torch.randn(1, 3, 64, 64)
    state = model.state_dict()
    same = tiny(image_size=64)
    load_weights(same, state)
    with torch.no_grad():  # resized once or at each call
        torch.testing.assert_close(same(images), model(images), rtol=1e-4, atol=1e-5)
