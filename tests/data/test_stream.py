"""Streams of shards: every sample once over all readers, in an order that (seed, epoch) decide."""

from __future__ import annotations

import gc
import pickle
import tarfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.formats.test_shards import image, samples_of, write
from visus.core.errors import DataError, UserError
from visus.data import open_samples
from visus.data.stream import ShardStream, stream_shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """11 shards of 3 to 13 samples: 88."""
    folder = tmp_path_factory.mktemp("shards")
    first = 0
    for n in range(11):
        write(folder / f"s-{n:02d}.tar", samples_of(first, 3 + n))
        first += 3 + n
    return folder


def names(stream) -> list[str]:
    return [sample.key for sample in stream]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 11), world=st.integers(1, 5), workers=st.integers(1, 6), buffer=st.integers(0, 20),
       epoch=st.integers(0, 3))
def test_every_sample_is_read_once_for_any_number_of_ranks_and_workers(shards, count, world, workers, buffer, epoch):
    files = [str(shards / f"s-{n:02d}.tar") for n in range(count)]
    found = Counter(key for rank in range(world) for worker in range(workers)
                    for key in names(ShardStream(files, rank=rank, world=world, worker=worker, workers=workers,
                                                 shuffle_buffer=buffer, epoch=epoch)))
    assert len(found) == sum(range(3, 3 + count)) and set(found.values()) == {1}


def test_left_over_shards_are_shared_evenly(shards):
    counts = [len(names(ShardStream(str(shards / "s-10.tar"), worker=w, workers=5))) for w in range(5)]
    assert sorted(counts) == [2, 2, 3, 3, 3]
    files = [str(shards / "s-{00..10}.tar")]
    shares = [ShardStream(files[0], worker=w, workers=4).shares() for w in range(4)]
    assert sorted(sum(step == 1 for *_, step in s) for s in shares) == [2, 2, 3, 3]  # eleven: one of them for two


def test_order_is_a_function_of_seed_and_epoch_alone(shards):
    def order(**changes):
        return names(ShardStream(shards, **{"shuffle_buffer": 10, "seed": 1, "epoch": 2, **changes}))

    first = order()
    assert first == order() and sorted(first) == sorted(order(epoch=3))
    assert first != order(epoch=3) != order(seed=2) != first
    stream = ShardStream(shards, shuffle_buffer=10, seed=1, epoch=2)
    assert names(stream) == names(pickle.loads(pickle.dumps(stream))) == names(stream) == first


def test_the_buffer_moves_samples_and_its_absence_does_not(shards):
    plain = names(ShardStream(shards, shuffle_shards=False))
    assert plain == sorted(plain) and len(plain) == 88
    mixed = names(ShardStream(shards, shuffle_shards=False, shuffle_buffer=30))
    early = [plain.index(key) - place for place, key in enumerate(mixed)]
    assert sorted(mixed) == plain and max(early) <= 30 and sum(map(abs, early)) / 88 > 8


def test_contents_equal_those_of_the_index_and_of_compressed_shards(tmp_path, shards):
    samples = open_samples(shards)
    streamed = list(ShardStream(shards, shuffle_shards=False))
    assert [(s.data, s.label) for s in streamed] == [(samples.encoded[i], i % 3) for i in range(88)]
    write(tmp_path / "a.tar.gz", samples_of(0, 9), mode="w:gz")
    write(tmp_path / "b.tgz", samples_of(9, 4), tarfile.PAX_FORMAT, mode="w:gz")
    packed = list(ShardStream(tmp_path, shuffle_shards=False))
    assert [(s.data, s.label) for s in packed] == [(image(i), i % 3) for i in range(13)]
    assert packed[9].key == "b.tgz/00009"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_contents_equal_those_of_the_webdataset_package(shards):
    webdataset = pytest.importorskip("webdataset")
    theirs = [(s["__key__"], s["png"], int(s["cls"]))
              for s in webdataset.WebDataset(str(shards / "s-{00..10}.tar"), shardshuffle=False)]
    gc.collect()
    ours = [(s.key.split("/")[1], s.data, s.label) for s in ShardStream(shards, shuffle_shards=False)]
    assert ours == theirs and len(ours) == 88


def test_a_cut_shard_is_named_compressed_or_not(tmp_path):
    for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
        path = write(tmp_path / name, samples_of(0, 4), mode=mode)
        data = path.read_bytes()
        path.write_bytes(data[:4096 + 530] if mode == "w" else data[:len(data) // 2])
        with pytest.raises(DataError, match=f"{name}: ends within"):
            list(stream_shard(str(path)))
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b" + b"x" * 100)
    with pytest.raises(DataError, match=r"c.tar.gz: cannot be read"):
        list(stream_shard(str(tmp_path / "c.tar.gz")))


def test_a_bad_label_a_missing_file_and_impossible_readers_are_named(tmp_path):
    write(tmp_path / "a.tar", [("k.png", image(1)), ("k.json", b"{")])
    with pytest.raises(DataError, match=r"a.tar: k: .json is not JSON"):
        list(ShardStream(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        list(ShardStream([str(tmp_path / "none.tar")]))
    with pytest.raises(DataError, match="1 shard not there"):
        ShardStream(str(tmp_path / "none.tar"))
    for wrong in ({"rank": 2, "world": 2}, {"worker": -1}, {"shuffle_buffer": -1}):
        with pytest.raises(UserError, match="must be"):
            ShardStream(tmp_path, **wrong)
    with pytest.raises(DataError, match="no shards"):
        ShardStream([])
