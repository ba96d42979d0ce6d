"""Label maps that do not fit: values of no class, another size than the image, almost nothing claimed.

Rules: a map that cannot be read or holds values that no class has is an error; a map of another size than its image is
an error; images without a map, and maps in which more than 95 % of the pixels are to be ignored, are a note, a warning
from 5 % of the maps on. Maps are drawn at random and read for at most a fifth of the seconds. Source: reliability.md
2.1, case 48.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from visus.core.errors import DataError
from visus.core.record import Finding
from visus.core.seeds import permutation
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import NAMED, Exhibit, named, show
from visus.doctor.images.placed_marks import sizes_seen
from visus.doctor.thresholds import limit


def label_map_values(images: ImageSet) -> Iterator[Finding]:
    if images.label_map is None:
        return
    begun, seen = time.perf_counter(), sizes_seen(images)
    bad: list[tuple[int, DataError]] = []
    unlike: list[tuple[int, str]] = []
    without: list[int] = []
    ignored: list[int] = []
    read = 0
    for i in permutation(len(images), 0, "doctor label maps").tolist():
        if read and time.perf_counter() - begun > limit("label-map-values.seconds") * images.seconds:
            break
        try:
            labels = images.label_map(i)
        except DataError as error:
            bad.append((i, error))
            read += 1
            continue
        if labels is None:
            without.append(i)
            continue
        read += 1
        if seen[i].all() and labels.shape != tuple(seen[i]):
            unlike.append((i, f"map of {labels.shape[1]} x {labels.shape[0]}, image of {seen[i, 1]} x {seen[i, 0]}"))
        if np.mean(labels < 0) > limit("label-map-values.ignored"):
            ignored.append(i)
    basis = f" of {read:,} maps" + ("" if read + len(without) == len(images) else " that were read, drawn at random")
    if bad:
        show(images, "label-map-values", (Exhibit((i,), error.problem) for i, error in bad))
        said = "; ".join(f"{error.where or images.sources[i]}: {error.problem}" for i, error in bad[:NAMED])
        yield _finding("error", len(bad), "cannot be used", f"{said}{_more(bad)};{basis}",
                       bad[0][1].remedy or "Correct the maps, or name the classes that are missing")
    if unlike:
        show(images, "label-map-values", (Exhibit((i,), words) for i, words in unlike))
        said = "; ".join(f"{images.sources[i]}: {words}" for i, words in unlike[:NAMED])
        yield _finding("error", len(unlike), "another size than the image", f"{said}{_more(unlike)};{basis}",
                       "Take the maps of these images; when they were reduced, enlarge them without smoothing", "has")
    if ignored:
        show(images, "label-map-values", (Exhibit((i,), "almost all is ignored", regions=True) for i in ignored))
        severe = len(ignored) > limit("label-map-values.share") * read
        yield _finding("warning" if severe else "note", len(ignored), "hardly anything that is claimed",
                       f"more than {100 * limit('label-map-values.ignored'):g} % of the pixels are to be ignored: "
                       f"{named(images, ignored)};{basis}", "Look at them: unfinished maps teach little", "has")
    if without:
        show(images, "label-map-values", (Exhibit((i,), "no map") for i in without))
        severe = len(without) > limit("label-map-values.share") * len(images)
        yield Finding(check="label-map-values", severity="warning" if severe else "note",
                      title=f"{len(without):,} image{'s have' if len(without) > 1 else ' has'} no label map",
                      evidence=f"{100 * len(without) / max(1, read + len(without)):.3g} %: {named(images, without)}",
                      remedy="Mark them, or leave them out")


def _more(rows: list[tuple[int, DataError]] | list[tuple[int, str]]) -> str:
    return f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""


def _finding(severity: str, count: int, what: str, evidence: str, remedy: str, verb: str = "") -> Finding:
    subject = f"{count:,} label map{'s' if count > 1 else ''}" + (f" {'have' if count > 1 else verb}" if verb else "")
    return Finding(check="label-map-values", title=f"{subject} {what}", evidence=evidence, remedy=remedy,
                   severity="error" if severity == "error" else "warning" if severity == "warning" else "note")


add(label_map_values, "label-map-values", stage="images", rank=2,
    rule="a label map with values of no class, of another size than its image, or with more than 95 % ignored",
    cost="one reading of each map, at most a fifth of the seconds", course="1.02")
