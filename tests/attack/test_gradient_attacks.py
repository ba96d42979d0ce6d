"""FGSM, PGD and kin, DeepFool, Carlini-Wagner, EAD, L-BFGS, JSMA, SparseFool: what their papers' equations say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.attack.small import CLASSES, other_classes, right_answers, small_net, stripes
from visus.attack.carlini_wagner import CarliniWagner, Constants
from visus.attack.deepfool import DeepFool, nearest_boundary
from visus.attack.elastic_net import ElasticNet, shrunk
from visus.attack.fgsm import FGSM, Iterated
from visus.attack.jsma import JSMA, best_pair
from visus.attack.lbfgs import LBFGS
from visus.attack.pgd import PGD
from visus.attack.sparse_fool import SparseFool, fewest
from visus.attack.universal import Universal, universal_perturbation
from visus.core.errors import UserError


class Plane(nn.Module):
    """Logits w . x + b and 0: the boundary is a plane, known exactly."""

    def __init__(self, weights: Tensor, bias: float):
        super().__init__()
        self.weights, self.bias = weights, bias

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weights + self.bias
        return torch.stack([score, torch.zeros_like(score)], 1)


def plane() -> tuple[Plane, Tensor, Tensor, Tensor]:
    """(model, images well inside the box, labels, distance to the boundary times |w|)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12, generator=generator)
    images = 0.5 + 0.02 * torch.randn(5, 3, 2, 2, generator=generator)
    model = Plane(weights, float(-0.5 * weights.sum() + 0.3))
    score = model(images)[:, 0]
    return model, images, (score < 0).long(), score.abs()


def test_fgsm_moves_each_component_by_eps_against_the_label():
    model, images, labels, _ = plane()
    found = FGSM(eps=0.1)(model, images, labels)
    sign = torch.where(labels == 0, -1.0, 1.0)[:, None, None, None]
    torch.testing.assert_close(found.images, images + 0.1 * sign * model.weights.sign().view(1, 3, 2, 2))
    aimed = FGSM(eps=0.1)(model, images, labels, targets=1 - labels)
    torch.testing.assert_close(aimed.images, found.images)


@pytest.mark.parametrize("norm, dual", [("l2", "l2"), ("linf", "l1")])
def test_deepfool_reaches_a_plane_in_one_step_of_its_distance(norm, dual):
    model, images, labels, score = plane()
    found = DeepFool(norm=norm, overshoot=0.02)(model, images, labels)
    size = model.weights.norm() if dual == "l2" else model.weights.abs().sum()
    assert found.success.all() and found.steps.tolist() == [1] * 5
    torch.testing.assert_close(found.distances[norm], 1.02 * score / size, rtol=0, atol=2e-4)


def test_deepfool_passes_over_far_classes_without_another_answer():
    """The pruned search finds the boundary that all gradients find."""
    images, labels = right_answers(8)
    found = nearest_boundary(small_net(), images, labels, "l2", CLASSES - 1)
    for n in range(len(images)):
        leaf = images[n:n + 1].clone().requires_grad_()
        logits = small_net()(leaf)[0]
        away = {}
        for k in set(range(CLASSES)) - {int(labels[n])}:
            (slope,) = torch.autograd.grad(logits[k] - logits[labels[n]], leaf, retain_graph=True)
            away[k] = float((logits[labels[n]] - logits[k]).detach() / slope.norm())
        assert int(found.rival[n]) == min(away, key=away.get)
        assert float(found.distance[n]) == pytest.approx(min(away.values()), rel=1e-4)


def test_carlini_wagner_and_lbfgs_come_near_the_plane():
    model, images, labels, score = plane()
    exact = score / model.weights.norm()
    for attack, slack in ((CarliniWagner(searches=7, steps=120), 1.05), (LBFGS(searches=10, steps=20), 1.1)):
        found = attack(model, images, labels)
        assert found.success.all()
        assert (found.distances["l2"] >= exact * 0.999).all()
        assert (found.distances["l2"] <= exact * slack + 1e-3).all(), attack


def test_confidence_is_the_lead_that_is_asked_for():
    images, labels = right_answers(6)
    found = CarliniWagner(confidence=1.0, searches=4, steps=60, step_size=0.03, initial_constant=1.0)(
        small_net(), images, labels)
    with torch.no_grad():
        logits = small_net()(found.images)
    lead = logits.topk(2).values
    assert found.success.any()
    assert ((lead[:, 0] - lead[:, 1])[found.success] > 0.99).all()


def test_constants_rise_tenfold_and_then_halve():
    constants = Constants(torch.zeros(2), 1.0)
    seen = []
    for found in ([False, True], [False, True], [True, False]):
        constants.learn(torch.tensor(found))
        seen.append(constants.value.tolist())
    assert seen == [[10, 0.5], [100, 0.25], [55, 0.375]]


def test_elastic_net_shrinks_to_the_original_and_changes_fewer_components():
    origin = torch.full((1, 1, 1, 4), 0.5)
    away = shrunk(torch.tensor([[[[0.505, 0.6, 0.3, 1.4]]]]), origin, 0.01)
    torch.testing.assert_close(away, torch.tensor([[[[0.5, 0.59, 0.31, 1.0]]]]))
    images, labels = right_answers(6)
    options = {"searches": 3, "steps": 40, "initial_constant": 1.0}
    sparse = ElasticNet(beta=0.05, **options)(small_net(), images, labels)
    dense = ElasticNet(beta=0.0, **options)(small_net(), images, labels)
    changed = [float((one.images != images).float().mean()) for one in (sparse, dense)]
    assert sparse.success.all() and changed[0] < 0.5 * changed[1]
    assert sparse.distances["l1"].mean() < dense.distances["l1"].mean()


def test_the_best_pair_is_that_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(40, 14, generator=generator), torch.randn(40, 14, generator=generator) - 0.8
    first[0], second[1] = -1.0, -1.0  # none at all
    first[2], second[2] = 1.0, 1.0  # ties
    free = torch.rand(40, 14, generator=generator) < 0.8
    pairs, there = best_pair(first, second, free)
    for n in range(40):
        scores = {}
        for p, q in itertools.combinations(range(14), 2):
            a, b = float(first[n, p] + first[n, q]), float(second[n, p] + second[n, q])
            if free[n, p] and free[n, q] and a > 0 and b > 0:
                scores[p, q] = a * b
        assert bool(there[n]) == bool(scores)
        if scores:
            chosen = tuple(sorted(pairs[n].tolist()))
            assert scores[chosen] == pytest.approx(max(scores.values()), rel=1e-5)


@pytest.mark.parametrize("theta", [1.0, -1.0])
def test_jsma_moves_pairs_one_way_and_no_more_than_its_share(theta):
    images, labels = right_answers(6)
    found = JSMA(theta=theta, share=0.1)(small_net(), images, labels, targets=other_classes(labels))
    moved = found.images - images
    assert (moved * theta >= 0).all() and bool((moved != 0).any())
    assert int((moved != 0).flatten(1).sum(1).max()) <= math.ceil(0.1 * 432 / 2) * 2
    assert (found.steps <= math.ceil(0.1 * 432 / 2)).all()


def test_the_fewest_components_are_moved_to_pass_a_plane():
    model, images, labels, score = plane()
    sign = torch.where(labels == 0, -1.0, 1.0)[:, None]
    normal = (sign * model.weights).view(5, 3, 2, 2)
    moved = fewest(images, normal, score)
    torch.testing.assert_close(((moved - images) * normal).flatten(1).sum(1), score, rtol=1e-4, atol=1e-5)
    for n in range(5):  # one component fewer cannot reach it
        room = torch.where(normal[n] > 0, 1 - images[n], images[n]) * normal[n].abs()
        most = room.flatten().sort(descending=True).values
        count = int((moved[n] != images[n]).sum())
        order = normal[n].abs().flatten().argsort(descending=True)
        assert float(room.flatten()[order[:count - 1]].sum()) < float(score[n])
        assert count <= int((most.cumsum(0) < float(score[n])).sum()) + 2
    found = SparseFool(reach=1.0)(model, images, labels)
    assert found.success.all() and float((found.images != images).flatten(1).sum(1).float().mean()) <= 6


def test_momentum_sums_gradients_of_length_one():
    """Two steps by hand: g1 = n1, g2 = mu n1 + n2, with n = grad / |grad|_1."""
    images, labels = right_answers(3)
    found = Iterated(eps=0.2, step_size=0.02, steps=2, momentum=0.7, early_stop=False)(small_net(), images, labels)

    def unit(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(small_net()(x), labels, reduction="sum"), x)
        return slope / slope.abs().sum((1, 2, 3), keepdim=True)

    first = unit(images)
    once = (images + 0.02 * first.sign()).clamp(0, 1)
    twice = (once + 0.02 * (0.7 * first + unit(once)).sign()).clamp(0, 1)
    torch.testing.assert_close(found.images, twice)


def test_least_likely_climbs_to_the_smallest_logit():
    images, labels = right_answers(6)
    with torch.no_grad():
        least = small_net()(images).argmin(1)
    found = Iterated(eps=0.1, steps=6, least_likely=True, early_stop=False)(small_net(), images, labels)
    aimed = Iterated(eps=0.1, steps=6, early_stop=False)(small_net(), images, labels, targets=least)
    torch.testing.assert_close(found.images, aimed.images)


def test_early_stop_fools_the_same_and_asks_less():
    images, labels = right_answers(24)
    runs = {stop: PGD(eps=0.06, steps=20, early_stop=stop)(
        small_net(), images, labels, generator=torch.Generator().manual_seed(0)) for stop in (True, False)}
    assert bool((runs[True].success | ~runs[False].success).all())
    assert runs[True].queries.sum() < 0.5 * runs[False].queries.sum()
    assert (runs[False].steps == 20).all() and (runs[False].queries == 21).all()
    with torch.no_grad():
        loss = {stop: nn.functional.cross_entropy(small_net()(run.images), labels) for stop, run in runs.items()}
    assert loss[False] > loss[True], "all steps climb higher"


def test_restarts_never_fool_fewer():
    images, labels = right_answers(24)
    counts = [int(PGD(eps=0.04, steps=5, restarts=n)(small_net(), images, labels).success.sum()) for n in (1, 4)]
    assert 0 < counts[0] <= counts[1]
    losses = []
    for n in (1, 4):
        found = PGD(eps=0.03, steps=3, restarts=n, early_stop=False)(small_net(), images, labels)
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(small_net()(found.images), labels, reduction="none"))
    assert (losses[1] >= losses[0] - 1e-5).all() and losses[1].sum() > losses[0].sum()


@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
def test_one_perturbation_fools_images_that_it_has_not_seen(rule):
    images, labels = stripes(96, seed=5)
    move = universal_perturbation(small_net(), images, labels, eps=0.12, rule=rule, passes=5, block=16)
    assert move.shape == images.shape[1:] and float(move.abs().max()) <= 0.12 + 1e-6
    fresh, truth = stripes(96, seed=6)
    noise = 0.12 * torch.randn(move.shape, generator=torch.Generator().manual_seed(0)).sign()
    with torch.no_grad():
        wrong, by_noise = ((small_net()((fresh + shift).clamp(0, 1)).argmax(1) != truth).float().mean()
                           for shift in (move, noise))
    assert wrong > 0.2 and wrong > by_noise + 0.1
    found = Universal(eps=0.12, passes=2)(small_net(), images[:8], labels[:8])
    inside = (found.images > 0) & (found.images < 1)
    away = (found.images - images[:8]).masked_fill(~inside, float("nan"))
    assert float((away - away.nanmean(0)).nan_to_num().abs().max()) < 1e-5, "the same for all"


@pytest.mark.parametrize("make, words", [
    (lambda: FGSM(eps=-1.0), "eps"), (lambda: FGSM(norm="l0"), "norm"), (lambda: PGD(restarts=0), "restarts"),
    (lambda: PGD(random_start=False, restarts=2), "restarts"), (lambda: PGD(steps=1.5), "steps"),
    (lambda: DeepFool(norm="l1"), "norm"), (lambda: JSMA(theta=0), "theta"), (lambda: JSMA(share=2.0), "share"),
    (lambda: SparseFool(reach=0.5), "reach"), (lambda: CarliniWagner(initial_constant=0), "initial_constant"),
    (lambda: ElasticNet(decision="l2"), "decision"), (lambda: LBFGS(memory=0), "memory"),
    (lambda: Universal(rule="sum"), "rule")])
def test_wrong_options_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
