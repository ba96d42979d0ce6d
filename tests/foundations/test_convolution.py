"""Every way to convolve against torch in float64, its gradients too; pooling, the transpose and the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import convolution as C
from visus.foundations.gradient_check import check_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 9, 8))
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
# kernel, stride, padding, dilation
GEOMETRIES = [((3, 3), 1, 0, 1), ((3, 3), 1, 1, 1), ((3, 3), 2, 1, 1), ((1, 1), 1, 0, 1), ((5, 2), 3, 2, 1),
              ((3, 3), 1, 2, 2), ((2, 3), 2, 1, 3), ((1, 4), 2, 3, 1), ((9, 8), 1, 0, 1)]


def problem(kernel, stride, padding, dilation):
    random = np.random.default_rng(1)
    w, b = random.normal(size=(4, 3, *kernel)), random.normal(size=4)
    tensors = [torch.tensor(v, requires_grad=True) for v in (X, w, b)]
    expected = F.conv2d(*tensors, stride=stride, padding=padding, dilation=dilation)
    dout = random.normal(size=tuple(expected.shape))
    expected.backward(torch.tensor(dout))
    return w, b, dout, expected.detach().numpy(), [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_loops_im2col_fft_and_matrix_equal_torch(geometry):
    w, b, dout, expected, grads = problem(*geometry)
    _, stride, padding, dilation = geometry
    out, cache = C.convolution_forward(X, w, b, stride, padding, dilation)
    np.testing.assert_allclose(out, expected, **CLOSE)
    np.testing.assert_allclose(C.convolution_naive(X, w, b, stride, padding, dilation), expected, **CLOSE)
    np.testing.assert_allclose(C.convolution_fft(X, w, b, stride, padding, dilation), expected, **CLOSE)
    for ours in (C.convolution_backward(dout, cache),
                 C.convolution_naive_backward(dout, X, w, stride, padding, dilation)):
        for mine, theirs in zip(ours, grads, strict=True):
            np.testing.assert_allclose(mine, theirs, **CLOSE)
    matrix = C.convolution_matrix(w, X.shape[2:], stride, padding, dilation)
    for n in range(2):
        flat = matrix @ X[n].ravel()
        np.testing.assert_allclose(flat, (expected[n] - b[:, None, None]).ravel(), **CLOSE)
        np.testing.assert_allclose(matrix.dense() @ X[n].ravel(), flat, **CLOSE)
        np.testing.assert_allclose(matrix.T @ dout[n].ravel(), grads[0][n].ravel(), **CLOSE)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(9, 8), (8, 8), (7, 9), (3, 3), (4, 5)])
def test_winograd_equals_torch_for_odd_and_even_sizes(size, padding):
    x, w, b = RNG.normal(size=(2, 3, *size)), RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=4)
    expected = F.conv2d(*map(torch.tensor, (x, w, b)), padding=padding).numpy()
    np.testing.assert_allclose(C.convolution_winograd(x, w, b, padding), expected, **CLOSE)


def test_backward_equals_numeric_gradients():
    w, b, dout, _, _ = problem((3, 2), 2, 1, 2)
    operands = [X.copy(), w, b]
    ours = C.convolution_backward(dout, C.convolution_forward(X, w, b, 2, 1, 2)[1])
    for i, mine in enumerate(ours):
        found = check_gradient(
            lambda v, i=i: C.convolution_forward(*[v if j == i else o for j, o in enumerate(operands)], 2, 1, 2)[0],
            operands[i], mine, dout, rng=np.random.default_rng(2), floor=1e-3)
        assert found.error < 1e-7, found


def test_col2im_is_the_adjoint_of_im2col():
    columns = C.im2col(X, (3, 2), 2, 1, 2)
    other = np.random.default_rng(3).normal(size=columns.shape)
    assert np.sum(columns * other) == pytest.approx(np.sum(X * C.col2im(other, X.shape, (3, 2), 2, 1, 2)), rel=1e-12)
    unfolded = F.unfold(torch.tensor(X), (3, 2), stride=2, padding=1, dilation=2)  # [N, C*KH*KW, L]
    assert np.array_equal(columns, unfolded.permute(1, 0, 2).flatten(1).numpy())


@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_and_depthwise_convolution_equal_torch(groups):
    w, b = RNG.normal(size=(6, 3 // groups, 3, 3)), RNG.normal(size=6)
    tensors = [torch.tensor(v, requires_grad=True) for v in (X, w, b)]
    expected = F.conv2d(*tensors, stride=2, padding=1, groups=groups)
    out, cache = C.grouped_convolution_forward(X, w, b, groups, 2, 1)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    for mine, t in zip(C.grouped_convolution_backward(dout, cache), tensors, strict=True):
        np.testing.assert_allclose(mine, t.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("kernel, stride, padding, output_padding",
                         [(3, 1, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (5, 3, 2, 2)])
def test_transposed_convolution_equals_torch_and_the_gradient_of_convolution(kernel, stride, padding, output_padding):
    w, b = RNG.normal(size=(3, 5, kernel, kernel)), RNG.normal(size=5)
    tensors = [torch.tensor(v, requires_grad=True) for v in (X, w, b)]
    expected = F.conv_transpose2d(*tensors, stride=stride, padding=padding, output_padding=output_padding)
    out, cache = C.transposed_convolution_forward(X, w, b, stride, padding, output_padding)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    for mine, t in zip(C.transposed_convolution_backward(dout, cache), tensors, strict=True):
        np.testing.assert_allclose(mine, t.grad.numpy(), **CLOSE)
    back, conv_cache = C.convolution_forward(out, w, np.zeros(3), stride, padding)
    assert back.shape == X.shape
    np.testing.assert_allclose(C.convolution_backward(X, conv_cache)[0], out - b[:, None, None], **CLOSE)


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1)])
def test_pooling_equals_torch_overlaps_and_ties_too(size, stride, padding):
    for x in (X, np.maximum(X, 0), np.round(X)):
        for forward, backward, peer in ((C.max_pool_forward, C.max_pool_backward, F.max_pool2d),
                                        (C.average_pool_forward, C.average_pool_backward, F.avg_pool2d)):
            t = torch.tensor(x, requires_grad=True)
            expected = peer(t, size, stride, padding)
            out, cache = forward(x, size, stride, padding)
            np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
            dout = RNG.normal(size=out.shape)
            expected.backward(torch.tensor(dout))
            np.testing.assert_allclose(backward(dout, cache), t.grad.numpy(), **CLOSE)


def test_max_pooling_passes_the_gradient_check_with_its_winners():
    x = X.copy()
    x[0, 0, 0, 0] = x[0, 0, 0, 1] = 9  # a tie
    out, cache = C.max_pool_forward(x, 2, 2)
    dout = RNG.normal(size=out.shape)
    found = check_gradient(lambda v: C.max_pool_forward(v, 2, 2)[0], x, C.max_pool_backward(dout, cache), dout,
                           rng=RNG, entries=1000, winners=lambda v: C.max_pool_forward(v, 2, 2)[1][1])
    assert found.error < 1e-7 and found.redrawn == 2


def test_global_average_pooling_equals_torch():
    t = torch.tensor(X, requires_grad=True)
    out, cache = C.global_average_pool_forward(X)
    dout = RNG.normal(size=out.shape)
    t.mean((2, 3)).backward(torch.tensor(dout))
    np.testing.assert_allclose(out, X.mean((2, 3)))
    np.testing.assert_allclose(C.global_average_pool_backward(dout, cache), t.grad.numpy(), **CLOSE)


def test_a_convolution_is_a_sparse_matrix_of_few_shared_weights():
    w = RNG.normal(size=(1, 1, 3, 3))
    matrix = C.convolution_matrix(w, (28, 28))
    assert matrix.shape == (26 * 26, 28 * 28)
    assert matrix.density == pytest.approx(9 / 784)
    assert set(matrix.values) == set(w.ravel())


def test_convolution_commutes_with_translation():
    x = np.zeros((1, 1, 16, 16))
    x[:, :, 4:9, 4:9] = RNG.normal(size=(5, 5))
    w, b = RNG.normal(size=(2, 1, 3, 3)), RNG.normal(size=2)
    moved = C.convolution_forward(np.roll(x, (3, 2), (2, 3)), w, b, 1, 1)[0]
    np.testing.assert_allclose(moved, np.roll(C.convolution_forward(x, w, b, 1, 1)[0], (3, 2), (2, 3)), **CLOSE)


def test_output_sizes_equal_torchs_over_a_grid_and_the_transpose_inverts():
    for size in range(3, 9):
        for kernel, stride, padding, dilation in [(1, 1, 0, 1), (3, 2, 1, 1), (3, 3, 0, 1), (2, 1, 2, 2), (3, 2, 2, 2)]:
            expected = F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), stride=stride, padding=padding,
                                dilation=dilation).shape[-1]
            assert C.output_size(size, kernel, stride, padding, dilation) == expected
    for size in range(4, 12):
        down = C.output_size(size, 3, 2, 1)
        assert size in [C.transposed_output_size(down, 3, 2, 1, extra) for extra in (0, 1)]
    assert C.output_size(227, 11, 4) == 55  # AlexNet's first layer
    assert [C.same_padding(k) for k in (1, 3, 5)] == [0, 1, 2] and C.same_padding(3, 2) == 2


def test_geometries_that_cannot_be_are_said():
    w, b = RNG.normal(size=(4, 3, 3, 3)), np.zeros(4)
    for call in (lambda: C.output_size(2, 3), lambda: C.output_size(5, 3, 0), lambda: C.output_size(5, 3, 1, -1),
                 lambda: C.same_padding(2), lambda: C.transposed_output_size(4, 3, 2, 1, 2),
                 lambda: C.convolution_forward(X[:, :2], w, b), lambda: C.convolution_naive(X[0], w, b),
                 lambda: C.convolution_winograd(X, w[:, :, :2], b), lambda: C.max_pool_forward(X, 2, 2, 2),
                 lambda: C.transposed_convolution_forward(X, w, b), lambda: C.average_pool_forward(X, 10, 1),
                 lambda: C.grouped_convolution_forward(X, w, b, 2)):
        with pytest.raises(UserError):
            call()
