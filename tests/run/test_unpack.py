"""Archives that lie, grow, link and climb: nothing outside of the folder is written."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import visus.run.unpack
from visus.core.errors import DataError, UserError
from visus.run.unpack import unpack

FILES = {"a/one.txt": b"1" * 10, "a/b/two.bin": bytes(range(256)) * 3000, "three": b""}


def make_zip(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path, files=FILES, mode="w"):
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def content_of(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive, tmp_path, *words, **options):
    before = sorted(p for p in tmp_path.iterdir() if p.name != "out")
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path / "out", **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.where == str(archive) and caught.value.remedy
    assert sorted(p for p in tmp_path.iterdir() if p.name != "out") == before


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_of_every_packing_gives_its_files(tmp_path, mode):
    told = []
    assert unpack(make_tar(tmp_path / "x", mode=mode), tmp_path / "out", progress=told.append) == 3
    assert content_of(tmp_path / "out") == FILES and told[-1] == sum(map(len, FILES.values()))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zip_gives_its_files_and_leaves_system_files_out(tmp_path, compression):
    files = {**FILES, "__MACOSX/._x": b"m", "a/.DS_Store": b"d"}
    unpack(make_zip(tmp_path / "x.zip", files, compression), tmp_path / "out")
    assert content_of(tmp_path / "out") == FILES


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "a\\..\\..\\x", "..", "a/" * 40 + "x",
                                  "n" * 300])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_out_or_are_impossible_are_refused(tmp_path, name, make):
    refused(make(tmp_path / "x", {name: b"x"}), tmp_path, "name")
    assert not content_of(tmp_path / "out")


@pytest.mark.parametrize("names", [("Cat.png", "cat.png"), ("a", "a/b"), ("a/b", "a"), ("\u00e9", "e\u0301"),
                                   ("a//b", "a/b")])
def test_names_that_meet_in_one_place_are_refused(tmp_path, names):
    for make in (make_zip, make_tar):
        refused(make(tmp_path / "x", dict.fromkeys(names, b"x")), tmp_path, "two entries of one name")
        for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        about = tarfile.TarInfo("link")
        about.type, about.linkname = kind, "/etc"
        archive.addfile(about)
        archive.addfile(tarfile.TarInfo("link/passwd"))
    refused(tmp_path / "x.tar", tmp_path, "'link' is a")


def test_links_and_encrypted_entries_in_a_zip_are_refused(tmp_path):
    about = zipfile.ZipInfo("link")
    about.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(about, "/etc/passwd")
    refused(tmp_path / "x.zip", tmp_path, "link or a device")
    data = bytearray(make_zip(tmp_path / "y.zip", {"a": b"x"}).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    (tmp_path / "y.zip").write_bytes(data)
    refused(tmp_path / "y.zip", tmp_path, "encrypted")


def test_bombs_are_refused_before_or_while_they_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(visus.run.unpack, "_SMALL", 1 << 20)
    bomb = make_zip(tmp_path / "x.zip", {f"{i}": bytes(2 << 20) for i in range(3)})
    refused(bomb, tmp_path, "claims 6 MiB when unpacked")
    assert not content_of(tmp_path / "out")
    packed = make_tar(tmp_path / "x.tar.gz", {"a": bytes(4 << 20)}, "w:gz")
    refused(packed, tmp_path, "unpacks to more than 200 times its size")
    shutil.rmtree(tmp_path / "out")
    refused(make_tar(tmp_path / "y.tar"), tmp_path, "more than 0 MiB", max_bytes=1000)
    shutil.rmtree(tmp_path / "out")
    refused(make_tar(tmp_path / "y.tar"), tmp_path, "more than 2 files", max_entries=2)
    refused(make_zip(tmp_path / "y.zip"), tmp_path, "3 entries, over the limit of 2", max_entries=2)


def test_a_zip_that_understates_a_size_gives_no_more_than_it_states(tmp_path):
    data = bytearray(make_zip(tmp_path / "x.zip", {"a": b"x" * 5000}).read_bytes())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(mark) + place
        data[at:at + 4] = struct.pack("<I", 10)
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UserError):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert all(len(content) <= 10 for content in content_of(tmp_path / "out").values())


def test_cut_and_foreign_files_are_named(tmp_path):
    for make, name in ((make_zip, "x.zip"), (make_tar, "x.tar")):
        whole = make(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:len(whole) // 2])
        refused(tmp_path / name, tmp_path)
    (tmp_path / "x.html").write_bytes(b"<html>not found</html>" * 50)
    refused(tmp_path / "x.html", tmp_path, "is no tar archive")
    data = bytearray(make_zip(tmp_path / "y.zip", {"c": b"content" * 100}, zipfile.ZIP_STORED).read_bytes())
    data[60] ^= 1
    (tmp_path / "y.zip").write_bytes(data)
    refused(tmp_path / "y.zip", tmp_path, "damaged")


def test_what_is_there_is_never_replaced(tmp_path):
    unpack(make_zip(tmp_path / "x.zip"), tmp_path / "out")
    unpack(make_tar(tmp_path / "y.tar"), tmp_path / "out")  # the same content
    refused(make_zip(tmp_path / "z.zip", {"three": b"other"}), tmp_path, "there already with another content")
    refused(make_zip(tmp_path / "z.zip", {"a/one.txt": b"1" * 9}), tmp_path, "there already with another content")
    refused(make_zip(tmp_path / "z.zip", {"a": b"x"}), tmp_path, "there already")
    assert content_of(tmp_path / "out") == FILES


def test_a_link_that_lies_in_the_folder_is_not_written_through(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "out/three").symlink_to(tmp_path / "target")
    refused(make_zip(tmp_path / "x.zip", {"three": b"theirs"}), tmp_path, "there already")
    assert (tmp_path / "target").read_bytes() == b"mine"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_archives_end_in_files_or_in_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("u")
    make = data.draw(st.sampled_from([make_zip, make_tar]))
    path = make(folder / "x", {"a/one.txt": b"1" * 10, "b": b"2" * 700})
    base = bytearray(path.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 5))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(base)
    try:
        unpack(path, folder / "out" / "deeper")
    except UserError:
        pass
    assert {p.name for p in folder.iterdir()} <= {"x", "out"}
    assert {p.name for p in (folder / "out").iterdir()} <= {"deeper"} if (folder / "out").exists() else True
