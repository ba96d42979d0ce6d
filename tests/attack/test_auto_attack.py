"""APGD, FAB and the ensemble: checkpoints, losses, the projection within the box, and who goes on."""

from __future__ import annotations

import pytest
import torch

from tests.attack.small import other_classes, right_answers, small_net
from visus.attack.apgd import APGD, checkpoints, dlr, dlr_targeted, likely_wrong
from visus.attack.auto_attack import AutoAttack
from visus.attack.fab import FAB, boxed_projection


def linear(images: torch.Tensor) -> torch.Tensor:
    """Two logits around the plane <w, x> = <w, 1/2> + 0.3."""
    weight = torch.linspace(-1, 2, images[0].numel())
    over = (images.flatten(1) - 0.5) @ weight - 0.3
    return torch.stack([-over, over], 1)


def test_the_checkpoints_are_the_papers():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_dlr_does_not_see_shifts_and_scales_and_is_positive_where_fooled():
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 6
    torch.testing.assert_close(dlr(logits, labels), dlr(3 * logits + 5, labels), rtol=1e-4, atol=1e-5)
    assert ((dlr(logits, labels) > 0) == (logits.argmax(1) != labels)).all()
    aims = other_classes(labels) % 6
    order = logits.sort(1, descending=True).values
    expected = (logits[torch.arange(8), aims] - logits[torch.arange(8), labels]) / (
        order[:, 0] - 0.5 * (order[:, 2] + order[:, 3]))
    torch.testing.assert_close(dlr_targeted(logits, labels, aims), expected)


def test_likely_wrong_classes_leave_the_label_out():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert likely_wrong(logits, torch.tensor([1]), 9).tolist() == [[0, 2, 3]]


def test_apgd_without_early_stop_ends_at_the_corner_of_a_linear_model():
    images, labels = torch.full((2, 1, 3, 4), 0.5), torch.tensor([0, 0])
    found = APGD(eps=0.01, steps=20, early_stop=False)(linear, images, labels)
    away = torch.linspace(-1, 2, 12).sign().view(3, 4) * 0.01
    torch.testing.assert_close(found.images - images, away.expand(2, 1, 3, 4), rtol=0, atol=1e-6)


def test_early_stop_fools_the_same_images():
    images, labels = right_answers(16)
    fast, slow = (APGD(eps=0.045, steps=30, early_stop=stop)(small_net(), images, labels) for stop in (True, False))
    assert fast.success.tolist() == slow.success.tolist() and fast.queries.sum() < slow.queries.sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_boxed_projection_meets_the_plane_in_the_box_and_nothing_nearer_does(norm):
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(20, 9, dtype=torch.float64, generator=generator)
    normals = torch.randn(20, 9, dtype=torch.float64, generator=generator)
    goal = torch.rand(20, 9, dtype=torch.float64, generator=generator)  # in the box, so that the plane meets it
    missing = ((goal - points) * normals).sum(1)
    step = boxed_projection(points, normals, missing, norm)
    torch.testing.assert_close((step * normals).sum(1), missing)
    assert (points + step).min() >= -1e-9 and (points + step).max() <= 1 + 1e-9

    def length(v):
        return v.abs().amax(-1) if norm == "linf" else v.norm(dim=-1)

    assert (length(step) <= length(goal - points) + 1e-9).all()
    for _ in range(200):  # other points of the plane and the box are not nearer
        other = torch.rand(20, 9, dtype=torch.float64, generator=generator)
        other = other + ((missing - ((other - points) * normals).sum(1)) / normals.square().sum(1))[:, None] * normals
        inside = ((other >= 0) & (other <= 1)).all(1)
        assert (length(other - points) >= length(step) - 1e-9)[inside].all()


def test_a_plane_beyond_the_box_is_approached_as_far_as_the_box_goes():
    points, normals = torch.full((1, 4), 0.5), torch.tensor([[1.0, -1.0, 2.0, 0.0]])
    step = boxed_projection(points, normals, torch.tensor([100.0]), "linf")
    assert (points + step).tolist() == [[1.0, 0.0, 1.0, 0.5]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_reaches_a_plane_at_its_distance(norm):
    images, labels = torch.full((1, 1, 3, 4), 0.5), torch.tensor([0])
    weight = torch.linspace(-1, 2, 12)
    distance = 0.3 / float(weight.abs().sum() if norm == "linf" else weight.norm())
    found = FAB(norm=norm, steps=30)(linear, images, labels)
    assert found.success.all() and distance <= float(found.distances[norm]) < 1.02 * distance


def test_only_what_an_attack_left_goes_to_the_next_and_the_ensemble_is_as_strong_as_its_best():
    images, labels = right_answers(16)
    attack = AutoAttack(eps=0.042, steps=15, queries=30)
    found = attack(small_net(), images, labels)
    alone = {name: part(small_net(), images, labels) for name, part in attack.ensemble()}
    assert [name for name, _ in attack.ensemble()] == ["apgd", "apgd_t", "fab", "square"]
    assert found.success.sum() >= max(part.success.sum() for part in alone.values())
    by_first = alone["apgd"].success  # the same seed: the ensemble's first part
    assert torch.equal(found.queries[by_first], alone["apgd"].queries[by_first])
    assert found.queries[~found.success].min() > alone["apgd"].queries.max() + 30
