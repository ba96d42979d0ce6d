"""Maps of data against scikit-learn 1.9.1, and the minimum cut against SciPy's maximum flow, on the same input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visus.ops.min_cut import STEPS, min_cut
from visus.ops.projection import joint_nearness, pca, squared_distances, tsne, tsne_divergence, umap

COUNT = 250


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """[250, 64] in [0, 1] and their classes."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.tensor(data.data[:COUNT] / 16, dtype=torch.float32), torch.tensor(data.target[:COUNT])


def test_nearness_is_that_of_scikit_learn(digits):
    """Largest difference 1e-5 of the largest value: scikit-learn's halving ends at an entropy within 1e-5."""
    inside = pytest.importorskip("sklearn.manifold._t_sne")
    expected = np.zeros((COUNT, COUNT))
    expected[np.triu_indices(COUNT, 1)] = inside._joint_probabilities(
        squared_distances(digits[0].double()).numpy().astype(np.float32), 30.0, 0)
    expected = expected + expected.T
    found = joint_nearness(digits[0], 30).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * found.max()


def test_maps_of_digits_are_as_good_as_those_of_scikit_learn(digits):
    """t-SNE: divergence at most 1.02 of theirs from the same P; trustworthiness at most 0.003 less."""
    manifold = pytest.importorskip("sklearn.manifold")
    features, classes = digits
    ours = tsne(features, steps=500)
    peer = manifold.TSNE(method="exact", init="pca", max_iter=500, random_state=0)
    theirs = peer.fit_transform(features.numpy())
    p = joint_nearness(features, 30)
    assert tsne_divergence(ours, p) <= 1.02 * tsne_divergence(torch.tensor(theirs), p)
    trust = {name: manifold.trustworthiness(features.numpy(), np.asarray(points), n_neighbors=5)
             for name, points in (("ours", ours), ("theirs", theirs), ("umap", umap(features)),
                                  ("pca", pca(features)[0]))}
    assert trust["ours"] >= trust["theirs"] - 0.003 and trust["umap"] > 0.97 > trust["pca"] + 0.08
    apart = squared_distances(ours.double()).fill_diagonal_(math.inf)
    assert float((classes[apart.argmin(1)] == classes).float().mean()) > 0.95


def test_principal_components_are_those_of_scikit_learn(digits):
    peer = pytest.importorskip("sklearn.decomposition").PCA(2, svd_solver="full")
    expected = peer.fit_transform(digits[0].double().numpy())
    places, shares = pca(digits[0].double())
    np.testing.assert_allclose(places.abs().numpy(), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(shares.numpy(), peer.explained_variance_ratio_, rtol=1e-9)


def test_the_cut_is_the_minimum_that_a_maximum_flow_proves():
    """Whole-number costs on a 24 x 30 grid, where SciPy's flow is exact: equal cost."""
    csgraph, sparse = (pytest.importorskip(f"scipy.sparse{part}") for part in (".csgraph", ""))
    generator = torch.Generator().manual_seed(0)
    height, width = 24, 30
    unary = torch.randint(-20, 21, (1, height, width), generator=generator).double()
    weights = torch.randint(0, 12, (1, 4, height, width), generator=generator).double()
    found = min_cut(unary, weights, steps=20000, tolerance=1e-7)
    number = np.arange(height * width).reshape(height, width)
    source, sink = height * width, height * width + 1
    rows, columns, capacity = [], [], []

    def edge(a: int, b: int, amount: float) -> None:
        rows.append(int(a)), columns.append(int(b)), capacity.append(int(amount))

    for i in range(height):
        for j in range(width):
            cost = int(unary[0, i, j])
            edge(source, number[i, j], max(-cost, 0))
            edge(number[i, j], sink, max(cost, 0))
            for k, (down, right) in enumerate(STEPS):
                if i + down < height and 0 <= j + right < width:
                    amount = float(weights[0, k, i, j])
                    edge(number[i, j], number[i + down, j + right], amount)
                    edge(number[i + down, j + right], number[i, j], amount)
    graph = sparse.csr_matrix((capacity, (rows, columns)), shape=(sink + 1, sink + 1), dtype=np.int32)
    flow = csgraph.maximum_flow(graph, source, sink).flow_value
    least = flow + float(unary.clamp(max=0).sum())
    assert float(found.cost) == pytest.approx(least, abs=1e-6) and float(found.bound) <= least + 1e-6
