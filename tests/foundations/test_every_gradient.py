"""Every hand-written gradient of visus.foundations against numeric differences and against torch: one row each.

A public function whose name says backward or gradients, one that returns a loss with its gradient, an operation of the
autodiff engine and a network with a loss is found by itself; without a row it fails. Every operand is compared, in
float64: at up to 20 drawn entries with differences, at all entries with torch.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import visus.foundations
from visus.foundations import attention as A
from visus.foundations import autodiff as AD
from visus.foundations import convolution as C
from visus.foundations import efficient_backprop, multitask, naive_pooling, pooling, regression_losses, regularisers
from visus.foundations import hierarchical_softmax as H
from visus.foundations import layers as L
from visus.foundations import recurrent as R
from visus.foundations import sandwiches as S
from visus.foundations import transformed_convolution as T
from visus.foundations import upsampling as U
from visus.foundations import worked_examples as W
from visus.foundations.convnet import ThreeLayerConvNet
from visus.foundations.gradient_check import five_point_difference, relative_error
from visus.foundations.networks import FullyConnectedNet, TwoLayerNet

NUMERIC, TORCH = 1e-7, 1e-10  # the bar: relative error of the gradient check, and distance from torch
FLOOR = 1e-4  # of the largest entry, or of 1: what is smaller than that is compared absolutely, to 1e-11
ENTRIES = 20
NO_PAIR = {  # found by their names, and no gradient of one forward function
    "autodiff.gradients": "the chain rule over the operations, each of which has a row",
}


@dataclass(frozen=True)
class Row:
    """run: the operands -> (output, pull); pull: upstream -> the gradients of the operands, in order. peer: the same
    output from torch tensors."""

    operands: tuple[np.ndarray, ...]
    run: Callable[..., tuple[np.ndarray, Callable[[np.ndarray], tuple[np.ndarray, ...]]]]
    peer: Callable[..., torch.Tensor]


RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    """Numbers whose sizes keep away from 0, where many functions have a kink."""
    x = RNG.normal(size=shape)
    return x + np.sign(x) * 0.05


def spread(*shape: int) -> np.ndarray:
    """Numbers of which no two are close: no window of a maximum is near a tie."""
    count = int(np.prod(shape))
    return (RNG.permutation(count).reshape(shape) - count / 2 + 0.25) * (6 / count)


def tuples(value: Any) -> tuple[np.ndarray, ...]:
    """What a backward function returned, as a flat tuple."""
    if isinstance(value, dict):
        return tuple(value.values())
    if isinstance(value, tuple):
        return tuple(item for part in value for item in tuples(part))
    return (np.asarray(value),)


def pair(operands: tuple, forward: Callable, backward: Callable, peer: Callable) -> Row:
    """forward: operands -> (output, cache); backward: (upstream, cache) -> gradients."""
    def run(*given: np.ndarray) -> Any:
        out, cache = forward(*given)
        return out, lambda up: tuples(backward(up, cache))
    return Row(operands, run, peer)


def direct(operands: tuple, forward: Callable, backward: Callable, peer: Callable) -> Row:
    """backward: (upstream, *operands) -> gradients, without a cache."""
    return Row(operands, lambda *given: (forward(*given), lambda up: tuples(backward(up, *given))), peer)


def valued(operands: tuple, loss: Callable, peer: Callable, order: tuple[str, ...] = ()) -> Row:
    """loss: operands -> (number, gradients), these as an array, a tuple, or a dict in the order given."""
    def run(*given: np.ndarray) -> Any:
        value, found = loss(*given)
        named = tuple(found[name] for name in order) if order else tuples(found)
        return np.asarray(value), lambda up: tuple(up * g for g in named)
    return Row(operands, run, peer)


def engine(operands: tuple, op: Callable, peer: Callable) -> Row:
    """An operation on `Array`, pulled back by the engine."""
    def run(*given: np.ndarray) -> Any:
        leaves = [AD.Array(x) for x in given]
        out = op(*leaves)
        return out.data, lambda up: tuple(g.data for g in AD.gradients(out, leaves, up))
    return Row(operands, run, peer)


def network(net: Any, x: np.ndarray, labels: np.ndarray, peer: Callable) -> Row:
    """The loss as a function of the parameters, in the order of `net.params`. peer: (named tensors) -> loss."""
    names = list(net.params)

    def run(*given: np.ndarray) -> Any:
        net.params = dict(zip(names, given, strict=True))
        value, found = net.loss(x, labels)
        return np.asarray(value), lambda up: tuple(up * found[name] for name in names)

    operands = tuple(w + 0.1 * np.random.default_rng(5).normal(size=w.shape) for w in net.params.values())
    return Row(operands, run, lambda *tensors: peer(dict(zip(names, tensors, strict=True))))


def t(x: Any) -> torch.Tensor:
    return torch.tensor(x)


# ---------------------------------------------------------------- operands

X, MAPS = draw(6, 8), spread(3, 4, 6, 4)
G, B = draw(8), draw(8)
GC, BC = draw(4), draw(4)
WEIGHTS, BIAS = draw(8, 5), draw(5)
IMAGE, FILTERS, FB = draw(2, 4, 6, 5), draw(4, 4, 3, 3), draw(4)
LABELS = np.array([0, 4, 2, 1, 1, 3])
SCORES, YES = draw(6, 5) * 2, np.random.default_rng(1).random((6, 5))
ROWS_H, ROWS_X = draw(2, 3), draw(2, 4, 5)
WX, WH, RB = draw(5, 3) * 0.5, draw(3, 3) * 0.5, draw(3)
LX, LH, LB = draw(5, 12) * 0.5, draw(3, 12) * 0.5, draw(12)
ALPHA = L.SELU_SCALE * L.SELU_ALPHA
SPREAD = (0.6 + ALPHA**2 * 0.6 * 0.4) ** -0.5
MASK = (np.random.default_rng(6).random((6, 5, 8)) < 0.5).astype(float)
TREE = H.ClassTree.huffman([5, 1, 2, 9, 3])


def norm(x: torch.Tensor, g: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, g, b, training=True)


def running(n: int) -> L.RunningStatistics:
    return L.RunningStatistics.of(n)


def masked(train: Callable, scale: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Row:
    """Dropout with one mask: the forward pass is repeated with the same generator."""
    def forward(x: np.ndarray) -> Any:
        return train(x, 0.6, np.random.default_rng(4))
    kept = t(np.random.default_rng(4).random(X.shape) < 0.6)
    return pair((X,), forward, L.dropout_backward, lambda x: scale(x, kept))


def torch_rnn(x: torch.Tensor, h: torch.Tensor, wx: torch.Tensor, wh: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    states = []
    for step in range(x.shape[1]):
        h = torch.tanh(x[:, step] @ wx + h @ wh + b)
        states.append(h)
    return torch.stack(states, 1)


def torch_lstm(x: torch.Tensor, h: torch.Tensor, wx: torch.Tensor, wh: torch.Tensor, b: torch.Tensor,
               c: torch.Tensor | None = None, last: bool = False) -> torch.Tensor:
    c, states = torch.zeros_like(h) if c is None else c, []
    for step in range(x.shape[1]):
        i, f, g, o = (x[:, step] @ wx + h @ wh + b).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.cat([h, c], 1) if last else torch.stack(states, 1)


def lstm_step(x: np.ndarray, h: np.ndarray, c: np.ndarray, *weights: np.ndarray) -> Any:
    h, c, cache = R.lstm_step_forward(x, h, c, *weights)
    return np.concatenate([h, c], 1), cache


def torch_heads(x: torch.Tensor, context: torch.Tensor, w: torch.Tensor, b: torch.Tensor, w_out: torch.Tensor,
                b_out: torch.Tensor) -> torch.Tensor:
    out, _ = F.multi_head_attention_forward(
        x.transpose(0, 1), context.transpose(0, 1), context.transpose(0, 1), 8, 2, w.T, b, None, None, False, 0.0,
        w_out.T, b_out, need_weights=False)
    return out.transpose(0, 1)


def truncated(x: np.ndarray, h0: np.ndarray, wx: np.ndarray, wh: np.ndarray, b: np.ndarray) -> Any:
    """One chunk holds the whole sequence: then truncated BPTT is BPTT. (Shorter ones: test_sequences.)"""
    states, _ = R.rnn_forward(x, h0, wx, wh, b)
    _, grads = R.truncated_rnn_gradients(x, h0, wx, wh, b, lambda states, start: 2 * states, 99)
    return np.asarray((states**2).sum()), lambda up: tuple(up * grads[name] for name in ("wx", "wh", "b"))


def rnn_of(x: np.ndarray, h0: np.ndarray) -> tuple[Callable, Callable]:
    return (lambda *weights: truncated(x, h0, *weights),
            lambda *weights: (torch_rnn(t(x), t(h0), *weights) ** 2).sum())


def torch_tree(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """p of each class as the product of its turns, multiplied out."""
    p = torch.sigmoid(x @ w.T + b)
    losses = []
    for row, label in enumerate(LABELS):
        steps = [(n, s) for n, s in zip(TREE.nodes[label], TREE.turns[label], strict=True) if s]
        losses.append(-torch.log(torch.stack([p[row, n] if s > 0 else 1 - p[row, n] for n, s in steps]).prod()))
    return torch.stack(losses).mean()


def torch_boxes(scores: torch.Tensor, offsets: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    rows = t(np.flatnonzero(LABELS))
    own = offsets[rows, t(LABELS)[rows]]
    return (F.cross_entropy(scores, t(LABELS))
            + 0.7 * F.smooth_l1_loss(own, t(targets)[rows], reduction="sum", beta=0.5) / len(LABELS))


def sigmoid_layers(x: torch.Tensor, y: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    for w, b in zip(parameters[::2], parameters[1::2], strict=True):
        x = torch.sigmoid(w @ x + b)
    return 0.5 * (x - y).square().sum()


def backpropagated(*parameters: np.ndarray) -> Any:
    found = W.backpropagate(X[0], B[:2], parameters[::2], parameters[1::2])
    grads = [g for both in zip(found.weights, found.biases, strict=True) for g in both]
    return np.asarray(found.loss), lambda up: tuple(up * g for g in grads)


FIVE = (draw(5, 8), draw(5), draw(4, 5), draw(4), draw(2, 4), draw(2))
TWO = TwoLayerNet(8, 7, 5, rng=np.random.default_rng(2), scale=0.5, reg=0.2)
DEEP = FullyConnectedNet(8, (7, 6), 5, rng=np.random.default_rng(2), normalisation="layer", reg=0.2)
CONV = ThreeLayerConvNet((2, 4, 4), 5, rng=np.random.default_rng(2), filters=3, kernel=3, hidden=6, reg=0.2)
PICTURES = draw(6, 2, 4, 4)


def deep_peer(p: dict[str, torch.Tensor]) -> torch.Tensor:
    x = t(X)
    for i in (1, 2):
        x = F.layer_norm(x @ p[f"w{i}"] + p[f"b{i}"], (7 if i == 1 else 6,), p[f"gamma{i}"], p[f"beta{i}"]).relu()
    return penalised(x @ p["w3"] + p["b3"], p)


def conv_peer(p: dict[str, torch.Tensor]) -> torch.Tensor:
    x = F.max_pool2d(F.conv2d(t(PICTURES), p["w1"], p["b1"], padding=1).relu(), 2).flatten(1)
    return penalised((x @ p["w2"] + p["b2"]).relu() @ p["w3"] + p["b3"], p)


def penalised(scores: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(scores, t(LABELS)) + 0.1 * sum(w.square().sum() for n, w in p.items() if n.startswith("w"))


# ---------------------------------------------------------------- rows

OPS = {
    "add": engine((X, G), AD.add, torch.add),
    "multiply": engine((X, G), AD.multiply, torch.mul),
    "divide": engine((X, G), AD.divide, torch.div),
    "power": engine((np.abs(X), G), AD.power, torch.pow),
    "exp": engine((X,), AD.exp, torch.exp),
    "log": engine((np.abs(X),), AD.log, torch.log),
    "tanh": engine((X,), AD.tanh, torch.tanh),
    "sigmoid": engine((X,), AD.sigmoid, torch.sigmoid),
    "relu": engine((X,), AD.relu, torch.relu),
    "maximum": engine((X, G), AD.maximum, torch.maximum),
    "matmul": engine((draw(2, 3, 4), draw(4, 5)), AD.matmul, torch.matmul),
    "reduce_sum": engine((MAPS,), lambda x: AD.reduce_sum(x, (0, 2)), lambda x: x.sum((0, 2))),
    "reduce_max": engine((MAPS,), lambda x: AD.reduce_max(x, 1), lambda x: x.amax(1)),
    "broadcast_to": engine((G,), lambda x: AD.broadcast_to(x, (3, 8)), lambda x: x.expand(3, 8)),
    "sum_to": engine((X,), lambda x: AD.sum_to(x, (1, 8)), lambda x: x.sum(0, keepdim=True)),
    "reshape": engine((X,), lambda x: AD.reshape(x, (4, 12)), lambda x: x.reshape(4, 12)),
    "transpose": engine((MAPS,), lambda x: AD.transpose(x, (2, 0, 3, 1)), lambda x: x.permute(2, 0, 3, 1)),
    "take": engine((X,), lambda x: AD.take(x, np.array([1, 1, 4])), lambda x: x[[1, 1, 4]]),
    "put": engine((draw(3, 8),), lambda x: AD.put(x, np.array([1, 1, 4]), (6, 8)),
                  lambda x: torch.zeros(6, 8, dtype=x.dtype).index_add(0, torch.tensor([1, 1, 4]), x)),
}
LAYERS = {
    "affine_backward": pair((X, WEIGHTS, BIAS), L.affine_forward, L.affine_backward, lambda x, w, b: x @ w + b),
    "sigmoid_backward": pair((X,), L.sigmoid_forward, L.sigmoid_backward, torch.sigmoid),
    "tanh_backward": pair((X,), L.tanh_forward, L.tanh_backward, torch.tanh),
    "relu_backward": pair((X,), L.relu_forward, L.relu_backward, torch.relu),
    "leaky_relu_backward": pair((X,), L.leaky_relu_forward, L.leaky_relu_backward, F.leaky_relu),
    "prelu_backward": pair((MAPS, GC), L.prelu_forward, L.prelu_backward, F.prelu),
    "elu_backward": pair((X,), lambda x: L.elu_forward(x, 1.3), L.elu_backward, lambda x: F.elu(x, 1.3)),
    "selu_backward": pair((X,), L.selu_forward, L.selu_backward, F.selu),
    "gelu_backward": pair((X,), L.gelu_forward, L.gelu_backward, F.gelu),
    "silu_backward": pair((X,), L.silu_forward, L.silu_backward, F.silu),
    "hard_swish_backward": pair((X * 2,), L.hard_swish_forward, L.hard_swish_backward, F.hardswish),
    "maxout_backward": pair((X, draw(3, 8, 5), draw(3, 5)), L.maxout_forward, L.maxout_backward,
                            lambda x, w, b: (torch.einsum("nd,kdm->knm", x, w) + b[:, None]).amax(0)),
    "softmax_loss": valued((SCORES,), lambda s: L.softmax_loss(s, LABELS), lambda s: F.cross_entropy(s, t(LABELS))),
    "svm_loss": valued((SCORES,), lambda s: L.svm_loss(s, LABELS), lambda s: 5 * F.multi_margin_loss(s, t(LABELS))),
    "squared_error": valued((SCORES,), lambda s: L.squared_error(s, YES),
                            lambda s: 0.5 * F.mse_loss(s, t(YES), reduction="sum") / 6),
    "logistic_loss": valued((SCORES,), lambda s: L.logistic_loss(s, YES),
                            lambda s: F.binary_cross_entropy_with_logits(s, t(YES))),
    "dropout_backward": masked(L.vanilla_dropout_train, lambda x, kept: x * kept),
    "dropout_backward (inverted)": masked(L.inverted_dropout_train, lambda x, kept: x * kept / 0.6),
    "dropout_backward (alpha)": masked(
        L.alpha_dropout_train, lambda x, kept: SPREAD * (torch.where(kept, x, -ALPHA) + 0.4 * ALPHA)),
    "batchnorm_backward": pair((X, G, B), lambda x, g, b: L.batchnorm_train(x, g, b, running(8)),
                               L.batchnorm_backward, norm),
    "batchnorm_backward_staged": pair((X, G, B), lambda x, g, b: L.batchnorm_train(x, g, b, running(8)),
                                      L.batchnorm_backward_staged, norm),
    "batchnorm_test_backward": pair(
        (X, G, B), lambda x, g, b: L.batchnorm_test(x, g, b, L.RunningStatistics(B.copy(), G**2)),
        L.batchnorm_test_backward, lambda x, g, b: F.batch_norm(x, t(B), t(G**2), g, b)),
    "spatial_batchnorm_backward": pair((MAPS, GC, BC), lambda x, g, b: L.spatial_batchnorm_train(x, g, b, running(4)),
                                       L.spatial_batchnorm_backward, norm),
    "layernorm_backward": pair((X, G, B), L.layernorm_forward, L.layernorm_backward,
                               lambda x, g, b: F.layer_norm(x, (8,), g, b)),
    "groupnorm_backward": pair((MAPS, GC, BC), lambda x, g, b: L.groupnorm_forward(x, g, b, 2), L.groupnorm_backward,
                               lambda x, g, b: F.group_norm(x, 2, g, b)),
    "instancenorm_backward": pair((MAPS, GC, BC), L.instancenorm_forward, L.instancenorm_backward,
                                  lambda x, g, b: F.instance_norm(x, weight=g, bias=b)),
}
CONVOLUTIONS = {
    "convolution_naive_backward": direct(
        (IMAGE, FILTERS, FB), lambda x, w, b: C.convolution_naive(x, w, b, 2, 1),
        lambda up, x, w, b: C.convolution_naive_backward(up, x, w, 2, 1),
        lambda x, w, b: F.conv2d(x, w, b, 2, 1)),
    "convolution_backward": pair((IMAGE, FILTERS, FB), lambda x, w, b: C.convolution_forward(x, w, b, 1, 2, 2),
                                 C.convolution_backward, lambda x, w, b: F.conv2d(x, w, b, 1, 2, 2)),
    "grouped_convolution_backward": pair(
        (IMAGE, draw(4, 2, 3, 3), FB), lambda x, w, b: C.grouped_convolution_forward(x, w, b, 2, 2, 1),
        C.grouped_convolution_backward, lambda x, w, b: F.conv2d(x, w, b, 2, 1, groups=2)),
    "transposed_convolution_backward": pair(
        (IMAGE, draw(4, 2, 3, 3), draw(2)), lambda x, w, b: C.transposed_convolution_forward(x, w, b, 2, 1, 1),
        C.transposed_convolution_backward, lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1)),
    "max_pool_backward": pair((MAPS,), lambda x: C.max_pool_forward(x, 3, 2, 1), C.max_pool_backward,
                              lambda x: F.max_pool2d(x, 3, 2, 1)),
    "average_pool_backward": pair((MAPS,), lambda x: C.average_pool_forward(x, 3, 2, 1), C.average_pool_backward,
                                  lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "global_average_pool_backward": pair((MAPS,), C.global_average_pool_forward, C.global_average_pool_backward,
                                         lambda x: x.mean((2, 3))),
}
TRANSFORMED = {
    "convolution_fft_backward": direct(
        (IMAGE, FILTERS, FB), lambda x, w, b: C.convolution_fft(x, w, b, 2, 2, 2),
        lambda up, x, w, b: T.convolution_fft_backward(up, x, w, 2, 2, 2),
        lambda x, w, b: F.conv2d(x, w, b, 2, 2, 2)),
    "convolution_winograd_backward": direct(
        (IMAGE, FILTERS, FB), lambda x, w, b: C.convolution_winograd(x, w, b, 1),
        lambda up, x, w, b: T.convolution_winograd_backward(up, x, w, 1), lambda x, w, b: F.conv2d(x, w, b, 1, 1)),
}
SANDWICHES = {
    "affine_relu_backward": pair((X, WEIGHTS, BIAS), S.affine_relu_forward, S.affine_relu_backward,
                                 lambda x, w, b: (x @ w + b).relu()),
    "affine_batchnorm_relu_backward": pair(
        (X, WEIGHTS, BIAS, draw(5), draw(5)), lambda *o: S.affine_batchnorm_relu_forward(*o, running(5)),
        S.affine_batchnorm_relu_backward, lambda x, w, b, g, z: norm(x @ w + b, g, z).relu()),
    "conv_relu_backward": pair((IMAGE, FILTERS, FB), lambda x, w, b: S.conv_relu_forward(x, w, b, 2, 1),
                               S.conv_relu_backward, lambda x, w, b: F.conv2d(x, w, b, 2, 1).relu()),
    "conv_relu_pool_backward": pair((draw(2, 4, 4, 6), FILTERS, FB),
                                    lambda x, w, b: S.conv_relu_pool_forward(x, w, b, 1, 1), S.conv_relu_pool_backward,
                                    lambda x, w, b: F.max_pool2d(F.conv2d(x, w, b, 1, 1).relu(), 2)),
    "conv_batchnorm_relu_backward": pair(
        (IMAGE, FILTERS, FB, GC, BC), lambda *o: S.conv_batchnorm_relu_forward(*o, running(4), 1, 1),
        S.conv_batchnorm_relu_backward, lambda x, w, b, g, z: norm(F.conv2d(x, w, b, 1, 1), g, z).relu()),
}
SEQUENCES = {
    "rnn_step_backward": pair((ROWS_X[:, 0], ROWS_H, WX, WH, RB), R.rnn_step_forward, R.rnn_step_backward,
                              lambda x, h, wx, wh, b: torch.tanh(x @ wx + h @ wh + b)),
    "rnn_backward": pair((ROWS_X, ROWS_H, WX, WH, RB), R.rnn_forward, R.rnn_backward, torch_rnn),
    "truncated_rnn_gradients": Row((WX, WH, RB), *rnn_of(ROWS_X, ROWS_H)),
    "lstm_step_backward": pair(
        (ROWS_X[:, 0], ROWS_H, draw(2, 3), LX, LH, LB), lstm_step,
        lambda up, cache: R.lstm_step_backward(up[:, :3], up[:, 3:], cache),
        lambda x, h, c, wx, wh, b: torch_lstm(x[:, None], h, wx, wh, b, c, last=True)),
    "lstm_backward": pair((ROWS_X, ROWS_H, LX, LH, LB), R.lstm_forward, R.lstm_backward, torch_lstm),
}
ATTENTION = {
    "attention_backward": pair(
        (draw(2, 4, 3), draw(2, 4, 3), draw(2, 4, 5)), lambda q, k, v: A.attention_forward(q, k, v, A.causal_mask(4)),
        A.attention_backward, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "multi_head_attention_backward": pair(
        (draw(2, 3, 8), draw(2, 5, 8), draw(8, 24), draw(24), draw(8, 8), G),
        lambda *o: A.multi_head_attention_forward(*o, heads=2), A.multi_head_attention_backward, torch_heads),
}
TARGETS = draw(6, 4)
SWITCHED = spread(3, 4, 6, 4)
REGIONS = np.array([[0, 2], [1, 4], [3, 6]]), np.array([[0, 1], [1, 4]])
OTHERS = {
    "pooling.lp_pool_backward": pair((MAPS,), lambda x: pooling.lp_pool_forward(x, 2, 2), pooling.lp_pool_backward,
                                     lambda x: F.lp_pool2d(x, 2, 2, 2)),
    "pooling.region_max_pool_backward": pair(
        (MAPS,), lambda x: pooling.region_max_pool_forward(x, *REGIONS), pooling.region_max_pool_backward,
        lambda x: torch.stack([torch.stack([x[:, :, a:b, c:d].amax((2, 3)) for c, d in REGIONS[1]], -1)
                               for a, b in REGIONS[0]], -2)),
    "upsampling.max_unpool_backward": pair(
        (spread(3, 4, 3, 2),), lambda x: U.max_unpool_forward(x, C.max_pool_forward(SWITCHED, 2, 2)[1]),
        U.max_unpool_backward,
        lambda x: F.max_unpool2d(x, F.max_pool2d(t(SWITCHED), 2, 2, return_indices=True)[1], 2, 2)),
    "upsampling.bed_of_nails_backward": pair(
        (MAPS,), lambda x: U.bed_of_nails_forward(x, 2), U.bed_of_nails_backward,
        lambda x: F.conv_transpose2d(x, torch.eye(4, dtype=x.dtype)[:, :, None, None], stride=2, output_padding=1)),
    "upsampling.resize_backward": pair((MAPS,), lambda x: U.resize_forward(x, (9, 7), "bilinear"), U.resize_backward,
                                       lambda x: F.interpolate(x, (9, 7), mode="bilinear")),
    "upsampling.resize_backward (bicubic)": pair(
        (MAPS,), lambda x: U.resize_forward(x, (9, 7), "bicubic"), U.resize_backward,
        lambda x: F.interpolate(x, (9, 7), mode="bicubic")),
    "regularisers.l1": valued((X,), lambda w: regularisers.l1(w, 0.3), lambda w: 0.3 * w.abs().sum()),
    "regularisers.l2": valued((X,), lambda w: regularisers.l2(w, 0.3), lambda w: 0.15 * w.square().sum()),
    "regularisers.elastic_net": valued((X,), lambda w: regularisers.elastic_net(w, 0.3, 0.2),
                                       lambda w: 0.3 * w.abs().sum() + 0.1 * w.square().sum()),
    "regularisers.dropconnect_backward": pair(
        (X, draw(5, 8), BIAS), lambda x, w, b: regularisers.dropconnect_forward(x, w, b, MASK),
        regularisers.dropconnect_backward, lambda x, w, b: torch.einsum("nd,kd,nkd->nk", x, w, t(MASK)) + b),
    "efficient_backprop.scaled_tanh_backward": direct(
        (X,), efficient_backprop.scaled_tanh,
        lambda up, x: efficient_backprop.scaled_tanh_backward(up, efficient_backprop.scaled_tanh(x)),
        lambda x: 1.7159 * torch.tanh(2 / 3 * x)),
    "naive_pooling.max_pool_naive_backward": direct(
        (MAPS,), lambda x: naive_pooling.max_pool_naive(x, 3, 1),
        lambda up, x: naive_pooling.max_pool_naive_backward(up, x, 3, 1), lambda x: F.max_pool2d(x, 3, 1)),
    "regression_losses.l1_loss": valued((SCORES,), lambda s: regression_losses.l1_loss(s, YES),
                                        lambda s: F.l1_loss(s, t(YES), reduction="sum") / 6),
    "regression_losses.smooth_l1_loss": valued(
        (SCORES,), lambda s: regression_losses.smooth_l1_loss(s, YES, 0.8),
        lambda s: F.smooth_l1_loss(s, t(YES), reduction="sum", beta=0.8) / 6),
    "multitask.fast_rcnn_loss": valued(
        (SCORES, draw(6, 5, 4)), lambda s, o: multitask.fast_rcnn_loss(s, o, LABELS, TARGETS, 0.7, 0.5),
        lambda s, o: torch_boxes(s, o, TARGETS)),
    "hierarchical_softmax.hierarchical_softmax_loss": valued(
        (X, draw(4, 8), draw(4)), lambda x, w, b: H.hierarchical_softmax_loss(x, w, b, LABELS, TREE), torch_tree),
    "networks.TwoLayerNet": network(TWO, X, LABELS, lambda p: penalised(
        (t(X) @ p["w1"] + p["b1"]).relu() @ p["w2"] + p["b2"], p)),
    "networks.FullyConnectedNet": network(DEEP, X, LABELS, deep_peer),
    "convnet.ThreeLayerConvNet": network(CONV, PICTURES, LABELS, conv_peer),
    "worked_examples.sigmoid_neuron": valued(
        (draw(3), draw(2)), W.sigmoid_neuron, lambda w, x: torch.sigmoid(w[0] * x[0] + w[1] * x[1] + w[2]),
        ("w", "x")),
    "worked_examples.staged_computation": valued(
        (np.array(3.0), np.array(-4.0)), lambda x, y: W.staged_computation(float(x), float(y)),
        lambda x, y: (x + y.sigmoid()) / (x.sigmoid() + (x + y) ** 2), ("x", "y")),
    "worked_examples.matrix_product": direct(
        (draw(3, 4), draw(4, 5)), lambda w, x: w @ x,
        lambda up, w, x: W.matrix_product(w, x, up)[1], lambda w, x: w @ x),
    "worked_examples.logistic_regression": valued(
        (G,), lambda w: W.logistic_regression(w, X, (B[:6] > 0).astype(float)),
        lambda w: F.binary_cross_entropy_with_logits(t(X) @ w, t((B[:6] > 0).astype(float))), ("w",)),
    "worked_examples.softmax_net": valued(
        (X[0], draw(7, 8), draw(6, 7), draw(4, 6)), lambda *o: W.softmax_net(o[0], 2, *o[1:]),
        lambda x, a, b, c: -torch.log_softmax(c @ (b @ (a @ x).relu()).relu(), 0)[2], ("x", "w1", "w2", "w3")),
    "worked_examples.backpropagate": Row(FIVE, backpropagated, lambda *p: sigmoid_layers(t(X[0]), t(B[:2]), *p)),
}
ROWS: dict[str, Row] = OTHERS | {
    f"{module}.{name}": row for module, table in (
        ("autodiff", OPS), ("layers", LAYERS), ("convolution", CONVOLUTIONS), ("transformed_convolution", TRANSFORMED),
        ("sandwiches", SANDWICHES), ("recurrent", SEQUENCES), ("attention", ATTENTION)) for name, row in table.items()}


# ---------------------------------------------------------------- the facts


def gradients_by_hand() -> set[str]:
    """module.name of everything in visus.foundations that claims a gradient."""
    found = set()
    for info in pkgutil.iter_modules(visus.foundations.__path__):
        module = importlib.import_module(f"visus.foundations.{info.name}")
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
                continue
            if name != thing.__name__:  # another name of the same
                continue
            if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
                claims = hasattr(thing, "loss") and callable(thing.loss)
            elif inspect.isfunction(thing):
                result = str(thing.__annotations__.get("return", ""))
                claims = ("backward" in name or "backprop" in name or name.endswith(("_gradients", "gradients"))
                          or result.startswith("tuple[float, ") and any(
                              word in result for word in ("ndarray", "Array", "Gradients", "Two", "Three"))
                          or result == "tuple[np.ndarray, Gradients]"
                          or info.name == "autodiff" and result == "Array")
            else:
                claims = False
            if claims:
                found.add(f"{info.name}.{name}")
    return found


def test_every_gradient_has_a_row():
    found = gradients_by_hand()
    named = {name.split(" ")[0] for name in ROWS}
    assert found - named - set(NO_PAIR) == set(), "write a row for each of these"
    assert named <= found, "these rows name nothing that exists"
    assert set(NO_PAIR) <= found
    assert len(found) > 70


@pytest.mark.parametrize("name", ROWS)
def test_gradient_check_below_1e_7(name):
    row = ROWS[name]
    operands = [np.array(o, float) for o in row.operands]
    out, pull = row.run(*operands)
    upstream = np.random.default_rng(7).normal(size=np.shape(out))
    for i, mine in enumerate(pull(upstream)):
        assert mine.shape == operands[i].shape
        drawn = np.random.default_rng(8).permutation(mine.size)[:ENTRIES]

        def moved(values: np.ndarray, i: int = i, drawn: np.ndarray = drawn) -> np.ndarray:
            x = operands[i].copy()
            x.reshape(-1)[drawn] = values
            return row.run(*[x if j == i else o for j, o in enumerate(operands)])[0]

        claimed, at = mine.reshape(-1)[drawn], operands[i].reshape(-1)[drawn].copy()
        error, floor = np.full(len(drawn), np.inf), FLOOR * max(1.0, np.abs(mine).max(initial=0))
        for h in (1e-3, 1e-4, 1e-5):  # a wide step may cross a kink, a narrow one is mostly rounding
            if (error >= NUMERIC).any():
                numeric = five_point_difference(moved, at, upstream, h=h)
                size = np.maximum(np.abs(claimed) + np.abs(numeric), floor)
                error = np.minimum(error, np.abs(claimed - numeric) / size)
        assert error.max() < NUMERIC, f"operand {i}: {error.max():.1e}"


@pytest.mark.parametrize("name", ROWS)
def test_output_and_gradients_equal_torch_below_1e_10(name):
    row = ROWS[name]
    tensors = [torch.tensor(o, dtype=torch.float64, requires_grad=True) for o in row.operands]
    expected = row.peer(*tensors)
    out, pull = row.run(*[np.array(o, float) for o in row.operands])
    assert expected.dtype == torch.float64 and tuple(expected.shape) == np.shape(out)
    upstream = np.random.default_rng(7).normal(size=np.shape(out))
    expected.backward(torch.tensor(upstream))
    close = {"rtol": TORCH, "atol": TORCH}
    np.testing.assert_allclose(out, expected.detach().numpy(), **close)
    mine = pull(upstream)
    assert len(mine) == len(tensors)
    for i, (ours, tensor) in enumerate(zip(mine, tensors, strict=True)):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), **close, err_msg=f"operand {i}")


def test_the_harness_sees_a_gradient_that_is_wrong_by_one_part_in_a_million():
    row = ROWS["layers.affine_backward"]
    out, pull = row.run(*row.operands)
    upstream = np.ones(out.shape)
    wrong = pull(upstream)[1].copy()
    wrong[3, 2] *= 1 + 1e-6
    numeric = five_point_difference(lambda w: row.run(row.operands[0], w, row.operands[2])[0],
                                    np.array(row.operands[1]), upstream)
    assert relative_error(wrong, numeric, floor=FLOOR) > NUMERIC
