"""Felzenszwalb-Huttenlocher in whole-array steps gives what the sequential algorithm gives, edge for edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import UserError
from visus.ops.felzenszwalb import PixelGraph, felzenszwalb, in_first_order
from visus.ops.merge_tree import MergeTree, forest
from visus.ops.smoothing import smoothed


def sequential(graph: PixelGraph, pixels: int, scale: float, min_size: int) -> np.ndarray:
    """Algorithm 1 of the paper, one edge after another, with a union-find; then small regions join."""
    parent, size, inner = list(range(pixels)), [1] * pixels, [0.0] * pixels

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    edges = list(zip(graph.weights.tolist(), graph.tails.tolist(), graph.heads.tolist(), strict=True))
    for small in (False, True):
        for weight, a, b in edges:
            a, b = find(a), find(b)
            joins = min(size[a], size[b]) < min_size if small else \
                (weight - inner[a]) * size[a] <= scale and (weight - inner[b]) * size[b] <= scale
            if a != b and joins:
                parent[b] = a
                size[a] += size[b]
                inner[a] = weight
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(find(node), len(numbers)) for node in range(pixels)])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([4, 8]), st.integers(2, 60),
       st.floats(0.3, 400), st.integers(1, 12), st.integers(0, 10**6))
def test_random_images_with_many_ties_are_cut_as_the_sequential_algorithm_cuts_them(
        height, width, channels, neighbours, levels, scale, min_size, seed):
    image = np.random.default_rng(seed).integers(0, levels, (channels, height, width)).astype(np.float32)
    graph = PixelGraph(image, neighbours)
    found = graph.segment(scale, min_size)
    np.testing.assert_array_equal(found.ravel(), sequential(graph, height * width, scale, min_size))


@pytest.mark.parametrize("scale", [3.0, 30.0, 300.0, 3000.0])
def test_smooth_pictures_with_large_regions_are_cut_as_the_sequential_algorithm_cuts_them(scale):
    """Ramps and blurred noise: one region grows by one pixel at a time, which a round of pairs would never finish."""
    generator = torch.Generator().manual_seed(3)
    noise = smoothed(255 * torch.rand(1, 3, 60, 80, generator=generator), 2.0)
    ramp = torch.linspace(0, 12, 80).square().expand(3, 60, 80)
    graph = PixelGraph((noise[0] + ramp).numpy(), 8)
    for min_size in (1, 40):
        expected = sequential(graph, 4800, scale, min_size)
        np.testing.assert_array_equal(graph.segment(scale, min_size).ravel(), expected)


def test_a_photograph_is_cut_as_the_sequential_algorithm_cuts_it():
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    image = torch.from_numpy(data.astronaut()[40:220, 150:330].copy()).permute(2, 0, 1).float()
    graph = PixelGraph(smoothed(image[None], 0.8)[0].numpy(), 8)
    expected = sequential(graph, 180 * 180, 150.0, 50)
    np.testing.assert_array_equal(graph.segment(150.0, 50).ravel(), expected)
    assert expected.max() > 20


def test_without_ties_it_is_scikit_images_partition():
    """scikit-image divides its scale by 255 and takes edges with a strict inequality; without ties that is the same."""
    segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is not installed")
    image = np.random.default_rng(1).random((40, 50, 3))
    image[8:30, 10:40] += 0.8
    for scale, min_size in ((20.0, 1), (100.0, 15), (400.0, 40)):
        theirs = segmentation.felzenszwalb(image, scale=scale, sigma=0, min_size=min_size, channel_axis=2)
        ours = PixelGraph(image.transpose(2, 0, 1), 8).segment(scale / 255, min_size)
        np.testing.assert_array_equal(ours, in_first_order(theirs.ravel()).reshape(theirs.shape))


def test_two_halves_and_the_meaning_of_scale():
    """A noiseless step of 100: both halves are flat, Int is 0, so they join when 100 <= k / |A| for each."""
    images = torch.zeros(1, 1, 4, 6)
    images[..., 3:] = 100 / 255
    for scale, parts in ((1199.0, 2), (1201.0, 1)):
        found = felzenszwalb(images, scale=scale, sigma=0, min_size=1)
        assert found.dtype == torch.long and int(found.max()) + 1 == parts
    assert int(felzenszwalb(images, scale=1.0, sigma=0, min_size=13).max()) == 0, "regions of 12 pixels join"


def test_a_batch_is_cut_image_by_image():
    images = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(5))
    together = felzenszwalb(images, scale=60, min_size=5, neighbours=4)
    for number in range(3):
        assert torch.equal(felzenszwalb(images[number:number + 1], scale=60, min_size=5, neighbours=4)[0],
                           together[number])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 90), st.integers(0, 10**6))
def test_the_merge_tree_knows_what_kruskal_joins_and_how_large_it_is(nodes, edges, seed):
    """Of any graph: for every join, the sizes of both parts, and the components that stay."""
    draws = np.random.default_rng(seed)
    tails, heads = draws.integers(0, nodes, (2, edges)).astype(np.int32)
    tails, heads = tails[tails != heads], heads[tails != heads]
    sizes = draws.integers(1, 9, nodes)
    parent, size, expected = list(range(nodes)), sizes.tolist(), {}
    for number, (a, b) in enumerate(zip(tails.tolist(), heads.tolist(), strict=True)):
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        if a != b:
            expected[number] = sorted((size[a], size[b]))
            parent[b] = a
            size[a] += size[b]
    tree, found = MergeTree(tails, heads, sizes), {}
    for place in range(len(tree.order)):
        edge, own = int(tree.edge[place]), int(tree.size[tree.order[place]])
        if tree.place[place] == 0:
            found[edge] = [own]
        elif tree.place[place] == 1:
            found[edge].append(own)
        else:
            found[edge] = [own, int(tree.grown[place])]
    assert {edge: sorted(pair) for edge, pair in found.items()} == expected
    parts = forest(tails, heads, nodes).components

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    roots = [root(node) for node in range(nodes)]
    assert [[a == b for a in roots] for b in roots] == [[a == b for a in parts] for b in parts]


def test_smoothing_is_scipys_gaussian_filter():
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    image = np.random.default_rng(0).random((2, 21, 17))
    for sigma in (0.5, 0.8, 2.0):
        expected = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest")
        np.testing.assert_allclose(smoothed(torch.from_numpy(image)[None], sigma)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("option", "value"), [("scale", 0), ("scale", float("inf")), ("sigma", -1), ("min_size", 0),
                                               ("neighbours", 6)])
def test_wrong_numbers_are_refused_by_name(option, value):
    with pytest.raises(UserError, match=option):
        felzenszwalb(torch.zeros(1, 3, 4, 4), **{option: value})
