"""One data set written in another format: what came out, and what the format could not hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import DataError
from visus.data.opening import open_samples
from visus.data.reading.pixel_objects import image_sizes, in_pixels
from visus.data.samples import SPLITS, Samples
from visus.data.writers import Images, Progress, writers


@dataclass(frozen=True, kw_only=True)
class Converted:
    """facts: path, format, to, out, recognised, images, classes, splits (name -> images), objects, link. notes: what
    was recognised or decided while reading, then what the format does not hold, with counts."""

    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()


def convert(path: str | Path, out: str | Path, to: str, format: str = "auto", images: Images = "copy",
            progress: Progress | None = None, reading: Progress | None = None) -> Converted:
    """Write the data at `path` to the new folder `out` in the format `to`: coco, yolo, voc, folder or shards.

    images: 'copy' or 'link' (hard links where the disk has them). progress: called with (images written, all); reading:
    with (read, all) of large annotation files, before.
    The data at `path` stay as they are, byte by byte.

    Raises UserError: data that cannot be read, an unknown format, `out` exists or lies within the data, samples without
    what the format holds. Nothing is left behind then.
    """
    writer = writers.get(to).build
    if images not in ("copy", "link"):
        raise DataError("is neither 'copy' nor 'link'", where=f"images={images!r}", remedy="Use copy or link")
    _refuse_folder(path, Path(out))
    samples = _named_apart(open_samples(path, format, progress=reading))
    lost = tuple(writer.losses(samples)) if hasattr(writer, "losses") else ()
    if samples.objects is not None and samples.objects.relative and to != "yolo":
        sizes = image_sizes(samples)
        samples = replace(samples, objects=in_pixels(samples.objects, sizes), stated_sizes=sizes)
    writer.write(samples, Path(out), images=images, progress=progress)
    splits = Counter(samples.split.tolist())
    facts = {"path": str(path), "format": samples.format, "to": to, "out": str(out), "recognised": samples.recognised,
             "images": len(samples), "classes": len(samples.classes),
             "splits": {split or "none": splits[split] for split in (*SPLITS, "") if splits[split]},
             "objects": 0 if samples.objects is None else len(samples.objects), "link": images == "link"}
    return Converted(facts=facts, notes=samples.notes, losses=lost)


def _refuse_folder(path: str | Path, out: Path) -> None:
    """Raises DataError when `out` exists or lies within the folder `path`, before anything is read."""
    source = Path(path)
    if out.exists() or out.is_symlink():
        raise DataError("exists already", where=out, remedy="Give a folder that does not exist: nothing is overwritten")
    folder = source if source.is_dir() else source.parent if source.is_file() else None
    inside = folder is not None and out.resolve().is_relative_to(folder.resolve())
    if inside and source.is_dir():
        raise DataError(f"lies within the data that are read ({path})", where=out,
                        remedy="Give a folder elsewhere: a data folder is never changed")


def _named_apart(samples: Samples) -> Samples:
    """The samples, where each image is there once. Raises DataError otherwise."""
    if samples.paths is not None and len(set(samples.paths)) < len(samples.paths):
        names, counts = np.unique(np.array(samples.paths, object).astype(str), return_counts=True)
        raise DataError(f"lists an image more than once: {names[counts > 1][0]}", where=samples.root,
                        remedy="Keep each image once")
    return samples
