"""MViTv2 against what the paper states."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.mvit_v2 import Attention, MViTv2, MViTv2Config, distances
from visus.run.models import load_weights

TINY = {"depths": (1, 1, 1, 1), "dim": 4, "num_heads": 1, "image_size": 64, "num_classes": 5}


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (8, 2), (4, 8)])
def test_distances_are_those_between_places_of_the_finer_map(queries, keys):
    found, finer = distances(queries, keys), max(queries, keys)
    at = [[q * finer // queries - k * finer // keys for k in range(keys)] for q in range(queries)]
    assert torch.equal(found - torch.tensor(at), torch.full_like(found, (keys - 1) * finer // keys))
    assert found.min() == 0 and found.max() <= 2 * finer - 2


@torch.no_grad()
def test_attention_is_equations_3_and_4():
    """Score by score for one head: scaled product plus the query times the embeddings of both distances; then the
    pooled query is added."""
    torch.manual_seed(0)
    layer = Attention(4, 4, 1, 4, 1, 2).double()
    maps = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    q, k, v = layer.qkv(maps).permute(0, 3, 1, 2).chunk(3, 1)
    q, k, v = (norm(pool(part).flatten(2).mT)[0] for part, pool, norm in (
        (q, layer.pool_q, layer.norm_q), (k, layer.pool_k, layer.norm_k), (v, layer.pool_v, layer.norm_v)))
    assert q.shape == (16, 4) and k.shape == v.shape == (4, 4)
    scores = torch.empty(16, 4, dtype=torch.float64)
    for i in range(16):
        for j in range(4):
            row, column = (int(distances(4, 2)[a, b]) for a, b in zip(divmod(i, 4), divmod(j, 2), strict=True))
            scores[i, j] = q[i] @ k[j] / 2 + q[i] @ (layer.rel_pos_h[row] + layer.rel_pos_w[column])
    expected = layer.proj(scores.softmax(-1) @ v + q).view(1, 4, 4, 4)
    torch.testing.assert_close(layer(maps), expected, rtol=1e-10, atol=1e-12)


def test_channels_and_heads_double_where_the_map_halves():
    with torch.device("meta"):
        model = MViTv2(MViTv2Config(**TINY))
        late = MViTv2(MViTv2Config(**TINY, widen_in_attention=False))
    assert model.feature_channels == (4, 8, 16, 32) and late.feature_channels == (8, 16, 32, 32)
    assert [stage.blocks[0].attn.num_heads for stage in model.stages] == [1, 2, 4, 8]
    assert [stage.blocks[0].attn.rel_pos_h.shape for stage in model.stages] == [(31, 4), (15, 4), (15, 4), (7, 4)]


def test_tables_of_positions_are_resized_aloud():
    small, large = MViTv2(MViTv2Config(**TINY)), MViTv2(MViTv2Config(**TINY | {"image_size": 128}))
    notes = load_weights(large, small.state_dict())
    assert notes == ["8 tables of relative positions were resized to images of 128 x 128 pixels"]
    before, after = small.stages[0].blocks[0].attn.rel_pos_h, large.stages[0].blocks[0].attn.rel_pos_h
    assert after.shape == (63, 4)
    torch.testing.assert_close(after[31], before[15])  # the middle of either, a distance of 0
    assert load_weights(MViTv2(MViTv2Config(**TINY)), small.state_dict()) == []


def test_another_image_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"96x64.*64 x 64.*image_size"):
        MViTv2(MViTv2Config(**TINY))(torch.zeros(1, 3, 96, 64))


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 1)), ("image_size", 80), ("widen_in_attention", 1),
                                              ("num_heads", 7), ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        MViTv2Config(**{field: value})
