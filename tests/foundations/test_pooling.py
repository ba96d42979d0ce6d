"""Lp and fractional max pooling against torch in float64 and against differences; the regions against their rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import pooling as P
from visus.foundations.convolution import max_pool_forward
from visus.foundations.gradient_check import check_gradient

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 9, 8))


@pytest.mark.parametrize(("size", "stride", "p"), [(2, 2, 2.0), (3, 2, 2.0), (3, 1, 4.0), (2, 3, 1.0), (3, 3, 3.0)])
def test_lp_pooling_equals_torch_and_differences(size, stride, p):
    x = np.abs(X) + 0.1 if p % 2 else X.copy()  # torch leaves the magnitude out
    out, cache = P.lp_pool_forward(x, size, stride, p)
    tensor = torch.tensor(x, requires_grad=True)
    expected = F.lp_pool2d(tensor, p, size, stride)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    dx = P.lp_pool_backward(dout, cache)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), **CLOSE)
    assert check_gradient(lambda v: P.lp_pool_forward(v, size, stride, p)[0], x, dx, dout, rng=RNG).error < 1e-7


def test_lp_pooling_of_negative_numbers_takes_their_magnitude():
    out, cache = P.lp_pool_forward(X, 2, 2, 3.0)
    assert (out > 0).all()
    dout = np.ones_like(out)
    dx = P.lp_pool_backward(dout, cache)
    assert check_gradient(lambda v: P.lp_pool_forward(v, 2, 2, 3.0)[0], X.copy(), dx, dout, rng=RNG).error < 1e-7


def test_large_p_nears_the_maximum_and_zeros_have_gradient_zero():
    positive = np.abs(X)
    np.testing.assert_allclose(P.lp_pool_forward(positive, 2, 2, 200.0)[0], max_pool_forward(positive, 2, 2)[0],
                               rtol=0.01)
    out, cache = P.lp_pool_forward(np.zeros((1, 1, 4, 4)), 2, 2)
    assert not out.any() and not P.lp_pool_backward(np.ones_like(out), cache).any()
    out, cache = P.lp_pool_forward(np.zeros((1, 1, 4, 4)), 2, 2, 1.0)
    assert not P.lp_pool_backward(np.ones_like(out), cache).any()


@pytest.mark.parametrize(("out", "width"), [((6, 5), 2), ((5, 5), 3), ((9, 8), 1), ((1, 1), 9), ((4, 7), 2)])
def test_spaced_regions_are_torchs_fractional_pooling(out, width):
    width = min(width, 8)
    for seed in range(3):
        u = np.random.default_rng(seed).random(2)
        rows, columns = P.spaced_regions(9, out[0], width, u[1]), P.spaced_regions(8, out[1], width, u[0])
        ours, cache = P.region_max_pool_forward(X, rows, columns)
        tensor = torch.tensor(X, requires_grad=True)
        samples = torch.tensor(np.tile(u, (2, 3, 1)))
        expected = F.fractional_max_pool2d(tensor, width, output_size=out, _random_samples=samples)
        np.testing.assert_array_equal(ours, expected.detach().numpy())
        dout = RNG.normal(size=ours.shape)
        expected.backward(torch.tensor(dout))
        np.testing.assert_allclose(P.region_max_pool_backward(dout, cache), tensor.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("count", [18, 20, 25, 27, 35, 36])
def test_both_kinds_of_edges_step_by_one_or_two_from_end_to_end(count):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for edges in (P.random_edges(36, count, rng), P.pseudorandom_edges(36, count, 1 - rng.random())):
            assert len(edges) == count + 1 and edges[0] == 0 and edges[-1] == 36
            assert set(np.diff(edges)) <= {1, 2}


def test_pseudorandom_edges_are_grahams_formula():
    """arXiv:1412.6071: a_i = ceil(alpha (i + u)); at 25 -> 18 and u = 0.4."""
    plain = np.ceil(25 / 18 * (np.arange(19) + 0.4)).astype(int)
    np.testing.assert_array_equal(P.pseudorandom_edges(25, 18, 0.4), plain - plain[0])


def test_pseudorandom_steps_are_spread_more_evenly_than_random_ones():
    """Sums of five neighbouring steps differ by at most one."""
    for u in np.linspace(0.01, 0.99, 25):
        sums = np.convolve(np.diff(P.pseudorandom_edges(36, 25, u)), np.ones(5), "valid")
        assert sums.max() - sums.min() <= 1
    steps = np.diff(P.random_edges(36, 25, np.random.default_rng(0)))
    assert np.ptp(np.convolve(steps, np.ones(5), "valid")) > 1


def test_regions_cover_every_place_once_or_share_the_edge():
    edges = P.random_edges(9, 6, np.random.default_rng(1))
    counts = np.zeros(9, int)
    for start, stop in P.disjoint_regions(edges):
        counts[start:stop] += 1
    assert (counts == 1).all()
    edges = P.random_edges(8, 6, np.random.default_rng(1))
    regions = P.overlapping_regions(edges)
    assert regions[0, 0] == 0 and regions[-1, 1] == 9 and (regions[1:, 0] == regions[:-1, 1] - 1).all()


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("pseudorandom", [True, False])
def test_fractional_max_pooling_equals_loops_and_differences(overlapping, pseudorandom):
    def pooled(v):
        return P.fractional_max_pool_forward(v, (6, 5), np.random.default_rng(3), overlapping=overlapping,
                                             pseudorandom=pseudorandom)

    out, cache = pooled(X)
    rng, regions = np.random.default_rng(3), []
    for side, count in ((9, 6), (8, 5)):
        length = side - overlapping
        edges = P.pseudorandom_edges(length, count, 1 - rng.random()) if pseudorandom else \
            P.random_edges(length, count, rng)
        regions.append([(a, b + overlapping) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    for i, (top, bottom) in enumerate(regions[0]):
        for j, (left, right) in enumerate(regions[1]):
            np.testing.assert_array_equal(out[:, :, i, j], X[:, :, top:bottom, left:right].max(axis=(2, 3)))
    dout = RNG.normal(size=out.shape)
    dx = P.fractional_max_pool_backward(dout, cache)
    found = check_gradient(lambda v: pooled(v)[0], X.copy(), dx, dout, rng=RNG,
                           winners=lambda v: np.stack(np.broadcast_arrays(*pooled(v)[1][1:])))
    assert found.error < 1e-7


def test_the_first_of_equals_wins():
    out, (_, row, column) = P.region_max_pool_forward(np.ones((1, 1, 4, 4)), np.array([[0, 3]]), np.array([[1, 4]]))
    assert out.item() == 1 and row.item() == 0 and column.item() == 1


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda: P.lp_pool_forward(X, 2, 2, 0.5), "p is 0.5"), (lambda: P.random_edges(9, 4, RNG), "cannot cover 9"),
    (lambda: P.pseudorandom_edges(9, 10, 0.5), "cannot cover 9"), (lambda: P.spaced_regions(4, 2, 5, 0), "in 4"),
    (lambda: P.region_max_pool_forward(X, np.array([[0, 10]]), np.array([[0, 1]])), "0 <= from < to <= 9"),
])
def test_what_cannot_be_is_said(wrong, said):
    with pytest.raises(UserError, match=said):
        wrong()
