"""What becomes of the marks of an image: cut, dropped, hidden, exchanged, kept."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.data.transforms.scenes import marked, outlined
from visus.core.errors import RecipeError
from visus.data.masks import runs_mask
from visus.data.objects import Objects
from visus.data.transforms import build_augmentation
from visus.data.transforms.affine import linear_maps
from visus.data.transforms.carry import mirror_order
from visus.data.transforms.placement import MIN_VISIBLE, Placement, about_centre, resizing, window
from visus.data.transforms.scene import Scene, after


def boxed(boxes, **fields):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Objects(start=np.array([0, len(boxes)]), labels=np.arange(len(boxes)), boxes=boxes, **fields)


def plain(objects, height=40, width=50):
    return Scene(image=torch.zeros(3, height, width), objects=objects)


def turned(degrees, height, width):
    linear = np.eye(3)
    linear[:2, :2] = linear_maps(np.radians([degrees]), np.ones(1), np.zeros(1))[0]
    return Placement(matrix=about_centre(linear, height, width), height=height, width=width)


def test_boxes_are_cut_at_the_edge_and_dropped_when_too_little_stays():
    given = boxed([[0, 0, 10, 10], [15, 5, 30, 20], [11, 0, 21, 10], [40, 30, 50, 40]],
                  crowd=np.array([False, True, False, False]), difficult=np.array([True, False, False, True]),
                  ids=np.array([5, 6, 7, 8]))
    moved = after(plain(given), [window(2, 20, 30, 30)]).objects  # of the boxes 0, 2/3, 0.08 and 0.2 stay
    assert moved.labels.tolist() == [1, 3] and moved.ids.tolist() == [6, 8] and MIN_VISIBLE == 0.1
    assert moved.boxes.tolist() == [[0, 3, 10, 18], [20, 28, 30, 30]]
    assert moved.crowd.tolist() == [True, False] and moved.difficult.tolist() == [False, True]
    assert moved.start.tolist() == [0, 2]
    every = after(plain(given), [window(2, 20, 30, 30, min_visible=0.0)]).objects
    assert every.labels.tolist() == [1, 2, 3]  # what is gone altogether is dropped by any share


def test_the_share_that_stays_is_that_of_the_outline():
    thin = np.array([[0.0, 0], [40, 0], [40, 40], [38, 40], [38, 2], [0, 2]])  # an angle along two sides of its box
    moved = after(plain(outlined([thin])), [window(2, 0, 38, 37, min_visible=0.4)]).objects
    assert len(moved) == 0  # nine tenths of its box stay, of itself nothing
    moved = after(plain(outlined([thin])), [window(0, 5, 40, 45, min_visible=0.4)]).objects
    np.testing.assert_allclose(moved.boxes, [[0, 0, 35, 40]])


def test_a_box_about_an_outline_that_is_cut_is_that_of_what_is_left():
    triangle = np.array([[10.0, 10], [30, 10], [10, 30]])
    moved = after(plain(outlined([triangle])), [window(20, 0, 20, 50)]).objects
    np.testing.assert_allclose(moved.boxes, [[10, 0, 20, 10]])


def test_a_box_turned_is_that_of_its_outline_or_else_of_its_corners():
    diamond = np.array([[20.0, 10], [30, 20], [20, 30], [10, 20]])
    quarter = [turned(45, 40, 40)]
    with_outline = after(plain(outlined([diamond]), 40, 40), quarter).objects
    half = np.sqrt(50)
    np.testing.assert_allclose(with_outline.boxes, [[20 - half, 20 - half, 20 + half, 20 + half]])
    without = after(plain(boxed([[10, 10, 30, 30]]), 40, 40), quarter).objects
    half = np.sqrt(200)
    np.testing.assert_allclose(without.boxes, [[20 - half, 20 - half, 20 + half, 20 + half]])
    back = after(plain(boxed([[10, 10, 30, 30]]), 40, 40), [turned(30, 40, 40), turned(-30, 40, 40)]).objects
    np.testing.assert_allclose(back.boxes, [[10, 10, 30, 30]], atol=1e-9)  # it does not grow with each turn


def test_what_lies_beyond_the_image_is_cut_before_the_first_move():
    moved = after(plain(boxed([[-10, 5, 10, 15]])), [window(0, 0, 40, 8)]).objects
    np.testing.assert_allclose(moved.boxes, [[0, 5, 8, 15]])  # and 8 of 10 columns stay, not 8 of 20


def test_a_box_without_area_stays_while_it_is_inside():
    given = boxed([[10, 10, 10, 20], [45, 10, 45, 20]])
    moved = after(plain(given), [window(0, 0, 40, 30)]).objects
    assert moved.labels.tolist() == [0] and moved.boxes.tolist() == [[10, 10, 10, 20]]


def test_by_centre_keeps_objects_whose_centre_lies_in_the_window():
    given = boxed([[0, 0, 20, 20], [0, 0, 22, 20]])
    moved = after(plain(given), [window(0, 10, 40, 30, by_centre=True)]).objects
    assert moved.labels.tolist() == [1]  # the centre of the other lies on the edge


def test_keypoints_that_leave_the_image_become_not_marked():
    points = np.array([[[5.0, 5, 2], [30, 20, 1], [0, 0, 0]]])
    given = boxed([[0, 0, 40, 30]], keypoints=points, keypoint_names=("a", "b", "c"))
    moved = after(plain(given), [window(10, 10, 30, 40)]).objects
    assert moved.keypoints.tolist() == [[[0, 0, 0], [20, 10, 1], [0, 0, 0]]]


def test_a_mirror_exchanges_left_and_right_keypoints_and_two_mirrors_do_not():
    names = ("nose", "left_eye", "right_eye")
    points = np.array([[[20.0, 5, 2], [25, 4, 2], [15, 4, 1]]])
    given = plain(boxed([[0, 0, 40, 30]], keypoints=points, keypoint_names=names))
    flip = build_augmentation([{"name": "horizontal_flip", "probability": 1.0}])
    moved = flip.scene(given, 0, 0, 0).objects
    assert moved.keypoints.tolist() == [[[30, 5, 2], [35, 4, 1], [25, 4, 2]]]
    both = build_augmentation([{"name": "horizontal_flip", "probability": 1.0},
                               {"name": "vertical_flip", "probability": 1.0}])
    half_turn = both.scene(given, 0, 0, 0).objects
    assert half_turn.keypoints.tolist() == [[[30, 35, 2], [25, 36, 2], [35, 36, 1]]]


@pytest.mark.parametrize("names, order", [
    (("nose", "left_eye", "right_eye"), [0, 2, 1]), (("LEFT_HAND", "RIGHT_HAND"), [1, 0]),
    (("leftHand", "rightHand", "leftFoot"), [1, 0, 2]), (("LHand", "RHand"), [1, 0]),
    (("ear_l", "tail", "ear_r"), [2, 1, 0]), (("upper lip", "lower lip"), [0, 1]), (("r-ear", "l-ear"), [1, 0]),
    (("L_left_toe", "L_right_toe"), [1, 0]), (("Left Eye", "Right Eye"), [1, 0])])
def test_sides_are_told_by_names(names, order):
    assert mirror_order(names) == order


def test_a_mask_coded_by_run_length_moves_with_the_pixels():
    given = marked()
    crowd = runs_mask(given.objects.outlines.runs[2])
    moved = after(given, [window(30, 10, 50, 60)])
    m = moved.objects.labels.tolist().index(2)
    expected = crowd[30:, 10:70]
    assert (runs_mask(moved.objects.outlines.runs[m]) == expected).all() and moved.objects.crowd[m]
    np.testing.assert_allclose(moved.objects.boxes[m], [0, 10, 23, 50])
    gone = after(given, [window(0, 40, 40, 60, min_visible=0.0)])
    assert 2 not in gone.objects.labels and not gone.objects.outlines.runs


def test_label_maps_keep_their_values_and_say_255_beyond_the_image():
    given = marked()
    moved = after(given, [turned(20, *given.size)])
    assert set(moved.label_map.unique().tolist()) <= set(given.label_map.unique().tolist())
    assert moved.label_map.dtype == given.label_map.dtype and moved.label_map[0, 0] == 255
    assert (after(given, [window(-5, -5, 20, 20)]).label_map[:5] == 255).all()


def test_other_steps_change_the_image_alone():
    given = marked()
    augment = build_augmentation([{"name": "color_jitter", "brightness": 0.4}, {"name": "cutout"}])
    moved = augment.scene(given, 3, 0, 0)
    assert moved.objects is given.objects and moved.label_map is given.label_map
    assert torch.equal(moved.image, augment(given.image[None], np.array([3]), 0, 0)[0])


def test_a_pipeline_of_many_steps_gives_a_scene_and_a_batch_the_same_image():
    steps = [{"name": "random_resized_crop", "scale": (0.5, 1.0)}, {"name": "horizontal_flip"},
             {"name": "affine", "degrees": 15, "probability": 0.7}, {"name": "perspective", "distortion": 0.2},
             {"name": "color_jitter", "contrast": 0.3}, {"name": "elastic", "alpha": 20.0}, {"name": "random_crop"},
             {"name": "random_erasing"}]
    augment = build_augmentation(steps)
    index = np.arange(20)
    batch = torch.stack([marked(i % 3, 32, 32).image for i in index])
    whole = augment(batch, index, 5, 1)
    for i in index:
        one = augment.scene(Scene(image=batch[i]), int(i), 5, 1).image
        torch.testing.assert_close(one, whole[i], rtol=0, atol=0.5 / 255 + 1e-3)


def test_other_scenes_come_after_the_steps_before():
    wide = Scene(image=torch.full((3, 30, 60), 0.25), objects=boxed([[0, 0, 60, 30]]))
    seen = []

    def others(number):
        seen.append(number)
        return Scene(image=torch.full((3, 30, 60), 0.75), objects=boxed([[0, 0, 30, 30]]))

    augment = build_augmentation([{"name": "horizontal_flip", "probability": 1.0}, {"name": "mosaic", "size": 60}])
    moved = augment.scene(wide, 1, 0, 0, others)
    assert len(set(seen)) == 3 and all(0 <= number < 2**62 for number in seen)
    assert moved.size == (60, 60) and len(moved.objects) == 4
    lefts = moved.objects.boxes[1:, 0] - moved.objects.boxes[0, 0]
    assert (moved.objects.boxes[1:, 2] - moved.objects.boxes[1:, 0] <= 15).all() and len(lefts) == 3
    with pytest.raises(RecipeError, match="needs other scenes"):
        augment.scene(wide, 1, 0, 0)
    with pytest.raises(RecipeError, match="mixup or CutMix"):
        augment(torch.zeros(2, 3, 8, 8), np.arange(2), 0, 0)


def test_a_batch_of_one_size_that_a_step_makes_several_is_refused_by_name():
    augment = build_augmentation([{"name": "multi_scale_resize", "sizes": (16, 24)}])
    with pytest.raises(RecipeError, match="MultiScaleResize.*different sizes"):
        augment(torch.zeros(20, 3, 8, 8), np.arange(20), 0, 0)
    by_epoch = build_augmentation([{"name": "multi_scale_resize", "sizes": (16, 24), "per": "epoch"}])
    sizes = {by_epoch(torch.zeros(4, 3, 8, 8), np.arange(4), 0, epoch).shape[-1] for epoch in range(20)}
    assert sizes == {16, 24}


def test_the_scene_must_be_of_one_image_in_pixels():
    with pytest.raises(AssertionError):
        Scene(image=torch.zeros(3, 4, 4), objects=boxed([[0, 0, 1, 1]], relative=True))
    with pytest.raises(AssertionError):
        Scene(image=torch.zeros(3, 4, 4), label_map=torch.zeros(4, 5, dtype=torch.uint8))


def test_a_letterbox_keeps_the_aspect_and_fills_both_sides():
    given = plain(boxed([[0, 0, 50, 40]]))
    augment = build_augmentation([{"name": "letterbox", "size": 100, "fill": (1.0, 0.5, 0.0)}])
    moved = augment.scene(given, 0, 0, 0)
    assert moved.size == (100, 100)
    np.testing.assert_allclose(moved.objects.boxes, [[0, 10, 100, 90]])
    assert moved.image[:, 0, 50].tolist() == [1.0, 0.5, 0.0] and not moved.image[:, 10:90].any()
    assert after(given, [resizing(40, 50, 20, 25)]).objects.boxes.tolist() == [[0, 0, 25, 20]]


def test_transforms_that_are_not_used_are_not_imported():
    code = ("import sys; from visus.data.transforms import build_augmentation; "
            "build_augmentation([{'name': 'horizontal_flip'}]); "
            "print([m for m in sys.modules if m.startswith('visus.data.transforms.')])")
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "visus.data.transforms.flip" in seen and "mosaic" not in seen and "policies" not in seen


def test_steps_that_do_nothing_copy_nothing():
    given = marked()
    idle = build_augmentation([{"name": "horizontal_flip", "probability": 0.0},
                               {"name": "expand", "probability": 0.0}, {"name": "resize", "size": 80}])
    assert idle.scene(given, 0, 0, 0) is given
    batch = given.image[None]
    assert build_augmentation([{"name": "resize", "size": 80}])(batch, np.arange(1), 0, 0) is batch


def test_sizes_that_vary_become_one_by_the_step_behind():
    steps = [{"name": "expand", "probability": 1.0, "fill": 0.0}, {"name": "horizontal_flip"},
             {"name": "letterbox", "size": 24}]
    augment, batch = build_augmentation(steps), torch.stack([marked(i, 20, 20).image for i in range(6)])
    whole = augment(batch, np.arange(6), 0, 0)
    assert whole.shape == (6, 3, 24, 24)
    for i in range(6):
        assert torch.equal(augment.scene(Scene(image=batch[i]), i, 0, 0).image, whole[i])
