from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.doctor.images.sets import blobs
from tests.run.marked import SIDE, marked_samples, run_length
from visus.core.errors import UserError
from visus.data.objects import LabelMaps, Outlines
from visus.data.opening import open_samples
from visus.data.samples import Samples
from visus.data.split import split_samples
from visus.doctor.images.exhibits import shown
from visus.run.doctor_data import doctor_data, examine_images, extents, file_facts, image_set, marked_part


def save(path, pixels, **options):
    os.makedirs(path.parent, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Class folders with a leak, a file that is cut, a constant image and a class whose name is markup."""
    pictures = blobs(48, side=80, channels=3)
    for k, pixels in enumerate(pictures):
        name = "<i>cat & dog" if k % 2 else "bird"
        save(tmp_path / "data" / ("val" if k % 6 == 0 or k % 6 == 3 else "train") / name / f"p{k}.png", pixels)
    save(tmp_path / "data" / "val" / "bird" / "again.png", pictures[2])
    save(tmp_path / "data" / "train" / "bird" / "grey.png", np.full((80, 80, 1), 9, np.uint8))
    (tmp_path / "data" / "train" / "bird" / "cut.png").write_bytes(
        (tmp_path / "data" / "train" / "bird" / "p2.png").read_bytes()[:900])
    return tmp_path / "data"


def contents(folder) -> dict[str, tuple[str, int]]:
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_sick_folder_is_told_and_no_byte_of_it_changes(folder, tmp_path):
    before, seen = contents(folder), []
    page = tmp_path / "page.html"
    diagnosis = doctor_data(folder, out=page, progress=seen.append)
    assert contents(folder) == before
    assert [(f.check, f.severity) for f in diagnosis.findings] == [
        ("split-leak", "error"), ("unreadable-images", "error"), ("exact-duplicates", "warning"),
        ("odd-images", "warning")]
    assert "val/bird/again.png = train/bird/p2.png" in diagnosis.findings[0].evidence
    assert seen[0] == "missing-class" and set(seen) == set(diagnosis.seconds) and not diagnosis.left_out
    text = page.read_text()
    assert "<i>cat" not in text and "&lt;i&gt;cat &amp; dog" in text
    assert "Twins across splits" in text and text.count("data:image/jpeg;base64,") == 5  # two pairs and a grey one
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text and "url(" not in text
    assert "default-src &#39;none&#39;" in text


def test_a_page_is_not_written_into_the_data(folder):
    for place in (folder / "page.html", folder / "train" / "page.html"):
        with pytest.raises(UserError, match="lies in the data folder"):
            doctor_data(folder, out=place)
    assert not list(folder.rglob("*.html"))


def test_digits_are_healthy_and_divided_as_a_training_would():
    diagnosis = doctor_data("digits", skip=("label-noise",))
    assert diagnosis.healthy and not diagnosis.findings and diagnosis.left_out == {"label-noise": "as asked"}


def test_when_no_splits_can_be_made_the_reason_is_said_and_the_rest_is_checked(tmp_path):
    pictures = blobs(21, side=40)
    for k, pixels in enumerate(pictures[:20]):
        save(tmp_path / "data" / "ab"[k % 2] / f"{k}.png", pixels)
    save(tmp_path / "data" / "c" / "only.png", pictures[20])
    diagnosis = doctor_data(tmp_path / "data")
    assert "one image cannot be divided" in diagnosis.left_out["making splits"]
    assert [(f.check, f.severity) for f in diagnosis.findings] == [("missing-class", "warning")]


def test_after_the_budget_no_check_begins(folder):
    diagnosis = doctor_data(folder, budget_s=0.0)
    assert len(diagnosis.seconds) <= 1 and "the 0 s were over" in diagnosis.left_out.values()


def test_an_image_set_holds_what_the_samples_hold():
    targets = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.float32)
    samples = Samples(format="npz", classes=("a", "b"), targets=targets, images=blobs(4), root="x.npz",
                      groups=np.array(list("aabb")))
    images = image_set(samples, {"train": np.array([0, 2]), "val": np.array([3])}, seconds=3.0)
    assert images.split.tolist() == ["train", "", "train", "val"] and images.labels.dtype == bool
    assert images.sources[2] == "x.npz[2]" and images.about is None and images.seconds == 3.0
    assert (images.read(2) == samples.images[2]).all() and images.groups is samples.groups
    diagnosis = examine_images(images)
    assert not diagnosis.left_out and {f.check for f in diagnosis.findings} <= {"missing-class", "group-leak"}


def test_exif_says_when_and_by_which_camera_a_photo_was_taken(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 1"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8769)[0x9291] = "25"
    save(tmp_path / "a.jpg", blobs(1, side=64, channels=3)[0], exif=exif)
    size, taken, camera = file_facts(str(tmp_path / "a.jpg"))
    assert size == (tmp_path / "a.jpg").stat().st_size and taken == 1714979289.25 and camera == "Maker Model 1"
    data = (tmp_path / "a.jpg").read_bytes()
    for cut in (20, 40, 60, 120):  # a damaged block says nothing, and does not stop anything
        (tmp_path / "b.jpg").write_bytes(data[:cut])
        assert file_facts(str(tmp_path / "b.jpg"))[0] == cut
    save(tmp_path / "c.png", blobs(1)[0])
    assert np.isnan(file_facts(str(tmp_path / "c.png"))[1]) and np.isnan(file_facts(str(tmp_path / "none"))[0])


def test_a_burst_divided_among_splits_is_found_from_the_files(tmp_path):
    for k, pixels in enumerate(blobs(40, side=48, channels=3)):
        exif = Image.Exif()
        exif[0x0110] = "Camera"
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:06 07:{k // 2:02d}:{k % 2:02d}"  # bursts of two, a minute apart
        save(tmp_path / "data" / ("train" if k % 2 else "val") / "ab"[k // 2 % 2] / f"{k}.jpg", pixels, exif=exif)
    finding = next(f for f in doctor_data(tmp_path / "data").findings if f.check == "group-leak")
    assert finding.severity == "warning" and "images and images of train were taken within seconds" in finding.title


def test_evidence_is_kept_for_the_page():
    samples = open_samples("digits")
    twice = samples.subset(np.concatenate([np.arange(200), np.arange(3)]))
    images = image_set(twice, split_samples(twice))
    diagnosis = examine_images(images, skip=("label-noise",))
    assert any(f.check == "exact-duplicates" for f in diagnosis.findings)
    assert {e.images for e in shown(images)["exact-duplicates"]} == {(0, 200), (1, 201), (2, 202)}


def test_marked_sets_are_checked_and_the_page_shows_the_objects(tmp_path, monkeypatch):
    samples = marked_samples(24)
    boxes = samples.objects.boxes.copy()
    boxes[4], boxes[7] = (-30, 10, 20, 20), (5, 5, 5, 20)
    objects = replace(samples.objects, boxes=boxes, outlines=None)
    stated = np.tile(np.array([[SIDE, SIDE]]), (24, 1))
    sick = replace(samples, objects=objects, stated_sizes=stated, images=blobs(24, side=SIDE))
    monkeypatch.setattr("visus.run.doctor_data.open_samples", lambda path, format, progress=None: sick)
    diagnosis = doctor_data("marked", out=tmp_path / "page.html")
    found = {f.check: f for f in diagnosis.findings}
    assert {"boxes-outside", "tiny-boxes", "unmarked-images"} <= set(found) and not diagnosis.left_out
    assert "marked.npz[2]: disc -30, 10 to 20, 20 in an image of 60 x 60" in found["boxes-outside"].evidence
    text = (tmp_path / "page.html").read_text()
    assert "Boxes that leave the image" in text and "Empty and tiny boxes" in text
    assert text.count("data:image/png;base64,") == 3
    healthy = replace(samples, images=blobs(24, side=SIDE), stated_sizes=stated,
                      split=np.array(["train"] * 18 + ["val"] * 6))
    monkeypatch.setattr("visus.run.doctor_data.open_samples", lambda path, format, progress=None: healthy)
    assert {f.check for f in doctor_data("marked").findings} == {"unmarked-images"}


def test_sets_of_label_maps_are_checked_without_asking_which_classes_an_image_shows(tmp_path, monkeypatch):
    pictures = blobs(12, side=40, channels=3)
    for k, pixels in enumerate(pictures):
        save(tmp_path / "data" / "images" / f"{k}.png", pixels)
        labels = np.full((40, 40, 1), k % 2, np.uint8)
        if k == 3:
            labels[:5] = 9
        save(tmp_path / "data" / "maps" / f"{k}.png", labels if k != 4 else np.full((40, 40, 1), 255, np.uint8))
    from visus.data.samples import Samples

    maps = LabelMaps(paths=tuple(f"maps/{k}.png" for k in range(12)), root=str(tmp_path / "data"),
                     table={0: 0, 1: 1, 255: -1})
    samples = Samples(format="masks", classes=("road", "sky"), targets=np.zeros((12, 2), np.float32), label_maps=maps,
                      paths=tuple(f"images/{k}.png" for k in range(12)), root=str(tmp_path / "data"))
    monkeypatch.setattr("visus.run.doctor_data.open_samples", lambda path, format, progress=None: samples)
    diagnosis = doctor_data(tmp_path / "data", out=tmp_path / "page.html")
    assert [(f.check, f.severity) for f in diagnosis.findings] == [("label-map-values", "error"),
                                                                   ("label-map-values", "warning")]
    assert "9 (200 pixels" in diagnosis.findings[0].evidence and "maps/3.png" in diagnosis.findings[0].evidence
    assert "not known which classes" in diagnosis.left_out["making splits"]
    assert "Label maps that do not fit" in (tmp_path / "page.html").read_text()


def test_the_extent_of_outlines_is_that_of_their_points_or_runs():
    outlines = Outlines(polygons=np.array([0, 2, 2, 2]), vertices=np.array([0, 3, 6]),
                        points=np.array([[1, 2], [5, 2], [3, 9], [0, 4], [2, 4], [2, 5]], np.float64),
                        runs={2: run_length(20, 30, slice(4, 8), slice(10, 15))})
    found = extents(outlines)
    assert found[0].tolist() == [0, 2, 5, 9] and np.isnan(found[1]).all() and found[2].tolist() == [10, 4, 15, 8]


def test_a_picture_of_a_small_object_is_cut_to_where_it_lies():
    pixels = np.full((1000, 1000, 3), 120, np.uint8)
    pixels[500:, 500:] = 30
    objects = replace(marked_samples().objects, outlines=None)
    boxes = objects.boxes.copy()
    boxes[0] = (600, 600, 604, 604)
    image = np.asarray(marked_part(pixels, replace(objects, boxes=boxes), 0, (0,), ("disc", "person")), np.int64)
    assert image.shape == (200, 200, 3) and (np.abs(image - 30).max(-1) < 3).mean() > 0.7  # nothing of the other part
    for wild in ((np.nan, 0, 1, 1), (2000, 2000, 2100, 2100), (-50, -50, -20, -20)):
        boxes[0] = wild
        marked_part(pixels, replace(objects, boxes=boxes), 0, (0,), ("disc", "person"))
