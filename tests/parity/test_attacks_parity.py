"""Gradient attacks beside torchattacks and foolbox: same net, same images, same start.

Those without randomness give the same images to 1e-5; those that seek the smallest change find one at most 1.01 times
as far, for as many images or more."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from tests.attack.small import other_classes, right_answers, small_net
from visus.attack.attack import lengths
from visus.attack.carlini_wagner import CarliniWagner
from visus.attack.deepfool import DeepFool
from visus.attack.elastic_net import ElasticNet
from visus.attack.fgsm import FGSM, Iterated
from visus.attack.jsma import JSMA
from visus.attack.pgd import PGD

pytestmark = pytest.mark.filterwarnings("ignore")
COUNT, EPS = 24, 0.04


@pytest.fixture(scope="module")
def torchattacks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchattacks", reason="pip install torchattacks==3.5.1", exc_type=ImportError)


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("foolbox", reason="pip install foolbox==3.3.4", exc_type=ImportError)


def by_foolbox(foolbox, attack, eps: float | None, targets: Tensor | None = None, **run):
    """Their images and, of each, whether it fools."""
    images, labels = right_answers(COUNT)
    model = foolbox.PyTorchModel(small_net(), bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels) if targets is None else \
        foolbox.criteria.TargetedMisclassification(targets)
    _, found, success = attack(model, images, criterion, epsilons=eps, **run)
    return found, success


def ours(attack, targets: Tensor | None = None):
    images, labels = right_answers(COUNT)
    return attack(small_net(), images, labels, targets=targets)


@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize("name", ["fgsm", "bim", "mi_fgsm", "pgd", "pgd_l2"])
def test_gradient_steps_are_those_of_torchattacks(torchattacks, name, aimed):
    images, labels = right_answers(COUNT)
    theirs, mine = {
        "fgsm": (torchattacks.FGSM(small_net(), eps=EPS), FGSM(eps=EPS)),
        "bim": (torchattacks.BIM(small_net(), eps=EPS, alpha=EPS / 5, steps=8),
                Iterated(eps=EPS, step_size=EPS / 5, steps=8, early_stop=False)),
        "mi_fgsm": (torchattacks.MIFGSM(small_net(), eps=EPS, alpha=EPS / 5, steps=8, decay=1.0),
                    Iterated(eps=EPS, step_size=EPS / 5, steps=8, momentum=1.0, early_stop=False)),
        "pgd": (torchattacks.PGD(small_net(), eps=EPS, alpha=EPS / 4, steps=8, random_start=False),
                PGD(eps=EPS, step_size=EPS / 4, steps=8, random_start=False, early_stop=False)),
        "pgd_l2": (torchattacks.PGDL2(small_net(), eps=0.6, alpha=0.15, steps=8, random_start=False),
                   PGD(norm="l2", eps=0.6, step_size=0.15, steps=8, random_start=False, early_stop=False)),
    }[name]
    targets = other_classes(labels) if aimed else None
    if aimed:
        theirs.set_mode_targeted_by_label(quiet=True)
    expected = theirs(images, targets if aimed else labels)
    torch.testing.assert_close(ours(mine, targets).images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradient_steps_are_those_of_foolbox(foolbox, norm):
    eps = {"linf": EPS, "l2": 0.6}[norm]
    theirs = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm](
        abs_stepsize=eps / 4, steps=8, random_start=False)
    expected, success = by_foolbox(foolbox, theirs, eps)
    found = ours(PGD(norm=norm, eps=eps, step_size=eps / 4, steps=8, random_start=False, early_stop=False))
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-5)
    assert torch.equal(found.success, success)


@pytest.mark.parametrize("norm, eps", [("linf", 0.045), ("linf", 0.06), ("l2", 0.8), ("l1", 14.0)])
def test_stopping_early_fools_no_fewer_than_foolbox(foolbox, norm, eps):
    make = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD, "l1": foolbox.attacks.L1PGD}[norm]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, success = by_foolbox(foolbox, make(abs_stepsize=eps / 4, steps=10), eps)
    found = ours(PGD(norm=norm, eps=eps, step_size=eps / 4, steps=10))
    assert found.success.sum() >= success.sum() > 0
    assert float(found.queries.float().mean()) <= 11


def test_stopping_early_fools_all_that_the_last_iterate_fools(torchattacks):
    images, labels = right_answers(COUNT)
    last = torchattacks.PGD(small_net(), eps=0.045, alpha=0.015, steps=8, random_start=False)(images, labels)
    with torch.no_grad():
        theirs = small_net()(last).argmax(1) != labels
    found = ours(PGD(eps=0.045, step_size=0.015, steps=8, random_start=False))
    assert bool((found.success | ~theirs).all()) and bool(theirs.any())


def test_deepfool_in_l2_is_foolboxs(foolbox):
    expected, success = by_foolbox(foolbox, foolbox.attacks.L2DeepFoolAttack(steps=50), None)
    found = ours(DeepFool())
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-5)
    assert found.success.all() and success.all()


def test_deepfool_in_linf_goes_no_farther_than_foolboxs(foolbox):
    expected, success = by_foolbox(foolbox, foolbox.attacks.LinfDeepFoolAttack(steps=50), None)
    found = ours(DeepFool(norm="linf"))
    assert found.success.sum() >= success.sum()
    theirs = lengths(expected - right_answers(COUNT)[0], "linf")
    assert float(found.distances["linf"].mean()) <= 1.01 * float(theirs.mean())


def test_deepfool_goes_no_farther_than_torchattacks(torchattacks):
    images, labels = right_answers(COUNT)
    theirs = lengths(torchattacks.DeepFool(small_net(), steps=50, overshoot=0.02)(images, labels) - images, "l2")
    assert float(ours(DeepFool()).distances["l2"].mean()) <= 1.01 * float(theirs.mean())


@pytest.mark.parametrize("aimed", [False, True])
def test_carlini_wagner_is_foolboxs_search(foolbox, aimed):
    """Without the early end, which they take for a batch and we for each sample, the searches are the same."""
    targets = other_classes(right_answers(COUNT)[1]) if aimed else None
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=40, stepsize=0.02, initial_const=0.1,
                                                   abort_early=False)
    expected, success = by_foolbox(foolbox, theirs, None, targets)
    found = ours(CarliniWagner(searches=4, steps=40, step_size=0.02, initial_constant=0.1, abort_early=False), targets)
    assert found.success.sum() >= success.sum()
    far = lengths(expected - right_answers(COUNT)[0], "l2")
    assert float(found.distances["l2"][success].mean()) <= 1.01 * float(far[success].mean())
    torch.testing.assert_close(found.distances["l2"][success], far[success], rtol=1e-2, atol=1e-3)


def test_carlini_wagner_goes_no_farther_than_torchattacks(torchattacks):
    images, labels = right_answers(COUNT)
    expected = torchattacks.CW(small_net(), c=1, kappa=0, steps=80, lr=0.02)(images, labels)
    with torch.no_grad():
        success = small_net()(expected).argmax(1) != labels
    found = ours(CarliniWagner(searches=1, initial_constant=1.0, steps=80, step_size=0.02))
    assert found.success.sum() >= success.sum()
    both = success & found.success
    far = lengths(expected - images, "l2")[both]
    assert float(found.distances["l2"][both].mean()) <= 1.01 * float(far.mean())


@pytest.mark.parametrize("decision", ["en", "l1"])
def test_elastic_net_is_foolboxs_search(foolbox, decision):
    theirs = foolbox.attacks.EADAttack(binary_search_steps=3, steps=40, initial_stepsize=0.02, initial_const=0.5,
                                       abort_early=False, decision_rule=decision.upper())
    expected, success = by_foolbox(foolbox, theirs, None)
    found = ours(ElasticNet(searches=3, steps=40, step_size=0.02, initial_constant=0.5, abort_early=False,
                            decision=decision))
    far = lengths(expected - right_answers(COUNT)[0], "l1")
    assert found.success.sum() >= success.sum()
    torch.testing.assert_close(found.distances["l1"][success], far[success], rtol=1e-2, atol=1e-2)


def test_jsma_chooses_the_pairs_of_torchattacks(torchattacks):
    images, labels = (part[:4] for part in right_answers(COUNT))
    theirs = torchattacks.JSMA(small_net(), theta=1.0, gamma=0.1)
    theirs.set_mode_targeted_by_label(quiet=True)
    expected = theirs(images, other_classes(labels))
    found = JSMA(theta=1.0, share=0.1)(small_net(), images, labels, targets=other_classes(labels))
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-6)
