"""Cards of the standard data sets: complete, well formed, and compared with the data where they are."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visus.core.errors import DataError
from visus.data import open_samples
from visus.data.formats import data_formats
from visus.data.sets import check_counts, data_card, data_cards

ROOT = Path(__file__).resolve().parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")
SHARED = ROOT.parent / "shared" / "data"


def test_every_row_of_the_catalogues_section_has_a_card():
    rows = {line.split("\t")[0] for line in (ROOT / "docs/catalogue.tsv").read_text().splitlines()}
    wanted = {row for row in rows if row.startswith("19.")}
    assert len(wanted) == 44 and {row for card in data_cards().values() for row in card.rows} == wanted


@pytest.mark.parametrize("card", data_cards().values(), ids=lambda card: card.name)
def test_a_card_says_what_it_must(card):
    assert card.title and card.what and card.task and card.licence and card.citation
    assert card.page.startswith(("http://", "https://")) or card.name == "synthetic"
    assert card.fetchable or card.how
    assert card.format is None or card.format in data_formats.names()
    assert all(isinstance(n, int) and n > 0 for n in card.counts.values())
    for file in card.files:
        assert file.url is None or file.url.startswith("https://")
        assert file.md5 is None or re.fullmatch("[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert "/" not in file.name
    assert len({f.name for f in card.files}) == len(card.files)
    digests = [f.md5 for f in card.files if f.md5]
    assert len(set(digests)) == len(digests)
    if card.megabytes and card.files and all(f.bytes for f in card.files):
        assert sum(f.bytes for f in card.files) / 1e6 == pytest.approx(card.megabytes, rel=0.01)


def test_checksums_and_addresses_equal_those_of_torchvision():
    spec = importlib.util.find_spec("torchvision")  # its text is enough, it need not be imported
    if spec is None:
        pytest.skip("torchvision is not installed")
    text = "".join(p.read_text() for p in (Path(spec.origin).parent / "datasets").glob("*.py"))
    compared = 0
    for name in ("imagenet1k", "cifar10", "cifar100", "mnist", "fashion_mnist", "caltech101", "voc2007", "voc2010",
                 "voc2012", "sbd", "gtsrb", "wider_face", "celeba", "svhn"):
        for file in data_card(name).files:
            assert file.md5 in text, f"{name}: {file.name}"
            compared += 1
    assert compared == 30


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(DataError, match="'cifar10'"):
        data_card("cifar-10")


def test_a_difference_of_counts_is_said_in_words():
    samples = open_samples("digits")
    card = replace(data_card("mnist"), check={"all": 1797, "classes": 10})
    assert check_counts(card, samples) == []
    assert check_counts(replace(card, check={"all": 1798, "classes": 11, "train": 5}), samples) == [
        "1,797 images, published are 1,798", "10 classes, published are 11", "0 train images, published are 5"]
    with pytest.raises(DataError, match="no counts"):
        check_counts(data_card("timit"), samples)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_as_published():
    assert check_counts(data_card("fashion_mnist"), open_samples(FASHION, "idx")) == []


@pytest.mark.skipif(not (SHARED / "cifar10_test.npz").is_file(), reason="the shared CIFAR-10 is not here")
def test_the_shared_cifar_10_test_images_are_as_published():
    labels = np.load(SHARED / "cifar10_test.npz")["y"]
    assert len(labels) == data_card("cifar10").check["test"] and len(np.unique(labels)) == 10


@pytest.mark.skipif(not (SHARED / "tinyshakespeare.txt").is_file(), reason="the shared text is not here")
def test_tiny_shakespeare_has_the_stated_digest_and_counts():
    from visus.core.files import sha256

    card = data_card("tiny_shakespeare")
    path = SHARED / "tinyshakespeare.txt"
    assert sha256(path) == card.files[0].sha256 and path.stat().st_size == card.files[0].bytes
    text = path.read_text()
    assert card.counts == {"characters": len(text), "distinct characters": len(set(text))}


def test_the_page_of_the_cards_is_fresh():
    done = subprocess.run([sys.executable, "tools/data_cards.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
