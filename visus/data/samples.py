"""One classification data set as an index: which images, which labels, which split. Pixels are read on demand."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from visus.core.errors import DataError, ImageError
from visus.core.images import read_header, read_image

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """N labelled images, in memory or in files.

    format: the name of the data format. classes: names, in the order of the labels.
    targets: int64 [N] class labels, or float32 [N, K] of 0 and 1 when an image can have several labels.
    images: uint8 [N, H, W, C] with C 1 or 3; None when the images are files.
    paths: N file names, relative to `root` or absolute; None when the images are in memory.
    split: N of 'train', 'val', 'test', or '' where the data do not say (left out: all '').
    groups: N values; images of one group (patient, scene, burst) must not be divided among splits.
    columns: further columns of a table that were asked for, each N texts; they play no part in training.
    notes: what was recognised, ignored or decided, for the user to read.
    """

    format: str
    classes: tuple[str, ...]
    targets: np.ndarray
    images: np.ndarray | None = None
    paths: tuple[str, ...] | None = None
    root: str | None = None
    split: np.ndarray = field(default_factory=lambda: np.empty(0, "<U5"))
    groups: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert (self.images is None) != (self.paths is None), "images either in memory or in files"
        assert self.images is None or (self.images.dtype == np.uint8 and self.images.ndim == 4)
        if not len(self.split):
            object.__setattr__(self, "split", np.full(len(self.targets), "", dtype="<U5"))
        for name in ("images", "paths", "split", "groups"):
            value = getattr(self, name)
            assert value is None or len(value) == len(self.targets), name

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def in_memory(self) -> bool:
        return self.images is not None

    @property
    def multi_label(self) -> bool:
        return self.targets.ndim == 2

    def path(self, i: int) -> str:
        """The file of sample i. Only for samples in files."""
        assert self.paths is not None
        return self.paths[i] if self.root is None else os.path.join(self.root, self.paths[i])

    def source(self, i: int) -> str:
        """A name of sample i for people: its file, or its position."""
        return self.paths[i] if self.paths is not None else f"{self.root or self.format}[{i}]"

    def read(self, i: int, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
        """The pixels of sample i: uint8 [H, W, 1 or 3]. Raises ImageError naming the file."""
        if self.images is not None:
            return np.array(self.images[i])
        return read_image(self.path(i), background=background, name=self.source(i)).pixels

    def class_counts(self, indices: np.ndarray | None = None) -> np.ndarray:
        """int64 [K]: images per class, of all samples or of those at `indices`."""
        targets = self.targets if indices is None else self.targets[indices]
        if self.multi_label:
            return targets.sum(0).astype(np.int64)
        return np.bincount(targets, minlength=len(self.classes))

    def sizes(self, limit: int = 500) -> tuple[np.ndarray, int]:
        """(int64 [n, 2] heights and widths of up to `limit` samples spread over the set, channels).

        From the headers alone; channels is 1 when all of those are grey, else 3. Files that cannot be read are left
        out. Raises DataError when none can be.
        """
        if self.images is not None:
            return np.tile(np.array(self.images.shape[1:3], np.int64), (len(self), 1))[:limit], self.images.shape[3]
        sizes, channels, problem = [], 1, None
        for i in spread(len(self), limit):
            try:
                header = read_header(self.path(i), name=self.source(i))
            except ImageError as error:
                problem = error
                continue
            sizes.append((header.height, header.width))
            channels = max(channels, header.channels)
        if not sizes:
            raise DataError("no image can be read", where=self.root, remedy=str(problem))
        return np.array(sizes, np.int64), channels

    def subset(self, indices: np.ndarray, *notes: str) -> Samples:
        """The samples at `indices`, in that order, with `notes` added."""
        return replace(
            self, targets=self.targets[indices], split=self.split[indices],
            images=None if self.images is None else self.images[indices],
            paths=None if self.paths is None else tuple(self.paths[i] for i in indices),
            groups=None if self.groups is None else self.groups[indices],
            columns={name: cells[indices] for name, cells in self.columns.items()}, notes=(*self.notes, *notes))

    def relabelled(self, position: Sequence[int], classes: tuple[str, ...]) -> Samples:
        """The same images with class k of these samples as class `position[k]` of `classes`."""
        if not self.multi_label:
            return replace(self, classes=classes, targets=np.asarray(position, np.int64)[self.targets])
        targets = np.zeros((len(self), len(classes)), np.float32)
        targets[:, list(position)] = self.targets
        return replace(self, classes=classes, targets=targets)

    def digest(self) -> str:
        """Hex SHA-256 that changes with a label, a split, a group, a name or an image.

        Of files, the length and the last 4 KiB are taken, so that a copy elsewhere gives the same digest.
        """
        digest = hashlib.sha256(repr((self.format, self.classes, self.targets.shape)).encode())
        for array in (self.targets, self.split, self.groups, self.images):
            if array is not None:
                digest.update(repr((array.dtype.str, array.shape)).encode())
                digest.update(np.ascontiguousarray(array))
        for i, name in enumerate(self.paths or ()):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + _fingerprint(self.path(i)))
        return digest.hexdigest()

    @property
    def recognised(self) -> str:
        """One sentence for people: what this is, how many images, classes and given splits."""
        kind = {"folder": "class folders", "table": "a table of paths and labels", "npz": "arrays in an .npz file",
                "idx": "IDX files", "builtin": f"the built-in data set {self.root}"}.get(self.format, self.format)
        given = [name for name in SPLITS if (self.split == name).any()]
        labels = f"{counted(len(self.classes), 'class')}" + (", several labels each" if self.multi_label else "")
        return (f"{kind}: {counted(len(self), 'image')}, {labels}"
                + (f", split as given into {' and '.join(given)}" if given else ""))

    def __repr__(self) -> str:
        kind = "several labels each" if self.multi_label else "one label each"
        return f"Samples({self.format}: {len(self)} images, {len(self.classes)} classes, {kind})"


def natural_order(names: Sequence[str]) -> list[str]:
    """Sorted as people count: class2 before class10, upper and lower case together."""
    return sorted(names, key=lambda name: (
        [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"([0-9]+)", name))], name))


def spread(count: int, limit: int) -> list[int]:
    """Up to `limit` positions, evenly over range(count)."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64)).tolist()


def _fingerprint(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 4096))
            return size.to_bytes(8, "little") + file.read(4096)
    except OSError as error:
        return f"error {error.errno}".encode()


def listed(items: Sequence[str], limit: int = 10) -> str:
    """The first `limit` items, and how many there are beyond."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def counted(count: int, noun: str) -> str:
    """'1 file', '2 files', '2 classes'."""
    plural = noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def check_classes(samples: Samples, where: object) -> Samples:
    """The samples, when there is something to learn from them. Raises DataError for no images and for one class."""
    if len(samples) == 0:
        raise DataError("holds no images", where=where,
                        remedy="Give a folder with one sub-folder of images per class, a CSV or an .npz")
    if len(samples.classes) < 2:
        raise DataError(f"holds one class only ({samples.classes[0]!r})", where=where,
                        remedy="A classifier needs two classes or more: add images of another class")
    return samples


def compact_labels(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Integer labels -> (int64 from 0 without gaps, the integers as class names)."""
    unique, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64).reshape(-1), tuple(str(int(v)) for v in unique)
