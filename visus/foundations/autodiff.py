"""A reverse-mode automatic differentiation engine on arrays with broadcasting.

Each operation records its operands and two linear maps: `vjp` (from the gradient of the output to those of the
operands, J^T u) and `jvp` (from tangents of the operands to that of the output, J v). Walking the record backwards
with the first is backpropagation; walking it forwards with the second is forward mode. Every `vjp` is itself written
with operations on `Array`, so that the backward pass leaves a record too: a gradient can be differentiated again.

    x = Array([1.0, 2.0], name="x")
    loss = (x * x).sum()
    loss.backward()
    x.grad                                       # array([2., 4.])

Subgradients at kinks: `relu` has slope 0 at 0; equal entries of a `max` share the gradient evenly; `maximum` gives
each of two equal numbers one half.

Source: Griewank and Walther, Evaluating Derivatives, 2008; Baydin et al., Automatic Differentiation in Machine
Learning: a Survey, 2018, arXiv:1502.05767; Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from visus.core.errors import UserError

Axis = int | tuple[int, ...] | None
Value: TypeAlias = "Array | np.ndarray | float | Sequence[Any]"


class Array:
    """A value in the computational graph: `data` (float64), and after `backward` its gradient `grad`, as large."""

    __array_ufunc__ = None  # so that `ndarray * Array` comes to __rmul__ and not apart into entries

    def __init__(self, data: Value, *, name: str = "", op: str = "", parents: tuple[Array, ...] = (),
                 vjp: Callable[[Array], tuple[Array, ...]] | None = None,
                 jvp: Callable[..., np.ndarray] | None = None):
        self.data: np.ndarray = np.asarray(data.data if isinstance(data, Array) else data, dtype=np.float64)
        self.grad: np.ndarray | None = None
        self.name, self.op, self.parents = name, op, parents
        self.vjp, self.jvp = vjp, jvp

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def T(self) -> Array:
        return self.transpose()

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Array({self.name or self.op or 'leaf'}, shape={self.shape}, data={self.data!r})"

    def backward(self, upstream: np.ndarray | None = None) -> None:
        """Fill `grad` of this array and of every array that it was computed from. Gradients add up over calls.

        upstream: the gradient of the final quantity with respect to this array, of its shape; 1 for a scalar.
        """
        for node, gradient in _pull_back(self, upstream).items():
            node.grad = gradient.data.copy() if node.grad is None else node.grad + gradient.data

    def __add__(self, other: Value) -> Array:
        return add(self, other)

    def __mul__(self, other: Value) -> Array:
        return multiply(self, other)

    def __sub__(self, other: Value) -> Array:
        return add(self, multiply(other, -1.0))

    def __rsub__(self, other: Value) -> Array:
        return add(other, multiply(self, -1.0))

    def __neg__(self) -> Array:
        return multiply(self, -1.0)

    def __truediv__(self, other: Value) -> Array:
        return divide(self, other)

    def __rtruediv__(self, other: Value) -> Array:
        return divide(other, self)

    def __pow__(self, exponent: Value) -> Array:
        return power(self, exponent)

    def __rpow__(self, base: Value) -> Array:
        return power(base, self)

    def __matmul__(self, other: Value) -> Array:
        return matmul(self, other)

    def __rmatmul__(self, other: Value) -> Array:
        return matmul(other, self)

    def __getitem__(self, index: Any) -> Array:
        return take(self, index)

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Array:
        return exp(self)

    def log(self) -> Array:
        return log(self)

    def tanh(self) -> Array:
        return tanh(self)

    def relu(self) -> Array:
        return relu(self)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Array:
        return reduce_sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Array:
        total = reduce_sum(self, axis, keepdims)
        return multiply(total, total.data.size / self.data.size)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Array:
        return reduce_max(self, axis, keepdims)

    def reshape(self, *shape: int) -> Array:
        return reshape(self, shape)

    def transpose(self, *axes: int) -> Array:
        return transpose(self, axes or tuple(reversed(range(self.ndim))))


# ---------------------------------------------------------------- operations: value, J^T u and J v of each


def _wrap(value: Value) -> Array:
    return value if isinstance(value, Array) else Array(value)


def add(a: Value, b: Value) -> Array:
    """a + b, broadcast. The add gate hands its gradient on to both operands."""
    a, b = _wrap(a), _wrap(b)
    return Array(a.data + b.data, op="+", parents=(a, b), vjp=lambda u: (sum_to(u, a.shape), sum_to(u, b.shape)),
                 jvp=lambda da, db: da + db)


def multiply(a: Value, b: Value) -> Array:
    """a * b, broadcast. The multiply gate swaps: each operand gets the gradient times the other operand."""
    a, b = _wrap(a), _wrap(b)
    return Array(a.data * b.data, op="*", parents=(a, b),
                 vjp=lambda u: (sum_to(u * b, a.shape), sum_to(u * a, b.shape)),
                 jvp=lambda da, db: da * b.data + a.data * db)


def divide(a: Value, b: Value) -> Array:
    """a / b, broadcast: d(a/b) = da / b - a db / b^2."""
    a, b = _wrap(a), _wrap(b)
    return Array(a.data / b.data, op="/", parents=(a, b),
                 vjp=lambda u: (sum_to(u / b, a.shape), sum_to(-u * a / (b * b), b.shape)),
                 jvp=lambda da, db: da / b.data - a.data * db / b.data ** 2)


def power(a: Value, b: Value) -> Array:
    """a ** b, broadcast. A constant exponent takes any base; an exponent that is an `Array` needs a base above 0."""
    a = _wrap(a)
    if not isinstance(b, Array):
        p = np.asarray(b, dtype=float)
        return Array(a.data ** p, op=f"**{p:g}" if p.ndim == 0 else "**", parents=(a,),
                     vjp=lambda u: (sum_to(u * (power(a, p - 1) * p), a.shape),),
                     jvp=lambda da: da * p * a.data ** (p - 1))
    if np.any(a.data <= 0):
        raise UserError("a base that is not positive under an exponent that is differentiated", where="power",
                        remedy="d(a**b)/db = a**b log a; pass the exponent as a plain number if it is a constant")
    return exp(b * log(a))


def exp(a: Value) -> Array:
    """e^a, entry by entry."""
    a = _wrap(a)
    out = Array(np.exp(a.data), op="exp", parents=(a,), jvp=lambda da: da * out.data)
    out.vjp = lambda u: (u * out,)
    return out


def log(a: Value) -> Array:
    """The natural logarithm, entry by entry."""
    a = _wrap(a)
    return Array(np.log(a.data), op="log", parents=(a,), vjp=lambda u: (u / a,), jvp=lambda da: da / a.data)


def tanh(a: Value) -> Array:
    """The hyperbolic tangent, entry by entry: its slope is 1 - tanh^2."""
    a = _wrap(a)
    out = Array(np.tanh(a.data), op="tanh", parents=(a,), jvp=lambda da: da * (1 - out.data ** 2))
    out.vjp = lambda u: (u * (1.0 - out * out),)
    return out


def sigmoid(a: Value) -> Array:
    """1 / (1 + e^-a), by way of tanh, which does not overflow."""
    return (tanh(_wrap(a) * 0.5) + 1.0) * 0.5


def relu(a: Value) -> Array:
    """max(a, 0), entry by entry; slope 0 at 0."""
    a = _wrap(a)
    active = (a.data > 0).astype(float)
    return Array(np.maximum(a.data, 0), op="relu", parents=(a,), vjp=lambda u: (u * active,),
                 jvp=lambda da: da * active)


def maximum(a: Value, b: Value) -> Array:
    """max(a, b), broadcast. The max gate routes its gradient to the greater operand; equal ones get half each."""
    a, b = _wrap(a), _wrap(b)
    to_a = (a.data > b.data) + 0.5 * (a.data == b.data)
    return Array(np.maximum(a.data, b.data), op="max", parents=(a, b),
                 vjp=lambda u: (sum_to(u * to_a, a.shape), sum_to(u * (1 - to_a), b.shape)),
                 jvp=lambda da, db: da * to_a + db * (1 - to_a))


def matmul(a: Value, b: Value) -> Array:
    """a @ b with batch broadcasting: [..., n, k] @ [..., k, m] -> [..., n, m]; vectors as in NumPy.

    With C = A B and upstream U: dA = U B^T, dB = A^T U.
    """
    a, b = _wrap(a), _wrap(b)
    if a.ndim == 0 or b.ndim == 0:
        raise UserError("a number is not a matrix", where="matmul", remedy="Use * for a scalar factor")
    if a.ndim == 1 or b.ndim == 1:
        left = a if a.ndim > 1 else reshape(a, (1, -1))
        right = b if b.ndim > 1 else reshape(b, (-1, 1))
        return reshape(matmul(left, right), np.matmul(a.data, b.data).shape)
    return Array(a.data @ b.data, op="@", parents=(a, b),
                 vjp=lambda u: (sum_to(u @ _swap(b), a.shape), sum_to(_swap(a) @ u, b.shape)),
                 jvp=lambda da, db: da @ b.data + a.data @ db)


def reduce_sum(a: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The sum over axes; its gradient is copied to every summand."""
    a = _wrap(a)
    return Array(a.data.sum(axis=axis, keepdims=keepdims), op="sum", parents=(a,),
                 vjp=lambda u: (broadcast_to(_expanded(u, a, axis), a.shape),),
                 jvp=lambda da: da.sum(axis=axis, keepdims=keepdims))


def reduce_max(a: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The largest entry over axes; the gradient goes to it, in equal shares where several are the largest."""
    a = _wrap(a)
    winners = (a.data == a.data.max(axis=axis, keepdims=True)).astype(float)
    share = winners / winners.sum(axis=axis, keepdims=True)
    return Array(a.data.max(axis=axis, keepdims=keepdims), op="max", parents=(a,),
                 vjp=lambda u: (broadcast_to(_expanded(u, a, axis), a.shape) * share,),
                 jvp=lambda da: (da * share).sum(axis=axis, keepdims=keepdims))


def broadcast_to(a: Value, shape: tuple[int, ...]) -> Array:
    """Copies along new axes and axes of size 1. The copy gate adds up the gradients of its copies."""
    a = _wrap(a)
    if a.shape == shape:
        return a
    return Array(np.broadcast_to(a.data, shape), op="copy", parents=(a,), vjp=lambda u: (sum_to(u, a.shape),),
                 jvp=lambda da: np.broadcast_to(da, shape))


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting: the sum over the axes that broadcasting from `shape` added or stretched."""
    if a.shape == shape:
        return a
    added = a.ndim - len(shape)
    stretched = tuple(i + added for i, size in enumerate(shape) if size == 1 and a.shape[i + added] != 1)
    return reshape(reduce_sum(a, tuple(range(added)) + stretched), shape)


def reshape(a: Value, shape: int | tuple[int, ...]) -> Array:
    """The same entries in another shape."""
    a = _wrap(a)
    return Array(a.data.reshape(shape), op="reshape", parents=(a,), vjp=lambda u: (reshape(u, a.shape),),
                 jvp=lambda da: da.reshape(shape))


def transpose(a: Value, axes: tuple[int, ...]) -> Array:
    """The axes in another order; the gradient goes back through the inverse order."""
    a = _wrap(a)
    inverse = tuple(int(i) for i in np.argsort([axis % max(a.ndim, 1) for axis in axes]))
    return Array(a.data.transpose(axes), op="transpose", parents=(a,), vjp=lambda u: (transpose(u, inverse),),
                 jvp=lambda da: da.transpose(axes))


def take(a: Value, index: Any) -> Array:
    """a[index], basic or fancy. An entry taken several times collects several gradients."""
    a = _wrap(a)
    return Array(a.data[index], op="[]", parents=(a,), vjp=lambda u: (put(u, index, a.shape),),
                 jvp=lambda da: da[index])


def put(a: Value, index: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with a's entries added at `index`: the adjoint of `take`."""
    a = _wrap(a)

    def scatter(values: np.ndarray) -> np.ndarray:
        out = np.zeros(shape)
        np.add.at(out, index, values)
        return out

    return Array(scatter(a.data), op="put", parents=(a,), vjp=lambda u: (take(u, index),), jvp=scatter)


def _swap(a: Array) -> Array:
    """The last two axes exchanged."""
    return transpose(a, (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def _expanded(u: Array, a: Array, axis: Axis) -> Array:
    """The upstream of a reduction with the reduced axes kept as size 1, whether the output kept them or not."""
    axes = range(a.ndim) if axis is None else [i % a.ndim for i in np.atleast_1d(axis)]
    return reshape(u, tuple(1 if i in axes else size for i, size in enumerate(a.shape)))


# ---------------------------------------------------------------- derivatives of whole functions


def topological_order(output: Array) -> list[Array]:
    """Every array that `output` was computed from, operands before results, `output` last. No recursion limit."""
    order: list[Array] = []
    seen: set[int] = set()
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent in node.parents]
    return order


def _pull_back(output: Array, upstream: np.ndarray | Array | None) -> dict[Array, Array]:
    """The gradient of <output, upstream> at every array of the graph: the chain rule from the last to the first."""
    if upstream is None:
        if output.data.size != 1:
            raise UserError(f"an output of shape {output.shape} has no single gradient", where="backward",
                            remedy="Reduce it to a number, or pass the upstream gradient")
        upstream = np.ones_like(output.data)
    upstream = _wrap(upstream)
    if upstream.shape != output.shape:
        raise UserError(f"an upstream gradient of shape {upstream.shape} for an output of shape {output.shape}",
                        where="backward")
    gradients = {output: upstream}
    for node in reversed(topological_order(output)):
        if node.vjp is None or node not in gradients:
            continue
        for parent, contribution in zip(node.parents, node.vjp(gradients[node]), strict=True):
            gradients[parent] = gradients[parent] + contribution if parent in gradients else contribution
    return gradients


def gradients(output: Array, inputs: Sequence[Array], upstream: np.ndarray | Array | None = None) -> list[Array]:
    """d <output, upstream> / d input for each input, as arrays that can be differentiated again."""
    found = _pull_back(output, upstream)
    return [found.get(node, Array(np.zeros_like(node.data))) for node in inputs]


def push_forward(output: Array, tangents: dict[Array, np.ndarray]) -> np.ndarray:
    """Forward mode over the record: the derivative of `output` as the given arrays move along their tangents.

    tangents: array -> direction of its shape; every other leaf stands still. Returns J v, of the shape of `output`.
    """
    moving: dict[Array, np.ndarray] = {}
    for node in topological_order(output):
        if node in tangents:
            moving[node] = np.asarray(tangents[node], dtype=float)
        elif node.jvp is not None and any(parent in moving for parent in node.parents):
            moving[node] = node.jvp(*(moving.get(p, np.zeros_like(p.data)) for p in node.parents))
    return np.asarray(moving.get(output, np.zeros_like(output.data)))


def jacobian_vector_product(f: Callable[[Array], Array], x: np.ndarray,
                            v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and J v (forward mode): one sweep for a column combination of the Jacobian. v has the shape of x."""
    leaf = Array(x, name="x")
    output = f(leaf)
    return output.data, push_forward(output, {leaf: v})


def vector_jacobian_product(f: Callable[[Array], Array], x: np.ndarray,
                            u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and J^T u (reverse mode): one sweep for a row combination of the Jacobian. u has the shape of f(x)."""
    leaf = Array(x, name="x")
    output = f(leaf)
    return output.data, gradients(output, [leaf], u)[0].data


def jacobian(f: Callable[[Array], Array], x: np.ndarray) -> np.ndarray:
    """The whole Jacobian, [*f(x).shape, *x.shape], a forward sweep for each entry of x."""
    leaf = Array(x, name="x")
    output = f(leaf)
    columns = [push_forward(output, {leaf: unit.reshape(leaf.shape)}) for unit in np.eye(leaf.data.size)]
    return np.stack(columns, axis=-1).reshape(*output.shape, *leaf.shape)


def hessian_vector_product(f: Callable[[Array], Array], x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """H v for a scalar f, forward over reverse: the tangent of the gradient along v. H itself is never formed."""
    leaf = Array(x, name="x")
    return push_forward(gradients(f(leaf), [leaf])[0], {leaf: v})


def hessian_vector_product_reverse(f: Callable[[Array], Array], x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """H v for a scalar f, reverse over reverse: the gradient of <gradient, v>. For the comparison of the two."""
    leaf = Array(x, name="x")
    gradient = gradients(f(leaf), [leaf])[0]
    return gradients((gradient * v).sum(), [leaf])[0].data
