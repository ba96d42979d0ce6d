"""The losses against torch's own modules, scikit-learn and NumPy by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tools.peers import load_peer
from visus.core.errors import RecipeError, UserError
from visus.losses.classification import (
    LOSSES,
    binary_cross_entropy,
    cross_entropy,
    get_loss,
    initial_value,
    multiclass_hinge,
    squared_hinge,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 5)) * 3
LABELS = RNG.integers(0, 5, 12)
SOFT = RNG.dirichlet(np.ones(5), 12)
MANY = (RNG.random((12, 5)) < 0.4).astype(float)
Z, Y, Q, M = (torch.from_numpy(a) for a in (LOGITS, LABELS, SOFT, MANY))


def by_hand_cross_entropy(logits, distribution):
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-(distribution * log_probs).sum(1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_equals_its_equation_for_labels_and_for_soft_labels(smoothing):
    for targets, distribution in ((Y, np.eye(5)[LABELS]), (Q, SOFT)):
        expected = by_hand_cross_entropy(LOGITS, (1 - smoothing) * distribution + smoothing / 5)
        assert cross_entropy(Z, targets, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_with_class_weights_is_the_weighted_mean_over_samples():
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    each = torch.stack([cross_entropy(Z[i:i + 1], Y[i:i + 1]) for i in range(12)])
    expected = (each * weights[Y]).sum() / weights[Y].sum()
    assert torch.allclose(cross_entropy(Z, Y, class_weights=weights), expected, rtol=1e-12)


def test_cross_entropy_and_hinge_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    assert cross_entropy(Z, Y).item() == pytest.approx(
        metrics.log_loss(LABELS, Z.softmax(1).numpy(), labels=range(5)), rel=1e-12)
    pair = torch.stack([-Z[:, 0] / 2, Z[:, 0] / 2], 1)  # two classes whose difference is the decision value
    expected = metrics.hinge_loss(LABELS % 2, LOGITS[:, 0], labels=[0, 1])
    assert multiclass_hinge(pair, Y % 2).item() == pytest.approx(expected, rel=1e-12)


def test_binary_cross_entropy_equals_its_equation():
    pos_weight = torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0], dtype=torch.float64)
    probs = 1 / (1 + np.exp(-LOGITS))
    terms = -(pos_weight.numpy() * MANY * np.log(probs) + (1 - MANY) * np.log(1 - probs))
    assert binary_cross_entropy(Z, M, pos_weight=pos_weight).item() == pytest.approx(terms.mean(), rel=1e-12)
    assert binary_cross_entropy(Z, M.bool()) == binary_cross_entropy(Z, M)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_one_label_is_one_yes_among_all(smoothing):
    one_hot = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    probs = 1 / (1 + np.exp(-LOGITS))
    expected = -(one_hot * np.log(probs) + (1 - one_hot) * np.log(1 - probs)).mean()
    loss = get_loss("binary_cross_entropy", label_smoothing=smoothing)
    assert loss(Z, Y).item() == pytest.approx(expected, rel=1e-12)
    mixed = 0.3 * np.eye(5)[LABELS] + 0.7 * np.eye(5)[LABELS[::-1]]
    smooth = (1 - smoothing) * mixed + smoothing / 5
    expected = -(smooth * np.log(probs) + (1 - smooth) * np.log(1 - probs)).mean()
    assert loss(Z, torch.from_numpy(mixed)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_equals_timms(smoothing):
    try:
        load_peer("timm")
        from timm.loss import BinaryCrossEntropy
    except ImportError as error:
        pytest.skip(str(error))
    theirs = BinaryCrossEntropy(smoothing=smoothing)(Z, Y)
    torch.testing.assert_close(binary_cross_entropy(Z, Y, label_smoothing=smoothing), theirs, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("loss", "power"), [(multiclass_hinge, 1), (squared_hinge, 2)])
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_hinge_equals_c_times_torch_multi_margin_loss_and_the_loop(loss, power, margin):
    value = loss(Z, Y, margin=margin).item()
    peer = torch.nn.MultiMarginLoss(p=power, margin=margin)(Z, Y).item()
    loop = np.mean([sum(max(0, LOGITS[i, j] - LOGITS[i, y] + margin) ** power for j in range(5) if j != y)
                    for i, y in enumerate(LABELS)])
    assert value == pytest.approx(5 * peer, rel=1e-12)
    assert value == pytest.approx(loop, rel=1e-12)


@pytest.mark.parametrize(("name", "targets"), [("cross_entropy", Y), ("cross_entropy", Q),
                                               ("binary_cross_entropy", M), ("multiclass_hinge", Y),
                                               ("squared_hinge", Y)])
def test_gradient_equals_finite_differences(name, targets):
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, targets), Z.clone().requires_grad_())


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize(("name", "targets"), [("cross_entropy", Y), ("binary_cross_entropy", M),
                                               ("multiclass_hinge", Y)])
def test_extreme_logits_give_a_finite_loss_and_gradient(name, targets, size):
    logits = (Z.sign() * size).float().requires_grad_()
    loss = LOSSES[name](logits, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("name", list(LOSSES))
def test_initial_value_is_the_loss_of_equal_logits(name, num_classes):
    logits = torch.zeros(4, num_classes, dtype=torch.float64)
    labels = torch.arange(4) % num_classes
    targets = torch.nn.functional.one_hot(labels, num_classes) if name == "binary_cross_entropy" else labels
    assert initial_value(name, num_classes) == pytest.approx(LOSSES[name](logits, targets).item(), rel=1e-12)


def test_initial_value_of_cross_entropy_stands_with_label_smoothing():
    value = cross_entropy(torch.zeros(2, 10), torch.tensor([1, 2]), label_smoothing=0.3).item()
    assert value == pytest.approx(math.log(10), rel=1e-6)


def test_get_loss_applies_label_smoothing_to_the_cross_entropies_only():
    assert get_loss("cross_entropy", label_smoothing=0.1)(Z, Y) == cross_entropy(Z, Y, label_smoothing=0.1)
    with pytest.raises(RecipeError, match="multiclass_hinge has no label smoothing"):
        get_loss("multiclass_hinge", label_smoothing=0.1)


def test_unknown_loss_names_the_nearest():
    with pytest.raises(RecipeError, match="'cross_entropy'"):
        get_loss("crossentropy")


def test_losses_refuse_targets_of_the_other_kind():
    with pytest.raises(UserError, match="one whole label"):
        multiclass_hinge(Z, Q)
    with pytest.raises(UserError, match="class number"):
        binary_cross_entropy(Z, Y[:, None])
