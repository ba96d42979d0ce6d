"""Square, APGD, FAB and AutoAttack beside torchattacks on the same net and images; certificates beside scipy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.attack.small import CLASSES, right_answers, small_net
from visus.attack.apgd import APGD
from visus.attack.attack import Attack
from visus.attack.auto_attack import AutoAttack
from visus.attack.fab import FAB
from visus.attack.smoothing import incomplete_beta, lower_bound
from visus.attack.square import Square


@pytest.fixture(scope="module")
def torchattacks():
    return pytest.importorskip("torchattacks", reason="pip install torchattacks", exc_type=ImportError)


RADII = [("linf", 0.042), ("l2", 0.65)]


def robust(images: Tensor, attacked: Tensor, labels: Tensor, norm: str, eps: float) -> float:
    """The accuracy that is left, measured on the images, those beyond eps not counted."""
    far = (attacked - images).flatten(1)
    far = far.abs().amax(1) if norm == "linf" else far.norm(dim=1)
    with torch.no_grad():
        wrong = small_net()(attacked).argmax(1) != labels
    return 1 - (wrong & (far <= eps * (1 + 1e-4))).float().mean().item()


def ours(attack: Attack, images: Tensor, labels: Tensor) -> Tensor:
    return attack(small_net(), images, labels, generator=torch.Generator().manual_seed(0)).images


NAMES = {"linf": "Linf", "l2": "L2"}


@pytest.mark.parametrize("norm, eps", RADII)
def test_auto_attack_leaves_no_more_than_theirs(torchattacks, norm, eps):
    images, labels = right_answers(24)
    theirs = torchattacks.AutoAttack(small_net(), norm=NAMES[norm], eps=eps, n_classes=CLASSES, seed=0)
    if norm == "l2":  # their Square of l2 stops with an error on images whose side is no multiple of 5
        theirs._autoattack.attacks = theirs._autoattack.attacks[:3]
    for part in theirs._autoattack.attacks:
        if hasattr(part, "n_queries"):
            part.n_queries = 200
        part.steps = 25
    left = robust(images, theirs(images, labels), labels, norm, eps)
    attack = AutoAttack(norm=norm, eps=eps, steps=25, queries=200)
    mine = robust(images, ours(attack, images, labels), labels, norm, eps)
    assert 0 < left < 1 and mine <= left


@pytest.mark.parametrize("norm, eps", RADII)
def test_apgd_square_and_fab_leave_no_more_than_theirs_with_as_many_steps(torchattacks, norm, eps):
    images, labels = right_answers(24)
    pairs = {
        "apgd": (torchattacks.APGD(small_net(), norm=NAMES[norm], eps=eps, steps=40, loss="ce", seed=0),
                 APGD(norm=norm, eps=eps, steps=40), 0),
        "apgd_t": (torchattacks.APGDT(small_net(), norm=NAMES[norm], eps=eps, steps=40, n_classes=CLASSES, seed=0),
                   APGD(norm=norm, eps=eps, steps=40, loss="dlr_targeted"), 0),
        "fab": (torchattacks.FAB(small_net(), norm=NAMES[norm], eps=eps, steps=40, multi_targeted=True,
                                 n_classes=CLASSES, seed=0),
                FAB(norm=norm, eps=eps, steps=40), 0),
        "square": (torchattacks.Square(small_net(), norm=NAMES[norm], eps=1.5 * eps, n_queries=200, seed=0),
                   Square(norm=norm, eps=1.5 * eps, queries=200), 2 / 24),  # of a random search: two images
    }
    if norm == "l2":
        pairs.pop("square")  # it stops with an error on images whose side is no multiple of 5
    for name, (theirs, mine, slack) in pairs.items():
        radius = 1.5 * eps if name == "square" else eps
        left = robust(images, theirs(images, labels), labels, norm, radius)
        ours_left = robust(images, ours(mine, images, labels), labels, norm, radius)
        assert ours_left <= left + slack + 1e-6, name


def test_the_certificate_s_bound_is_scipy_s():
    """Clopper-Pearson by beta quantiles: relative difference at most 1e-9."""
    stats = pytest.importorskip("scipy.stats", reason="pip install scipy", exc_type=ImportError)
    for n in (10, 1000, 100_000):
        hits = torch.tensor([1, n // 3, n // 2 + 1, n - 1, n])
        for alpha in (0.05, 0.001):
            theirs = torch.from_numpy(stats.beta.ppf(alpha, hits.numpy(), n - hits.numpy() + 1))
            torch.testing.assert_close(lower_bound(hits, n, alpha), theirs, rtol=1e-9, atol=1e-12)


def test_the_incomplete_beta_function_is_scipy_s():
    special = pytest.importorskip("scipy.special", reason="pip install scipy", exc_type=ImportError)
    generator = torch.Generator().manual_seed(0)
    a, b = (10 ** (4 * torch.rand(500, dtype=torch.float64, generator=generator) - 0.5) for _ in range(2))
    x = torch.rand(500, dtype=torch.float64, generator=generator)
    theirs = torch.from_numpy(special.betainc(a.numpy(), b.numpy(), x.numpy()))
    torch.testing.assert_close(incomplete_beta(a, b, x), theirs, rtol=1e-8, atol=1e-12)
