"""WebDataset shards: tar files in which `KEY.jpg` is followed by `KEY.cls` or `KEY.json`, and `KEY.txt` for a caption.

The same samples give the same bytes: headers hold no time, owner or machine. Images are mixed within a split, in an
order that is the same each time, as shards are read from front to back.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from visus.core.errors import DataError
from visus.core.files import finite
from visus.core.images import EXTENSIONS
from visus.core.seeds import permutation
from visus.data.objects import Objects
from visus.data.reading.annotation_files import distinct_stems
from visus.data.reading.pixel_objects import image_sizes, in_pixels
from visus.data.samples import SPLITS, Samples, counted
from visus.data.writers import Images, Progress, fresh_folder, image_names, write_new, writers

_IMAGES_EACH = 10_000
_BYTES_EACH = 512 << 20


class ShardWriter:
    """A class number in .cls for one label per image; all that is marked in .json otherwise; classes.txt beside."""

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None:
        """Raises DataError as `fresh_folder`, and for an image that cannot be read. `images` makes no difference."""
        names = distinct_stems(_key_name(samples, i, name) for i, name in enumerate(image_names(samples)))
        given = bool((samples.split != "").any())
        objects = None if samples.objects is None else in_pixels(samples.objects, image_sizes(samples))
        with fresh_folder(samples, out) as folder:
            done = 0
            for split in (*SPLITS, ""):
                chosen = np.flatnonzero(samples.split == split)
                with closing(_Shard(folder, split or ("unsplit" if given else "data"))) as shard:
                    for i in chosen[permutation(len(chosen), 0, "shards", split)].tolist():
                        shard.add(names[i], image_bytes(samples, i), _members(samples, objects, i))
                        done += 1
                        if progress is not None:
                            progress(done, len(samples))
            if samples.classes:
                write_new(folder / "classes.txt", "".join(f"{_line(name)}\n" for name in samples.classes).encode())

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples shards do not hold, in words."""
        notes = []
        if samples.label_maps is not None:
            notes.append(f"{counted(sum(map(bool, samples.label_maps.paths)), 'map')} of labels left out")
        if samples.multi_label or samples.objects is not None:
            notes.append("classes and objects are in KEY.json; visus itself reads one class each from shards")
        unsplit = int((samples.split == "").sum())
        if 0 < unsplit < len(samples):
            notes.append(f"{counted(unsplit, 'image')} without a split: in shards named unsplit")
        return notes


class _Shard:
    """NAME-000000.tar and on; a new one when it is full."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._number = folder, name, 0
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None

    def add(self, name: str, image: bytes, members: dict[str, bytes]) -> None:
        """One sample: its image, then what is said of it."""
        if self._tar is None:
            self._file = open(self._folder / f"{self._name}-{self._number:06}.tar", "xb")  # noqa: SIM115 (closed below)
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
            self._count = 0
        key, extension = os.path.splitext(name)
        for ending, data in {extension[1:]: image, **members}.items():
            about = tarfile.TarInfo(f"{key}.{ending}")
            about.size, about.mode, about.mtime = len(data), 0o644, 0
            self._tar.addfile(about, io.BytesIO(data))
        self._count += 1
        if self._count >= _IMAGES_EACH or self._tar.offset >= _BYTES_EACH:
            self.close()

    def close(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()
            self._tar, self._number = None, self._number + 1


def image_bytes(samples: Samples, i: int) -> bytes:
    """The file of image i as it is, or PNG of an array. Raises DataError naming a file that cannot be read."""
    if samples.images is not None:
        encoded = io.BytesIO()
        pixels = samples.images[i]
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(encoded, "PNG")
        return encoded.getvalue()
    if samples.encoded is not None:
        return samples.encoded[i]
    path = samples.path(i)
    if not os.path.isfile(path):
        raise DataError("is not there any more" if not os.path.lexists(path) else "is not a file", where=path,
                        remedy="Put it back, or open the data again")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="Check the permissions") from error


def _members(samples: Samples, objects: Objects | None, i: int) -> dict[str, bytes]:
    """Extension -> content, of what is said of image i."""
    found: dict[str, bytes] = {}
    if not samples.multi_label:
        found["cls"] = str(int(samples.targets[i])).encode()
    elif samples.classes:
        about: dict[str, Any] = {"labels": [samples.classes[k] for k in np.flatnonzero(samples.targets[i])]}
        if objects is not None:
            about["objects"] = [_object(objects, m, samples.classes)
                                for m in range(int(objects.start[i]), int(objects.start[i + 1]))]
        if samples.captions is not None:
            about["captions"] = list(samples.captions[i])
        found["json"] = json.dumps(finite(about), sort_keys=True).encode()
    if samples.captions is not None and samples.captions[i]:
        found["txt"] = samples.captions[i][0].encode("utf-8", "replace")
    return found


def _object(objects: Objects, m: int, classes: tuple[str, ...]) -> dict[str, Any]:
    """box: x1 y1 x2 y2 in pixels. polygons: [x, y, x, y, ...] each. runs: COCO's lengths down the columns."""
    about: dict[str, Any] = {"name": classes[objects.labels[m]], "box": objects.boxes[m]}
    about.update({name: True for name in ("crowd", "difficult") if getattr(objects, name)[m]})
    outlines = objects.outlines
    if outlines is not None:
        rings = [ring.ravel() for ring in outlines.rings(m)]
        about.update({"polygons": rings} if rings else {})
        if m in outlines.runs:
            runs = outlines.runs[m]
            about["runs"] = {"size": [runs.height, runs.width], "counts": runs.lengths}
    if objects.keypoints is not None:
        about["keypoints"] = objects.keypoints[m]
    return about


def _key_name(samples: Samples, i: int, name: str) -> str:
    """A file name with one dot, before the extension: the key of a sample ends at the first dot."""
    folder, _, base = name.rpartition("/")
    start, extension = os.path.splitext(base)
    if extension.lower() not in EXTENSIONS:
        start, extension = base, "." + samples.header(i).format.lower()
    start = re.sub(r"[.\x00-\x1f\ud800-\udfff]", "_", start)
    return f"{folder}/{start}{extension.lower()}" if folder else f"{start}{extension.lower()}"


def _line(name: str) -> str:
    return re.sub(r"[\x00-\x1f\x85\u2028\u2029\ud800-\udfff]", "_", name)


writers.add(ShardWriter, {"shards": {}})
