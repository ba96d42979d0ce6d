"""One classification data set as an index: which images, which labels, which split. Pixels are read on demand."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from visus.core.errors import DataError, ImageError
from visus.core.images import ImageHeader, Part, ReadImage, read_header, read_image, read_part
from visus.data.objects import LabelMaps, Objects

SPLITS = ("train", "val", "test")
_KINDS = {"folder": "class folders", "table": "a table of paths and labels", "npz": "arrays in an .npz file",
          "idx": "IDX files", "cifar": "CIFAR batches", "coco": "a COCO set", "voc": "a Pascal VOC set",
          "yolo": "a YOLO set", "mask_folder": "images with masks beside them", "shards": "WebDataset shards",
          "parquet": "a Parquet table of images", "hugging_face": "a Hugging Face data set"}
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}


class EncodedImages(Protocol):
    """N image files that lie inside other files (shards, tables). Goes to loader workers, so it can be pickled."""

    def __getitem__(self, i: int) -> bytes: ...

    def take(self, indices: np.ndarray) -> EncodedImages: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """N labelled images, in memory, in files, or in files inside other files.

    format: the name of the data format. classes: names, in the order of the labels.
    targets: int64 [N] class labels, or float32 [N, K] of 0 and 1 when an image can have several labels.
    images: uint8 [N, H, W, C] with C 1 or 3; None when the images are files.
    paths: N file names, relative to `root` or absolute; None when the images are in memory.
    encoded: where the images lie inside other files, their bytes; `paths` then only name them.
    split: N of 'train', 'val', 'test', or '' where the data do not say (left out: all '').
    groups: N values; images of one group (patient, scene, burst) must not be divided among splits.
    columns: further columns of a table that were asked for, each N texts; they play no part in training.
    objects: boxes, outlines and keypoints; `targets` then say which classes appear in an image.
    label_maps: one map of labels per image. captions: per image the texts that describe it.
    stated_sizes: int64 [N, 2], height and width as the annotations say, 0 where they do not; None when they never do.
    category_ids: the number that the files use for each class, in the order of `classes`; None: they use none.
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
    encoded: EncodedImages | None = None
    objects: Objects | None = None
    label_maps: LabelMaps | None = None
    captions: tuple[tuple[str, ...], ...] | None = None
    stated_sizes: np.ndarray | None = None
    category_ids: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert (self.images is None) != (self.paths is None), "images either in memory or in files"
        assert self.images is None or (self.images.dtype == np.uint8 and self.images.ndim == 4)
        if not len(self.split):
            object.__setattr__(self, "split", np.full(len(self.targets), "", dtype="<U5"))
        for name in ("images", "paths", "split", "groups", "captions", "stated_sizes"):
            value = getattr(self, name)
            assert value is None or len(value) == len(self.targets), name
        assert self.objects is None or len(self.objects.start) == len(self.targets) + 1
        assert self.label_maps is None or len(self.label_maps.paths) == len(self.targets)
        assert self.category_ids is None or len(self.category_ids) == len(self.classes)

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
        return self.decoded(i, background).pixels

    def decoded(self, i: int, background: tuple[int, int, int] = (255, 255, 255)) -> ReadImage:
        """The pixels of sample i and how they were read. Only for samples in files. Raises as `read` does."""
        return read_image(self._file(i), background=background, name=self.source(i))

    def part(self, i: int, choose: Callable[[int, int], Part], background: tuple[int, int, int] = (255, 255, 255)
             ) -> np.ndarray:
        """What `choose(height, width)` wants of sample i, for training: see core.images.read_part. Raises as `read`."""
        if self.images is not None:
            part = choose(*self.images.shape[1:3])
            return np.array(self.images[i, part.top:part.top + part.height, part.left:part.left + part.width])
        return read_part(self._file(i), choose, background=background, name=self.source(i)).pixels

    def header(self, i: int) -> ImageHeader:
        """What the file of sample i says of itself. Only for samples in files. Raises ImageError naming the file."""
        return read_header(self._file(i), name=self.source(i))

    def _file(self, i: int) -> str | bytes:
        return self.path(i) if self.encoded is None else self.encoded[i]

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
                header = self.header(i)
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
            encoded=None if self.encoded is None else self.encoded.take(indices),
            objects=None if self.objects is None else self.objects.take(indices),
            label_maps=None if self.label_maps is None else self.label_maps.take(indices),
            captions=None if self.captions is None else tuple(self.captions[i] for i in indices),
            stated_sizes=None if self.stated_sizes is None else self.stated_sizes[indices],
            columns={name: cells[indices] for name, cells in self.columns.items()}, notes=(*self.notes, *notes))

    def relabelled(self, position: Sequence[int], classes: tuple[str, ...]) -> Samples:
        """The same images with class k of these samples as class `position[k]` of `classes`."""
        if not self.multi_label:
            return replace(self, classes=classes, targets=np.asarray(position, np.int64)[self.targets],
                           category_ids=None)
        targets = np.zeros((len(self), len(classes)), np.float32)
        targets[:, list(position)] = self.targets
        maps = self.label_maps
        if maps is not None:
            tables = None if maps.per_image is None else tuple(_relabelled(t, position) for t in maps.per_image)
            maps = replace(maps, table=_relabelled(maps.table, position), per_image=tables)
        return replace(self, classes=classes, targets=targets, label_maps=maps, category_ids=None,
                       objects=None if self.objects is None else self.objects.relabelled(np.asarray(position)))

    def digest(self) -> str:
        """Hex SHA-256 that changes with a label, a split, a group, a name or an image.

        Of files, the length and the last 4 KiB are taken, so that a copy elsewhere gives the same digest.
        """
        digest = hashlib.sha256(repr((self.format, self.classes, self.targets.shape)).encode())
        for array in (self.targets, self.split, self.groups, self.images):
            if array is not None:
                digest.update(repr((array.dtype.str, array.shape)).encode())
                digest.update(np.ascontiguousarray(array).data)
        if self.objects is not None:
            for array in (self.objects.start, self.objects.labels, self.objects.boxes):
                digest.update(np.ascontiguousarray(array).data)
        for i, name in enumerate(self.paths or ()):
            mark = _fingerprint(self.path(i)) if self.encoded is None else _inner_fingerprint(self.encoded, i)
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + mark)
        return digest.hexdigest()

    @property
    def recognised(self) -> str:
        """One sentence for people: what this is, how many images, classes and given splits."""
        kind = f"the built-in data set {self.root}" if self.format == "builtin" else \
            _KINDS.get(self.format, self.format)
        given = [name for name in SPLITS if (self.split == name).any()]
        labels = f"{counted(len(self.classes), 'class')}" + (
            f", {self._annotations}" if self._annotations else ", several labels each" if self.multi_label else "")
        return (f"{kind}: {counted(len(self), 'image')}, {labels}"
                + (f", split as given into {' and '.join(given)}" if given else ""))

    @property
    def _annotations(self) -> str:
        """What is marked in the images, in words; '' for class labels alone."""
        kinds = []
        if self.objects is not None:
            kinds.append(counted(len(self.objects), "box"))
            kinds += ["outlines"] * (self.objects.outlines is not None)
            kinds += ["keypoints"] * (self.objects.keypoints is not None)
        kinds += ["a label map each"] * (self.label_maps is not None)
        if self.captions is not None:
            kinds.append(counted(sum(map(len, self.captions)), "caption"))
        return ", ".join(kinds)

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
            return _mark(size, file.read(4096))
    except OSError as error:
        return f"error {error.errno}".encode()


def _inner_fingerprint(encoded: EncodedImages, i: int) -> bytes:
    try:
        ending = getattr(encoded, "ending", None)  # of shards, which need not read the whole image for it
        if ending is not None:
            return _mark(*ending(i))
        data = encoded[i]
        return _mark(len(data), data[-4096:])
    except ImageError as error:
        return f"error {error.problem}".encode()


def _mark(size: int, end: bytes) -> bytes:
    return size.to_bytes(8, "little") + end


def _relabelled(table: Mapping[int, int], position: Sequence[int]) -> dict[int, int]:
    return {value: position[label] if label >= 0 else label for value, label in table.items()}


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
