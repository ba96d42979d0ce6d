"""Masks beside pycocotools, bit for bit, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import DataError
from visus.data.masks import (
    mask_runs,
    object_masks,
    polygons_mask,
    runs_area,
    runs_box,
    runs_mask,
    runs_of_lengths,
    runs_of_text,
    runs_text,
)
from visus.data.objects import Objects, Outlines, Runs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the peer


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("pycocotools.mask", reason="pip install pycocotools")


def rings_of(random: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Polygons inside and across the border, on whole, half and odd coordinates, with repeated points."""
    rings = []
    for _ in range(random.integers(1, 5)):
        points, kind, side = int(random.integers(3, 12)), random.integers(0, 6), max(height, width)
        size = np.array([width, height])
        ring = [random.uniform(0, 1, (points, 2)) * size, random.uniform(-0.5, 1.5, (points, 2)) * size,
                random.integers(-3, side + 3, (points, 2)).astype(float),
                random.integers(-6, 2 * side + 6, (points, 2)) / 2,
                np.repeat(random.integers(0, 10 * side, (points, 2)) / 10, 2, 0),
                random.uniform(0, 1, (points, 2)).round(2) * size * [1, 0.01]][kind]
        rings.append(ring)
    return rings


@pytest.mark.parametrize("seed", range(4))
def test_polygons_and_codes_are_those_of_pycocotools_bit_for_bit(peer, seed):
    random = np.random.default_rng(seed)
    for turn in range(120):
        height, width = (int(n) for n in random.integers(1, 50 if turn % 8 else 400, 2))
        rings = rings_of(random, height, width)
        theirs = peer.merge(peer.frPyObjects([ring.reshape(-1).tolist() for ring in rings], height, width))
        mask = polygons_mask(rings, height, width)
        np.testing.assert_array_equal(mask, peer.decode(theirs).astype(bool))
        runs, code = mask_runs(mask), peer.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert runs_text(runs).encode() == code["counts"]
        assert runs_area(runs) == peer.area(code) == mask.sum()
        x, y, wide, high = peer.toBbox(code)
        np.testing.assert_array_equal(runs_box(runs), [x, y, x + wide, y + high])


def test_far_points_and_many_of_them_cost_no_more_than_the_image(peer):
    far = np.array([[-1e300, -5], [1e300, -5], [np.inf, 40], [-np.inf, 40]])
    assert polygons_mask([far], 30, 20).all()
    assert not polygons_mask([far + np.array([0, 1e9])], 30, 20).any()


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_codes_give_the_mask_back_from_lengths_and_from_text(height, width, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    mask = mask.reshape(height, width)
    runs = mask_runs(mask)
    np.testing.assert_array_equal(runs_mask(runs), mask)
    np.testing.assert_array_equal(runs_of_text(runs_text(runs), height, width).lengths, runs.lengths)
    np.testing.assert_array_equal(runs_of_lengths(runs.lengths.tolist(), height, width).lengths, runs.lengths)
    assert (runs.lengths[1:] > 0).all(), "the shortest code has no empty run but the first"


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_text_of_any_lengths_is_read_back(lengths):
    runs = Runs(height=1, width=sum(lengths), lengths=np.array(lengths, np.uint32))
    if sum(lengths):
        np.testing.assert_array_equal(runs_of_text(runs_text(runs), 1, sum(lengths)).lengths, runs.lengths)


@given(st.one_of(st.binary(max_size=30), st.text("05PoO`~\u00e9\u4e2d\ud800 ", max_size=30)))
@settings(max_examples=150, deadline=None)
def test_any_other_text_is_a_value_error(text):
    try:
        runs = runs_of_text(text, 3, 4)
    except ValueError:
        return
    assert runs_mask(runs).shape == (3, 4)


@pytest.mark.parametrize("lengths", [None, [], [11], [13], [-1, 13], [6.0, 6], [True, 11], ["12"], [2**40], {}, [[12]]])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="run"):
        runs_of_lengths(lengths, 3, 4)


def test_the_box_of_a_code_with_empty_runs_is_that_of_its_pixels():
    runs = Runs(height=4, width=3, lengths=np.array([0, 0, 5, 0, 0, 2, 5, 0], np.uint32))
    np.testing.assert_array_equal(runs_box(runs), [1, 1, 2, 3])
    np.testing.assert_array_equal(runs_box(mask_runs(np.zeros((4, 3)))), [0, 0, 0, 0])


def test_masks_of_an_image_come_from_polygons_codes_or_nothing():
    square = np.array([[1, 1], [4, 1], [4, 3], [1, 3]], float)
    hole = np.array([[6, 0], [8, 0], [8, 2], [6, 2]], float)
    coded = np.zeros((5, 9), bool)
    coded[4, 2:5] = True
    objects = Objects(
        start=np.array([0, 3]), labels=np.zeros(3, np.int64), boxes=np.zeros((3, 4)),
        outlines=Outlines(polygons=np.array([0, 2, 2, 2]), vertices=np.array([0, 4, 8]),
                          points=np.concatenate([square, hole]), runs={1: mask_runs(coded)}))
    masks = object_masks(objects, 5, 9)
    assert masks.shape == (3, 5, 9) and masks.dtype == bool
    assert masks[0, 1:3, 1:4].all() and masks[0, :2, 6:8].all() and masks[0].sum() == 10
    np.testing.assert_array_equal(masks[1], coded)
    assert not masks[2].any()
    with pytest.raises(DataError, match="coded for 9 x 5"):
        object_masks(objects, 5, 8)


def test_sizes_beyond_the_limits_are_refused_before_anything_is_made():
    for height, width in ((0, 5), (10**6, 10**6), (-3, 4)):
        with pytest.raises(DataError, match="beyond what is drawn"):
            polygons_mask([], height, width)
