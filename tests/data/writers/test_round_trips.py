from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.image_zoo import tree_state
from visus.core.errors import DataError
from visus.data import open_samples
from visus.data.objects import LabelMaps, Objects, Outlines, Runs
from visus.data.samples import Samples
from visus.data.writers import writers
from visus.data.writers.folder import FolderWriter
from visus.data.writers.shards import ShardWriter
from visus.data.writers.voc import VocWriter
from visus.data.writers.yolo import YoloWriter, joined_rings
from visus.run.convert_data import convert

SIZES = [(480, 640), (333, 500), (97, 1013), (1024, 768), (50, 50), (200, 300)]


def drawn(root: Path, splits: tuple[str, ...] = ("train", "train", "val", "test", "val", "train"), seed: int = 0,
          whole: bool = True, relative: bool = False) -> Samples:
    """Six images with 0 to 5 boxes each."""
    draw = np.random.default_rng(seed)
    paths, boxes, counts = [], [], []
    for i, ((height, width), split) in enumerate(zip(SIZES, splits, strict=True)):
        path = root / split / ("a" if i % 2 else "b") / f"photo {i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), 20 * i).save(path)
        paths.append(path.relative_to(root).as_posix())
        low = draw.uniform(0, 0.5, (i, 2))
        scale = np.array([1.0] * 4 if relative else [width, height] * 2)
        found = np.concatenate([low, low + draw.uniform(0.01, 0.5, (i, 2))], 1) * scale
        boxes.append(np.floor(found) + np.array([0, 0, 1, 1]) if whole else found)
        counts.append(i)
    labels = draw.integers(0, 3, sum(counts))
    objects = Objects(start=np.concatenate([[0], np.cumsum(counts)]), labels=labels, boxes=np.concatenate(boxes),
                      relative=relative)
    classes = ("zebra", "cat & <dog>", "Ünïcode \U0001f600")
    return Samples(format="made", classes=classes, targets=objects.presence(3), paths=tuple(paths), root=str(root),
                   split=np.array(splits), objects=objects)


def by_colour(samples: Samples) -> dict[int, int]:
    """The mark of each image, its grey level / 20, -> its position: names may change, images do not."""
    return {int(np.rint(samples.read(i).mean() / 20)): i for i in range(len(samples))}


def same(a: Samples, b: Samples, tolerance: float = 0.0) -> None:
    assert a.classes == b.classes and len(a) == len(b)
    first, second = by_colour(a), by_colour(b)
    assert first.keys() == second.keys()
    for mark, i in first.items():
        j = second[mark]
        height, width = SIZES[mark]
        x, y = a.objects.of(i, height, width), b.objects.of(j, height, width)
        assert a.split[i] == b.split[j] and x.labels.tolist() == y.labels.tolist()
        np.testing.assert_allclose(x.boxes, y.boxes, rtol=0, atol=tolerance)
        assert Path(a.path(i)).read_bytes() == Path(b.path(j)).read_bytes()


@pytest.mark.parametrize(("first", "second"), list(itertools.product(("coco", "voc", "yolo"), repeat=2)))
def test_any_of_coco_voc_and_yolo_through_another_and_back_keeps_boxes_labels_and_splits(tmp_path, first, second):
    writers.get(first).build.write(drawn(tmp_path / "data"), tmp_path / "0")
    made = open_samples(tmp_path / "0")
    assert made.format == first
    state = tree_state(tmp_path / "0")
    convert(tmp_path / "0", tmp_path / "1", second)
    convert(tmp_path / "1", tmp_path / "2", first)
    back = open_samples(tmp_path / "2")
    assert open_samples(tmp_path / "1").format == second and back.format == first
    same(drawn(tmp_path / "data"), back, tolerance=1e-9 if first == "yolo" else 0)
    same(made, back, tolerance=1e-11)
    assert tree_state(tmp_path / "0") == state
    if first != "yolo":
        first_place, last_place = by_colour(made), by_colour(back)
        order = np.array([first_place[mark] for mark in sorted(last_place, key=last_place.__getitem__)])
        assert made.subset(order).objects.boxes.tolist() == back.objects.boxes.tolist()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_boxes_with_parts_of_pixels_and_sets_without_splits_come_back(tmp_path, name):
    samples = drawn(tmp_path / "data", ("",) * 6, whole=False)
    writers.get(name).build.write(samples, tmp_path / "out")
    same(samples, open_samples(tmp_path / "out"), tolerance={"coco": 1e-13, "voc": 3e-13, "yolo": 1e-9}[name])


def test_shares_written_as_yolo_are_read_back_to_the_last_bit(tmp_path):
    root = tmp_path / "data"
    samples = drawn(root, whole=False, relative=True)
    rounded = np.round(np.random.default_rng(3).uniform(0.2, 0.4, (len(samples.objects), 4)), 6)
    corners = np.concatenate([rounded[:, :2] - rounded[:, 2:] / 2, rounded[:, :2] + rounded[:, 2:] / 2], 1)
    samples.objects.boxes[:] = corners
    YoloWriter.write(samples, tmp_path / "1")
    convert(tmp_path / "1", tmp_path / "2", "yolo")
    back = open_samples(tmp_path / "2")
    again = {Path(p).name: i for i, p in enumerate(back.paths)}
    order = np.array([again[Path(p).name] for p in samples.paths])
    np.testing.assert_array_equal(back.subset(order).objects.boxes, corners)
    for path in (tmp_path / "1" / "labels").rglob("*.txt"):
        other = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert path.read_text() == other.read_text()
        assert all(len(word) <= 8 for word in path.read_text().split())


def test_data_yaml_is_what_other_tools_read(tmp_path):
    YoloWriter.write(drawn(tmp_path / "data"), tmp_path / "out")
    values = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert values == {"train": "images/train", "val": "images/val", "test": "images/test", "nc": 3,
                      "names": {0: "zebra", 1: "cat & <dog>", 2: "Ünïcode \U0001f600"}}


def annotated(root: Path) -> Samples:
    """One image: a box, two polygons, a coded mask, a crowd, a difficult one; keypoints; captions; a map."""
    (root).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(root / "a.jpg")
    Image.new("L", (20, 10)).save(root / "a.png")
    square = np.array([(1, 1), (5, 1), (5, 5), (1, 5)], np.float64)
    outlines = Outlines(polygons=np.array([0, 0, 2, 2, 3, 3]), vertices=np.array([0, 4, 8, 12]),
                        points=np.concatenate([square, square + np.array([10, 2]), square]),
                        runs={2: Runs(height=10, width=20, lengths=np.array([0, 50, 150], np.uint32))})
    objects = Objects(start=np.array([0, 5]), labels=np.array([0, 1, 0, 1, 1]), outlines=outlines,
                      boxes=np.array([[0, 0, 5, 5], [1, 1, 15, 7], [0, 0, 5, 10], [1, 1, 5, 5], [2, 2, 4, 4.5]]),
                      crowd=np.array([0, 0, 0, 1, 0], bool), difficult=np.array([0, 0, 0, 0, 1], bool))
    return Samples(format="made", classes=("a", "b"), targets=np.ones((1, 2), np.float32), paths=("a.jpg",),
                   root=str(root), objects=objects, captions=(("one", "two"),), category_ids=(7, 9),
                   label_maps=LabelMaps(paths=("a.png",), root=str(root), table={0: 0}))


def test_what_a_format_cannot_hold_is_counted_and_said(tmp_path):
    samples = annotated(tmp_path)
    yolo, voc = " ".join(YoloWriter.losses(samples)), " ".join(VocWriter.losses(samples))
    for words in ("1 crowd left out", "1 mark 'difficult' left out", "1 object of several polygons, joined",
                  "1 mask coded", "2 numbers of classes", "2 captions", "1 map of labels"):
        assert words in yolo, yolo
    for words in ("3 outlines left out", "1 crowd became a plain box", "1 map", "2 captions", "2 numbers",
                  "1 box with parts of pixels"):
        assert words in voc, voc
    assert "5 objects left out" in " ".join(FolderWriter.losses(samples))
    assert "1 map of labels left out" in " ".join(ShardWriter.losses(samples))
    assert writers.get("coco").build.losses(samples) == ["1 mark 'difficult' left out", "1 map of labels left out"]


def test_polygons_and_keypoints_go_to_yolo_and_back(tmp_path):
    samples = annotated(tmp_path / "data")
    YoloWriter.write(samples, tmp_path / "1")
    back = open_samples(tmp_path / "1").objects.of(0, 10, 20)
    assert back.labels.tolist() == [0, 1, 0, 1]  # the crowd is left out
    np.testing.assert_allclose(back.boxes, [[0, 0, 5, 5], [1, 1, 15, 7], [0, 0, 5, 10], [2, 2, 4, 4.5]], atol=1e-9)
    ring = back.outlines.rings(1)[0]
    x, y = ring.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) == pytest.approx(32, abs=1e-9)
    keypoints = np.array([[[1, 2, 2], [3, 4, 1], [0, 0, 0]]] * 5, np.float64)
    marked = replace(samples, objects=replace(samples.objects, keypoints=keypoints, skeleton=((0, 2),),
                                              keypoint_names=("nose", "left ear", "tail")))
    assert "1 outline left out" in " ".join(YoloWriter.losses(marked))
    YoloWriter.write(marked, tmp_path / "2")
    back = open_samples(tmp_path / "2").objects
    assert back.keypoint_names == ("nose", "left ear", "tail") and back.skeleton == ((0, 2),)
    np.testing.assert_allclose(back.of(0, 10, 20).keypoints, keypoints[:4], atol=1e-9)


def test_joined_polygons_keep_area_and_extent():
    square = np.array([(0, 0), (2, 0), (2, 2), (0, 2)], np.float64)
    whole = joined_rings([square, square + 5, square[::-1] * 0.5 + (9, 0.5)])
    x, y = whole.T
    parts = [abs((p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1)).sum() / 2)
             for p in (square, square + 5)]
    area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    assert area == pytest.approx(sum(parts) - 1)  # the last is wound the other way round
    assert whole.min(0).tolist() == [0, 0] and whole.max(0).tolist() == [10, 7]


def test_boxes_beyond_the_image_are_cut_for_yolo_only_where_it_cannot_hold_them(tmp_path):
    samples = annotated(tmp_path / "data")
    objects = Objects(start=np.array([0, 3]), labels=np.array([0, 0, 1]),
                      boxes=np.array([[-2, 0, 8, 4], [-30, -20, 40, 30], [30, 2, 40, 4]], np.float64))
    YoloWriter.write(replace(samples, objects=objects), tmp_path / "1")
    back = open_samples(tmp_path / "1").objects.of(0, 10, 20)
    np.testing.assert_allclose(back.boxes, [[-2, 0, 8, 4], [0, 0, 20, 10]], atol=1e-9)
    assert "1 object outside of its image left out" in " ".join(YoloWriter.losses(replace(samples, objects=objects)))
    assert "1 box cut at the edge" in " ".join(YoloWriter.losses(replace(samples, objects=objects)))


def test_images_of_one_name_in_several_folders_stay_apart(tmp_path):
    root = tmp_path / "data"
    for i, name in enumerate(("x/1.jpg", "y/1.jpg", "y/1.png", "y_1.jpg", "Y/1.JPG")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 10), 20 * i).save(root / name)
    paths = ("x/1.jpg", "y/1.jpg", "y/1.png", "y_1.jpg", "Y/1.JPG")
    objects = Objects(start=np.arange(6), labels=np.arange(5) % 2,
                      boxes=np.array([[i, 0, i + 1, 5] for i in range(5)], np.float64))
    samples = Samples(format="made", classes=("a", "b"), targets=objects.presence(2), paths=paths, root=str(root),
                      objects=objects)
    for name in ("voc", "yolo", "coco"):
        writers.get(name).build.write(samples, tmp_path / name)
        back = open_samples(tmp_path / name)
        assert len(set(back.paths)) == 5
        for i in range(5):
            mark = int(np.rint(back.read(i).mean() / 20))
            assert back.objects.of(i, 10, 20).boxes[0, 0] == pytest.approx(mark, abs=1e-9)


# -- class folders and shards --------------------------------------------------------------------------------------


def labelled(root: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    for k, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            for i in range(3):
                path = root / split / name / f"v{k}.{label}.{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (5, 4), (k, label, i)).save(path)
    return root


def test_class_folders_to_shards_and_back_keep_classes_splits_and_bytes(tmp_path):
    root = labelled(tmp_path / "data")
    convert(root, tmp_path / "shards", "shards")
    assert sorted(os.listdir(tmp_path / "shards")) == ["classes.txt", "test-000000.tar", "train-000000.tar",
                                                       "val-000000.tar"]
    result = convert(tmp_path / "shards", tmp_path / "back", "folder")
    assert result.facts["images"] == 18 and result.losses == ()
    first, back = open_samples(root), open_samples(tmp_path / "back")
    assert back.classes == first.classes and back.format == "folder"
    want = {(Path(first.path(i)).read_bytes(), first.targets[i], first.split[i]) for i in range(18)}
    assert {(Path(back.path(i)).read_bytes(), back.targets[i], back.split[i]) for i in range(18)} == want


def test_shards_are_the_same_bytes_each_time_and_keep_samples_together(tmp_path):
    root = labelled(tmp_path / "data", ("train",))
    for name in ("1", "2"):
        convert(root, tmp_path / name, "shards")
    assert (tmp_path / "1" / "train-000000.tar").read_bytes() == (tmp_path / "2" / "train-000000.tar").read_bytes()
    with tarfile.open(tmp_path / "1" / "train-000000.tar") as file:
        members = file.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        names = [m.name for m in members]
        assert [n.split(".", 1)[1] for n in names] == ["png", "cls"] * 6
        assert [n.split(".")[0] for n in names[::2]] == [n.split(".")[0] for n in names[1::2]]
        classes = [file.extractfile(n).read() for n in names[1::2]]
    assert sorted(classes) == [b"0"] * 3 + [b"1"] * 3 and classes != sorted(classes)  # mixed


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_package_reads_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    convert(labelled(tmp_path / "data"), tmp_path / "out", "shards")
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "val-000000.tar"), shardshuffle=False))
    assert len(found) == 6 and {s["cls"] for s in found} == {b"0", b"1"}
    for sample in found:
        pixel = np.asarray(Image.open(io.BytesIO(sample["png"])))[0, 0]
        assert pixel.tolist()[:2] == [1, int(sample["cls"])]


def test_objects_go_into_the_json_of_a_shard(tmp_path):
    ShardWriter.write(annotated(tmp_path / "data"), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "data-000000.tar") as file:
        assert file.getnames() == ["a.jpg", "a.json", "a.txt"]
        about = json.load(file.extractfile("a.json"))
        assert file.extractfile("a.txt").read() == b"one"
    assert about["labels"] == ["a", "b"] and about["captions"] == ["one", "two"]
    assert about["objects"][0] == {"box": [0, 0, 5, 5], "name": "a"} and about["objects"][3]["crowd"] is True
    assert about["objects"][2]["runs"] == {"counts": [0, 50, 150], "size": [10, 20]}
    assert about["objects"][1]["polygons"][1] == [11, 3, 15, 3, 15, 7, 11, 7]


def test_class_folders_refuse_several_classes_and_half_given_splits(tmp_path):
    samples = annotated(tmp_path / "data")
    with pytest.raises(DataError, match="1 image with no class or with several: a.jpg"):
        FolderWriter.write(samples, tmp_path / "out")
    half = drawn(tmp_path / "half", ("train", "", "train", "", "", ""))
    single = Samples(format="made", classes=half.classes, targets=np.arange(6) % 3, paths=half.paths, root=half.root,
                     split=half.split)
    with pytest.raises(DataError, match="4 images of 6 belong to no split"):
        FolderWriter.write(single, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not [n for n in os.listdir(tmp_path) if n.startswith(".")]


def test_images_in_memory_become_png(tmp_path):
    pixels = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5, 1)
    samples = Samples(format="npz", classes=("a", "b/c"), targets=np.array([0, 1]), images=pixels)
    FolderWriter.write(samples, tmp_path / "out")
    back = open_samples(tmp_path / "out")
    assert back.classes == ("a", "b_c") and np.array_equal(back.read(1), pixels[1])
    assert "b/c as b_c" in FolderWriter.losses(samples)[0]
    for name in ("voc", "yolo"):
        with pytest.raises(DataError, match="has no boxes"):
            writers.get(name).build.write(samples, tmp_path / name)
