"""Opening every image once before training, so that all bad files are named together and not one per hour."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from visus.core.errors import DataError, ImageError
from visus.data.samples import Samples, counted, listed

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class BadImage:
    """A sample that cannot be read: its position, its name, what is wrong and what to do."""

    index: int
    source: str
    problem: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What opening all images showed. notes: how many images had each decision taken (EXIF turned, 16-bit, ...)."""

    bad: list[BadImage]
    notes: dict[str, int]


def scan_images(samples: Samples, progress: Callable[[int], object] | None = None, *,
                decode: bool = True) -> list[BadImage]:
    """All samples that cannot be read, in order. See `survey_images`."""
    return survey_images(samples, progress, decode=decode).bad


def survey_images(samples: Samples, progress: Callable[[int], object] | None = None, *,
                  decode: bool = True) -> Survey:
    """Open every image file, in several threads. decode=False reads headers only: faster, blind to cut files.

    progress(n) is called when n more images are done. Images in memory are not looked at: they are pixels already.
    """
    if samples.in_memory:
        if progress is not None:
            progress(len(samples))
        return Survey([], {})
    bad: list[BadImage] = []
    notes: Counter[str] = Counter()

    def look(i: int) -> tuple[str, ...] | BadImage:
        try:
            if decode:
                return samples.decoded(i).notes
            samples.header(i)
            return ()
        except ImageError as error:
            return BadImage(i, samples.source(i), error.problem, error.remedy)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(samples)))
            for found in pool.map(look, chunk):
                if isinstance(found, BadImage):
                    bad.append(found)
                else:
                    notes.update(found)
            if progress is not None:
                progress(len(chunk))
    return Survey(bad, dict(notes))


def handle_bad_images(samples: Samples, bad: list[BadImage], policy: str) -> Samples:
    """policy 'stop': DataError that lists the bad images. 'skip': the samples without them, and a note that says so."""
    if not bad:
        return samples
    shown = listed([f"{b.source}: {b.problem}" for b in bad])
    if policy == "stop":
        raise DataError(f"{len(bad)} of {counted(len(samples), 'image')} cannot be read: {shown}", where=samples.root,
                        remedy="Mend or remove them, or leave them out with --on-bad-image skip")
    keep = np.setdiff1d(np.arange(len(samples)), [b.index for b in bad])
    if not len(keep):
        raise DataError(f"no image can be read: {shown}", where=samples.root, remedy="Mend or replace the files")
    return samples.subset(keep, f"{counted(len(bad), 'image')} left out that cannot be read: {shown}")
