"""Attention: the fused path, the open path and the NumPy foundations compute the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.rows_models import MODELS
from visus.ops.attention import attend, attention_weights, seen_attention
from visus.run.models import create_model

SIGHTED = ("vit_tiny_16", "deit_tiny_16", "cait_xxs24", "swin_tiny", "swin_v2_tiny", "pvt_v2_b0", "mvit_v2_tiny",
           "cvt_13", "pvt_tiny", "mvit_base_16", "coatnet_0", "vit_base_r50_s16", "nonlocal_resnet50_1",
           "self_attention_resnet50", "sasa_resnet26",
           "dinov2_small_14_reg", "clip_vit_base_16", "dino_small_16", "mae_base_16", "sam_vit_base_16")


@pytest.mark.parametrize("bias_shape", [None, (5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_both_paths_give_the_same_values_and_gradients(bias_shape, scale):
    torch.manual_seed(0)
    shapes = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    if bias_shape:
        inputs.append(torch.randn(bias_shape, dtype=torch.float64, requires_grad=True))
    fused = attend(*inputs, scale=scale)
    with seen_attention() as seen:
        opened = attend(*inputs, scale=scale)
    assert [weights.shape for weights in seen] == [(2, 3, 5, 7)]
    torch.testing.assert_close(opened, fused, rtol=1e-12, atol=1e-12)
    by_hand = torch.autograd.grad(opened.square().sum(), inputs)
    for mine, theirs in zip(by_hand, torch.autograd.grad(fused.square().sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_weights_are_equation_1s():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(4, 8)), rng.normal(size=(6, 8))
    scores = np.exp(q @ k.T / np.sqrt(8))
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(attention_weights(torch.tensor(q), torch.tensor(k)).numpy(), expected, rtol=1e-12)


def test_weights_are_gathered_inside_only_and_the_outer_list_comes_back():
    q = torch.randn(1, 1, 2, 4)
    with seen_attention() as outer:
        with seen_attention() as inner:
            attend(q, q, q)
        assert (len(outer), len(inner)) == (0, 1)
        attend(q, q, q)
        assert len(outer) == 1
    with pytest.raises(ZeroDivisionError), seen_attention():
        raise ZeroDivisionError
    attend(q, q, q)
    assert len(outer) == 1
    torch.testing.assert_close(attend(q, q, q), F.scaled_dot_product_attention(q, q, q))


@pytest.mark.parametrize("name", SIGHTED)
def test_a_model_computes_the_same_when_its_attention_is_seen(name: str):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **MODELS[name].tiny).eval().double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        fused = model(images)
        with seen_attention() as seen:
            opened = model(images)
    assert seen
    torch.testing.assert_close(opened, fused, rtol=1e-10, atol=1e-10)
    for weights in seen:
        assert weights.ndim == 4
        if name != "cait_xxs24":  # whose heads mix their weights after the softmax
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
