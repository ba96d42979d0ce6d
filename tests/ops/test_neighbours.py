"""Exact nearest neighbours: equal to sorting all distances in float64, whatever the block, the offset and the ties."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.ops import neighbours
from visus.ops.neighbours import measured, nearest, recall, shares

METRICS = ("l1", "l2", "cosine")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sorted_all(queries, base, k, metric):
    x, y = queries.double()[:, None], base.double()[None]
    if metric == "l1":
        all_of_them = (x - y).abs().sum(2)
    elif metric == "l2":
        all_of_them = (x - y).square().sum(2).sqrt()
    else:
        all_of_them = 1 - torch.cosine_similarity(x, y, dim=2, eps=1e-300)
    values, index = all_of_them.sort(dim=1, stable=True)
    return values[:, :k], index[:, :k]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 7, 300])
def test_the_nearest_are_those_of_all_distances_sorted(metric, k):
    queries, base = drawn(40, 12), drawn(300, 12, seed=1)
    values, index = sorted_all(queries, base, k, metric)
    found, places = nearest(queries, base, k, metric)
    assert torch.equal(places, index) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_the_size_of_the_blocks_changes_nothing(metric):
    queries, base = drawn(50, 9), drawn(5000, 9, seed=1)
    once = nearest(queries, base, 5, metric)
    for block in (1 << 12, 1 << 16, 1 << 20):
        again = nearest(queries, base, 5, metric, block)
        assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    alone = [nearest(query[None], base, 5, metric) for query in queries]
    assert torch.equal(once[1], torch.cat([index for _, index in alone]))
    assert torch.equal(once[0], torch.cat([distances for distances, _ in alone]))


def test_vectors_far_from_the_origin_keep_their_digits():
    queries, base = drawn(30, 20) + 3000, drawn(400, 20, seed=1) + 3000
    values, index = sorted_all(queries, base, 6, "l2")
    found, places = nearest(queries, base, 6)
    assert torch.equal(places, index)
    torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=0)
    naive = queries.square().sum(1)[:, None] - 2 * queries @ base.T + base.square().sum(1)
    assert (naive.topk(6, largest=False).indices != index).any()  # what the expansion alone would have answered


def test_two_tight_clusters_are_compared_by_differences_where_the_bound_proves_nothing(monkeypatch):
    base = torch.cat([drawn(200, 30, seed=1) * 1e-4 + 100, drawn(200, 30, seed=2) * 1e-4 - 100])
    queries = base[::20] + drawn(20, 30, seed=3) * 1e-5
    asked = []
    direct = neighbours._directly
    monkeypatch.setattr(neighbours, "_directly", lambda q, *rest: asked.append(len(q)) or direct(q, *rest))
    found, places = nearest(queries, base, 4)
    assert asked == [20]
    values, index = sorted_all(queries, base, 4, "l2")
    assert torch.equal(places, index)
    torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_come_in_the_order_of_the_base(metric):
    base = drawn(3, 8).repeat(200, 1)  # each vector 200 times
    found, index = nearest(base[:3], base, 10, metric)
    assert torch.equal(index, torch.arange(3)[:, None] + 3 * torch.arange(10))
    assert found.max() < 1e-6


def test_equal_vectors_have_distance_zero_and_a_zero_vector_cosine_one():
    base = torch.cat([drawn(30, 5), torch.zeros(1, 5)])
    assert nearest(base, base, 1)[0].max() == 0
    found, index = nearest(torch.zeros(2, 5), base, 31, "cosine")
    assert torch.equal(found, torch.ones(2, 31)) and torch.equal(index[0], torch.arange(31))


def test_bytes_and_half_precision_are_measured_in_float32():
    base = (drawn(200, 7) * 40).round().clamp(-128, 127)
    for kind in (torch.int8, torch.float16, torch.bfloat16):
        vectors = base.to(kind)
        found, index = nearest(vectors[:9], vectors, 4)
        values, places = sorted_all(vectors[:9], vectors, 4, "l2")
        assert found.dtype == torch.float32 and torch.equal(index, places)
    assert nearest(base.double(), base.double(), 2)[0].dtype == torch.float64


def test_memory_beyond_the_input_is_bounded_by_the_block():
    base, block = drawn(8000, 16), 1 << 18
    nearest(base[:64], base, 3, "l2", block)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        nearest(base[:2000], base, 3, "l2", block)
    held = most = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in profile.profiler.kineto_results.events()
                          if event.name() == "[memory]"):
        held += size
        most = max(most, held)
    assert most < 4 * block + 2000 * 11 * 32, most  # all distances at once: 64 MB


def test_distances_of_given_vectors_can_be_differentiated():
    queries, base = drawn(3, 6).double().requires_grad_(), drawn(10, 6, seed=1).double()
    index = torch.tensor([[1, 4], [0, 9], [7, 7]])
    for metric in METRICS:
        assert torch.autograd.gradcheck(lambda q, metric=metric: measured(q, base, index, metric), queries)


def test_shares_and_recall():
    found = shares(torch.tensor([[0, 2, 2], [1, 1, 1]]), torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), 3)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0, 0.75], [0, 1, 0]]))
    assert recall(torch.tensor([[3, 1], [5, 6]]), torch.tensor([[1, 2], [5, 6]])) == 0.75


@pytest.mark.parametrize("arguments, says", [
    ((drawn(2, 3), drawn(4, 3), 5), "k=5: must be at most 4"),
    ((drawn(2, 3), drawn(4, 3), 0), "k=0: must be a whole number"),
    ((drawn(2, 3), drawn(4, 2), 1), r"\(2, 3\) and \(4, 2\)"),
    ((drawn(2, 3), drawn(4, 3), 1, "l3"), "metric='l3': must be one of l1, l2, cosine"),
])
def test_what_does_not_fit_is_named(arguments, says):
    with pytest.raises(UserError, match=says):
        nearest(*arguments)
