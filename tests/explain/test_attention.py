"""Attention maps, rollout, distance and similarity of positions against recomputation, loops, products and formulas."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from tests.rows_models import MODELS
from tools.peers import load_peer
from visus.core.errors import UserError
from visus.explain.attention import ClassAttention, attention_maps
from visus.explain.distance import Distance, attention_distance, uniform_distance
from visus.explain.positions import Positions, position_similarity
from visus.explain.rollout import Rollout, attention_rollout, rollout_steps, whole_layers
from visus.run.models import create_model, load_weights, passports

VIT = {"image_size": 32, "patch_size": 8, "depth": 3, "dim": 48, "num_heads": 4}
IMAGES = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def build(name: str, **config) -> nn.Module:
    """A tiny one of the family, in float64, whose attention is far from uniform."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return build("vit_tiny_16", **VIT)


# -- maps ----------------------------------------------------------------------------------------------------------


def test_maps_are_the_weights_that_timm_computes(vit):
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(2)
    peer = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5)
    peer = peer.double().eval()
    seen = []
    for parameter in peer.parameters():
        parameter.data.mul_(6 if parameter.ndim > 1 else 1)
    for block in peer.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    ours = build("vit_tiny_16", **VIT)
    load_weights(ours, peer.state_dict(), origin="timm")
    with torch.no_grad():
        peer(IMAGES)
    maps = attention_maps(ours, IMAGES)
    assert maps.stacked().shape == (2, 3, 4, 17, 17)
    assert maps.stacked().amax() > 0.2, "far from uniform, so that the comparison can fail"
    torch.testing.assert_close(maps.stacked(), torch.stack(seen, dim=1), rtol=1e-10, atol=1e-12)
    assert {(layer.grid, layer.num_prefix, layer.patch_px) for layer in maps.layers} == {((4, 4), 1, 8.0)}
    torch.testing.assert_close(maps.layers[1].class_map(), seen[1][:, :, 0, 1:].reshape(2, 4, 4, 4))


@pytest.mark.parametrize("config, prefix, classed", [
    ({}, 1, True), ({"registers": 3}, 4, True), ({"pool": "mean"}, 0, False),
    ({"pool": "mean", "registers": 2}, 2, False),
])
def test_tokens_without_a_place_are_told_apart(config, prefix, classed):
    model = build("vit_tiny_16", **VIT, **config)
    layer = attention_maps(model, IMAGES).layers[-1]
    assert (layer.num_prefix, layer.classed, layer.grid) == (prefix, classed, (4, 4))
    assert layer.num_prefix == model.num_prefix_tokens
    rows = layer.weights[:, :, :1] if classed else layer.weights[:, :, prefix:]
    torch.testing.assert_close(layer.class_map().flatten(2), rows.mean(2)[..., prefix:])


def test_images_that_are_no_square_keep_their_grid(vit):
    layer = attention_maps(vit, torch.rand(1, 3, 16, 40, dtype=torch.float64)).layers[0]
    assert layer.grid == (2, 5) and layer.class_map().shape == (1, 4, 2, 5)


def test_class_attention_of_cait_and_both_tokens_of_deit():
    maps = attention_maps(build("cait_xxs24", **MODELS["cait_xxs24"].tiny).float(), torch.rand(2, 3, 64, 64))
    depth = next(n for n, layer in enumerate(maps.layers) if layer.weights.shape[2] == 1)
    assert 0 < depth < maps.num_layers == len(maps.layers)
    assert {layer.num_prefix for layer in maps.layers[:depth]} == {0}
    last = maps.layers[-1]
    assert last.classed and last.num_prefix == 1 and last.among_patches is None
    torch.testing.assert_close(last.class_map().flatten(2), last.weights[:, :, 0, 1:])
    with pytest.raises(UserError, match="not all alike"):
        maps.stacked()
    deit = attention_maps(build("deit_tiny_distilled_16", **VIT), IMAGES)
    assert {layer.num_prefix for layer in deit.layers} == {2}


def test_windows_are_left_out_and_pooled_places_are_not():
    swin = attention_maps(create_model("swin_tiny", dim=24, num_heads=(1, 2, 2, 4)), torch.rand(2, 3, 224, 224))
    assert [(layer.number, layer.grid) for layer in swin.layers] == [(10, (7, 7)), (11, (7, 7))]
    with pytest.raises(UserError, match="attends within windows.*10 to 11"):
        swin.layer(3)
    with pytest.raises(UserError, match="within windows"):
        attention_maps(create_model("swin_tiny", dim=24, num_heads=(1, 2, 2, 4)), torch.rand(1, 3, 96, 96))
    pvt = attention_maps(create_model("pvt_v2_b0"), torch.rand(1, 3, 64, 64))
    assert len(pvt.layers) == pvt.num_layers and {layer.grid for layer in pvt.layers} == {(2, 2)}
    assert pvt.layers[0].among_patches is None and pvt.layers[-1].among_patches is not None
    torch.testing.assert_close(pvt.layers[0].class_map().flatten(2), pvt.layers[0].weights.mean(2))


def test_the_model_is_left_as_it_was(vit):
    vit.train()
    vit.blocks[1].eval()
    before = [module.training for module in vit.modules()]
    attention_maps(vit, IMAGES)
    assert [module.training for module in vit.modules()] == before
    vit.eval()


def test_a_net_without_attention_is_refused_and_says_so():
    model = create_model("resnet20", num_classes=3)
    with pytest.raises(UserError, match="has no attention"):
        attention_maps(model, torch.rand(1, 3, 32, 32))
    for method in (ClassAttention(), Rollout(), Distance(), Positions()):
        assert "has no" in method.problem(model, torch.zeros(1, 3, 32, 32))


def test_the_method_shows_one_head_or_the_mean(vit):
    layer = attention_maps(vit, IMAGES).layers[1]
    found = ClassAttention(layer=1, head=2)(vit, IMAGES)
    torch.testing.assert_close(found.heat, layer.weights[:, 2, 0, 1:].reshape(2, 4, 4))
    torch.testing.assert_close(ClassAttention(layer=-2)(vit, IMAGES).heat, layer.class_map().mean(1))
    assert found.tile_names == ("head 0", "head 1", "head 2", "head 3") and found.tiles.shape == (2, 4, 4, 4)
    with pytest.raises(UserError, match="has 4 heads"):
        ClassAttention(head=4)(vit, IMAGES)


# -- rollout -------------------------------------------------------------------------------------------------------


def test_rollout_is_the_product_on_three_tokens_by_hand():
    first = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0.5, 0.5]])
    second = np.array([[0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]])
    by_hand = (0.5 * second + 0.5 * np.eye(3)) @ (0.5 * first + 0.5 * np.eye(3))
    weights = [torch.tensor(a)[None, None] for a in (first, second)]
    np.testing.assert_allclose(attention_rollout(weights)[0].numpy(), by_hand, rtol=1e-14)
    np.testing.assert_allclose(by_hand[0], [0.55, 0.325, 0.125])


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.6])
def test_rollout_of_a_real_net_is_numpys(vit, fusion: str, discard: float):
    weights = [layer.weights for layer in attention_maps(vit, IMAGES).layers]
    expected = np.broadcast_to(np.eye(17), (2, 17, 17))
    for layer in weights:
        fused = getattr(np, fusion)(layer.numpy(), axis=1)
        kept = fused.copy()
        for image, row in itertools.product(range(2), range(17)):
            kept[image, row, np.argsort(fused[image, row])[:int(discard * 17)]] = 0
        mixed = 0.5 * kept + 0.5 * np.eye(17)
        expected = mixed / mixed.sum(-1, keepdims=True) @ expected
    rolled = attention_rollout(weights, fusion=fusion, discard=discard)
    np.testing.assert_allclose(rolled.numpy(), expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 17, dtype=torch.float64))
    found = Rollout(fusion=fusion, discard=discard)(vit, IMAGES)
    np.testing.assert_allclose(found.heat.numpy(), expected[:, 0, 1:].reshape(2, 4, 4), rtol=1e-10)
    assert found.tiles.shape == (2, 3, 4, 4) and torch.equal(found.tiles[:, -1], found.heat)
    shorter = Rollout(fusion=fusion, discard=discard, layer=1)(vit, IMAGES)
    torch.testing.assert_close(shorter.heat, found.tiles[:, 1])


def test_rollout_of_cait_follows_the_class_token_back_to_the_patches():
    model = build("cait_xxs24", **MODELS["cait_xxs24"].tiny)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    maps = attention_maps(model, images)
    patches = [layer for layer in maps.layers if layer.weights.shape[2] > 1]
    classes = [layer for layer in maps.layers if layer.weights.shape[2] == 1]
    among = attention_rollout([layer.weights for layer in patches])[0]  # of patches alone
    row = np.eye(1, 1 + len(among))[0]  # what the class token holds of [itself, patches as they enter class attention]
    for layer in classes:
        asked = layer.weights[0].clamp(min=0).mean(0)[0].numpy()
        row = 0.5 * asked + 0.5 * row if layer is classes[0] else 0.5 * (asked[0] * row + asked * (
            np.arange(len(row)) > 0)) + 0.5 * row
    expected = row[1:] @ among.numpy()
    found = Rollout()(model, images).heat[0].flatten().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert [weights.shape[-2:] for weights in whole_layers(maps)] == [(17, 17)] * maps.num_layers


def test_rollout_refuses_pyramids_and_wrong_options(vit):
    with pytest.raises(UserError, match="rollout multiplies"):
        Rollout()(create_model("pvt_v2_b0"), torch.rand(1, 3, 64, 64))
    weights = [torch.full((1, 1, 2, 2), 0.5)]
    with pytest.raises(UserError, match="fusion"):
        attention_rollout(weights, fusion="median")
    with pytest.raises(UserError, match="discard"):
        list(rollout_steps(weights, discard=1.0))


# -- distance ------------------------------------------------------------------------------------------------------


def test_distance_is_that_of_loops():
    height, width, patch = 2, 3, 7.0
    weights = torch.rand(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attention_distance(weights, (height, width), patch)
    for image, head in itertools.product(range(2), range(4)):
        total = 0.0
        for query in range(6):
            row = weights[image, head, query] / weights[image, head, query].sum()
            for key in range(6):
                (y, x), (v, u) = divmod(query, width), divmod(key, width)
                total += float(row[key]) * patch * math.hypot(y - v, x - u)
        assert float(found[image, head]) == pytest.approx(total / 6, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5, 14])
def test_distance_of_uniform_attention_has_a_closed_form(count: int):
    """On a line of n places the mean of |i - j| is (n^2 - 1) / (3 n)."""
    weights = torch.full((1, 1, count, count), 1 / count, dtype=torch.float64)
    expected = 16 * (count**2 - 1) / (3 * count)
    assert float(attention_distance(weights, (1, count), 16.0)) == pytest.approx(expected, rel=1e-12)
    assert uniform_distance((count, 1), 16.0) == pytest.approx(expected, rel=1e-12)
    assert float(attention_distance(torch.eye(count)[None, None], (count, 1), 16.0)) == 0


def test_the_method_gives_each_layer_its_heads(vit):
    found = Distance()(vit, IMAGES)
    assert [one.layer for one in found.distances] == [0, 1, 2]
    patches = attention_maps(vit, IMAGES).layers[2].weights[:, :, 1:, 1:]
    torch.testing.assert_close(found.distances[2].pixels, attention_distance(patches, (4, 4), 8.0).mean(0))
    assert found.uniform_px == uniform_distance((4, 4), 8.0)


# -- positions -----------------------------------------------------------------------------------------------------


def test_similarity_is_the_cosine_in_the_place_of_the_grid():
    model = create_model("vit_tiny_16", **VIT)
    similarity = position_similarity(model)
    table = model.pos_embed.detach().double().numpy()[0, 1:]
    assert similarity.shape == (4, 4, 4, 4)
    for i, j, k, m in ((0, 0, 0, 0), (1, 2, 3, 0), (3, 3, 0, 1), (2, 1, 2, 1)):
        a, b = table[4 * i + j], table[4 * k + m]
        assert float(similarity[i, j, k, m]) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize("name, config", [
    ("vit_tiny_16", {**VIT, "registers": 4}), ("vit_tiny_16", {**VIT, "positions": "learned_2d"}),
    ("vit_tiny_16", {**VIT, "positions": "sincos"}), ("deit_tiny_distilled_16", VIT),
    ("cait_xxs24", MODELS["cait_xxs24"].tiny), ("deit3_small_16", MODELS["deit3_small_16"].tiny),
])
def test_every_grid_of_positions_has_a_similarity(name: str, config: dict):
    similarity = position_similarity(create_model(name, num_classes=5, **config))
    side = similarity.shape[0]
    assert similarity.shape == (side,) * 4
    flat = similarity.reshape(side**2, side**2)
    torch.testing.assert_close(flat, flat.T)
    torch.testing.assert_close(flat.diagonal(), torch.ones(side**2))


def test_sincos_positions_depend_on_the_offset_alone():
    similarity = position_similarity(create_model("vit_tiny_16", **{**VIT, "positions": "sincos"}))
    for i, j, k, m in itertools.product(range(4), repeat=4):
        assert float(similarity[i, j, k, m]) == pytest.approx(float(similarity[0, 0, abs(i - k), abs(j - m)]), abs=1e-6)
    assert float(similarity[0, 0, 0, 1]) > float(similarity[0, 0, 0, 2]) > 0


@pytest.mark.parametrize("positions", ["relative", "rotary", "none"])
def test_positions_that_are_no_embedding_are_refused(positions: str):
    model = create_model("vit_tiny_16", **{**VIT, "positions": positions})
    with pytest.raises(UserError, match="no embedding of positions"):
        position_similarity(model)
    with pytest.raises(UserError, match="no embedding of positions"):
        position_similarity(create_model("swin_tiny", dim=24, num_heads=(1, 2, 2, 4)))


# -- every family --------------------------------------------------------------------------------------------------


FAMILIES = {p.family: name for name, p in sorted(passports().items(), reverse=True)
            if p.module.startswith("visus.models.vit.") and name in MODELS}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_explained_or_says_why_not(family: str):
    name = FAMILIES[family]
    model = create_model(name, num_classes=5, **MODELS[name].tiny)
    side = getattr(model.config, "image_size", 64)
    images = torch.rand(2, model.config.in_channels, side, side)
    attention = ClassAttention()
    if attention.problem(model, images) is None:
        heat = attention(model, images).heat
        assert heat.shape[0] == 2 and torch.isfinite(heat).all() and float(heat.sum()) > 0
    for method in (attention, Rollout(), Distance(), Positions()):
        problem = method.problem(model, images)
        assert problem is None or re.search("has no|within windows|rollout multiplies", problem), problem
        if problem is None:
            assert method(model, images).sentence
