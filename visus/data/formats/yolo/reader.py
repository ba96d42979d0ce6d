"""YOLO: one text file per image, one object a line, coordinates as shares of the image's width and height.

    class  centre_x centre_y width height             a box
    class  x1 y1 x2 y2 x3 y3 ...                      a polygon of three points or more
    class  centre_x centre_y width height  x y [v] ...    a box with keypoints, where data.yaml has kpt_shape

data.yaml names the classes and the images (docs.ultralytics.com/datasets); without it, `images/` and `labels/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.yolo.layout import YoloLayout, label_path, looks_like_yolo, yolo_layout
from visus.data.formats.yolo.rows import YoloRows
from visus.data.reading.annotation_files import read_bytes
from visus.data.samples import Samples, counted, listed

_MAX_LABELS = 16 << 20
_FILES_AT_ONCE = 1_000
_THREADS = 4


class Yolo:
    """Boxes, polygons and keypoints of YOLO. An image without a label file is one without objects, which is said."""

    @staticmethod
    def recognises(path: str) -> bool:
        return looks_like_yolo(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and the line, or the key of data.yaml."""
        layout = yolo_layout(path)
        paths, splits, labels, notes = _label_files(layout)
        rows = YoloRows(layout, labels)
        for done, texts in _read(layout, labels):
            rows.take(texts)
            if options.progress is not None:
                options.progress(done, len(labels))
        layout.listing.refuse_bad_links()
        rows.refuse()
        objects = rows.objects()
        classes = layout.classes
        if classes is None:
            count = int(objects.labels.max(initial=0)) + 1
            classes = tuple(str(k) for k in range(count))
            notes.append("classes have no names: there is no data.yaml and no classes.txt")
        return Samples(format="yolo", classes=classes, targets=objects.presence(len(classes)), paths=tuple(paths),
                       root=layout.listing.root, split=np.array(splits, "<U5"), objects=objects,
                       notes=(*layout.notes, *notes, *rows.notes))


def _label_files(layout: YoloLayout) -> tuple[list[str], list[str], list[str], list[str]]:
    """(images, their splits, their label files or '', notes)."""
    listing, paths, splits, labels, notes = layout.listing, [], [], [], []
    bare: list[str] = []
    used: set[str] = set()
    folder_of: dict[str, str] = {}
    for split, images in layout.images.items():
        files = [label_path(listing, image, folder_of) for image in images]
        found = [listing.holds(name) for name in files]
        if not any(found):
            if split == "test" and len(layout.images) > 1:
                notes.append(f"{counted(len(images), 'test image')} without label files: not used")
                continue
            raise DataError(f"no image of {split or 'it'} has a label file", where=listing.path,
                            remedy=f"Looked for {printable(listing.full(files[0]))}")
        bare += [printable(image) for image, there in zip(images, found, strict=True) if not there]
        paths += images
        splits += [split] * len(images)
        labels += [name if there else "" for name, there in zip(files, found, strict=True)]
        used.update(files)
    if bare:
        notes.append(f"{counted(len(bare), 'image')} without a label file, taken as without objects: {listed(bare, 3)}")
    folders = sorted({name.rpartition("/")[0] for name in used})
    alone = [printable(path) for folder in folders for name, path in sorted(listing.files(folder).items())
             if name.lower().endswith(".txt") and path not in used and name != "classes.txt"]
    if alone and any("labels" in folder.lower() for folder in folders):
        notes.append(f"{counted(len(alone), 'label file')} without an image not used: {listed(alone, 3)}")
    return paths, splits, labels, notes


def _read(layout: YoloLayout, labels: Sequence[str]) -> Iterator[tuple[int, list[bytes]]]:
    """(files so far, content of the next) in order; read ahead in threads, for slow disks."""
    listing = layout.listing
    parts = [labels[i:i + _FILES_AT_ONCE] for i in range(0, len(labels), _FILES_AT_ONCE)]

    def contents(names: Sequence[str]) -> list[bytes]:
        return [read_bytes(listing.full(name), _MAX_LABELS) if name else b"" for name in names]

    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [pool.submit(contents, part) for part in parts[:2 * _THREADS]]
        for k in range(len(parts)):
            texts = waiting.pop(0).result()
            if k + 2 * _THREADS < len(parts):
                waiting.append(pool.submit(contents, parts[k + 2 * _THREADS]))
            done += len(texts)
            yield done, texts


data_formats.add(Yolo, {"yolo": {}})
