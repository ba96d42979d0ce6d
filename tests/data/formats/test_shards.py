"""WebDataset shards: equal to what the webdataset package reads, whatever wrote them; hostile archives are refused."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import visus.data.reading.holders
from tests.data.formats.refusals import read_or_refused, refused
from tests.image_zoo import tree_state
from visus.core.errors import DataError, ImageError
from visus.data import open_samples
from visus.data.formats.shards.reader import Shards, braces


def image(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (value, 0, 0)).save(file, kind)
    return file.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=format) as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def samples_of(first: int, count: int, label: str = "cls") -> list[tuple[str, bytes]]:
    members = []
    for i in range(first, first + count):
        members.append((f"{i:05d}.png", image(i)))
        text = str(i % 3) if label == "cls" else json.dumps({"label": i % 3, "other": [1]})
        members.append((f"{i:05d}.{label}", text.encode()))
    return members


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["cls", "json"])
def test_a_folder_of_shards_gives_images_labels_and_splits_of_the_file_names(tmp_path, label):
    write(tmp_path / "set-train-000.tar", samples_of(0, 5, label))
    write(tmp_path / "set-train-001.tar", samples_of(5, 4, label))
    write(tmp_path / "set-val-000.tar", samples_of(9, 3, label))
    before = tree_state(tmp_path)
    samples = open_samples(tmp_path)
    assert samples.format == "shards" and samples.classes == ("0", "1", "2") and samples.category_ids == (0, 1, 2)
    assert samples.targets.tolist() == [i % 3 for i in range(12)]
    assert samples.split.tolist() == ["train"] * 9 + ["val"] * 3
    assert samples.source(5) == "set-train-001.tar/00005.png"
    for i in range(12):
        assert samples.read(i)[0, 0].tolist() == [i, 0, 0] and samples.header(i).width == 6
    assert tree_state(tmp_path) == before


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_contents_equal_those_of_the_webdataset_package(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=7, verbose=0) as sink:
        for i in range(20):
            sink.write({"__key__": f"deep/er/k{i}", "jpg": image(i, "JPEG"), "cls": i % 4, "json": {"i": i}})
    theirs = list(webdataset.WebDataset(str(tmp_path / "s-{000..002}.tar"), shardshuffle=False))
    gc.collect()
    for path in (tmp_path, f"{tmp_path}/s-{{000..002}}.tar"):
        samples = open_samples(path)
        assert len(samples) == len(theirs) == 20
        for i, sample in enumerate(theirs):
            assert samples.encoded[i] == sample["jpg"] and samples.targets[i] == int(sample["cls"])
            assert samples.source(i).endswith(f"{sample['__key__']}.jpg")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_dialect(tmp_path, format):
    names = ["k" * 60 + "/" + "n" * 90, "short"]
    if format != tarfile.USTAR_FORMAT:
        names += ["é" * 120, "d/" * 100 + "deep"]
    members = [(f"{name}.{kind}", content) for i, name in enumerate(names)
               for kind, content in (("png", image(i)), ("cls", str(i % 2).encode()))]
    samples = open_samples(write(tmp_path / "a.tar", members, format))
    assert [p.removeprefix("a.tar/") for p in samples.paths] == [f"{name}.png" for name in names]
    assert [int(samples.read(i)[0, 0, 0]) for i in range(len(names))] == list(range(len(names)))


def test_sizes_of_base_256_and_in_pax_records_are_read(tmp_path):
    body = b""
    for name, content in (("a.png", image(7)), ("a.cls", b"0"), ("b.png", image(8)), ("b.cls", b"1")):
        about = tarfile.TarInfo(name)
        if name == "b.png":
            about.pax_headers = {"size": str(len(content))}
            body += about.tobuf(tarfile.PAX_FORMAT)
        else:
            about.size = len(content)
            header = bytearray(about.tobuf(tarfile.USTAR_FORMAT))
            header[124:136] = b"\x80" + len(content).to_bytes(11, "big")
            header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
            body += header
        body += content + bytes(-len(content) % 512)
    (tmp_path / "a.tar").write_bytes(body + bytes(1024))
    samples = open_samples(tmp_path / "a.tar")
    assert [samples.encoded[i] for i in range(2)] == [image(7), image(8)] and samples.targets.tolist() == [0, 1]


def test_class_names_come_from_classes_txt_and_labels_may_be_names(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    write(tmp_path / "a.tar", [*samples_of(0, 3), ("x.png", image(9)), ("x.cls", b"owl\n")])
    samples = open_samples(tmp_path)
    assert samples.classes == ("cat", "dog", "owl") and samples.targets.tolist() == [0, 1, 2, 2]
    write(tmp_path / "a.tar", [*samples_of(0, 2), ("x.png", image(9)), ("x.cls", b"oul"), ("y.png", image(1)),
                               ("y.cls", b"7")])
    refused(tmp_path, "2 samples", "'oul' is not in classes.txt (Did you mean 'owl'?)", "7 is outside of 0 to 2")


def test_text_labels_and_gaps_in_the_numbers(tmp_path):
    members = [("1.png", image(1)), ("1.cls", b"dog"), ("2.png", image(2)), ("2.cls", b"cat")]
    named = write(tmp_path / "a/n.tar", members)
    assert open_samples(named).classes == ("cat", "dog") and open_samples(named).targets.tolist() == [1, 0]
    gaps = write(tmp_path / "b/g.tar", [("1.png", image(1)), ("1.cls", b"907"), ("2.png", image(2)), ("2.cls", b"4")])
    samples = open_samples(gaps)
    assert samples.classes == ("4", "907") and samples.category_ids == (4, 907) and samples.targets.tolist() == [1, 0]


def test_without_labels_the_folder_of_the_key_is_the_class(tmp_path):
    path = write(tmp_path / "photos.tar", [(f"./photos/{c}/{i}.png", image(i)) for c in ("cat", "dog") for i in (1, 2)])
    samples = open_samples(path)
    assert samples.classes == ("cat", "dog") and samples.targets.tolist() == [0, 0, 1, 1]
    assert any("folder of each key" in note for note in samples.notes)


def test_texts_beside_the_images_are_captions(tmp_path):
    path = write(tmp_path / "c.tar", [("1.png", image(1)), ("1.txt", b"a red square\n"), ("2.png", image(2)),
                                      ("2.txt", "größer".encode())])
    samples = open_samples(path)
    assert samples.captions == (("a red square",), ("größer",)) and samples.targets.shape == (2, 0)


def test_labels_in_json_are_several_for_one_image(tmp_path):
    members = []
    for i, labels in enumerate((["cat", "dog"], [], ["owl"])):
        members += [(f"{i}.png", image(i)), (f"{i}.json", json.dumps({"labels": labels}).encode())]
    path = write(tmp_path / "a.tar", members)
    samples = open_samples(path)
    assert samples.classes == ("cat", "dog", "owl") and samples.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    (tmp_path / "classes.txt").write_text("owl\ncat\n")
    refused(path, "1 sample", "a.tar/0.png: 'dog' is not in classes.txt")
    refused(write(tmp_path / "b/a.tar", [("1.png", image(1)), ("1.json", b'{"labels": [[1]]}')]), "which is no label")


@pytest.mark.parametrize("names", [("train-0.tar", "unsplit-0.tar"), ("train-0.tar", "other.tar")])
def test_shards_without_a_split_keep_the_splits_of_others_only_when_they_say_unsplit(tmp_path, names):
    for n, name in enumerate(names):
        write(tmp_path / name, samples_of(3 * n, 3))
    samples = open_samples(tmp_path)
    by_name = {path.split("/")[0]: split for path, split in zip(samples.paths, samples.split.tolist(), strict=True)}
    assert by_name == ({"train-0.tar": "train", "unsplit-0.tar": ""} if "unsplit-0.tar" in names else
                       {"train-0.tar": "", "other.tar": ""})
    assert any("not used" in note for note in samples.notes) == ("other.tar" in names)


def test_what_visus_data_convert_writes_is_read_back(tmp_path):
    writer = pytest.importorskip("visus.data.writers.shards").ShardWriter
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        (tmp_path / "in" / split / name).mkdir(parents=True)
        (tmp_path / "in" / split / name / "1.png").write_bytes(image(len(split) + len(name)))
    before = open_samples(tmp_path / "in")
    writer.write(before, tmp_path / "out")
    after = open_samples(tmp_path / "out")
    assert after.classes == before.classes and sorted(zip(after.split, after.targets, map(bytes, map(
        after.encoded.__getitem__, range(4))), strict=True)) == sorted(
        (before.split[i], before.targets[i], Path(before.path(i)).read_bytes()) for i in range(4))


def test_the_plain_image_is_taken_before_a_named_one_and_other_files_are_passed_over(tmp_path):
    path = write(tmp_path / "a.tar", [("README", b"x"), ("1.seg.png", image(50)), ("1.png", image(1)), ("1.cls", b"0"),
                                      ("2.input.png", image(2)), ("2.cls", b"1"), ("3.cls", b"1"), (".4.png", b"")])
    samples = open_samples(path)
    assert [int(samples.read(i)[0, 0, 0]) for i in range(2)] == [1, 2]
    assert any("1 sample without an image" in note for note in samples.notes)


# -- access ------------------------------------------------------------------------------------------------------


def read_red(job):
    samples, i = job
    return int(samples.read(i)[0, 0, 0])


def test_random_access_from_threads_processes_and_subsets_with_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(visus.data.reading.holders._handles, "limit", 2)
    for n in range(6):
        write(tmp_path / f"{n}.tar", samples_of(10 * n, 10))
    samples = open_samples(tmp_path)
    order = np.random.Generator(np.random.PCG64(0)).permutation(60)
    some = pickle.loads(pickle.dumps(samples.subset(order)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_red, [(some, i) for i in range(60)])) == order.tolist()
    assert len(visus.data.reading.holders._handles._items) <= 2
    with get_context("fork").Pool(2) as pool:
        assert pool.map(read_red, [(some, i) for i in range(12)]) == order[:12].tolist()


def test_a_shard_that_changed_or_went_is_named_at_first_use(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(0, 3))
    samples = open_samples(path)
    write(path, samples_of(3, 4))
    with pytest.raises(ImageError, match="a.tar: has changed since it was indexed"):
        samples.read(0)
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        samples.read(1)


def test_the_digest_changes_with_an_image_and_not_with_the_place(tmp_path):
    members = [("1.png", image(1)), ("1.cls", b"0"), ("2.png", image(2) + bytes(9000)), ("2.cls", b"1")]
    digest = open_samples(write(tmp_path / "a/s.tar", members)).digest()
    assert open_samples(write(tmp_path / "b/s.tar", members)).digest() == digest
    samples = open_samples(tmp_path / "a")
    assert samples.encoded.ending(1) == (len(members[2][1]), bytes(4096)) and samples.encoded.ending(0)[1] == image(1)
    for change in (("2.png", image(2) + bytes(8999) + b"x"), ("2.png", image(2) + bytes(9001)), ("2.png", image(3))):
        changed = [*members[:2], change, members[3]]
        assert open_samples(write(tmp_path / "c/s.tar", changed)).digest() != digest
    samples = open_samples(write(tmp_path / "d/s.tar", members))
    write(tmp_path / "d/s.tar", samples_of(0, 2))
    assert samples.digest() != digest  # an unreadable image is no reason to stop here


# -- recognition -------------------------------------------------------------------------------------------------


def test_a_tar_beside_class_folders_does_not_make_them_shards(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 5)).save(tmp_path / name / "1.png")
    write(tmp_path / "backup.tar", samples_of(0, 2))
    assert not Shards.recognises(str(tmp_path)) and open_samples(tmp_path).format == "folder"


def test_split_folders_of_shards_are_recognised_and_split_folders_of_classes_are_not(tmp_path):
    write(tmp_path / "train/0.tar", samples_of(0, 3))
    write(tmp_path / "validation/0.tar", samples_of(3, 3))
    assert open_samples(tmp_path).split.tolist() == ["train"] * 3 + ["val"] * 3
    (tmp_path / "train/cat").mkdir()
    assert not Shards.recognises(str(tmp_path))


def test_a_folder_or_pipe_called_tar_is_no_shard(tmp_path):
    (tmp_path / "a.tar").mkdir()
    os.mkfifo(tmp_path / "b.tar")
    assert not Shards.recognises(str(tmp_path)) and not Shards.recognises(str(tmp_path / "b.tar"))


def test_braces_expand_as_the_shell_does():
    assert list(braces("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert list(braces("{x,y}/{1..2}")) == ["x/1", "x/2", "y/1", "y/2"]
    for many in ("{0..999999999}", "{0..999}{0..999}{0..999}"):
        with pytest.raises(DataError, match="more than 100,000 shards"):
            list(braces(many))


def test_missing_shards_of_a_pattern_are_listed(tmp_path):
    write(tmp_path / "t-0.tar", samples_of(0, 3))
    refused(f"{tmp_path}/t-{{0..3}}.tar", "3 shards not there", "t-1.tar", "t-3.tar")


def test_a_compressed_shard_names_the_ways_out(tmp_path):
    write(tmp_path / "a.tar.gz", samples_of(0, 3), mode="w:gz")
    refused(tmp_path / "a.tar.gz", "compressed", "ShardStream", format="shards")
    refused(tmp_path, "compressed", format="shards")


# -- damage and malice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, words", [
    (tarfile.SYMTYPE, "symbolic link"), (tarfile.LNKTYPE, "hard link"), (tarfile.CHRTYPE, "character device"),
    (tarfile.BLKTYPE, "block device"), (tarfile.FIFOTYPE, "a FIFO"), (tarfile.GNUTYPE_SPARSE, "sparse"),
    (b"Z", "unknown kind")])
def test_links_and_devices_in_a_shard_are_refused(tmp_path, kind, words):
    path = write(tmp_path / "a.tar", samples_of(0, 2))
    about = tarfile.TarInfo("evil.png")
    about.type, about.linkname = kind, "/etc/passwd"
    with open(path, "rb") as file:
        body = file.read(4 * 1024)
    path.write_bytes(body + about.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    refused(path, "evil.png", words)


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    refused(write(tmp_path / "a.tar", [(name, image(1)), ("b.cls", b"1")]), "leads out of a folder")


def test_a_cut_archive_is_named_with_the_member_wherever_it_is_cut(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(0, 3))
    data = path.read_bytes()
    for cut, word in ((100, "first header"), (4096 + 512 + 20, "00002.png"), (1024 + 100, "00000.png"),
                      (1024 + 512, "00000.cls")):
        path.write_bytes(data[:cut])
        refused(path, "ends within", word)
    path.write_bytes(data[:4 * 1024])  # between two members
    refused(path, "has no end mark after '00001.cls'")


def test_what_is_no_tar_and_a_damaged_header_are_named(tmp_path):
    path = tmp_path / "a.tar"
    for data in (b"<html>" * 1000, b"\x1f\x8b" * 600):
        path.write_bytes(data)
        refused(path, "is no tar archive")
    path.write_bytes(b"")
    refused(path, "holds no images")
    write(path, samples_of(0, 3))
    data = bytearray(path.read_bytes())
    data[1024 * 2 + 3] ^= 1
    path.write_bytes(data)
    refused(path, "damaged after '00000.cls'")


def test_all_bad_samples_are_counted_and_ten_are_listed(tmp_path):
    members = []
    for i in range(30):
        members += [(f"{i:02d}.png", image(i)), (f"{i:02d}.json", b'{"label": [1]}' if i % 2 else b"{")]
    refused(write(tmp_path / "a.tar", members), "30 samples", "00: .json is not JSON", "09: 'label' in .json",
            "20 more")


@pytest.mark.parametrize("members, word", [
    ([("1.png", b"x"), ("1.cls", b"")], ".cls is empty"), ([("1.png", b"x"), ("1.json", b"[" * 100000)], "not JSON"),
    ([("1.png", b"x"), ("1.json", b'["label"]')], "not an object"),
    ([("1.png", b"x"), ("1.cls", b"a" * 2000)], "2,000 characters"),
    ([("1.png", b"x"), ("1.jpg", b"y")], "has 2 images: png, jpg"), ([("1.png", b"x")], "no sample has a label"),
    ([("1.png", b"x"), ("1.cls", b"1"), ("2.png", b"x")], "1 sample without a label: a.tar/2.png"),
    ([("1.png", b"x"), ("1.cls", b"1"), ("2.cls", b"x"), ("1.png", b"z")], "the key comes twice"),
    ([("1.png", b"x"), ("1.json", b'{"label": -3}')], "labels from -3"), ([("1.cls", b"1")], "holds no images"),
    ([("1.png", b"x"), ("1.cls", bytes((1 << 20) + 1))], "over the limit"),
])
def test_a_bad_sample_is_named(tmp_path, members, word):
    refused(write(tmp_path / "a.tar", members), word)


@pytest.mark.parametrize("text, line", [("a\n\nb\n", 2), ("a\nb\na\n", 3), ("", 1)])
def test_a_bad_classes_txt_is_named_with_its_line(tmp_path, text, line):
    write(tmp_path / "a.tar", samples_of(0, 3))
    (tmp_path / "classes.txt").write_text(text)
    refused(tmp_path, f"classes.txt:{line}")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    write(tmp_path / "out.tar", samples_of(0, 2))
    write(tmp_path / "in/a.tar", samples_of(0, 2))
    (tmp_path / "in/b.tar").symlink_to(tmp_path / "out.tar")
    refused(tmp_path / "in", "leads out of the folder: b.tar")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_archives_end_in_samples_or_in_an_error_of_ours(data):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.tar", [("é" * 80 + f"{i}.{k}", v) for i in range(3) for k, v in
                                              (("png", image(i)), ("cls", b"%d" % (i % 2)))], tarfile.PAX_FORMAT)
        base = bytearray(path.read_bytes()[:9 * 1024])
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(base) - 1))
            base[place] = data.draw(st.integers(0, 255))
            if data.draw(st.booleans()):  # with a right sum, so that the change is seen
                head = base[place // 512 * 512:place // 512 * 512 + 512]
                base[place // 512 * 512 + 148:place // 512 * 512 + 156] = \
                    b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:]))
        path.write_bytes(base)
        read_or_refused(path)


@pytest.mark.slow
def test_a_hundred_thousand_samples_are_indexed_in_seconds(tmp_path):
    import time

    content = image(1)
    block = []
    for i in range(100_000):
        for name, data in ((f"{i:06d}.png", content), (f"{i:06d}.cls", b"%d" % (i % 10))):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            block.append(about.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
    (tmp_path / "a.tar").write_bytes(b"".join(block) + bytes(1024))
    start = time.process_time()
    assert len(open_samples(tmp_path / "a.tar")) == 100_000
    assert time.process_time() - start < 10
