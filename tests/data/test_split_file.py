"""Splits from a file: published ones, and those that a run keeps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.test_split import samples_of
from visus.core.errors import DataError
from visus.data.split import split_samples
from visus.data.split_file import split_text, with_split_file

NAMES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")


def cats_and_dogs(**about):
    return samples_of([0, 0, 1, 1], paths=NAMES, **about)


def saved(tmp_path, text: str):
    path = tmp_path / "published.csv"
    path.write_text(text)
    return path


def test_a_published_split_takes_the_place_of_the_datas_own(tmp_path):
    path = saved(tmp_path, "path,split\ncat/1.png,training\ncat/2.png,test\n./dog/1.png,train\ndog/2.png,valid\n")
    samples = with_split_file(cats_and_dogs(split=["test", "test", "", "train"]), path)
    assert samples.split.tolist() == ["train", "test", "train", "val"]
    assert "published.csv" in samples.notes[-1] and "2 train, 1 val, 1 test" in samples.notes[-1]


def test_what_a_list_of_test_images_does_not_name_is_for_training(tmp_path):
    samples = with_split_file(cats_and_dogs(), saved(tmp_path, "file,subset\ndog/2.png,test\n"))
    assert samples.split.tolist() == ["train", "train", "train", "test"]


def test_images_that_a_whole_split_does_not_name_are_left_out_and_told(tmp_path):
    samples = with_split_file(cats_and_dogs(), saved(tmp_path, "path,split\ncat/1.png,train\ndog/2.png,train\n"))
    assert samples.paths == ("cat/1.png", "dog/2.png")
    assert "2 images that it does not name left out" in samples.notes[-1]


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_a_kept_split_is_read_back_as_it_was(tmp_path, kind):
    targets = np.arange(40) % 2
    samples = samples_of(targets, paths=[f"{t}/{i},a.png" for i, t in enumerate(targets)]) if kind == "files" else \
        samples_of(targets)
    splits = split_samples(samples, seed=3)
    (tmp_path / "splits.csv").write_text(split_text(samples, splits))
    again = split_samples(with_split_file(samples, tmp_path), seed=9)  # the folder of a run
    assert all(np.array_equal(again[name], splits[name]) for name in splits)


@pytest.mark.parametrize("text, words", [
    ("path,split\ncat/1.png,dev\n", r":2.*'dev' is none of train"),
    ("path,split\ncat/1.png,train\ncat/1.png,test\n", ":3.*named in line 2"),
    ("path,split\ncat/1.png,train\nbird/1.png,test\n", r"1 row of 2 name no image of the data: bird/1.png \(line 3\)"),
    ("name,split\ncat/1.png,train\n", "no column 'path'"),
    ("path\ncat/1.png\n", "no column 'split'"),
    ("path,split\ncat/1.png\n", ":2.*too few"),
    ("path,split\n", "names no image"),
    ('path,split\n"cat/1.png,train\n', "is no CSV"),
])
def test_what_is_wrong_in_a_split_file_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        with_split_file(cats_and_dogs(), saved(tmp_path, text))


def test_a_split_file_that_is_not_there_or_no_text_is_a_plain_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        with_split_file(cats_and_dogs(), tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"path,split\n\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        with_split_file(cats_and_dogs(), tmp_path / "binary.csv")
