"""Tables: a CSV or TSV with a header, a column of image paths and a column (or several) of labels."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter

import numpy as np

from visus.core.errors import DataError, did_you_mean, printable
from visus.core.images import EXTENSIONS
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import SPLIT_NAMES, Samples, counted, listed, natural_order

_PATH_COLUMNS = ("path", "file", "filename", "image", "filepath", "file_name", "image_path")
_LABEL_COLUMNS = ("label", "class", "target", "category", "labels", "tags", "classes")
_SPLIT_COLUMNS = ("split", "subset", "partition")
_GROUP_COLUMNS = ("group", "groups", "group_id", "patient", "patient_id")
_EXTENSIONS = (".csv", ".tsv")
_MAX_BYTES = 1 << 30
_MAX_CELL = 1 << 17


class Table:
    """One row an image. Paths are relative to the table; `a|b` or `a;b`, or several columns of 0 and 1, are several
    labels. Optional columns: split (train, val, test) and group."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isfile(path) and path.lower().endswith(_EXTENSIONS)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and the line."""
        header, rows, lines = _parse(path, _text(path))
        image = _column(path, header, options.image_column, _PATH_COLUMNS, "image paths")
        split = _optional(header, _SPLIT_COLUMNS)
        group = _optional(header, _GROUP_COLUMNS)
        used = {c for c in (image, split, group) if c is not None}
        notes: list[str] = []
        labels = _label_columns(path, header, rows, options.label_column, used)
        unused = [header[c] for c in range(len(header)) if c not in used and c not in labels]
        if unused:
            notes.append("columns not used: " + listed([printable(n) for n in unused]))
        paths = _paths(path, [row[image].strip() for row in rows], lines)
        if len(labels) == 1:
            cells = [row[labels[0]].strip() for row in rows]
            targets, classes = _targets(path, cells, lines, notes)
        else:
            targets = np.array([[float(row[c]) for c in labels] for row in rows], np.float32)
            classes = tuple(header[c] for c in labels)
        keep = _without_repeats(path, paths, targets, lines)
        if len(keep) < len(paths):
            notes.append(f"{counted(len(paths) - len(keep), 'repeated row')} left out")
        samples = Samples(
            format="table", classes=tuple(printable(c) for c in classes), targets=targets, paths=tuple(paths),
            split=_splits(path, ["" if split is None else row[split].strip() for row in rows], lines),
            groups=None if group is None else np.array([row[group].strip() for row in rows]),
            columns={name: np.array([row[c].strip() for row in rows])
                     for name in options.kept_columns for c in [_column(path, header, name, (), "")]},
            root=os.path.dirname(os.path.abspath(path)), notes=tuple(notes))
        return samples if len(keep) == len(paths) else samples.subset(keep)


def _text(path: str) -> str:
    try:
        size = os.path.getsize(path)
        if size > _MAX_BYTES:
            raise DataError(f"is {size >> 20} MiB, over the limit of {_MAX_BYTES >> 20} MiB", where=path,
                            remedy="Use class folders")
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise DataError(f"is not UTF-8 text (byte {data[error.start]:#04x})", where=f"{path}:{line}",
                        remedy="Save the table as CSV in UTF-8") from error
    if "\0" in text:
        raise DataError("holds a zero byte: it is not a text table", where=path,
                        remedy="Save the table as CSV in UTF-8")
    if not text.strip():
        raise DataError("is empty", where=path, remedy="The first line names the columns, such as: path,label")
    return text


def _parse(path: str, text: str) -> tuple[list[str], list[list[str]], list[int]]:
    """(header, rows, line number of each row). Blank rows are passed over."""
    delimiter = _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows, lines = [], []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                _check_header(path, header, reader.line_num)
            elif len(row) != len(header):
                raise DataError(f"{counted(len(row), 'field')}, but the header has {len(header)}",
                                where=f"{path}:{reader.line_num}", remedy="Put fields that hold the delimiter "
                                f"{delimiter!r} into quotes")
            else:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"is not a table: {error}", where=f"{path}:{reader.line_num}",
                        remedy="Check the quotes in this line") from error
    if not rows:
        raise DataError("has a header but no rows", where=path, remedy="Add one row per image")
    return header, rows, lines


def _delimiter(path: str, text: str) -> str:
    """The one that divides the header best: first where an image column becomes visible, then by number of fields."""
    first = next(line for line in text.splitlines() if line.strip())
    if len(first) > _MAX_CELL:
        raise DataError(f"its first line has {len(first):,} characters", where=f"{path}:1",
                        remedy="The first line names the columns, such as: path,label")

    def rank(delimiter: str) -> tuple[bool, int]:
        names = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=delimiter))]
        return any(n in _PATH_COLUMNS for n in names) and len(names) > 1, len(names)

    return max(("\t", ",", ";", "|") if path.lower().endswith(".tsv") else (",", "\t", ";", "|"), key=rank)


def _check_header(path: str, header: list[str], line: int) -> None:
    where = f"{path}:{line}"
    if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in header):
        raise DataError("has no header: the first line names an image already", where=where,
                        remedy="Put a line before it that names the columns, such as: path,label")
    twice = [name for name, count in Counter(n.lower() for n in header).items() if count > 1]
    if twice:
        raise DataError(f"column {listed([repr(n) for n in twice])} is there twice", where=where,
                        remedy="Give each column a name of its own")
    if "" in header:
        raise DataError("a column has no name", where=where, remedy="Name every column")
    if len(header) == 1:
        raise DataError(f"has one column only ({header[0]!r})", where=where,
                        remedy="Fields are divided by comma, tab or semicolon: path,label")


def _column(path: str, header: list[str], given: str | None, known: tuple[str, ...], what: str) -> int:
    if given is not None:
        if given not in header:
            raise DataError(f"has no column {given!r}", where=path, remedy=did_you_mean(given, header))
        return header.index(given)
    found = _optional(header, known)
    if found is None:
        raise DataError(f"no column of {what} among {listed([repr(n) for n in header])}", where=f"{path}:1",
                        remedy=f"Name one of them {known[0]!r}, or say which: --image-column or --label-column")
    return found


def _optional(header: list[str], known: tuple[str, ...]) -> int | None:
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in known if name in lower), None)


def _label_columns(path: str, header: list[str], rows: list[list[str]], given: str | None, used: set[int]) -> list[int]:
    """One column of labels, or several of 0 and 1."""
    if given is None and _optional(header, _LABEL_COLUMNS) is None:
        binary = [c for c in range(len(header)) if c not in used and {row[c].strip() for row in rows} <= {"0", "1"}]
        if len(binary) > 1:
            return binary
    return [_column(path, header, given, _LABEL_COLUMNS, "labels")]


def _paths(path: str, cells: list[str], lines: list[int]) -> list[str]:
    root = os.path.dirname(os.path.abspath(path))
    paths, missing = [], []
    for cell, line in zip(cells, lines, strict=True):
        if not cell:
            raise DataError("no image path in this row", where=f"{path}:{line}", remedy="Fill it in or delete the row")
        if "://" in cell:
            raise DataError(f"{cell!r} is an address, not a file", where=f"{path}:{line}",
                            remedy="Fetch the images first; nothing is downloaded")
        if not os.path.lexists(os.path.join(root, cell)):
            forward = cell.replace("\\", "/")
            if forward != cell and os.path.lexists(os.path.join(root, forward)):
                cell = forward
            else:
                missing.append((cell, line))
        paths.append(cell)
    if missing:
        shown = listed([f"{printable(cell)} (line {line})" for cell, line in missing])
        raise DataError(f"{counted(len(missing), 'image file')} not found: {shown}", where=f"{path}:{missing[0][1]}",
                        remedy="Paths are relative to the table's own folder")
    return paths


def _targets(path: str, cells: list[str], lines: list[int], notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    divider = next((d for d in "|;" if any(d in cell for cell in cells)), None)
    empty = [line for cell, line in zip(cells, lines, strict=True) if not cell]
    if empty and divider is None:
        raise DataError(f"no label in {counted(len(empty), 'row')} (lines {listed([str(n) for n in empty])})",
                        where=f"{path}:{empty[0]}", remedy="Fill it in or delete the row")
    if divider is None:
        classes = natural_order(sorted(set(cells)))
        _refuse_same_but_case(path, classes)
        position = {name: i for i, name in enumerate(classes)}
        return np.array([position[cell] for cell in cells], np.int64), tuple(classes)
    if empty:
        notes.append(f"{counted(len(empty), 'image')} without any label")
    several = [[name.strip() for name in cell.split(divider) if name.strip()] for cell in cells]
    classes = natural_order(sorted({name for names in several for name in names}))
    _refuse_same_but_case(path, classes)
    position = {name: i for i, name in enumerate(classes)}
    targets = np.zeros((len(cells), len(classes)), np.float32)
    rows = np.repeat(np.arange(len(cells)), [len(names) for names in several])
    targets[rows, [position[name] for names in several for name in names]] = 1
    notes.append(f"several labels, divided by {divider!r}")
    return targets, tuple(classes)


def _refuse_same_but_case(path: str, classes: list[str]) -> None:
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(name.casefold(), []).append(name)
    clashes = [" and ".join(names) for names in same.values() if len(names) > 1]
    if clashes:
        raise DataError(f"labels that differ in case only: {listed(clashes)}", where=path,
                        remedy="Write each label in one way")


def _splits(path: str, cells: list[str], lines: list[int]) -> np.ndarray:
    for cell, line in zip(cells, lines, strict=True):
        if cell and cell.lower() not in SPLIT_NAMES:
            raise DataError(f"split={cell!r} is unknown", where=f"{path}:{line}", remedy="Use train, val or test")
    return np.array([SPLIT_NAMES.get(cell.lower(), "") for cell in cells], "<U5")


def _without_repeats(path: str, paths: list[str], targets: np.ndarray, lines: list[int]) -> np.ndarray:
    """Positions of the first row of each image. Raises DataError when a repeated row has another label."""
    first: dict[str, int] = {}
    keep = []
    for i, name in enumerate(paths):
        j = first.setdefault(os.path.normpath(name), i)
        if i == j:
            keep.append(i)
        elif not np.array_equal(targets[i], targets[j]):
            raise DataError(f"{printable(name)} has another label in line {lines[j]}", where=f"{path}:{lines[i]}",
                            remedy="Keep one of the two; for several labels write them in one row: a|b")
    return np.array(keep, np.int64)


data_formats.add(Table, {"table": {}})
