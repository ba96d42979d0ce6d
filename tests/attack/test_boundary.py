"""Boundary attack: it starts on the wrong side, never steps back, and comes nearer."""

from __future__ import annotations

import torch

from tests.attack.small import right_answers, small_net
from visus.attack.boundary import Boundary


def half_space(images: torch.Tensor) -> torch.Tensor:
    over = images.flatten(1).mean(1) - 0.45
    return torch.stack([-over, over], 1)


def test_on_a_half_space_it_nears_the_plane():
    """The nearest wrong image is sqrt(D) 0.25 away."""
    images, labels = torch.full((2, 1, 6, 6), 0.2), torch.zeros(2, dtype=torch.int64)
    found = Boundary(steps=600)(half_space, images, labels)
    assert found.success.all() and (found.distances["l2"] >= 1.5 - 1e-3).all()
    assert (found.distances["l2"] < 1.5 * 1.1).all()


def test_a_longer_walk_is_nearer_and_within_eps_a_sample_leaves():
    images, labels = right_answers(6)
    near, far = (Boundary(steps=steps)(small_net(), images, labels) for steps in (200, 20))
    assert (near.distances["l2"] <= far.distances["l2"]).all()
    eps = float(near.distances["l2"].median())
    stopped = Boundary(steps=200, eps=eps)(small_net(), images, labels)
    assert (stopped.distances["l2"][stopped.success] <= eps).all() and stopped.success.any()
    assert (stopped.distances["l2"][~stopped.success] == 0).all()
    assert stopped.queries[stopped.success].min() < near.queries.min()


def test_a_class_that_noise_never_leaves_is_not_attacked():
    images, labels = torch.full((2, 1, 4, 4), 0.2), torch.zeros(2, dtype=torch.int64)
    found = Boundary(starts=3)(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, labels)
    assert not found.success.any() and torch.equal(found.images, images) and (found.queries == 4).all()
