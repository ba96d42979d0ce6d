"""The objects of an image set in pixels of their images, as far as those sizes are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visus.core.record import Finding
from visus.doctor.image_set import ImageSet, Marks
from visus.doctor.images.exhibits import MOST, Exhibit, show
from visus.doctor.images.pixels import pixels_of

NAMED = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacedMarks:
    """m objects whose image's size is known. place: int64 [m], their positions in `Marks`. image, labels, crowd: as
    there. boxes: float64 [m, 4], and shapes, keypoints likewise, in pixels. size: float64 [m, 2], width and height of
    the image. total: how many objects there are."""

    place: np.ndarray
    image: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    size: np.ndarray
    total: int
    shapes: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.place)

    @property
    def basis(self) -> str:
        """'' where every object is here, else how many are."""
        return "" if len(self) == self.total else f" ({len(self):,} of {self.total:,} objects were looked at)"


def placed_marks(images: ImageSet) -> PlacedMarks | None:
    """None where nothing is marked. An image that was looked at has the size of its file, another the one stated."""
    if images.marks is None:
        return None
    found = images.remembered.get("placed marks")
    if not isinstance(found, PlacedMarks):
        found = images.remembered["placed marks"] = _placed(images, images.marks)
    return found


def sizes_seen(images: ImageSet) -> np.ndarray:
    """int64 [N, 2], height and width of the files that were looked at, 0 for the others."""
    sizes = np.zeros((len(images), 2), np.int64)
    pixels = pixels_of(images)
    sizes[pixels.index] = pixels.size
    return sizes


def report(images: ImageSet, marks: PlacedMarks, check: str, which: np.ndarray, *, title: str, evidence: str,
           remedy: str, warning_share: float, words: Callable[[int], str]) -> Finding:
    """The finding about the objects in `which` (bool [m]), kept with pictures of the first of them: a warning from
    `warning_share` of all on, a note below. title: for one, with '{}' for 'box is' or '5 boxes are'. words(k): what is
    seen of object k."""
    chosen = np.flatnonzero(which)
    show(images, check, (Exhibit((int(marks.image[k]),), words(k), marks=(int(marks.place[k]),))
                         for k in chosen[:MOST]))
    said = "; ".join(f"{images.sources[marks.image[k]]}: {words(k)}" for k in chosen[:NAMED])
    more = f" and {len(chosen) - NAMED:,} more" if len(chosen) > NAMED else ""
    share = len(chosen) / max(1, len(marks))
    return Finding(check=check, severity="warning" if share > warning_share else "note", title=title,
                   evidence=f"{evidence}; {100 * share:.3g} % of {len(marks):,}{marks.basis}: {said}{more}",
                   remedy=remedy)


def class_of(images: ImageSet, label: int) -> str:
    return images.classes[label] if label < len(images.classes) else str(label)


def box_words(box: np.ndarray) -> str:
    """'10, 20 to 30, 40'."""
    x1, y1, x2, y2 = (f"{value:.6g}" for value in box)
    return f"{x1}, {y1} to {x2}, {y2}"


def some(count: int, noun: str, verb: str = "are") -> str:
    """'1 box is', '5 boxes are'."""
    singular = {"are": "is", "have": "has", "leave": "leaves", "lie": "lies"}[verb]
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"1 {noun} {singular}" if count == 1 else f"{count:,} {plural} {verb}"


def _placed(images: ImageSet, marks: Marks) -> PlacedMarks:
    sizes = sizes_seen(images)
    if images.stated is not None:
        sizes = np.where(sizes.min(1, keepdims=True) > 0, sizes, images.stated)
    known = np.flatnonzero(sizes.min(1)[marks.image] > 0)
    size = sizes[marks.image[known]][:, ::-1].astype(np.float64)
    scale = size if marks.relative else np.ones((len(known), 2))
    double = np.tile(scale, 2)
    points = None
    if marks.keypoints is not None:
        points = np.array(marks.keypoints[known], np.float64)
        points[..., :2] *= scale[:, None]
    return PlacedMarks(
        place=known, image=marks.image[known], labels=marks.labels[known], crowd=marks.crowd[known],
        boxes=marks.boxes[known] * double, size=size, total=len(marks), keypoints=points,
        shapes=None if marks.shapes is None else marks.shapes[known] * double)
