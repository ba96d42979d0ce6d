from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.formats import refusals
from tests.image_zoo import tree_state
from visus.data import open_samples
from visus.data.formats.mask_folder.class_tables import class_table
from visus.data.formats.mask_folder.reader import CITYSCAPES, MaskFolder
from visus.data.formats.voc.segmentation import VOC_CLASSES, palette_colour
from visus.data.label_maps import colour_code, read_label_map

CAMVID = Path(__file__).parents[4] / "shared" / "data" / "camvid_240x180.zip"
MAP = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
COLOURS = np.array([(128, 0, 0), (0, 128, 0), (0, 0, 128)], np.uint8)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


def label_map(path: Path, values: np.ndarray = MAP) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pairs(root: Path, images: str, maps: str, names: str = "ab", values: np.ndarray = MAP) -> Path:
    for name in names:
        image(root / images.format(name))
        label_map(root / maps.format(name), values)
    return root


def refused(root: Path, *words: str, format: str = "mask_folder") -> None:
    before = tree_state(root)
    refusals.refused(root, *words, format=format)
    assert tree_state(root) == before


@pytest.mark.skipif(not CAMVID.is_file(), reason="CamVid is not in ../shared/data")
def test_camvid_has_its_published_splits_and_eleven_classes_with_the_rest_ignored(tmp_path):
    with zipfile.ZipFile(CAMVID) as file:
        file.extractall(tmp_path)
    root = tmp_path / "camvid"
    assert len(open_samples(root).classes) == 12
    names = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
             "Bicyclist", "Unlabelled"]
    (root / "classes.txt").write_text("\n".join(names))
    samples = open_samples(root)
    assert samples.format == "mask_folder" and samples.classes == tuple(names[:-1])
    assert [(samples.split == s).sum() for s in ("train", "val", "test")] == [367, 101, 233]
    counts = np.zeros(256, np.int64)
    for i in np.flatnonzero(samples.split == "train"):
        counts += np.bincount(read_label_map(samples.label_maps, i, size=(180, 240)).ravel(), minlength=256)
    shares = counts[:11] / counts[:11].sum()
    assert counts[11:255].sum() == 0 and counts[255] > 0
    assert shares.argmax() == 3 and shares.argmin() == 10 and 0.3 < shares[3] < 0.34


LAYOUTS = {
    "images and masks": ("images/{}.jpg", "masks/{}.png"),
    "suffix": ("images/{}.jpg", "masks/{}_mask.png"),
    "labels": ("images/{}.jpg", "labels/{}.png"),
    "deeper": ("images/x/{}.jpg", "annotations/x/{}.png"),
    "beside": ("{}.jpg", "{}_mask.png"),
    "another kind": ("imgs/{}.jpg", "Masks/{}.bmp"),
}
SPLIT_LAYOUTS = {
    "splits within": ("images/{1}/{0}.jpg", "masks/{1}/{0}.png", ("train", "val", "test")),
    "ade20k": ("images/{1}/{0}.jpg", "annotations/{1}/{0}.png", ("training", "validation")),
    "splits outside": ("{1}/images/{0}.jpg", "{1}/masks/{0}.png", ("train", "valid")),
    "camvid": ("{1}/{0}.jpg", "{1}annot/{0}.png", ("train", "val", "test")),
    "camvid with L": ("{1}/{0}.jpg", "{1}_labels/{0}_L.png", ("train", "val")),
    "beside in splits": ("{1}/{0}.jpg", "{1}/{0}_mask.png", ("train", "test")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_maps_are_paired_by_name(tmp_path, layout):
    samples = open_samples(pairs(tmp_path, *LAYOUTS[layout], "ab"))
    assert samples.format == "mask_folder" and len(samples) == 2 and samples.split.tolist() == ["", ""]
    assert [Path(p).stem for p in samples.paths] == ["a", "b"]
    assert [Path(p).stem[0] for p in samples.label_maps.paths] == ["a", "b"]
    assert samples.classes == ("0", "1", "2") and samples.targets.shape == (2, 3)
    assert read_label_map(samples.label_maps, 1).tolist() == MAP.tolist()


@pytest.mark.parametrize("layout", SPLIT_LAYOUTS)
def test_split_folders_within_or_outside_are_kept(tmp_path, layout):
    images, maps, splits = SPLIT_LAYOUTS[layout]
    for split in splits:
        image(tmp_path / images.format(split, split))
        label_map(tmp_path / maps.format(split, split))
    samples = open_samples(tmp_path)
    short = {"training": "train", "validation": "val", "valid": "val"}
    assert samples.format == "mask_folder" and samples.split.tolist() == [short.get(s, s) for s in splits]
    assert len(samples) == len(splits)


def test_class_folders_and_folders_of_other_names_stay_class_folders(tmp_path):
    pairs(tmp_path, "cat/{}.jpg", "dog/{}.png")
    assert open_samples(tmp_path).format == "folder"
    pairs(tmp_path / "2", "train/cat/{}.jpg", "train/dog/{}.png")
    assert open_samples(tmp_path / "2").format == "folder"
    pairs(tmp_path / "3", "images/{}.jpg", "masks/{}.png")
    for name in os.listdir(tmp_path / "3" / "masks"):
        os.rename(tmp_path / "3" / "masks" / name, tmp_path / "3" / "masks" / f"z{name}")
    assert not MaskFolder.recognises(str(tmp_path / "3"))


def test_images_without_maps_and_maps_without_images_are_counted(tmp_path):
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png", "abc")
    os.unlink(tmp_path / "images" / "a.jpg")
    os.unlink(tmp_path / "masks" / "b.png")
    samples = open_samples(tmp_path)
    notes = " ".join(samples.notes)
    assert samples.paths == ("images/c.jpg",) and "1 image without a map of labels not used: images/b.jpg" in notes
    assert "1 map without an image not used: masks/a.png" in notes


def test_numbers_without_a_table_become_classes_and_zero_with_255_is_a_foreground(tmp_path):
    samples = open_samples(pairs(tmp_path / "1", "images/{}.jpg", "masks/{}.png", values=MAP + np.uint8(MAP < 9) * 3))
    assert samples.classes == ("3", "4", "5") and samples.category_ids == (3, 4, 5)
    assert "255 is ignored" in " ".join(samples.notes)
    assert read_label_map(samples.label_maps, 0).tolist() == MAP.tolist()
    binary = np.where(MAP == 1, 255, 0).astype(np.uint8)
    for folder, values in (("2", binary), ("3", np.stack([binary] * 3, -1))):
        samples = open_samples(pairs(tmp_path / folder, "images/{}.jpg", "masks/{}.png", values=values))
        assert samples.classes == ("background", "foreground") and "background and foreground" in samples.notes[0]
        assert read_label_map(samples.label_maps, 0).tolist() == (MAP == 1).astype(int).tolist()


def test_colours_without_a_table_become_classes_and_a_photo_is_refused(tmp_path):
    samples = open_samples(pairs(tmp_path / "1", "images/{}.jpg", "masks/{}.png", values=COLOURS[MAP % 3]))
    assert samples.classes == ("#800000", "#008000", "#000080") and "name them in classes.csv" in samples.notes[0]
    assert read_label_map(samples.label_maps, 0).tolist() == (MAP % 3).tolist()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    refused(pairs(tmp_path / "2", "images/{}.jpg", "masks/{}.png", values=noise), "a.png", "more than 1000", "photo")


TABLES = {
    "label_colors.txt": "128 0 0\t\tcat\n0 128 0 dog\n0 0 128\tVoid\n",
    "classes.txt": "# r g b\n128,0,0 cat\n0,128,0 dog\n0,0,128 void\n",
    "class_dict.csv": "name,r,g,b\ncat,128,0,0\ndog,0,128,0\nVoid,0,0,128\n",
    "classes.csv": "class;red;green;blue\ncat;128;0;0\ndog;0;128;0\nunlabelled;0;0;128\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\ncat:128,0,0::\ndog:0,128,0::\nignore:0,0,128::\n",
    "classes.json": '{"cat": [128, 0, 0], "dog": [0, 128, 0], "void": [0, 0, 128]}',
    "Classes.JSON": '{"classes": [{"name": "cat", "id": 0, "color": [128, 0, 0]}, {"name": "dog", "id": 1, "color": '
                    '[0, 128, 0]}, {"name": "void", "id": 2, "color": [0, 0, 128]}]}',
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", ["colours", "palette", "numbers"])
def test_a_table_of_colours_reads_colours_palettes_and_numbers(tmp_path, name, kind):
    values = MAP % 3
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png", values=COLOURS[values] if kind == "colours" else values)
    if kind == "palette":  # places in another order than the table
        for name_ in "ab":
            picture = Image.fromarray((2 - values).astype(np.uint8))
            picture.putpalette(COLOURS[::-1].ravel().tolist())
            picture.save(tmp_path / "masks" / f"{name_}.png")
    (tmp_path / name).write_text(TABLES[name])
    samples = open_samples(tmp_path)
    assert samples.classes == ("cat", "dog") and "ignored" in " ".join(samples.notes)
    assert read_label_map(samples.label_maps, 0).tolist() == np.where(values == 2, 255, values).tolist()


@pytest.mark.parametrize(("name", "text", "ids"), [
    ("classes.txt", "cat\ndog\nlawn green\n", (0, 1, 2)), ("classes.txt", "0 cat\n2 dog\n5 lawn green\n", (0, 2, 5)),
    ("_classes.csv", "Pixel Value, Class\n0, cat\n2, dog\n5, lawn green\n", (0, 2, 5)),
    ("classes.txt", "cat\t0\ndog\t2\nlawn  green \t 5\n", (0, 2, 5)),
    ("classes.csv", "name,id\ncat,0\ndog,2\nlawn green,5\n", (0, 2, 5)),
    ("classes.json", '{"0": "cat", "2": "dog", "5": "lawn green"}', (0, 2, 5)),
    ("classes.json", '{"cat": 0, "dog": 2, "lawn green": 5}', (0, 2, 5)),
    ("classes.json", '["cat", "dog", "lawn green"]', (0, 1, 2)),
    ("objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t11664\t1172\t1\tcat \n"
     "2\t0.1\t6046\t612\t1\tdog, hound\n3\t0.09\t8265\t796\t1\tlawn green\n", (1, 2, 3))])
def test_a_table_of_numbers_names_the_classes(tmp_path, name, text, ids):
    values = np.array([[*ids], [ids[0], ids[0], 255]], np.uint8)
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png", values=values)
    (tmp_path / name).write_text(text)
    samples = open_samples(tmp_path)
    assert [c.split(",")[0] for c in samples.classes] == ["cat", "dog", "lawn green"]
    assert (samples.category_ids or (0, 1, 2)) == ids
    assert read_label_map(samples.label_maps, 0).tolist() == [[0, 1, 2], [0, 0, 255]]


@pytest.mark.parametrize(("name", "text", "words"), [
    ("classes.txt", "", ("names no class",)), ("classes.txt", "cat\ncat\n", ("name given to several", "cat")),
    ("classes.csv", "cat,1,2,3\ndog,1,2,3\n", ("colour given to several", "#010203")),
    ("classes.csv", "cat,1,2,300\ndog,1,2,3\n", ("1 colour beyond 255", "line 1")),
    ("classes.json", "{", ("classes.json:1", "is not JSON")), ("classes.json", "[" * 100_000, ("RecursionError",)),
    ("classes.json", '{"a": [1, 2]}', ("1 record that is no class",)), ("classes.json", "7", ("names no class",)),
    ("classes.json", '[{"name": 7}, {"id": 7}, null]', ("3 records that",)),
    ("classes.txt", "cat\ndog\n", ("1 value that stand", "2 (2 pixels")),
    ("classes.txt", "caf\udce9", ("UTF-8",)), ("classes.txt", "a" + " b" * 400_000, ("1 line of more than 300",))])
def test_a_table_that_cannot_be_used_is_refused_by_name(tmp_path, name, text, words):
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tmp_path, *words)


def test_colours_with_a_table_of_names_alone_are_refused(tmp_path):
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png", values=COLOURS[MAP % 3])
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    refused(tmp_path, "gives no colours", "classes.txt")


def test_a_damaged_map_and_a_link_out_are_refused(tmp_path):
    pairs(tmp_path / "1", "images/{}.jpg", "masks/{}.png")
    (tmp_path / "1" / "masks" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxxxxxxxxxxxxxxx")
    refused(tmp_path / "1", "masks/a.png")
    pairs(tmp_path / "2", "images/{}.jpg", "masks/{}.png")
    os.symlink(tmp_path / "1" / "images" / "b.jpg", tmp_path / "2" / "images" / "c.jpg")
    refused(tmp_path / "2", "c.jpg leads out of the folder")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_names_give_the_nineteen_training_classes(tmp_path, kind):
    ids = np.array([[7, 33, 0], [26, 3, 10]], np.uint8)
    train_ids = np.array([[0, 18, 255], [13, 255, 255]], np.uint8)
    for split, city in (("train", "aachen"), ("val", "ulm")):
        name = f"{city}_000000_000019"
        image(tmp_path / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
        stem = f"gtFine/{split}/{city}/{name}_gtFine"
        label_map(tmp_path / f"{stem}_{kind}.png", ids if kind == "labelIds" else train_ids)
        label_map(tmp_path / f"{stem}_instanceIds.png", ids.astype(np.uint16) * 1000)
    samples = open_samples(tmp_path)
    assert samples.classes == tuple(CITYSCAPES) and len(samples.classes) == 19
    assert samples.split.tolist() == ["train", "val"] and samples.paths[1].startswith("leftImg8bit/val/ulm")
    assert read_label_map(samples.label_maps, 0).tolist() == train_ids.tolist()
    assert samples.category_ids == (None if kind == "labelTrainIds" else tuple(CITYSCAPES.values()))


@pytest.mark.parametrize("kind", ["palette", "colours"])
def test_maps_of_voc_are_read_by_number_and_by_its_palette(tmp_path, kind):
    values = np.array([[0, 1, 15], [20, 255, 0]], np.uint8)
    colours = [palette_colour(k) for k in range(256)]
    rgb = np.array([(c & 255, c >> 8 & 255, c >> 16) for c in colours], np.uint8)
    published = [[128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]
    assert rgb[[1, 2, 3, 15, 20, 255]].tolist() == published
    picture = Image.fromarray(values)
    picture.putpalette(rgb.ravel().tolist())
    for name in "ab":
        image(tmp_path / "VOC2012" / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "VOC2012" / "SegmentationClass").mkdir(exist_ok=True)
        (picture if kind == "palette" else picture.convert("RGB")).save(
            tmp_path / "VOC2012" / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\nz\n")
    (lists / "val.txt").write_text("a\n")
    for path in (tmp_path, tmp_path / "VOC2012"):
        samples = open_samples(path)
        assert samples.format == "voc_segmentation" and samples.classes == VOC_CLASSES
        assert samples.split.tolist() == ["train", "val"] and [Path(p).stem for p in samples.paths] == ["b", "a"]
        assert read_label_map(samples.label_maps, 0).tolist() == values.tolist()
        assert "1 name without a map or an image not used: z" in samples.notes


def test_a_class_table_counts_names_from_zero_and_maps_ignored_names_to_nothing():
    table = class_table("sky\nvoid\nroad\n", "x", "classes.txt")
    assert table.classes == ("sky", "road") and table.by_value == {0: 0, 1: -1, 2: 1} and table.by_colour is None
    assert class_table("name,r,g,b\na,0,0,1\n", "x", "x.csv").by_colour == {colour_code(0, 0, 1): 0}
