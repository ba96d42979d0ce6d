"""A split that lies in a file: which image belongs to train, val or test. Published splits, and those that runs keep.

A CSV with a header and the columns `path` and `split`, or a run folder, whose splits.csv is one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from visus.core.errors import DataError, did_you_mean, printable
from visus.data.samples import SPLIT_NAMES, SPLITS, Samples, counted, listed

FILE = "splits.csv"  # in a run folder
_MAX_BYTES = 1 << 30
_PATH, _SPLIT = ("path", "file", "filename", "image", "file_name"), ("split", "subset", "partition")


def with_split_file(samples: Samples, file: str | Path) -> Samples:
    """The samples with the splits of `file` in the place of their own, and a note that says so.

    Rows name images by path (relative to the data, or absolute); images in memory have names such as digits[12], as
    `Samples.source` gives them. Images that the file does not name are left out where it names training images, and are
    training images where it names none.

    Raises DataError naming the file and line: unreadable, a column missing, an unknown split, a row that names no image
    or one that was named before.
    """
    path = Path(os.path.realpath(file))
    path = path / FILE if path.is_dir() else path
    rows = _rows(path)
    named = _named(samples)
    split = np.full(len(samples), "", "<U5")
    seen: dict[int, int] = {}
    lost: list[str] = []
    for line, name, value in rows:
        part = SPLIT_NAMES.get(value.casefold())
        if part is None:
            raise DataError(f"split {printable(value)!r} is none of {', '.join(SPLITS)}", where=f"{path}:{line}",
                            remedy=did_you_mean(value, SPLITS))
        place = named.get(name, named.get(os.path.normpath(name).replace(os.sep, "/")))
        if place is None:
            lost.append(f"{printable(name)} (line {line})")
            continue
        if place in seen:
            raise DataError(f"{printable(name)} was named in line {seen[place]} already", where=f"{path}:{line}",
                            remedy="Give each image one row")
        seen[place] = line
        split[place] = part
    if lost:
        first = lost[0].rsplit(" (", 1)[0]
        raise DataError(f"{counted(len(lost), 'row')} of {len(rows):,} name no image of the data: {listed(lost)}",
                        where=path, remedy=did_you_mean(first, list(named)[:10_000]) if named else
                        "Give the paths as they are below the data folder")
    rest = np.flatnonzero(split == "")
    note = f"split as {path.name} gives it: " + ", ".join(
        f"{int((split == name).sum()):,} {name}" for name in SPLITS if (split == name).any())
    if not len(rest):
        return replace(samples, split=split, notes=(*samples.notes, note))
    if (split == "train").any():
        kept = np.flatnonzero(split != "")
        return replace(samples, split=split).subset(
            kept, f"{note}; {counted(len(rest), 'image')} that it does not name left out")
    split[rest] = "train"
    return replace(samples, split=split, notes=(*samples.notes, f"{note}; the other {len(rest):,} are for training"))


def split_text(samples: Samples, splits: Mapping[str, np.ndarray]) -> str:
    """The division as a CSV that `with_split_file` reads: one row an image, in order of positions."""
    of = np.full(len(samples), "", "<U5")
    for name, places in splits.items():
        of[places] = name
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "split"))
    writer.writerows((samples.source(i), of[i]) for i in range(len(samples)) if of[i])
    return text.getvalue()


def _named(samples: Samples) -> dict[str, int]:
    """Names of the images -> positions; absolute paths too, where they are files."""
    named = {samples.source(i): i for i in range(len(samples))}
    if samples.paths is not None and samples.root is not None:
        root = os.path.realpath(samples.root)
        named |= {os.path.join(root, name): i for i, name in enumerate(samples.paths)}
    return named


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, path, split) of each row."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"is over the limit of {_MAX_BYTES >> 20} MiB", where=path)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path,
                        remedy="Give a CSV with the columns path and split, or a run folder") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start})", where=path,
                        remedy="Save the table as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, str, str]] = []
    columns: tuple[int, int] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(path, [cell.strip().casefold() for cell in cells])
            elif len(cells) <= max(columns):
                raise DataError(f"{counted(len(cells), 'field')}, too few", where=f"{path}:{reader.line_num}",
                                remedy="Each row has a path and a split")
            else:
                rows.append((reader.line_num, cells[columns[0]].strip(), cells[columns[1]].strip()))
    except csv.Error as error:
        raise DataError(f"is no CSV: {error}", where=f"{path}:{reader.line_num}",
                        remedy="Give a CSV with the columns path and split") from None
    if not rows:
        raise DataError("names no image", where=path, remedy="Give a CSV with the columns path and split")
    return rows


def _columns(path: Path, header: list[str]) -> tuple[int, int]:
    found = []
    for names in (_PATH, _SPLIT):
        at = next((header.index(name) for name in names if name in header), None)
        if at is None:
            raise DataError(f"has no column {names[0]!r}", where=f"{path}:1",
                            remedy="The first line names the columns: path,split")
        found.append(at)
    return found[0], found[1]
