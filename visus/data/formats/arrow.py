"""Columns of images and labels in Arrow's types, as Parquet files and Hugging Face data sets hold them.

pyarrow comes with the extra `parquet` and is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.core.errors import DataError, MissingExtra, UserError, did_you_mean, printable
from visus.data.formats import ReadOptions
from visus.data.samples import SPLIT_NAMES, compact_labels, counted, listed, natural_order

MAX_ROWS = 100_000_000
_IMAGE_COLUMNS = ("image", "img", "images", "picture", "jpg", "png", "webp", "path", "file", "filename", "file_name",
                  "image_path", "filepath")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label", "cls", "tags", "classes")
_SPLIT_COLUMNS = ("split", "subset", "partition")
_GROUP_COLUMNS = ("group", "groups", "group_id", "patient", "patient_id")
_REMEDY = "Write the file again, or fetch it again"


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Which columns are used. kind: 'struct' ({bytes, path}), 'bytes' or 'path'. names: of the classes, or None."""

    image: str
    kind: str
    label: str
    names: tuple[str, ...] | None
    split: str | None = None
    group: str | None = None
    kept: tuple[str, ...] = ()

    @property
    def small(self) -> list[str]:
        """The columns that are read at once."""
        optional = [name for name in (self.split, self.group) if name is not None]
        return list(dict.fromkeys([self.label, *optional, *self.kept] + [self.image] * (self.kind == "path")))


def import_arrow(module: str) -> Any:
    """pyarrow.`module`. Raises MissingExtra."""
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise MissingExtra("reading Parquet and Arrow files", "parquet") from error


@contextmanager
def guarded(where: str, kind: type[UserError] = DataError) -> Iterator[None]:
    """Whatever pyarrow raises for a damaged file, as `kind` naming the file."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise kind("does not fit into memory", where=where, remedy="Divide it into smaller files") from error
    except OSError as error:
        raise kind(f"cannot be read: {error.strerror or _first(error)}", where=where, remedy=_REMEDY) from error
    except Exception as error:  # pyarrow's errors derive from many
        raise kind(f"is damaged or of an unknown kind ({_first(error)})", where=where, remedy=_REMEDY) from error


def _first(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return printable(lines[0])[:200]


def pick(where: str, schema: Any, options: ReadOptions) -> Picked:
    """The columns of images and labels: as the options say, as Hugging Face's metadata say, or by name and type.

    Raises DataError naming the columns that there are.
    """
    columns = {name: schema.field(i).type for i, name in enumerate(schema.names)}
    if len(columns) < len(schema.names):
        raise DataError("two columns have one name", where=where, remedy="Give each column a name of its own")
    features = _features(schema)
    kinds = {name: kind for name, type in columns.items() if (kind := image_kind(type))}
    image = _choice(where, columns, options.image_column, "images", "--image-column",
                    [n for n in columns if _feature_type(features, n) == "Image"],
                    [n for n in _lower(columns, _IMAGE_COLUMNS) if n in kinds],
                    [n for n, kind in kinds.items() if kind == "struct"])
    if image not in kinds:
        raise DataError(f"column {image!r} is {columns[image]}, which holds no images", where=where,
                        remedy="Images are files in a column of bytes, {bytes, path} or paths")
    label = _choice(where, columns, options.label_column, "labels", "--label-column",
                    [n for n in columns if _class_names(features.get(n)) is not None and n != image][:1],
                    [n for n in _lower(columns, _LABEL_COLUMNS) if n != image])
    others = [name for name in columns if name not in (image, label)]
    for name in options.kept_columns:
        if name not in columns:
            raise DataError(f"has no column {name!r}", where=where, remedy=did_you_mean(name, columns))
    return Picked(image=image, kind=kinds[image], label=label, names=_class_names(features.get(label)),
                  split=next(iter(_lower(others, _SPLIT_COLUMNS)), None),
                  group=next(iter(_lower(others, _GROUP_COLUMNS)), None), kept=options.kept_columns)


def image_kind(type: Any) -> str | None:
    """How a column of this type can hold images, or None."""
    types = import_arrow("types")
    if types.is_struct(type):
        at = type.get_field_index("bytes")
        return "struct" if at >= 0 and _is_binary(type.field(at).type) else None
    if _is_binary(type):
        return "bytes"
    return "path" if types.is_string(type) or types.is_large_string(type) else None


def _is_binary(type: Any) -> bool:
    types = import_arrow("types")
    return bool(types.is_binary(type) or types.is_large_binary(type))


def _choice(where: str, columns: Mapping[str, Any], given: str | None, what: str, flag: str,
            *candidates: list[str]) -> str:
    if given is not None:
        if given not in columns:
            raise DataError(f"has no column {given!r}", where=where, remedy=did_you_mean(given, columns))
        return given
    for names in candidates:
        if names:
            return names[0]
    raise DataError(f"no column of {what} among {listed([repr(printable(n)) for n in columns])}", where=where,
                    remedy=f"Say which it is: {flag}")


def _lower(columns: Any, known: tuple[str, ...]) -> list[str]:
    by_name = {name.lower(): name for name in columns}
    return [by_name[name] for name in known if name in by_name]


def _features(schema: Any) -> dict[str, Any]:
    """The types that Hugging Face's metadata state for the columns; {} where there are none."""
    try:
        raw = (schema.metadata or {}).get(b"huggingface", b"{}")
        found = json.loads(raw)["info"]["features"] if len(raw) <= 64 << 20 else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _feature_type(features: Mapping[str, Any], name: str) -> str | None:
    feature = features.get(name)
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind if isinstance(kind, str) else None


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return None
    return tuple(names) if len(set(names)) == len(names) else None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """targets: int64 [N] or float32 [N, K]; kept: bool [N], False where the data give no label on purpose (-1)."""

    targets: np.ndarray
    classes: tuple[str, ...]
    kept: np.ndarray
    category_ids: tuple[int, ...] | None = None


def read_labels(where: str, column: Any, names: tuple[str, ...] | None, row_name: Callable[[int], str]) -> Labels:
    """A column of N numbers, names or lists of them. Raises DataError that counts the bad rows and lists ten."""
    arrow, compute, types = import_arrow(""), import_arrow("compute"), import_arrow("types")
    array = column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column
    if isinstance(array, arrow.ChunkedArray):
        array = arrow.concat_arrays(array.chunks)
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    count = len(array)
    _refuse_rows(where, np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)), "without a label", row_name)
    if types.is_list(array.type) or types.is_large_list(array.type):
        lengths = compute.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
        owner = np.repeat(np.arange(count), lengths)
        values, classes, ids = _flat(where, array.flatten(), names, lambda i: row_name(int(owner[i])))
        if (values < 0).any():
            _refuse_rows(where, owner[values < 0], "with the label -1 among others", row_name)
        targets = np.zeros((count, len(classes)), np.float32)
        targets[owner, values] = 1
        return Labels(targets=targets, classes=classes, kept=np.ones(count, bool), category_ids=ids)
    values, classes, ids = _flat(where, array, names, row_name)
    return Labels(targets=values, classes=classes, kept=values >= 0, category_ids=ids)


def _flat(where: str, array: Any, names: tuple[str, ...] | None,
          row_name: Callable[[int], str]) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...] | None]:
    """(int64 [N] with -1 for no label, classes, category ids)."""
    types = import_arrow("types")
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    _refuse_rows(where, np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)), "without a label", row_name)
    if types.is_string(array.type) or types.is_large_string(array.type):
        coded = array.dictionary_encode()
        texts = coded.dictionary.to_pylist()
        classes = names if names is not None else tuple(natural_order(texts))
        position = {name: i for i, name in enumerate(classes)}
        places = np.array([position.get(text, -2) for text in texts], np.int64)
        values = places[coded.indices.to_numpy(zero_copy_only=False)] if texts else np.zeros(0, np.int64)
        _refuse_rows(where, np.flatnonzero(values == -2), "with a label that is no class name", row_name)
        return values, classes, None
    if not (types.is_integer(array.type) or types.is_boolean(array.type)):
        raise DataError(f"the labels are {array.type}", where=where,
                        remedy="Labels are whole numbers, names, or lists of them")
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype == np.uint64:
        values = np.minimum(values, np.uint64(1 << 62))
    values = values.astype(np.int64)
    if names is None:
        _refuse_rows(where, np.flatnonzero((values < 0) | (values >= 1 << 62)), "with a label that is no class number",
                     row_name)
        targets, classes = compact_labels(values)
        return targets, classes, tuple(int(c) for c in classes)
    outside = np.flatnonzero((values < -1) | (values >= len(names)))
    _refuse_rows(where, outside, f"with a label outside of 0 to {len(names) - 1}", row_name)
    return values, names, None


def _refuse_rows(where: str, rows: np.ndarray, what: str, row_name: Callable[[int], str]) -> None:
    if len(rows):
        shown = listed([row_name(int(r)) for r in rows[:11]])[:2000] if len(rows) <= 10 else \
            f"{', '.join(row_name(int(r)) for r in rows[:10])} and {len(rows) - 10:,} more"
        raise DataError(f"{counted(len(rows), 'row')} {what}: {shown}", where=where,
                        remedy="Correct these rows or leave them out")


def read_texts(where: str, column: Any) -> np.ndarray:
    """A column of text or numbers as N texts, '' for none."""
    with guarded(where):
        return np.array(["" if value is None else str(value) for value in column.to_pylist()])


def read_splits(where: str, cells: np.ndarray) -> np.ndarray:
    """<U5 [N]. Raises DataError for a word that is no split."""
    unknown = [cell for cell in np.unique(cells).tolist() if cell and cell.lower() not in SPLIT_NAMES]
    if unknown:
        raise DataError(f"split={unknown[0]!r} is unknown", where=where, remedy="Use train, val or test")
    return np.array([SPLIT_NAMES.get(cell.lower(), "") for cell in cells.tolist()], "<U5")
