"""Selective search against the paper's equations written out pair by pair, and its features against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.boxes import box_iou
from visus.ops.region_features import (
    ANGLES,
    SPACES,
    TEXTURE_BINS,
    colour_space,
    gaussian_derivatives,
    neighbour_pairs,
    pixel_bins,
    region_boxes,
    region_histograms,
)
from visus.ops.selective_search import MODES, Regions, Search, groupings, selective_search

QUICK = Search(spaces=("hsv", "lab"), similarities=("ctsf", "f"), scales=(30.0, 80.0), min_size=15)


def picture(seed: int = 0) -> torch.Tensor:
    """[3, 48, 64]: three objects of plain colour on noisy ground."""
    image = 0.15 * torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(seed))
    for (x1, y1, x2, y2), colour in OBJECTS.items():
        image[:, y1:y2, x1:x2] += torch.tensor(colour)[:, None, None]
    return image


OBJECTS = {(5, 6, 21, 26): (0.8, 0.1, 0.1), (30, 20, 56, 42): (0.1, 0.7, 0.2), (40, 3, 50, 13): (0.1, 0.2, 0.8)}


def some_regions() -> tuple[np.ndarray, Regions]:
    labels = np.arange(6).repeat(8)[:, None] // 2 * 4 + np.arange(64)[None] // 16
    labels = np.unique(labels, return_inverse=True)[1].reshape(48, 64)
    return labels, Regions.of(labels, pixel_bins(picture()))


@pytest.mark.parametrize("letters", ["ctsf", "tsf", "c", "s", "f"])
def test_each_join_takes_the_pair_that_is_most_alike_by_the_equations(letters):
    """Equations 2 to 6 of the paper for every pair of neighbours, anew after every join."""
    _, regions = some_regions()
    boxes, joins = regions.grouping(letters)
    count = len(regions.sizes)
    colours, textures = regions.colour.astype(float), regions.texture.astype(float)
    alive = {number: (regions.sizes[number], colours[number], textures[number], regions.boxes[number])
             for number in range(count)}
    near = {frozenset(pair) for pair in regions.pairs.tolist()}

    def alike(a: int, b: int) -> float:
        (size_a, colour_a, texture_a, box_a), (size_b, colour_b, texture_b, box_b) = alive[a], alive[b]
        both = np.concatenate([np.minimum(box_a, box_b)[:2], np.maximum(box_a, box_b)[2:]])
        area = (both[2] - both[0]) * (both[3] - both[1])
        parts = {"c": np.minimum(colour_a, colour_b).sum(), "t": np.minimum(texture_a, texture_b).sum(),
                 "s": 1 - (size_a + size_b) / regions.pixels,
                 "f": 1 - (area - size_a - size_b) / regions.pixels}
        return sum(parts[letter] for letter in letters)

    for number, (a, b) in enumerate(joins.tolist(), start=count):
        best = max(alike(*pair) for pair in near)
        assert frozenset((a, b)) in near and alike(a, b) == pytest.approx(best, abs=1e-5)
        (size_a, colour_a, texture_a, box_a), (size_b, colour_b, texture_b, box_b) = alive.pop(a), alive.pop(b)
        total = size_a + size_b
        box = np.concatenate([np.minimum(box_a, box_b)[:2], np.maximum(box_a, box_b)[2:]])
        alive[number] = (total, (size_a * colour_a + size_b * colour_b) / total,
                         (size_a * texture_a + size_b * texture_b) / total, box)
        np.testing.assert_array_equal(boxes[number], box)
        near = {frozenset(number if one in (a, b) else one for one in pair) for pair in near}
        near = {pair for pair in near if len(pair) == 2}
    assert len(alive) == 1 and boxes[-1].tolist() == [0, 0, 64, 48]


def test_histograms_count_the_pixels_of_each_region():
    labels, regions = some_regions()
    image = picture()
    for region in range(len(regions.sizes)):
        inside = image[:, torch.from_numpy(labels == region)]
        expected = torch.stack([torch.histc(row, 25, 0, 1) for row in inside]).flatten() / inside.numel()
        np.testing.assert_allclose(regions.colour[region], expected.numpy(), atol=1e-6)


def test_texture_bins_hold_the_slope_along_and_against_each_direction():
    image = picture(3)
    right, down = (part[0].numpy() for part in gaussian_derivatives(image[None]))
    labels = np.zeros(48 * 64, np.int64)
    found = region_histograms(pixel_bins(image), labels, 1)[1].reshape(ANGLES, 3, 2, TEXTURE_BINS)
    for number in range(ANGLES):
        angle = np.pi * number / ANGLES
        for channel in range(3):
            along = np.cos(angle) * right[channel] + np.sin(angle) * down[channel]
            for side, values in enumerate((along, -along)):
                steps = np.clip(values / values.max(), 0, 1)
                expected = np.histogram(steps, TEXTURE_BINS, (0, 1))[0] / (3 * 2 * ANGLES * labels.size)
                np.testing.assert_allclose(found[number, channel, side], expected, atol=2e-5)


def test_gaussian_derivatives_of_a_ramp_are_its_slope_and_scipys_inside():
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    image = np.random.default_rng(0).random((1, 20, 24))
    right, down = gaussian_derivatives(torch.from_numpy(image)[None])
    smooth = ndimage.gaussian_filter1d(image, 1.0, axis=1, mode="nearest", radius=3)
    expected = ndimage.gaussian_filter1d(smooth, 1.0, axis=2, order=1, mode="nearest", radius=3)
    slope = np.polyfit(expected.ravel(), right.numpy().ravel(), 1)[0]
    np.testing.assert_allclose(right[0].numpy(), slope * expected, atol=1e-12)  # theirs loses 1 to 2 % by the cut-off
    assert 1 < slope < 1.05
    ramp = torch.arange(20.0)[:, None].expand(20, 24)[None, None]
    torch.testing.assert_close(gaussian_derivatives(ramp)[1][0, 0, 3:-3], torch.ones(14, 24))


def test_boxes_and_neighbours_are_those_of_a_plain_search():
    labels = np.random.default_rng(0).integers(0, 7, (9, 8))
    labels = np.unique(labels, return_inverse=True)[1].reshape(9, 8)
    count = int(labels.max()) + 1
    boxes = region_boxes(labels, count)
    for region in range(count):
        y, x = np.nonzero(labels == region)
        assert boxes[region].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    touching = {tuple(sorted((int(labels[y, x]), int(labels[y + b, x + a])))) for y in range(9) for x in range(8)
                for b, a in ((0, 1), (1, 0), (1, 1), (1, -1))
                if y + b < 9 and 0 <= x + a < 8 and labels[y, x] != labels[y + b, x + a]}
    assert {tuple(pair) for pair in neighbour_pairs(labels, count).tolist()} == touching


@pytest.mark.parametrize("name", SPACES)
def test_colour_spaces_lie_between_0_and_1(name):
    found = colour_space(torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)), name)
    assert found.min() >= 0 and found.max() <= 1 and found.shape[1] == (1 if name in ("hue", "intensity") else 3)


def test_every_object_of_a_picture_is_among_the_proposals_and_each_box_is_there_once():
    found = selective_search(picture(), QUICK)
    objects = torch.tensor([list(box) for box in OBJECTS], dtype=torch.float32)
    assert box_iou(objects, found.boxes).amax(1).min() > 0.8
    assert len(found.boxes.unique(dim=0)) == len(found.boxes)
    assert bool((found.order.diff() >= 0).all())
    assert found.boxes[:, :2].min() == 0 and found.boxes.amax(0)[2:].tolist() == [64, 48]
    assert [0, 0, 64, 48] in found.boxes.tolist()


def test_the_seed_changes_the_order_alone_and_the_limit_takes_the_first():
    first, again, other = (selective_search(picture(), QUICK, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.boxes, again.boxes) and not torch.equal(first.boxes, other.boxes)
    assert {tuple(box) for box in first.boxes.tolist()} == {tuple(box) for box in other.boxes.tolist()}
    limited = selective_search(picture(), QUICK, limit=7, min_side_px=10)
    large = first.boxes[(first.boxes[:, 2:] - first.boxes[:, :2]).amin(1) >= 10]
    assert torch.equal(limited.boxes, large[:7])


def test_modes_are_those_of_table_6_and_progress_tells_each_grouping():
    assert {name: groupings(search) for name, search in MODES.items()} == {"single": 1, "fast": 8, "quality": 80}
    told: list[int] = []
    selective_search(picture(), QUICK, advance=told.append)
    assert sum(told) == groupings(QUICK) == 8


def test_grey_one_colour_and_tiny_images_give_boxes_too():
    grey = selective_search(picture()[:1], "single")
    assert len(grey.boxes) >= 1
    flat = selective_search(torch.full((3, 20, 30), 0.5), "fast")
    assert flat.boxes.tolist() == [[0, 0, 30, 20]]
    assert selective_search(torch.rand(3, 1, 1), "fast").boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Search(spaces=("cmyk",), similarities=("c",), scales=(50.0,)), "spaces"),
    (lambda: Search(spaces=("hsv",), similarities=("cx",), scales=(50.0,)), "similarities"),
    (lambda: Search(spaces=("hsv",), similarities=("c",), scales=()), "scales"),
    (lambda: selective_search(torch.rand(3, 8, 8), "slow"), "mode"),
    (lambda: selective_search(torch.rand(8, 8)), "image"),
    (lambda: selective_search(torch.rand(3, 8, 8), limit=-1), "limit"),
])
def test_what_cannot_be_is_refused_by_name(build, message):
    with pytest.raises(UserError, match=message):
        build()
