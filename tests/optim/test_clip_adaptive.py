"""Adaptive gradient clipping against the paper's equation and timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.optim.clip import adaptive_clip, clipped_parameters

SHAPES = ((7, 5), (3,), (), (6, 4, 3, 3), (5, 1, 1, 1), (4, 2))


def with_gradients(scale: float, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    for p in parameters[:-1]:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(dtype)
    with torch.no_grad():
        parameters[0][2] = 0  # a unit without weights: the floor holds
    return parameters


@pytest.mark.parametrize("scale", [1e-8, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("limit", [0.01, 0.16])
def test_gradients_equal_timms(scale, limit):
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.utils.agc import adaptive_clip_grad

    ours, theirs = with_gradients(scale), with_gradients(scale)
    adaptive_clip(ours, limit)
    adaptive_clip_grad(theirs, clip_factor=limit)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=0)
    assert ours[-1].grad is None


def test_every_unit_ends_at_the_limit_that_its_weights_set_or_keeps_its_bits():
    """Equation 3: |G_i| <= lambda max(|W_i|, eps), by loops over the units."""
    limit, eps = 0.05, 1e-3
    parameters = with_gradients(0.05)
    before = [p.grad.clone() for p in parameters[:-1]]
    adaptive_clip(parameters, limit, eps)
    clipped = kept = 0
    for p, old in zip(parameters[:-1], before, strict=True):
        units = [(p, old, p.grad)] if p.ndim < 2 else list(zip(p, old, p.grad, strict=True))
        for weights, was, now in units:
            allowed = limit * max(weights.detach().square().sum().sqrt().item(), eps)
            norm = was.square().sum().sqrt().item()
            if norm <= allowed:
                assert torch.equal(now, was)
                kept += 1
            else:
                torch.testing.assert_close(now, was * (allowed / norm), rtol=1e-12, atol=0)
                clipped += 1
    assert clipped > 3 and kept > 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_are_summed_in_single(dtype):
    parameter = nn.Parameter(torch.ones(2, 4096, dtype=dtype))
    parameter.grad = torch.full((2, 4096), 2000.0, dtype=dtype)  # |G| = 128000, past float16
    adaptive_clip([parameter], 0.01)
    assert parameter.grad.dtype == dtype
    torch.testing.assert_close(parameter.grad.float(), torch.full((2, 4096), 0.01), rtol=1e-2, atol=0)


def test_a_gradient_that_is_not_finite_stays_so_and_others_are_clipped():
    parameters = with_gradients(1.0)
    parameters[0].grad[1, 1] = float("nan")
    adaptive_clip(parameters, 0.01)
    assert parameters[0].grad[1].isnan().any() and parameters[0].grad[0].isfinite().all()
    assert parameters[3].grad.norm() < 1


def test_the_classifier_and_what_is_frozen_are_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 1), nn.Linear(4, 2))
    model[1].bias.requires_grad_(False)
    assert [id(p) for p in clipped_parameters(model)] == [id(model[0].weight), id(model[0].bias), id(model[1].weight)]
    adaptive_clip([], 0.01)
