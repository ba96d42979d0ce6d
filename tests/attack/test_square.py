"""Square attack: its schedule and its moves."""

from __future__ import annotations

import pytest
import torch

from tests.attack.small import right_answers, small_net
from visus.attack.square import Square, area_share, two_bumps
from visus.core.errors import UserError


def test_the_area_halves_at_the_papers_queries():
    shares = [area_share(query, 10_000, 0.8) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert shares == [0.8, 0.8] + [0.8 / 2**k for k in range(1, 10)]
    assert area_share(6, 5000, 0.8) == 0.4  # scaled with the number of queries


def test_the_two_bumps_are_a_hill_and_a_hollow_of_length_1():
    shape = two_bumps(5)
    assert float(shape.norm()) == pytest.approx(1) and (shape[:2] > 0).all() and (shape[2:] < 0).all()


def test_linf_moves_are_eps_or_the_edge_of_the_range_and_l2_moves_fill_the_ball():
    images, labels = right_answers(8)
    images = images * 0.5 + 0.25  # far from the edges
    found = Square(eps=0.02, queries=30)(small_net(), images, labels)
    torch.testing.assert_close((found.images - images).abs()[~found.success], torch.tensor(0.02).expand(
        (~found.success).sum(), 3, 12, 12), rtol=0, atol=1e-6)
    far = Square(norm="l2", eps=0.1, queries=30)(small_net(), images, labels)
    torch.testing.assert_close(far.distances["l2"][~far.success], torch.tensor(0.1).expand((~far.success).sum()))


def test_more_queries_fool_more_and_who_is_fooled_asks_no_more():
    images, labels = right_answers(24)
    few, many = (Square(eps=0.08, queries=queries)(small_net(), images, labels) for queries in (20, 200))
    assert many.success.sum() > few.success.sum()
    assert (many.queries[~many.success] == 201).all() and many.queries[many.success].float().mean() < 150


def test_it_reaches_the_plane_of_a_model_of_one_number():
    """Class 1 where the sum is above a threshold that lies just within reach of eps."""
    images = torch.full((2, 1, 8, 8), 0.5)
    threshold = 0.5 * 64 + 0.9 * 64 * 0.1

    def classifier(x):
        over = x.flatten(1).sum(1) - threshold
        return torch.stack([-over, over], 1)

    found = Square(eps=0.1, queries=1500)(classifier, images, torch.zeros(2, dtype=torch.int64))
    assert found.success.all()


def test_small_images_are_refused_for_l2():
    with pytest.raises(UserError, match="5 pixels"):
        Square(norm="l2")(small_net(), torch.rand(1, 3, 4, 4), torch.tensor([0]))
