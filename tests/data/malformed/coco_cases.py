"""Malformed COCO files (reliability.md 2.1, rows 32 to 40)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.malformed.case import Case
from tests.data.malformed.healthy import HIGH, WIDE, coco, coco_book

FILE = r"instances_train\.json"


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    """A healthy file after `change` of what it holds; what that returns takes its place unless it is None."""
    def make(folder: Path) -> Path:
        book = coco_book()
        other = change(book)
        return coco(folder, book if other is None else other)

    return make


def text(data: bytes | str) -> Callable[[Path], Path]:
    return lambda folder: coco(folder, text=data)


def of(section: str, at: int, **values: Any) -> Callable[[Path], Path]:
    """Values of one record; None takes the key out."""
    def change(book: dict[str, Any]) -> None:
        for key, value in values.items():
            if value is None:
                del book[section][at][key]
            else:
                book[section][at][key] = value

    return changed(change)


def raw(before: str, after: str) -> Callable[[Path], Path]:
    """A part of the healthy file's text in other words."""
    whole = json.dumps(coco_book())
    assert before in whole
    return text(whole.replace(before, after, 1))


HEALTHY = json.dumps(coco_book())
CASES = [
    Case("coco: not JSON", text("<html>404</html>"), rf"{FILE}.*(JSON|HTML)"),
    Case("coco: empty file", text(b""), rf"{FILE}.*empty"),
    Case("coco: cut", text(HEALTHY[:len(HEALTHY) // 2]), rf"{FILE}:1:\d+.*JSON"),
    Case("coco: cut inside a word", text(HEALTHY[:-3]), rf"{FILE}:1:\d+.*JSON"),
    Case("coco: UTF-16", text(HEALTHY.encode("utf-16")), rf"{FILE}.*UTF"),
    Case("coco: bytes that are no UTF-8", text(HEALTHY.replace("cat", "c?t").encode().replace(b"c?t", b"c\xff\xfet")),
         rf"{FILE}:1:\d+.*UTF-8.*0xff"),
    Case("coco: NaN as a number", raw('"bbox": [1, 2', '"bbox": [NaN, 2'), rf"{FILE}.*NaN"),
    Case("coco: Infinity as a number", raw('"bbox": [1, 2', '"bbox": [Infinity, 2'), rf"{FILE}.*Infinity"),
    Case("coco: a number of 5,000 digits", raw('"area": 30', '"area": ' + "9" * 5000), rf"{FILE}:1:\d+.*digits"),
    Case("coco: nested 100,000 deep", text('{"images": ' + "[" * 100_000), rf"{FILE}:1:\d+.*deep"),
    Case("coco: a key twice in a record", raw('"id": 10,', '"id": 10, "id": 99,'), rf"{FILE}:1:\d+.*'id'.*twice"),
    Case("coco: images twice", raw('"images":', '"images": [], "images":'), rf"{FILE}:1:\d+.*'images'.*twice"),
    Case("coco: a list on top", changed(lambda b: b["annotations"]), rf"{FILE}:1:1.*list"),
    Case("coco: no images", changed(lambda b: b.pop("images") and None), rf"{FILE}.*images"),
    Case("coco: no categories", changed(lambda b: b.pop("categories") and None), rf"{FILE}.*categories"),
    Case("coco: images is an object", changed(lambda b: {**b, "images": {}}), rf"{FILE}.*images"),
    Case("coco: a record is a number", changed(lambda b: {**b, "annotations": [5]}), rf"{FILE}.*annotations\[0\]"),
    Case("coco: annotation without id", of("annotations", 1, id=None), rf"{FILE}.*annotations\[1\]"),
    Case("coco: annotation without image_id", of("annotations", 1, image_id=None), rf"{FILE}.*annotations\[1\]"),
    Case("coco: annotation without category_id", of("annotations", 1, category_id=None), rf"{FILE}.*annotations\[1\]"),
    Case("coco: annotation without bbox", of("annotations", 2, bbox=None), rf"{FILE}.*annotations\[2\]"),
    Case("coco: image_id of no image", of("annotations", 0, image_id=99), rf"{FILE}.*annotations\[0\].*\b99\b"),
    Case("coco: category_id of no category", of("annotations", 0, category_id=2), rf"{FILE}.*annotations\[0\].*\b2\b"),
    Case("coco: an id of another kind", of("annotations", 0, image_id="1"),
         rf"{FILE}.*image_id.*text.*annotations\[\d\]"),
    Case("coco: two images of one id", of("images", 1, id=1), rf"{FILE}.*images.*: 1"),
    Case("coco: two annotations of one id", of("annotations", 1, id=10), rf"{FILE}.*annotations.*: 10"),
    Case("coco: two categories of one id", of("categories", 1, id=1), rf"{FILE}.*categories.*: 1"),
    Case("coco: two categories of one name", of("categories", 1, name="cat"), rf"{FILE}.*'cat' \(ids 1, 7\)"),
    Case("coco: an id that is no number", of("images", 0, id=[1]), rf"{FILE}.*images\[0\]"),
    Case("coco: an id beyond 64 bits", of("images", 0, id=2**70), rf"{FILE}.*(images|annotations)\[0\]"),
    Case("coco: a box of three numbers", of("annotations", 0, bbox=[1, 2, 3]), rf"{FILE}.*annotations\[0\]"),
    Case("coco: a box of words", of("annotations", 0, bbox=["1", "2", "3", "4"]), rf"{FILE}.*annotations\[0\]"),
    Case("coco: a box of negative width", of("annotations", 0, bbox=[5, 5, -3, 4]), rf"{FILE}.*annotations\[0\]"),
    Case("coco: corners in the place of width and height",
         changed(lambda b: {**b, "annotations": [{"id": k, "image_id": k % 4 + 1, "category_id": 1,
                                                  "bbox": [7, 5, 15, 11], "iscrowd": 0} for k in range(8)]}),
         rf"{FILE}.*(corner|x1|x2|right)"),
    Case("coco: another size than the file's",
         changed(lambda b: {**b, "annotations": b["annotations"][2:],
                            "images": [{**row, "width": HIGH, "height": WIDE} for row in b["images"]]}),
         rf"(\.png|{FILE}).*{WIDE}"),
    Case("coco: a polygon of two points", of("annotations", 0, segmentation=[[1, 2, 3, 4]]),
         rf"{FILE}.*annotations\[0\]"),
    Case("coco: a polygon of an odd count", of("annotations", 0, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
         rf"{FILE}.*annotations\[0\]"),
    Case("coco: runs of another size", of("annotations", 1, segmentation={"size": [5, 5], "counts": [25]}),
         rf"{FILE}.*annotations\[1\]"),
    Case("coco: runs that sum to less", of("annotations", 1, segmentation={"size": [HIGH, WIDE], "counts": [3, 4]}),
         rf"{FILE}.*annotations\[1\]"),
    Case("coco: a run of 2^40", of("annotations", 1, segmentation={"size": [HIGH, WIDE], "counts": [2**40]}),
         rf"{FILE}.*annotations\[1\]"),
    Case("coco: a compressed code with other characters",
         of("annotations", 1, segmentation={"size": [HIGH, WIDE], "counts": "\u00e9\u4e2d~~"}),
         rf"{FILE}.*annotations\[1\]"),
    Case("coco: a mask of 10^12 pixels",
         of("annotations", 1, segmentation={"size": [10**6, 10**6], "counts": [10**12]}), rf"{FILE}.*annotations\[1\]"),
    Case("coco: keypoints of another count", of("annotations", 0, keypoints=[1, 2, 2]), rf"{FILE}.*annotations\[0\]"),
    Case("coco: a visibility of 7", of("annotations", 0, keypoints=[1, 2, 7, 3, 4, 2]), rf"{FILE}.*annotations\[0\]"),
    Case("coco: a skeleton that names a seventh of two", of("categories", 0, skeleton=[[1, 7]]),
         rf"{FILE}.*skeleton.*categories\[0\]"),
    Case("coco: file_name out of the folder", of("images", 0, file_name="../../secret.png"), rf"{FILE}.*\.\."),
    Case("coco: file_name absolute", of("images", 0, file_name="/etc/hostname"), rf"{FILE}.*/etc/hostname"),
    Case("coco: file_name is an address", of("images", 0, file_name="http://127.0.0.1/0.png"), rf"{FILE}.*http"),
    Case("coco: file_name with a zero byte", of("images", 0, file_name="0\0.png"), rf"{FILE}.*0.x00\.png"),
    Case("coco: file_name of no file", of("images", 0, file_name="zero.png"), rf"{FILE}.*zero\.png"),
    Case("coco: file_name in upper case", of("images", 0, file_name="0.PNG"), rf"{FILE}.*0\.PNG.*0\.png"),
    Case("coco: file_name is a number", of("images", 0, file_name=7), rf"{FILE}.*images\[0\]"),
]
