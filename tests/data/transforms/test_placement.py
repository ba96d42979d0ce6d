"""Geometry against torchvision, there and back again, and several moves as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.transforms.peers import torchvision_functional
from tests.data.transforms.scenes import FIRST, STEPS, marked, placements
from visus.data.objects import Objects
from visus.data.transforms.affine import linear_maps
from visus.data.transforms.lens import radial_field
from visus.data.transforms.perspective import homography
from visus.data.transforms.placement import Placement, about_centre, resizing, shifting, window
from visus.data.transforms.resize import fitted_size, side_size
from visus.data.transforms.scene import Scene, after
from visus.data.transforms.warp import moved_image, moved_labels

HEIGHT, WIDTH = 36, 50
BOXES = np.array([[5.0, 6, 20, 30], [22, 3, 45, 17]])
POINTS = np.array([[[7.5, 8.5], [30.5, 12.5]], [[40.5, 30.5], [25.5, 20.5]]])  # centres of pixels


@pytest.fixture(scope="module")
def functional():
    return torchvision_functional()


def scene():
    labels = torch.randint(0, 20, (HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    points = np.concatenate([POINTS, np.full((2, 2, 1), 2.0)], -1)
    objects = Objects(start=np.array([0, 2]), labels=np.array([0, 1]), boxes=BOXES, keypoints=points,
                      keypoint_names=("a", "b"))
    return Scene(image=image, objects=objects, label_map=labels)


def theirs(functional, kernel, *arguments, centres=False, padded=False, **options):
    """(image, label map, boxes, keypoints) of torchvision for the scene; boxes are clipped to the image.

    centres: the kernel takes keypoints as indices of pixels, half a pixel less than ours; others take them as edges,
    as we do. padded: the kernel fills.
    """
    from torchvision import tv_tensors

    given = scene()
    size = (HEIGHT, WIDTH)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=size)
    points = tv_tensors.KeyPoints(torch.from_numpy(POINTS - 0.5 * centres), canvas_size=size)
    call = getattr(functional, kernel)
    labels = call(tv_tensors.Mask(given.label_map), *arguments, **options, **({"fill": 255} if padded else {}))
    return (call(given.image, *arguments, **options), labels.as_subclass(torch.Tensor),
            functional.clamp_bounding_boxes(call(boxes, *arguments, **options)).numpy(),
            call(points, *arguments, **options).numpy() + 0.5 * centres)


def compare(functional, chain, kernel, *arguments, **options):
    """Pixels and labels bit-equal, boxes and keypoints within 1e-4 pixels."""
    image, label, boxes, points = theirs(functional, kernel, *arguments, **options)
    moved = after(scene(), chain)
    assert torch.equal(moved.image, image) and torch.equal(moved.label_map, label)
    assert moved.objects.labels.tolist() == [0, 1]
    np.testing.assert_allclose(moved.objects.boxes, boxes, rtol=0, atol=1e-4)
    seen = moved.objects.keypoints[..., 2] > 0
    assert seen.any()
    np.testing.assert_allclose(moved.objects.keypoints[..., :2][seen], points[seen], rtol=0, atol=1e-4)


def test_flips_are_bit_equal_to_torchvision(functional):
    compare(functional, placements(["horizontal_flip"], HEIGHT, WIDTH, 0), "horizontal_flip", centres=True)
    compare(functional, placements(["vertical_flip"], HEIGHT, WIDTH, 0), "vertical_flip", centres=True)


def test_crops_and_pads_are_bit_equal_to_torchvision(functional):
    compare(functional, [window(4, 7, 20, 30, min_visible=0.0)], "crop", 4, 7, 20, 30)
    compare(functional, [window(-3, -5, 50, 60)], "pad", [5, 3, 5, 11], padded=True)
    wide = functional.center_crop(scene().image, [60, 60])
    assert torch.equal(after(scene(), placements(["center_crop"], HEIGHT, WIDTH, 0)).image, wide)


@pytest.mark.parametrize("mode, outside", [("edge", "border"), ("reflect", "reflect"), ("symmetric", "symmetric")])
def test_what_lies_beyond_the_image_is_that_of_torchvision(functional, mode, outside):
    given = scene()
    expected = functional.pad(given.image, [9, 4, 3, 8], padding_mode=mode)
    chain = [window(-4, -9, HEIGHT + 12, WIDTH + 12, outside=outside)]
    assert torch.equal(moved_image(given.image, chain), expected)
    assert torch.equal(moved_labels(given.label_map, chain),
                       functional.pad(given.label_map[None], [9, 4, 3, 8], padding_mode=mode)[0])


@pytest.mark.parametrize("size", [(18, 25), (50, 20), (70, 101)])
def test_resizing_is_bit_equal_to_torchvision(functional, size):
    image, _, boxes, points = theirs(functional, "resize", list(size), antialias=True,
                                     interpolation=functional.InterpolationMode.BILINEAR)
    moved = after(scene(), [resizing(HEIGHT, WIDTH, *size)])
    assert torch.equal(moved.image, image)
    np.testing.assert_allclose(moved.objects.boxes, boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(moved.objects.keypoints[..., :2], points, rtol=0, atol=1e-4)
    nearest = functional.InterpolationMode.NEAREST_EXACT
    label = functional.resize(scene().label_map[None], list(size), nearest)
    assert torch.equal(moved.label_map, label[0])


@pytest.mark.parametrize("rule, size, longest", [("short", 20, None), ("short", 70, 80), ("short", 41, None)])
@pytest.mark.parametrize("height, width", [(36, 50), (51, 33), (40, 40)])
def test_the_size_by_a_short_side_is_torchvisions(functional, rule, size, longest, height, width):
    expected = functional.resize(torch.zeros(1, height, width), [size], max_size=longest).shape[1:]
    assert side_size(height, width, size, rule, longest) == tuple(expected)


def test_sizes_by_the_long_side_and_by_fitting():
    assert side_size(30, 60, 20, "long") == (10, 20) and side_size(60, 30, 20, "long") == (20, 10)
    assert fitted_size(30, 60, 100, 90) == (45, 90) and fitted_size(30, 60, 20, 90) == (20, 40)


@pytest.mark.parametrize("angle, shift, scale, shear", [(30, (3, -2), 1.2, 10), (-75, (0, 0), 0.9, 0),
                                                         (180, (0.5, 0.25), 1, -20)])
def test_affine_equals_torchvision(functional, angle, shift, scale, shear):
    linear = np.eye(3)
    linear[:2, :2] = linear_maps(np.radians([angle]), np.array([scale]), np.radians([shear]))[0]
    chain = [Placement(matrix=shifting(*shift) @ about_centre(linear, HEIGHT, WIDTH), height=HEIGHT, width=WIDTH,
                       min_visible=0.0)]
    given = scene()
    image, _, boxes, points = theirs(functional, "affine", angle, list(shift), scale, [shear, 0.0],
                                     interpolation=functional.InterpolationMode.BILINEAR)
    moved = after(given, chain)
    assert (moved.image.int() - image.int()).abs().max() <= 1  # levels, of uint8 that is rounded
    # a polygon cut at the edge and then boxed lies inside the box of the whole polygon cut at the edge
    whole = chain[0].forward(np.stack([BOXES[:, [0, 1]], BOXES[:, [2, 1]], BOXES[:, [2, 3]], BOXES[:, [0, 3]]], 1))
    bounds = np.concatenate([whole.min(1), whole.max(1)], -1).clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    np.testing.assert_allclose(bounds, boxes, rtol=0, atol=1e-4)
    for box, label in zip(moved.objects.boxes, moved.objects.labels, strict=True):
        assert (box[:2] >= bounds[label, :2] - 1e-9).all() and (box[2:] <= bounds[label, 2:] + 1e-9).all()
    for row, label in zip(moved.objects.keypoints, moved.objects.labels, strict=True):
        seen = row[:, 2] > 0
        np.testing.assert_allclose(row[seen, :2], points[label][seen], rtol=0, atol=1e-3)


def test_perspective_equals_torchvision(functional):
    start = np.array([[0.0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
    end = np.array([[4.0, 2], [WIDTH - 6, 5], [WIDTH - 1, HEIGHT - 7], [3, HEIGHT - 2]])
    given = scene()
    chain = [Placement(matrix=homography(start, end), height=HEIGHT, width=WIDTH)]
    expected = functional.perspective(given.image, start.astype(int).tolist(), end.astype(int).tolist(),
                                      interpolation=functional.InterpolationMode.BILINEAR)
    assert (moved_image(given.image, chain).int() - expected.int()).abs().max() <= 1
    np.testing.assert_allclose(chain[0].forward(start), end, rtol=0, atol=1e-9)
    label = functional.perspective(given.label_map[None], start.astype(int).tolist(), end.astype(int).tolist(),
                                   interpolation=functional.InterpolationMode.NEAREST, fill=255)[0]
    assert (moved_labels(given.label_map, chain) != label).float().mean() < 0.003  # ties of its float32


def test_a_displacement_field_equals_torchvisions_elastic(functional):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    field = np.stack([3 * np.sin(y / 9.0), 2 * np.cos(x / 7.0 + y / 20.0)], -1)
    given = scene()
    chain = [Placement(matrix=np.eye(3), height=HEIGHT, width=WIDTH, field=field)]
    normalised = torch.from_numpy(2 * field / np.array([WIDTH, HEIGHT])).float()[None]
    expected = functional.elastic(given.image, normalised)
    assert (moved_image(given.image, chain).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("name", STEPS)
def test_points_go_there_and_back(name):
    chain = placements([name], HEIGHT * 3, WIDTH * 3, 5, 3 * BOXES)
    points = np.random.default_rng(0).uniform(20, 80, (50, 2))
    there = points
    for placement in chain:
        there = placement.forward(there)
    for placement in reversed(chain):
        there = placement.backward(there)
    np.testing.assert_allclose(there, points, rtol=0, atol=1e-5)


def test_mirroring_twice_changes_nothing():
    for name in ("horizontal_flip", "vertical_flip"):
        given = marked()
        back = after(after(given, placements([name], *given.size, 0)), placements([name], *given.size, 0))
        assert torch.equal(back.image, given.image) and torch.equal(back.label_map, given.label_map)
        for field in ("boxes", "keypoints", "labels", "crowd", "difficult", "ids"):
            np.testing.assert_allclose(getattr(back.objects, field), getattr(given.objects, field), rtol=0, atol=1e-12)
        np.testing.assert_allclose(back.objects.outlines.points, given.objects.outlines.points, rtol=0, atol=1e-12)
        assert (back.objects.outlines.runs[2].lengths == given.objects.outlines.runs[2].lengths).all()


def test_a_turn_and_its_inverse_are_one_identity():
    given = marked()
    height, width = given.size
    linear = np.eye(3)
    linear[:2, :2] = linear_maps(np.array([0.7]), np.array([1.1]), np.array([0.2]))[0]
    matrix = about_centre(linear, height, width)
    wide = Placement(matrix=shifting(60, 60) @ matrix, height=height + 120, width=width + 120)
    back = Placement(matrix=np.linalg.inv(wide.matrix), height=height, width=width)
    moved = after(given, [wide, back])
    assert (moved.image.int() - given.image.int()).abs()[:, 2:-2, 2:-2].max() <= 1
    assert torch.equal(moved.label_map, given.label_map)
    np.testing.assert_allclose(moved.objects.keypoints, given.objects.keypoints, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved.objects.outlines.points, given.objects.outlines.points, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved.objects.boxes[:2], given.objects.boxes[:2], rtol=0, atol=1e-9)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(first=st.sampled_from(["", *FIRST]),
       names=st.lists(st.sampled_from(sorted(set(STEPS) - set(FIRST))), min_size=2, max_size=4),
       index=st.integers(0, 10**6))
def test_several_moves_as_one_are_those_moves_one_after_the_other(first, names, index):
    given = marked(index % 5)
    chain = placements([name for name in (first, *names) if name], *given.size, index, given.objects.boxes)
    together, stepwise = moved_image(given.image, chain).float(), given.image.float()
    for placement in chain:
        stepwise = moved_image(stepwise, [placement])
    difference = (together - stepwise).abs()
    # levels; only where black begins, one blur is narrower than two
    assert difference.mean() < 4 and (difference > 16).float().mean() < 0.06


def test_a_lens_bends_by_browns_polynomial():
    field = radial_field(30, 40, 0.2, -0.1)
    x, y = 33.5 - 20, 4.5 - 15
    square = (x * x + y * y) / 625
    np.testing.assert_allclose(field[4, 33], np.array([x, y]) * (0.2 * square - 0.1 * square**2), rtol=1e-12)
    assert not radial_field(31, 41, 0.3, 0.0)[15, 20].any()


def test_a_warp_that_shrinks_is_antialiased():
    stripes = (torch.arange(128) % 2).float().expand(1, 128, 128).contiguous()  # one pixel wide: grey from afar
    linear = np.diag([0.25, 0.25, 1.0])
    moved = moved_image(stripes, [Placement(matrix=about_centre(linear, 128, 128) @ shifting(0.6, 0), height=128,
                                            width=128)])
    middle = moved[0, 52:76, 52:76]
    assert (middle - 0.5).abs().max() < 0.06


def test_two_changes_of_size_are_one():
    given = marked().image
    direct = moved_image(given, [window(10, 20, 40, 60), resizing(40, 60, 30, 33)])
    assert torch.equal(moved_image(given, [window(10, 20, 40, 60), resizing(40, 60, 80, 100),
                                           resizing(80, 100, 30, 33)]), direct)
