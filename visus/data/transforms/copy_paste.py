"""Objects of another scene pasted into this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from visus.core.seeds import uniform
from visus.data.masks import mask_runs, polygons_mask, runs_box, runs_mask
from visus.data.objects import Objects, Outlines, Runs
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.mosaic import alike, joined, other_numbers
from visus.data.transforms.placement import MIN_VISIBLE, window
from visus.data.transforms.scene import Scene, SceneTransform, after


@dataclass(frozen=True)
class CopyPaste(SceneTransform):
    """A random subset of another scene's outlined objects, each with `share`, copied pixel by pixel into this scene at
    the place where they are, with `probability` (Ghiasi et al., CVPR 2021, section 3).

    What is covered is cut from the outlines and boxes below; an object of which less than `min_visible` stays is
    dropped, and a covered keypoint becomes hidden. Objects without outlines are not copied, nor crowds; below, their
    boxes stay as they are. A scene of another size is cut or padded at the right and the bottom. The paper has
    `large_scale_jitter` and `horizontal_flip` before it, which the other scene goes through as well.
    """

    share: float = 0.5
    probability: float = 0.5
    min_visible: float = MIN_VISIBLE

    def __post_init__(self) -> None:
        for field in ("share", "probability", "min_visible"):
            check_range(self, field, getattr(self, field), 0, 1)

    def on_scene(self, scene: Scene, draws: Draws, other: Callable[[int], Scene]) -> Scene:
        if scene.objects is None or draws.uniform(1)[0, 0] >= self.probability:
            return scene
        number = other_numbers(draws, 1)[0]
        scene, source = alike([scene, other(number)])
        height, width = scene.size
        source = after(source, (window(0, 0, height, width),))
        assert scene.objects is not None and source.objects is not None
        if source.objects.outlines is None:
            return scene
        u = uniform(np.arange(len(source.objects)), draws.seed, draws.epoch, draws.stream, "objects",
                    int(draws.index[0]))
        masks = {}
        for m in np.flatnonzero((u < self.share) & ~source.objects.crowd).tolist():
            mask = object_mask(source.objects.outlines, m, height, width)
            if mask is not None and mask.any():
                masks[m] = mask
        if not masks:
            return scene
        pasted = np.logical_or.reduce(list(masks.values()))
        inside = torch.from_numpy(pasted).to(scene.image.device)
        chosen = np.array(sorted(masks), np.int64)
        labels = scene.label_map
        if labels is not None and source.label_map is not None:
            labels = torch.where(inside, source.label_map, labels)
        below = covered(scene.objects, pasted, self.min_visible)
        return Scene(image=torch.where(inside, source.image, scene.image), label_map=labels,
                     objects=joined([below, chosen_objects(source.objects, chosen)]))


def covered(objects: Objects, hidden: np.ndarray, min_visible: float) -> Objects:
    """The objects of an image with the pixels `hidden`, bool [H, W], covered. Outlines that are cut become masks."""
    height, width = hidden.shape
    keep, boxes = np.ones(len(objects), bool), objects.boxes.copy()
    runs: dict[int, Runs] = {}
    for m in range(len(objects)):
        mask = None if objects.outlines is None else object_mask(objects.outlines, m, height, width)
        if mask is None:
            x1, y1, x2, y2 = np.rint(boxes[m]).astype(int).clip(0)
            part = hidden[y1:y2, x1:x2]
            keep[m] = not part.size or 1 - part.mean() >= max(min_visible, 1e-9)
        elif (mask & hidden).any():
            left = mask & ~hidden
            keep[m] = left.any() and left.sum() >= min_visible * mask.sum()
            if keep[m]:
                runs[m] = mask_runs(left)
                boxes[m] = runs_box(runs[m])
    objects = replace(objects, boxes=boxes, outlines=_cut_outlines(objects.outlines, runs),
                      keypoints=_hidden_points(objects.keypoints, hidden))
    return chosen_objects(objects, np.flatnonzero(keep))


def chosen_objects(objects: Objects, chosen: np.ndarray) -> Objects:
    """Those of one image's objects at `chosen`, in that order."""
    one_each = replace(objects, start=np.arange(len(objects) + 1))
    return replace(one_each.take(chosen), start=np.array([0, len(chosen)], np.int64))


def _cut_outlines(outlines: Outlines | None, runs: dict[int, Runs]) -> Outlines | None:
    """The outlines with those of `runs` coded by run length instead."""
    if outlines is None or not runs:
        return outlines
    rings = [[] if m in runs else outlines.rings(m) for m in range(len(outlines))]
    flat = [ring for of_object in rings for ring in of_object]
    return Outlines(polygons=np.cumsum([0, *map(len, rings)]).astype(np.int64),
                    vertices=np.cumsum([0, *map(len, flat)]).astype(np.int64),
                    points=np.concatenate(flat) if flat else np.empty((0, 2)),
                    runs={**outlines.runs, **runs})


def object_mask(outlines: Outlines, m: int, height: int, width: int) -> np.ndarray | None:
    """bool [height, width] of object m; None where nothing outlines it."""
    if m in outlines.runs:
        return runs_mask(outlines.runs[m])
    rings = outlines.rings(m)
    return polygons_mask(rings, height, width) if rings else None


def _hidden_points(points: np.ndarray | None, hidden: np.ndarray) -> np.ndarray | None:
    if points is None:
        return None
    points = points.copy()
    column = points[..., 0].astype(np.int64).clip(0, hidden.shape[1] - 1)
    row = points[..., 1].astype(np.int64).clip(0, hidden.shape[0] - 1)
    points[..., 2] = np.where((points[..., 2] == 2) & hidden[row, column], 1, points[..., 2])
    return points


augmentations.add(CopyPaste, {"copy_paste": {}})
