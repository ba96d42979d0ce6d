"""NumPy archives: `images` and `labels`, or `train_images`, `train_labels`, `test_images`, ... in one .npz."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import IO

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import SPLIT_NAMES, Samples, compact_labels, counted, listed

_IMAGES = ("images", "image", "x", "data")
_LABELS = ("labels", "label", "y", "targets", "target")
_MAX_ARRAYS = 64
_MAX_RATIO = 1100  # deflate cannot do better than 1032:1
_SAVE = "Save it again: numpy.savez('data.npz', images=images, labels=labels)"


class Npz:
    """Arrays in memory. Pickled objects are refused and sizes are checked before anything is unpacked."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isfile(path) and path.lower().endswith(".npz")

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and the array."""
        return read_npz(path)


def read_npz(path: str) -> Samples:
    """images: uint8 [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W], or floats in [0, 1]; labels: integers [N], or
    0 and 1 [N, K]; optional class_names [K] and groups [N]."""
    arrays = _load(path)
    pairs = _find_pairs(path, arrays)
    notes: list[str] = []
    images, labels, splits, groups = [], [], [], []
    for split, image_name, label_name in pairs:
        part = _images(f"{path}:{image_name}", arrays[image_name], notes)
        part_labels = _labels(f"{path}:{label_name}", arrays[label_name], notes)
        if len(part) != len(part_labels):
            raise DataError(f"{len(part):,} images in {image_name} but {len(part_labels):,} labels in {label_name}",
                            where=path, remedy=_SAVE)
        images.append(part)
        labels.append(part_labels)
        splits += [split] * len(part)
        prefix = image_name[:len(image_name) - len(_stem(image_name)[1])] if split else ""
        if prefix + "groups" in arrays:
            groups.append(arrays[prefix + "groups"].reshape(-1))
    shapes = {i.shape[1:] for i in images}
    if len(shapes) > 1:
        raise DataError(f"images of different sizes: {listed([str(s) for s in sorted(shapes)])}", where=path,
                        remedy="Give all splits the same size, or use image files in class folders")
    all_images = images[0] if len(images) == 1 else np.concatenate(images)
    targets, classes = _classes(path, labels, arrays)
    groups_all = np.concatenate(groups) if len(groups) == len(pairs) else None
    if groups_all is not None and len(groups_all) != len(all_images):
        raise DataError(f"{len(groups_all):,} groups for {len(all_images):,} images", where=path, remedy=_SAVE)
    used = {n for pair in pairs for n in pair[1:]}
    unused = [n for n in arrays if n not in used and _bare(n) not in ("class_names", "classes", "groups")]
    if unused:
        notes.append("arrays not used: " + listed([printable(n) for n in unused]))
    return Samples(format="npz", classes=classes, targets=targets, images=all_images, split=np.array(splits, "<U5"),
                   groups=groups_all, root=os.path.basename(path), notes=tuple(dict.fromkeys(notes)))


def _load(path: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz whose headers are plausible, without pickles."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS or len({m.filename for m in members}) < len(members):
                raise DataError(f"holds {len(members)} arrays or two of one name", where=path, remedy=_SAVE)
            if sum(m.file_size for m in members) > limit:
                raise DataError(f"unpacks to {sum(m.file_size for m in members) / 2**30:.1f} GiB, more than this "
                                "machine's memory", where=path, remedy="Use image files in class folders")
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if not member.filename.endswith(".npy") or member.flag_bits & 1:
                    raise DataError("holds something else than NumPy arrays", where=f"{path}:{name}", remedy=_SAVE)
                if member.file_size > _MAX_RATIO * max(member.compress_size, 64):
                    raise DataError("is packed more tightly than an array can be", where=f"{path}:{name}",
                                    remedy=_SAVE)
                with archive.open(member) as file:
                    _check_header(file, member.file_size, f"{path}:{name}")
                with archive.open(member) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
            return arrays
    except MemoryError as error:
        raise DataError("does not fit into memory", where=path, remedy="Use image files in class folders") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError,
            SyntaxError) as error:
        raise DataError(f"is not a whole .npz archive ({error})", where=path, remedy=_SAVE) from error


def _check_header(file: IO[bytes], size: int, where: str) -> None:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"is of .npy version {version}", where=where, remedy=_SAVE)
    try:
        shape, _, dtype = read(file)
    except MemoryError:
        raise
    except Exception as error:  # NumPy reads it as Python's own literals, whose parsers raise many kinds
        raise DataError(f"has a header that describes no array ({type(error).__name__})", where=where,
                        remedy=_SAVE) from error
    if dtype.hasobject:
        raise DataError("holds Python objects (a pickle), which could run code", where=where,
                        remedy="Save plain arrays of numbers: labels.astype('int64'), images.astype('uint8')")
    expected = file.tell() + int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if expected != size:
        raise DataError(f"its header claims {expected:,} bytes, there are {size:,}", where=where, remedy=_SAVE)


def _bare(name: str) -> str:
    """The name without a split before or behind: 'x_train' and 'train_images' -> 'x' and 'images', lower case."""
    return _stem(name)[1].lower()


def _stem(name: str) -> tuple[str, str]:
    """(split or '', rest of the name)."""
    head, _, tail = name.partition("_")
    if head.lower() in SPLIT_NAMES and tail:
        return SPLIT_NAMES[head.lower()], tail
    head, _, tail = name.rpartition("_")
    if tail.lower() in SPLIT_NAMES and head:
        return SPLIT_NAMES[tail.lower()], head
    return "", name


def _find_pairs(path: str, arrays: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """(split, name of the images, name of the labels) in the order train, val, test."""
    images = {_stem(n)[0]: n for n in reversed(arrays) if _bare(n) in _IMAGES}
    labels = {_stem(n)[0]: n for n in reversed(arrays) if _bare(n) in _LABELS}
    splits: tuple[str, ...] = ("", "train", "val", "test")
    pairs = [(s, images[s], labels[s]) for s in splits if s in images and s in labels]
    alone = sorted(set(images) ^ set(labels))
    if not pairs or alone:
        raise DataError(f"has no matching images and labels among its arrays: {listed([printable(n) for n in arrays])}",
                        where=path, remedy="Name them images and labels (or train_images, train_labels, ...)")
    if pairs[0][0] == "" and len(pairs) > 1:
        raise DataError(f"has both {pairs[0][1]} and {pairs[1][1]}", where=path,
                        remedy="Keep either one set, or train_, val_ and test_ sets")
    return pairs


def _images(where: str, images: np.ndarray, notes: list[str]) -> np.ndarray:
    """uint8 [N, H, W, C]."""
    if images.dtype.kind == "f":
        if images.size and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise DataError(f"floats outside of [0, 1] (from {images.min():g} to {images.max():g})", where=where,
                            remedy="Scale them to [0, 1], or save uint8 in 0..255")
        images = np.rint(images * 255).astype(np.uint8)
        notes.append("images: floats in [0, 1] scaled to 0..255")
    if images.dtype != np.uint8:
        raise DataError(f"is of type {images.dtype}", where=where,
                        remedy="Images are uint8 in 0..255 or floats in [0, 1]: images.astype('uint8')")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)  # [N, C, H, W] -> [N, H, W, C]
        notes.append("images: stored as [N, C, H, W]")
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise DataError(f"has shape {images.shape}", where=where,
                        remedy="Images are [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W]")
    return images


def _labels(where: str, labels: np.ndarray, notes: list[str]) -> np.ndarray:
    """int64 [N], or float32 [N, K] for several labels."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iubf":
        raise DataError(f"labels are text (type {labels.dtype}), not integers", where=where,
                        remedy="Save integers from 0, and their names as class_names")
    if labels.ndim not in (1, 2):
        raise DataError(f"has shape {labels.shape}", where=where, remedy="Labels are integers [N], or 0 and 1 [N, K]")
    if labels.dtype.kind == "f":
        wrong = ~np.isfinite(labels) | (labels != np.rint(labels))
        if wrong.any():
            raise DataError(f"labels are not integers: {labels[wrong].flat[0]:g} at position "
                            f"{tuple(int(i) for i in np.argwhere(wrong)[0])}", where=where,
                            remedy="Save integers from 0, and their names as class_names")
        notes.append("labels: whole-number floats taken as integers")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError("has several columns of other values than 0 and 1", where=where,
                            remedy="Labels are integers [N], or 0 and 1 [N, K]")
        return labels.astype(np.float32)
    return labels.astype(np.int64)


def _classes(path: str, labels: list[np.ndarray], arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    given = next((arrays[n] for n in arrays if n.lower() in ("class_names", "classes")), None)
    names = None if given is None else tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
                                             for v in given.reshape(-1).tolist())
    if len({part.ndim for part in labels}) > 1 or len({part.shape[1:] for part in labels}) > 1:
        raise DataError("labels of different shapes", where=path, remedy="Give all splits labels of one shape")
    targets = np.concatenate(labels)
    if targets.ndim == 2:
        names = names or tuple(str(i) for i in range(targets.shape[1]))
        if len(names) != targets.shape[1]:
            raise DataError(f"{len(names)} class names for {targets.shape[1]} label columns", where=path)
        return targets, names
    if names is None:
        return compact_labels(targets)
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(names):
        raise DataError(f"labels from {targets.min()} to {targets.max()}, but {counted(len(names), 'class name')}",
                        where=path, remedy="Labels count from 0, in the order of class_names")
    if len(set(names)) < len(names):
        raise DataError("two class names are the same", where=path, remedy="Give each class a name of its own")
    return targets, names


data_formats.add(Npz, {"npz": {}})
