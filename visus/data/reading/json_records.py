"""The text of many JSON records to the records, the quick way; and the parser that says what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import chain
from typing import Any, NoReturn

from visus.core.errors import printable
from visus.data.reading.polygon_text import Shapes, parse_polygons, polygons_of_lists

_POLYGONS = ('"segmentation": [[', '"segmentation":[[')
_TAKEN_OUT = '"segmentation":0.5'
_IDS = ("id", "image_id", "category_id")


def parse_records(text: str) -> tuple[list[Any], Shapes | None] | None:
    """Records divided by commas, and in order the polygons of those whose 'segmentation' is then a float; or None where
    the text must be read record by record: it is no JSON, or a key may be there twice in a record."""
    loads = _orjson_loads()
    return _by_numpy(text) if loads is None else _by_orjson(loads, text)


class RefusedJson(Exception):
    """JSON that the parser of the standard library takes and we do not. pattern: finds the place in the text."""

    def __init__(self, problem: str, pattern: str, remedy: str):
        self.problem, self.pattern, self.remedy = problem, pattern, remedy


def _constant(name: str) -> NoReturn:
    raise RefusedJson(f"{name} is no number in JSON", rf"(?<![\w\"]){re.escape(name)}",
                      "Replace it by a number or null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise RefusedJson(f"the key {printable(twice)!r} is there twice in one object", re.escape(json.dumps(twice)),
                       "Keep one of the two")
    return found


EXACT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)  # raises RefusedJson and ValueError
_QUICK = json.JSONDecoder(parse_constant=_constant)


def _by_orjson(loads: Callable[[str], Any], body: str) -> tuple[list[Any], Shapes | None] | None:
    try:
        records = loads(f"[{body}]")
    except (ValueError, RecursionError):
        return None
    if set(map(type, records)) != {dict} or not _keys_agree(records, body.count('":')):
        return None
    for key in _IDS:  # orjson makes floats of whole numbers beyond 64 bits
        if float in set(map(type, [record.get(key) for record in records])):
            return None
    kinds = list(map(type, [record.get("segmentation") for record in records]))
    if float in kinds:
        return None
    outlined = [record for record, kind in zip(records, kinds, strict=True) if kind is list]
    if not outlined or "true" in body or "false" in body:  # which would count as 1 and 0
        return records, None
    shapes = polygons_of_lists([record["segmentation"] for record in outlined])
    if shapes is not None:
        for record in outlined:
            record["segmentation"] = 0.5
    return records, shapes


def _by_numpy(body: str) -> tuple[list[Any], Shapes | None] | None:
    rest, shapes = _without_polygons(body)
    try:
        records = _QUICK.decode(f"[{rest}]")
    except (ValueError, RecursionError, RefusedJson):
        return None
    if set(map(type, records)) != {dict} or not _keys_agree(records, rest.count('":')):
        return None  # perhaps a key is there twice
    if shapes is not None and len(shapes.rings) != sum(
            [type(record.get("segmentation")) is float for record in records]):
        return None
    return records, shapes


def _orjson_loads() -> Callable[[str], Any] | None:
    """orjson's parser where the extra 'fast' is installed: it reads the same, in less time."""
    try:
        import orjson
    except ImportError:
        return None
    return orjson.loads


def _without_polygons(text: str) -> tuple[str, Shapes | None]:
    """(the text of records without the numbers of plain polygons, those), or (the text, None)."""
    opening = next((spelling for spelling in _POLYGONS if spelling in text), None)
    if opening is None:
        return text, None
    rest, polygons = [], []
    for number, piece in enumerate(text.split(opening)):
        if number:
            end = piece.find("]]") + 2
            polygons.append("[[" + piece[:end])
            piece = piece[end:]
        rest.append(piece)
    shapes = parse_polygons(polygons)
    return (text, None) if shapes is None else (_TAKEN_OUT.join(rest), shapes)


def _keys_agree(records: list[dict[str, Any]], count: int) -> bool:
    """Whether the records, and the objects in them and in lists in them, have `count` keys."""
    count -= sum(map(len, records))
    if not count:
        return True
    codes = [code for record in records if type(code := record.get("segmentation")) is dict]
    if count == sum(map(len, codes)):
        return True
    values = list(chain.from_iterable(map(dict.values, records)))
    count -= sum([len(value) for value in values if type(value) is dict])
    if count:
        count -= sum([len(item) for value in values if type(value) is list for item in value if type(item) is dict])
    return not count
