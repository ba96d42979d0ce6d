"""Sizes of images, and objects in pixels where they are marked in shares of the image's size, and the other way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from visus.data.objects import Objects
from visus.data.samples import Samples

_DECIMALS = 9  # of a pixel: shares with 10 decimals and more give whole pixels back


def image_sizes(samples: Samples, indices: np.ndarray | None = None) -> np.ndarray:
    """int64 [n, 2], height and width of the images at `indices` (all): as stated, else of the array or the header.

    Raises ImageError naming an image that cannot be read.
    """
    chosen = np.arange(len(samples)) if indices is None else np.asarray(indices)
    if samples.images is not None:
        return np.tile(np.array(samples.images.shape[1:3], np.int64), (len(chosen), 1))
    stated = samples.stated_sizes
    sizes = np.zeros((len(chosen), 2), np.int64) if stated is None else stated[chosen].copy()
    for k in np.flatnonzero((sizes < 1).any(1)).tolist():
        header = samples.header(int(chosen[k]))
        sizes[k] = header.height, header.width
    return sizes


def in_pixels(objects: Objects, sizes: np.ndarray) -> Objects:
    """The objects in pixels of images of `sizes` [N, 2] (height, width), to a billionth of a pixel where converted."""
    return _converted(objects, sizes, _pixels, False) if objects.relative else objects


def in_shares(objects: Objects, sizes: np.ndarray) -> Objects:
    """The objects in shares of the width and height of images of `sizes` [N, 2] (height, width)."""
    return objects if objects.relative else _converted(objects, sizes, np.divide, True)


def _pixels(shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.round(shares * sizes, _DECIMALS)


def _converted(objects: Objects, sizes: np.ndarray, convert: Callable[[np.ndarray, np.ndarray], np.ndarray],
               relative: bool) -> Objects:
    of_object = sizes[:, ::-1].astype(np.float64)[objects.image_of]
    outlines, keypoints = objects.outlines, objects.keypoints
    if outlines is not None:
        of_ring = np.repeat(of_object, np.diff(outlines.polygons), axis=0)
        of_point = np.repeat(of_ring, np.diff(outlines.vertices), axis=0)
        outlines = replace(outlines, points=convert(outlines.points, of_point))
    if keypoints is not None:
        keypoints = np.concatenate([convert(keypoints[..., :2], of_object[:, None]), keypoints[..., 2:]], 2)
    return replace(objects, boxes=convert(objects.boxes, np.tile(of_object, 2)), outlines=outlines,
                   keypoints=keypoints, relative=relative)
