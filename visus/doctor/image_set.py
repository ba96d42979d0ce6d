"""Images and labels as the checks of a data set see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Marks:
    """M objects marked in images. image: int64 [M], the position of theirs. labels: int64 [M]. boxes: float64 [M, 4],
    x1 y1 x2 y2 in pixels; in shares of the image's size where `relative`, and so all other coordinates. crowd: bool
    [M], a box around many. shapes: float64 [M, 4], the box around each outline, NaN where there is none; or None.
    keypoints: float64 [M, P, 3], x, y and 0 where not marked; or None.
    """

    image: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    relative: bool = False
    shapes: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """read(i): uint8 [H, W] or [H, W, C] of image i, as it lies on disk (EXIF turned); it may raise visus' ImageError.
    labels: int64 [N], bool [N, K] for several labels, or None. split: 'train', 'val', 'test' by name, [N].
    sources: a name or path of each image. sizes: int64 [N, 2], height and width, or None. groups: [N] or None.
    classes: names of the labels. seconds: what the checks may take together. about(i): bytes of the file, when it was
    taken (s, any origin; NaN where unknown) and by which camera; None for images without files. marks: the objects in
    them, or None. stated: int64 [N, 2], height and width as the annotations say, 0 where they do not; or None.
    label_map(i): int [H, W], the labels of the pixels, -1 for what is ignored; None for an image without; it may raise
    visus' DataError.
    """

    read: Callable[[int], np.ndarray]
    labels: np.ndarray | None
    split: np.ndarray
    sources: tuple[str, ...]
    classes: tuple[str, ...] = ()
    sizes: np.ndarray | None = None
    groups: np.ndarray | None = None
    seconds: float = 20.0
    about: Callable[[int], tuple[float, float, str]] | None = None
    marks: Marks | None = None
    stated: np.ndarray | None = None
    label_map: Callable[[int], np.ndarray | None] | None = None
    remembered: dict[str, object] = field(default_factory=dict)  # what one check measured and another needs

    def __len__(self) -> int:
        return len(self.sources)

    def splits(self) -> Mapping[str, np.ndarray]:
        """Name of a split -> positions of its images."""
        return {str(name): np.flatnonzero(self.split == name) for name in np.unique(self.split)}
