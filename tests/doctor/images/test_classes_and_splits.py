"""imbalance, missing-class, group-leak, split-drift."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.images.sets import blobs, bound, image_set
from visus.doctor.images.group_leak import group_leak, stems
from visus.doctor.images.imbalance import imbalance
from visus.doctor.images.missing_class import missing_class
from visus.doctor.images.split_drift import split_drift


def labelled(counts: dict[str, list[int]], **known):
    """split -> images of each class."""
    labels = [k for row in counts.values() for k, n in enumerate(row) for _ in range(n)]
    split = [name for name, row in counts.items() for _ in range(sum(row))]
    return image_set(np.zeros((len(labels), 4, 4, 1), np.uint8), labels, split,
                     classes=tuple(f"class{k}" for k in range(len(next(iter(counts.values()))))), **known)


@pytest.mark.parametrize(("most", "severity"), [(100, None), (101, "note"), (1000, "note"), (1001, "warning")])
def test_imbalance_is_told_at_its_bounds(most, severity):
    found = list(imbalance(labelled({"train": [most, 10]})))
    assert [f.severity for f in found] == ([severity] if severity else [])
    if found:
        assert f"always answering class0 is right for {100 * most / (most + 10):.1f} %" in found[0].evidence


def test_imbalance_counts_train_alone():
    assert not list(imbalance(labelled({"train": [20, 20], "val": [500, 1]})))


def test_classes_that_cannot_be_learnt_or_measured_are_named():
    found = list(missing_class(labelled({"train": [10, 0, 4, 5, 10], "val": [2, 2, 2, 2, 1]})))
    assert [(f.severity, f.title) for f in found] == [
        ("error", "Class class1 has no image in train"), ("warning", "Class class2 has fewer than 5 images in train"),
        ("warning", "Class class4 has fewer than 2 images in val")]
    assert not list(missing_class(labelled({"train": [5, 5], "val": [2, 2]})))
    assert not list(missing_class(labelled({"train": [5, 5]})))  # no validation asked for


def test_a_group_on_both_sides_of_a_split_is_a_warning():
    images = np.zeros((8, 4, 4, 1), np.uint8)
    split = ["train"] * 5 + ["val"] * 3
    finding, = group_leak(image_set(images, split=split, groups=np.array(list("aabbccde"))))
    assert finding.severity == "warning" and "1 val images" in finding.title and "5.png = 4.png" in finding.evidence
    assert not list(group_leak(image_set(images, split=split, groups=np.array(list("aabbcdde")))))


def test_numbered_names_of_many_scans_are_groups():
    sources = tuple(f"{'train' if k < 30 else 'val'}/x/scan{k % 20}_slice_{k}.png" for k in range(40))
    images = image_set(np.zeros((40, 4, 4, 1), np.uint8), [0, 1] * 20, ["train"] * 30 + ["val"] * 10, sources=sources)
    finding, = group_leak(images)
    assert "10 val images and images of train share the stem" in finding.title
    assert finding.severity == "warning"
    assert "val/x/scan10_slice_30.png = train/x/scan10_slice_10.png" in finding.evidence


def test_the_same_stem_in_two_class_folders_is_two_things():
    sources = tuple(f"{'val' if k >= 30 else 'train'}/class{k // 30}/photo{k % 15}_{k}.png" for k in range(60))
    images = image_set(np.zeros((60, 4, 4, 1), np.uint8), [0] * 30 + [1] * 30, ["train"] * 30 + ["val"] * 30,
                       sources=sources)
    assert not list(group_leak(images))


@pytest.mark.parametrize("name", ["{split}/cat/{k:04d}.png", "{split}/cat/img_{k}.png", "{split}/cat_{k}.png",
                                  "{split}/n0144076{c}_{k}.jpg", "{split}/{k:06d}.jpg"])
def test_numbering_that_begins_anew_in_each_folder_is_no_sign(name):
    sources = tuple(name.format(split="train" if k < 30 else "val", k=k % 30, c=k % 2) for k in range(40))
    images = image_set(np.zeros((40, 4, 4, 1), np.uint8), [0, 1] * 20, ["train"] * 30 + ["val"] * 10, sources=sources)
    assert not list(group_leak(images))


def test_the_same_distinctive_name_with_another_ending_belongs_together():
    names = [f"DSC{20190000 + 7 * k}" for k in range(20)]
    sources = tuple([f"train/{n}.jpg" for n in names] + [f"val/{n}_flip.png" for n in names])
    keys = stems(image_set(np.zeros((40, 4, 4, 1), np.uint8), [0, 1] * 20, sources=sources))
    assert keys is not None and (keys[:20] == keys[20:]).all() and len(set(keys)) == 20


@pytest.mark.parametrize(("gap", "camera", "leaks"), [(2.0, "A", True), (2.1, "A", False), (1.0, "B", False),
                                                      (1.0, "", False)])
def test_shots_of_one_camera_within_two_seconds_are_a_burst(gap, camera, leaks):
    images = blobs(30)
    times = [(0.0, 1000.0 * k, "A") for k in range(30)]
    times[29] = (0.0, 5000.0 + gap, camera)  # the fifth is of train
    found = list(group_leak(image_set(images, split=["train"] * 20 + ["val"] * 10, about=lambda i: times[i])))
    assert [f.severity for f in found] == (["warning"] if leaks else [])
    if leaks:
        assert "29.png = 5.png" in found[0].evidence


def test_equal_splits_do_not_drift_and_darker_ones_do():
    rng = np.random.default_rng(0)
    images = blobs(300)
    split = np.where(rng.random(300) < 0.3, "val", "train")
    labels = rng.integers(0, 3, 300)
    assert not list(split_drift(image_set(images, labels, split)))
    images[split == "val"] //= 2
    finding, = split_drift(image_set(images, labels, split))
    assert finding.severity == "warning" and "brightness" in finding.evidence and "differ from train" in finding.title


def test_other_class_shares_are_a_drift_when_they_are_no_chance():
    finding, = split_drift(labelled({"train": [300, 300], "val": [160, 40]}))
    assert "total variation 0.30" in finding.evidence and "50.0 % of train, 80.0 % of val" in finding.evidence
    assert not list(split_drift(labelled({"train": [300, 300], "val": [8, 4]})))  # 0.17, of 12 images
    assert not list(split_drift(labelled({"train": [300, 300], "val": [59, 40]})))  # 0.096: under the bound


def test_the_bound_is_the_one_that_the_rule_names():
    assert bound("split-drift.ks") == 0.2
