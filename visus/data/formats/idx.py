"""IDX files of the MNIST family: `train-images-idx3-ubyte(.gz)`, `t10k-labels-idx1-ubyte(.gz)`, ... in one folder.

Format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"): two zero bytes, a type byte (8 = unsigned), the number of
dimensions, each dimension as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib

import numpy as np

from visus.core.errors import DataError
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import Samples, compact_labels, counted

_NAME = re.compile(r"(?:.*[-_])?(train|t10k|test|val)-(images|labels)[-.]idx[13][-.]ubyte(\.gz)?$", re.IGNORECASE)
_SPLIT = {"train": "train", "t10k": "test", "test": "test", "val": "val"}
_MAX_BYTES = 16 << 30


class Idx:
    """Images [N, H, W] and labels [N] of unsigned bytes, plain or gzipped."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isdir(path) and any(_NAME.match(name) for name in os.listdir(path))

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file: a missing half, a header that does not fit the file, counts that differ."""
        files: dict[tuple[str, str], str] = {}
        for name in sorted(os.listdir(path), key=lambda n: n.endswith(".gz")):
            if match := _NAME.match(name):
                files.setdefault((_SPLIT[match[1].lower()], match[2].lower()), os.path.join(path, name))
        images, labels, splits = [], [], []
        for split in ("train", "val", "test"):
            pair = [files.get((split, kind)) for kind in ("images", "labels")]
            if pair == [None, None]:
                continue
            if None in pair:
                raise DataError(f"has no {split} {'images' if pair[0] is None else 'labels'}", where=path,
                                remedy="Put the images and the labels file side by side")
            part, part_labels = read_idx(str(pair[0])), read_idx(str(pair[1]))
            if part.ndim != 3 or part_labels.ndim != 1 or len(part) != len(part_labels):
                raise DataError(f"{part.shape} images for {part_labels.shape} labels", where=pair[0],
                                remedy="Fetch both files again")
            images.append(part)
            labels.append(part_labels)
            splits += [split] * len(part)
        if len({i.shape[1:] for i in images}) > 1:
            raise DataError("splits of different image sizes", where=path, remedy="Fetch the files again")
        targets, classes = compact_labels(np.concatenate(labels))
        return Samples(format="idx", classes=classes, targets=targets, images=np.concatenate(images)[..., None],
                       split=np.array(splits, "<U5"), root=os.path.basename(os.path.abspath(path)))


def read_idx(path: str) -> np.ndarray:
    """One IDX file of unsigned bytes: uint8 of the shape in its header. Raises DataError when the header lies."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != 8 or not 1 <= magic[3] <= 4:
                raise DataError("is not an IDX file of unsigned bytes", where=path, remedy="Fetch it again")
            dimensions = file.read(4 * magic[3])
            if len(dimensions) < 4 * magic[3]:
                raise DataError("ends inside its header", where=path, remedy="Fetch it again")
            shape = struct.unpack(f">{magic[3]}I", dimensions)
            size = math.prod(shape)
            if size > _MAX_BYTES:
                raise DataError(f"its header claims {size / 2**30:.0f} GiB ({shape})", where=path,
                                remedy="The header is damaged: fetch the file again")
            packed = os.path.getsize(path)
            if size > (packed if opener is open else 1100 * packed):
                raise DataError(f"its header claims {shape}, {size:,} bytes; the file is too small", where=path,
                                remedy="The header is damaged or the file is cut: fetch it again")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path,
                        remedy="Fetch it again") from error
    if len(data) != size:
        there = "more" if len(data) > size else counted(len(data), "byte")
        raise DataError(f"its header claims {shape}, {size:,} bytes; there are {there}", where=path,
                        remedy="Fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


data_formats.add(Idx, {"idx": {}})
