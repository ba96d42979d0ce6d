"""Equal and nearly equal images, and the four checks that speak of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.doctor.images.sets import blobs, image_set
from visus.data.opening import open_samples
from visus.doctor.images.conflicting_labels import conflicting_labels
from visus.doctor.images.exact_duplicates import exact_duplicates
from visus.doctor.images.exhibits import shown
from visus.doctor.images.near_duplicates import near_duplicates
from visus.doctor.images.split_leak import split_leak
from visus.doctor.images.twins import twins_of

CHECKS = (exact_duplicates, near_duplicates, split_leak, conflicting_labels)


def recompressed(image: np.ndarray, scale: float = 1.0, quality: int = 60) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(file))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def pictures(count: int = 60) -> list[np.ndarray]:
    return list(blobs(count, side=48, channels=3))


def halves(count: int) -> list[str]:
    return ["train"] * (count - count // 4) + ["val"] * (count // 4)


def test_pictures_that_differ_give_no_finding():
    images = pictures()
    for check in CHECKS:
        assert not list(check(image_set(images, np.arange(60) % 3, halves(60))))


def test_digits_have_no_twins_but_many_that_look_alike():
    digits = open_samples("digits")
    images = image_set(digits.images, digits.targets, np.where(np.arange(len(digits)) % 4 == 0, "val", "train"))
    assert len(twins_of(images).near) == 0
    for check in CHECKS:
        assert not list(check(images))


@pytest.mark.parametrize(("copies", "severity"), [(1, "note"), (2, "warning")])
def test_copies_are_counted_and_more_than_one_in_a_hundred_is_a_warning(copies, severity):
    images = pictures(150)
    for k in range(copies):
        images.append(images[k].copy())
    images.append(np.full_like(images[0], 5))  # 151 or more images
    finding, = exact_duplicates(image_set(images))
    assert finding.severity == severity and finding.title.startswith(f"{copies} image")
    assert "0.png = 150.png" in finding.evidence and finding.check == "exact-duplicates"


def test_the_same_pixels_of_another_size_are_not_equal():
    rows = np.arange(32, dtype=np.uint8).reshape(4, 8, 1)
    assert not list(exact_duplicates(image_set([rows, rows.reshape(8, 4, 1), rows.repeat(3, 2)])))


def test_images_of_one_value_are_odd_and_no_copies():
    blank = [np.zeros((16, 16, 1), np.uint8)] * 4
    images = image_set([*blobs(20), *blank], [0] * 22 + [1, 1], ["train"] * 22 + ["val"] * 2)
    for check in CHECKS:
        assert not list(check(images))


@pytest.mark.parametrize("change", [
    lambda x: recompressed(x, quality=40), lambda x: recompressed(x, 0.5), lambda x: recompressed(x, 1.7),
    lambda x: np.clip(x + np.random.default_rng(0).normal(0, 5, x.shape), 0, 255).astype(np.uint8)])
def test_a_recompressed_scaled_or_noisy_copy_is_a_near_twin(change):
    images = pictures()
    images.append(change(images[7]))
    images.append(change(images[9]))
    found = image_set(images)
    finding, = near_duplicates(found)
    assert "7.png = 60.png" in finding.evidence and "9.png = 61.png" in finding.evidence
    assert finding.severity == "warning" and "4 images" in finding.title
    assert {e.images for e in shown(found)["near-duplicates"]} == {(7, 60), (9, 61)}


def test_flat_images_are_nobodys_twins():
    rng = np.random.default_rng(0)
    sky = [np.full((32, 32, 1), 240, np.uint8) + rng.integers(0, 3, (32, 32, 1), np.uint8) for _ in range(2)]
    assert len(twins_of(image_set([*blobs(40), *sky])).near) == 0


def test_where_twins_mostly_have_other_labels_likeness_is_not_trusted():
    images = pictures(60)
    twins = [recompressed(x) for x in images[:30]]
    same = image_set(images + twins, [*range(60), *range(30)])
    other = image_set(images + twins, [*range(60), *range(30, 60)])
    assert twins_of(same).trusted() and list(near_duplicates(same))
    assert not twins_of(other).trusted() and not list(near_duplicates(other)) and not list(conflicting_labels(other))


def test_an_equal_image_in_train_is_an_error_with_count_share_and_names():
    images = pictures(40)
    images[35] = images[2].copy()
    finding, = split_leak(image_set(images, split=halves(40)))
    assert finding.severity == "error" and "1 val image" in finding.title and "10 % of val" in finding.title
    assert "35.png = 2.png" in finding.evidence and "1 with equal pixels" in finding.evidence


def test_near_twins_in_train_are_an_error_only_above_one_in_a_hundred_of_the_split():
    images = pictures(420)
    images[419] = recompressed(images[0])
    split = ["train"] * 200 + ["test"] * 220
    note, = split_leak(image_set(images, split=split))
    assert note.severity == "note" and "1 nearly equal" in note.evidence
    for k in range(1, 4):
        images[419 - k] = recompressed(images[k])
    error, = split_leak(image_set(images, split=split))
    assert error.severity == "error" and error.title.startswith("4 test images have a twin in train (1.82 % of test)")


def test_copies_within_train_are_no_leak():
    images = pictures(40)
    images[3], images[36] = images[2].copy(), images[35].copy()
    assert not list(split_leak(image_set(images, split=halves(40))))


def test_equal_images_with_two_labels_are_an_error_and_near_ones_a_warning():
    images = pictures(40)
    images += [images[0].copy(), recompressed(images[1])]
    labels = [0] * 40 + [1, 1]
    equal, near = conflicting_labels(image_set(images, labels))
    assert equal.severity == "error" and "0.png (class0) = 40.png (class1)" in equal.evidence
    assert near.severity == "warning" and "1.png (class0) = 41.png (class1)" in near.evidence
    assert not list(conflicting_labels(image_set(images, [0] * 41 + [0])))


def test_sets_of_labels_conflict_when_one_differs():
    images = [*pictures(20), pictures(1)[0]]
    labels = np.zeros((21, 3), bool)
    labels[:, 1] = True
    assert not list(conflicting_labels(image_set(images, labels)))
    labels[20, 2] = True
    finding, = conflicting_labels(image_set(images, labels))
    assert "(class1) = 20.png (class1 + class2)" in finding.evidence
