"""Large JSON read in windows: what it gives, how little it holds, and what it refuses by line and column."""

from __future__ import annotations

import codecs
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import DataError
from visus.data.reading.annotation_json import read_chunks

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-2**63, 2**63) | st.floats(allow_nan=False,
                                                                                      allow_infinity=False)
                      | st.text('a"\\}{],[: \u00e9\u4e2d\n', max_size=8),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner,
                                                                                  max_size=3), max_leaves=8)
RECORDS = st.lists(st.dictionaries(st.sampled_from(["id", "bbox", "x", "y z"]), VALUES, max_size=4), max_size=30)


def records(path: Path, section: str) -> list:
    found = []
    for chunk in read_chunks(str(path), {section}):
        assert chunk.first == len(found) and chunk.section == section
        found += chunk.records
    return found


@given(RECORDS, VALUES, st.sampled_from([None, 0, 1]), st.booleans(), st.sampled_from([40, 150, 1 << 17]),
       st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_records_are_those_of_the_standard_parser(tmp_path_factory, items, other, indent, ascii_only, window,
                                                      by_orjson):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps({"before": other, "items": items, "after": [other, [other]]}, indent=indent,
                               ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visus.data.reading.annotation_json._WINDOW", window)
        if not by_orjson:
            patch.setattr("visus.data.reading.json_records._orjson_loads", lambda: None)
        assert repr(records(path, "items")) == repr(items)


def test_a_file_four_times_as_large_takes_no_more_memory(tmp_path):
    heights = []
    for count in (100, 6_000, 24_000):  # the first loads what is loaded once
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"items": [{"id": k, "name": "x" * 300} for k in range(count)]}))
        tracemalloc.start()
        try:
            assert sum(len(chunk.records) for chunk in read_chunks(str(path), {"items"})) == count
            heights.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert heights[2] < 1.2 * heights[1] < path.stat().st_size / 2


def test_a_record_longer_than_the_window_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("visus.data.reading.annotation_json._WINDOW", 64)
    path = tmp_path / "a.json"
    items = [{"id": 1, "text": "ab\n" * 4000}, {"id": 2, "list": list(range(3000))}]
    path.write_text(json.dumps({"items": items}))
    assert records(path, "items") == items
    monkeypatch.setattr("visus.data.reading.annotation_json._MAX_RECORD", 5000)
    with pytest.raises(DataError, match="more than"):
        records(path, "items")


@pytest.mark.parametrize(("data", "words", "place"), [
    (b"", "is empty", "1:1"),
    (b"\n\n  ", "is empty", "3:3"),
    (codecs.BOM_UTF8 + b"{}", "byte order mark", "1:1"),
    ('{"items": []}'.encode("utf-16-le"), "UTF-16", "1:1"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull", "1:1"),
    (b"<!DOCTYPE html><html>", "web page", "1:1"),
    (b"[]", "a list is at the top level", "1:1"),
    (b'{"items": {}}', "'items' is no list", "1:11"),
    (b'{\n "items": [{"a": 1}\n {"a": 2}]}', "',' or ']'", "3:2"),
    (b'{"items": [{"a": 1},]}', "Expecting value", "1:21"),
    (b'{"items": [] "b": 1}', "',' or '}'", "1:14"),
    (b'{"items": []} x', "something follows", "1:15"),
    (b'{"items": [], }', "a key in double quotes", "1:15"),
    (b'{"items": [{"a": -Infinity}]}', "-Infinity is no number", "1:18"),
    (b'{"items": [{"name": "NaN", "a": NaN}]}', "NaN is no number", "1:33"),
    (b'{"items": [{"a": 1,\n "a": 2}]}', "'a' is there twice", "1:13"),
    (b'{"items": [{"a": "\xc3\x28"}]}', "not UTF-8", "1:19"),
    (b'{"items": [{"a": "\x01"}]}', "control character", "1:19"),
    (b'{"items": [' + b"[" * 100_000, "nested too deeply", "1:12"),
    (b'{"items": [{"a": ' + b"1" * 5000 + b"}]}", "thousands of digits", "1:12")])
def test_what_is_wrong_is_named_with_line_and_column(tmp_path, data, words, place):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        records(path, "items")
    assert words in str(caught.value), str(caught.value)
    assert caught.value.where == f"{path}:{place}" and caught.value.remedy
