"""Regression, multi-task and hierarchical losses against the foundations, torch and torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from visus.core.errors import UserError
from visus.foundations import hierarchical_softmax as by_hand
from visus.foundations import multitask as multitask_by_hand
from visus.foundations import regression_losses as regression_by_hand
from visus.losses.hierarchical import HierarchicalSoftmax
from visus.losses.multitask import fast_rcnn
from visus.losses.regression import l1, l2, smooth_l1


def rng():
    return np.random.default_rng(0)


def test_regression_losses_and_their_gradients_equal_those_by_hand():
    x, y = rng().normal(size=(5, 3)) * 2, rng().normal(size=(5, 3))[::-1].copy()
    for loss, hand in ((l1, regression_by_hand.l1_loss), (smooth_l1, regression_by_hand.smooth_l1_loss),
                       (lambda a, b: smooth_l1(a, b, beta=0.3),
                        lambda a, b: regression_by_hand.smooth_l1_loss(a, b, 0.3))):
        t = torch.tensor(x, requires_grad=True)
        found = loss(t, torch.tensor(y))
        found.backward()
        value, gradient = hand(x, y)
        assert found.item() == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(t.grad.numpy(), gradient, rtol=1e-12)
    assert l2(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(((x - y) ** 2).sum() / 5, rel=1e-12)


def test_the_force_of_the_squared_error_grows_and_that_of_the_others_does_not():
    for error in (2.0, 20.0, 2000.0):
        pulls = []
        for loss in (l2, l1, smooth_l1):
            t = torch.tensor([[error]], requires_grad=True)
            loss(t, torch.zeros(1, 1)).backward()
            pulls.append(t.grad.item())
        assert pulls == [2 * error, 1.0, 1.0]


def test_the_multi_task_loss_equals_the_one_by_hand_and_background_learns_no_box():
    scores, offsets, targets = rng().normal(size=(7, 4)), rng().normal(size=(7, 4, 4)), rng().normal(size=(7, 4))
    labels = np.array([0, 3, 1, 0, 2, 2, 0])
    tensors = [torch.tensor(v, requires_grad=True) for v in (scores, offsets)]
    found = fast_rcnn(*tensors, torch.tensor(labels), torch.tensor(targets), weight=0.7, beta=0.5)
    found.backward()
    value, grads = multitask_by_hand.fast_rcnn_loss(scores, offsets, labels, targets, 0.7, 0.5)
    assert found.item() == pytest.approx(value, rel=1e-12)
    for tensor, gradient in zip(tensors, grads, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)
    assert not tensors[1].grad[labels == 0].any()
    assert not tensors[1].grad[1, [0, 1, 2]].any() and tensors[1].grad[1, 3].any()
    flat = fast_rcnn(tensors[0], tensors[1].reshape(7, 16), torch.tensor(labels), torch.tensor(targets), weight=0.7,
                     beta=0.5)
    assert flat.item() == found.item()


def test_a_batch_of_background_alone_gives_no_nan():
    scores = torch.zeros(3, 4, requires_grad=True)
    offsets = torch.randn(3, 4, 4, requires_grad=True)
    loss = fast_rcnn(scores, offsets, torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4)) and torch.equal(offsets.grad, torch.zeros(3, 4, 4))


def test_a_class_tree_equals_the_one_by_hand_with_equal_gradients():
    counts = [5, 1, 2, 9, 3, 1, 1]
    layer = HierarchicalSoftmax(6, 7, counts).double()
    tree = by_hand.ClassTree.huffman(counts)
    assert np.array_equal(layer.nodes.numpy(), tree.nodes) and np.array_equal(layer.turns.numpy(), tree.turns)
    x, labels = rng().normal(size=(9, 6)), rng().integers(0, 7, 9)
    t = torch.tensor(x, requires_grad=True)
    with torch.no_grad():
        layer.bias.normal_()
    loss = layer(t, torch.tensor(labels))
    loss.backward()
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    value, (dx, dw, db) = by_hand.hierarchical_softmax_loss(x, w, b, labels, tree)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    for ours, theirs in ((dx, t.grad), (dw, layer.weight.grad), (db, layer.bias.grad)):
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-10, atol=1e-14)
    log_probs = layer.log_probs(t)
    np.testing.assert_allclose(log_probs.exp().sum(1).detach().numpy(), 1, rtol=1e-12)
    assert F.nll_loss(log_probs, torch.tensor(labels)).item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_tree_learns_and_touches_the_nodes_of_a_path_alone():
    torch.manual_seed(0)
    layer = HierarchicalSoftmax(5, 1000)
    loss = layer(torch.randn(1, 5), torch.tensor([123]))
    loss.backward()
    touched = int((layer.weight.grad != 0).any(1).sum())
    assert 9 <= touched <= 10  # log2 of 1000 classes, of 999 nodes
    centres, labels = torch.eye(8) * 3, torch.arange(8).repeat(20)
    x = centres[labels] + 0.3 * torch.randn(160, 8)
    layer = HierarchicalSoftmax(8, 8)
    for _ in range(60):
        layer.zero_grad()
        layer(x, labels).backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 0.5 * parameter.grad
    assert (layer.log_probs(x).argmax(1) == labels).float().mean() > 0.97


def test_what_does_not_fit_is_said():
    for call in (lambda: l1(torch.zeros(2), torch.zeros(3)), lambda: smooth_l1(torch.zeros(2), torch.zeros(2), beta=0),
                 lambda: fast_rcnn(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long(), torch.zeros(2, 4)),
                 lambda: fast_rcnn(torch.zeros(2, 3), torch.zeros(2, 12), torch.zeros(2).long(), torch.zeros(2, 4),
                                   beta=0),
                 lambda: HierarchicalSoftmax(3, 1), lambda: HierarchicalSoftmax(3, 4, [1, 2])):
        with pytest.raises(UserError):
            call()
