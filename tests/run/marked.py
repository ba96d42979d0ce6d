"""Small sets with all kinds of marks, in memory."""

from __future__ import annotations

import numpy as np

from visus.data.objects import Objects, Outlines, Runs
from visus.data.samples import Samples

SIDE = 60


def marked_samples(count: int = 6, *, relative: bool = False) -> Samples:
    """Grey 60 x 60 images. Each has a 'disc' whose box is [10, 10, 30, 30] with a triangle as outline, a 'person' at
    [30, 20, 50, 50] with three keypoints, and the last one nothing."""
    boxes = np.tile(np.array([[10, 10, 30, 30], [30, 20, 50, 50]], np.float64), (count - 1, 1))
    many = len(boxes)
    keypoints = np.zeros((many, 3, 3))
    keypoints[1::2] = [(40, 25, 2), (35, 40, 1), (45, 40, 0)]
    points = np.tile(np.array([[10, 30], [20, 10], [30, 30]], np.float64), (many // 2, 1))
    scale = SIDE if relative else 1
    outlines = Outlines(polygons=np.concatenate([[0], np.cumsum([1, 0] * (many // 2))]).astype(np.int64),
                        vertices=np.arange(0, 3 * (many // 2) + 1, 3), points=points / scale)
    objects = Objects(
        start=np.array([*range(0, many + 1, 2), many], np.int64), labels=np.tile([0, 1], many // 2),
        boxes=boxes / scale, outlines=outlines, keypoints=keypoints / (scale, scale, 1), relative=relative,
        keypoint_names=("nose", "left_hand", "right_hand"), skeleton=((0, 1), (0, 2)))
    split = np.array(["train"] * (count - 2) + ["val"] * 2)
    return Samples(format="npz", classes=("disc", "person"), targets=objects.presence(2), objects=objects, split=split,
                   images=np.full((count, SIDE, SIDE, 1), 120, np.uint8), root="marked.npz",
                   captions=tuple(() if i else ("a disc & a <b>person</b>",) for i in range(count)))


def run_length(height: int, width: int, rows: slice, columns: slice) -> Runs:
    from visus.data.masks import mask_runs

    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask_runs(mask)
