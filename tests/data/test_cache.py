from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_loader import SMALL, STEPS, all_equal, equal, folder, loader_of  # noqa: F401 (folder: a fixture)
from tests.image_zoo import tree_state
from visus.core.errors import ImageError
from visus.core.preprocessing import Preprocessing
from visus.data import Loader, Samples, build_augmentation, open_samples
from visus.data.cache import PixelCache, source_stamps
from visus.data.fetch import CACHE_MARGIN, FileBatches, stored_size

CROPPED = build_augmentation(STEPS)
FLIPPED = build_augmentation([STEPS[0], STEPS[1], {"name": "vertical_flip"}])


def stamps(count: int) -> np.ndarray:
    return np.stack([np.arange(count) + 100, np.arange(count) + 7], 1).astype(np.int64)


def picture(seed: int, height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def no_decoding(monkeypatch) -> None:
    for name in ("read", "part"):
        monkeypatch.setattr(Samples, name, lambda *a, **k: pytest.fail("decoded again"))


# -- records -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_by_rows_here_and_in_another_cache(tmp_path):
    kept = {n: picture(n, 4 + n, 9 - n, 3 if n % 2 else 1) for n in (0, 2, 5)}
    cache = PixelCache(tmp_path / "cache", "k", stamps(6))
    for n, pixels in kept.items():
        cache.write(n, pixels)
    for one in (cache, PixelCache(tmp_path / "cache", "k", stamps(6))):
        for n in range(6):
            record = one.find(n)
            assert (record is not None) == (n in kept)
            if record is not None:
                for _ in range(2):  # looked at, then trusted
                    assert np.array_equal(one.rows(n, record, 1, 3), kept[n][1:3])
        assert one.held() == (3, sum(p.size for p in kept.values()))


def test_a_record_of_an_older_source_or_another_key_is_none(tmp_path):
    PixelCache(tmp_path, "k", stamps(3)).write(1, picture(0))
    newer = stamps(3)
    newer[1, 1] += 1
    assert PixelCache(tmp_path, "k", newer).find(1) is None and PixelCache(tmp_path, "k", newer).held() == (0, 0)
    assert PixelCache(tmp_path, "other", stamps(3)).find(1) is None


@pytest.mark.parametrize("what", ["index bits", "pixel bits", "index cut", "pixels cut", "other index", "no pixels"])
def test_damage_is_seen_and_the_cache_fills_again(tmp_path, what):
    cache = PixelCache(tmp_path, "k", stamps(2))
    cache.write(0, picture(0))
    cache.write(1, picture(1))
    cache.close()
    pixels, index = tmp_path / "images-k.pixels", tmp_path / "images-k.index"
    if what.endswith("bits"):
        path = index if what.startswith("index") else pixels
        data = bytearray(path.read_bytes())
        data[60 if path == index else 3] ^= 4
        path.write_bytes(data)
    elif what == "other index":
        index.write_bytes(os.urandom(index.stat().st_size))
    elif what == "no pixels":
        pixels.unlink()
    else:
        path = index if what.startswith("index") else pixels
        path.write_bytes(path.read_bytes()[:50])
    again = PixelCache(tmp_path, "k", stamps(2))
    again.prepare()
    for n in (0, 1):
        record = again.find(n)
        rows = None if record is None else again.rows(n, record, 0, 5)
        assert rows is None or np.array_equal(rows, picture(n))
        if rows is None:
            again.write(n, picture(n))
        assert np.array_equal(again.rows(n, again.find(n), 0, 5), picture(n))


def test_all_caches_of_a_folder_stay_within_the_limit_together(tmp_path):
    size = picture(0).size
    for key in ("a", "b"):
        cache = PixelCache(tmp_path, key, stamps(9), limit_bytes=7 * size + 3)
        for n in range(5):
            cache.write(n, picture(n))
        cache.close()
        assert bool(cache.problem) == (key == "b") and cache.held()[0] == (5 if key == "a" else 2)
    assert sum(p.stat().st_size for p in tmp_path.glob("*.pixels")) == 7 * size
    assert "its limit is" in cache.problem


def test_a_full_or_forbidden_disk_is_said_and_not_raised(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    cache = PixelCache(blocked / "cache", "k", stamps(1))
    cache.write(0, picture(0))
    assert "cannot be written" in cache.problem and cache.find(0) is None
    full = PixelCache(tmp_path / "cache", "k", stamps(1))

    def pwrite(handle, data, offset):
        if not isinstance(data, bytes):  # the pixels
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr("visus.data.cache.os.pwrite", pwrite)
    full.write(0, picture(0))
    assert "No space left" in full.problem and full.find(0) is None
    monkeypatch.undo()
    monkeypatch.setattr("visus.data.cache.KEEP_FREE", 1 << 60)
    small = PixelCache(tmp_path / "third", "k", stamps(1))
    small.write(0, picture(0))
    assert "of the disk are free" in small.problem


def test_files_of_mostly_outdated_records_are_begun_anew(tmp_path):
    cache = PixelCache(tmp_path, "k", stamps(2))
    cache.write(0, np.zeros((6000, 6000, 3), np.uint8))
    cache.close()
    newer = stamps(2)
    newer[0, 0] += 1
    PixelCache(tmp_path, "k", stamps(2)).prepare()
    assert (tmp_path / "images-k.pixels").exists()
    PixelCache(tmp_path, "k", newer).prepare()
    assert not (tmp_path / "images-k.pixels").exists()


def test_stamps_change_with_the_file_and_missing_files_have_none(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    samples = Samples(format="table", classes=("a", "b"), paths=("a.png", "b.png"), root=str(tmp_path),
                      targets=np.array([0, 1]))
    first = source_stamps(samples, np.arange(2))
    assert first[1].tolist() == [-1, -1] and first[0, 0] == (tmp_path / "a.png").stat().st_size
    os.utime(tmp_path / "a.png", ns=(5, 6))
    assert source_stamps(samples, np.arange(2))[0, 1] == 6


def test_images_inside_other_files_are_stamped_by_their_bytes():
    class Inside:
        data = (b"abc", b"abd")

        def __getitem__(self, i):
            return self.data[i]

        def take(self, indices):
            return self

    samples = Samples(format="shards", classes=("a", "b"), paths=("0", "1"), encoded=Inside(), targets=np.array([0, 1]))
    assert source_stamps(samples, np.array([1, 0])).tolist() == [[3, zlib.crc32(b"abd")], [3, zlib.crc32(b"abc")]]


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [CROPPED, FLIPPED], ids=["general", "fused"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bits_whatever_the_cache_holds(folder, tmp_path, monkeypatch, steps, workers):  # noqa: F811
    samples = open_samples(folder)
    before = tree_state(folder)
    nothing_fits = loader_of(samples, augmentation=steps, cache=tmp_path / "none", cache_bytes=0)
    expected = [list(nothing_fits.epoch(e)) for e in (0, 1)]
    assert not (tmp_path / "none").exists() or not list(tmp_path.glob("none/*.pixels")) or not sum(
        p.stat().st_size for p in tmp_path.glob("none/*.pixels"))
    for name, limit in (("all", 1 << 30), ("some", 12_000)):
        loader = loader_of(samples, augmentation=steps, cache=tmp_path / name, cache_bytes=limit, workers=workers)
        for batch, other in zip(loader.epoch(0), expected[0], strict=True):
            assert equal(batch, other)
            if len(batch) and int(batch.index[0]) == int(expected[0][2].index[0]):
                break  # left in the middle: the cache is half full
        assert all_equal(loader.epoch(0), expected[0]) and all_equal(loader.epoch(1), expected[1])
        held = loader._cache.held()[0]
        assert held == 22 if name == "all" else 0 < held < 22
        loader.close()
    assert tree_state(folder) == before
    no_decoding(monkeypatch)
    assert all_equal(loader_of(samples, augmentation=steps, cache=tmp_path / "all").epoch(1), expected[1])


def test_without_a_random_crop_the_cache_changes_no_bit(folder, tmp_path, monkeypatch):  # noqa: F811
    samples = open_samples(folder)
    for steps in (None, build_augmentation(STEPS[1:]), build_augmentation(STEPS[1:2])):
        plain = list(loader_of(samples, augmentation=steps).epoch(2))
        with monkeypatch.context() as patch:
            for _ in range(2):
                cached = loader_of(samples, augmentation=steps, cache=tmp_path / "cache")
                assert all_equal(cached.epoch(2), plain)
                no_decoding(patch)  # from the second time on


def test_a_changed_file_is_decoded_again_and_only_that(folder, tmp_path, monkeypatch):  # noqa: F811
    samples = open_samples(folder)
    first = list(loader_of(samples, cache=tmp_path / "cache").epoch(0))
    changed = int(first[0].index[0])
    Image.new("RGB", (30, 30), (1, 2, 3)).save(samples.path(changed))
    read, seen = Samples.read, []
    monkeypatch.setattr(Samples, "read", lambda self, i, *a: seen.append(i) or read(self, i, *a))
    again = list(loader_of(samples, cache=tmp_path / "cache").epoch(0))
    assert seen == [changed]
    assert torch.equal(again[0].images[0, :, 0, 0] * 255, torch.tensor([1.0, 2, 3]))
    assert torch.equal(again[0].images[1:], first[0].images[1:])


def test_another_preprocessing_has_a_cache_of_its_own(folder, tmp_path):  # noqa: F811
    samples = open_samples(folder)
    list(loader_of(samples, cache=tmp_path / "cache").epoch(0))
    other = Loader(samples, np.arange(22), Preprocessing(size=(5, 5)), batch_size=4, cache=tmp_path / "cache")
    assert next(other.epoch(0)).images.shape == (4, 3, 5, 5)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2


def test_a_bad_file_stops_by_name_or_is_skipped_with_a_cache_as_without(folder, tmp_path):  # noqa: F811
    samples = open_samples(folder)
    (folder / "cat" / "5.png").write_bytes(b"")
    lost = samples.paths.index("cat/5.png")
    with pytest.raises(ImageError, match="cat/5.png: empty file"):
        list(loader_of(samples, cache=tmp_path / "cache").epoch(0))
    for _ in range(2):
        loader = loader_of(samples, cache=tmp_path / "cache", on_bad_image="skip")
        index = torch.cat([batch.index for batch in loader.epoch(0)]).tolist()
        assert sorted(index) == [i for i in range(22) if i != lost] and list(loader.skipped) == [lost]


def test_the_user_is_told_how_much_is_kept_when_the_limit_is_small(folder, tmp_path):  # noqa: F811
    samples = open_samples(folder)
    assert loader_of(samples, cache=tmp_path / "cache").cache_notes() == [] == loader_of(samples).cache_notes()
    (note,) = loader_of(samples, cache=tmp_path / "cache", cache_bytes=22 * 16 * 12 * 3 // 4).cache_notes()
    assert "about 25 % of them are kept" in note and "data.cache_bytes" in note
    assert "22 images take 12.4 KiB, and the cache may hold 3.09 KiB" in note


@pytest.mark.parametrize("size, expected", [((375, 500), (256, 341)), ((100, 90), (100, 90)),
                                            ((256, 2000), (256, 2000)), ((1024, 513), (511, 256)),
                                            ((3000, 4000), (256, 341))])
def test_what_is_stored_has_both_sides_a_seventh_above_the_model_and_is_never_enlarged(tmp_path, size, expected):
    wanted = Preprocessing(size=(224, 224))
    assert stored_size(wanted, CACHE_MARGIN, *size) == expected
    if max(size) <= 2000:
        (tmp_path / "a").mkdir()
        Image.fromarray(picture(0, *size)).save(tmp_path / "a" / "0.jpg")
        samples = Samples(format="folder", classes=("a", "b"), paths=("a/0.jpg",), root=str(tmp_path),
                          targets=np.array([0]))
        batches = FileBatches(samples, np.arange(1), wanted, CROPPED, 0, cache=PixelCache(tmp_path, "k", stamps(1)))
        assert batches.stored(0).shape == (*expected, 3)


def test_an_interrupted_first_epoch_leaves_a_cache_that_is_used(folder, tmp_path):  # noqa: F811
    samples = open_samples(folder)
    for _ in loader_of(samples, augmentation=CROPPED, cache=tmp_path / "cache").epoch(0):
        break
    assert PixelCache.held(loader_of_prepared(samples, tmp_path))[0] == 4


def loader_of_prepared(samples: Samples, tmp_path: Path) -> PixelCache:
    loader = loader_of(samples, augmentation=CROPPED, cache=tmp_path / "cache")
    loader.prepare()
    return loader._cache
