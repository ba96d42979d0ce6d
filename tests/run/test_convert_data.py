from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.image_zoo import tree_state
from visus.cli.main import main
from visus.core.errors import DataError, UserError
from visus.data import open_samples
from visus.run.convert_data import convert


@pytest.fixture
def data(tmp_path) -> Path:
    root = tmp_path / "data"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / "images" / split / f"{name}.jpg")
        rows = ["0 0.5 0.5 0.5 0.5\n", "1 0.25 0.5 0.5 1\n"]
        (root / "labels" / split / f"{name}.txt").write_text("".join(rows if name < "c" else rows[:1]))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def test_the_result_states_what_was_read_written_and_not_held(data, tmp_path):
    before, calls = tree_state(data), []
    result = convert(data, tmp_path / "out", "voc", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)] and tree_state(data) == before
    facts = result.facts
    assert (facts["format"], facts["to"], facts["images"], facts["objects"]) == ("yolo", "voc", 3, 5)
    assert facts["splits"] == {"train": 2, "val": 1} and result.losses == ()
    back = open_samples(tmp_path / "out")
    assert back.format == "voc" and back.objects.boxes[0].tolist() == [5, 2.5, 15, 7.5]
    assert convert(tmp_path / "out", tmp_path / "shards", "shards").losses


def test_linked_images_are_the_same_file_and_copied_ones_are_not(data, tmp_path):
    convert(data, tmp_path / "linked", "coco", images="link")
    convert(data, tmp_path / "copied", "coco")
    source = os.stat(data / "images" / "train" / "a.jpg")
    assert os.path.samestat(source, os.stat(tmp_path / "linked" / "train" / "a.jpg"))
    assert not os.path.samestat(source, os.stat(tmp_path / "copied" / "train" / "a.jpg"))


@pytest.mark.parametrize(("out", "words"), [("data/out", "lies within the data"), ("data", "exists already"),
                                            ("data/data.yaml", "exists already"), ("there", "exists already")])
def test_the_data_folder_and_folders_that_exist_are_refused_before_reading(data, tmp_path, out, words):
    (tmp_path / "there").mkdir()
    before = tree_state(tmp_path)
    for path in (data, data / "data.yaml"):
        with pytest.raises(DataError, match=words):
            convert(path, tmp_path / out, "coco")
    assert tree_state(tmp_path) == before


def test_unknown_formats_and_formats_that_cannot_hold_the_data_leave_nothing_behind(data, tmp_path):
    with pytest.raises(UserError, match="no data writer 'yolov8'.*'yolo'"):
        convert(data, tmp_path / "out", "yolov8")
    with pytest.raises(DataError, match="with no class or with several"):
        convert(data, tmp_path / "out", "folder")
    with pytest.raises(DataError, match="images='move'"):
        convert(data, tmp_path / "out", "coco", images="move")  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_a_file_that_vanishes_while_writing_leaves_nothing_behind(data, tmp_path):
    for to in ("coco", "yolo", "voc", "shards"):
        copy = tmp_path / f"copy-{to}"
        convert(data, copy, "yolo")

        def vanish(done: int, total: int, copy: Path = copy) -> None:
            for path in [path for path in copy.rglob("*.jpg") if not path.name.startswith("a")]:
                path.unlink()

        with pytest.raises(DataError, match="is not there any more"):
            convert(copy, tmp_path / "out", to, progress=vanish)
        assert not (tmp_path / "out").exists() and not [n for n in os.listdir(tmp_path) if n.startswith(".out")]


def test_the_verb_writes_says_and_refuses(data, tmp_path, capsys):
    assert main(["data", "convert", str(data), "--to", "voc", "--out", str(tmp_path / "voc")]) == 0
    said = capsys.readouterr().out
    assert "3 images, 2 classes, 5 boxes" in said and "voc, 3 images (train 2, val 1)" in said
    shards = ["--to", "shards", "--out", str(tmp_path / "s"), "--json"]
    assert main(["data", "convert", str(tmp_path / "voc"), *shards]) == 0
    stated = json.loads(capsys.readouterr().out)
    assert stated["facts"]["format"] == "voc" and "KEY.json" in stated["losses"][0]
    assert main(["data", "convert", str(data), "--to", "voc", "--out", str(tmp_path / "voc")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "convert", str(data), "--to", "vok", "--out", str(tmp_path / "v")]) == 2
    assert "Did you mean 'voc'?" in capsys.readouterr().err


def test_built_in_digits_become_class_folders(tmp_path):
    convert("digits", tmp_path / "out", "folder")
    first, back = open_samples("digits"), open_samples(tmp_path / "out")
    assert back.classes == first.classes and back.class_counts().tolist() == first.class_counts().tolist()
    i = int(np.flatnonzero(first.targets == 7)[0])
    j = next(j for j in range(len(back)) if back.source(j).endswith(f"{i:06}.png"))
    np.testing.assert_array_equal(first.read(i), back.read(j))
