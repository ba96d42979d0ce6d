"""CIFAR batches in the published layouts, generated."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.refusals import refused
from tests.image_zoo import tree_state
from visus.data import open_samples
from visus.data.formats.cifar.reader import CLASSES

RANDOM = np.random.Generator(np.random.PCG64(0))
IMAGES = RANDOM.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(24) % 10
FINE, COARSE = np.arange(24) * 4, np.arange(24) % 20


def planes(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 3072]: all of red, of green, of blue."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def dump(path: Path, value: object, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


def ten(folder: Path, protocol: int = 2) -> Path:
    for n in range(6):
        part = slice(4 * n, 4 * n + 4)
        dump(folder / (f"data_batch_{n + 1}" if n < 5 else "test_batch"),
             {b"batch_label": b"x", b"labels": LABELS[part].tolist(), b"data": planes(IMAGES[part]),
              b"filenames": [b"f.png"] * 4}, protocol)
    dump(folder / "batches.meta", {b"label_names": [c.encode() for c in CLASSES], b"num_vis": 3072}, protocol)
    return folder


def hundred(folder: Path) -> Path:
    for name, part in (("train", slice(0, 20)), ("test", slice(20, 24))):
        dump(folder / name, {b"fine_labels": FINE[part].tolist(), b"coarse_labels": COARSE[part].tolist(),
                             b"data": planes(IMAGES[part])})
    dump(folder / "meta", {b"fine_label_names": [f"fine{i}" for i in range(100)],
                           b"coarse_label_names": [f"coarse{i}" for i in range(20)]})
    return folder


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_python_version_gives_the_images_that_were_written(tmp_path, protocol):
    ten(tmp_path / "cifar-10-batches-py", protocol)
    before = tree_state(tmp_path)
    for path in (tmp_path / "cifar-10-batches-py", tmp_path):
        samples = open_samples(path)
        assert samples.format == "cifar" and samples.classes == CLASSES
        np.testing.assert_array_equal(samples.images, IMAGES)
        np.testing.assert_array_equal(samples.targets, LABELS)
        assert samples.split.tolist() == ["train"] * 20 + ["test"] * 4 and not samples.notes
    assert tree_state(tmp_path) == before


def test_the_binary_version_equals_the_python_version(tmp_path):
    for n in range(6):
        part = slice(4 * n, 4 * n + 4)
        records = np.concatenate([LABELS[part, None].astype(np.uint8), planes(IMAGES[part])], 1)
        (tmp_path / (f"data_batch_{n + 1}.bin" if n < 5 else "test_batch.bin")).write_bytes(records.tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    binary, python = open_samples(tmp_path), open_samples(ten(tmp_path / "python"))
    np.testing.assert_array_equal(binary.images, python.images)
    np.testing.assert_array_equal(binary.targets, python.targets)
    assert binary.classes == python.classes and (binary.split == python.split).all()


def test_cifar_100_has_fine_labels_and_the_coarse_ones_as_a_column(tmp_path):
    samples = open_samples(hundred(tmp_path / "python"))
    np.testing.assert_array_equal(samples.targets, FINE)
    assert samples.classes[4] == "fine4" and samples.columns["coarse"].tolist() == [f"coarse{c}" for c in COARSE]
    binary = tmp_path / "binary"
    binary.mkdir()
    for name, part in (("train", slice(0, 20)), ("test", slice(20, 24))):
        records = np.concatenate([COARSE[part, None], FINE[part, None], planes(IMAGES[part])], 1).astype(np.uint8)
        (binary / f"{name}.bin").write_bytes(records.tobytes())
    for kind, count in (("fine", 100), ("coarse", 20)):
        (binary / f"{kind}_label_names.txt").write_text("\n".join(f"{kind}{i}" for i in range(count)))
    other = open_samples(binary)
    np.testing.assert_array_equal(other.images, samples.images)
    assert other.columns["coarse"].tolist() == samples.columns["coarse"].tolist() and other.classes == samples.classes


def test_a_missing_batch_and_missing_names_are_noted(tmp_path):
    ten(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    (tmp_path / "batches.meta").unlink()
    samples = open_samples(tmp_path)
    assert len(samples) == 20 and samples.classes == CLASSES
    assert any("data_batch_3" in note for note in samples.notes) and any("published" in n for n in samples.notes)


class Runs:
    def __reduce__(self):
        return os.system, ("touch RAN",)


def test_a_batch_that_would_run_a_command_is_refused_and_the_command_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ten(tmp_path / "c")
    dump(tmp_path / "c/data_batch_2", {b"labels": [], b"data": Runs()})
    refused(tmp_path / "c", "data_batch_2", f"{os.system.__module__}.system", "nothing in this one was run")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("change, words", [
    ({b"labels": [0, 1, 12, 3]}, ("outside of 0 to 9", "data_batch_2 record 2: 12")),
    ({b"labels": [0, 1, b"cat", 3]}, ("record 2", "cat")), ({b"labels": [0, 1, -2, 3]}, ("record 2", "-2")),
    ({b"labels": [0, 1]}, ("2 labels for 4 images",)), ({b"labels": None}, ("has no 'labels'",)),
    ({b"data": planes(IMAGES[:4])[:, :3000]}, ("shape (4, 3000)",)), ({b"data": b"bytes"}, ("no array",)),
    ({b"data": planes(IMAGES[:4]).astype(np.int16)}, ("int16",)),
])
def test_a_batch_that_does_not_fit_is_named_with_its_record(tmp_path, change, words):
    ten(tmp_path)
    dump(tmp_path / "data_batch_2", {b"labels": [0, 1, 2, 3], b"data": planes(IMAGES[:4]), **change})
    refused(tmp_path, "data_batch_2", *words)


def test_a_cut_file_is_named(tmp_path):
    ten(tmp_path)
    path = tmp_path / "data_batch_4"
    path.write_bytes(path.read_bytes()[:5000])
    refused(tmp_path, "data_batch_4", "claims")
    binary = tmp_path / "binary"
    binary.mkdir()
    (binary / "data_batch_1.bin").write_bytes(bytes(3073 * 2 - 1))
    refused(binary, "data_batch_1.bin", "no whole number of records")


def test_meta_without_names_or_with_one_name_twice_is_refused(tmp_path):
    ten(tmp_path)
    dump(tmp_path / "batches.meta", {b"num_vis": 3072})
    refused(tmp_path, "batches.meta", "label_names")
    dump(tmp_path / "batches.meta", {b"label_names": [b"a"] * 10})
    refused(tmp_path, "the same")


def test_a_link_out_of_the_folder_is_not_read(tmp_path):
    ten(tmp_path / "outside")
    ten(tmp_path / "c")
    (tmp_path / "c/data_batch_5").unlink()
    (tmp_path / "c/data_batch_5").symlink_to(tmp_path / "outside/data_batch_5")
    samples = open_samples(tmp_path / "c", "cifar")
    assert len(samples) == 20 and any("data_batch_5" in note for note in samples.notes)


def test_class_folders_called_train_and_test_stay_class_folders(tmp_path):
    for name in ("train", "test", "meta"):
        (tmp_path / name).mkdir()
    refused(tmp_path, "holds no images")


def test_an_unknown_column_is_refused_with_the_nearest(tmp_path):
    hundred(tmp_path)
    assert "coarse" in open_samples(tmp_path, kept_columns=("coarse",)).columns
    refused(tmp_path, "'coarse'", kept_columns=("coarze",))


@pytest.mark.skipif(not (Path(__file__).parents[4] / "shared/data/cifar10_test.npz").is_file(),
                    reason="the real CIFAR-10 of the shared data is not here")
def test_the_real_test_images_written_as_a_batch_come_back_bit_for_bit(tmp_path):
    z = np.load(Path(__file__).parents[4] / "shared/data/cifar10_test.npz")
    p = z["q"][:, :1000].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    images = np.stack([p[1] + p[0], p[0], p[2] + p[0]], -1)
    for name in ("data_batch_1", "test_batch"):
        dump(tmp_path / name, {b"labels": z["y"][:1000].tolist(), b"data": planes(images)})
    samples = open_samples(tmp_path)
    np.testing.assert_array_equal(samples.images[1000:], images)
    assert samples.targets.tolist() == z["y"][:1000].tolist() * 2
