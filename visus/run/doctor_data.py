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
from visus.data.opening import open_samples
from visus.data.samples import SPLITS, Samples
from visus.data.split import split_samples
from visus.doctor.diagnosis import Diagnosis, checks, run_checks
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, label_names, shown
from visus.doctor.images.imbalance import class_counts
from visus.doctor.images.pixels import pixels_of
from visus.report.thumbnails import picture_uri
from visus.run.thumbnails import thumbnail

if TYPE_CHECKING:
    from visus.report.data_findings import Gallery, Picture

TINY_PX = 64  # images up to this side are embedded as they are, and shown with their pixels as squares
JPEG_QUALITY = 85
EXIF_BYTES = 1 << 16  # an EXIF block lies in one segment of a JPEG file, which is no longer
_EXIF_IFD, _TAKEN, _FRACTION, _SERIAL, _MAKE, _MODEL = 0x8769, 0x9003, 0x9291, 0xA431, 0x010F, 0x0110  # CIPA DC-008


def doctor_data(path: str | Path, *, format: str = "auto", out: str | Path | None = None,
                budget_s: float = 20.0, skip: Sequence[str] = (),
                progress: Callable[[str], None] = lambda name: None) -> Diagnosis:
    """Look at a data set as `visus train` would divide it. out: an HTML page with the findings and the images that they
    name. progress(name): called before each check.

    Raises DataError when the path is no data set, UserError when `out` lies inside the data, ResourceError when it
    cannot be written.
    """
    if out is not None and _inside(out, path):
        raise UserError("lies in the data folder, where nothing is written", where=out,
                        remedy="Give a path elsewhere")
    begun = time.perf_counter()
    samples = open_samples(path, format)
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
    labels = samples.targets > 0 if samples.multi_label else samples.targets.astype(np.int64)
    sizes = None
    if samples.images is not None:
        sizes = np.tile(np.array(samples.images.shape[1:3], np.int64), (len(samples), 1))
    return ImageSet(
        read=samples.read, labels=labels, split=split, classes=samples.classes, sizes=sizes, groups=samples.groups,
        sources=samples.paths or tuple(samples.source(i) for i in range(len(samples))), seconds=seconds,
        about=None if samples.in_memory or samples.encoded is not None else lambda i: file_facts(samples.path(i)))


def examine_images(images: ImageSet, *, budget_s: float = 20.0, skip: Sequence[str] = (),
                   progress: Callable[[str], None] = lambda name: None) -> Diagnosis:
    """All checks of images, the specific ones first. No check begins after `budget_s`; half of it is for decoding."""
    images = replace(images, seconds=budget_s)
    return run_checks(checks("images"), lambda entry: entry.build(images), budget_s=budget_s, skip=skip,
                      progress=progress)


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
        return split_samples(samples), ""
    except DataError as error:
        given = {name: np.flatnonzero(samples.split == name) for name in SPLITS}
        given["train"] = np.flatnonzero((samples.split == "train") | (samples.split == ""))
        return {name: places for name, places in given.items() if len(places)}, error.problem


def _inside(out: str | Path, path: str | Path) -> bool:
    folder = Path(os.path.realpath(path))
    return folder.is_dir() and folder in Path(os.path.realpath(out)).parents


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
        galleries=_galleries(images, diagnosis), checks=rows, left_out=tuple(diagnosis.left_out.items()),
        classes=samples.classes, splits={name: len(places) for name, places in splits.items()},
        counts={name: class_counts(images, places).tolist() for name, places in splits.items()},
        given=tuple(name for name in SPLITS if (samples.split == name).any()), looked=pixels.looked, total=pixels.total,
        seconds=seconds, notes=samples.notes, command=("visus", "doctor", "data", os.fspath(path))))


def _galleries(images: ImageSet, diagnosis: Diagnosis) -> list[Gallery]:
    """The images that the findings name, in the order of the findings."""
    from visus.report.data_findings import Gallery

    kept = shown(images)
    names = dict.fromkeys(finding.check for finding in diagnosis.findings)
    return [Gallery(check=name, items=[(_pictures(images, exhibit), exhibit.words) for exhibit in kept[name]])
            for name in names if kept.get(name)]


def _pictures(images: ImageSet, exhibit: Exhibit) -> list[Picture]:
    from visus.report.data_findings import Picture

    return [Picture(uri=_encoded(images, i), source=images.sources[i], label=label_names(images, i),
                    split=str(images.split[i])) for i in exhibit.images]


def _encoded(images: ImageSet, place: int) -> str | None:
    try:
        pixels = images.read(place)
    except DataError:
        return None  # it went away since it was looked at
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    file = io.BytesIO()
    if max(pixels.shape[:2]) <= TINY_PX:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    else:
        thumbnail(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return picture_uri(file.getvalue())
