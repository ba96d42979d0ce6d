"""The engine against torch's, against numeric gradients and against derivatives by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.foundations import autodiff
from visus.foundations.autodiff import (
    Array,
    gradients,
    hessian_vector_product,
    hessian_vector_product_reverse,
    jacobian,
    jacobian_vector_product,
    maximum,
    sigmoid,
    topological_order,
    vector_jacobian_product,
)
from visus.foundations.gradient_check import centred_difference, relative_error

RNG = np.random.default_rng(1)
A, B, C, P = (RNG.normal(size=s) for s in ((3, 4), (4,), (3, 1), (3, 4)))
P = np.abs(P) + 0.5
M, N, K = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(4, 5)), RNG.normal(size=(2, 1, 4, 3))

# name: (operands, the function on Array and on tensors)
CASES = {
    "add": ((A, B), lambda a, b: a + b),
    "add_column": ((A, C), lambda a, b: b + a + 2.0),
    "sub": ((A, C), lambda a, b: 1.0 - (a - b)),
    "mul": ((C, B), lambda a, b: a * b),
    "div": ((A, P), lambda a, b: a / b + 2.0 / b),
    "pow": ((P,), lambda a: a ** 2.5 + a ** -1 + (-a) ** 3),
    "pow_array": ((P, A), lambda a, b: a ** b),
    "matmul": ((A, N), lambda a, b: a @ b),
    "matmul_batch": ((M, N), lambda a, b: a @ b),
    "matmul_both_batched": ((K, M), lambda a, b: a @ b),
    "matmul_vector": ((A, B), lambda a, b: a @ b),
    "matmul_vector_left": ((B, N), lambda a, b: a @ b),
    "dot": ((B, B), lambda a, b: a @ b),
    "exp": ((A,), lambda a: a.exp()),
    "log": ((P,), lambda a: a.log()),
    "tanh": ((A,), lambda a: a.tanh()),
    "relu": ((A,), lambda a: a.relu()),
    "sum": ((A,), lambda a: a.sum(1) * a.sum(0)[:3] + a.sum()),
    "mean": ((M,), lambda a: a.mean((0, 2)) + a.mean()),
    "reshape": ((A,), lambda a: a.reshape(2, 6) ** 2),
    "transpose": ((A,), lambda a: a.T * a.T),
    "index": ((A,), lambda a: a[1:, ::2] * a[0, 1]),
    "fancy": ((A,), lambda a: a[[0, 0, 2], [1, 1, 3]] ** 2),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_torchs(name):
    operands, f = CASES[name]
    ours, theirs = [Array(o) for o in operands], [torch.tensor(o, requires_grad=True) for o in operands]
    out, expected = f(*ours), f(*theirs)
    upstream = np.random.default_rng(2).normal(size=out.shape)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    np.testing.assert_allclose(out.data, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    for mine, theirs_one in zip(ours, theirs):
        np.testing.assert_allclose(mine.grad, theirs_one.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_forward_mode_is_the_transpose_of_reverse_mode(name):
    """<u, J v> = <J^T u, v> for each operand, and J v equals the difference quotient."""
    operands, f = CASES[name]
    random = np.random.default_rng(3)
    for i, operand in enumerate(operands):
        def of_one(x, i=i):
            return f(*[x if j == i else Array(o) for j, o in enumerate(operands)])

        v = random.normal(size=operand.shape)
        out, pushed = jacobian_vector_product(of_one, operand, v)
        u = random.normal(size=out.shape)
        pulled = vector_jacobian_product(of_one, operand, u)[1]
        assert np.sum(u * pushed) == pytest.approx(np.sum(pulled * v), rel=1e-10)
        quotient = (of_one(Array(operand + 1e-6 * v)).data - of_one(Array(operand - 1e-6 * v)).data) / 2e-6
        np.testing.assert_allclose(pushed, quotient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_max_and_its_ties_equal_torchs_amax(axis, keepdims):
    data = np.round(M)  # ties
    mine, theirs = Array(data), torch.tensor(data, requires_grad=True)
    out = mine.max(axis, keepdims)
    expected = theirs.amax((0, 1, 2) if axis is None else axis, keepdim=keepdims)
    upstream = np.random.default_rng(2).normal(size=out.shape)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    np.testing.assert_allclose(mine.grad, theirs.grad.numpy(), rtol=1e-12)
    mean, torch_mean = Array(M).mean(axis, keepdims), torch.tensor(M).mean(axis, keepdim=keepdims)
    np.testing.assert_allclose(mean.data, torch_mean.numpy())


def test_maximum_and_sigmoid_equal_torch_at_ties_and_at_extremes():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([[1.0, 3.0, 2.0]])
    x, y = Array(a), Array(b)
    tx, ty = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    (maximum(x, y) * np.array([1.0, 2.0, 4.0])).sum().backward()
    (torch.maximum(tx, ty) * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert np.array_equal(x.grad, tx.grad) and np.array_equal(y.grad, ty.grad)
    s, t = Array([-1000.0, -1.0, 0.0, 2.0, 1000.0]), torch.tensor([-1000.0, -1, 0, 2, 1000], dtype=torch.float64)
    np.testing.assert_allclose(sigmoid(s).data, t.sigmoid().numpy(), atol=1e-15)


def network(x, w, b, v):
    """Two layers and a softmax loss with the shift that keeps it stable."""
    scores = (x @ w + b).relu() @ v
    shifted = scores - scores.max(1, True) if isinstance(scores, Array) else scores - scores.amax(1, True)
    log_sum = shifted.exp().sum(1).log()
    rows, labels = [0, 1, 2], [2, 0, 1]
    return (log_sum - shifted[rows, labels]).mean()


def test_a_network_equals_torch_and_numeric_gradients():
    random = np.random.default_rng(5)
    values = [random.normal(size=s) for s in ((3, 4), (4, 6), (6,), (6, 3))]
    mine, theirs = [Array(v) for v in values], [torch.tensor(v, requires_grad=True) for v in values]
    loss, expected = network(*mine), network(*theirs)
    loss.backward()
    expected.backward()
    assert loss.data == pytest.approx(expected.item(), rel=1e-12)
    for i, (m, t) in enumerate(zip(mine, theirs)):
        np.testing.assert_allclose(m.grad, t.grad.numpy(), rtol=1e-10, atol=1e-14)
        numeric = centred_difference(
            lambda x, i=i: network(*[Array(x) if j == i else Array(o) for j, o in enumerate(values)]).data, values[i])
        np.testing.assert_allclose(m.grad, numeric, rtol=1e-6, atol=1e-9)


def test_the_sigmoid_neuron_of_the_course_by_the_engine_and_in_stages():
    """w = (2, -3, -3), x = (-1, -2): output 0.73 and the gradients that the notes print."""
    w, x = Array([2.0, -3.0, -3.0]), Array([-1.0, -2.0])
    out = sigmoid(w[0] * x[0] + w[1] * x[1] + w[2])
    out.backward()
    assert np.round(out.data, 2) == 0.73
    assert np.round(w.grad, 2).tolist() == [-0.20, -0.39, 0.20] and np.round(x.grad, 2).tolist() == [0.39, -0.59]
    slope = out.data * (1 - out.data)  # staged: the derivative of the sigmoid at once, then the dot product
    np.testing.assert_allclose(w.grad, slope * np.array([-1.0, -2.0, 1.0]), rtol=1e-12)
    np.testing.assert_allclose(x.grad, slope * np.array([2.0, -3.0]), rtol=1e-12)


def test_add_distributes_multiply_swaps_max_routes_and_copies_add_up():
    x, y, up = Array(3.0), Array(-4.0), 2.0
    for gate, expected in ((x + y, (2, 2)), (x * y, (-8, 6)), (maximum(x, y), (2, 0)), (x * 1.0 + x * 1.0, (4, 0))):
        assert tuple(float(g.data) for g in gradients(gate, [x, y], np.array(up))) == expected


def test_gradients_add_up_where_a_value_is_used_twice_and_over_calls():
    x = Array(3.0)
    y = x * x + x
    y.backward()
    assert x.grad == 7 and y.grad == 1
    y.backward()
    assert x.grad == 14


def test_a_chain_of_ten_thousand_operations_needs_no_recursion():
    x = Array(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1.0
    y.backward()
    assert x.grad == 1 and len(topological_order(y)) == 20_001


def scalar(x):
    return ((x @ Array(N) if isinstance(x, Array) else x @ torch.tensor(N)).tanh() ** 2).sum() * x[0, 1].exp()


def test_hessian_vector_products_equal_torchs_both_ways():
    v = np.random.default_rng(6).normal(size=A.shape)
    expected = torch.autograd.functional.hvp(scalar, torch.tensor(A), torch.tensor(v))[1].numpy()
    assert relative_error(hessian_vector_product(scalar, A, v), expected) < 1e-10
    assert relative_error(hessian_vector_product_reverse(scalar, A, v), expected) < 1e-10


def test_third_derivative_and_jacobian():
    x = Array(2.0)
    first, = gradients(x ** 5, [x])
    second, = gradients(first, [x])
    third, = gradients(second, [x])
    assert (first.data, second.data, third.data) == (80, 160, 240)
    expected = torch.autograd.functional.jacobian(lambda t: (t @ torch.tensor(N)).tanh(), torch.tensor(A)).numpy()
    np.testing.assert_allclose(jacobian(lambda t: (t @ N).tanh(), A), expected, rtol=1e-10, atol=1e-14)


def test_ndarray_on_the_left_and_an_array_that_plays_no_part():
    x, idle = Array(A), Array(B)
    out = A * x + A @ x.T @ A + (A - x) / P
    assert isinstance(out, Array) and out.shape == (3, 4)
    assert np.array_equal(gradients(out.sum(), [idle])[0].data, np.zeros(4))


def test_what_has_no_gradient_is_said():
    with pytest.raises(UserError, match="no single gradient"):
        Array(A).backward()
    with pytest.raises(UserError, match="upstream"):
        Array(A).backward(B)
    with pytest.raises(UserError, match="not positive"):
        Array(-1.0) ** Array(2.0)
    with pytest.raises(UserError, match="not a matrix"):
        Array(A) @ Array(2.0)


def test_every_value_is_double():
    assert (Array(np.ones(2, np.float32)).tanh() * 2.0).data.dtype == np.float64
    assert Array([1, 2]).data.dtype == np.float64 and autodiff.exp(1).data == pytest.approx(np.e)
