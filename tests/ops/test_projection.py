"""visus.ops.projection: t-SNE's equations, maps that keep neighbours, and the loss of t-SimCNE."""

from __future__ import annotations

import math

import pytest
import torch

from visus.core.errors import UserError
from visus.ops.projection import (
    _curve,
    fuzzy_graph,
    joint_nearness,
    pca,
    squared_distances,
    t_simcne_loss,
    tsne,
    tsne_divergence,
    umap,
)


def groups(per: int = 25, count: int = 4, dims: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds far apart: [N, D], and the group of each."""
    generator = torch.Generator().manual_seed(0)
    middles = 8 * torch.eye(dims)[:count]
    group = torch.arange(count).repeat_interleave(per)
    return middles[group] + torch.randn(len(group), dims, generator=generator), group


def nearest_is_of_the_group(points: torch.Tensor, group: torch.Tensor) -> float:
    apart = squared_distances(points.double()).fill_diagonal_(math.inf)
    return float((group[apart.argmin(1)] == group).float().mean())


def test_principal_components_are_the_directions_of_most_variance():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    spread = torch.tensor([9.0, 3, 1, 0.5, 0.1])
    features = torch.randn(400, 5, generator=generator, dtype=torch.float64) * spread @ turn
    places, shares = pca(features, 2)
    centred = features - features.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    torch.testing.assert_close(shares, values.flip(0)[:2] / values.sum())
    torch.testing.assert_close(places.abs(), (centred @ vectors.flip(1)[:, :2]).abs())


@pytest.mark.parametrize("perplexity", [2, 10.0])
def test_each_row_has_the_perplexity_asked_for(perplexity):
    from visus.ops.projection import _nearness

    rows = _nearness(groups()[0], perplexity)
    entropy = -(rows * rows.clamp(min=1e-300).log()).sum(1)
    torch.testing.assert_close(entropy.exp(), torch.full_like(entropy, perplexity), rtol=1e-6, atol=0)
    joint = joint_nearness(groups()[0], perplexity)
    assert torch.equal(joint, joint.T) and float(joint.sum()) == pytest.approx(1) and joint.diagonal().sum() == 0


def test_a_step_of_tsne_follows_the_gradient_of_its_divergence():
    """Equation 5 by autograd: after one plain step from the start, the move is along minus the gradient."""
    features = groups(6)[0]
    start = pca(features)[0].double()
    begun = (1e-4 * start / start[:, 0].std()).requires_grad_()
    p = joint_nearness(features, 5)
    kernel = 1 / (1 + (begun[:, None] - begun[None]).square().sum(2))
    kernel = kernel - torch.eye(len(kernel))
    logs = (kernel + torch.eye(len(kernel))).log() - kernel.sum().log()
    gradient, = torch.autograd.grad(-(p * logs).sum(), begun)
    moved = tsne(features, perplexity=5, steps=1, exaggeration=1.0, exaggerated_steps=0)
    step = moved.double() - begun.detach()
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), -gradient.flatten(), dim=0)
    assert cosine > 0.999


@pytest.mark.parametrize("make", [lambda x: tsne(x, perplexity=10, steps=300, exaggerated_steps=100),
                                  lambda x: umap(x, epochs=100)])
def test_maps_keep_groups_that_two_components_mix(make):
    features, group = groups(15, 10)
    points = make(features)
    assert points.shape == (150, 2) and points.isfinite().all()
    assert nearest_is_of_the_group(points, group) > 0.97 > nearest_is_of_the_group(pca(features)[0], group) + 0.1
    assert torch.equal(points, make(features)), "the same again"


def test_the_divergence_falls():
    features = groups()[0]
    p = joint_nearness(features, 10)
    short, long = (tsne(features, perplexity=10, steps=steps, exaggerated_steps=50) for steps in (60, 400))
    assert tsne_divergence(long, p) < tsne_divergence(short, p) - 0.02


def test_duplicates_do_no_harm():
    features = torch.ones(12, 3)
    features[6:] = 2
    assert tsne(features, perplexity=3, steps=50).isfinite().all()
    assert umap(features, neighbours=4, epochs=20).isfinite().all()


def test_the_fuzzy_graph_is_sure_of_the_nearest_and_counts_log2_neighbours():
    features = groups()[0]
    graph = fuzzy_graph(features, 8)
    assert torch.equal(graph, graph.T) and float(graph.min()) == 0 and graph.diagonal().sum() == 0
    nearest = squared_distances(features.double()).fill_diagonal_(math.inf).argmin(1)
    torch.testing.assert_close(graph[torch.arange(len(graph)), nearest], torch.ones(len(graph)))


def test_the_curve_of_umap_is_the_published_one():
    """a and b that umap-learn documents for a minimum distance of 0.1."""
    a, b = _curve(0.1)
    assert a == pytest.approx(1.577, abs=1e-3) and b == pytest.approx(0.895, abs=1e-3)


def test_t_simcne_counts_the_fellow_among_all_others():
    first, second = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    both = torch.cat([first, second])
    expected = 0.0
    for i in range(4):
        near = [1 / (1 + float((both[i] - both[j]).square().sum())) for j in range(4)]
        expected -= math.log(near[(i + 2) % 4] / (sum(near) - near[i])) / 4
    assert float(t_simcne_loss(first, second)) == pytest.approx(expected)


@pytest.mark.parametrize("call, said", [
    (lambda x: tsne(x, perplexity=len(x)), "perplexity="), (lambda x: tsne(x, steps=0), "steps=0"),
    (lambda x: tsne(x, exaggeration=0), "exaggeration=0"), (lambda x: umap(x, neighbours=len(x)), "neighbours="),
    (lambda x: umap(x, min_distance=1), "min_distance=1"), (lambda x: pca(x, 13), "dims=13"),
    (lambda x: t_simcne_loss(x[:, :2], x[1:, :2]), "second=")])
def test_wrong_choices_are_named(call, said):
    with pytest.raises(UserError, match=said):
        call(groups()[0])
