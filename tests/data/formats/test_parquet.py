"""Parquet tables of images: equal to what `datasets` and pyarrow read; lazy; damage and foreign types are named."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.formats.refusals import read_or_refused, refused
from tests.data.formats.test_shards import image
from tests.image_zoo import tree_state
from visus.core.errors import ImageError
from visus.data import open_samples
from visus.data.formats import parquet as module

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, columns, *, features=None, groups=4, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=groups, **options)
    return path


def structs(count, first=0):
    return [{"bytes": image(first + i), "path": f"{i}.png"} for i in range(count)]


LABEL = {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def reds(samples) -> list[int]:
    return [int(samples.read(i)[0, 0, 0]) for i in range(len(samples))]


def test_a_hugging_face_table_gives_images_class_names_and_splits_of_the_file_names(tmp_path):
    write(tmp_path / "data/train-00000-of-00002.parquet", {"image": structs(9), "label": [0, 1, 2] * 3}, features=LABEL)
    write(tmp_path / "data/train-00001-of-00002.parquet", {"image": structs(3, 9), "label": [1, 1, 2]}, features=LABEL)
    write(tmp_path / "data/test-00000-of-00001.parquet", {"image": structs(2, 12), "label": [2, 0]}, features=LABEL)
    (tmp_path / "README.md").write_text("card")
    before = tree_state(tmp_path)
    samples = open_samples(tmp_path)
    assert samples.format == "parquet" and samples.classes == ("cat", "dog", "owl")
    assert samples.targets.tolist() == [2, 0, *[0, 1, 2] * 3, 1, 1, 2]
    assert samples.split.tolist() == ["test"] * 2 + ["train"] * 12
    assert reds(samples) == [12, 13, *range(12)]
    assert samples.source(11) == "data/train-00001-of-00002.parquet[0]"
    assert tree_state(tmp_path) == before


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_datasets_writes_equals_what_datasets_reads(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"image": [Image.new("RGB", (6, 5), (i, 9, 0)) for i in range(13)],
                                       "label": [i % 2 for i in range(13)]}, features=features)
    made.to_parquet(str(tmp_path / "x.parquet"), batch_size=5)
    samples = open_samples(tmp_path / "x.parquet")
    assert samples.classes == ("a", "b")
    for i, row in enumerate(made):
        np.testing.assert_array_equal(samples.read(i), np.asarray(row["image"]))
        assert samples.targets[i] == row["label"]


@pytest.mark.parametrize("labels, classes, targets", [
    (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]), ([7, 3, 7], ("3", "7"), [1, 0, 1]),
    ([True, False, True], ("0", "1"), [1, 0, 1]),
    (pa.array(["dog", "cat", "dog"]).dictionary_encode(), ("cat", "dog"), [1, 0, 1]),
    (pa.array([2, 0, 2], pa.uint64()), ("0", "2"), [1, 0, 1]),
    ([["a", "b"], ["b"], []], ("a", "b"), [[1, 1], [0, 1], [0, 0]]), ([[4], [9, 4], [9]], ("4", "9"), [[1, 0], [1, 1],
                                                                                                    [0, 1]])])
def test_labels_of_every_type(tmp_path, labels, classes, targets):
    samples = open_samples(write(tmp_path / "a.parquet", {"img": [image(i) for i in range(3)], "class": labels}))
    assert samples.classes == classes and samples.targets.tolist() == targets and reds(samples) == [0, 1, 2]


def test_columns_can_be_named_and_further_ones_kept(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": [image(50)] * 4, "other": [image(i) for i in range(4)],
                                          "label": [0, 1, 0, 1], "kind": ["x", "y", "y", "x"], "age": [3, 4, None, 5],
                                          "split": ["train", "valid", "test", ""], "patient": ["p", "q", "p", "q"]})
    samples = open_samples(path, image_column="other", label_column="kind", kept_columns=("age",))
    assert samples.classes == ("x", "y") and reds(samples) == [0, 1, 2, 3]
    assert samples.columns["age"].tolist() == ["3", "4", "", "5"]
    assert samples.split.tolist() == ["train", "val", "test", ""] and samples.groups.tolist() == ["p", "q", "p", "q"]
    refused(path, "no column 'kinds'", "'kind'", label_column="kinds")
    refused(path, "holds no images", image_column="age")
    refused(path, "no column 'agee'", kept_columns=("agee",))


def test_a_column_of_paths_reads_the_files_beside_the_table(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / f"in/{i}.png").write_bytes(image(i))
    path = write(tmp_path / "a.parquet", {"path": [f"in/{i}.png" for i in range(3)], "label": ["a", "b", "a"]})
    assert reds(open_samples(path)) == [0, 1, 2]
    (tmp_path / "out").symlink_to("/etc")
    write(path, {"path": ["/etc/passwd", "../x.png", "http://a/b.png", "in/9.png", "out/passwd", None, "in/1.png"],
                 "label": [1, 2, 3, 4, 5, 6, 7]})
    refused(path, "6 rows without an image file", "a.parquet[0]: '/etc/passwd' leads out",
            "a.parquet[3]: 'in/9.png' is not there",
            "a.parquet[4]: 'out/passwd' is a link out", "a.parquet[5]: no path")


def test_unlabelled_rows_of_a_hidden_test_set_are_left_out_and_said(tmp_path):
    write(tmp_path / "train.parquet", {"image": structs(3), "label": [0, 1, 2]}, features=LABEL)
    write(tmp_path / "test.parquet", {"image": structs(2), "label": [-1, -1]}, features=LABEL)
    samples = open_samples(tmp_path)
    assert len(samples) == 3 and any("2 rows left out" in note for note in samples.notes) and reds(samples) == [0, 1, 2]


def test_images_are_read_by_row_group_and_few_are_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"image": structs(40), "label": [0, 1] * 20}, groups=5)
    calls = []
    original = module._row_group
    monkeypatch.setattr(module, "_row_group", lambda *a: calls.append(a[2]) or original(*a))
    samples = open_samples(path)
    assert not calls
    assert reds(samples) == list(range(40)) and calls == list(range(8))
    assert len(module._groups._items) <= 3
    some = pickle.loads(pickle.dumps(samples.subset(np.array([39, 0, 17]))))
    with ThreadPoolExecutor(4) as pool:
        assert [int(p[0, 0, 0]) for p in pool.map(some.read, range(3))] == [39, 0, 17]


def read_red(job):
    samples, i = job
    return int(samples.read(i)[0, 0, 0])


def test_workers_read_too(tmp_path):
    samples = open_samples(write(tmp_path / "a.parquet", {"image": structs(8), "label": [0, 1] * 4}))
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(read_red, [(samples, i) for i in range(8)]) == list(range(8))


def test_a_changed_file_and_an_empty_cell_are_named_at_use(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": [image(0), None, image(2)], "label": [0, 1, 0]})
    samples = open_samples(path)
    with pytest.raises(ImageError, match=r"a.parquet: row 1: holds no image"):
        samples.read(1)
    write(path, {"image": [image(3)] * 2, "label": [0, 1]})
    module._groups._fresh()
    with pytest.raises(ImageError, match="changed since it was indexed"):
        samples.read(2)


@pytest.mark.parametrize("columns, words", [
    ({"image": structs(3), "label": [0, None, 1]}, ("1 row without a label: a.parquet[1]",)),
    ({"image": structs(3), "label": [0.5, 1.0, 2.0]}, ("the labels are double",)),
    ({"image": structs(3), "note": ["a", "b", "c"]}, ("no column of labels among 'image', 'note'", )),
    ({"thing": [1, 2, 3], "label": [0, 1, 2]}, ("no column of images", "--image-column")),
    ({"image": [1, 2, 3], "label": [0, 1, 2]}, ("no column of images",)),
    ({"image": structs(3), "label": [0, -4, 1]}, ("1 row with a label that is no class number: a.parquet[1]",)),
    ({"image": structs(3), "label": [[0], None, [1]]}, ("1 row without a label",)),
    ({"image": [{"bytes": None, "path": "x.png"}] * 3, "label": [0, 1, 2]}, ("no column of images",)),
    ({"image": pa.array([{"bytes": None, "path": "x"}] * 3, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
      "label": [0, 1, 2]}, ("holds paths only",)),
    ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, ("holds no rows",)),
    ({"image": structs(2), "label": [0, 1], "split": ["train", "tset"]}, ("split='tset' is unknown",)),
])
def test_a_table_that_does_not_fit_is_named_with_its_row(tmp_path, columns, words):
    refused(write(tmp_path / "a.parquet", columns), "a.parquet", *words)


def test_labels_outside_of_the_class_names_are_counted_and_ten_are_listed(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": structs(20), "label": [0, 5] * 10 }, features=LABEL)
    refused(path, "10 rows with a label outside of 0 to 2: a.parquet[1], a.parquet[3]")


def test_files_of_different_tables_in_one_folder_are_refused(tmp_path):
    write(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 1]}, features=LABEL)
    write(tmp_path / "b.parquet", {"image": structs(2), "label": [0, 1]})
    refused(tmp_path, "b.parquet", "other columns or class names")


def test_metadata_that_are_nonsense_are_passed_over(tmp_path):
    for features in ({"label": {"names": "cat", "_type": "ClassLabel"}}, {"label": {"names": ["a", "a"],
                     "_type": "ClassLabel"}}, {"label": 3}):
        write(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 1]}, features=features)
        assert open_samples(tmp_path).classes == ("0", "1")


def test_row_groups_that_are_too_large_are_said_or_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"image": structs(8), "label": [0, 1] * 4}, groups=8)
    monkeypatch.setattr(module, "_LARGE_GROUP_BYTES", 100)
    assert any("images out of order are slow" in note for note in open_samples(path).notes)
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 200)
    refused(path, "row_group_size=100")


def test_without_pyarrow_the_extra_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 1]})
    code = ("import sys; sys.modules['pyarrow'] = None\n"
            "from visus.core.errors import MissingExtra\nfrom visus.data import open_samples\n"
            f"try: open_samples({str(path)!r})\nexcept MissingExtra as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'visus[parquet]'" in done.stdout


def test_class_folders_with_a_table_beside_them_stay_class_folders(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(image(1))
    write(tmp_path / "metadata.parquet", {"image": structs(2), "label": [0, 1]})
    assert open_samples(tmp_path).format == "folder"


def test_what_is_no_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": structs(4), "label": [0, 1] * 2})
    data = path.read_bytes()
    for bad in (b"", b"PAR1", b"<html>" * 50, data[:len(data) // 2], data[:-1], b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(bad)
        refused(path, "a.parquet")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_files_end_in_samples_or_in_an_error_of_ours(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("p") / "a.parquet", {"image": structs(4), "label": ["a", "b"] * 2})
    base = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(base)
    read_or_refused(path)
