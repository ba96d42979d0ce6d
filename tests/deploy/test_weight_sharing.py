"""Few values stand for many weights: assigned to the nearest, moved by the sum of their gradients."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.deploy.prune_weights import apply_masks, magnitude_masks
from visus.deploy.weight_sharing import cluster, settle_weights, share_weights


def test_each_value_has_its_nearest_centroid_and_each_centroid_the_mean_of_its_values():
    values = np.random.default_rng(0).normal(size=2000)
    found = cluster(values, 12)
    brute = np.abs(values[:, None] - found.centroids).argmin(1)
    assert np.array_equal(found.index, brute)
    for k in range(12):
        assert found.centroids[k] == pytest.approx(values[brute == k].mean())


@pytest.mark.parametrize("seed", range(5))
def test_separate_heaps_are_found_as_brute_force_finds_them(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(centre, 0.05, 3) for centre in (-2.0, 0.5, 1.5)])
    found = cluster(values, 3)
    ordered = np.sort(values)
    best = min(sum(((part - part.mean()) ** 2).sum() for part in (ordered[:a], ordered[a:b], ordered[b:]))
               for a in range(1, 8) for b in range(a + 1, 9))  # all partitions of a line into three
    assert ((values - found.centroids[found.index]) ** 2).sum() == pytest.approx(best)


def test_the_first_centroids_are_spread_evenly_and_few_values_are_kept_as_they_are():
    values = np.array([0.0, 1.0, 1.0, 7.0])
    found = cluster(values, 5)
    assert found.centroids.tolist() == [0.0, 1.0, 7.0] and np.array_equal(found.centroids[found.index], values)
    even = cluster(np.linspace(0, 1, 101), 4)
    assert np.allclose(np.diff(even.centroids), even.centroids[1] - even.centroids[0], atol=0.02)


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_weights_and_zeros_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    before = copy.deepcopy(model)  # torch's parametrized classes are shared by later copies
    apply_masks(model, magnitude_masks(model, 0.6))
    share_weights(model, 3, 2)
    images = torch.randn(4, 3, 8, 8)
    plain = copy.deepcopy(before)
    with torch.no_grad():
        for place in (0, 3):
            plain[place].weight.copy_(model[place].weight)
    model(images).square().sum().backward()
    plain(images).square().sum().backward()
    for place in (0, 3):
        one, codebook = model[place].parametrizations.weight[0], model[place].parametrizations.weight.original
        assert len(codebook) == (7 if place == 0 else 3)
        slopes = plain[place].weight.grad
        wanted = torch.stack([slopes[one.mask & (one.index == k)].sum() for k in range(len(codebook))])
        assert torch.allclose(codebook.grad, wanted, rtol=1e-4, atol=1e-4)
    zeros = [model[place].weight == 0 for place in (0, 3)]
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
    settle_weights(model)
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "0.bias", "3.weight", "3.bias"}
    for place, mask in zip((0, 3), zeros, strict=True):
        weight = model[place].weight.detach()
        assert not weight[mask].any()
        assert len(weight[~mask].unique()) <= (7 if place == 0 else 3)


def test_bits_out_of_range_are_refused():
    for bits in ({"convolution_bits": 0}, {"full_bits": 9}):
        with pytest.raises(UserError):
            share_weights(nn.Linear(2, 2), **bits)
