"""Attention inside a ConvNet: the papers' equations, written out place by place, and where the blocks stand."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.foundations.attention import attention_forward
from visus.layers.map_attention import KINDS, NonLocal, SelfAttention2d
from visus.models.cnn.nonlocal_resnet import VARIANTS, NonLocalResNet, NonLocalResNetConfig
from visus.ops.attention import seen_attention
from visus.run.models import create_model, load_weights

SMALL = {"depths": (1, 1, 1, 1), "places": ((), (0,), (0,), ()), "num_classes": 3}


def conv(layer: nn.Conv2d, places: np.ndarray) -> np.ndarray:
    """A 1 x 1 convolution of rows [N, C]."""
    out = places @ layer.weight.detach().numpy()[:, :, 0, 0].T
    return out if layer.bias is None else out + layer.bias.detach().numpy()


def maxima(rows: np.ndarray, side: int) -> np.ndarray:
    """2 x 2 maxima of a square map whose places are rows."""
    return rows.reshape(side // 2, 2, side // 2, 2, -1).max(axis=(1, 3)).reshape(-1, rows.shape[-1])


def lively(block: nn.Module) -> nn.Module:
    """In eval and float64, with no parameter or statistic at a value that hides it."""
    torch.manual_seed(0)
    block.double().eval()
    for tensor in (*block.parameters(), *block.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.0) if tensor.ndim <= 1 else nn.init.normal_(tensor, std=0.5)
    return block


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_non_local_block_is_the_papers_sum_over_places(kind, subsample):
    block = lively(NonLocal(6, 4, kind, subsample))
    image = torch.rand(2, 6, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        found = block(image)
    for x, out in zip(image.flatten(2).transpose(1, 2).numpy(), found.flatten(2).transpose(1, 2), strict=True):
        theta, phi = (x, x) if kind == "gaussian" else (conv(block.theta, x), conv(block.phi, x))
        g = conv(block.g, x)
        if subsample:
            phi, g = maxima(phi, 4), maxima(g, 4)
        pairs = np.zeros((16, len(phi)))
        for i in range(16):
            for j in range(len(phi)):
                if kind == "concatenation":
                    joined = np.concatenate([theta[i], phi[j]])
                    pairs[i, j] = max(block.w_f.weight.detach().numpy()[0] @ joined, 0)
                else:
                    pairs[i, j] = theta[i] @ phi[j] if kind == "dot_product" else np.exp(theta[i] @ phi[j])
        total = pairs.sum(axis=1, keepdims=True) if "gaussian" in kind else len(phi)
        bn = [t.detach().numpy() for t in (block.bn.weight, block.bn.bias, block.bn.running_mean, block.bn.running_var)]
        z = conv(block.w_z, pairs @ g / total)
        expected = x + (z - bn[2]) / np.sqrt(bn[3] + block.bn.eps) * bn[0] + bn[1]
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("subsample", [False, True])
def test_sagans_block_is_the_foundations_attention(subsample):
    block = lively(SelfAttention2d(16, subsample))
    image = torch.rand(1, 16, 4, 4, dtype=torch.float64)
    x = image[0].flatten(1).T.numpy()
    f, g, h = (conv(layer, x) for layer in (block.f, block.g, block.h))
    if subsample:
        f, h = maxima(f, 4), maxima(h, 4)
    mixed, _ = attention_forward(g * np.sqrt(g.shape[1]), f, h)  # the foundations divide by the root, SAGAN does not
    expected = x + block.gamma.item() * conv(block.v, mixed)
    np.testing.assert_allclose(block(image)[0].flatten(1).T.detach().numpy(), expected, rtol=1e-10)
    assert h.shape == ((4, 8) if subsample else (16, 2))


@pytest.mark.parametrize("kind", [*KINDS, "sagan"])
def test_a_new_block_is_the_identity_and_learns(kind):
    block, maps = SelfAttention2d(8) if kind == "sagan" else NonLocal(8, 4, kind), torch.rand(2, 8, 4, 4)
    assert torch.equal(block(maps), maps)
    block(maps).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_places_may_be_permuted(kind):
    """A block knows no positions: what it gives moves with the places that it is given."""
    block, maps = lively(NonLocal(6, 4, kind)), torch.rand(1, 6, 3, 3, dtype=torch.float64)
    order = torch.randperm(9)
    moved = maps.flatten(2)[..., order].unflatten(2, (3, 3))
    torch.testing.assert_close(block(moved).flatten(2), block(maps).flatten(2)[..., order])


def test_an_embedded_gaussian_block_equals_timms():
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    peer = importlib.import_module("timm.layers.non_local_attn").NonLocalAttn
    theirs = lively(peer(16, use_scale=False, rd_ratio=0.5))
    nn.init.zeros_(theirs.z.bias)  # ours has none before the norm
    ours = NonLocal(16, 8).double().eval()
    names = {"t": "theta", "p": "phi", "g": "g", "z": "w_z", "norm": "bn"}
    state = {f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}": t for key, t in theirs.state_dict().items()}
    ours.load_state_dict({key: tensor for key, tensor in state.items() if key != "w_z.bias"})
    maps = torch.rand(2, 16, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-12, atol=1e-12)


def test_blocks_stand_where_the_paper_puts_them():
    """Section 4.1: one before the last block of res4; five at every other block of res3 and res4; ten at each."""
    with on_meta():
        placed = {name: list(create_model(name).attention) for name in VARIANTS}
    assert placed["nonlocal_resnet50_1"] == ["3_4"]
    assert placed["nonlocal_resnet50_5"] == ["2_1", "2_3", "3_1", "3_3", "3_5"]
    assert placed["nonlocal_resnet50_10"] == [f"2_{i}" for i in range(4)] + [f"3_{i}" for i in range(6)]


def test_a_resnets_weights_load_and_give_the_resnets_outputs():
    plain = create_model("resnet50", depths=(1, 1, 1, 1), num_classes=3).eval()
    model = create_model("nonlocal_resnet50_1", **SMALL).eval()
    notes = load_weights(model, plain.state_dict(), origin="torchvision")
    assert notes == ["the weights have no attention; 2 attention block(s) start fresh"]
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images))
    assert load_weights(model, model.state_dict()) == []


@pytest.mark.parametrize("kind", [*KINDS, "sagan"])
def test_attention_can_be_seen(kind):
    model = NonLocalResNet(NonLocalResNetConfig(**SMALL, kind=kind, start=0.5)).double().eval()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        fused = model(images)
        with seen_attention() as seen:
            torch.testing.assert_close(model(images), fused, rtol=1e-10, atol=1e-10)
    assert [tuple(weights.shape) for weights in seen] == [(1, 1, 64, 64), (1, 1, 16, 16)]


@pytest.mark.parametrize(("field", "value"), [("places", ((), (), (6,), ())), ("places", ((), (), (1, 1), ())),
                                              ("places", ((), ())), ("depths", (3, 4, 6)), ("kind", "laplacian"),
                                              ("subsample", 1), ("start", "0")])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        NonLocalResNetConfig(**{field: value})


def test_an_image_without_room_for_maxima_is_refused():
    model = NonLocalResNet(NonLocalResNetConfig(**SMALL, subsample=True)).eval()
    with pytest.raises(UserError, match="at least 17 pixels"):
        model(torch.zeros(1, 3, 16, 16))
    model(torch.zeros(1, 3, 17, 17))
