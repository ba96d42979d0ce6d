"""visus doctor data: what is wrong with images and labels before anything is trained. Nothing in the data changes."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visus.core.errors import DataError, UserError
from visus.core.files import write_text
from visus.data.masks import runs_box
from visus.data.objects import Objects, Outlines
from visus.data.opening import open_samples
from visus.data.samples import SPLITS, Samples
from visus.data.split import split_samples
from visus.doctor.diagnosis import Diagnosis, checks, run_checks
from visus.doctor.image_set import ImageSet, Marks
from visus.doctor.images.exhibits import Exhibit, label_names, shown
from visus.doctor.images.imbalance import class_counts
from visus.doctor.images.pixels import pixels_of
from visus.report.thumbnails import picture_uri
from visus.run.draw_data import draw_objects, draw_regions, labels_of
from visus.run.inspect_data import lies_inside
from visus.run.thumbnails import thumbnail

if TYPE_CHECKING:
    from visus.report.data_findings import Gallery, Picture

TINY_PX = 64  # images up to this side are embedded as they are, and shown with their pixels as squares
JPEG_QUALITY = 85
MARKED_PX, LEAST_PART_PX = 200, 64  # side of a picture of objects; what is shown around a small one
EXIF_BYTES = 1 << 16  # an EXIF block lies in one segment of a JPEG file, which is no longer
_EXIF_IFD, _TAKEN, _FRACTION, _SERIAL, _MAKE, _MODEL = 0x8769, 0x9003, 0x9291, 0xA431, 0x010F, 0x0110  # CIPA DC-008


def doctor_data(path: str | Path, *, format: str = "auto", out: str | Path | None = None,
                budget_s: float = 20.0, skip: Sequence[str] = (),
                progress: Callable[[str], None] = lambda name: None,
                reading: Callable[[int, int], None] | None = None) -> Diagnosis:
    """Look at a data set as `visus train` would divide it. out: an HTML page with the findings and the images that they
    name. progress(name): called before each check. reading: called with (read, all) while large annotation files are
    read.

    Raises DataError when the path is no data set, UserError when `out` lies inside the data, ResourceError when it
    cannot be written.
    """
    if out is not None and lies_inside(out, path):
        raise UserError("lies in the data folder, where nothing is written", where=out,
                        remedy="Give a path elsewhere")
    begun = time.perf_counter()
    samples = open_samples(path, format, progress=reading)
    splits, problem = _divided(samples)
    images = image_set(samples, splits, seconds=budget_s)
    diagnosis = examine_images(images, budget_s=budget_s, skip=skip, progress=progress)
    if problem:
        diagnosis = replace(diagnosis, left_out={"making splits": problem, **diagnosis.left_out})
    if out is not None:
        write_text(out, _page(path, samples, images, diagnosis, time.perf_counter() - begun))
    return diagnosis


def image_set(samples: Samples, splits: Mapping[str, np.ndarray], *, seconds: float = 20.0) -> ImageSet:
    """The samples as the checks see them. splits: name -> positions; an image in none of them has the split ''."""
    split = np.full(len(samples), "", "<U16")
    for name, places in splits.items():
        split[places] = name
    labels = None
    if presence_known(samples):
        labels = samples.targets > 0 if samples.multi_label else samples.targets.astype(np.int64)
    sizes = None
    if samples.images is not None:
        sizes = np.tile(np.array(samples.images.shape[1:3], np.int64), (len(samples), 1))
    return ImageSet(
        read=samples.read, labels=labels, split=split, classes=samples.classes, sizes=sizes, groups=samples.groups,
        sources=samples.paths or tuple(samples.source(i) for i in range(len(samples))), seconds=seconds,
        about=None if samples.in_memory or samples.encoded is not None else lambda i: file_facts(samples.path(i)),
        marks=marks_of(samples), stated=samples.stated_sizes,
        label_map=None if samples.label_maps is None else lambda i: labels_of(samples, i))


def marks_of(samples: Samples) -> Marks | None:
    """The objects of the samples as the checks see them; None where none are marked."""
    objects = samples.objects
    if objects is None:
        return None
    return Marks(image=objects.image_of, labels=objects.labels, boxes=objects.boxes, crowd=objects.crowd,
                 relative=objects.relative, shapes=None if objects.outlines is None else extents(objects.outlines),
                 keypoints=objects.keypoints)


def extents(outlines: Outlines) -> np.ndarray:
    """float64 [M, 4], x1 y1 x2 y2 around each outline; NaN where there is none."""
    found = np.full((len(outlines), 4), np.nan)
    first, last = outlines.vertices[outlines.polygons[:-1]], outlines.vertices[outlines.polygons[1:]]
    drawn = np.flatnonzero(last > first)  # the points of an object lie in a row
    if len(drawn):
        found[drawn, :2] = np.minimum.reduceat(outlines.points, first[drawn])
        found[drawn, 2:] = np.maximum.reduceat(outlines.points, first[drawn])
    for k, runs in outlines.runs.items():
        found[k] = runs_box(runs)
    return found


def examine_images(images: ImageSet, *, budget_s: float = 20.0, skip: Sequence[str] = (),
                   progress: Callable[[str], None] = lambda name: None) -> Diagnosis:
    """All checks of images, the specific ones first. No check begins after `budget_s`; half of it is for decoding."""
    images = replace(images, seconds=budget_s)
    return run_checks(checks("images"), lambda entry: entry.build(images), budget_s=budget_s, skip=skip,
                      progress=progress)


def marked_part(pixels: np.ndarray, objects: Objects, image: int, marks: Sequence[int],
                classes: Sequence[str]) -> Image.Image:
    """The part of an image, uint8 [H, W, C], around some of its objects, with them drawn into it."""
    height, width = pixels.shape[:2]
    rows = np.array(marks, np.int64) - objects.start[image]
    chosen = objects.of(image, height, width).pick(rows)
    edge = np.array([width, height], np.float64)
    low, high = (np.nan_to_num(chosen.boxes[:, part]).clip(0, edge) for part in (slice(0, 2), slice(2, 4)))
    low, high = np.minimum(low, high).min(0), np.maximum(low, high).max(0)
    room = np.maximum(high - low, LEAST_PART_PX / 2)
    low, high = np.floor((low - room).clip(0, edge - 1)).astype(int), np.ceil((high + room).clip(1, edge)).astype(int)
    part = pixels[low[1]:high[1], low[0]:high[0]]
    outlines = chosen.outlines
    if outlines is not None:
        outlines = replace(outlines, points=outlines.points - low, runs={})
    points = chosen.keypoints
    moved = replace(chosen, boxes=chosen.boxes - np.tile(low, 2), outlines=outlines,
                    keypoints=None if points is None else points - np.array([*low, 0]))
    return draw_objects(part, moved, classes, MARKED_PX)


def file_facts(path: str) -> tuple[float, float, str]:
    """(bytes, when it was taken in seconds since 1970 as if in UTC, camera) of an image file, by EXIF of JPEG files;
    NaN and '' where it does not say. Never raises: a file that cannot be read says nothing."""
    try:
        size = float(os.stat(path).st_size)
        if not os.path.isfile(path):
            return size, np.nan, ""
        with open(path, "rb") as file:
            head = file.read(EXIF_BYTES)
    except (OSError, ValueError):
        return np.nan, np.nan, ""
    start = head.find(b"Exif\0\0") if head.startswith(b"\xff\xd8\xff") else -1
    return (size, np.nan, "") if start < 0 else (size, *_exif(head[start:]))


def _exif(block: bytes) -> tuple[float, str]:
    try:
        exif = Image.Exif()
        exif.load(block)
        details = exif.get_ifd(_EXIF_IFD)
        camera = " ".join(str(part).strip("\0 ") for part in (exif.get(_MAKE), exif.get(_MODEL), details.get(_SERIAL))
                          if part)
        stamp = datetime.strptime(str(details[_TAKEN]).strip("\0 ") + "+0000", "%Y:%m:%d %H:%M:%S%z")
        fraction = str(details.get(_FRACTION, "0")).strip("\0 ")
        return stamp.timestamp() + (float("0." + fraction) if fraction.isdigit() else 0.0), camera
    except Exception:  # damaged EXIF data say nothing
        return np.nan, ""


def _divided(samples: Samples) -> tuple[dict[str, np.ndarray], str]:
    """The splits that a training would use, and '' or why there can be none: then those that the data give."""
    try:
        if presence_known(samples):
            return split_samples(samples), ""
        problem = "" if (samples.split != "").any() else "it is not known which classes an image shows"
    except DataError as error:
        problem = error.problem
    given = {name: np.flatnonzero(samples.split == name) for name in SPLITS}
    given["train"] = np.flatnonzero((samples.split == "train") | (samples.split == ""))
    return {name: places for name, places in given.items() if len(places)}, problem


def presence_known(samples: Samples) -> bool:
    """Whether the samples say which classes an image shows: maps of labels and captions alone do not."""
    return bool(len(samples.classes)) and (samples.label_maps is None or bool(samples.targets.any()))


def _page(path: str | Path, samples: Samples, images: ImageSet, diagnosis: Diagnosis,
          seconds: float) -> str:
    from visus.report.data_findings import Check, DataView, render_data_findings

    pixels = pixels_of(images)
    abouts = {entry.name: entry.about for entry in checks("images")}
    rows = [Check(name=name, rule=str(abouts[name]["rule"]), seconds=took,
                  found=sum(finding.check == name for finding in diagnosis.findings))
            for name, took in diagnosis.seconds.items()]
    splits = {name: places for name in SPLITS if (places := images.splits().get(name)) is not None}
    return render_data_findings(DataView(
        name=Path(os.path.abspath(path)).name or str(path), recognised=samples.recognised, findings=diagnosis.findings,
        galleries=_galleries(images, samples, diagnosis), checks=rows, left_out=tuple(diagnosis.left_out.items()),
        classes=samples.classes, splits={name: len(places) for name, places in splits.items()},
        counts={} if images.labels is None else {name: class_counts(images, places).tolist()
                                                 for name, places in splits.items()},
        given=tuple(name for name in SPLITS if (samples.split == name).any()), looked=pixels.looked, total=pixels.total,
        seconds=seconds, notes=samples.notes, command=("visus", "doctor", "data", os.fspath(path))))


def _galleries(images: ImageSet, samples: Samples, diagnosis: Diagnosis) -> list[Gallery]:
    """The images that the findings name, in the order of the findings."""
    from visus.report.data_findings import Gallery

    kept = shown(images)
    names = dict.fromkeys(finding.check for finding in diagnosis.findings)
    return [Gallery(check=name, items=[(_pictures(images, samples, exhibit), exhibit.words) for exhibit in kept[name]])
            for name in names if kept.get(name)]


def _pictures(images: ImageSet, samples: Samples, exhibit: Exhibit) -> list[Picture]:
    from visus.report.data_findings import Picture

    return [Picture(uri=_encoded(images, samples, i, exhibit), source=images.sources[i], label=label_names(images, i),
                    split=str(images.split[i])) for i in exhibit.images]


def _encoded(images: ImageSet, samples: Samples, place: int, exhibit: Exhibit) -> str | None:
    file = io.BytesIO()
    try:
        pixels = images.read(place)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        labels = labels_of(samples, place) if exhibit.regions else None
    except DataError:
        return None  # it went away since it was looked at
    if exhibit.marks and samples.objects is not None:
        marked_part(pixels, samples.objects, place, exhibit.marks, samples.classes).save(file, "PNG")
        return picture_uri(file.getvalue())
    if labels is not None:
        draw_regions(pixels, labels, samples.classes, MARKED_PX).save(file, "PNG")
        return picture_uri(file.getvalue())
    if max(pixels.shape[:2]) <= TINY_PX:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    else:
        thumbnail(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return picture_uri(file.getvalue())
