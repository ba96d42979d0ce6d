"""Recurrent layers by hand: the Elman network and the LSTM, with backpropagation through time, whole or truncated.

A step is a layer like any other; a sequence is the same layer applied T times with shared weights, so that the
gradient of a weight is the sum over the steps, and the gradient of a state is handed from each step to the one before
it.

Shapes: N sequences, T steps, D inputs, H units. x [N, T, D]; h [N, T, H]; h0, c0 [N, H]; dense layers as in `layers`.

Sources: Elman 1990; Werbos 1990 (BPTT); Williams and Peng 1990 (truncated BPTT); Hochreiter and Schmidhuber 1997 and
Gers et al. 2000 (LSTM with a forget gate); Stanford CS231n, assignment 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import Cache, sigmoid

Gradients = dict[str, np.ndarray]
UpstreamOf = Callable[[np.ndarray, int], np.ndarray]


# ---------------------------------------------------------------- Elman


def rnn_step_forward(x: np.ndarray, h: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                     b: np.ndarray) -> tuple[np.ndarray, Cache]:
    """h' = tanh(x Wx + h Wh + b). x: [N, D]; h: [N, H]; wx: [D, H]; wh: [H, H]; b: [H]."""
    new = np.tanh(x @ wx + h @ wh + b)
    return new, (x, h, wx, wh, new)


def rnn_step_backward(dnew: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, Gradients]:
    """Returns dx, dh and the gradients of wx, wh and b."""
    x, h, wx, wh, new = cache
    da = dnew * (1 - new ** 2)
    return da @ wx.T, da @ wh.T, {"wx": x.T @ da, "wh": h.T @ da, "b": da.sum(axis=0)}


def rnn_forward(x: np.ndarray, h0: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                b: np.ndarray) -> tuple[np.ndarray, list[Cache]]:
    """Every step of a sequence. Returns all states, [N, T, H]."""
    _check_sequence(x, h0)
    h, states, caches = h0, [], []
    for t in range(x.shape[1]):
        h, cache = rnn_step_forward(x[:, t], h, wx, wh, b)
        states.append(h)
        caches.append(cache)
    return np.stack(states, axis=1), caches


def rnn_backward(dh: np.ndarray, caches: list[Cache]) -> tuple[np.ndarray, np.ndarray, Gradients]:
    """Backpropagation through time. dh: the gradient that reaches each state from outside, [N, T, H].

    A state also gets a gradient from the step after it. Returns dx, dh0 and the gradients of wx, wh and b.
    """
    after, dx = np.zeros_like(dh[:, 0]), []
    total: Gradients = {}
    for t in reversed(range(dh.shape[1])):
        dx_t, after, grads = rnn_step_backward(dh[:, t] + after, caches[t])
        dx.append(dx_t)
        _accumulate(total, grads)
    return np.stack(dx[::-1], axis=1), after, total


def truncated_rnn_gradients(x: np.ndarray, h0: np.ndarray, wx: np.ndarray, wh: np.ndarray, b: np.ndarray,
                            upstream: UpstreamOf, chunk: int) -> tuple[np.ndarray, Gradients]:
    """Truncated BPTT: the state runs through the whole sequence, the gradient only through `chunk` steps.

    upstream: (states of a chunk [N, t, H], first step) -> the gradient of the loss at them. The memory needed is that
    of one chunk; what a state owes to inputs before its chunk is not learnt. Returns the last state and the sums of the
    chunks' gradients of wx, wh and b.
    """
    if chunk < 1:
        raise UserError(f"a chunk of {chunk} steps", where="truncated_rnn_gradients", remedy="Take 1 or more")
    h = h0
    total: Gradients = {}
    for start in range(0, x.shape[1], chunk):
        states, caches = rnn_forward(x[:, start:start + chunk], h, wx, wh, b)
        _accumulate(total, rnn_backward(upstream(states, start), caches)[2])
        h = states[:, -1]
    return h, total


# ---------------------------------------------------------------- LSTM


def lstm_step_forward(x: np.ndarray, h: np.ndarray, c: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                      b: np.ndarray) -> tuple[np.ndarray, np.ndarray, Cache]:
    """c' = f c + i g, h' = o tanh(c'): the cell is added to, not multiplied through, so that gradients last.

    [i, f, g, o] = x Wx + h Wh + b, sigmoid for the gates i, f, o and tanh for the candidate g.
    x: [N, D]; h, c: [N, H]; wx: [D, 4H]; wh: [H, 4H]; b: [4H]. Returns h', c', cache.
    """
    i, f, g, o = np.split(x @ wx + h @ wh + b, 4, axis=1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    new_c = f * c + i * g
    squashed = np.tanh(new_c)
    return o * squashed, new_c, (x, h, c, wx, wh, i, f, g, o, squashed)


def lstm_step_backward(dh: np.ndarray, dc: np.ndarray,
                       cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray, Gradients]:
    """dh, dc: the gradients of h' and c'. Returns dx, dh, dc of what went in, and those of wx, wh and b."""
    x, h, c, wx, wh, i, f, g, o, squashed = cache
    dc = dc + dh * o * (1 - squashed ** 2)
    da = np.concatenate([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g ** 2),
                         dh * squashed * o * (1 - o)], axis=1)  # [N, 4H]
    return da @ wx.T, da @ wh.T, dc * f, {"wx": x.T @ da, "wh": h.T @ da, "b": da.sum(axis=0)}


def lstm_forward(x: np.ndarray, h0: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                 b: np.ndarray) -> tuple[np.ndarray, list[Cache]]:
    """Every step of a sequence, from an empty cell. Returns all states, [N, T, H]."""
    _check_sequence(x, h0)
    h, c, states, caches = h0, np.zeros_like(h0), [], []
    for t in range(x.shape[1]):
        h, c, cache = lstm_step_forward(x[:, t], h, c, wx, wh, b)
        states.append(h)
        caches.append(cache)
    return np.stack(states, axis=1), caches


def lstm_backward(dh: np.ndarray, caches: list[Cache]) -> tuple[np.ndarray, np.ndarray, Gradients]:
    """Backpropagation through time. dh: [N, T, H] from outside. Returns dx, dh0 and those of wx, wh and b."""
    after, dc, dx = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0]), []
    total: Gradients = {}
    for t in reversed(range(dh.shape[1])):
        dx_t, after, dc, grads = lstm_step_backward(dh[:, t] + after, dc, caches[t])
        dx.append(dx_t)
        _accumulate(total, grads)
    return np.stack(dx[::-1], axis=1), after, total


def _accumulate(total: Gradients, grads: Gradients) -> None:
    for name, gradient in grads.items():
        total[name] = total[name] + gradient if name in total else gradient


def _check_sequence(x: np.ndarray, h0: np.ndarray) -> None:
    if x.ndim != 3 or not x.shape[1] or h0.ndim != 2 or len(x) != len(h0):
        raise UserError(f"a sequence of shape {x.shape} with a first state of shape {h0.shape}", where="recurrent",
                        remedy="x is [N, T, D] with T at least 1, and h0 is [N, H]")
