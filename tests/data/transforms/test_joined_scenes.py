"""Mosaic, copy-paste and the crops of SSD: what they say of the marks, and by which rule they draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import draws
from tests.data.transforms.scenes import marked, outlined
from visus.data.masks import object_masks, polygons_mask, runs_mask
from visus.data.objects import Objects
from visus.data.transforms import build_augmentation
from visus.data.transforms.copy_paste import covered
from visus.data.transforms.iou_crop import MinIoUCrop, overlap
from visus.data.transforms.mosaic import alike
from visus.data.transforms.scale_jitter import LargeScaleJitter, ScaleJitter
from visus.data.transforms.scene import Scene


def flat(level, ring, height=40, width=60, label=None):
    """A scene of one level with one outlined object, brighter, and its map."""
    mask = polygons_mask([ring], height, width)
    image = np.where(mask, level + 0.2, level).astype(np.float32)
    labels = np.where(mask, 0 if label is None else label, 255)
    return Scene(image=torch.from_numpy(image).expand(3, -1, -1), objects=outlined([ring]),
                 label_map=torch.from_numpy(labels))


SQUARE = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])


def test_a_mosaic_has_four_scenes_about_one_corner_with_their_marks():
    augment = build_augmentation([{"name": "mosaic", "size": (80, 100), "fill": 0.0}])
    corners = set()
    for index in range(20):
        moved = augment.scene(flat(0.1, SQUARE), index, 0, 0, lambda n: flat((n % 3 + 2) / 10, SQUARE, 50, 50))
        assert moved.size == (80, 100)
        image = moved.image[0].numpy()
        inside = moved.label_map.numpy() == 0
        expected = object_masks(moved.objects, 80, 100).any(0)
        assert (inside != expected).mean() < 0.02  # pixels along the edges
        boxes = moved.objects.boxes
        assert (boxes >= 0).all() and (boxes <= [100, 80, 100, 80]).all() and 1 <= len(boxes) <= 4
        rows = np.flatnonzero((image > 0).any(1))
        corners.add((int(boxes[0, 2]), len(rows)))
    assert len(corners) > 5


def test_the_corner_of_a_mosaic_is_drawn_from_the_middle_half():
    augment = build_augmentation([{"name": "mosaic", "size": 64, "fill": 0.0}])
    whole = np.array([[0.0, 0], [64, 0], [64, 64], [0, 64]])
    places = []
    for index in range(60):
        moved = augment.scene(flat(0.5, whole, 64, 64), index, 1, 0, lambda n: flat(0.1, whole, 64, 64))
        assert (moved.objects.boxes[:, 2] - moved.objects.boxes[:, 0] <= 32).all()
        places.append(moved.objects.boxes[0, 2:])  # the lower right of the first is the corner
    places = np.array(places)
    assert places.min() >= 16 and places.max() <= 48 and places.min() < 20 and places.max() > 44


def test_scenes_of_other_kinds_are_made_alike():
    grey = Scene(image=torch.zeros(1, 4, 4, dtype=torch.uint8))
    colour = Scene(image=torch.zeros(3, 5, 5), objects=outlined([SQUARE / 10]), label_map=torch.zeros(5, 5).long())
    first, second = alike([grey, colour])
    assert first.image.shape == (3, 4, 4) and first.image.dtype == torch.float32
    assert len(first.objects) == 0 and (first.label_map == 255).all() and second.objects is colour.objects


def test_copy_paste_copies_pixels_outline_label_and_covers_what_is_below():
    below = np.array([[20.0, 5], [50, 5], [50, 35], [20, 35]])
    # the other scene is mirrored first: its square lies at 30 to 50 of 60
    steps = [{"name": "horizontal_flip", "probability": 1.0}, {"name": "copy_paste", "share": 1.0, "probability": 1.0}]
    points = np.array([[[15.0, 20, 2], [35, 20, 2]]])
    given = flat(0.1, below[:, [0, 1]])
    objects = Objects(start=given.objects.start, labels=given.objects.labels, boxes=given.objects.boxes,
                      outlines=given.objects.outlines, keypoints=points, keypoint_names=("a", "b"))
    given = Scene(image=given.image, objects=objects, label_map=given.label_map)
    moved = build_augmentation(steps).scene(given, 0, 0, 0, lambda n: flat(0.5, SQUARE, label=3))
    pasted = polygons_mask([np.array([[30.0, 10], [50, 10], [50, 30], [30, 30]])], 40, 60)
    image = moved.image[0].numpy()
    np.testing.assert_allclose(image[pasted], 0.7)
    assert not np.isclose(image[~pasted], 0.7).any() and (moved.label_map.numpy() == 3).sum() == pasted.sum()
    assert len(moved.objects) == 2
    left = polygons_mask([np.array([[10.0, 5], [40, 5], [40, 35], [10, 35]])], 40, 60) & ~pasted
    assert (runs_mask(moved.objects.outlines.runs[0]) == left).all()
    np.testing.assert_allclose(moved.objects.boxes, [[10, 5, 40, 35], [30, 10, 50, 30]])
    assert (object_masks(moved.objects, 40, 60)[1] == pasted).all()
    # mirrored, the keypoints lie at 45 (covered: hidden) and 25
    assert moved.objects.keypoints[0].tolist() == [[45, 20, 1], [25, 20, 2]]
    assert moved.objects.keypoints.shape == (2, 2, 3) and not moved.objects.keypoints[1].any()


def test_what_is_covered_too_much_is_dropped():
    given = marked(0, 40, 60).objects
    hidden = np.zeros((40, 60), bool)
    hidden[:, :32] = True  # all of the first object and of the crowd, none of the second
    left = covered(given, hidden, 0.1)
    assert left.labels.tolist() == [1] and left.ids.tolist() == [8]
    np.testing.assert_allclose(left.boxes, given.boxes[1:2])
    boxes = np.array([[0.0, 0, 34, 10], [20, 0, 60, 10]])
    plain = Objects(start=np.array([0, 2]), labels=np.array([0, 1]), boxes=boxes)
    assert covered(plain, hidden, 0.1).labels.tolist() == [1]  # of boxes alone, 2 of 34 columns are too little


def test_copy_paste_without_outlines_pastes_nothing():
    plain = Scene(image=torch.zeros(3, 20, 20), objects=Objects(start=np.array([0, 1]), labels=np.array([0]),
                                                                boxes=np.array([[2.0, 2, 9, 9]])))
    augment = build_augmentation([{"name": "copy_paste", "probability": 1.0}])
    assert augment.scene(plain, 0, 0, 0, lambda n: plain) is not None
    assert torch.equal(augment.scene(plain, 0, 0, 0, lambda n: plain).image, plain.image)


def test_min_iou_crop_draws_each_option_as_often_and_keeps_its_promise():
    crop, boxes = MinIoUCrop(overlaps=(0.3, 0.7)), np.array([[20.0, 15, 170, 140], [5, 5, 30, 40]])
    whole, reached = 0, []
    for index in range(400):
        drawn = crop.placements(150, 200, draws(index + 1).of(index), boxes)
        if not drawn:
            whole += 1
            continue
        (window,) = drawn
        left, top = -window.matrix[0, 2], -window.matrix[1, 2]
        patch = np.array([[left, top, left + window.width, top + window.height]])
        share, ratio = window.width * window.height / 30000, window.width / 200 / (window.height / 150)
        assert 0.095 < share <= 1 and 0.48 < ratio < 2.1 and window.by_centre
        assert left >= 0 and top >= 0 and left + window.width <= 200 and top + window.height <= 150
        option = int(draws(index + 1).of(index).uniform(1)[0, 0] * 4) - 1
        reached.append((option, overlap(patch, boxes).max()))
    assert abs(whole / 400 - 0.25) < 0.08  # one option of four; that none of 50 patches fits is rare
    for option, least in ((0, 0.3), (1, 0.7)):
        best = [value for chosen, value in reached if chosen == option]
        assert len(best) > 60 and min(best) >= least
    assert min(value for chosen, value in reached if chosen == 2) < 0.3


def test_min_iou_crop_without_objects_leaves_the_image():
    assert MinIoUCrop().placements(20, 30, draws(1), None) == ()
    assert MinIoUCrop().placements(20, 30, draws(1), np.empty((0, 4))) == ()


def test_overlap_is_intersection_over_union():
    first = np.array([[0.0, 0, 10, 10]])
    second = np.array([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10], [3, 3, 3, 8]])
    np.testing.assert_allclose(overlap(first, second), [[1 / 3, 0, 1, 0]])


def test_scale_jitter_draws_the_short_side_and_large_scale_jitter_the_scale():
    sides, scales = [], []
    for i in range(300):
        resized, _ = ScaleJitter().placements(300, 400, draws(i + 1).of(i))
        sides.append(resized.height)
        resized, window = LargeScaleJitter(size=100).placements(300, 400, draws(i + 1).of(i))
        scales.append(resized.width / 100)
        assert (window.height, window.width) == (100, 100) and window.exact
        assert (window.matrix[:2, 2] <= 0).all()  # a smaller image lies in the upper left corner
    assert min(sides) < 262 and max(sides) > 506 and min(sides) >= 256 and max(sides) <= 512
    assert 0.1 <= min(scales) < 0.15 and 1.95 < max(scales) <= 2.0


@pytest.mark.parametrize("step, words", [
    ({"name": "resize", "rule": "wide"}, "'short', 'long'"), ({"name": "resize", "size": (3, 4)}, "rule of one side"),
    ({"name": "resize", "size": 0}, "whole number of pixels"), ({"name": "letterbox", "longest": 9}, "'short' alone"),
    ({"name": "multi_scale_resize", "sizes": 320}, "list of whole numbers"),
    ({"name": "multi_scale_resize", "per": "batch"}, "'image' or 'epoch'"),
    ({"name": "lens_distortion", "k1": 0.4}, "3 k1"), ({"name": "elastic", "outside": "wrap"}, "'fill', 'border'"),
    ({"name": "elastic_grid", "grid": 2.5}, "whole number"), ({"name": "perspective", "fill": 2}, "from 0 to 1"),
    ({"name": "min_iou_crop", "overlaps": (2,)}, "from 0 to 1"), ({"name": "expand", "ratio": (0.5, 2)}, "rising"),
    ({"name": "affine", "fill": (0.1, 0.2)}, "three of them"), ({"name": "random_crop", "size": True}, "whole number")])
def test_wrong_values_are_refused_by_name(step, words):
    from visus.core.errors import RecipeError

    with pytest.raises(RecipeError, match=words):
        build_augmentation([step])
