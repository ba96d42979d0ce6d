"""YOLO: images/, labels/ and data.yaml (docs.ultralytics.com/datasets), one text file of objects per image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from visus.data.objects import Objects
from visus.data.reading.annotation_files import distinct_stems
from visus.data.reading.pixel_objects import image_sizes, in_shares
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

_NEAREST = 1_000  # points of a polygon among which the nearest one of another is looked for
_DECIMALS = 12  # of a share, where they give the box back; else all that a float64 has
_ENOUGH = 14  # of a share, to give pixels back to a billionth in images of 10,000


class YoloWriter:
    """Boxes; polygons where objects have outlines; keypoints where they have some. Crowds are left out."""

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None:
        """Raises DataError for samples without objects, and as `fresh_folder`; ImageError for unreadable sizes."""
        objects = required_objects(samples, "YOLO")
        names = image_names(samples)
        places = distinct_stems(f"{split}/{name}" if split else name
                                for split, name in zip(_folders(samples), names, strict=True))
        with fresh_folder(samples, out) as folder:
            lines = _lines(objects) if objects.relative else _lines(in_shares(objects, image_sizes(samples)), _ENOUGH)
            for i, place in enumerate(places):
                write_image(samples, i, folder / "images" / place, images)
                write_new(folder / "labels" / f"{os.path.splitext(place)[0]}.txt", next(lines))
                if progress is not None:
                    progress(i + 1, len(samples))
            write_new(folder / "data.yaml", _data_yaml(samples).encode())

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples YOLO does not hold, in words."""
        objects = samples.objects
        if objects is None:
            return []
        keep = ~objects.crowd
        found = [(int(objects.crowd.sum()), "crowd", "left out: YOLO has no crowds"),
                 (int((objects.difficult & keep).sum()), "mark", "'difficult' left out")]
        outlines = objects.outlines
        if outlines is not None:
            rings = np.diff(outlines.polygons)
            if objects.keypoints is not None:
                found.append((int(((rings > 0) & keep).sum()), "outline", "left out: keypoints take their place"))
            else:
                found += [(int(((rings > 1) & keep).sum()), "object",
                           "of several polygons, joined into one by lines without width"),
                          (int((keep & (rings > 0) & ~_box_is_extent(objects)).sum()), "box",
                           "other than the extent of its polygon, which is kept")]
            found.append((sum(bool(keep[m]) for m in outlines.runs), "mask", "coded by run length became a box"))
        _, cut, beyond = _centres(in_shares(objects, image_sizes(samples)), _ENOUGH)
        found += [(int((cut & ~beyond & keep).sum()), "box", "cut at the edge of the image"),
                  (int((beyond & keep).sum()), "object", "outside of its image left out"),
                  *beside_objects(samples, "they are counted from 0")]
        notes = [f"{counted(count, noun)} {rest}" for count, noun, rest in found if count]
        unsplit = int((samples.split == "").sum())
        if 0 < unsplit < len(samples):
            notes.append(f"{counted(unsplit, 'image')} without a split: in images/unsplit, not named by data.yaml")
        return notes


def _folders(samples: Samples) -> list[str]:
    """The folder of each image in images/ and labels/."""
    rest = "unsplit" if (samples.split != "").any() else ""
    return [split or rest for split in samples.split.tolist()]


def _data_yaml(samples: Samples) -> str:
    given = [split for split in SPLITS if (samples.split == split).any()]
    lines = [f"{split}: images/{split}" for split in given] or ["train: images", "val: images  # not split"]
    lines += ["", f"nc: {len(samples.classes)}", "names:"]
    lines += [f"  {k}: {_quoted(name)}" for k, name in enumerate(samples.classes)]
    objects = samples.objects
    if objects is not None and objects.keypoints is not None:
        names = ", ".join(_quoted(name) for name in objects.keypoint_names)
        lines += ["", f"kpt_shape: [{len(objects.keypoint_names)}, 3]", "kpt_names:"]
        lines += [f"  {k}: [{names}]" for k in range(len(samples.classes))]
        if objects.skeleton:
            lines.append("skeleton: [" + ", ".join(f"[{a}, {b}]" for a, b in objects.skeleton) + "]")
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return yaml.safe_dump(name, default_style='"', allow_unicode=True, width=1 << 20).strip()


def _lines(objects: Objects, decimals: int | None = None) -> Iterator[bytes]:
    """The text of the label file of each image. objects: in shares. decimals: None for all that tell them apart."""
    centre, _, beyond = _centres(objects, decimals)
    gone = objects.crowd | beyond
    boxes, labels, start = centre.tolist(), objects.labels.tolist(), objects.start.tolist()
    keypoints = None if objects.keypoints is None else _rounded(
        objects.keypoints.reshape(len(objects), -1), decimals).tolist()
    outlines = None if keypoints is not None else objects.outlines
    for i in range(len(start) - 1):
        rows = []
        for m in range(start[i], start[i + 1]):
            if gone[m]:
                continue
            rings = [] if outlines is None else [ring for ring in outlines.rings(m) if len(ring) > 2]
            values = boxes[m] if not rings else _rounded(joined_rings(rings).clip(0, 1), decimals).ravel().tolist()
            if keypoints is not None:
                values = [*values, *keypoints[m]]
            rows.append(f"{labels[m]} {' '.join(map(_text, values))}\n")
        yield "".join(rows).encode()


def joined_rings(rings: list[np.ndarray]) -> np.ndarray:
    """Several polygons as one, float64 [V, 2]: each next one is reached and left along a line between nearest points.

    The lines have no width, so the area (by the even-odd rule) and the extent stay.
    """
    whole = rings[0]
    for ring in rings[1:]:
        few, some = whole[::1 + len(whole) // _NEAREST], ring[::1 + len(ring) // _NEAREST]
        gaps = ((few[:, None] - some[None]) ** 2).sum(2)
        i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
        i, j = i * (1 + len(whole) // _NEAREST), j * (1 + len(ring) // _NEAREST)
        around = np.concatenate([ring[j:], ring[:j + 1]])
        whole = np.concatenate([whole[:i + 1], around, whole[i:]])
    return whole


def _centres(objects: Objects, decimals: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre and size [M, 4]; which boxes had to be cut at the edge, bool [M]; which of them have nothing inside)."""
    corners = objects.boxes
    centre = _rounded(_centre(corners), decimals, corners)
    cut = np.asarray(((centre < 0) | (centre > 1)).any(1))
    centre[cut] = _centre(corners[cut].clip(0, 1))
    beyond = np.asarray(cut & ((corners[:, 2:] <= 0) | (corners[:, :2] >= 1)).any(1))
    return centre, cut, beyond


def _centre(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)


def _rounded(values: np.ndarray, decimals: int | None, corners: np.ndarray | None = None) -> np.ndarray:
    """The values with so many decimals; None: 12, where the same values (or the same `corners`) are read back."""
    if decimals is not None:
        return np.round(values, decimals)
    short = np.round(values, _DECIMALS)
    if corners is None:
        return np.where(np.abs(short - values) < 1e-15, short, values)
    half = short[:, 2:] / 2
    same = (np.concatenate([short[:, :2] - half, short[:, :2] + half], 1) == corners).all(1, keepdims=True)
    return np.where(same, short, values)


def _text(value: float) -> str:
    return str(int(value)) if value in (0.0, 1.0, 2.0) else repr(value)


def _box_is_extent(objects: Objects) -> np.ndarray:
    """bool [M]: the box is the one around the points of its polygons, to a millionth of its coordinates."""
    outlines = objects.outlines
    assert outlines is not None
    same = np.ones(len(objects), bool)
    ends = outlines.vertices[outlines.polygons]
    some = np.flatnonzero(np.diff(ends) > 0)
    if len(some):
        low = np.minimum.reduceat(outlines.points, ends[some])
        high = np.maximum.reduceat(outlines.points, ends[some])
        same[some] = np.isclose(np.concatenate([low, high], 1), objects.boxes[some], rtol=1e-6, atol=1e-9).all(1)
    return same


writers.add(YoloWriter, {"yolo": {}})
