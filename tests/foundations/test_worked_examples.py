"""The worked examples against the numbers of the courses and each other. Their gradients: test_every_gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.foundations import convolution, naive_pooling, sandwiches
from visus.foundations import worked_examples as W
from visus.foundations.convnet import ThreeLayerConvNet
from visus.foundations.solver import Solver
from visus.foundations.update_rules import Adam

RNG = np.random.default_rng(0)


def test_the_sigmoid_neuron_gives_the_numbers_of_the_course():
    f, grads = W.sigmoid_neuron(np.array([2.0, -3.0, -3.0]), np.array([-1.0, -2.0]))
    assert round(f, 2) == 0.73
    np.testing.assert_allclose(grads["w"], [-0.20, -0.39, 0.20], atol=5e-3)
    np.testing.assert_allclose(grads["x"], [0.39, -0.59], atol=5e-3)
    assert grads["w"][2] == pytest.approx(f * (1 - f), rel=1e-15)


def test_the_jacobian_that_nobody_builds_gives_the_same_gradient():
    w, x, up = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5)), RNG.normal(size=(3, 5))
    full = W.matrix_product_jacobian(w, x)
    assert full.shape == (3, 5, 4, 5) and np.count_nonzero(full) == 3 * 5 * 4
    np.testing.assert_allclose(np.einsum("ij,ijkl->kl", up, full), W.matrix_product(w, x, up)[1]["x"], rtol=1e-14)


def test_p_minus_y_is_the_gradient_of_the_last_layer():
    """C1.4: dW3 = (p - y) h2^T and dh2 = W3^T (p - y), with torch's autograd as the judge."""
    x, w1, w2, w3 = (RNG.normal(size=s) for s in ((8,), (7, 8), (6, 7), (4, 6)))
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, w1, w2, w3)]
    h2 = (tensors[2] @ (tensors[1] @ tensors[0]).relu()).relu()
    h2.retain_grad()
    p = torch.softmax(tensors[3] @ h2, 0)
    (-torch.log(p[1])).backward()
    _, grads = W.softmax_net(x, 1, w1, w2, w3)
    np.testing.assert_allclose(grads["h2"], h2.grad.numpy(), rtol=1e-12)
    y = np.eye(4)[1]
    np.testing.assert_allclose(grads["w3"], np.outer(p.detach().numpy() - y, h2.detach().numpy()), rtol=1e-12)
    with pytest.raises(UserError, match="label"):
        W.softmax_net(x, 4, w1, w2, w3)


def test_a_map_of_a_layer_is_a_sum_of_convolutions_cut_at_zero():
    """C1.4: h_j = max(0, sum_k h_k * w_kj), one map at a time."""
    h, w = RNG.normal(size=(1, 3, 6, 6)), RNG.normal(size=(4, 3, 3, 3))
    out, _ = sandwiches.conv_relu_forward(h, w, np.zeros(4))
    for j in range(4):
        total = sum(convolution.convolution_naive(h[:, k:k + 1], w[j:j + 1, k:k + 1], np.zeros(1)) for k in range(3))
        np.testing.assert_allclose(out[:, j:j + 1], np.maximum(total, 0), rtol=1e-12, atol=1e-14)


def test_the_log_loss_is_convex_and_its_curvature_is_torchs():
    x, w, y = RNG.normal(size=(20, 3)), RNG.normal(size=3), (RNG.random(20) < 0.5).astype(float)
    found = W.logistic_curvature(w, x)
    expected = torch.autograd.functional.hessian(
        lambda v: torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(x) @ v, torch.tensor(y)),
        torch.tensor(w))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)
    assert np.linalg.eigvalsh(found).min() > 0
    for _ in range(20):  # the chord lies above the curve
        a, b, t = RNG.normal(size=3) * 3, RNG.normal(size=3) * 3, RNG.random()
        values = [W.logistic_regression(v, x, y)[0] for v in (t * a + (1 - t) * b, a, b)]
        assert values[0] <= t * values[1] + (1 - t) * values[2] + 1e-12


def test_the_deltas_of_backpropagation_shrink_by_a_quarter_or_more_a_sigmoid_layer():
    sizes = [(4, 4)] * 6
    weights = [np.linalg.qr(RNG.normal(size=s))[0] for s in sizes]  # of norm 1
    found = W.backpropagate(RNG.normal(size=4), np.zeros(4), weights, [np.zeros(4)] * 6)
    norms = [np.linalg.norm(d) for d in found.deltas]
    assert all(below <= 0.25 * above for below, above in zip(norms, norms[1:], strict=False))
    assert [w.shape for w in found.weights] == sizes and found.biases is found.deltas


def test_the_regularised_step_equals_torchs_weight_decay():
    w, dw = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    parameter = torch.nn.Parameter(torch.tensor(w))
    parameter.grad = torch.tensor(dw)
    torch.optim.SGD([parameter], lr=0.1, weight_decay=5.0 / 200).step()
    np.testing.assert_allclose(W.regularised_step(w, dw, lr=0.1, decay=5.0, examples=200), parameter.detach().numpy(),
                               rtol=1e-14)
    with pytest.raises(UserError, match="examples"):
        W.regularised_step(w, dw, lr=0.1, decay=5.0, examples=0)
    with pytest.raises(UserError, match="three weights"):
        W.sigmoid_neuron(np.ones(2), np.ones(2))


def test_pooling_by_its_definition_equals_the_fast_one():
    x = np.round(RNG.normal(size=(2, 3, 7, 6)))  # many ties
    fast, cache = convolution.max_pool_forward(x, 3, 2)
    assert np.array_equal(naive_pooling.max_pool_naive(x, 3, 2), fast)
    up = RNG.normal(size=fast.shape)
    np.testing.assert_allclose(naive_pooling.max_pool_naive_backward(up, x, 3, 2),
                               convolution.max_pool_backward(up, cache), atol=1e-15)


def test_the_three_layer_net_starts_at_log_c_and_memorises_fifty_images():
    """The two sanity checks of the course: the loss at chance, and a small set learnt by heart."""
    x, labels = RNG.normal(size=(50, 1, 8, 8)), RNG.integers(0, 10, 50)
    small = ThreeLayerConvNet((1, 8, 8), 10, rng=np.random.default_rng(1), filters=4, kernel=3, hidden=16, scale=1e-3)
    chance = small.loss(x, labels)[0]
    assert chance == pytest.approx(np.log(10), abs=1e-3)
    small.reg = 0.5
    assert small.loss(x, labels)[0] > chance
    net = ThreeLayerConvNet((1, 8, 8), 10, rng=np.random.default_rng(1), filters=8, kernel=3, hidden=50)
    solver = Solver(net, train=(x, labels), val=(x, labels), rule=Adam(lr=5e-3), rng=np.random.default_rng(2),
                    batch_size=25, epochs=30)
    solver.train()
    assert solver.history.train_accuracies[-1] == 1.0
    with pytest.raises(UserError, match="even"):
        ThreeLayerConvNet((1, 7, 8), 10, rng=RNG)
