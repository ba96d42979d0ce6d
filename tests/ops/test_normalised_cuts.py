"""Normalised cuts against SciPy's dense generalised eigenproblem, the definition, and scikit-image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops import normalised_cuts as module
from visus.ops.normalised_cuts import (
    Affinity,
    best_split,
    ncut,
    normalised_cuts,
    pixel_affinity,
    region_affinity,
    second_eigenvector,
)


def two_blobs(seed: int = 0) -> torch.Tensor:
    """[3, 12, 15]: two colours with noise."""
    image = 0.2 + 0.05 * torch.rand(3, 12, 15, generator=torch.Generator().manual_seed(seed))
    image[0, :, 8:] += 0.3
    return image


def test_the_second_eigenvector_is_scipys_of_the_generalised_problem():
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is not installed")
    affinity = pixel_affinity(two_blobs(), radius_px=3.5, sigma_colour=0.3)
    weights, degree = affinity.dense().numpy(), affinity.degree.numpy()
    np.testing.assert_allclose(weights.sum(1), degree)
    values, vectors = linalg.eigh(np.diag(degree) - weights, np.diag(degree))
    value, vector = second_eigenvector(affinity)
    assert value == pytest.approx(values[1], abs=1e-12)
    theirs = vectors[:, 1] * np.sign(vectors[np.abs(vectors[:, 1]).argmax(), 1])
    np.testing.assert_allclose(vector.numpy(), theirs, atol=1e-8)


def test_lanczos_finds_what_the_dense_solver_finds(monkeypatch):
    affinity = pixel_affinity(two_blobs(1), radius_px=4.0, sigma_colour=0.3)
    dense = second_eigenvector(affinity)
    monkeypatch.setattr(module, "DENSE", 0)
    value, vector = second_eigenvector(affinity)
    assert value == pytest.approx(dense[0], abs=1e-10)
    torch.testing.assert_close(vector, dense[1], rtol=0, atol=1e-6)


def test_affinities_are_equation_11_for_every_pair_within_the_radius():
    image = two_blobs(2)[:, :4, :5]
    matrix = pixel_affinity(image, radius_px=2.5, sigma_colour=0.4, sigma_place_px=3.0).dense()
    places = list(itertools.product(range(4), range(5)))
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        far = math.dist(a, b)
        colours = float((image[:, *a].double() - image[:, *b].double()).square().sum())
        expected = math.exp(-colours / 0.16 - far**2 / 9) if far < 2.5 else 0.0
        assert float(matrix[i, j]) == pytest.approx(expected, abs=1e-12)


def test_ncut_is_its_definition_and_the_eigenvalue_bounds_it():
    affinity = pixel_affinity(two_blobs(3), radius_px=3.0, sigma_colour=0.3)
    weights = affinity.dense()
    sides = torch.rand(5, affinity.nodes, generator=torch.Generator().manual_seed(0)) < 0.4
    for side, value in zip(sides, ncut(affinity, sides), strict=True):
        cut = float(weights[side][:, ~side].sum())
        assert float(value) == pytest.approx(cut / float(weights[side].sum()) + cut / float(weights[~side].sum()))
    assert ncut(affinity, torch.ones(1, affinity.nodes, dtype=torch.bool)).isinf().all()
    _, best = best_split(affinity)
    assert second_eigenvector(affinity)[0] <= best < float(ncut(affinity, sides).min())


def test_two_colours_are_cut_where_they_meet_and_no_further():
    labels = normalised_cuts(pixel_affinity(two_blobs(), radius_px=4.0, sigma_colour=0.2), 0.2).view(12, 15)
    assert torch.equal(labels, (torch.arange(15) >= 8).long().expand(12, 15))


def test_unconnected_parts_are_separate_and_a_high_limit_cuts_on():
    own = torch.ones(5, dtype=torch.float64)
    rows, columns = torch.tensor([0, 1, 3]), torch.tensor([1, 2, 4])
    chain = Affinity(rows, columns, torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64), own)
    assert normalised_cuts(chain, 1e-6).tolist() == [0, 0, 0, 1, 1]
    assert normalised_cuts(chain, 2.0).tolist() == [0, 1, 2, 3, 4]


def test_regions_are_cut_as_scikit_image_cuts_them():
    """The same graph, limit and thresholds; its weights are exp(-d^2 / 255) of colours from 0 to 255."""
    graph = pytest.importorskip("skimage.graph", reason="scikit-image is not installed")
    data = pytest.importorskip("skimage.data")
    pixels = data.astronaut()[:240:3, 120:420:3]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    rows, columns = torch.arange(80)[:, None] // 8, torch.arange(100)[None] // 10
    labels = rows * 10 + columns
    affinity = region_affinity(image, labels, sigma_colour=math.sqrt(1000) / 255)
    theirs = graph.rag_mean_color(pixels, labels.numpy(), mode="similarity", sigma=1000)
    dense = affinity.dense()
    for a, b, about in theirs.edges(data=True):
        assert float(dense[a, b]) == pytest.approx(about["weight"], abs=1e-6)
    expected = torch.from_numpy(graph.cut_normalized(labels.numpy(), theirs, thresh=0.05, num_cuts=10, rng=0))
    found = normalised_cuts(affinity, 0.05, thresholds=10)[labels]
    pairs = {(int(a), int(b)) for a, b in zip(found.flatten(), expected.flatten(), strict=True)}
    assert len(pairs) == len(found.unique()) == len(expected.unique()) > 3


@pytest.mark.parametrize("limit", [0, 2.5, -1])
def test_a_wrong_limit_is_refused(limit):
    affinity = pixel_affinity(two_blobs()[:, :3, :3])
    with pytest.raises(UserError, match="limit"):
        normalised_cuts(affinity, limit)


def test_a_single_pixel_and_labels_with_gaps():
    assert normalised_cuts(pixel_affinity(torch.rand(3, 1, 1))).tolist() == [0]
    with pytest.raises(UserError, match="labels"):
        region_affinity(torch.rand(3, 2, 2), torch.tensor([[0, 0], [2, 2]]))
