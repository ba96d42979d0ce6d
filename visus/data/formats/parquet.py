"""Parquet tables of images: a column of image files as bytes or as Hugging Face's {bytes, path}, or of paths.

Labels are read at once; images by row group, of which each process keeps a few, so that reading in order is quick and
reading out of order is quick where row groups are small (Hugging Face writes 100 images in each).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visus.core.errors import DataError, ImageError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.arrow import MAX_ROWS, Picked, guarded, import_arrow, pick, read_labels, read_splits, read_texts
from visus.data.reading.holders import Kept, holder_names, is_regular, refuse_links_out, splits_of, stamp
from visus.data.samples import Samples, counted, listed

MAX_GROUP_BYTES = 1 << 30
_LARGE_GROUP_BYTES = 64 << 20
_KEPT_GROUPS = 3
_AGAIN = "Write the file again, or fetch it again"
_groups = Kept(_KEPT_GROUPS)


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """N images by row. files: absolute names; bounds: int64 [G + 1], the first row of each row group over all files;
    group_file, group: int64 [G], the file of each and its number there; rows: int64 [N]."""

    files: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    column: str
    bounds: np.ndarray
    group_file: np.ndarray
    group: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError when the file changed or is damaged there, or the cell is empty."""
        row = int(self.rows[i])
        at = int(np.searchsorted(self.bounds, row, "right")) - 1
        number = int(self.group_file[at])
        file, group = self.files[number], int(self.group[at])
        with guarded(file, ImageError):
            column = _groups.of((file, self.stamps[number], group, self.column),
                                lambda: _row_group(file, self.stamps[number], group, self.column))
            value = column[row - int(self.bounds[at])].as_py()
        return image_bytes(value, f"{file}: row {row - int(self.bounds[self._first(at)])}")

    def _first(self, at: int) -> int:
        """The first row group of the file of row group `at`."""
        return at - int(self.group[at])

    def take(self, indices: np.ndarray) -> ParquetImages:
        return replace(self, rows=self.rows[indices])


def image_bytes(value: Any, where: str) -> bytes:
    """What a cell holds. Raises ImageError where it holds no bytes."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ImageError("holds no image: the cell is empty", where=where,
                         remedy="Write the table with the images in it, or leave it out with --on-bad-image skip")
    return value


def _row_group(file: str, expected: tuple[int, int], group: int, column: str) -> Any:
    if not is_regular(file) or stamp(file) != expected:
        raise ImageError("has changed since it was indexed", where=file, remedy="Start again")
    with import_arrow("parquet").ParquetFile(file) as parquet:
        return parquet.read_row_group(group, columns=[column], use_threads=False).column(0)


class Parquet:
    """A .parquet file, or a folder of them, with `data`, `train`, `val` or `test` below it."""

    @staticmethod
    def recognises(path: str) -> bool:
        if os.path.isdir(path):
            return bool(holder_names(path, (".parquet",)))
        return path.lower().endswith(".parquet") and is_regular(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and the row or column; MissingExtra without pyarrow."""
        if not os.path.isdir(path):
            return read_parquet(os.path.dirname(os.path.abspath(path)), [os.path.basename(path)], options, where=path)
        names = holder_names(path, (".parquet",))
        if not names:
            raise DataError("holds no .parquet files", where=path, remedy="Give a folder of .parquet files alone")
        refuse_links_out(path, names)
        return read_parquet(os.path.abspath(path), names, options, where=path)


def read_parquet(root: str, names: list[str], options: ReadOptions, *, where: str, format: str = "parquet") -> Samples:
    """The rows of the files `names` in `root`, in order."""
    files = [os.path.join(root, name) for name in names]
    stamps = tuple(stamp(file) for file in files)
    notes: list[str] = []
    parts, bounds, group_file, groups = [], [0], [], []
    picked: Picked | None = None
    largest, empty = 0, True
    for number, file in enumerate(files):
        with guarded(file), import_arrow("parquet").ParquetFile(file) as parquet:
            picked = _same(file, parquet, picked or pick(file, parquet.schema_arrow, options), options)
            about = parquet.metadata
            if about.num_rows > MAX_ROWS:
                raise DataError(f"claims {about.num_rows:,} rows", where=file, remedy="Divide it into smaller files")
            sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
            if sum(sizes) != about.num_rows or min(sizes, default=0) < 0:
                raise DataError("its row groups do not have the rows that it claims", where=file, remedy=_AGAIN)
            for group, size in enumerate(sizes):
                largest = max(largest, about.row_group(group).total_byte_size)
                bounds.append(bounds[-1] + size)
                group_file.append(number)
                groups.append(group)
            empty = empty and _is_empty(parquet, picked)
            parts.append(parquet.read(columns=picked.small, use_threads=False))
            if parts[-1].num_rows != about.num_rows:
                raise DataError("has another number of rows than it claims", where=file, remedy=_AGAIN)
    assert picked is not None
    if bounds[-1] == 0:
        raise DataError("holds no rows", where=where, remedy="Add one row per image")
    if picked.kind == "struct" and empty:
        raise DataError(f"{picked.image!r} holds paths only, no bytes", where=where,
                        remedy="Write the table again with the images in it (datasets: embed_external_files=True)")
    if picked.kind != "path":
        _check_groups(where, largest, notes)
    starts = np.cumsum([0] + [part.num_rows for part in parts])
    with guarded(where):
        table = import_arrow("").concat_tables(parts)
    encoded = ParquetImages(
        tuple(files), stamps, picked.image + ".bytes" * (picked.kind == "struct"), np.array(bounds, np.int64),
        np.array(group_file, np.int64), np.array(groups, np.int64), np.arange(bounds[-1]))
    given = np.repeat(splits_of(names, notes), np.diff(starts))
    return table_samples(format, where, root, names, starts, table, picked, encoded, given, notes)


def table_samples(format: str, where: str, root: str, names: list[str], starts: np.ndarray, table: Any, picked: Picked,
                  encoded: Any, given: np.ndarray, notes: list[str]) -> Samples:
    """Samples of the small columns `table`. starts: int64 [files + 1], first rows; given: split of each row by file."""

    def row_name(row: int) -> str:
        file = int(np.searchsorted(starts, row, "right")) - 1
        return f"{names[file]}[{row - int(starts[file])}]"

    with guarded(where):
        labels = read_labels(where, table.column(picked.label), picked.names, row_name)
    split = given.astype("<U5")
    if picked.split is not None:
        split = read_splits(where, read_texts(where, table.column(picked.split)))
    paths = _paths(where, root, table.column(picked.image).to_pylist(), row_name) if picked.kind == "path" else \
        [f"{name}[{row}]" for name, size in zip(names, np.diff(starts).tolist(), strict=True) for row in range(size)]
    columns = {name: read_texts(where, table.column(name)) for name in picked.kept}
    samples = Samples(
        format=format, classes=tuple(printable(c) for c in labels.classes),
        targets=np.where(labels.kept, labels.targets, 0) if labels.targets.ndim == 1 else labels.targets,
        paths=tuple(paths), root=root, split=split, columns=columns, category_ids=labels.category_ids,
        groups=None if picked.group is None else read_texts(where, table.column(picked.group)),
        encoded=None if picked.kind == "path" else encoded, notes=tuple(notes))
    if labels.kept.all():
        return samples
    if not labels.kept.any():
        raise DataError("no row has a label: all are -1", where=where, remedy="Give a part of the data with labels")
    left = counted(int((~labels.kept).sum()), "row")
    return samples.subset(np.flatnonzero(labels.kept), f"{left} left out whose label is -1 (none)")


def _same(file: str, parquet: Any, picked: Picked, options: ReadOptions) -> Picked:
    """The columns of a further file, which must be of the same kind as those of the first."""
    here = pick(file, parquet.schema_arrow, options)
    if (here.image, here.kind, here.label, here.split, here.group) != \
            (picked.image, picked.kind, picked.label, picked.split, picked.group) or here.names != picked.names:
        raise DataError("has other columns or class names than the first file", where=file,
                        remedy="Keep files of one table in a folder")
    return picked


def _is_empty(parquet: Any, picked: Picked) -> bool:
    """Whether the first row group holds no image bytes, only paths. It is read only where it is small.

    Neither this nor the sizes come from the metadata of single columns: pyarrow aborts the process on damaged ones.
    """
    if picked.kind != "struct" or not parquet.metadata.num_row_groups:
        return picked.kind == "struct"
    group = parquet.metadata.row_group(0)
    if group.total_byte_size > min(512 * group.num_rows + 4096, _LARGE_GROUP_BYTES):
        return False
    column = parquet.read_row_group(0, columns=[picked.image + ".bytes"], use_threads=False).column(0)
    return all(chunk.is_null().true_count + chunk.field("bytes").is_null().true_count >= len(chunk)
               for chunk in column.chunks)


def _check_groups(where: str, largest: int, notes: list[str]) -> None:
    if largest > MAX_GROUP_BYTES:
        raise DataError(f"a row group holds {largest >> 20} MiB, over the limit of "
                        f"{MAX_GROUP_BYTES >> 20} MiB", where=where, remedy="Write it with row_group_size=100")
    if largest > _LARGE_GROUP_BYTES:
        notes.append(f"row groups of up to {largest >> 20} MiB: images out of order are slow; row_group_size=100 is "
                     "better")


def _paths(where: str, root: str, cells: list[str | None], row_name: Any) -> list[str]:
    inside = os.path.realpath(root)
    wrong = []
    for row, cell in enumerate(cells):
        problem = None
        if not cell:
            problem = "no path"
        elif "://" in cell or os.path.isabs(cell) or ".." in cell.replace("\\", "/").split("/") or "\0" in cell:
            problem = f"{printable(cell)[:80]!r} leads out of the folder"
        elif not is_regular(os.path.join(root, cell)):
            problem = f"{printable(cell)[:80]!r} is not there"
        elif os.path.commonpath([os.path.realpath(os.path.join(root, cell)), inside]) != inside:
            problem = f"{printable(cell)[:80]!r} is a link out of the folder"
        if problem:
            wrong.append(f"{row_name(row)}: {problem}")
    if wrong:
        raise DataError(f"{counted(len(wrong), 'row')} without an image file: {listed(wrong)}", where=where,
                        remedy="Paths are relative to the folder of the table")
    return [str(cell) for cell in cells]


data_formats.add(Parquet, {"parquet": {}})
