"""Pascal VOC and Cityscapes against torchvision's own readers: the same boxes, names and labels."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.peers import load_peer
from visus.data import open_samples
from visus.data.formats.mask_folder.reader import CITYSCAPES
from visus.data.formats.voc.segmentation import palette_colour
from visus.data.label_maps import read_label_map

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd_voc.zip"


def datasets():
    try:
        load_peer("torchvision")
    except ImportError as problem:
        pytest.skip(str(problem))
    return importlib.import_module("torchvision.datasets")


@pytest.mark.skipif(not BCCD.is_file(), reason="BCCD is not in ../shared/data")
def test_boxes_names_and_difficult_marks_equal_those_of_torchvision(tmp_path):
    theirs = datasets()
    with zipfile.ZipFile(BCCD) as file:
        file.extractall(tmp_path)
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    (tmp_path / "BCCD").rename(kit / "VOC2012")
    samples = open_samples(kit)
    for split in ("train", "val"):
        peer = theirs.VOCDetection(str(tmp_path), year="2012", image_set=split)
        chosen = np.flatnonzero(samples.split == split)
        assert len(chosen) == len(peer)
        for i, (_, target) in zip(chosen.tolist(), (peer[k] for k in range(len(peer))), strict=True):
            objects = target["annotation"]["object"]
            sides = [[float(o["bndbox"][s]) for s in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
            ours = samples.objects.take(np.array([i]))
            np.testing.assert_array_equal(ours.boxes + np.array([1, 1, 0, 0]), sides)
            assert [samples.classes[k] for k in ours.labels] == [o["name"] for o in objects]
            assert ours.difficult.tolist() == [o["difficult"] == "1" for o in objects]
            assert samples.source(i).endswith(target["annotation"]["filename"])


def test_the_table_of_cityscapes_equals_torchvisions():
    classes = datasets().Cityscapes.classes
    judged = {c.name: c.id for c in sorted(classes, key=lambda c: c.train_id) if 0 <= c.train_id < 255}
    assert judged == CITYSCAPES and list(judged) == list(CITYSCAPES)


def test_cityscapes_labels_equal_torchvisions_files_mapped_by_its_table(tmp_path):
    theirs = datasets().Cityscapes
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (tmp_path / "gtFine" / split / "ulm").mkdir(parents=True)
        (tmp_path / "leftImg8bit" / split / "ulm").mkdir(parents=True)
        for i in range(2):
            stem = f"ulm_{i:06}_000019"
            Image.fromarray(draw.integers(0, 255, (8, 9, 3)).astype(np.uint8)).save(
                tmp_path / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png")
            Image.fromarray(draw.integers(0, 34, (8, 9)).astype(np.uint8)).save(
                tmp_path / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png")
    samples = open_samples(tmp_path)
    to_train = np.full(256, 255, np.uint8)
    for c in theirs.classes:
        if 0 <= c.train_id < 255:
            to_train[c.id] = c.train_id
    for split in ("train", "val", "test"):
        peer = theirs(str(tmp_path), split=split, mode="fine", target_type="semantic")
        by_name = {Path(name).name: k for k, name in enumerate(peer.images)}
        for i in np.flatnonzero(samples.split == split).tolist():
            image, target = peer[by_name[Path(samples.paths[i]).name]]
            np.testing.assert_array_equal(samples.read(i), np.asarray(image))
            np.testing.assert_array_equal(read_label_map(samples.label_maps, i), to_train[np.asarray(target)])


def test_voc_maps_equal_torchvisions(tmp_path):
    theirs = datasets()
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    draw = np.random.default_rng(1)
    codes = [palette_colour(k) for k in range(256)]
    palette = [part for code in codes for part in (code & 255, code >> 8 & 255, code >> 16)]
    for i in range(3):
        Image.new("RGB", (9, 8)).save(root / "JPEGImages" / f"{i}.jpg")
        values = draw.integers(0, 22, (8, 9))
        picture = Image.fromarray(np.where(values == 21, 255, values).astype(np.uint8))
        picture.putpalette(palette)
        picture.save(root / "SegmentationClass" / f"{i}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2\n0\n1\n")
    samples = open_samples(tmp_path)
    peer = theirs.VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    assert len(samples) == len(peer) == 3
    for i in range(3):
        np.testing.assert_array_equal(read_label_map(samples.label_maps, i), np.asarray(peer[i][1]))
