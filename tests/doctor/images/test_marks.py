"""The checks of what is marked in images: each sick set is named, the healthy one is silent."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.images.sets import blobs, image_set
from visus.core.errors import DataError
from visus.doctor.image_set import Marks
from visus.doctor.images.boxes_outside import boxes_outside
from visus.doctor.images.duplicate_boxes import duplicate_boxes, repeated
from visus.doctor.images.exhibits import shown
from visus.doctor.images.keypoints_outside import keypoints_outside
from visus.doctor.images.label_map_values import label_map_values
from visus.doctor.images.outline_box import outline_box
from visus.doctor.images.placed_marks import placed_marks
from visus.doctor.images.stated_size import stated_size
from visus.doctor.images.tiny_boxes import tiny_boxes
from visus.doctor.images.unmarked_images import unmarked_images
from visus.doctor.images.whole_image_boxes import whole_image_boxes

CHECKS = (boxes_outside, tiny_boxes, duplicate_boxes, whole_image_boxes, stated_size, unmarked_images, outline_box,
          keypoints_outside, label_map_values)
WIDE, HIGH = 80, 60
COUNT = 20


def healthy(**changed) -> Marks:
    """Two objects in each of 20 images of 80 x 60 px, one of which reaches the very edge; outlines and keypoints."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 30, (2 * COUNT, 2)).astype(np.float64)
    high = low + rng.integers(10, 28, (2 * COUNT, 2))
    low[0], high[0] = (70, 50), (WIDE, HIGH)
    boxes = np.concatenate([low, high], 1)
    points = np.stack([low + 2, high - 2, (low + high) / 2], 1)
    keypoints = np.concatenate([points, np.full((2 * COUNT, 3, 1), 2.0)], -1)
    keypoints[3, 1] = (0, 0, 0)
    known = {"image": np.repeat(np.arange(COUNT), 2), "labels": np.tile([0, 1], COUNT), "boxes": boxes,
             "crowd": np.zeros(2 * COUNT, bool), "shapes": boxes + np.array([1, 1, -1, -1]), "keypoints": keypoints}
    return Marks(**{**known, **changed})


def images_with(marks: Marks | None, **known):
    pictures = [row[:HIGH, :WIDE] for row in blobs(COUNT, side=WIDE)]
    return image_set(pictures, np.arange(COUNT) % 2, marks=marks, classes=("cat", "dog"), **known)


def only(check, images):
    found = list(check(images))
    assert len(found) == 1, [f.title for f in found]
    finding = found[0]
    assert finding.evidence and finding.remedy and shown(images)[finding.check]
    assert all(e.images and e.words for e in shown(images)[finding.check])
    return finding


def boxes(*rows: tuple[int, tuple[float, ...]]) -> np.ndarray:
    made = healthy().boxes.copy()
    for place, row in rows:
        made[place] = row
    return made


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_healthy_set_is_silent(check, relative):
    marks = healthy()
    if relative:
        double = np.array([WIDE, HIGH] * 2, np.float64)
        marks = healthy(boxes=marks.boxes / double, shapes=marks.shapes / double, relative=True,
                        keypoints=marks.keypoints / (WIDE, HIGH, 1))
    stated = np.tile(np.array([[HIGH, WIDE]]), (COUNT, 1))
    stated[3] = 0
    whole = np.zeros((HIGH, WIDE), np.int64)
    assert not list(check(images_with(marks, stated=stated, label_map=lambda i: whole)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_set_without_marks_is_silent(check):
    assert not list(check(images_with(None)))


def test_a_box_wholly_outside_is_a_warning_and_its_numbers_are_given():
    finding = only(boxes_outside, images_with(healthy(boxes=boxes((4, (90, 10, 99, 20))))))
    assert finding.severity == "warning" and "1 box leaves the image, 1 of them wholly" in finding.title
    assert "2.png: cat 90, 10 to 99, 20 in an image of 80 x 60" in finding.evidence


def test_one_box_a_little_outside_is_a_note_of_many_and_a_warning_of_few():
    few = only(boxes_outside, images_with(healthy(boxes=boxes((4, (60, 10, 90, 20))))))
    assert few.severity == "warning" and "wholly" not in few.title
    marks = healthy()
    many = {name: np.concatenate([getattr(marks, name)] * 6) for name in ("image", "labels", "boxes", "crowd")}
    many["boxes"][4] = (60, 10, 90, 20)
    note = only(boxes_outside, images_with(Marks(**many)))
    assert note.severity == "note" and "0.417 % of 240" in note.evidence


def test_two_pixels_beyond_the_edge_are_rounding():
    assert not list(boxes_outside(images_with(healthy(boxes=boxes((4, (-2, -2, 82, 62)))))))


def test_boxes_of_turned_images_are_recognised():
    made = np.concatenate([np.tile([5.0, 5, 55, 75], (COUNT, 1)), np.tile([5.0, 40, 50, 79], (COUNT, 1))])
    finding = only(boxes_outside, images_with(healthy(boxes=made, shapes=None, keypoints=None)))
    assert "EXIF" in finding.remedy and "exchanged" in finding.remedy


def test_boxes_that_are_no_numbers_are_outside_and_empty():
    images = images_with(healthy(boxes=boxes((4, (np.nan, 1, 2, 3)), (5, (0, 0, np.inf, 5)))))
    assert only(boxes_outside, images).title.startswith("2 boxes leave")
    assert only(tiny_boxes, images).title == "1 box is empty"


def test_empty_boxes_are_a_warning():
    finding = only(tiny_boxes, images_with(healthy(boxes=boxes((7, (20, 10, 20, 30)), (9, (30, 10, 20, 20))))))
    assert finding.severity == "warning" and finding.title == "2 boxes are empty" and "dog 20, 10 to 20, 30" \
        in finding.evidence


@pytest.mark.parametrize("count, severity", [(0, None), (4, "note"), (12, "warning")])
def test_tiny_boxes_are_a_note_and_many_a_warning(count, severity):
    images = images_with(healthy(boxes=boxes(*((k, (10, 10, 13, 30)) for k in range(count)))))
    assert [f.severity for f in tiny_boxes(images)] == ([severity] if severity else [])


def test_shares_are_tiny_by_the_pixels_of_their_image():
    made = healthy().boxes / (WIDE, HIGH, WIDE, HIGH)
    made[:9] = (0.5, 0.5, 0.5 + 3 / WIDE, 0.9)
    assert only(tiny_boxes, images_with(healthy(boxes=made, shapes=None, keypoints=None, relative=True))).title \
        == "9 boxes are tiny"


def test_the_same_box_twice_is_found_and_crowds_and_other_classes_are_not():
    made = boxes((5, (10, 10, 40, 40)), (4, (10, 10, 40, 40.5)))
    same = healthy(boxes=made, labels=np.zeros(2 * COUNT, np.int64), shapes=None, keypoints=None)
    finding = only(duplicate_boxes, images_with(same))
    assert finding.title == "1 box is there twice" and "2.png: cat" in finding.evidence
    assert finding.severity == "warning"
    assert not list(duplicate_boxes(images_with(healthy(boxes=made))))  # a cat and a dog
    crowd = np.zeros(2 * COUNT, bool)
    crowd[4] = True
    same = healthy(boxes=made, crowd=crowd, labels=np.zeros(2 * COUNT, np.int64))
    assert not list(duplicate_boxes(images_with(same)))


def test_repeated_boxes_are_those_of_a_comparison_of_all_pairs():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 50, (300, 2))
    made = np.concatenate([low, low + rng.uniform(1, 40, (300, 2))], 1)
    made[150:200] = made[:50] + rng.uniform(-0.4, 0.4, (50, 4))
    image, labels = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    image[150:200], labels[150:200] = image[:50], labels[:50]
    expected = np.zeros(300, bool)
    for j in range(300):
        for i in range(j):
            if image[i] == image[j] and labels[i] == labels[j]:
                span = np.minimum(made[i, 2:], made[j, 2:]) - np.maximum(made[i, :2], made[j, :2])
                shared = span.clip(0).prod()
                area = [(made[k, 2:] - made[k, :2]).prod() for k in (i, j)]
                expected[j] |= shared > 0.95 * (sum(area) - shared)
    assert expected.sum() > 20
    np.testing.assert_array_equal(repeated(image, labels, made, np.ones(300, bool), 0.95), expected)


def test_boxes_around_everything_are_named_by_class():
    made = boxes(*((2 * k, (0, 0, WIDE, HIGH)) for k in range(12)))
    finding = only(whole_image_boxes, images_with(healthy(boxes=made)))
    assert finding.severity == "warning" and finding.title == "Boxes of cat (12 of 20) hold the whole image"
    few = boxes(*((2 * k, (0, 0, WIDE, HIGH)) for k in range(9)))
    assert not list(whole_image_boxes(images_with(healthy(boxes=few))))


def test_another_size_than_stated_is_an_error_and_exchanged_sides_are_said():
    stated = np.tile(np.array([[HIGH, WIDE]]), (COUNT, 1))
    stated[2] = (HIGH + 2, WIDE)
    finding = only(stated_size, images_with(healthy(), stated=stated))
    assert finding.severity == "error" and "2.png is said to have 80 x 62 pixels, has 80 x 60" in finding.evidence
    turned = only(stated_size, images_with(healthy(), stated=np.tile(np.array([[WIDE, HIGH]]), (COUNT, 1))))
    assert "EXIF" in turned.remedy and "(exchanged)" in turned.evidence and turned.title.startswith("20 images have")
    assert not list(stated_size(images_with(healthy(), stated=np.tile(np.array([[HIGH + 1, WIDE]]), (COUNT, 1)))))


def test_images_without_objects_are_a_note_and_most_of_them_a_warning():
    image = np.repeat(np.arange(COUNT), 2)
    image[image == 6] = 7
    finding = only(unmarked_images, images_with(healthy(image=image)))
    assert finding.severity == "note" and finding.title == "1 image has no objects" and "6.png" in finding.evidence
    assert only(unmarked_images, images_with(healthy(image=image % 5))).severity == "warning"


def test_outlines_of_other_objects_are_found():
    shapes = healthy().shapes.copy()
    shapes[[4, 5]] = shapes[[5, 4]]
    finding = only(outline_box, images_with(healthy(shapes=shapes)))
    assert finding.severity == "warning" and finding.title == "2 outlines have another extent than the box"
    shapes[:] = np.nan
    assert not list(outline_box(images_with(healthy(shapes=shapes))))


def test_keypoints_outside_are_named_and_unmarked_ones_are_not():
    points = healthy().keypoints.copy()
    points[4, 2] = (90, 10, 1)
    points[6, 1] = (-50, 10, 0)
    finding = only(keypoints_outside, images_with(healthy(keypoints=points)))
    assert finding.title == "1 keypoint lies outside of the image"
    assert "2.png: cat: keypoint 2 at 90, 10 in an image of 80 x 60" in finding.evidence


def maps(*changes):
    made = [np.zeros((HIGH, WIDE), np.int64) for _ in range(COUNT)]
    for place, value in changes:
        made[place] = value

    def read(i):
        if isinstance(made[i], Exception):
            raise made[i]
        return made[i]

    return read


def test_label_maps_with_unknown_values_or_another_size_are_errors():
    wrong = DataError("holds the value 7, which is no class", where="maps/3.png", remedy="Known: 0 and 1")
    finding = only(label_map_values, images_with(None, label_map=maps((3, wrong))))
    assert finding.severity == "error" and "maps/3.png: holds the value 7" in finding.evidence
    assert finding.remedy == "Known: 0 and 1"
    finding = only(label_map_values, images_with(None, label_map=maps((3, np.zeros((30, 40), np.int64)))))
    assert finding.severity == "error" and "3.png: map of 40 x 30, image of 80 x 60" in finding.evidence


def test_label_maps_that_claim_nothing_and_images_without_one_are_told():
    nothing = np.full((HIGH, WIDE), -1)
    images = images_with(None, label_map=maps((3, nothing)))
    assert only(label_map_values, images).severity == "note" and shown(images)["label-map-values"][0].regions
    finding = only(label_map_values, images_with(None, label_map=maps((3, nothing), (4, nothing))))
    assert finding.severity == "warning" and "2 label maps have hardly anything" in finding.title
    finding = only(label_map_values, images_with(None, label_map=maps((5, None))))
    assert finding.severity == "note" and finding.title == "1 image has no label map"


def test_reading_of_maps_ends_with_its_share_of_the_time():
    asked = []

    def read(i):
        asked.append(i)
        return np.zeros((HIGH, WIDE), np.int64)

    assert not list(label_map_values(images_with(None, label_map=read, seconds=0.0))) and len(asked) == 1


def test_sizes_come_from_the_files_and_where_those_cannot_be_read_from_the_annotations():
    stated = np.tile(np.array([[10, 20]]), (COUNT, 1))
    marks = placed_marks(images_with(healthy(), stated=stated, seconds=0.0))
    assert len(marks) == 2 * COUNT and not marks.basis
    unread = placed_marks(images_with(healthy()))
    assert (unread.size == (WIDE, HIGH)).all()
