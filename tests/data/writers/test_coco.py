"""What is written as COCO is read again as it was, by us and by pycocotools, and nothing is left behind on failure."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.formats.test_coco import coco_folder, drawn_book, images, panoptic_book, write
from tests.data.malformed.healthy import HIGH, WIDE
from tests.image_zoo import tree_state
from visus.core.errors import DataError, ResourceError
from visus.data import open_samples
from visus.data.masks import object_masks
from visus.data.objects import Objects
from visus.data.samples import Samples
from visus.data.writers import image_names, writers
from visus.data.writers.coco import _widths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def converted(samples: Samples, out: Path, **options) -> Samples:
    writers.get("coco").build.write(samples, out, **options)
    return open_samples(out)


def assert_equal(first: Samples, second: Samples) -> None:
    """Everything but where the images lie."""
    assert first.classes == second.classes and first.category_ids == second.category_ids
    assert first.captions == second.captions
    assert first.columns["image_id"].tolist() == second.columns["image_id"].tolist()
    for name in ("targets", "split", "stated_sizes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    one, other = first.objects, second.objects
    for name in ("start", "labels", "boxes", "crowd", "keypoints", "ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.keypoint_names, one.skeleton) == (other.keypoint_names, other.skeleton)
    for name in ("polygons", "vertices", "points"):
        np.testing.assert_array_equal(getattr(one.outlines, name), getattr(other.outlines, name))
    assert one.outlines.runs.keys() == other.outlines.runs.keys()
    for m, runs in one.outlines.runs.items():
        np.testing.assert_array_equal(runs.lengths, other.outlines.runs[m].lengths)
    for i in range(len(first)):
        assert Path(first.path(i)).read_bytes() == Path(second.path(i)).read_bytes()


def test_a_set_with_everything_is_the_same_to_the_last_bit(tmp_path):
    coco_folder(tmp_path / "in")
    before = tree_state(tmp_path / "in")
    samples = open_samples(tmp_path / "in")
    told: list[tuple[int, int]] = []
    again = converted(samples, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert_equal(samples, again)
    assert told == [(k + 1, 11) for k in range(11)] and tree_state(tmp_path / "in") == before
    assert sorted(os.listdir(tmp_path / "out")) == ["annotations", "train", "val"]
    assert sorted(os.listdir(tmp_path)) == ["in", "out"], "no temporary folder is left"


def test_boxes_are_written_with_the_decimals_that_they_had(tmp_path):
    book = drawn_book()
    images(tmp_path / "in", book)
    converted(open_samples(write(tmp_path / "in" / "a.json", book)), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations" / "instances.json").read_text())
    boxes = {record["id"]: record["bbox"] for record in book["annotations"]}
    assert all(record["bbox"] == boxes[record["id"]] for record in written["annotations"])


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_corners_made_of_any_corner_and_width_come_back(sides):
    low, wide = np.array(sides).T
    boxes = np.stack([low, wide, low + wide, wide + low], 1)
    written = json.loads(json.dumps(_widths(boxes).tolist()))
    np.testing.assert_array_equal(np.array(written)[:, :2] + np.array(written)[:, 2:], boxes[:, 2:])


def test_pycocotools_reads_the_same_masks_and_areas(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    book = drawn_book(2)
    images(tmp_path / "in", book)
    samples = converted(open_samples(write(tmp_path / "in" / "a.json", book)), tmp_path / "out")
    peer = coco.COCO(str(tmp_path / "out" / "annotations" / "instances.json"))
    checked = 0
    for i, number in enumerate(samples.columns["image_id"].tolist()):
        masks = object_masks(samples.objects.of(i, HIGH, WIDE), HIGH, WIDE)
        for mask, record in zip(masks, peer.imgToAnns[int(number)], strict=True):
            if isinstance(record["segmentation"], dict):
                assert record["area"] == mask.sum()
            elif len(record["segmentation"]) == 1:
                np.testing.assert_allclose(record["area"], record["bbox"][2] * record["bbox"][3], rtol=1e-12)
            if record["segmentation"]:
                np.testing.assert_array_equal(peer.annToMask(record), mask)
                checked += 1
    assert checked > 30


def test_panoptic_maps_come_back_with_areas_counted_in_the_maps(tmp_path):
    book = panoptic_book(tmp_path / "in")
    samples = open_samples(tmp_path / "in")
    again = converted(samples, tmp_path / "out")
    assert again.label_maps.per_image == samples.label_maps.per_image
    written = json.loads((tmp_path / "out" / "annotations" / "panoptic_train.json").read_text())
    expected = [[(s["id"], s["area"], s["bbox"]) for s in record["segments_info"]] for record in book["annotations"]]
    assert [[(s["id"], s["area"], s["bbox"]) for s in record["segments_info"]]
            for record in written["annotations"]] == expected


def test_shares_of_the_size_become_pixels_and_arrays_become_png(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 20, 40, 1), dtype=np.uint8)
    objects = Objects(start=np.array([0, 1, 2]), labels=np.array([1, 0]), relative=True,
                      boxes=np.array([[0.25, 0.5, 0.5, 1], [0, 0, 1, 0.1]]))
    samples = Samples(format="made", classes=("a", "b"), targets=objects.presence(2), images=pixels, objects=objects)
    again = converted(samples, tmp_path / "out")
    np.testing.assert_array_equal(again.objects.boxes, [[10, 10, 20, 20], [0, 0, 40, 2]])
    np.testing.assert_array_equal(again.read(1), pixels[1])
    assert again.category_ids == (1, 2) and again.paths == ("images/000000.png", "images/000001.png")


def test_links_share_the_bytes_and_take_no_room(tmp_path):
    book = drawn_book()
    images(tmp_path / "in", book)
    samples = open_samples(write(tmp_path / "in" / "a.json", book))
    again = converted(samples, tmp_path / "out", images="link")
    assert os.path.samefile(samples.path(0), again.path(0))


def test_names_lose_shared_folders_and_stay_distinct_whatever_the_case():
    paths = ("a/b/x/1.png", "a/b/y/1.png", "a/b/x/I.PNG", "a/b/x/i.png", "a/b/.hidden/-r.png")
    samples = Samples(format="made", classes=("a",), targets=np.zeros((5, 1), np.float32), paths=paths, root="/data")
    assert image_names(samples) == ["x/1.png", "y/1.png", "x/I.PNG", "x/i_2.png", "_.hidden/_-r.png"]
    lone = replace(samples.subset(np.array([0])), paths=("../../etc/x.png",))
    assert image_names(lone) == ["x.png"]


def test_nothing_is_written_over_within_the_data_or_by_half(tmp_path):
    book = drawn_book()
    images(tmp_path / "in", book)
    samples = open_samples(write(tmp_path / "in" / "a.json", book))
    (tmp_path / "there").mkdir()
    writer = writers.get("coco").build
    with pytest.raises(DataError, match="exists already"):
        writer.write(samples, tmp_path / "there")
    with pytest.raises(DataError, match="within the data"):
        writer.write(samples, tmp_path / "in" / "new")
    os.unlink(samples.path(3))
    with pytest.raises(DataError, match="not there any more"):
        writer.write(samples, tmp_path / "half")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="could not be written"):
        writer.write(samples, tmp_path / "file" / "out")
    assert sorted(os.listdir(tmp_path)) == ["file", "in", "there"]


def test_class_labels_alone_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no boxes, captions or maps.*class folders"):
        writers.get("coco").build.write(open_samples("digits"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
