from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.image_zoo import tree_state, write_zoo
from visus.core.errors import DataError, ImageError, ResourceError
from visus.core.images import read_image
from visus.core.preprocessing import Preprocessing
from visus.data import Loader, Samples, build_augmentation, handle_bad_images, open_samples, scan_images

SMALL = Preprocessing(size=(16, 12))
STEPS = [{"name": "random_resized_crop"}, {"name": "horizontal_flip"}, {"name": "affine", "degrees": 10.0},
         {"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}]


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(11):
            pixels = rng.integers(0, 256, (20 + i, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    return tmp_path / "data"


def equal(a, b) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and torch.equal(a.index, b.index)


def all_equal(a, b) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def loader_of(samples, **options) -> Loader:
    return Loader(samples, np.arange(len(samples)), SMALL, **{"batch_size": 4, "shuffle": True, "seed": 5} | options)


def test_batches_are_equal_for_any_number_of_workers_and_from_any_start(folder):
    samples = open_samples(folder)
    reference = loader_of(samples, augmentation=build_augmentation(STEPS))
    epochs = [list(reference.epoch(e)) for e in (0, 1)]
    for workers in (0, 1, 2):
        loader = loader_of(samples, augmentation=build_augmentation(STEPS), workers=workers)
        for e in (0, 1):
            assert all_equal(loader.epoch(e), epochs[e])
        for _ in loader.epoch(7):  # an epoch that is left in the middle changes nothing
            break
        assert all_equal(loader.epoch(1, start_batch=3), epochs[1][3:])
        assert equal(loader.batch(0, 5), epochs[0][5])
        loader.close()
    assert not torch.equal(epochs[0][0].index, epochs[1][0].index)


@pytest.mark.parametrize("shuffle, drop_last, sizes", [(True, False, [4] * 5 + [2]), (False, True, [4] * 5)])
def test_an_epoch_is_every_sample_once(folder, shuffle, drop_last, sizes):
    samples = open_samples(folder)
    loader = loader_of(samples, shuffle=shuffle, drop_last=drop_last)
    batches = list(loader.epoch(0))
    assert [len(b) for b in batches] == sizes and len(loader) == len(sizes)
    index = torch.cat([b.index for b in batches])
    assert len(index.unique()) == len(index)
    assert drop_last or sorted(index.tolist()) == list(range(22))
    assert shuffle or index.tolist() == list(range(20))
    for batch in batches:
        assert batch.targets.tolist() == samples.targets[batch.index.numpy()].tolist()
        assert batch.images.dtype == torch.float32 and batch.images.shape[1:] == (3, 16, 12)


def test_index_is_the_position_in_the_samples_and_not_in_the_subset(folder):
    samples = open_samples(folder)
    loader = Loader(samples, [3, 20, 8], SMALL, batch_size=3)
    (batch,) = loader.epoch(0)
    assert batch.index.tolist() == [3, 20, 8]
    for image, i in zip(batch.images, (3, 20, 8), strict=True):
        expected = SMALL.resized(read_image(samples.path(i)).pixels).float() / 255
        assert torch.equal(image, expected)


@pytest.mark.parametrize("size", [(8, 8), (11, 6)], ids=["own size", "resized"])
@pytest.mark.parametrize("limit", [None, 0], ids=["whole set in memory", "per batch"])
def test_images_in_memory_give_what_their_preprocessing_gives(monkeypatch, size, limit):
    samples = open_samples("digits")
    if limit is not None:
        monkeypatch.setattr("visus.data.loader._IN_MEMORY_BYTES", limit)
        samples = samples.subset(np.arange(5))
    preprocessing = Preprocessing(size=size, channels=3)
    loader = Loader(samples, np.arange(len(samples))[::-1], preprocessing, batch_size=5, shuffle=False, workers=2)
    batch = next(loader.epoch(0))
    for image, i in zip(batch.images, batch.index.tolist(), strict=True):
        assert torch.equal(image, preprocessing.resized(samples.images[i]).float() / 255)


def test_augmentation_of_arrays_depends_on_sample_and_epoch_only():
    samples = open_samples("digits")
    small = Preprocessing(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
    steps = build_augmentation([{"name": "random_crop", "padding": 2}, {"name": "affine", "degrees": 10.0}])
    a = Loader(samples, np.arange(100), small, augmentation=steps, batch_size=100, seed=1)
    b = Loader(samples, np.arange(100), small, augmentation=steps, batch_size=7, seed=1)
    torch.testing.assert_close(torch.cat([x.images for x in b.epoch(3)]), a.batch(3, 0).images, rtol=0, atol=1e-6)


def test_several_labels_come_as_floats():
    samples = Samples(format="npz", classes=("a", "b"), images=np.zeros((3, 4, 4, 1), np.uint8),
                      targets=np.array([[1, 0], [0, 0], [1, 1]], np.float32))
    batch = Loader(samples, [2, 0], Preprocessing(size=(4, 4)), batch_size=2).batch(0, 0)
    assert batch.targets.tolist() == [[1, 1], [1, 0]] and batch.targets.dtype == torch.float32


# -- odd files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def zoo_samples(tmp_path):
    made = write_zoo(tmp_path / "zoo")
    paths = tuple(os.fsdecode(os.path.basename(case.path(tmp_path))) for case in made)
    samples = Samples(format="table", classes=("a", "b"), paths=paths, root=str(tmp_path / "zoo"),
                      targets=np.arange(len(made)) % 2)
    return made, samples


def test_the_scan_names_exactly_the_files_that_reading_refuses(zoo_samples):
    made, samples = zoo_samples
    before = tree_state(Path(samples.root))
    bad = scan_images(samples)
    assert [b.index for b in bad] == [i for i, case in enumerate(made) if case.pixels is None]
    for b in bad:
        assert made[b.index].refused in b.problem and b.remedy
    with pytest.raises(DataError, match=f"{len(bad)} of {len(made)} images cannot be read.* and {len(bad) - 10} more"):
        handle_bad_images(samples, bad, "stop")
    left = handle_bad_images(samples, bad, "skip")
    assert len(left) == len(made) - len(bad) and f"{len(bad)} images left out" in left.notes[-1]
    assert tree_state(Path(samples.root)) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_training_evaluation_and_reading_see_the_same_pixels_of_every_odd_file(zoo_samples, workers):
    made, samples = zoo_samples
    before = tree_state(Path(samples.root))
    good = [i for i, case in enumerate(made) if case.pixels is not None]
    train = Loader(samples, np.arange(len(samples)), SMALL, batch_size=16, shuffle=True, on_bad_image="skip",
                   workers=workers, augmentation=build_augmentation([{"name": "horizontal_flip", "probability": 0.0}]))
    seen = {int(i): image for batch in train.epoch(0) for i, image in zip(batch.index, batch.images, strict=True)}
    evaluation = Loader(samples, np.array(good), SMALL, batch_size=16, workers=workers)
    for batch in evaluation.epoch(0):
        for i, image in zip(batch.index.tolist(), batch.images, strict=True):
            assert torch.equal(image, seen[i])
            pixels = read_image(samples.path(i)).pixels
            assert torch.equal(image, SMALL.resized(pixels).float() / 255), made[i].file
    assert sorted(seen) == good and sorted(train.skipped) == [i for i in range(len(made)) if i not in good]
    train.close()
    evaluation.close()
    assert tree_state(Path(samples.root)) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_away_after_the_scan_stops_by_name_or_is_skipped_and_counted(folder, workers):
    samples = open_samples(folder)
    assert not scan_images(samples)
    (folder / "dog" / "3.png").unlink()
    (folder / "cat" / "0.png").write_bytes(b"<html>")
    gone = [samples.paths.index("cat/0.png"), samples.paths.index("dog/3.png")]
    with pytest.raises(ImageError, match=r"(dog/3.png: no such file|cat/0.png: is an HTML page)"):
        list(loader_of(samples, workers=workers).epoch(0))
    loader = loader_of(samples, workers=workers, on_bad_image="skip")
    index = torch.cat([batch.index for batch in loader.epoch(0)])
    assert sorted(index.tolist()) == [i for i in range(22) if i not in gone] and sorted(loader.skipped) == gone


def test_a_batch_without_any_readable_image_is_an_error_and_not_a_missing_batch(folder):
    samples = open_samples(folder)
    for i in range(4):
        (folder / "cat" / f"{i}.png").write_bytes(b"")
    loader = Loader(samples, [samples.paths.index(f"cat/{i}.png") for i in range(4)], SMALL, batch_size=4,
                    on_bad_image="skip")
    with pytest.raises(DataError, match="no image of batch 0"):
        list(loader.epoch(0))


# -- workers that fail -------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_a_clear_error_and_the_loader_can_be_used_again(folder, monkeypatch):
    samples = open_samples(folder)
    monkeypatch.setattr(Samples, "read", lambda *a: os._exit(9))
    loader = loader_of(samples, workers=1)
    with pytest.raises(ResourceError, match=r"loader worker \(process \d+\) died") as caught:
        list(loader.epoch(0))
    assert "workers=0" in caught.value.remedy and ".png" in caught.value.where
    monkeypatch.undo()
    assert all_equal(loader.epoch(0), loader_of(samples).epoch(0))
    loader.close()


def test_a_worker_that_hangs_is_named_after_the_timeout(folder, monkeypatch):
    samples = open_samples(folder)
    monkeypatch.setattr(Samples, "read", lambda *a: time.sleep(60))
    start = time.monotonic()
    with pytest.raises(ResourceError, match="did not answer in 1 s"):
        list(loader_of(samples, workers=1, timeout_s=1).epoch(0))
    assert time.monotonic() - start < 20


def test_a_program_that_ends_with_workers_alive_ends_at_once(folder):
    program = ("import numpy as np; from visus.data import *; from visus.core.preprocessing import Preprocessing\n"
               f"s = open_samples({str(folder)!r})\n"
               "l = Loader(s, np.arange(22), Preprocessing(size=(8, 8)), batch_size=2, workers=2)\n"
               "next(l.epoch(0)); list(l.epoch(1)); print('done')")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == "done" and done.returncode == 0 and not done.stderr


def test_batch_sizes_that_cannot_be_are_refused(folder):
    samples = open_samples(folder)
    with pytest.raises(DataError, match="batch_size=0"):
        loader_of(samples, batch_size=0)
    with pytest.raises(DataError, match="22 images are less than one batch"):
        loader_of(samples, batch_size=64, drop_last=True)
    with pytest.raises(IndexError):
        loader_of(samples).batch(0, 6)
