"""Unpooling and interpolation against torch in float64; the bilinear filter against interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import upsampling as U
from visus.foundations.convolution import max_pool_backward, max_pool_forward, transposed_convolution_forward
from visus.foundations.gradient_check import check_gradient

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5, 4))


@pytest.mark.parametrize(("kind", "align"), [("nearest", False), ("bilinear", False), ("bilinear", True),
                                             ("bicubic", False), ("bicubic", True)])
@pytest.mark.parametrize("size", [(10, 8), (7, 9), (5, 4), (3, 2), (1, 1), (13, 3)])
def test_interpolation_equals_torch_and_differences(kind, align, size):
    out, cache = U.resize_forward(X, size, kind, align)
    tensor = torch.tensor(X, requires_grad=True)
    expected = F.interpolate(tensor, size, mode=kind, align_corners=None if kind == "nearest" else align)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    dx = U.resize_backward(dout, cache)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), **CLOSE)
    assert check_gradient(lambda v: U.resize_forward(v, size, kind, align)[0], X.copy(), dx, dout,
                          rng=RNG, floor=1e-4).error < 1e-7


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 3, 0), (2, 3, 0), (3, 3, 1)])
def test_unpooling_equals_torch_and_is_the_adjoint_of_pooling(size, stride, padding):
    x = RNG.normal(size=(2, 3, 9, 8))
    pooled, switches = max_pool_forward(x, size, stride, padding)
    tensor, indices = F.max_pool2d(torch.tensor(x), size, stride, padding, return_indices=True)
    values = tensor.clone().requires_grad_()
    expected = F.max_unpool2d(values, indices, size, stride, padding, output_size=x.shape)
    out, cache = U.max_unpool_forward(pooled, switches)
    np.testing.assert_array_equal(out, expected.detach().numpy())
    np.testing.assert_array_equal(out, max_pool_backward(pooled, switches))
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    np.testing.assert_array_equal(U.max_unpool_backward(dout, cache), values.grad.numpy())
    assert check_gradient(lambda v: U.max_unpool_forward(v, switches)[0], pooled, U.max_unpool_backward(dout, cache),
                          dout, rng=RNG).error < 1e-7


def test_bed_of_nails_is_a_transposed_convolution_with_a_filter_of_one():
    out, cache = U.bed_of_nails_forward(X, 3)
    kernel = torch.zeros(3, 1, 3, 3, dtype=torch.float64)
    kernel[:, :, 0, 0] = 1
    np.testing.assert_array_equal(out, F.conv_transpose2d(torch.tensor(X), kernel, stride=3, groups=3).numpy())
    dout = RNG.normal(size=out.shape)
    dx = U.bed_of_nails_backward(dout, cache)
    assert check_gradient(lambda v: U.bed_of_nails_forward(v, 3)[0], X.copy(), dx, dout, rng=RNG).error < 1e-7


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8])
def test_a_transposed_convolution_with_the_bilinear_filter_interpolates(factor):
    """Away from the border; at it the convolution meets zeros."""
    w, padding = U.bilinear_weights(3, factor), -(-(factor - 1) // 2)
    out, _ = transposed_convolution_forward(X, w, np.zeros(3), stride=factor, padding=padding)
    expected = F.interpolate(torch.tensor(X), scale_factor=factor, mode="bilinear").numpy()
    assert out.shape == expected.shape
    rim = factor
    np.testing.assert_allclose(out[:, :, rim:-rim, rim:-rim], expected[:, :, rim:-rim, rim:-rim], **CLOSE)


def test_the_bilinear_filter_of_two_is_the_published_one():
    """Long et al. 2015 (Caffe's bilinear filler): outer product of 1/4, 3/4, 3/4, 1/4."""
    np.testing.assert_allclose(U.bilinear_filter(2), np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]))


def test_keys_cubic_reproduces_straight_lines_and_its_rows_add_up_to_one():
    for kind in ("bilinear", "bicubic", "nearest"):
        np.testing.assert_allclose(U.interpolation_matrix(6, 15, kind).sum(axis=1), 1, rtol=1e-12)
    ramp = U.interpolation_matrix(8, 16, "bilinear") @ np.arange(8.0)
    np.testing.assert_allclose(ramp[1:-1], (np.arange(16) + 0.5)[1:-1] / 2 - 0.5, rtol=1e-12)
    np.testing.assert_allclose(U.keys_cubic(np.arange(-3.0, 4.0)), [0, 0, 0, 1, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda: U.max_unpool_forward(*max_pool_forward(X, 3, 1)), "overlap"),
    (lambda: U.max_unpool_forward(X, max_pool_forward(X, 2, 2)[1]), "for switches of shape"),
    (lambda: U.bed_of_nails_forward(X, 0), "factor is 0"), (lambda: U.bilinear_filter(1.5), "factor is 1.5"),
    (lambda: U.interpolation_matrix(3, 0, "nearest"), "at least 1"),
    (lambda: U.interpolation_matrix(3, 6, "lanczos"), "nearest, bilinear or bicubic"),
])
def test_what_cannot_be_is_said(wrong, said):
    with pytest.raises(UserError, match=said):
        wrong()
