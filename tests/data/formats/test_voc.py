from __future__ import annotations

import os
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.formats import refusals
from tests.image_zoo import tree_state
from visus.core.errors import DataError, UserError
from visus.data import open_samples
from visus.data.formats.voc.reader import Voc

BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd_voc.zip"


def xml(*objects: str, size: str = "<size><width>30</width><height>20</height><depth>3</depth></size>") -> str:
    return f"<annotation>\n<filename>a.jpg</filename>\n{size}\n" + "\n".join(objects) + "\n</annotation>\n"


def thing(name: str = "cat", box: tuple = (1, 2, 30, 20), extra: str = "") -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def make(root: Path, pages: dict[str, str | bytes], lists: dict[str, str] | None = None,
         folders: tuple[str, str] = ("Annotations", "JPEGImages"), images: bool = True) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (root / folders[0] / f"{name}.xml").write_bytes(text.encode() if isinstance(text, str) else text)
        if images:
            Image.new("RGB", (30, 20)).save(root / folders[1] / f"{name}.jpg")
    for name, text in (lists or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def refused(root: Path, *words: str) -> None:
    before = tree_state(root)
    refusals.refused(root, *words, format="voc")
    assert tree_state(root) == before


@pytest.mark.skipif(not BCCD.is_file(), reason="BCCD is not in ../shared/data")
def test_the_blood_cells_have_their_published_counts_and_splits(tmp_path):
    with zipfile.ZipFile(BCCD) as file:
        file.extractall(tmp_path)
    samples = open_samples(tmp_path / "BCCD")
    assert samples.format == "voc" and samples.classes == ("Platelets", "RBC", "WBC")
    assert np.bincount(samples.objects.labels).tolist() == [361, 4155, 372] and len(samples) == 364
    assert [(samples.split == s).sum() for s in ("train", "val", "test")] == [205, 87, 72]
    counts = np.diff(samples.objects.start)
    assert counts.min() == 1 and counts.max() == 30 and (samples.stated_sizes == (480, 640)).all()
    i = samples.paths.index("JPEGImages/BloodImage_00338.jpg")
    assert samples.objects.of(i, 480, 640).boxes[0].tolist() == [452.0, 80.0, 555.0, 182.0]
    widths = samples.objects.boxes[:, 2:] - samples.objects.boxes[:, :2]
    assert (widths.min(1) > 0).all() and (widths == 1).all(1).sum() == 2  # one pixel, counted from and to it


def test_boxes_counted_from_one_become_edges_counted_from_zero_and_difficult_is_kept(tmp_path):
    hard = thing("dog", (2.5, 3.25, 9.75, 10), "<difficult>1</difficult>")
    make(tmp_path, {"a": xml(thing("cat", (1, 2, 30, 20)), hard), "b": xml()})
    samples = open_samples(tmp_path)
    assert samples.paths == ("JPEGImages/a.jpg", "JPEGImages/b.jpg") and samples.classes == ("cat", "dog")
    assert samples.objects.boxes.tolist() == [[0, 1, 30, 20], [1.5, 2.25, 9.75, 10]]
    assert samples.objects.difficult.tolist() == [False, True] and samples.objects.start.tolist() == [0, 2, 2]
    assert samples.targets.tolist() == [[1, 1], [0, 0]] and samples.stated_sizes.tolist() == [[20, 30]] * 2
    assert not samples.objects.relative and samples.category_ids is None


def test_boxes_equal_those_that_the_standard_librarys_tree_gives(tmp_path):
    import xml.etree.ElementTree as ET

    draw = np.random.default_rng(0)
    pages = {}
    for i in range(20):
        first = draw.integers(1, 15, (5, 2))
        last = first + draw.integers(0, 6, (5, 2))
        pages[f"{i:02}"] = xml(*(thing("ab"[k % 2], (*first[k], *last[k])) for k in range(i % 6)))
    make(tmp_path, pages)
    samples = open_samples(tmp_path)
    for i, text in enumerate(pages.values()):
        want = [[float(o.findtext(f"bndbox/{s}")) for s in ("xmin", "ymin", "xmax", "ymax")]
                for o in ET.fromstring(text).iter("object")]
        have = samples.objects.of(i, 20, 30).boxes + np.array([1, 1, 0, 0])
        np.testing.assert_array_equal(have, np.reshape(want, (-1, 4)))


def test_lists_give_the_splits_and_what_no_list_names_is_left_out_and_said(tmp_path):
    make(tmp_path, {n: xml(thing()) for n in "abcd"},
         {"train": "a\n", "val": "c\n", "trainval": "a\nc\n", "test": "b\nz\n", "cat_train": "a  1\n"})
    samples = open_samples(tmp_path)
    assert dict(zip(samples.paths, samples.split, strict=True)) == {
        "JPEGImages/a.jpg": "train", "JPEGImages/c.jpg": "val", "JPEGImages/b.jpg": "test"}
    notes = " ".join(samples.notes)
    assert "1 image without XML not used: z" in notes and "1 XML file in none of the lists" in notes


def test_trainval_alone_is_the_training_split(tmp_path):
    make(tmp_path, {n: xml(thing()) for n in "ab"}, {"trainval": "a\n", "test": "b\n"})
    assert open_samples(tmp_path).split.tolist() == ["train", "test"]


def test_the_devkit_with_two_years_is_read_as_one_set(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make(tmp_path / "VOCdevkit" / year, {year: xml(thing())}, {"train": year})
    for path in (tmp_path, tmp_path / "VOCdevkit"):
        assert [p.rsplit("/", 1)[1] for p in open_samples(path).paths] == ["VOC2007.jpg", "VOC2012.jpg"]


def test_xml_beside_the_images_in_split_folders_is_recognised(tmp_path):
    for split in ("train", "valid", "test"):
        make(tmp_path / split, {split: xml(thing())}, folders=(".", "."))
    samples = open_samples(tmp_path)
    assert samples.split.tolist() == ["train", "val", "test"] and samples.paths[1] == "valid/valid.jpg"


def test_lower_case_folders_and_another_file_name_in_the_xml_are_read(tmp_path):
    make(tmp_path, {"1": xml(thing())}, folders=("annotations", "images"))
    (tmp_path / "images" / "1.jpg").rename(tmp_path / "images" / "a.jpg")
    assert open_samples(tmp_path).paths == ("images/a.jpg",)


def test_a_folder_of_class_folders_stays_one(tmp_path):
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "a.jpg")
    assert not Voc.recognises(str(tmp_path)) and open_samples(tmp_path).format == "folder"


def test_what_is_not_used_is_counted_in_the_notes(tmp_path):
    make(tmp_path, {"a": xml(thing(extra="<truncated>1</truncated><pose>Left</pose>"), thing(), size="")})
    samples = open_samples(tmp_path)
    assert "not used: the mark 'truncated' of 1 object" in samples.notes and samples.stated_sizes is None
    assert any("1 XML file without the size of the image: Annotations/a.xml" in note for note in samples.notes)


BOMB = ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)) + "]><annotation>&j;</annotation>")
FAULTS = {
    "not xml": ("hello", ":1:", "is not XML"),
    "empty": ("", ":1:", "is not XML"),
    "cut": (xml(thing())[:80], "is not XML"),
    "billion laughs": (BOMB, ":1:", "DTD"),
    "external entity": ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DTD"),
    "entity without dtd": (xml(thing("&x;")), "undefined entity"),
    "other root": ("<annotations><image/></annotations>", "<annotations>"),
    "svg": ("<svg/>", "<svg>"),
    "xmin over xmax": (xml(thing(), thing(box=(9, 1, 8, 5))), "a.xml:5:", "xmin 9 > xmax 8"),
    "ymin over ymax": (xml(thing(box=(1, 7, 8, 5))), "a.xml:4:", "ymin 7 > ymax 5"),
    "text for a side": (xml(thing(box=("1,5", 1, 8, 5))), "xmin is '1,5'"),
    "nan": (xml(thing(box=("nan", 1, 8, 5))), "xmin is 'nan'"),
    "infinity": (xml(thing(box=(1, 1, "1e999", 5))), "xmax is '1e999'"),
    "underscore": (xml(thing(box=(1, 1, "1_0", 5))), "xmax is '1_0'"),
    "no bndbox": (xml("<object><name>cat</name></object>"), "'cat' has no bndbox"),
    "empty bndbox": (xml("<object><name>cat</name><bndbox/></object>"), "no xmin and no ymin"),
    "half a bndbox": (xml(thing().replace("<ymax>20</ymax>", "")), "has no ymax"),
    "two bndboxes": (xml(thing(extra="<bndbox/>")), "<bndbox> is there twice"),
    "no name": (xml(thing("")), "without name"),
    "difficult": (xml(thing(extra="<difficult>maybe</difficult>")), "difficult is 'maybe'"),
    "unknown encoding": (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "'utf-7'"),
    "not utf-8": (b"<annotation>\n\xff</annotation>", ":2:", "is not text in utf-8"),
    "utf-16 cut": (b"\xff\xfe<", "is not text in utf-16"),
    "zero bytes": (b"\0" * 40, "is not XML"),
    "lone surrogate": (b"<annotation>&#xD800;</annotation>", "is not XML"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_malformed_file_is_refused_by_name(tmp_path, name):
    text, *words = FAULTS[name]
    refused(make(tmp_path, {"good": xml(thing()), "a": text}), "Annotations/a.xml", "1 record", *words)


def test_all_malformed_files_are_counted_and_ten_are_listed(tmp_path):
    refused(make(tmp_path, {f"{i:02}": "x" for i in range(15)}), "15 records", "09.xml", "and 5 more")


def test_an_oversized_file_and_deep_nesting_are_refused_in_a_moment(tmp_path):
    make(tmp_path, {"a": xml(thing())})
    with open(tmp_path / "Annotations" / "a.xml", "r+b") as file:
        file.truncate(50 << 20)
    refused(tmp_path, "larger than the limit of 10 MiB")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    deep = "<annotation>" + "<a>" * 200_000
    for text in (deep, deep + "</a>" * 200_000 + "</annotation>", BOMB):
        (tmp_path / "Annotations" / "a.xml").write_text(text)
        try:
            open_samples(tmp_path, "voc")
        except DataError:
            pass
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # KiB


def test_an_annotation_without_image_and_an_image_in_two_splits_are_refused(tmp_path):
    refused(make(tmp_path / "1", {"a": xml(thing())}, images=False), "1 annotation without its image", "a.xml")
    refused(make(tmp_path / "2", {"a": xml(thing())}, {"train": "a", "test": "a"}), "two splits", "a (train and test)")
    refused(make(tmp_path / "3", {"a": xml(thing())}, {"train": "b"}), "name no image")


def test_a_class_that_the_lists_do_not_know_and_one_in_two_spellings_are_refused(tmp_path):
    refused(make(tmp_path / "1", {"a": xml(thing("cart"))}, {"train": "a", "cat_train": "a 1", "dog_train": "a -1"}),
            "unknown class", "'cart'", "'cat'")
    refused(make(tmp_path / "2", {"a": xml(thing("cat"), thing("Cat"))}), "Cat and cat")


def test_nothing_outside_the_folder_is_read(tmp_path):
    make(tmp_path / "out", {"b": xml(thing())})
    root = make(tmp_path / "in", {"a": xml(thing())})
    os.symlink(tmp_path / "out" / "Annotations" / "b.xml", root / "Annotations" / "b.xml")
    refused(root, "b.xml leads out of the folder")
    os.unlink(root / "Annotations" / "b.xml")
    os.mkfifo(root / "Annotations" / "c.xml")
    assert len(open_samples(root)) == 1
    (root / "Annotations" / "a.xml").rename(root / "Annotations" / "x.xml")
    text = xml(thing()).replace("a.jpg", "../../out/JPEGImages/b.jpg")
    (root / "Annotations" / "x.xml").write_text(text)
    refused(root, "without its image")


VALID = xml(thing(), thing("dog", (2, 2, 9.5, 9)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@example(None)
def test_whatever_the_bytes_only_user_errors_are_raised(tmp_path_factory, data):
    root = Path(tmp_path_factory.getbasetemp()) / "voc-fuzz"
    if not root.exists():
        make(root, {"a": VALID})
    content = bytearray(VALID.encode())
    for _ in range(0 if data is None else data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at:at + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12) | st.sampled_from(
            [b"<object>", b"</annotation>", b"&#0;", b"<![CDATA[", b"-1", b"nan", b"<bndbox>", b"\xff"]))
    (root / "Annotations" / "a.xml").write_bytes(content)
    try:
        assert len(open_samples(root, "voc")) == 1
    except UserError as error:
        assert error.where


@settings(max_examples=300, deadline=None)
@given(st.floats(0.5, 1e8))
def test_a_side_from_a_half_on_is_the_same_number_after_one_is_taken_off_and_added(side):
    assert (side - 1.0) + 1.0 == side
