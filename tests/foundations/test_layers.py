"""Forward and backward of every layer against torch in float64 and against numeric gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import layers as L
from visus.foundations.gradient_check import centred_difference, check_gradient, relative_error

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape)


X, MAPS = draw(6, 8), draw(4, 6, 3, 5)
G, B = draw(8), draw(8)
GC, BC = draw(6), draw(6)
W, BIAS = draw(8, 5), draw(5)
WK, BK = draw(3, 8, 5), draw(3, 5)


def stats(n):
    return L.RunningStatistics.of(n)


def batch(x, g, b):
    return F.batch_norm(x, None, None, g, b, training=True)


# name: (operands, our forward, our backward, torch)
PAIRS = {
    "affine": ((X, W, BIAS), L.affine_forward, L.affine_backward, lambda x, w, b: x @ w + b),
    "affine_maps": ((draw(2, 2, 4), W, BIAS), L.affine_forward, L.affine_backward,
                    lambda x, w, b: x.flatten(1) @ w + b),
    "relu": ((X,), L.relu_forward, L.relu_backward, F.relu),
    "leaky_relu": ((X,), lambda x: L.leaky_relu_forward(x, 0.1), L.leaky_relu_backward,
                   lambda x: F.leaky_relu(x, 0.1)),
    "prelu": ((MAPS, GC), L.prelu_forward, L.prelu_backward, F.prelu),
    "sigmoid": ((X,), L.sigmoid_forward, L.sigmoid_backward, torch.sigmoid),
    "tanh": ((X,), L.tanh_forward, L.tanh_backward, torch.tanh),
    "elu": ((X,), lambda x: L.elu_forward(x, 1.3), L.elu_backward, lambda x: F.elu(x, 1.3)),
    "selu": ((X,), L.selu_forward, L.selu_backward, F.selu),
    "gelu": ((X,), L.gelu_forward, L.gelu_backward, F.gelu),
    "silu": ((X,), L.silu_forward, L.silu_backward, F.silu),
    "hard_swish": ((X * 3,), L.hard_swish_forward, L.hard_swish_backward, F.hardswish),
    "maxout": ((X, WK, BK), L.maxout_forward, L.maxout_backward,
               lambda x, w, b: (torch.einsum("nd,kdm->knm", x, w) + b[:, None]).amax(0)),
    "batchnorm": ((X, G, B), lambda x, g, b: L.batchnorm_train(x, g, b, stats(8)), L.batchnorm_backward, batch),
    "batchnorm_staged": ((X, G, B), lambda x, g, b: L.batchnorm_train(x, g, b, stats(8)),
                         L.batchnorm_backward_staged, batch),
    "batchnorm_test": ((X, G, B), lambda x, g, b: L.batchnorm_test(x, g, b, L.RunningStatistics(B, G ** 2)),
                       L.batchnorm_test_backward,
                       lambda x, g, b: F.batch_norm(x, torch.tensor(B), torch.tensor(G ** 2), g, b)),
    "spatial_batchnorm": ((MAPS, GC, BC), lambda x, g, b: L.spatial_batchnorm_train(x, g, b, stats(6)),
                          L.spatial_batchnorm_backward, batch),
    "layernorm": ((X, G, B), L.layernorm_forward, L.layernorm_backward, lambda x, g, b: F.layer_norm(x, (8,), g, b)),
    "layernorm_tokens": ((draw(2, 3, 8), G, B), L.layernorm_forward, L.layernorm_backward,
                         lambda x, g, b: F.layer_norm(x, (8,), g, b)),
    "groupnorm": ((MAPS, GC, BC), lambda x, g, b: L.groupnorm_forward(x, g, b, 3), L.groupnorm_backward,
                  lambda x, g, b: F.group_norm(x, 3, g, b)),
    "instancenorm": ((MAPS, GC, BC), L.instancenorm_forward, L.instancenorm_backward,
                     lambda x, g, b: F.instance_norm(x, weight=g, bias=b)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_forward_and_backward_equal_torchs(name):
    operands, forward, backward, peer = PAIRS[name]
    tensors = [torch.tensor(o, requires_grad=True) for o in operands]
    out, cache = forward(*operands)
    expected = peer(*tensors)
    dout = np.random.default_rng(1).normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-10, atol=1e-13)
    ours = backward(dout, cache)
    for mine, tensor in zip(ours if isinstance(ours, tuple) else (ours,), tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", PAIRS)
def test_backward_equals_numeric_gradients(name):
    operands, forward, backward, _ = PAIRS[name]
    operands = [o.copy() for o in operands]
    out, cache = forward(*operands)
    dout = np.random.default_rng(2).normal(size=out.shape)
    ours = backward(dout, cache)
    for i, mine in enumerate(ours if isinstance(ours, tuple) else (ours,)):
        found = check_gradient(
            lambda x, i=i: forward(*[x if j == i else o for j, o in enumerate(operands)])[0], operands[i], mine, dout,
            rng=np.random.default_rng(3), floor=1e-3)
        assert found.error < 1e-7, f"operand {i}: {found}"


def test_kinks_take_torchs_subgradient():
    x = np.array([-3.0, -0.0, 0.0, 3.0])
    for forward, backward, peer in ((L.relu_forward, L.relu_backward, F.relu),
                                    (L.leaky_relu_forward, L.leaky_relu_backward, F.leaky_relu),
                                    (L.elu_forward, L.elu_backward, F.elu),
                                    (L.hard_swish_forward, L.hard_swish_backward, F.hardswish)):
        t = torch.tensor(x, requires_grad=True)
        peer(t).sum().backward()
        np.testing.assert_allclose(backward(np.ones(4), forward(x)[1]), t.grad.numpy(), rtol=1e-12, err_msg=str(peer))


LABELS = RNG.integers(0, 5, 7)
SCORES, TARGETS = draw(7, 5) * 3, RNG.random((7, 5))
LOSSES = {
    "softmax": (L.softmax_loss, LABELS, F.cross_entropy),
    "svm": (L.svm_loss, LABELS, lambda s, y: 5 * F.multi_margin_loss(s, y)),
    "squared_error": (L.squared_error, TARGETS, lambda s, y: 0.5 * F.mse_loss(s, y, reduction="sum") / 7),
    "logistic": (L.logistic_loss, TARGETS, F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_torch_and_numeric_gradients(name):
    loss, targets, peer = LOSSES[name]
    t = torch.tensor(SCORES, requires_grad=True)
    expected = peer(t, torch.tensor(targets))
    expected.backward()
    value, gradient = loss(SCORES, targets)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-10, atol=1e-14)
    numeric = centred_difference(lambda s: loss(s, targets)[0], SCORES.copy())
    assert relative_error(gradient, numeric, floor=1e-3) < 1e-7


def test_extreme_scores_overflow_nowhere():
    scores = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    value, gradient = L.softmax_loss(scores, np.array([0, 0]))
    assert value == 1e4 and np.isfinite(gradient).all()
    assert L.logistic_loss(scores, np.ones_like(scores))[0] == pytest.approx((2e4 + 2 * np.log(2)) / 6)
    assert np.array_equal(L.sigmoid(np.array([-1e4, 0.0, 1e4])), [0, 0.5, 1])
    assert L.elu_forward(np.array([-1e4, 1e4]))[0].tolist() == [-1, 1e4]
    np.testing.assert_allclose(L.softmax(scores), [[1, 0, 0], [0, 1, 0]])


def test_losses_at_a_start_without_knowledge():
    """log C for softmax, C - 1 for the hinge: the sanity check of the course."""
    scores, labels = np.zeros((4, 10)), np.arange(4)
    assert L.softmax_loss(scores, labels)[0] == pytest.approx(np.log(10))
    assert L.svm_loss(scores, labels)[0] == 9


def test_running_statistics_equal_torchs_over_several_batches():
    ours, theirs = L.RunningStatistics.of(6), torch.nn.BatchNorm2d(6).double()
    for _ in range(3):
        x = draw(4, 6, 3, 5) * 2 + 1
        L.spatial_batchnorm_train(x, np.ones(6), np.zeros(6), ours)
        theirs(torch.tensor(x))
    np.testing.assert_allclose(ours.mean, theirs.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.variance, theirs.running_var.numpy(), rtol=1e-12)
    out = L.spatial_batchnorm_test(MAPS, np.ones(6), np.zeros(6), ours)[0]
    np.testing.assert_allclose(out, theirs.eval()(torch.tensor(MAPS)).detach().numpy(), rtol=1e-10, atol=1e-13)


def test_both_kinds_of_dropout_have_the_same_mean_in_training_and_at_test_time():
    x, random = np.full((200, 200), 3.0), np.random.default_rng(0)
    vanilla, inverted = (f(x, 0.7, random)[0] for f in (L.vanilla_dropout_train, L.inverted_dropout_train))
    for out, test in ((vanilla, L.vanilla_dropout_test(x, 0.7)), (inverted, L.inverted_dropout_test(x))):
        assert (out != 0).mean() == pytest.approx(0.7, abs=0.01)
        assert out.mean() == pytest.approx(test.mean(), rel=0.02)
    assert set(np.unique(vanilla)) == {0, 3} and np.unique(inverted) == pytest.approx([0, 3 / 0.7])


def test_alpha_dropout_maps_kept_and_dropped_entries_as_torch_and_keeps_mean_and_variance():
    x = draw(300, 300)
    ours, cache = L.alpha_dropout_train(x, 0.8, np.random.default_rng(0))
    torch.manual_seed(0)
    theirs = F.alpha_dropout(torch.tensor(x), 0.2, training=True).numpy()
    values, counts = np.unique(np.round(theirs, 9), return_counts=True)
    kept, torch_kept = cache[0] > 0, np.abs(theirs - values[counts.argmax()]) > 1e-8
    np.testing.assert_allclose(ours[kept & torch_kept], theirs[kept & torch_kept], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[~kept], theirs[~torch_kept][0], rtol=1e-10)
    assert ours.mean() == pytest.approx(0, abs=0.02) and ours.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("train", [L.vanilla_dropout_train, L.inverted_dropout_train, L.alpha_dropout_train])
def test_dropout_backward_equals_numeric_gradients_under_the_same_mask(train):
    x, dout = X.copy(), draw(6, 8)
    gradient = L.dropout_backward(dout, train(x, 0.5, np.random.default_rng(4))[1])
    numeric = centred_difference(lambda a: train(a, 0.5, np.random.default_rng(4))[0], x, dout)
    assert relative_error(gradient, numeric) < 1e-8


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="features"):
        L.affine_forward(X, draw(7, 5), BIAS)
    with pytest.raises(UserError, match="no variance"):
        L.batchnorm_train(X[:1], G, B, stats(8))
    with pytest.raises(UserError, match="groups"):
        L.groupnorm_forward(MAPS, GC, BC, 4)
    for labels in (LABELS[:3], LABELS.astype(float), LABELS - 5, LABELS + 5):
        with pytest.raises(UserError, match="labels"):
            L.softmax_loss(SCORES, labels)
    with pytest.raises(UserError, match="targets"):
        L.squared_error(SCORES, TARGETS[0])
    for keep in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="keep"):
            L.inverted_dropout_train(X, keep, RNG)
