"""One XML file of Pascal VOC: decoded and parsed without document types or entities, its numbers checked."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree
from xml.parsers import expat

from visus.core.errors import printable

SIDES = ("xmin", "ymin", "xmax", "ymax")
_CODECS = {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "iso-8859-15", "windows-1252",
           "gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "utf-16"}
_READ = {*SIDES, "name", "bndbox", "difficult", "height", "width"}


class XmlFault(ValueError):
    """What is wrong in one line of an XML file."""

    def __init__(self, text: str, line: int):
        super().__init__(text)
        self.line = line


def parse_xml(text: str) -> ElementTree.Element:
    """The outermost element. Raises XmlFault: not XML, a document type or entity, another outermost element.

    Without the characters of a document type there is none, and so no entity to unfold and no file to fetch.
    """
    for mark in ("<!DOCTYPE", "<!ENTITY"):
        if mark in text:
            raise XmlFault("a document type (DTD) is not allowed", text.count("\n", 0, text.index(mark)) + 1)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise XmlFault(f"is not XML: {expat.errors.messages.get(error.code, 'damaged')}", error.position[0]) from error
    except UnicodeEncodeError as error:
        raise XmlFault("is not XML: half a character", 1) from error
    if root.tag != "annotation":
        raise XmlFault(f"the outermost element is <{printable(root.tag)[:40]}>, VOC has <annotation>", 1)
    return root


def texts_of(element: ElementTree.Element | None) -> dict[str, str]:
    """Tag -> text, of the elements directly in one. Raises ValueError for a tag that is there twice."""
    found: dict[str, str] = {}
    for child in () if element is None else element:
        if child.tag in found and child.tag in _READ:
            raise ValueError(f"<{child.tag}> is there twice")
        found[child.tag] = (child.text or "").strip()
    return found


def lines_of_objects(text: str) -> list[int]:
    """The line in which each <object> begins."""
    parser, lines, depth = expat.ParserCreate(), [], [0]

    def start(name: str, _: dict[str, str]) -> None:
        depth[0] += 1
        if depth[0] == 2 and name == "object":
            lines.append(parser.CurrentLineNumber)

    def end(_: str) -> None:
        depth[0] -= 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(text, True)
    return lines


def decode_xml(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        codec = "utf-16"
    else:
        match = re.match(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([^"']{1,40})["']""", data[:400])
        codec = match[1].decode("ascii", "replace").lower() if match else "utf-8"
        if codec not in _CODECS:
            raise XmlFault(f"is in the encoding {printable(codec)!r}, which is not read: save it in UTF-8", 1)
        if codec == "utf-16":  # says so, but has no mark
            codec = "utf-8"
    try:
        return data.decode("utf-8-sig" if codec in ("utf-8", "utf8") else codec)
    except (UnicodeDecodeError, LookupError) as error:
        start = getattr(error, "start", 0)
        raise XmlFault(f"is not text in {codec}", data.count(b"\n", 0, start) + 1) from error


def box_of(texts: dict[str, str], name: str) -> tuple[float, ...]:
    missing = [side for side in SIDES if side not in texts]
    if missing:
        raise ValueError(f"the bndbox of {name!r} has no {' and no '.join(missing)}")
    x1, y1, x2, y2 = (number_of(texts[side], side) for side in SIDES)
    if x1 > x2:
        raise ValueError(f"{name!r} has xmin {x1:g} > xmax {x2:g}")
    if y1 > y2:
        raise ValueError(f"{name!r} has ymin {y1:g} > ymax {y2:g}")
    return x1, y1, x2, y2


def number_of(text: str, side: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9 or "_" in text:
        raise ValueError(f"{side} is {printable(text)[:40]!r}, not a number of pixels")
    return value


def flag_of(text: str) -> bool:
    if text.lower() not in ("", "0", "1", "true", "false", "unspecified"):
        raise ValueError(f"difficult is {printable(text)[:40]!r}, not 0 or 1")
    return text.lower() in ("1", "true")
