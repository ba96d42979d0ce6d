"""Bags and pyramids of visual words against counts by hand and the pyramid match kernel of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.visual_words import bag, intersection, intersection_features, level_weights, spatial_pyramid


def drawn(images: int, points: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return (torch.randint(words, (images, points), generator=generator),
            torch.rand(points, 2, generator=generator))


def test_a_bag_is_numpys_bincount_and_skips_what_is_no_word():
    words, _ = drawn(3, 50, 6)
    words[0, :10] = -1
    for row, shares in zip(words.numpy(), bag(words, 6).numpy(), strict=True):
        counts = np.bincount(row[row >= 0], minlength=6)
        np.testing.assert_allclose(shares, counts / counts.sum(), rtol=1e-6)
    assert bag(torch.full((1, 4), -1), 3).tolist() == [[0, 0, 0]]


def test_three_levels_weigh_a_quarter_a_quarter_and_a_half():
    assert level_weights(3) == [0.25, 0.25, 0.5]
    assert level_weights(1) == [1.0] and level_weights(2) == [0.5, 0.5]


def test_the_pyramid_has_a_bag_for_each_cell_in_order():
    words, places = drawn(2, 80, 4)
    found = spatial_pyramid(words, places, 4)
    assert found.shape == (2, 4 * 21)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    weights, at = (0.25, 0.25, 0.5), 0
    for level, side in enumerate((1, 2, 4)):
        for row in range(side):
            for column in range(side):
                inside = ((places[:, 0] * side).floor() == column) & ((places[:, 1] * side).floor() == row)
                counts = torch.bincount(words[1, inside], minlength=4) / 80 * weights[level]
                torch.testing.assert_close(found[1, at:at + 4], counts)
                at += 4


def test_the_intersection_of_pyramids_is_the_pyramid_match_kernel():
    words, places = drawn(2, 60, 5)
    pyramids = spatial_pyramid(words, places, 5, levels=3)
    matches = []  # of each level: Grauman and Darrell's count, over all words and cells
    for side in (1, 2, 4):
        cells = (places * side).long()
        counts = [torch.bincount((cells[:, 1] * side + cells[:, 0]) * 5 + row, minlength=5 * side * side) / 60
                  for row in words]
        matches.append(float(torch.minimum(*counts).sum()))
    # Equation 2 of Lazebnik et al., new matches of level l weighted by 1 / 2^(L - l).
    expected = matches[2] + (matches[1] - matches[2]) / 2 + (matches[0] - matches[1]) / 4
    assert float(intersection(pyramids[:1], pyramids[1:])) == pytest.approx(expected, rel=1e-5)


def test_explicit_features_come_close_to_the_intersection_and_closer_with_their_order():
    generator = torch.Generator().manual_seed(1)
    histograms = torch.rand(40, 25, generator=generator, dtype=torch.float64) ** 3
    histograms[histograms < 0.05] = 0
    histograms /= histograms.sum(1, keepdim=True)
    exact, errors = intersection(histograms, histograms), []
    for order, period in ((0, 0.7), (1, 0.7), (3, 0.6), (30, 0.15)):
        features = intersection_features(histograms, order, period)
        errors.append(float((features @ features.T - exact).abs().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.04 and errors[2] < 0.02 and errors[3] < 0.005
    roots = intersection_features(histograms, 0)
    torch.testing.assert_close((roots @ roots.T).diagonal(), torch.ones(40, dtype=torch.float64))


def test_features_of_empty_bins_are_zero_and_finite():
    found = intersection_features(torch.tensor([[0.0, 1.0]]), 2)
    assert found.isfinite().all() and (found[0, ::2] == 0).all()


def test_refusals():
    with pytest.raises(UserError, match="levels=0"):
        spatial_pyramid(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(3, 2), 4, levels=0)
