"""Tables that say which colour or number of a map of labels is which class: text, CSV or JSON beside the maps."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from visus.core.errors import DataError, printable
from visus.data.label_maps import colour_code, colour_name
from visus.data.reading.annotation_files import Listing, refuse

_MAX_BYTES = 1 << 20
_MAX_LINE = 300
_FILES = ("label_colors.txt", "label_colours.txt", "labelmap.txt", "class_dict.csv", "classes.csv", "_classes.csv",
          "classes.json", "classes.txt", "class_names.txt", "labels.txt", "codes.txt", "objectInfo150.txt")
_NO_CLASS = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown"}
_BLANKS = re.compile(r"\s+")
_Line = tuple[str, int | None, int | None]


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """classes: names in the order of the labels. by_value, by_colour: number or colour code in the maps -> label, -1
    for what is ignored; None where the table does not say. ignored: names that are no classes. source: its file."""

    classes: tuple[str, ...]
    by_value: dict[int, int]
    by_colour: dict[int, int] | None
    ignored: tuple[str, ...]
    source: str


def find_class_table(listing: Listing, folders: Iterable[str] = ("",)) -> ClassTable | None:
    """The table in the first of `folders` that has one under a usual name. Raises DataError naming file and line."""
    for folder in folders:
        here = {name.lower(): path for name, path in listing.files(folder).items()}
        for name in _FILES:
            if name.lower() in here:
                path = here[name.lower()]
                return class_table(listing.text(path, _MAX_BYTES), listing.full(path), path)
    return None


def class_table(text: str, where: str, source: str) -> ClassTable:
    """The table in the text of a file called `source`; `where` names it in errors.

    Lines are `r g b name`, `name,r,g,b`, `name:r,g,b:...`, `number name` or `name`, with or without a header; JSON is
    {name: number or [r, g, b]}, {number: name} or [{name, id, color}]. Names without a number count from 0.
    """
    lines = _json_lines(text, where) if source.lower().endswith(".json") else _text_lines(text, where)
    if not lines:
        raise DataError("names no class", where=where, remedy="Write one class a line: name,r,g,b or number,name")
    for kind, values in (("name", [line[0] for line in lines]), ("number", [line[1] for line in lines]),
                         ("colour", [line[2] for line in lines])):
        twice = [v for v, count in Counter(v for v in values if v is not None).items() if count > 1]
        refuse([colour_name(int(v)) if kind == "colour" else printable(str(v)) for v in twice],
               f"{kind} given to several classes", where, "Give each class a name, number and colour of its own")
    numbered = [(name, k if value is None else value, colour) for k, (name, value, colour) in enumerate(lines)]
    numbered.sort(key=lambda line: line[1])
    ignored = tuple(name for name, _, _ in numbered if name.lower() in _NO_CLASS)
    classes = tuple(name for name, _, _ in numbered if name not in ignored)
    position = {name: k for k, name in enumerate(classes)}
    coloured = all(colour is not None for _, _, colour in numbered)
    return ClassTable(
        classes=classes, ignored=ignored, source=source, by_value={v: position.get(n, -1) for n, v, _ in numbered},
        by_colour={c: position.get(n, -1) for n, _, c in numbered if c is not None} if coloured else None)


def _rgb(*words: str) -> int | None:
    numbers = [int(word) for word in words]
    return colour_code(*numbers) if max(numbers) <= 255 else None


_D = r"(\d{1,3})"
_PATTERNS: Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], _Line]]] = (
    (re.compile(rf"([^:]+):{_D},{_D},{_D}:.*"), lambda m: (m[1], None, _rgb(m[2], m[3], m[4]))),
    (re.compile(rf"{_D}[\s,;]+{_D}[\s,;]+{_D}[\s,;]+(\D.*)"), lambda m: (m[4], None, _rgb(m[1], m[2], m[3]))),
    (re.compile(rf"(.*[^\s,;])[\s,;]+{_D}[\s,;]+{_D}[\s,;]+{_D}"), lambda m: (m[1], None, _rgb(m[2], m[3], m[4]))),
    (re.compile(r"(\d{1,9})\s+[\d.]+\s+\d+\s+\d+\s+\d+\s+(\S.*)"), lambda m: (m[2], int(m[1]), None)),  # ADE20K's
    (re.compile(r"(\d{1,9})\s*[\s,;:]\s*(\S.*)"), lambda m: (m[2], int(m[1]), None)),
    (re.compile(r"([^\s,;].*?)\s*[,;:\t]\s*(\d{1,9})"), lambda m: (m[1], int(m[2]), None)),
    (re.compile(r"(\S.*)"), lambda m: (m[1], None, None)),
)


def _text_lines(text: str, where: str) -> list[_Line]:
    rows = [(number, _BLANKS.sub(_one_blank, line.strip())) for number, line in enumerate(text.splitlines(), 1)]
    refuse([f"line {number}: {printable(line[:40])}..." for number, line in rows if len(line) > _MAX_LINE],
           f"line of more than {_MAX_LINE} characters", where, "Write one class a line")
    rows = [(number, line) for number, line in rows if line and not line.startswith("#")]
    for header in (False, True):
        for pattern, build in _PATTERNS[:len(_PATTERNS) - header]:
            body = rows[header:]
            matches = [pattern.fullmatch(line) for _, line in body]
            if not body or not all(matches):
                continue
            if not header and len(rows) > 1 and pattern is _PATTERNS[-1][0] and _is_header(rows[0][1]):
                break
            lines = [build(match) for match in matches if match]
            refuse([f"line {number}: {printable(line)}" for (number, line), (_, value, colour)
                    in zip(body, lines, strict=True) if pattern in (p for p, _ in _PATTERNS[:3]) and colour is None],
                   "colour beyond 255", where, "Write red, green and blue as numbers from 0 to 255")
            return [(printable(name.strip(" \"'")), value, colour) for name, value, colour in lines]
    body = rows[1:] if rows and _is_header(rows[0][1]) else rows
    return [(printable(line), None, None) for _, line in body]


def _one_blank(run: re.Match[str]) -> str:
    return "\t" if "\t" in run[0] else " "


def _is_header(line: str) -> bool:
    words = set(re.split(r"[\s,;]+", line.lower()))
    return bool(words & {"name", "class", "class_name", "label"}) and bool(
        words & {"r", "red", "id", "index", "value", "pixel", "name", "idx"}) and len(words) > 1


def _json_lines(text: str, where: str) -> list[_Line]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg}", where=f"{where}:{error.lineno}",
                        remedy="Correct this line") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON that can be read ({type(error).__name__})", where=where,
                        remedy="Write {name: number}") from error
    if isinstance(value, dict) and isinstance(value.get("classes"), dict | list):
        value = value["classes"]
    records = list(value.items()) if isinstance(value, dict) else value if isinstance(value, list) else []
    lines = [_json_line(record) for record in records]
    refuse([f"number {k + 1}" for k, line in enumerate(lines) if line is None], "record that is no class", where,
           'Write {"name": number}, {"name": [r, g, b]} or [{"name": ..., "id": ..., "color": [r, g, b]}]')
    return [line for line in lines if line is not None]


def _json_line(record: object) -> _Line | None:
    if isinstance(record, str):
        return printable(record), None, None
    if isinstance(record, dict):
        name, number = record.get("name"), record.get("id", record.get("value"))
        colour = record.get("color", record.get("colour"))
    elif isinstance(record, tuple) and isinstance(record[1], str) and record[0].isdecimal() and len(record[0]) < 10:
        name, number, colour = record[1], int(record[0]), None
    elif isinstance(record, tuple):
        name = record[0]
        number, colour = (None, record[1]) if isinstance(record[1], list) else (record[1], None)
    else:
        return None
    code = None
    if colour is not None:
        if not isinstance(colour, list) or len(colour) < 3 or not all(
                type(c) is int and 0 <= c <= 255 for c in colour[:3]):
            return None
        code = colour_code(*colour[:3])
    if not isinstance(name, str) or not (number is None or (type(number) is int and 0 <= number < 1 << 31)):
        return None
    return printable(name), number, code
