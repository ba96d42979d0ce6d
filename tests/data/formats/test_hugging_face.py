"""Hugging Face data sets on disk: equal to what `datasets` reads from the same files; nothing is fetched or run."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.formats.refusals import read_or_refused
from tests.data.formats.test_shards import image
from tests.image_zoo import tree_state
from visus.core.errors import DataError, ImageError
from visus.data import open_samples
from visus.data.formats import hugging_face as module

pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def made(count: int, first: int = 0):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": [Image.new("RGB", (6, 5), (first + i, 0, 0)) for i in range(count)],
                                       "label": [i % 2 for i in range(count)]}, features=features)


def refused(path, *words: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        open_samples(path, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.where


def test_a_saved_data_set_equals_what_datasets_loads(tmp_path):
    made(13).save_to_disk(str(tmp_path / "s"), num_shards=3)
    before = tree_state(tmp_path / "s")
    samples = open_samples(tmp_path / "s")
    theirs = datasets.load_from_disk(str(tmp_path / "s"))
    assert samples.format == "hugging_face" and samples.classes == ("cat", "dog") and len(samples) == 13
    order = np.random.Generator(np.random.PCG64(0)).permutation(13)
    some = pickle.loads(pickle.dumps(samples.subset(order)))
    for i, place in enumerate(order.tolist()):
        np.testing.assert_array_equal(some.read(i), np.asarray(theirs[place]["image"]))
        assert some.targets[i] == theirs[place]["label"]
    assert tree_state(tmp_path / "s") == before


def test_a_saved_dictionary_gives_its_splits(tmp_path):
    datasets.DatasetDict({"train": made(4), "validation": made(2, 4), "test": made(3, 6)}).save_to_disk(
        str(tmp_path / "s"))
    samples = open_samples(tmp_path / "s")
    assert samples.split.tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert [int(samples.read(i)[0, 0, 0]) for i in range(9)] == list(range(9))
    assert samples.source(4) == "validation/data-00000-of-00001.arrow[0]"


def test_a_selection_is_saved_as_what_it_selects(tmp_path):
    made(9).select([7, 2, 4]).save_to_disk(str(tmp_path / "s"))
    samples = open_samples(tmp_path / "s")
    assert [int(samples.read(i)[0, 0, 0]) for i in range(3)] == [7, 2, 4] and samples.targets.tolist() == [1, 0, 0]


def test_columns_can_be_named(tmp_path):
    made(4).add_column("kind", ["x", "y", "z", "x"]).save_to_disk(str(tmp_path / "s"))
    assert open_samples(tmp_path / "s", label_column="kind").classes == ("x", "y", "z")


def cached(home, config="default", digest="abc", count=5):
    """A folder as `datasets` leaves it in its cache."""
    folder = home / "datasets" / "uoft-cs___tinyset" / config / "0.0.0" / digest
    folder.mkdir(parents=True)
    for split, data in (("train", made(count)), ("test", made(2, 50))):
        data.save_to_disk(str(folder / "tmp_saved"))
        shutil.move(folder / "tmp_saved/data-00000-of-00001.arrow", folder / f"tinyset-{split}.arrow")
        shutil.rmtree(folder / "tmp_saved")
    (folder / "dataset_info.json").write_text("{}")
    (folder / "cache-1234.arrow").write_bytes(b"not to be read")
    return folder


def test_a_name_is_read_from_the_cache_of_datasets(caches):
    cached(caches)
    for name in ("hf:uoft-cs/tinyset", "hf:uoft-cs/TinySet", "hf:uoft-cs/tinyset:default"):
        samples = open_samples(name)
        assert samples.split.tolist() == ["test"] * 2 + ["train"] * 5 and samples.classes == ("cat", "dog")
        assert [int(samples.read(i)[0, 0, 0]) for i in range(7)] == [50, 51, 0, 1, 2, 3, 4]
    refused("hf:uoft-cs/tinyset:large", "no configuration 'large'", "default")
    cached(caches, digest="def", count=6)
    assert any("2 versions" in note for note in open_samples("hf:uoft-cs/tinyset").notes)
    cached(caches, config="other")
    refused("hf:uoft-cs/tinyset", "2 configurations: default, other", "hf:uoft-cs/tinyset:default")


def test_what_datasets_itself_caches_is_found_by_its_name(tmp_path, caches):
    made(6).to_parquet(str(tmp_path / "mine/train.parquet")) if (tmp_path / "mine").mkdir() is None else None
    theirs = datasets.load_dataset("parquet", data_files=str(tmp_path / "mine/train.parquet"),
                                   cache_dir=str(caches / "datasets"))["train"]
    samples = open_samples("hf:parquet")
    assert len(samples) == len(theirs) == 6 and samples.targets.tolist() == theirs["label"][:]
    np.testing.assert_array_equal(samples.read(5), np.asarray(theirs[5]["image"]))


def test_a_name_is_read_from_the_parquet_files_of_the_hub_cache(caches):
    top = caches / "hub" / "datasets--me--photos"
    (top / "blobs").mkdir(parents=True)
    (top / "refs").mkdir()
    (top / "refs/main").write_text("r1")
    for revision in ("r1", "r2"):
        data = top / "snapshots" / revision / "data"
        data.mkdir(parents=True)
        made(4 if revision == "r1" else 5).to_parquet(str(top / f"blobs/{revision}"))
        (data / "train-00000-of-00001.parquet").symlink_to(f"../../../blobs/{revision}")
    samples = open_samples("hf:me/photos")
    assert len(samples) == 4 and set(samples.split) == {"train"} and samples.read(3)[0, 0, 0] == 3
    (top / "snapshots/r1/data/test-00000-of-00001.parquet").symlink_to("/etc/passwd")
    refused("hf:me/photos", "leads out of the folder")


def test_an_unknown_name_says_what_the_caches_hold_and_fetches_nothing(caches):
    refused("hf:uoft-cs/tinyset", "not in the caches", "Nothing is fetched")
    cached(caches)
    refused("hf:uoft-cs/tinyseet", "not in the caches", "'uoft-cs/tinyset'")


@pytest.mark.parametrize("state, words", [
    ({"_data_files": [{"filename": "../outside.arrow"}]}, ("files elsewhere",)),
    ({"_data_files": [{"filename": "/etc/passwd"}]}, ("files elsewhere",)), ({"_data_files": []}, ("no data files",)),
    ({"_data_files": [{"filename": "gone.arrow"}]}, ("'gone.arrow', which is not there",)), ([1], ("no JSON object",)),
    ({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": [{}]}, ("flatten_indices",))])
def test_a_record_that_points_elsewhere_is_refused(tmp_path, state, words):
    made(2).save_to_disk(str(tmp_path / "s"))
    (tmp_path / "s/state.json").write_text(json.dumps(state))
    refused(tmp_path / "s", "state.json", *words)


def test_a_dictionary_with_a_missing_or_foreign_split_is_refused(tmp_path):
    datasets.DatasetDict({"train": made(4), "test": made(2)}).save_to_disk(str(tmp_path / "s"))
    for splits, words in ((["train", "tset"], "'tset' is not there"), (["../s/train"], "names no splits"),
                          ("train", "names no splits")):
        (tmp_path / "s/dataset_dict.json").write_text(json.dumps({"splits": splits}))
        refused(tmp_path / "s", words)


def test_a_cut_or_foreign_arrow_file_is_named(tmp_path):
    made(5).save_to_disk(str(tmp_path / "s"))
    path = tmp_path / "s/data-00000-of-00001.arrow"
    data = path.read_bytes()
    for bad in (b"", data[:len(data) // 2], b"<html>" * 100):
        path.write_bytes(bad)
        refused(tmp_path / "s", "data-00000-of-00001.arrow")


def test_a_file_that_changed_is_named_at_use(tmp_path):
    made(5).save_to_disk(str(tmp_path / "s"))
    samples = open_samples(tmp_path / "s")
    made(6).save_to_disk(str(tmp_path / "t"))
    shutil.copy(tmp_path / "t/data-00000-of-00001.arrow", tmp_path / "s/data-00000-of-00001.arrow")
    with pytest.raises(ImageError, match="changed since it was indexed"):
        samples.read(0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_files_end_in_samples_or_in_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hf") / "s"
    made(3).save_to_disk(str(folder))
    path = folder / "data-00000-of-00001.arrow"
    base = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(base)
    read_or_refused(folder)


def test_the_images_are_the_bytes_that_were_saved(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [{"bytes": image(i), "path": None} for i in range(3)], "label": ["b", "a", "b"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "s"))
    samples = open_samples(tmp_path / "s")
    assert [samples.encoded[i] for i in range(3)] == [image(i) for i in range(3)] and samples.classes == ("a", "b")
    assert module._columns.limit == 16
