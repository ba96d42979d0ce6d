"""Recurrent layers and attention against torch.nn.RNN, LSTM, MultiheadAttention and numeric gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import attention as A
from visus.foundations import recurrent as R
from visus.foundations.gradient_check import check_gradient

RNG = np.random.default_rng(0)
N, T, D, H = 3, 6, 4, 5
X, H0, DH = RNG.normal(size=(N, T, D)), RNG.normal(size=(N, H)), RNG.normal(size=(N, T, H))
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
CELLS = {"rnn": (1, R.rnn_forward, R.rnn_backward, torch.nn.RNN),
         "lstm": (4, R.lstm_forward, R.lstm_backward, torch.nn.LSTM)}


def weights(gates):
    random = np.random.default_rng(1)
    return [random.normal(size=s) * 0.5 for s in ((D, gates * H), (H, gates * H), (gates * H,))]


def torch_layer(kind, parameters):
    layer = kind(D, H, batch_first=True).double()
    wx, wh, b = parameters
    layer.load_state_dict({"weight_ih_l0": torch.tensor(wx.T), "weight_hh_l0": torch.tensor(wh.T),
                           "bias_ih_l0": torch.tensor(b), "bias_hh_l0": torch.zeros(len(b), dtype=torch.float64)})
    return layer


@pytest.mark.parametrize("name", CELLS)
def test_bptt_equals_torchs_layer(name):
    gates, forward, backward, kind = CELLS[name]
    parameters = weights(gates)
    layer, x, h0 = torch_layer(kind, parameters), torch.tensor(X, requires_grad=True), torch.tensor(H0)
    h0.requires_grad_()
    first = h0[None] if name == "rnn" else (h0[None], torch.zeros(1, N, H, dtype=torch.float64))
    expected, _ = layer(x, first)
    expected.backward(torch.tensor(DH))
    states, caches = forward(X, H0, *parameters)
    dx, dh0, grads = backward(DH, caches)
    np.testing.assert_allclose(states, expected.detach().numpy(), **CLOSE)
    for mine, theirs in ((dx, x.grad), (dh0, h0.grad), (grads["wx"], layer.weight_ih_l0.grad.T),
                         (grads["wh"], layer.weight_hh_l0.grad.T), (grads["b"], layer.bias_ih_l0.grad)):
        np.testing.assert_allclose(mine, theirs.numpy(), **CLOSE)


@pytest.mark.parametrize("name", CELLS)
def test_bptt_equals_numeric_gradients(name):
    gates, forward, backward, _ = CELLS[name]
    operands = [X.copy(), H0.copy(), *weights(gates)]
    dx, dh0, grads = backward(DH, forward(*operands)[1])
    for i, mine in enumerate((dx, dh0, grads["wx"], grads["wh"], grads["b"])):
        found = check_gradient(lambda v, i=i: forward(*[v if j == i else o for j, o in enumerate(operands)])[0],
                               operands[i], mine, DH, rng=np.random.default_rng(2), floor=1e-3)
        assert found.error < 1e-7, found


@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 100])
def test_truncated_bptt_equals_torch_with_the_state_detached_between_chunks(chunk):
    parameters = weights(1)
    layer, h = torch_layer(torch.nn.RNN, parameters), torch.tensor(H0)[None]
    for start in range(0, T, chunk):
        out, h = layer(torch.tensor(X[:, start:start + chunk]), h.detach())
        (out ** 2).sum().backward()
    last, grads = R.truncated_rnn_gradients(X, H0, *parameters, lambda states, start: 2 * states, chunk)
    np.testing.assert_allclose(last, h[0].detach().numpy(), **CLOSE)
    np.testing.assert_allclose(grads["wh"], layer.weight_hh_l0.grad.T.numpy(), **CLOSE)
    np.testing.assert_allclose(grads["wx"], layer.weight_ih_l0.grad.T.numpy(), **CLOSE)
    if chunk >= T:
        states, caches = R.rnn_forward(X, H0, *parameters)
        np.testing.assert_allclose(grads["wh"], R.rnn_backward(2 * states, caches)[2]["wh"], **CLOSE)


def test_gradients_vanish_and_explode_through_an_rnn_and_last_through_an_open_lstm():
    """The norm of d h_T / d h_0 with recurrent weights below and above one, in the linear part of tanh."""
    x, up = np.zeros((1, 50, 1)), np.zeros((1, 50, H))
    up[:, -1] = 1
    norms = [np.linalg.norm(R.rnn_backward(up, R.rnn_forward(x, np.zeros((1, H)), np.zeros((1, H)), s * np.eye(H),
                                                             np.zeros(H))[1])[1]) for s in (0.5, 1.0, 1.5)]
    assert norms[0] < 1e-12 and norms[1] == pytest.approx(np.sqrt(H)) and norms[2] > 1e8
    b = np.concatenate([np.zeros(H), np.full(H, 20.0), np.zeros(2 * H)])  # the forget gate stands open
    caches = R.lstm_forward(x, np.zeros((1, H)), np.zeros((1, 4 * H)), np.zeros((H, 4 * H)), b)[1]
    dc = np.ones((1, H))
    for cache in reversed(caches):
        dc = R.lstm_step_backward(np.zeros((1, H)), dc, cache)[2]
    np.testing.assert_allclose(dc, 1, rtol=1e-6)


# ---------------------------------------------------------------- attention

Q, K, V = RNG.normal(size=(2, 3, 5, 4)), RNG.normal(size=(2, 3, 6, 4)), RNG.normal(size=(2, 3, 6, 7))
ALLOWED = RNG.random((5, 6)) < 0.6
ALLOWED[:, 2] = True


@pytest.mark.parametrize("allowed", [None, ALLOWED], ids=["all", "masked"])
def test_scaled_dot_product_attention_equals_torch_and_numeric_gradients(allowed):
    tensors = [torch.tensor(v, requires_grad=True) for v in (Q, K, V)]
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=None if allowed is None else torch.tensor(allowed))
    out, cache = A.attention_forward(Q, K, V, allowed)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = RNG.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    operands = [Q.copy(), K.copy(), V.copy()]
    for i, (mine, t) in enumerate(zip(A.attention_backward(dout, cache), tensors, strict=True)):
        np.testing.assert_allclose(mine, t.grad.numpy(), **CLOSE)
        found = check_gradient(
            lambda v, i=i: A.attention_forward(*[v if j == i else o for j, o in enumerate(operands)], allowed)[0],
            operands[i], mine, dout, rng=np.random.default_rng(2), floor=1e-3)
        assert found.error < 1e-7, found


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_multi_head_attention_equals_torchs_layer(heads, causal, cross):
    dim, random = 8, np.random.default_rng(3)
    x, other = random.normal(size=(2, 5, dim)), random.normal(size=(2, 5, dim))
    w_qkv, b_qkv = random.normal(size=(dim, 3 * dim)), random.normal(size=3 * dim)
    w_out, b_out = random.normal(size=(dim, dim)), random.normal(size=dim)
    layer = torch.nn.MultiheadAttention(dim, heads, batch_first=True).double()
    layer.load_state_dict({"in_proj_weight": torch.tensor(w_qkv.T), "in_proj_bias": torch.tensor(b_qkv),
                           "out_proj.weight": torch.tensor(w_out.T), "out_proj.bias": torch.tensor(b_out)})
    allowed = A.causal_mask(5) if causal else None
    tx = torch.tensor(x, requires_grad=True)
    tc = torch.tensor(other, requires_grad=True) if cross else tx
    expected, _ = layer(tx, tc, tc, attn_mask=None if allowed is None else ~torch.tensor(allowed))  # True: hidden
    out, cache = A.multi_head_attention_forward(x, other if cross else x, w_qkv, b_qkv, w_out, b_out, heads, allowed)
    np.testing.assert_allclose(out, expected.detach().numpy(), **CLOSE)
    dout = random.normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    dx, dcontext, *rest = A.multi_head_attention_backward(dout, cache)
    np.testing.assert_allclose(dx if cross else dx + dcontext, tx.grad.numpy(), **CLOSE)
    if cross:
        np.testing.assert_allclose(dcontext, tc.grad.numpy(), **CLOSE)
    peers = (layer.in_proj_weight.grad.T, layer.in_proj_bias.grad, layer.out_proj.weight.grad.T,
             layer.out_proj.bias.grad)
    for mine, theirs in zip(rest, peers, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-10, atol=1e-11)


def test_self_attention_is_permutation_equivariant_and_causal_attention_sees_no_future():
    x, order = RNG.normal(size=(1, 6, 4)), RNG.permutation(6)
    plain = A.attention_forward(x, x, x)[0]
    np.testing.assert_allclose(A.attention_forward(*[x[:, order]] * 3)[0], plain[:, order], **CLOSE)
    mask, changed = A.causal_mask(6), x.copy()
    changed[:, 4:] += 1
    before, after = (A.attention_forward(v, v, v, mask)[0] for v in (x, changed))
    assert np.array_equal(before[:, :4], after[:, :4]) and not np.allclose(before[:, 4:], after[:, 4:])


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="heads"):
        A.multi_head_attention_forward(X, X, np.ones((4, 12)), np.ones(12), np.ones((4, 4)), np.ones(4), 3)
    with pytest.raises(UserError, match="no key"):
        A.attention_forward(Q, K, V, np.zeros((5, 6), bool))
    with pytest.raises(UserError, match="sequence"):
        R.rnn_forward(X[0], H0, *weights(1))
    with pytest.raises(UserError, match="chunk"):
        R.truncated_rnn_gradients(X, H0, *weights(1), lambda states, start: states, 0)
