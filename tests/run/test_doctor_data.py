from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.doctor.images.sets import blobs
from visus.core.errors import UserError
from visus.data.opening import open_samples
from visus.data.samples import Samples
from visus.data.split import split_samples
from visus.doctor.images.exhibits import shown
from visus.run.doctor_data import doctor_data, examine_images, file_facts, image_set


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
