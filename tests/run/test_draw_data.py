from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.run.marked import SIDE, marked_samples, run_length
from visus.data.objects import Objects, Outlines
from visus.run.draw_data import LEFT, colours, draw_objects, draw_regions, legend

GREY = np.full((200, 200, 1), 120, np.uint8)


def one(box, **more) -> Objects:
    return Objects(start=np.array([0, 1]), labels=np.array([0]), boxes=np.array([box], np.float64), **more)


def near(image, x: int, y: int, colour, radius: int = 2) -> bool:
    """Whether the colour is seen within `radius` px."""
    part = np.asarray(image, np.int64)[max(0, y - radius):y + radius + 1, max(0, x - radius):x + radius + 1]
    return bool((np.abs(part - np.array(colour)).max(-1) < 40).any())


def test_the_first_eight_colours_differ_in_lightness_or_hue_for_any_colour_vision():
    """Okabe and Ito's colours stay apart when red and green are seen as one (Vienot et al. 1999, protan matrix)."""
    eight = colours(8).astype(np.float64)
    protan = eight @ np.array([[0.1121, 0.8853, -0.0005], [0.1127, 0.8897, -0.0001], [0.0045, 0.0, 1.0019]]).T
    for seen in (eight, protan):
        gaps = np.abs(seen[:, None] - seen[None]).sum(-1)[np.triu_indices(8, 1)]
        assert gaps.min() > 35
    assert len(np.unique(colours(24), axis=0)) == 24 and (colours(30)[24:] == colours(6)).all()


def test_a_box_is_drawn_where_it_lies_in_its_class_colour_and_the_inside_is_left_alone():
    image = draw_objects(GREY, one([40, 60, 160, 140]), ["a"], side_px=400)
    assert image.size == (400, 400)
    for x, y in ((80, 200), (320, 200), (200, 120), (200, 280)):
        assert near(image, x, y, colours(1)[0])
    assert np.asarray(image)[200, 200].tolist() == [120] * 3


def test_a_crowd_is_dashed_and_says_so():
    objects = [one([20, 20, 180, 180], crowd=np.array([crowd])) for crowd in (False, True)]
    whole, dashed = (np.asarray(draw_objects(GREY, marked, ["a"], 200), np.int64) for marked in objects)
    blue = [(np.abs(seen[100:, 178:183] - colours(1)[0]).max(-1) < 40).any(1).sum() for seen in (whole, dashed)]
    assert blue[0] > 78 and 20 < blue[1] < 65


def test_outlines_and_run_lengths_tint_their_inside():
    ring = Outlines(polygons=np.array([0, 1]), vertices=np.array([0, 4]),
                    points=np.array([[50, 50], [150, 50], [150, 150], [50, 150]], np.float64))
    runs = Outlines(polygons=np.array([0, 0]), vertices=np.array([0]), points=np.empty((0, 2)),
                    runs={0: run_length(200, 200, slice(50, 150), slice(50, 150))})
    for outlines in (ring, runs):
        image = np.asarray(draw_objects(GREY, one([50, 50, 150, 150], outlines=outlines), ["a"], side_px=200), np.int64)
        expected = 120 + 0.34 * (colours(1)[0] - 120.0)
        assert np.abs(image[100, 100] - expected).max() < 3 and image[30, 100].tolist() == [120] * 3


def test_keypoints_and_limbs_are_coloured_by_side_and_unmarked_ones_are_left_out():
    samples = marked_samples()
    image = draw_objects(samples.read(0), samples.objects.of(0, SIDE, SIDE), samples.classes, side_px=600)
    assert near(image, 400, 250, (255, 255, 255))  # nose, seen
    assert near(image, 350, 400, LEFT, 5) and near(image, 350, 400, (15, 20, 28), 1)  # hidden: a ring
    assert not near(image, 450, 400, (230, 159, 0), 6)  # right hand, not marked


def test_what_is_no_number_or_far_away_is_still_drawn():
    boxes = np.array([[np.nan, 1, 2, 3], [-1e300, -1e300, 1e300, 1e300], [np.inf, 5, 7, 9], [50, 50, 10, 10]])
    objects = Objects(start=np.array([0, 4]), labels=np.zeros(4, np.int64), boxes=boxes)
    assert draw_objects(GREY, objects, ["a"]).size == (320, 320)


def test_a_label_map_shows_class_colours_names_and_what_is_ignored():
    labels = np.zeros((100, 200), np.int64)
    labels[:, 100:], labels[:20, :20] = 1, -1
    image = draw_regions(np.full((100, 200, 3), 120, np.uint8), labels, ["road", "sky"], side_px=400)
    palette = colours(2).astype(np.float64)
    seen = np.asarray(image, np.int64)
    for x, label in ((60, 0), (360, 1)):
        assert np.abs(seen[170, x] - (0.4 * 120 + 0.6 * palette[label])).max() < 3
    assert len(np.unique(seen[:36, :36].reshape(-1, 3), axis=0)) <= 3 and np.ptp(seen[20, 20]) == 0  # grey, hatched
    plain = draw_regions(np.full((100, 200, 3), 120, np.uint8), labels, ["", ""], side_px=400)
    assert (seen != np.asarray(plain)).any(-1).sum() > 300  # the names


@pytest.mark.parametrize("count, rows", [(2, 1), (12, 3), (60, 3)])
def test_a_legend_has_at_most_three_lines(count, rows):
    names = [f"class number {k}" for k in range(count)]
    assert legend(names, range(count), ["7"] * count, 320).height == 16 * rows


def test_shares_and_pixels_draw_the_same():
    """A set in shares of the image's size (YOLO) is drawn as the same set in pixels."""
    pictures = [np.asarray(draw_objects(s.read(1), s.objects.of(1, SIDE, SIDE), s.classes, 300), np.int64)
                for s in (marked_samples(), marked_samples(relative=True))]
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_names_do_not_cover_each_other():
    boxes = np.array([[50, 50, 100, 100], [52, 52, 100, 100]], np.float64)
    both = Objects(start=np.array([0, 2]), labels=np.array([0, 1]), boxes=boxes)
    image = np.asarray(draw_objects(GREY, both, ["first", "second"], side_px=400), np.int64)
    ground = [(image == colour).all(-1).sum() for colour in colours(2)]
    single = replace(one(boxes[1]), labels=np.array([1]))
    alone = np.asarray(draw_objects(GREY, single, ["first", "second"], 400), np.int64)
    assert ground[1] > 0.9 * (alone == colours(2)[1]).all(-1).sum() - 500 and ground[0] > 200
