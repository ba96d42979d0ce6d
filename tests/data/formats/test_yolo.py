from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.formats import refusals
from tests.image_zoo import tree_state
from visus.core.errors import UserError
from visus.data import open_samples
from visus.data.formats.yolo.reader import Yolo

NAMES = "names: [cat, dog, bird]\n"


def make(root: Path, labels: dict[str, str | bytes | None], yaml: str | None = "train: images\nval: images\n" + NAMES,
         folders: tuple[str, str] = ("images", "labels")) -> Path:
    for name, text in labels.items():
        image, label = root / folders[0] / f"{name}.jpg", root / folders[1] / f"{name}.txt"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(image)
        if text is not None:
            label.write_bytes(text if isinstance(text, bytes) else text.encode())
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def refused(path: Path, *words: str) -> None:
    folder = path if path.is_dir() else path.parent
    before = tree_state(folder)
    refusals.refused(path, *words, format="yolo")
    assert tree_state(folder) == before


def test_boxes_are_shares_of_the_image_and_become_pixels_by_its_size(tmp_path):
    make(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n2 0.25 0.75 0.25 0.5\n", "b": ""})
    samples = open_samples(tmp_path)
    assert samples.format == "yolo" and samples.classes == ("cat", "dog", "bird") and samples.objects.relative
    assert samples.objects.boxes.tolist() == [[0.25, 0.25, 0.75, 0.75], [0.125, 0.5, 0.375, 1]]
    assert samples.objects.of(0, 10, 20).boxes.tolist() == [[5, 2.5, 15, 7.5], [2.5, 5, 7.5, 10]]
    assert samples.targets.tolist() == [[1, 0, 1], [0, 0, 0]] and samples.objects.start.tolist() == [0, 2, 2]
    assert samples.paths == ("images/a.jpg", "images/b.jpg") and samples.objects.outlines is None
    assert "train and val name the same images: taken once, as not split" in samples.notes
    assert "1 empty label file" in samples.notes and samples.split.tolist() == ["", ""]


def test_every_box_equals_what_python_reads_line_by_line(tmp_path):
    draw = np.random.default_rng(1)
    texts = {}
    for i in range(30):
        rows = [(draw.integers(3), *draw.uniform(0.3, 0.6, 2), *draw.uniform(0, 0.5, 2)) for _ in range(i % 7)]
        end = ("\n", "\r\n", "\r")[i % 3]
        texts[f"{i:02}"] = ("\ufeff" if i % 5 == 4 else "") + end.join(
            "  ".join(str(v) for v in row) + (" \t" if i % 2 else "") for row in rows) + end * (i % 4)
    make(tmp_path, texts)
    samples = open_samples(tmp_path)
    for i, text in enumerate(texts.values()):
        rows = [[float(v) for v in line.split()] for line in text.removeprefix("\ufeff").splitlines() if line.split()]
        have = samples.objects.take(np.array([i]))
        assert have.labels.tolist() == [row[0] for row in rows]
        want = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for _, x, y, w, h in rows]
        np.testing.assert_array_equal(have.boxes, np.reshape(want, (-1, 4)))


def test_polygons_are_kept_with_the_box_around_them_beside_plain_boxes(tmp_path):
    make(tmp_path, {"a": "1 0.1 0.2 0.5 0.3 0.4 0.9\n0 0.5 0.5 0.2 0.2\n", "b": "2 0 0 1 0 1 1 0 1\n"})
    objects = open_samples(tmp_path).objects
    np.testing.assert_allclose(objects.boxes, [[0.1, 0.2, 0.5, 0.9], [0.4, 0.4, 0.6, 0.6], [0, 0, 1, 1]])
    assert [len(objects.outlines.rings(m)) for m in range(3)] == [1, 0, 1]
    assert objects.outlines.rings(0)[0].tolist() == [[0.1, 0.2], [0.5, 0.3], [0.4, 0.9]]
    assert objects.outlines.rings(2)[0].tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert "1 object with a box alone beside 2 objects with a polygon" in open_samples(tmp_path).notes


@pytest.mark.parametrize(("values", "row", "want"), [
    (3, "0.5 0.5 0.2 0.2 0.4 0.45 2 0 0 0", [[0.4, 0.45, 2], [0, 0, 0]]),
    (2, "0.5 0.5 0.2 0.2 0.4 0.45 0 0", [[0.4, 0.45, 2], [0, 0, 0]])])
def test_keypoints_have_their_visibility_or_are_seen_where_they_are_not_zero(tmp_path, values, row, want):
    make(tmp_path, {"a": f"0 {row}\n"}, f"train: images\nkpt_shape: [2, {values}]\n"
         "kpt_names: {0: [nose, tail]}\nnames: {0: cat}\n")
    objects = open_samples(tmp_path).objects
    assert objects.keypoint_names == ("nose", "tail") and objects.keypoints.tolist() == [want]
    assert objects.of(0, 10, 20).keypoints[0, 0].tolist() == [8, 4.5, 2]


@pytest.mark.parametrize("layout", ["folders", "list", "txt", "path", "roboflow", "beside"])
def test_splits_come_from_data_yaml_however_it_names_them(tmp_path, layout):
    row = "0 0.5 0.5 0.5 0.5\n"
    folders = {"roboflow": ("{}/images", "{}/labels"), "beside": ("{}", "{}"), "path": ("d/images/{}", "d/labels/{}")}
    for split in ("train", "val", "test"):
        make(tmp_path, {split: row}, None, tuple(
            f.format(split) for f in folders.get(layout, ("images/{}", "labels/{}"))))
    entries = {"folders": "images/{}", "list": "[images/{}]", "txt": "{}.txt", "path": "images/{}",
               "roboflow": "../{}/images", "beside": "{}"}[layout]
    for split in ("train", "val", "test") if layout == "txt" else ():
        (tmp_path / f"{split}.txt").write_text(f"./images/{split}/{split}.jpg\n\n")
    base = "path: d\n" if layout == "path" else "path: ../datasets/x\n"
    (tmp_path / "data.yaml").write_text(base + NAMES + "".join(
        f"{split}: {entries.format(split)}\n" for split in ("train", "val", "test")))
    for path in (tmp_path, tmp_path / "data.yaml"):
        samples = open_samples(path)
        assert samples.split.tolist() == ["train", "val", "test"] and len(samples.objects) == 3
        assert [os.path.basename(p) for p in samples.paths] == ["train.jpg", "val.jpg", "test.jpg"]


def test_folders_without_data_yaml_take_the_classes_of_classes_txt_or_number_them(tmp_path):
    make(tmp_path, {"train/a": "1 .5 .5 .5 .5", "val/b": "0 .5 .5 .5 .5"}, None)
    samples = open_samples(tmp_path)
    assert samples.classes == ("0", "1") and samples.split.tolist() == ["train", "val"]
    assert any("classes have no names" in note for note in samples.notes)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert open_samples(tmp_path).classes == ("cat", "dog")


def test_images_without_labels_and_labels_without_images_are_counted(tmp_path):
    make(tmp_path, {"a": "0 .5 .5 .5 .5\n0 .5 .5 .5 .5\n0 .5 .5 .4 .5\n", "b": None})
    (tmp_path / "labels" / "z.txt").write_text("9 9 9")
    samples = open_samples(tmp_path)
    notes = " ".join(samples.notes)
    assert len(samples) == 2 and len(samples.objects) == 2 and "1 repeated line left out" in notes
    assert "1 image without a label file, taken as without objects: images/b.jpg" in notes
    assert "1 label file without an image not used: labels/z.txt" in notes


def test_a_folder_of_masks_and_class_folders_are_not_yolo(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        Image.new("L", (9, 9)).save(tmp_path / name / "a.png")
    assert not Yolo.recognises(str(tmp_path))
    (tmp_path / "config.yaml").write_text("lr: 1\n")
    assert not Yolo.recognises(str(tmp_path)) and not Yolo.recognises(str(tmp_path / "config.yaml"))


LINES = {
    "four columns": ("0 .5 .5 .5", "labels/a.txt:2", "4 columns"),
    "six columns": ("0 .5 .5 .5 .5 .9", "6 columns", "confidence"),
    "eight columns": ("0 .1 .1 .2 .2 .3 .3 .4", "8 columns"),
    "one column": ("0", "1 columns"),
    "text": ("cat .5 .5 .5 .5", "'cat .5 .5 .5 .5' is not numbers"),
    "nan": ("0 nan .5 .5 .5", "is not numbers"),
    "infinity": ("0 1e999 1e999 1e999 .5", "no number"),
    "class infinite": ("1e999 .5 .5 .5 .5", "class inf"),
    "comma": ("0 0,5 0,5 0,5 0,5", "a point and no comma"),
    "underscore": ("0 0_5 .5 .5 .5", "is not numbers"),
    "two points": ("0 .5.5 .5 .5 .5", "is not numbers"),
    "pixels": ("0 320 240 100 50", "labels/a.txt:2", "over 1", "Looks like pixels"),
    "pixel polygon": ("0 10 10 20 10 20 20", "Looks like pixels"),
    "just over": ("0 1.02 .5 .5 .5", "1.02 is over 1"),
    "negative": ("0 -0.5 .5 .5 .5", "-0.5 is under 0"),
    "negative size": ("0 .5 .5 -0.001 .5", "under 0"),
    "class too large": ("7 .5 .5 .5 .5", "class 7 of 3", "numbered from 0 to 2"),
    "class negative": ("-1 .5 .5 .5 .5", "class -1"),
    "class fractional": ("0.5 .5 .5 .5 .5", "class 0.5"),
    "class huge": ("1e300 .5 .5 .5 .5", "class 1e+300"),
    "zero byte": (b"0 .5\0 .5 .5 .5", "is not numbers"),
    "utf-16": ("0 .5 .5 .5 .5".encode("utf-16"), "is not numbers"),
    "bad utf-8": (b"0 .5 .5 .5 \xff", "is not numbers"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_cannot_be_used_is_refused_with_file_and_number(tmp_path, name):
    text, *words = LINES[name]
    text = text if isinstance(text, bytes) else text.encode()
    refused(make(tmp_path, {"a": b"0 .5 .5 .5 .5\n" + text + b"\n", "b": "0 .5 .5 .5 .5\n"}), "a.txt:2", *words)


def test_labels_that_count_classes_from_one_are_said_to(tmp_path):
    make(tmp_path, {"a": "1 .5 .5 .5 .5\n2 .5 .5 .5 .5\n3 .5 .5 .5 .5"})
    refused(tmp_path, "a.txt:3: class 3 of 3", "look 1-based")


def test_all_bad_lines_are_counted_and_ten_are_listed(tmp_path):
    refused(make(tmp_path, {f"{i:02}": "0 2 2 2 2\n" * 3 + "x\n" for i in range(10)}), "40 lines", "and 30 more")


def test_keypoints_of_another_number_or_visibility_are_refused(tmp_path):
    yaml = "train: images\nnames: [cat]\nkpt_shape: [1, 3]\n"
    refused(make(tmp_path / "1", {"a": "0 .5 .5 .5 .5 .5 .5"}, yaml), "7 columns, with kpt_shape 8 are needed")
    refused(make(tmp_path / "2", {"a": "0 .5 .5 .5 .5 .5 .5 3"}, yaml), "visibility")
    refused(make(tmp_path / "3", {"a": "0 .5 .5 .5 .5 50 .5 2"}, yaml), "50 is over 1")


YAMLS = {
    "no names": ("train: images\n", "names is missing"),
    "gaps": ("train: images\nnames: {0: a, 2: b}\n", "from 0 without gaps: 1 missing"),
    "words as numbers": ("train: images\nnames: {a: 0}\n", "from 0 without gaps"),
    "nc": ("train: images\nnc: 3\nnames: [a, b]\n", "nc=3", "names has 2 classes"),
    "twice": ("train: images\nnames: [a, b, a]\n", "1 name given to several classes: 'a'"),
    "yes": ("train: images\nnames: [yes, b]\n", "no name: True"),
    "names is text": ("train: images\nnames: cat\n", "neither a list"),
    "no train": ("nc: 1\nnames: [a]\n", "neither train nor val"),
    "not there": ("train: image\nnames: [a]\n", "train='image'", "looked for", "{root}/image"),
    "upwards": ("train: ../out/images\nnames: [a]\n", "looked for", "{parent}/out/images"),
    "absolute": ("train: /etc\nnames: [a]\n", "holds no images: looked for /etc"),
    "address": ("train: https://example.org/x\nnames: [a]\n", "is an address"),
    "number": ("train: 7\nnames: [a]\n", "train=7", "neither a folder"),
    "not yaml": ("train: [images\nnames: [a]\n", "data.yaml:2", "is not YAML"),
    "tab": ("train: images\nnames:\n\t- a\n", "data.yaml:3", "is not YAML"),
    "object": ("train: !!python/object/apply:os.system [true]\nnames: [a]\n", "data.yaml:1", "is not YAML"),
    "list": ("- train\n- names: [a]\n", "holds no keys"),
    "deep": ("train: " + "[" * 5000 + "\nnames: [a]\n", "RecursionError"),
    "bad date": ("train: 2001-99-99\nnames: [a]\n", "ValueError"),
    "kpt_shape": ("train: images\nnames: [a]\nkpt_shape: [17, 4]\n", "kpt_shape=[17, 4]", "2 or 3"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_data_yaml_that_cannot_be_used_is_refused_by_its_key(tmp_path, name):
    text, *words = YAMLS[name]
    make(tmp_path / "out", {"b": "0 .5 .5 .5 .5"}, None)
    root = make(tmp_path / "in", {"a": "0 .5 .5 .5 .5"}, text)
    refused(root / "data.yaml", *(w.format(root=root, parent=tmp_path) for w in words))


def test_an_image_in_two_splits_and_a_list_that_leads_out_are_refused(tmp_path):
    row = "0 .5 .5 .5 .5"
    refused(make(tmp_path / "1", {"a": row, "b": row}, "train: images\nval: val.txt\n" + NAMES), "val='val.txt'")
    (tmp_path / "1" / "val.txt").write_text("images/a.jpg\n")
    refused(tmp_path / "1", "two splits", "images/a.jpg (train and val)")
    (tmp_path / "1" / "val.txt").write_text("images/a.jpg\n/etc/passwd\n../x.jpg\nimages/c.jpg\ndata.yaml\n")
    refused(tmp_path / "1", "4 paths", "line 2: /etc/passwd leads out", "line 3: ../x.jpg leads out",
            "line 4: images/c.jpg is not there", "line 5: data.yaml is no image")


def test_images_in_the_wrong_place_name_the_label_file_that_was_looked_for(tmp_path):
    make(tmp_path, {"a": "0 .5 .5 .5 .5"})
    (tmp_path / "labels").rename(tmp_path / "label")
    refused(tmp_path, "has a label file", f"{tmp_path}/images/a.txt")


def test_links_out_pipes_and_oversized_files_are_not_read(tmp_path):
    make(tmp_path / "out", {"b": "0 .5 .5 .5 .5"})
    root = make(tmp_path / "in", {"a": "0 .5 .5 .5 .5"})
    os.symlink(tmp_path / "out" / "labels" / "b.txt", root / "labels" / "b.txt")
    refused(root, "b.txt leads out of the folder")
    os.unlink(root / "labels" / "b.txt")
    os.symlink("b.txt", root / "labels" / "b.txt")
    refused(root, "leads back to itself")
    os.unlink(root / "labels" / "b.txt")
    os.mkfifo(root / "labels" / "c.txt")
    assert len(open_samples(root)) == 1
    with open(root / "labels" / "a.txt", "r+b") as file:
        file.truncate(20 << 20)
    refused(root, "a.txt", "larger than the limit of 16 MiB")


VALID = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.5 0.3 0.4 0.9\n2 .5 .5 .5 .5\n"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_bytes_only_user_errors_are_raised(tmp_path_factory, data):
    root = Path(tmp_path_factory.getbasetemp()) / "yolo-fuzz"
    yaml = b"train: images\nval: images\nnames: [cat, dog, bird]\nnc: 3\n"
    if not root.exists():
        make(root, {"a": VALID, "b": VALID})
    target, content = data.draw(st.sampled_from([("labels/a.txt", VALID), ("data.yaml", yaml)]))
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at:at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9) | st.sampled_from(
            [b"e", b"-", b"1e999", b"nan", b"\n", b" ", b"[", b"&a", b"*a", b"!!int ''", b"<<: ", b"\r"]))
    (root / "labels/a.txt").write_bytes(VALID)
    (root / "data.yaml").write_bytes(yaml)
    (root / target).write_bytes(content)
    try:
        assert len(open_samples(root, "yolo")) == 2
    except UserError as error:
        assert error.where
