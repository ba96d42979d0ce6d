"""The constellation model: likelihoods against every hypothesis written out, EM, and a layout found without marks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from visus.classical.constellation import Constellation, all_hypotheses, interest_points, learn_constellation
from visus.core.errors import UserError


def clutter(count: int, seed: int, objects: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places and looks of 7 points in 100 x 100 px; three of them are an object, in a random order; and which."""
    draw = torch.Generator().manual_seed(seed)
    places, looks = 100 * torch.rand(count, 7, 2, generator=draw), torch.randn(count, 7, 4, generator=draw)
    which = torch.stack([torch.randperm(7, generator=draw)[:3] for _ in range(count)])
    if objects:
        rest = torch.tensor([[0.0, 0], [0, 20], [15, 10]])
        own = 20 + 50 * torch.rand(count, 1, 2, generator=draw) + rest + torch.randn(count, 3, 2, generator=draw)
        rows = torch.arange(count)[:, None]
        places[rows, which] = own
        looks[rows, which] = 2.5 * torch.eye(3, 4) + 0.4 * torch.randn(count, 3, 4, generator=draw)
    return places, looks, which


def test_the_likelihood_is_the_mean_over_all_hypotheses_written_out():
    draw = torch.Generator().manual_seed(0)
    model = Constellation(torch.tensor([3.0, 4.0]), torch.tensor([[4.0, 1], [1, 3]]), torch.randn(2, 2, generator=draw),
                          torch.rand(2, 2, generator=draw) + 0.5, torch.zeros(2), torch.ones(2), 100.0)
    places, looks = 10 * torch.rand(1, 4, 2, generator=draw), torch.randn(1, 4, 2, generator=draw)

    def normal(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> float:
        return float(torch.exp(-0.5 * ((x - mean) ** 2 / variance).sum()) / (2 * math.pi * variance).sqrt().prod())

    terms = {}
    for pair in itertools.permutations(range(4), 2):
        away = places[0, pair[1]] - places[0, pair[0]] - model.layout_mean
        shape = torch.exp(-0.5 * away @ model.layout_covariance.inverse() @ away) / (
            2 * math.pi * model.layout_covariance.det().sqrt())
        term = 100 * float(shape)
        for part, point in enumerate(pair):
            term *= normal(looks[0, point], model.look_mean[part], model.look_variance[part])
            term /= normal(looks[0, point], model.ground_mean, model.ground_variance)
        terms[pair] = term
    score, best = model.score(places, looks)
    assert float(score) == pytest.approx(math.log(sum(terms.values()) / 12), abs=1e-4)
    assert tuple(best[0].tolist()) == max(terms, key=terms.__getitem__)


def test_a_layout_is_found_without_marks_and_tells_objects_from_clutter():
    places, looks, _ = clutter(120, 0)
    model, curve = learn_constellation(places, looks, 100.0**2, steps=15, starts=3)
    assert curve[-1] > curve[0] + 5
    assert all(later > earlier - 0.02 for earlier, later in itertools.pairwise(curve))  # ridges apart, never falls
    unseen, seen_looks, which = clutter(60, 1)
    scores, best = model.score(unseen, seen_looks)
    strays = model.score(*clutter(60, 2, objects=False)[:2])[0]
    assert float((scores[:, None] > strays).float().mean()) > 0.98
    hit = torch.stack([torch.isin(found, own).all() for found, own in zip(best, which, strict=True)])
    assert float(hit.float().mean()) > 0.9


def test_moving_the_whole_object_changes_nothing():
    places, looks, _ = clutter(20, 0)
    model, _ = learn_constellation(places, looks, 100.0**2, steps=2, starts=1)
    torch.testing.assert_close(model.score(places + 7, looks)[0], model.score(places, looks)[0], rtol=1e-3, atol=1e-3)


def test_interest_points_lie_on_the_marks_of_a_picture():
    images = torch.zeros(1, 40, 50)
    images[0, 10:13, 10:13] = images[0, 28:31, 36:39] = 1
    places, patches = interest_points(images, 2)
    for mark in ((11, 11), (29, 37)):
        assert float((places[0] - torch.tensor(mark)).norm(dim=-1).min()) <= 2
    assert patches.shape == (1, 2, 81) and float(patches.mean(-1).abs().max()) < 1e-6


def test_too_many_hypotheses_are_refused():
    assert all_hypotheses(4, 2).shape == (12, 2)
    for points, parts in ((30, 6), (2, 3)):
        with pytest.raises(UserError, match="hypotheses"):
            all_hypotheses(points, parts)
