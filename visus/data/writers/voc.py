"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt, and classes.txt, which keeps the classes' order.

Pixels are counted from 1 and a box names its first and last pixel, so x1 y1 x2 y2 becomes x1+1 y1+1 x2 y2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from visus.data.objects import Objects
from visus.data.reading.annotation_files import distinct_stems
from visus.data.reading.pixel_objects import image_sizes, in_pixels
from visus.data.samples import SPLITS, Samples, counted
from visus.data.writers import (
    Images,
    Progress,
    beside_objects,
    fresh_folder,
    image_names,
    required_objects,
    write_image,
    write_new,
    writers,
)

_NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class VocWriter:
    """Boxes, with `difficult`."""

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None:
        """Raises DataError for samples without objects, and as `fresh_folder`; ImageError for unreadable sizes."""
        given = required_objects(samples, "Pascal VOC")
        names = distinct_stems(_plain(name).replace("/", "_") for name in image_names(samples))
        with fresh_folder(samples, out) as folder:
            sizes = image_sizes(samples)
            objects = in_pixels(given, sizes)
            classes = [escape(_plain(name)) for name in samples.classes]
            boxes = (objects.boxes + np.array([1.0, 1.0, 0.0, 0.0])).tolist()
            for i, name in enumerate(names):
                write_image(samples, i, folder / "JPEGImages" / name, images)
                page = _page(name, sizes[i].tolist(), _depth(samples), objects, i, boxes, classes)
                write_new(folder / "Annotations" / f"{os.path.splitext(name)[0]}.xml", page)
                if progress is not None:
                    progress(i + 1, len(samples))
            for split in SPLITS:
                chosen = np.flatnonzero(samples.split == split).tolist()
                if chosen:
                    write_new(folder / "ImageSets" / "Main" / f"{split}.txt",
                              _lines(os.path.splitext(names[i])[0] for i in chosen))
            write_new(folder / "classes.txt", _lines(map(_plain, samples.classes)))

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples VOC does not hold, in words."""
        objects = samples.objects
        if objects is None:
            return []
        outlines = objects.outlines
        shaped = 0 if outlines is None else len({*outlines.runs, *np.flatnonzero(np.diff(outlines.polygons)).tolist()})
        marked = 0 if objects.keypoints is None else int((objects.keypoints[..., 2] > 0).any(1).sum())
        broken = 0 if objects.relative else int((objects.boxes % 1 != 0).any(1).sum())
        found = [(shaped, "outline", "left out: VOC's objects are boxes"),
                 (marked, "object", "without its keypoints"), (int(objects.crowd.sum()), "crowd", "became a plain box"),
                 *beside_objects(samples, "VOC names them"),
                 (broken, "box", "with parts of pixels: written with decimals, which some readers of VOC do not take")]
        notes = [f"{counted(count, noun)} {rest}" for count, noun, rest in found if count]
        unsplit = int((samples.split == "").sum())
        if 0 < unsplit < len(samples):
            notes.append(f"{counted(unsplit, 'image')} without a split: in none of the lists of ImageSets/Main")
        return notes


def _depth(samples: Samples) -> int:
    return 3 if samples.images is None else int(samples.images.shape[3])


def _page(name: str, size: list[int], depth: int, objects: Objects, i: int, boxes: list[list[float]],
          classes: list[str]) -> bytes:
    height, width = size
    lines = ["<annotation>", "\t<folder>JPEGImages</folder>", f"\t<filename>{escape(name)}</filename>",
             f"\t<size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>",
             "\t<segmented>0</segmented>"]
    for m in range(int(objects.start[i]), int(objects.start[i + 1])):
        x1, y1, x2, y2 = (int(value) if value.is_integer() else value for value in boxes[m])
        lines += ["\t<object>", f"\t\t<name>{classes[objects.labels[m]]}</name>",
                  f"\t\t<difficult>{int(objects.difficult[m])}</difficult>",
                  f"\t\t<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
                  "\t</object>"]
    return _lines([*lines, "</annotation>"])


def _plain(text: str) -> str:
    """Without what XML forbids and what breaks lines."""
    return _NOT_IN_XML.sub("_", text)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


writers.add(VocWriter, {"voc": {}})
