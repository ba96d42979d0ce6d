"""Fetching a data set from a server on the loopback device that breaks, lies and serves bombs."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import visus.core.download
import visus.run.get_data as module
from tests.data.formats.test_cifar import IMAGES, LABELS, ten
from tests.data.formats.test_shards import image
from tests.loopback import Server, serve
from visus.cli.main import main
from visus.core.download import DownloadError
from visus.core.errors import DataError, ResourceError
from visus.data import open_samples
from visus.data.sets import CardFile, data_card
from visus.run.get_data import check_data, get_data


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(visus.core.download, "PAUSE_S", 0.0)
    server = Server()
    server.files = {}
    server.behave = lambda h, path, n: serve(h, path, n, content=server.files[path[1:]]) if path[1:] in server.files \
        else h.send_error(404)
    yield server
    server.close()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def tar_gz(folder) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder.parent).as_posix(), recursive=False)
    return file.getvalue()


@pytest.fixture
def cifar(server, tmp_path):
    """The card of CIFAR-10 for a small set on the server."""
    data = tar_gz(ten(tmp_path / "made" / "cifar-10-batches-py"))
    server.files["cifar.tar.gz"] = data
    file = CardFile(name="cifar.tar.gz", url=f"{server.url}/cifar.tar.gz", bytes=len(data), md5=md5(data), unpack=True)
    return replace(data_card("cifar10"), files=(file,), megabytes=len(data) / 1e6,
                   check={"train": 20, "test": 4, "classes": 10})


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_set_is_fetched_unpacked_and_read_and_is_as_published(cifar, server, tmp_path):
    told = []
    path = get_data(cifar, tmp_path / "to", progress=lambda *n: told.append(n))
    assert path == tmp_path / "to/cifar10/cifar-10-batches-py"
    samples = open_samples(path)
    np.testing.assert_array_equal(samples.images, IMAGES)
    np.testing.assert_array_equal(samples.targets, LABELS)
    assert check_data(cifar, path) == []
    assert names(tmp_path / "to") == ["cifar10"]  # no archive and nothing half is left
    assert {what for what, _, _ in told} == {"fetch cifar.tar.gz", "unpack cifar.tar.gz"}
    get_data(cifar, tmp_path / "to")
    assert len(server.seen) == 1


def test_a_broken_connection_is_gone_on_with_by_a_later_call(cifar, server, tmp_path):
    whole = server.files["cifar.tar.gz"]
    server.behave = lambda h, p, n: serve(h, p, n, content=whole, cut=5000) if n == 1 else h.send_error(404)
    with pytest.raises(DownloadError, match="404"):
        get_data(cifar, tmp_path / "to")
    assert names(tmp_path / "to") == [".cifar10.download"]
    server.behave = lambda h, p, n: serve(h, p, n, content=whole)
    get_data(cifar, tmp_path / "to")
    assert server.seen[-1][1] == "bytes=5000-" and names(tmp_path / "to") == ["cifar10"]


@pytest.mark.parametrize("change, word", [
    ({"md5": "0" * 32}, "has the MD5"), ({"bytes": 12}, "more than the limit"),
    ({"bytes": 10**6}, "published are 1,000,000"), ({"sha256": "1" * 64, "md5": None}, "SHA-256")])
def test_a_file_that_is_not_the_published_one_is_not_kept(cifar, tmp_path, change, word):
    card = replace(cifar, files=(replace(cifar.files[0], **change),))
    for _ in range(2):
        with pytest.raises(DownloadError, match=word):
            get_data(card, tmp_path / "to")
    assert not (tmp_path / "to/cifar10").exists()
    assert not (tmp_path / "to/.cifar10.download/cifar.tar.gz").exists()
    assert get_data(cifar, tmp_path / "to").is_dir()


def test_an_archive_that_leads_out_leaves_nothing(cifar, server, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        about = tarfile.TarInfo("good")
        archive.addfile(about)
        about = tarfile.TarInfo("../../evil")
        archive.addfile(about)
    server.files["cifar.tar.gz"] = file.getvalue()
    card = replace(cifar, files=(replace(cifar.files[0], md5=None, bytes=None),))
    with pytest.raises(DataError, match="leads out of a folder"):
        get_data(card, tmp_path / "to")
    assert names(tmp_path / "to") == [".cifar10.download"] and not (tmp_path / "evil").exists()


def test_archives_within_an_archive_are_unpacked_when_the_card_says_so(server, tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name in ("cat/1.png", "dog/1.png"):
            about = tarfile.TarInfo(f"101_ObjectCategories/{name}")
            about.size = len(image(1))
            archive.addfile(about, io.BytesIO(image(1)))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())
    server.files["c.zip"] = outer.getvalue()
    card = data_card("caltech101")
    file = replace(card.files[0], name="c.zip", url=f"{server.url}/c.zip", md5=None)
    card = replace(card, files=(file,), megabytes=1, check={"all": 2, "classes": 2})
    path = get_data(card, tmp_path)
    assert open_samples(path).classes == ("cat", "dog") and check_data(card, path) == []
    assert check_data(replace(card, check={"all": 9144}), path) == ["2 images, published are 9,144"]
    server.files["c.zip"] = tar_gz(path)
    with pytest.raises(DataError, match="does not hold 'caltech-101/101_ObjectCategories.tar.gz'"):
        get_data(card, tmp_path / "other")


def test_files_that_are_no_archives_are_kept_as_they_are(server, tmp_path):
    for name, shape in (("train-images-idx3-ubyte.gz", (4, 5, 5)), ("train-labels-idx1-ubyte.gz", (4,))):
        values = np.arange(np.prod(shape)).astype(np.uint8) % 2
        server.files[name] = gzip.compress(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
                                           + values.tobytes())
    files = tuple(CardFile(name=name, url=f"{server.url}/{name}", md5=md5(data)) for name, data in server.files.items())
    path = get_data(replace(data_card("mnist"), files=files), tmp_path)
    assert len(open_samples(path)) == 4 and open_samples(path).format == "idx"


def test_a_folder_of_the_users_is_never_touched(cifar, tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already, and was not fetched by visus"):
        get_data(cifar, tmp_path)
    assert (tmp_path / "cifar10/mine.txt").read_text() == "mine"


def test_space_is_looked_at_before_anything_is_fetched(cifar, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(ResourceError, match=r"2\.2 GB are needed"):
        get_data(replace(cifar, megabytes=1000), tmp_path)
    assert not server.seen


def test_a_set_that_is_given_out_by_hand_says_how(tmp_path):
    with pytest.raises(DataError, match=r"Cityscapes cannot be fetched for you.*Register at cityscapes-dataset.com"):
        get_data("cityscapes", tmp_path)
    with pytest.raises(DataError, match="'mnist'"):
        get_data("mnits", tmp_path)
    assert not names(tmp_path)


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def known(cifar, monkeypatch):
    monkeypatch.setattr(module, "data_card", lambda name: cifar)
    return cifar


def test_the_command_shows_licence_and_size_fetches_checks_and_says_what_to_train(known, tmp_path, capsys):
    assert main(["data", "get", "cifar10", "--to", str(tmp_path / "to"), "--yes"]) == 0
    out = capsys.readouterr().out
    assert out.index("licence  none stated") < out.index("download") < out.index("counts   all counts are as published")
    assert out.rstrip().endswith(f"visus train {tmp_path}/to/cifar10/cifar-10-batches-py")
    assert main(["data", "get", "cifar10", "--check", str(tmp_path / "to/cifar10")]) == 0
    assert main(["data", "get", "cifar10", "--to", str(tmp_path / "to")]) == 0  # is there: nothing to agree to


def test_nothing_is_fetched_without_a_yes(known, server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["data", "get", "cifar10", "--to", str(tmp_path / "to")]) == 2
    assert "--yes" in capsys.readouterr().err and not server.seen and not (tmp_path / "to").exists()


def test_differences_from_the_published_counts_end_with_2(capsys):
    assert main(["data", "get", "svhn", "--check", "digits"]) == 2
    assert main(["data", "get", "cifar100", "--check", "digits"]) == 2


def test_the_list_names_every_set(capsys):
    from visus.data.sets import data_cards

    assert main(["data", "get", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in data_cards())
    assert main(["data", "get"]) == 2 and "--list" in capsys.readouterr().err
