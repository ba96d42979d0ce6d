"""CIFAR-10 and CIFAR-100 as published: `cifar-10-batches-py`, `cifar-10-batches-bin`, `cifar-100-python`, `-binary`.

Format (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and its page): an image is 3,072
bytes, 1,024 of red, then green, then blue, row by row. The Python version is a pickled dictionary per batch, read here
as data (`plain_pickle` beside this file); the binary one is records of a label byte (CIFAR-100: coarse, fine) and an
image.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import numpy as np

from visus.core.errors import DataError, did_you_mean, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.cifar.plain_pickle import read_plain_pickle
from visus.data.samples import Samples, counted, listed

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
_BATCHES = {**{f"data_batch_{n}": "train" for n in range(1, 6)}, "test_batch": "test"}
_HALVES = {"train": "train", "test": "test"}
_PIXELS = 3 * 32 * 32
_MAX_BYTES = 1 << 30
_REMEDY = "Fetch the official archive again: visus data get cifar10 (or cifar100)"


class Cifar:
    """The folder of the batches, or the folder that holds it alone."""

    @staticmethod
    def recognises(path: str) -> bool:
        return _found(path) is not None

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file, and the record: a pickle that is more than data, labels out of range,
        lengths that do not fit."""
        found = _found(path)
        if found is None:
            raise DataError("holds no CIFAR batches", where=path,
                            remedy="Give the folder that holds data_batch_1 (CIFAR-10) or train and meta (CIFAR-100)")
        folder, hundred, binary = found
        parts = _HALVES if hundred else _BATCHES
        suffix = ".bin" if binary else ""
        there = [name for name in parts if _is_file(os.path.join(folder, name + suffix))]
        read = _read_binary if binary else _read_pickle
        batches = [read(os.path.join(folder, name + suffix), hundred) for name in there]
        names, coarse_names, notes = (_names_binary if binary else _names_pickle)(folder, hundred)
        missing = [name + suffix for name in parts if name not in there]
        if missing:
            notes.append(f"not there: {listed(missing)}")
        targets = np.concatenate([fine for _, fine, _ in batches])
        classes = names or tuple(str(n) for n in range(100 if hundred else 10))
        _check_labels(folder, there, suffix, [fine for _, fine, _ in batches], len(classes))
        columns = {}
        if hundred:
            coarse = np.concatenate([c for _, _, c in batches])
            known = coarse_names or tuple(str(n) for n in range(20))
            _check_labels(folder, there, suffix, [c for _, _, c in batches], len(known))
            columns["coarse"] = np.array(known)[coarse]
        unknown = [name for name in options.kept_columns if name not in columns]
        if unknown:
            raise DataError(f"has no column {unknown[0]!r}", where=path, remedy=did_you_mean(unknown[0], columns)
                            if columns else "CIFAR-10 has no columns beside the label")
        images = np.empty((len(targets), 32, 32, 3), np.uint8)
        start = 0
        for pixels, _, _ in batches:
            images[start:start + len(pixels)] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            start += len(pixels)
        split = [parts[name] for name, (pixels, _, _) in zip(there, batches, strict=True) for _ in range(len(pixels))]
        return Samples(format="cifar", classes=classes, targets=targets, images=images, split=np.array(split, "<U5"),
                       columns=columns, root=os.path.basename(folder), notes=tuple(notes))


def _found(path: str) -> tuple[str, bool, bool] | None:
    """(folder, CIFAR-100, binary version)."""
    if not os.path.isdir(path):
        return None
    inside = [os.path.join(path, name) for name in _FOLDERS if os.path.isdir(os.path.join(path, name))]
    for folder in [path] + (inside if len(inside) == 1 else []):
        for hundred, binary, needed in ((False, False, ("data_batch_1",)), (False, True, ("data_batch_1.bin",)),
                                        (True, False, ("train", "test", "meta")), (True, False, ("train", "meta")),
                                        (True, True, ("train.bin", "fine_label_names.txt"))):
            if all(_is_file(os.path.join(folder, name)) for name in needed):
                return folder, hundred, binary
    return None


def _is_file(path: str) -> bool:
    """A regular file; a link only where it stays in its folder."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
    except (OSError, ValueError):
        return False
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(os.path.dirname(path))


def _read_pickle(path: str, hundred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uint8 [N, 3072], int64 [N] labels, int64 [N] coarse labels)."""
    batch = read_plain_pickle(path)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        shape = f"shape {pixels.shape} of {pixels.dtype}" if isinstance(pixels, np.ndarray) else "no array"
        raise DataError(f"'data' is {shape}, not uint8 [N, {_PIXELS}]", where=path, remedy=_REMEDY)
    labels = [_numbers(path, batch, key, len(pixels))
              for key in (("fine_labels", "coarse_labels") if hundred else ("labels",))]
    return pixels, labels[0], labels[-1]


def _numbers(path: str, batch: dict[str, Any], key: str, count: int) -> np.ndarray:
    values = batch.get(key)
    if values is None:
        raise DataError(f"has no {key!r}, only {listed([repr(printable(k)) for k in batch])}", where=path,
                        remedy=_REMEDY)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        values = values.astype(np.int64)
    elif not isinstance(values, list) or any(type(v) is not int or not 0 <= v < 1 << 31 for v in values):
        wrong = next((i for i, v in enumerate(values) if type(v) is not int or not 0 <= v < 1 << 31), None) \
            if isinstance(values, list) else None
        what = "is no list of numbers" if wrong is None else f"holds {_shown(values[wrong])} at record {wrong}"
        raise DataError(f"{key!r} {what}", where=path, remedy=_REMEDY)
    if len(values) != count:
        raise DataError(f"{len(values):,} {key} for {count:,} images", where=path, remedy=_REMEDY)
    return np.asarray(values, np.int64)


def _shown(value: Any) -> str:
    if isinstance(value, bytes | str):
        return repr(value[:40])
    return str(value)[:40] if isinstance(value, int | float) else type(value).__name__


def _read_binary(path: str, hundred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_read_pickle`."""
    record = _PIXELS + (2 if hundred else 1)
    size = os.path.getsize(path)
    if size > _MAX_BYTES or size % record or not size:
        raise DataError(f"is {size:,} bytes, which is no whole number of records of {record:,}", where=path,
                        remedy=_REMEDY)
    try:
        records = np.fromfile(path, np.uint8).reshape(-1, record)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=path) from error
    return records[:, -_PIXELS:], records[:, -_PIXELS - 1].astype(np.int64), records[:, 0].astype(np.int64)


def _names_pickle(folder: str, hundred: bool) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    path = os.path.join(folder, "meta" if hundred else "batches.meta")
    if not _is_file(path):
        return ((), (), ["there is no meta: classes are numbers"]) if hundred else (
            CLASSES, (), ["there is no batches.meta: the published class names are taken"])
    meta = read_plain_pickle(path, max_bytes=1 << 20)
    keys = ("fine_label_names", "coarse_label_names") if hundred else ("label_names",)
    found = []
    for key in keys:
        names = meta.get(key)
        if not isinstance(names, list) or not names or not all(isinstance(n, bytes | str) for n in names):
            raise DataError(f"has no list {key!r}", where=path, remedy=_REMEDY)
        found.append(_distinct(path, [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]))
    return found[0], found[1] if hundred else (), []


def _names_binary(folder: str, hundred: bool) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    found: list[tuple[str, ...]] = []
    notes = []
    for name in (("fine_label_names.txt", "coarse_label_names.txt") if hundred else ("batches.meta.txt",)):
        path = os.path.join(folder, name)
        lines = []
        if _is_file(path):
            with open(path, "rb") as file:
                lines = [line.strip() for line in file.read(1 << 20).decode("utf-8", "replace").split("\n")]
        names = [line for line in lines if line]
        if not names:
            instead = "classes are numbers" if hundred else "the published class names are taken"
            notes.append(f"there is no {name}: {instead}")
        found.append(_distinct(path, names) if names else () if hundred else CLASSES)
    return found[0], found[1] if hundred else (), notes


def _distinct(path: str, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise DataError("two class names are the same", where=path, remedy=_REMEDY)
    return tuple(printable(name) for name in names)


def _check_labels(folder: str, there: list[str], suffix: str, labels: list[np.ndarray], limit: int) -> None:
    bad = [(name + suffix, int(i), int(part[i])) for name, part in zip(there, labels, strict=True)
           for i in np.flatnonzero(part >= limit)[:10]]
    if bad:
        count = sum(int((part >= limit).sum()) for part in labels)
        shown = listed([f"{name} record {i}: {value}" for name, i, value in bad])
        raise DataError(f"{counted(count, 'label')} outside of 0 to {limit - 1}: {shown}",
                        where=os.path.join(folder, bad[0][0]), remedy=_REMEDY)


data_formats.add(Cifar, {"cifar": {}})
