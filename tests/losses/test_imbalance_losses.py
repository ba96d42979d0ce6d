"""Losses for uneven classes: the papers' formulas by hand, scikit-learn's weights, torchvision's focal loss."""

from __future__ import annotations

import math

import pytest
import torch

from tools.peers import load_peer
from visus.core.errors import RecipeError, UserError
from visus.losses.classification import cross_entropy, get_loss
from visus.losses.imbalance import class_balanced, class_weights, focal, logit_adjusted, sigmoid_focal
from visus.run.choose import Facts, choose
from visus.run.recipe import Recipe

torch.manual_seed(0)
Z = torch.randn(8, 5, dtype=torch.float64)
Y = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4])
Q = torch.softmax(torch.randn(8, 5, dtype=torch.float64), 1)
COUNTS = torch.tensor([400, 100, 50, 10, 1])


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.repeat_interleave(torch.arange(5), COUNTS).numpy()
    theirs = compute_class_weight("balanced", classes=torch.arange(5).numpy(), y=labels)
    assert class_weights(COUNTS, "balanced").tolist() == pytest.approx(theirs.tolist(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_weights_are_cuis_equation_by_hand(beta):
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS.tolist()]
    wanted = [5 * w / sum(raw) for w in raw]  # scaled to the number of classes
    assert class_weights(COUNTS, "effective", beta=beta).tolist() == pytest.approx(wanted, rel=1e-5)


def test_effective_weights_near_one_are_the_balanced_ones_up_to_scale():
    effective, balanced = class_weights(COUNTS, "effective", beta=1 - 1e-9), class_weights(COUNTS, "balanced")
    assert (effective / effective.sum()).tolist() == pytest.approx((balanced / balanced.sum()).tolist(), rel=1e-4)


def test_softmax_focal_is_lins_equation_by_hand():
    weights, total = [1.0, 2.0, 0.5, 3.0, 1.5], 0.0
    for row, label in zip(Z.tolist(), Y.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        total += -weights[label] * (1 - p) ** 1.7 * math.log(p)
    found = focal(Z, Y, gamma=1.7, class_weights=torch.tensor(weights, dtype=torch.float64))
    assert found.item() == pytest.approx(total / 8, rel=1e-12)


def test_focal_without_gamma_is_the_cross_entropy_also_of_soft_labels():
    assert focal(Z, Y, gamma=0).item() == pytest.approx(cross_entropy(Z, Y).item(), rel=1e-12)
    assert focal(Z, Q, gamma=0).item() == pytest.approx(cross_entropy(Z, Q).item(), rel=1e-12)
    hot = torch.nn.functional.one_hot(Y, 5).double()
    assert focal(Z, hot, gamma=2).item() == pytest.approx(focal(Z, Y, gamma=2).item(), rel=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 2.0), (0.7, 0.5)])
def test_sigmoid_focal_is_torchvisions(alpha, gamma):
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.ops import sigmoid_focal_loss

    targets = (Q > 0.2).double()
    theirs = sigmoid_focal_loss(Z, targets, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean")
    ours = Z.clone().requires_grad_()
    sigmoid_focal(ours, targets, alpha=alpha, gamma=gamma).backward()
    peer = Z.clone().requires_grad_()
    sigmoid_focal_loss(peer, targets, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean").backward()
    assert sigmoid_focal(Z, targets, alpha=alpha, gamma=gamma).item() == pytest.approx(theirs.item(), rel=1e-12)
    assert torch.allclose(ours.grad, peer.grad, rtol=1e-10, atol=1e-14)


def test_sigmoid_focal_takes_one_label_as_one_yes():
    hot = torch.nn.functional.one_hot(Y, 5).double()
    assert sigmoid_focal(Z, Y) == sigmoid_focal(Z, hot)
    with pytest.raises(UserError, match="do not fit logits"):
        sigmoid_focal(Z, hot[:, :3])


def test_class_balanced_is_the_weighted_mean_by_hand():
    weights, log_probs = class_weights(COUNTS, "effective", beta=0.99).double(), Z.log_softmax(1)
    wanted = sum(-weights[y] * log_probs[i, y] for i, y in enumerate(Y.tolist())) / 8
    assert class_balanced(Z, Y, class_counts=COUNTS, beta=0.99).item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_logit_adjustment_is_menons_equation_by_hand(tau):
    shares, total = COUNTS / COUNTS.sum(), 0.0
    for row, label in zip(Z.tolist(), Y.tolist(), strict=True):
        terms = [math.exp(z) * float(pi) ** tau for z, pi in zip(row, shares, strict=True)]
        total += -math.log(terms[label] / sum(terms))
    assert logit_adjusted(Z, Y, class_counts=COUNTS, tau=tau).item() == pytest.approx(total / 8, rel=1e-6)


@pytest.mark.parametrize("loss", [focal, sigmoid_focal, class_balanced, logit_adjusted])
def test_gradients_equal_finite_differences_and_large_logits_stay_finite(loss):
    assert torch.autograd.gradcheck(lambda z: loss(z, Y), Z.clone().requires_grad_())
    logits = (Z.sign() * 1e4).float().requires_grad_()
    value = loss(logits, Y)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [class_balanced, logit_adjusted])
def test_soft_labels_are_refused_where_they_mean_nothing(loss):
    with pytest.raises(UserError, match="whole label"):
        loss(Z, Q)


def test_get_loss_hands_its_options_on():
    assert get_loss("focal", options={"gamma": 1.0})(Z, Y) == focal(Z, Y, gamma=1.0)
    with pytest.raises(RecipeError, match="has no label smoothing"):
        get_loss("focal", label_smoothing=0.1)


@pytest.mark.parametrize("values, several, words", [
    ({"loss.name": "focal"}, True, "does not fit the task multilabel"),
    ({"loss.name": "squared_hinge", "loss.class_weights": "balanced"}, False, "takes no class weights"),
    ({"loss.name": "class_balanced", "mix.mixup": 0.2}, False, "no whole label"),
    ({"loss.class_weights": "balanced"}, True, "takes no class weights"),
])
def test_what_does_not_go_together_is_said_before_training(values, several, words):
    facts = Facts(train_images=500, num_classes=5, multi_label=several, median_size=(8, 8), channels=1, in_memory=True,
                  device="cpu")
    with pytest.raises(RecipeError, match=words):
        choose(Recipe().with_values(values), facts)
