"""WebDataset shards: tar files in which `KEY.jpg` is followed by `KEY.cls` or `KEY.json`. Nothing is unpacked.

Convention: the names of one sample agree up to the first dot (A. Aizman, G. Maltby, T. Breuel, "High performance I/O
for large scale deep learning", 2019). The archive's headers are read once; images are then read by their offset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from visus.core.errors import DataError, ImageError, did_you_mean, printable
from visus.core.images import EXTENSIONS
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.shards.parts import Label, chosen_image, is_label, stated_label
from visus.data.formats.shards.tar_members import tar_samples
from visus.data.reading.holders import handle, holder_names, is_regular, refuse_links_out, splits_of, stamp
from visus.data.samples import Samples, compact_labels, counted, listed, natural_order

MAX_IMAGE_BYTES = 512 << 20
MAX_SHARDS = 100_000
_MAX_LABEL_BYTES = 1 << 20
_PACKED = (".tar.gz", ".tgz")
_BRACES = re.compile(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}")


@dataclass(frozen=True, eq=False)
class ShardImages:
    """N images by shard, offset and size (int64 [N] each). files: absolute names; stamps: what they were like."""

    files: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError when the shard is gone, cut or another one."""
        return self._read(i, int(self.offset[i]), int(self.size[i]))

    def ending(self, i: int) -> tuple[int, bytes]:
        """(length of image i, its last 4 KiB at most), without reading the rest. Raises as `[i]`."""
        size = int(self.size[i])
        last = min(size, 4096)
        return size, self._read(i, int(self.offset[i]) + size - last, last)

    def _read(self, i: int, offset: int, size: int) -> bytes:
        file = self.files[self.shard[i]]
        try:
            data = handle(file, self.stamps[self.shard[i]]).read(offset, size)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}", where=file) from error
        if len(data) < size:
            raise ImageError("was cut since it was indexed", where=file, remedy="Fetch the shard again")
        return data

    def take(self, indices: np.ndarray) -> ShardImages:
        return replace(self, shard=self.shard[indices], offset=self.offset[indices], size=self.size[indices])


class Shards:
    """One .tar, a folder of them, or a pattern such as `train-{000..009}.tar`."""

    @staticmethod
    def recognises(path: str) -> bool:
        if os.path.isdir(path):
            return bool(holder_names(path, (".tar",)))
        return path.lower().endswith(".tar") and (is_regular(path) or _has_braces(path))

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the shard and the key: cut or damaged archives, links, devices, labels that are
        missing, unreadable or not in classes.txt, keys that come twice."""
        root, names = shard_names(path)
        packed = [name for name in names if name.lower().endswith(_PACKED)]
        if packed:
            raise DataError("is compressed: its images cannot be reached one by one", where=packed[0],
                            remedy="Unpack it to .tar (gunzip), or stream it: visus.data.stream.ShardStream")
        notes: list[str] = []
        splits = splits_of(names, notes)
        found = _Found()
        files = tuple(os.path.join(root, name) for name in names)
        stamps = tuple(stamp(file) for file in files)
        for number, file in enumerate(files):
            _index(number, file, names[number], stamps[number][0], found)
        found.refuse(path)
        if not found.keys:
            raise DataError(f"holds no images in {counted(len(names), 'shard')}", where=path,
                            remedy="A sample is KEY.jpg followed by KEY.cls; known images: "
                            + ", ".join(sorted(EXTENSIONS)))
        if found.ignored:
            notes.append(f"ignored: {counted(found.ignored, 'sample')} without an image")
        targets, classes, ids = _targets(path, root, found, notes)
        return Samples(
            format="shards", classes=tuple(printable(c) for c in classes), targets=targets, paths=tuple(found.keys),
            root=root, split=np.array(splits, "<U5")[found.shard], category_ids=ids, notes=tuple(notes),
            captions=tuple((c,) if c else () for c in found.captions) if any(found.captions) else None,
            encoded=ShardImages(files, stamps, *(np.array(v, np.int64)
                                                 for v in (found.shard, found.offset, found.size))))


def shard_names(path: str) -> tuple[str, list[str]]:
    """(folder, names of the shards in it) of a folder, a file or a pattern. Raises DataError naming what is missing."""
    if os.path.isdir(path):
        names = holder_names(path, (".tar",)) or holder_names(path, (".tar", *_PACKED))
        if not names:
            raise DataError("holds no shards", where=path, remedy="Give a folder of .tar files alone")
        refuse_links_out(path, names)
        return os.path.abspath(path), names
    names = list(braces(path)) if _has_braces(path) and not os.path.lexists(path) else [path]
    missing = [name for name in names if not is_regular(name)]
    if missing:
        raise DataError(f"{counted(len(missing), 'shard')} not there: {listed([printable(n) for n in missing])}",
                        where=path, remedy="Check the numbers between the braces")
    root = os.path.dirname(os.path.abspath(names[0])) if len(names) == 1 else os.path.commonpath(
        [os.path.dirname(os.path.abspath(name)) for name in names])
    return root, [os.path.relpath(name, root) for name in names]


def braces(pattern: str) -> Iterator[str]:
    """`a-{08..10}` -> a-08, a-09, a-10; `{x,y}` -> x, y; several pairs multiply. Raises DataError over MAX_SHARDS."""
    rest, count = pattern, 1
    parts: list[list[str]] = []
    while match := _BRACES.search(rest):
        if match[3] is not None:
            choices = match[3].split(",")
        else:
            if len(match[1]) > 12 or len(match[2]) > 12 or int(match[2]) - int(match[1]) >= MAX_SHARDS:
                raise DataError(f"more than {MAX_SHARDS:,} shards", where=pattern)
            choices = [f"{n:0{len(match[1])}d}" for n in range(int(match[1]), int(match[2]) + 1)]
        parts += [[rest[:match.start()]], choices]
        count *= len(choices)
        if count > MAX_SHARDS:
            raise DataError(f"more than {MAX_SHARDS:,} shards", where=pattern)
        rest = rest[match.end():]
    names = [""]
    for choices in [*parts, [rest]]:
        names = [name + choice for name in names for choice in choices]
    yield from names


def _has_braces(path: str) -> bool:
    return _BRACES.search(path) is not None


@dataclass
class _Found:
    """What the headers say: one entry per image, and what is wrong."""

    keys: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    bad: int = 0
    shown: list[str] = field(default_factory=list)
    ignored: int = 0

    def wrong(self, where: str, problem: str) -> None:
        self.bad += 1
        if len(self.shown) < 10:
            self.shown.append(f"{printable(where)[:200]}: {problem}")

    def refuse(self, path: str) -> None:
        if self.bad:
            more = f" and {self.bad - len(self.shown):,} more" if self.bad > len(self.shown) else ""
            raise DataError(f"{counted(self.bad, 'sample')} that cannot be used: {'; '.join(self.shown)}{more}",
                            where=path, remedy="Write these samples again, or leave them out of the shard")


def _index(number: int, path: str, name: str, size: int, found: _Found) -> None:
    known = set()
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed below; opening has errors of its own)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error
    with file:
        for key, parts in tar_samples(file, path, is_label, size=size, max_bytes=_MAX_LABEL_BYTES):
            where = f"{name}/{key}"
            if key in known:
                found.wrong(where, "the key comes twice")
                continue
            known.add(key)
            try:
                image = chosen_image(parts)
                label, caption = stated_label(parts)
            except ValueError as error:
                found.wrong(where, str(error))
                continue
            if image is None:
                found.ignored += 1
                continue
            member = image[1]
            if member.size > MAX_IMAGE_BYTES:
                found.wrong(where, f"an image of {member.size >> 20} MiB")
                continue
            found.keys.append(f"{name}/{member.name}")
            found.folders.append(os.path.basename(os.path.dirname(member.name)))
            found.shard.append(number)
            found.offset.append(member.offset)
            found.size.append(member.size)
            found.labels.append(label)
            found.captions.append(caption)


def _targets(path: str, root: str, found: _Found,
             notes: list[str]) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...] | None]:
    """(int64 [N] or float32 [N, K], classes, their numbers in the files); [N, 0] and no classes for captions alone."""
    labels = found.labels
    without = [key for key, label in zip(found.keys, labels, strict=True) if label is None]
    if len(without) == len(labels):
        if all(found.folders):
            notes.append("no .cls and no label in .json: the folder of each key is its class")
            labels = list(found.folders)
        elif any(found.captions):
            return np.zeros((len(labels), 0), np.float32), (), None
        else:
            raise DataError("no sample has a label", where=path,
                            remedy="Put KEY.cls (a number or a name) beside KEY.jpg, or {\"label\": ...} into KEY.json")
    elif without:
        raise DataError(f"{counted(len(without), 'sample')} without a label: "
                        f"{listed([printable(k) for k in without])}", where=path,
                        remedy="Add KEY.cls to these samples, or leave them out of the shard")
    several = any(isinstance(label, tuple) for label in labels)
    counts = [len(label) if isinstance(label, tuple) else 1 for label in labels]
    owner = np.repeat(np.arange(len(labels)), counts)
    flat = [one for label in labels for one in (label if isinstance(label, tuple) else (label,))]
    values, classes, ids = _places(path, root, found, flat, owner)
    if not several:
        return values, classes, ids
    targets = np.zeros((len(labels), len(classes)), np.float32)
    targets[owner, values] = 1
    return targets, classes, ids


def _places(path: str, root: str, found: _Found, labels: list[int | str | None],
            owner: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...] | None]:
    """(int64 positions of the labels among the classes, classes, their numbers in the files)."""
    names = _class_names(root)
    if names is not None:
        return _named(path, found, labels, names, owner), names, None
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) == len(labels) and numbers:
        if min(numbers) < 0 or max(numbers) >= 1 << 62:
            raise DataError(f"labels from {min(numbers)} to {max(numbers)}", where=path,
                            remedy="Number the classes from 0")
        targets, classes = compact_labels(np.array(numbers, np.int64))
        return targets, classes, tuple(int(c) for c in classes)
    texts = [str(label) for label in labels]
    classes = tuple(natural_order(sorted(set(texts))))
    position = {name: i for i, name in enumerate(classes)}
    return np.array([position[text] for text in texts], np.int64), classes, None


def _class_names(root: str) -> tuple[str, ...] | None:
    """The lines of classes.txt beside the shards."""
    path = os.path.join(root, "classes.txt")
    if not is_regular(path):
        return None
    refuse_links_out(root, ["classes.txt"])
    with open(path, "rb") as file:
        data = file.read((16 << 20) + 1)
    if len(data) > 16 << 20:
        raise DataError("is larger than 16 MiB", where=path, remedy="One class name a line")
    names = [line.strip() for line in data.decode("utf-8-sig", "replace").splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) < len(names):
        line = next((i for i, n in enumerate(names, 1) if not n or n in names[:i - 1]), 1)
        raise DataError("an empty line or a name that comes twice", where=f"{path}:{line}",
                        remedy="One class name a line, in the order of the numbers")
    return tuple(names)


def _named(path: str, found: _Found, labels: list[int | str | None], names: tuple[str, ...],
           owner: np.ndarray) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    targets = np.zeros(len(labels), np.int64)
    for i, label in enumerate(labels):
        place = label if isinstance(label, int) else position.get(str(label), -1)
        if not 0 <= place < len(names):
            hint = f"{label!r} is not in classes.txt" if isinstance(label, str) else \
                f"{label} is outside of 0 to {len(names) - 1}"
            near = f" ({did_you_mean(label, names)})" if isinstance(label, str) and not found.bad else ""
            found.wrong(found.keys[int(owner[i])], hint + near)
            continue
        targets[i] = place
    found.refuse(path)
    return targets


data_formats.add(Shards, {"shards": {}})
