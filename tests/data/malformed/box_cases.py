"""Malformed VOC and YOLO annotations (reliability.md 2.1, rows 41 to 46)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.data.malformed.case import Case
from tests.data.malformed.healthy import encoded, put, voc, voc_page, yolo

PAGE, TEXT, BOOK = r"0\.xml", r"labels/train/0\.txt", r"data\.yaml"
LAUGHS = ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY a{k} "{f"&a{k - 1 if k > 1 else str()};" * 10}">' for k in range(1, 10)) + "]>"
    + voc_page(boxes="<object><name>&a9;</name></object>"))
QUADRATIC = f'<!DOCTYPE a [<!ENTITY a "{"x" * 50_000}">]>' + voc_page(
    boxes=f"<object><name>{'&a;' * 50_000}</name></object>")
ANCHORS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(9))


def page(data: bytes | str) -> Callable[[Path], Path]:
    return lambda folder: voc(folder, data)


def box(*sides: object, names: tuple[str, ...] = ("xmin", "ymin", "xmax", "ymax")) -> str:
    inner = "".join(f"<{name}>{side}</{name}>" for name, side in zip(names, sides, strict=True))
    return voc_page(boxes=f"<object><name>cat</name><bndbox>{inner}</bndbox></object>")


def external(folder: Path) -> Path:
    put(folder / "secret.txt", "the secret")
    return voc(folder, f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{folder}/secret.txt">]>'
               + voc_page(boxes="<object><name>&x;</name></object>"))


def without_image(folder: Path) -> Path:
    voc(folder)
    put(folder / "Annotations" / "9.xml", voc_page(9))
    return folder


def rows(text: bytes | str) -> Callable[[Path], Path]:
    return lambda folder: yolo(folder, text)


def book(text: bytes | str) -> Callable[[Path], Path]:
    return lambda folder: yolo(folder, names=text)


def one_based(folder: Path) -> Path:
    yolo(folder)
    for k in range(4):
        put(folder / "labels" / "train" / f"{k}.txt", f"{k % 2 + 1} 0.5 0.5 0.25 0.25\n")
    return folder


def no_labels(folder: Path) -> Path:
    for k in range(3):
        put(folder / "images" / "train" / f"{k}.png", encoded(k))
    put(folder / "data.yaml", "path: .\ntrain: images/train\nnames: [cat]\n")
    return folder


CASES = [
    Case("voc: a billion laughs", page(LAUGHS), rf"{PAGE}.*(DTD|DOCTYPE|entit)"),
    Case("voc: a quadratic blow-up", page(QUADRATIC), rf"{PAGE}.*(DTD|DOCTYPE|entit)"),
    Case("voc: an external entity", external, rf"{PAGE}.*(DTD|DOCTYPE|entit)"),
    Case("voc: a DTD alone", page("<!DOCTYPE annotation>" + voc_page()), rf"{PAGE}.*(DTD|DOCTYPE)"),
    Case("voc: 50 MB", page(voc_page(extra="<pose>" + "x" * (50 << 20) + "</pose>")), rf"{PAGE}.*(MiB|large|limit)"),
    Case("voc: cut", page(voc_page()[:-40]), rf"{PAGE}:1.*XML"),
    Case("voc: empty file", page(b""), rf"{PAGE}:1.*no element"),
    Case("voc: not XML", page("path,label\n0.png,cat\n"), rf"{PAGE}.*XML"),
    Case("voc: nested 100,000 deep", page("<annotation>" + "<a>" * 100_000), rf"{PAGE}:1.*XML"),
    Case("voc: zero bytes", page(bytes(400)), rf"{PAGE}:1.*XML"),
    Case("voc: an encoding that does not exist", page('<?xml version="1.0" encoding="klingon"?>' + voc_page()),
         rf"{PAGE}.*klingon"),
    Case("voc: another root", page("<svg/>"), rf"{PAGE}.*svg"),
    Case("voc: xmin above xmax", page(box(9, 3, 2, 10)), rf"{PAGE}.*xmin.*9.*2"),
    Case("voc: a side that is a word", page(box("left", 3, 9, 10)), rf"{PAGE}.*left"),
    Case("voc: a side that is no number", page(box("nan", 3, 9, 10)), rf"{PAGE}.*nan"),
    Case("voc: a side of 1e400", page(box(1, 3, "1e400", 10)), rf"{PAGE}.*xmax.*1e400"),
    Case("voc: a side is missing", page(box(1, 3, 9, names=("xmin", "ymin", "xmax"))), rf"{PAGE}.*ymax"),
    Case("voc: no bndbox", page(voc_page(boxes="<object><name>cat</name></object>")), rf"{PAGE}.*bndbox"),
    Case("voc: an object without name", page(voc_page(boxes="<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
                                                      "<ymax>5</ymax></bndbox></object>")), rf"{PAGE}.*name"),
    Case("voc: difficult is a word", page(voc_page().replace("<difficult>0", "<difficult>maybe")), rf"{PAGE}.*maybe"),
    Case("voc: annotation without its image", without_image, r"9\.xml"),
    Case("yolo: four columns", rows("0 0.5 0.5 0.2\n"), rf"{TEXT}:1.*4"),
    Case("yolo: six columns", rows("0 0.5 0.5 0.2 0.2 0.9\n"), rf"{TEXT}:1.*6"),
    Case("yolo: a word", rows("0 0.5 0.5 0.2 0.2\ncat 0.5 0.5 0.2 0.2\n"), rf"{TEXT}:2.*cat"),
    Case("yolo: NaN", rows("0 nan 0.5 0.2 0.2\n"), rf"{TEXT}:1.*nan"),
    Case("yolo: infinity", rows("0 inf 0.5 0.2 0.2\n"), rf"{TEXT}:1.*inf"),
    Case("yolo: a number of 400 digits", rows(f"0 {'9' * 400} 0.5 0.2 0.2\n"), rf"{TEXT}:1.*number"),
    Case("yolo: decimal commas", rows("0 0,5 0,5 0,2 0,2\n"), rf"{TEXT}:1.*0,5"),
    Case("yolo: pixels", rows("0 320 240 100 80\n"), rf"{TEXT}:1.*320", "pixels"),
    Case("yolo: negative size", rows("0 0.5 0.5 -0.2 0.2\n"), rf"{TEXT}:1.*-0\.2"),
    Case("yolo: a class beyond the names", rows("2 0.5 0.5 0.2 0.2\n"), rf"{TEXT}:1.*2"),
    Case("yolo: a negative class", rows("-1 0.5 0.5 0.2 0.2\n"), rf"{TEXT}:1.*-1"),
    Case("yolo: a class of a half", rows("0.5 0.5 0.5 0.2 0.2\n"), rf"{TEXT}:1.*0\.5"),
    Case("yolo: classes from 1 on", one_based, r"labels/train/\d\.txt:1.*class 2", r"1-based"),
    Case("yolo: a polygon of an odd count", rows("0 0.1 0.1 0.5 0.1 0.5 0.5 0.3\n"), rf"{TEXT}:1.*8 columns"),
    Case("yolo: bytes that are no text", rows(b"0 0.5 \xff\xfe 0.2 0.2\n"), rf"{TEXT}:1.*xff"),
    Case("yolo: zero bytes", rows(bytes(200)), rf"{TEXT}:1.*x00"),
    Case("yolo: no label file", no_labels, r"no image of train", r"images/train/0\.txt"),
    Case("yolo: no names", book("path: .\ntrain: images/train\n"), rf"{BOOK}.*names"),
    Case("yolo: names with gaps", book("path: .\ntrain: images/train\nnames: {0: cat, 2: dog}\n"),
         rf"{BOOK}.*names.*1"),
    Case("yolo: a name twice", book("path: .\ntrain: images/train\nnames: [cat, cat]\n"), rf"{BOOK}.*cat"),
    Case("yolo: nc unlike the names", book("path: .\ntrain: images/train\nnc: 3\nnames: [cat, dog]\n"),
         rf"{BOOK}.*nc.*3.*2"),
    Case("yolo: images in the wrong place", book("path: .\ntrain: pictures/train\nnames: [cat, dog]\n"),
         rf"{BOOK}.*pictures/train"),
    Case("yolo: images out of the folder", book("path: .\ntrain: ../../etc\nnames: [cat, dog]\n"), rf"{BOOK}.*\.\."),
    Case("yolo: an absolute path", book("path: /etc\ntrain: /etc/ssl\nnames: [cat, dog]\n"), rf"{BOOK}.*/etc/ssl"),
    Case("yolo: python in data.yaml",
         book("train: images/train\nnames: !!python/object/apply:os.system ['touch owned']\n"), rf"{BOOK}:2.*python"),
    Case("yolo: a bomb of anchors", book(ANCHORS + "names: *j\ntrain: images/train\n"), rf"{BOOK}:2.*alias"),
    Case("yolo: a tab as indent", book("path: .\ntrain: images/train\nnames:\n\t- cat\n"), rf"{BOOK}.*4"),
    Case("yolo: nested 1,200 deep", book("train: x\nnames: " + "[" * 1_200), rf"{BOOK}.*YAML"),
]
