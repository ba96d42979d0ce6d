"""What is drawn and then moved is what is moved and then drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.transforms.scenes import FIRST, STEPS, outlined, placements
from visus.data.masks import polygons_mask
from visus.data.objects import Objects
from visus.data.transforms import build_augmentation
from visus.data.transforms.placement import Geometric
from visus.data.transforms.scene import Scene, after

HEIGHT, WIDTH = 80, 100
FEW = settings(max_examples=2, deadline=None, derandomize=True)
MORE = settings(max_examples=12, deadline=None, derandomize=True)
MANY = settings(max_examples=300, deadline=None, derandomize=True)
NEAR_PX = 1.5  # between an edge drawn and then resampled, and the edge moved and then drawn
TIP_PX = 2.5  # a sharp corner shows less than a pixel of itself for some pixels of its length
POINT_PX = 0.75  # all three: pixels of the input or of the output, whichever are larger


@st.composite
def shapes(draw):
    """A convex polygon of 4 to 7 corners, at least 20 pixels wide and high."""
    centre = np.array([draw(st.floats(25, WIDTH - 25)), draw(st.floats(22, HEIGHT - 22))])
    radius = np.array([draw(st.floats(14, 24)), draw(st.floats(14, 21))])
    corners = draw(st.integers(4, 7))
    turn = draw(st.floats(0, 6.28))
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)


pipelines = st.tuples(st.sampled_from(["", *FIRST]), st.lists(st.sampled_from(sorted(set(STEPS) - set(FIRST))),
                                                              min_size=1, max_size=3)).map(
    lambda both: ([both[0]] if both[0] else []) + both[1])


def test_the_steps_are_all_geometric_transforms_there_are():
    from visus.data.transforms import augmentations

    geometric = {entry.name for entry in augmentations.entries() if issubclass(entry.build, Geometric)}
    assert {name.split()[0] for name in STEPS} == geometric


@pytest.mark.parametrize("name", STEPS)
@FEW
@given(shape=shapes(), index=st.integers(0, 10**6))
def test_an_outline_and_its_box_go_where_its_pixels_go(name, shape, index):
    check_shape([name], shape, index)


@MORE
@given(names=pipelines, shape=shapes(), index=st.integers(0, 10**6))
def test_an_outline_and_its_box_go_where_their_pixels_go_through_any_pipeline(names, shape, index):
    check_shape(names, shape, index)


@pytest.mark.parametrize("name", STEPS)
@FEW
@given(data=st.data(), index=st.integers(0, 10**6))
def test_a_box_goes_where_its_pixels_go(name, data, index):
    check_box([name], data, index)


@MORE
@given(names=pipelines, data=st.data(), index=st.integers(0, 10**6))
def test_a_box_goes_where_its_pixels_go_through_any_pipeline(names, data, index):
    check_box(names, data, index)


@pytest.mark.parametrize("name", STEPS)
@FEW
@given(x=st.floats(8, WIDTH - 8), y=st.floats(8, HEIGHT - 8), index=st.integers(0, 10**6))
def test_a_keypoint_goes_where_its_pixels_go(name, x, y, index):
    check_point([name], x, y, index)


@MORE
@given(names=pipelines, x=st.floats(8, WIDTH - 8), y=st.floats(8, HEIGHT - 8), index=st.integers(0, 10**6))
def test_a_keypoint_goes_where_its_pixels_go_through_any_pipeline(names, x, y, index):
    check_point(names, x, y, index)


@pytest.mark.slow
@MANY
@given(names=pipelines, shape=shapes(), data=st.data(), index=st.integers(0, 10**6))
def test_marks_go_where_their_pixels_go_through_many_pipelines(names, shape, data, index):
    check_shape(names, shape, index)
    check_box(names, data, index)
    check_point(names, *shape.mean(0).tolist(), index)


def check_shape(names, shape, index):
    drawn = polygons_mask([shape], HEIGHT, WIDTH)
    scene = Scene(image=torch.from_numpy(drawn.astype(np.float32))[None], objects=outlined([shape]),
                  label_map=torch.from_numpy(drawn.astype(np.int64)))
    chain = placements(names, HEIGHT, WIDTH, index, scene.objects.boxes)
    moved, larger = after(scene, chain), magnified(chain, shape)
    pixels = moved.image[0].numpy() > 0.5
    if not len(moved.objects):
        return  # the rule of what is dropped has its own test
    expected = polygons_mask(moved.objects.outlines.rings(0), *pixels.shape)
    label = moved.label_map.numpy() == 1
    for got in (pixels, label):
        near = NEAR_PX * larger
        assert not ((got & ~grown(expected, near)) | (expected & ~grown(got, near))).any()
    assert_box(moved.objects.boxes[0], label, larger)


def check_box(names, data, index):
    x1, y1 = data.draw(st.integers(0, WIDTH - 25)), data.draw(st.integers(0, HEIGHT - 25))
    x2, y2 = data.draw(st.integers(x1 + 20, WIDTH)), data.draw(st.integers(y1 + 20, HEIGHT))
    image = torch.zeros(1, HEIGHT, WIDTH)
    image[:, y1:y2, x1:x2] = 1
    objects = Objects(start=np.array([0, 1]), labels=np.array([0]), boxes=np.array([[x1, y1, x2, y2]], np.float64))
    chain = placements(names, HEIGHT, WIDTH, index, objects.boxes)
    moved = after(Scene(image=image, objects=objects, label_map=image[0].long()), chain)
    if len(moved.objects):
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
        assert_box(moved.objects.boxes[0], moved.label_map.numpy() == 1, magnified(chain, corners))


def check_point(names, x, y, index):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    image = torch.from_numpy(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)).float()[None]
    objects = Objects(start=np.array([0, 1]), labels=np.array([0]), boxes=np.array([[0, 0, WIDTH, HEIGHT]], np.float64),
                      keypoints=np.array([[[x, y, 2.0]]]), keypoint_names=("nose",))
    chain = placements(names, HEIGHT, WIDTH, index, objects.boxes)
    moved = after(Scene(image=image, objects=objects), chain)
    if not len(moved.objects) or not moved.objects.keypoints[0, 0, 2]:
        return
    there = np.array([[x, y]])
    for number, placement in enumerate(chain):
        there = placement.forward(there)
        room = np.array([placement.width, placement.height]) - there
        if min(there.min(), room.min()) < 5 * magnified(chain[:number + 1], np.array([[x, y]])):
            return  # the dot is cut by an edge
    at = moved.objects.keypoints[0, 0, :2]
    weight = moved.image[0].numpy().astype(np.float64)
    rows, columns = np.mgrid[:len(weight), :weight.shape[1]] + 0.5
    weight = weight * (weight > 0.5 * weight.max())
    seen = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    assert np.abs(seen - at).max() < POINT_PX * magnified(chain, np.array([[x, y]]))


def assert_box(box, mask, larger):
    """The box lies about the pixels, where the object is more than a sliver."""
    if min(box[2] - box[0], box[3] - box[1]) < 3 * larger or not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    about = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert (np.abs(about - box) < TIP_PX * larger).all(), (about, box)
    near = NEAR_PX * larger
    assert (about[:2] >= box[:2] - near).all() and (about[2:] <= box[2:] + near).all()


def magnified(chain, points):
    """By how much the moves enlarge lengths about the points, at most; 1 where they shrink."""
    probes = points + np.array([[[0, 0]], [[1, 0]], [[0, 1]]])  # [3, N, 2]
    for placement in chain:
        probes = placement.forward(probes)
    return max(1.0, np.nanmax(np.linalg.norm(probes[1:] - probes[:1], 2, (0, 2))))


def grown(mask, reach):
    """The pixels within `reach` pixels of the mask."""
    far = int(np.ceil(reach))
    padded = np.pad(mask, far)
    height, width = mask.shape
    return np.logical_or.reduce([padded[far + y:far + y + height, far + x:far + x + width]
                                 for y in range(-far, far + 1) for x in range(-far, far + 1)
                                 if x * x + y * y <= (reach + 0.5) ** 2])


def test_build_keeps_the_steps_in_order():
    augment = build_augmentation([{"name": "resize", "size": 50}, {"name": "center_crop", "size": 40}])
    moved = augment.scene(Scene(image=torch.zeros(3, 60, 90)), 0, 0, 0)
    assert moved.size == (40, 40)
