from __future__ import annotations

import gzip
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.data.formats.refusals import refused
from tests.image_zoo import tree_state
from visus.core.errors import UserError
from visus.data import open_samples
from visus.data.formats import data_formats
from visus.data.formats.idx import read_idx
from visus.data.samples import natural_order


def make_images(folder: Path, count: int = 3, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (6, 5), (i, 0, 0)).save(folder / f"{i}.png")


# -- recognition -------------------------------------------------------------------------------------------------


def test_the_registered_formats_are_these():
    assert sorted(data_formats.names()) == [
        "builtin", "cifar", "coco", "folder", "hugging_face", "idx", "mask_folder", "npz", "parquet", "shards", "table",
        "voc", "voc_segmentation", "yolo"]


def test_no_such_path_names_the_nearest_built_in():
    refused("digit", "no such file or folder", "'digits'")


def test_an_archive_a_single_image_and_an_unknown_format_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    refused(tmp_path / "data.zip", "Unpack")
    make_images(tmp_path)
    refused(tmp_path / "0.png", "visus predict")
    with pytest.raises(UserError, match="folder"):
        open_samples(tmp_path, "folders")


def test_digits_equal_scikit_learns_copy():
    samples = open_samples("digits")
    reference = load_digits()
    np.testing.assert_array_equal(samples.targets, reference.target)
    np.testing.assert_array_equal(samples.images[..., 0], np.rint(reference.images * 255 / 16))
    assert samples.classes == tuple("0123456789") and samples.recognised.startswith("the built-in data set digits")
    assert "CC BY 4.0" in samples.notes[0]


# -- folders -----------------------------------------------------------------------------------------------------


def test_class_folders_are_classes_in_natural_order_with_nested_images(tmp_path):
    for name in ("item10", "item2", "Item1"):
        make_images(tmp_path / name)
    make_images(tmp_path / "item2" / "deeper" / "still", 2, start=7)
    samples = open_samples(tmp_path)
    assert samples.classes == ("Item1", "item2", "item10")
    assert samples.class_counts().tolist() == [3, 5, 3]
    assert samples.source(6) == "item2/deeper/still/7.png"
    np.testing.assert_array_equal(samples.read(6)[0, 0], (7, 0, 0))


def test_natural_order_counts_as_people_do():
    assert natural_order(["b", "A10", "a9", "10", "9", ""]) == ["", "9", "10", "a9", "A10", "b"]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "valid")])
def test_split_folders_are_kept_as_splits(tmp_path, names):
    for name in names:
        for label in ("cat", "dog"):
            make_images(tmp_path / name / label, 2)
    samples = open_samples(tmp_path)
    assert set(samples.split) == {"train", "val", "test"} if len(names) == 3 else {"train", "val"}
    assert (samples.split == "train").sum() == 4 and samples.classes == ("cat", "dog")


def test_a_class_that_is_called_train_is_a_class(tmp_path):
    for name in ("bus", "car", "train"):
        make_images(tmp_path / name)
    assert open_samples(tmp_path).classes == ("bus", "car", "train")


def test_test_images_without_class_folders_are_said_not_to_be_used(tmp_path):
    for label in ("cat", "dog"):
        make_images(tmp_path / "train" / label)
    make_images(tmp_path / "test", 4)
    samples = open_samples(tmp_path)
    assert len(samples) == 6 and any("4 images without class folders" in note for note in samples.notes)


def test_different_class_folders_in_train_and_val_are_shown_as_a_difference(tmp_path):
    for name in ("train/cat", "train/dog", "val/cat", "val/dgo"):
        make_images(tmp_path / name)
    refused(tmp_path, "val/", "- dog", "+ dgo")


def test_other_files_are_ignored_and_counted(tmp_path):
    for label in ("cat", "dog"):
        make_images(tmp_path / label)
    for name in ("drawing.svg", "Thumbs.db", ".DS_Store", "._0.png", "list.txt"):
        (tmp_path / "cat" / name).write_text("x")
    make_images(tmp_path / "__MACOSX" / "cat")
    make_images(tmp_path / "cat" / "folder.jpg", 1, start=9)
    make_images(tmp_path, 2)
    os.rename(tmp_path / "dog" / "0.png", tmp_path / "dog" / "0")
    os.rename(tmp_path / "dog" / "1.png", tmp_path / "dog" / "1.JPG")
    samples = open_samples(tmp_path)
    assert len(samples) == 7
    notes = "\n".join(samples.notes)
    for text in ("ignored: 6 files", ".svg 1", "Thumbs.db 1", "hidden 2", "__MACOSX 1", "folder.jpg",
                 "2 images beside the class folders"):
        assert text in notes


def test_links_out_of_the_folder_and_loops_are_refused_and_inner_links_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for label in ("cat", "dog"):
        make_images(root / label)
    make_images(outside)
    os.symlink(root / "dog" / "0.png", root / "cat" / "same.png")
    assert len(open_samples(root)) == 7
    os.symlink(root, root / "cat" / "up")
    refused(root, "cat/up", "leads back")
    os.remove(root / "cat" / "up")
    os.symlink(outside, root / "cat" / "away")
    refused(root, "cat/away", "leads out")


def test_a_dangling_link_and_a_fifo_are_samples_that_the_scan_names(tmp_path):
    from visus.data import scan_images

    for label in ("cat", "dog"):
        make_images(tmp_path / label)
    os.symlink("nowhere.png", tmp_path / "cat" / "x.png")
    os.symlink("y.png", tmp_path / "cat" / "y.png")
    os.mkfifo(tmp_path / "dog" / "z.png")
    bad = scan_images(open_samples(tmp_path))
    assert [(b.source, b.problem.split(":")[0]) for b in bad] == [
        ("cat/x.png", "is a dangling link"), ("cat/y.png", "is a link that leads back to itself"),
        ("dog/z.png", "is a FIFO (named pipe), not an image file")]


@pytest.mark.parametrize("folders, words", [
    ([], ["no class folders and no images"]),
    (["cat"], ["one class only ('cat')"]),
    (["cat", "-dog"], ["no images in class folder 'dog'"]),
    (["-cat", "-dog"], ["holds no images in 2 folders"]),
    (["."], ["3 images lie directly in it", "CSV"]),
    (["cat", "Cat"], ["differ in case only", "Cat and cat"]),
    (["train/a", "train/b", "val/a", "val/b", "validation/a"], ["two folders for one split"]),
    (["train/a", "train/b", "val/a", "val/b", "extra/a"], ["lie beside others (extra)"]),
    (["train/a", "-train/b"], ["no images in class folder 'b'"]),
])
def test_folders_that_cannot_be_learnt_from_are_refused_by_name(tmp_path, folders, words):
    for name in folders:
        if name.startswith("-"):
            (tmp_path / name[1:]).mkdir(parents=True)
        else:
            make_images(tmp_path / name)
    refused(tmp_path, *words)


def test_opening_never_changes_the_folder(tmp_path):
    for label in ("cat", "dog"):
        make_images(tmp_path / label)
    before = tree_state(tmp_path)
    samples = open_samples(tmp_path)
    samples.digest()
    samples.sizes()
    assert tree_state(tmp_path) == before


def test_twenty_thousand_files_are_listed_without_opening_one(tmp_path, monkeypatch):
    for label in range(20):
        folder = tmp_path / f"class{label}"
        folder.mkdir()
        for i in range(1000):
            os.close(os.open(folder / f"{i}.jpg", os.O_CREAT))
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k))
    assert len(open_samples(tmp_path)) == 20_000
    assert not opened


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    make_images(tmp_path / "images", 4)

    def write(text: str, name: str = "data.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name
    return write


ROWS = [("images/0.png", "cat"), ("images/1.png", "dog"), ("images/2.png", "cat"), ("images/3.png", "dog")]


@pytest.mark.parametrize("delimiter, newline, name, encoding", [
    (",", "\n", "a.csv", "utf-8"), (";", "\r\n", "a.csv", "utf-8-sig"), ("\t", "\n", "a.tsv", "utf-8"),
    ("\t", "\n", "a.csv", "utf-8"), ("|", "\n", "a.csv", "utf-8"), (",", "\r\n", "a.csv", "utf-16")])
@pytest.mark.parametrize("header", [("path", "label"), ("Filename", "CLASS"), ("image", "target")])
def test_tables_of_any_delimiter_and_encoding_read_the_same(table, delimiter, newline, name, encoding, header):
    text = newline.join(delimiter.join(f'"{cell}"' for cell in row) for row in [header, *ROWS]) + newline
    samples = open_samples(table(text, name, encoding))
    assert samples.classes == ("cat", "dog") and samples.targets.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(samples.read(3)[0, 0], (3, 0, 0))


def test_integer_labels_are_classes_in_number_order(table):
    samples = open_samples(table("file,category\n" + "\n".join(f"images/{i}.png,{v}" for i, v in
                                                              enumerate((10, 9, 2, 10)))))
    assert samples.classes == ("2", "9", "10") and samples.targets.tolist() == [2, 1, 0, 2]


def test_columns_can_be_named(table):
    samples = open_samples(table("where,what,label\nimages/0.png,=cmd,x\nimages/1.png,b,x\n"), image_column="where",
                           label_column="what")
    assert samples.classes == ("=cmd", "b") and "columns not used: label" in samples.notes


@pytest.mark.parametrize("cells", [("red|round", "round", "red | big", ""), ("red;round", "round", "red;big", "")])
def test_several_labels_in_a_cell_are_columns_of_zeros_and_ones(table, cells):
    samples = open_samples(table("path,tags\n" + "\n".join(f"images/{i}.png,{c}" for i, c in enumerate(cells))))
    assert samples.classes == ("big", "red", "round") and samples.targets.dtype == np.float32
    assert samples.targets.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert any("1 image without any label" in note for note in samples.notes)


def test_columns_of_zeros_and_ones_are_labels(table):
    samples = open_samples(table("path,red,round,patient\nimages/0.png,1,0,p1\nimages/1.png,0,1,p2\n"))
    assert samples.classes == ("red", "round") and samples.targets.tolist() == [[1, 0], [0, 1]]
    assert samples.groups.tolist() == ["p1", "p2"]


def test_split_column_and_repeated_rows(table):
    samples = open_samples(table("path,label,split\nimages/0.png,a,train\nimages/1.png,b,Validation\n"
                                 "images/2.png,a,\nimages/0.png,a,train\n"))
    assert samples.split.tolist() == ["train", "val", ""] and "1 repeated row left out" in samples.notes


@pytest.mark.parametrize("text, line, words", [
    ("path,label\nimages/0.png,a\nimages/9.png,b\n", 3, ["1 image file not found", "images/9.png (line 3)"]),
    ("path,label\nimages/0.png,a\nimages/1.png,\n", 3, ["no label in 1 row"]),
    ("path,label\nimages/0.png,a\nimages/1.png,b,c\n", 3, ["3 fields, but the header has 2"]),
    ("path,label,Label\nimages/0.png,a,b\n", 1, ["'label' is there twice"]),
    ("images/0.png,a\nimages/1.png,b\n", 1, ["has no header"]),
    ("path,colour\nimages/0.png,a\n", 1, ["no column of labels", "--label-column"]),
    ("picture,label\nimages/0.png,a\n", 1, ["no column of image paths"]),
    ("path\nimages/0.png\n", 1, ["one column only"]),
    ("path,label,split\nimages/0.png,a,held-out\n", 2, ["split='held-out'"]),
    ("path,label\nimages/0.png,a\nimages/0.png,b\n", 3, ["another label in line 2"]),
    ("path,label\nimages/0.png,Cat\nimages/1.png,cat\n", None, ["differ in case only"]),
    ("path,label\nhttp://x/y.png,a\n", 2, ["is an address"]),
    ("path,label\n,a\n", 2, ["no image path"]),
    ("path,label\n\"images/0.png,a\n", None, ["not a table"]),
    ("path,label\n", None, ["no rows"]),
    ("", None, ["is empty"]),
    ("path,label\nimages/0.png,a\0\n", None, ["zero byte"]),
    ("path,label\nimages/0.png,a\nimages/1.png,a\n", None, ["one class only"]),
])
def test_faulty_tables_are_refused_with_file_and_line(table, text, line, words):
    error = refused(table(text), *words)
    assert error.where.endswith("data.csv" if line is None else f"data.csv:{line}") or (
        line is None and "data.csv:" in error.where)


def test_a_table_that_is_not_utf8_names_the_line(table):
    error = refused(table("path,label\nimages/0.png,é\n", encoding="latin-1"), "not UTF-8")
    assert error.where.endswith(":2")


# -- .npz --------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("arrays, images, note", [
    ({"images": X, "labels": Y}, X, None),
    ({"X": X[..., 0], "y": Y.astype(np.uint8)[:, None]}, X[..., :1], None),
    ({"x": X[..., :1], "Y": Y.astype(np.float64)}, X[..., :1], "whole-number floats"),
    ({"images": X.transpose(0, 3, 1, 2), "labels": Y}, X, "[N, C, H, W]"),
    ({"images": X / 255, "labels": Y}, X, "scaled to 0..255"),
    ({"images": X, "labels": Y, "extra": Y}, X, "arrays not used: extra"),
])
def test_arrays_of_each_layout_are_read(tmp_path, arrays, images, note):
    np.savez(tmp_path / "d.npz", **arrays)
    samples = open_samples(tmp_path / "d.npz")
    np.testing.assert_array_equal(samples.images, images)
    assert samples.targets.tolist() == Y.tolist() and samples.source(4) == "d.npz[4]"
    assert note is None or any(note in n for n in samples.notes)


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_split_arrays_are_splits(tmp_path, names):
    arrays = {}
    for split, part in (("train", slice(0, 3)), ("test", slice(3, 6))):
        arrays |= {names[0].format(split): X[part], names[1].format(split): Y[part]}
    np.savez_compressed(tmp_path / "d.npz", **arrays, class_names=np.array(["a", "b", "c"]))
    samples = open_samples(tmp_path / "d.npz")
    assert samples.split.tolist() == ["train"] * 3 + ["test"] * 3 and samples.classes == ("a", "b", "c")
    np.testing.assert_array_equal(samples.images, X)


def test_labels_with_gaps_become_classes_named_by_number(tmp_path):
    np.savez(tmp_path / "d.npz", images=X, labels=Y * 10 - 5, groups=np.arange(6))
    samples = open_samples(tmp_path / "d.npz")
    assert samples.classes == ("-5", "5", "15") and samples.targets.tolist() == Y.tolist()
    assert samples.groups.tolist() == list(range(6))


def test_a_matrix_of_zeros_and_ones_is_several_labels(tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]] * 2)
    np.savez(tmp_path / "d.npz", images=X, labels=labels)
    samples = open_samples(tmp_path / "d.npz")
    assert samples.multi_label and samples.targets.tolist() == labels.tolist() and len(samples.classes) == 3


@pytest.mark.parametrize("arrays, words", [
    ({"images": X, "labels": np.array(list("abcabc"))}, ["labels are text", "class_names"]),
    ({"images": X, "labels": Y + 0.5}, ["labels are not integers: 0.5 at position (0,)"]),
    ({"images": X, "labels": np.array([0, 1, np.nan, 0, 1, 1])}, ["labels are not integers: nan at position (2,)"]),
    ({"images": X, "labels": Y[:5]}, ["6 images", "5 labels"]),
    ({"images": X.astype(np.int32), "labels": Y}, ["type int32", "uint8", ":images"]),
    ({"images": X * 2.0, "labels": Y}, ["floats outside of [0, 1]"]),
    ({"images": X[..., [0, 1]], "labels": Y}, ["shape (6, 5, 4, 2)"]),
    ({"images": X, "labels": np.arange(12).reshape(6, 2)}, ["other values than 0 and 1"]),
    ({"images": X, "labels": Y, "class_names": np.array(["a", "b"])}, ["labels from 0 to 2", "2 class names"]),
    ({"images": X, "labels": Y * 0}, ["one class only"]),
    ({"pictures": X, "labels": Y}, ["no matching images and labels", "pictures"]),
    ({"images": X, "labels": Y, "train_images": X, "train_labels": Y}, ["both images and train_images"]),
    ({"images": X[:0], "labels": Y[:0]}, ["no images"]),
])
def test_faulty_archives_are_refused_naming_the_array(tmp_path, arrays, words):
    np.savez(tmp_path / "d.npz", **arrays)
    refused(tmp_path / "d.npz", "d.npz", *words)


def test_pickles_bombs_and_lies_in_archives_are_refused_without_unpacking(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, images=np.array([object()]), labels=Y)
    refused(path, "Python objects (a pickle)", ":images")

    def header(shape: tuple[int, ...]) -> bytes:
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.encode()

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header((1 << 40, 9)) + bytes(100))
    refused(path, "its header claims")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("code.py", "print()")
    refused(path, "something else than NumPy arrays")
    path.write_bytes(b"PK\x03\x04 not a zip")
    refused(path, "not a whole .npz")
    np.savez(path, images=X, labels=Y)
    path.write_bytes(path.read_bytes()[:300])
    refused(path, "not a whole .npz")


# -- IDX ---------------------------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.astype(np.uint8).tobytes()


def make_idx(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    labels = np.array([1, 0, 1, 0], np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    (folder / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images[:2])))
    (folder / "t10k-labels.idx1-ubyte").write_bytes(idx_bytes(labels[:2]))
    return images, labels


def test_idx_files_plain_and_gzipped_are_train_and_test(tmp_path):
    images, labels = make_idx(tmp_path)
    samples = open_samples(tmp_path)
    np.testing.assert_array_equal(samples.images[..., 0], np.concatenate([images, images[:2]]))
    assert samples.targets.tolist() == [*labels, *labels[:2]] and samples.format == "idx"
    assert samples.split.tolist() == ["train"] * 4 + ["test"] * 2


@pytest.mark.parametrize("content, words", [
    (idx_bytes(np.zeros(24), (4, 3, 3)), "header claims (4, 3, 3)"),
    (idx_bytes(np.zeros(25), (4, 3, 2)), "there are more"),
    (idx_bytes(np.zeros(24), (1 << 31, 1 << 20, 2)), "header claims"),
    (b"\x00\x00\x0d\x03" + bytes(30), "not an IDX file of unsigned bytes"),
    (b"\x00\x00\x08\x03\x00", "ends inside its header"),
    (idx_bytes(np.zeros(18), (3, 3, 2)), "(3, 3, 2) images for (4,) labels"),
])
def test_idx_headers_that_lie_are_refused(tmp_path, content, words):
    make_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    refused(tmp_path, "train-images-idx3-ubyte", words)


def test_a_missing_half_and_a_cut_gzip_are_refused(tmp_path):
    make_idx(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:15])
    refused(tmp_path, "train-labels-idx1-ubyte.gz")
    path.unlink()
    refused(tmp_path, "has no train labels")


def test_fashion_mnist_of_the_distribution_has_its_published_counts():
    bases = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")  # XDG base directories
    folder = next((path for base in bases if (path := Path(base) / "datasets" / "fashion-mnist").is_dir()), None)
    if folder is None:
        pytest.skip("the package dataset-fashion-mnist is not installed")
    labels = read_idx(str(folder / "train-labels-idx1-ubyte.gz"))
    assert np.bincount(labels).tolist() == [6000] * 10


# -- samples -----------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_an_image_a_label_and_a_name_and_not_with_the_place(tmp_path):
    for label in ("cat", "dog"):
        make_images(tmp_path / "a" / label)
    first = open_samples(tmp_path / "a").digest()
    os.rename(tmp_path / "a", tmp_path / "b")
    assert open_samples(tmp_path / "b").digest() == first
    Image.new("RGB", (6, 5), (99, 0, 0)).save(tmp_path / "b" / "cat" / "0.png")
    changed = open_samples(tmp_path / "b").digest()
    assert changed != first
    os.rename(tmp_path / "b" / "cat" / "0.png", tmp_path / "b" / "dog" / "9.png")
    assert open_samples(tmp_path / "b").digest() not in (first, changed)


def test_relabelled_samples_keep_their_images_and_move_their_classes():
    samples = open_samples("digits")
    moved = samples.relabelled([9 - k for k in range(10)], tuple("9876543210"[::-1]))
    np.testing.assert_array_equal(moved.targets, 9 - samples.targets)


def test_sizes_come_from_headers_spread_over_the_set(tmp_path):
    for label, side in (("cat", 8), ("dog", 20)):
        (tmp_path / label).mkdir()
        for i in range(50):
            Image.new("L", (side, 10)).save(tmp_path / label / f"{i}.png")
    sizes, channels = open_samples(tmp_path).sizes(10)
    assert channels == 1 and sizes[:, 1].tolist() == [8] * 5 + [20] * 5
