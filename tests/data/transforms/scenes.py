"""Scenes with known marks, and the geometric steps that the tests go through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from visus.data.masks import mask_runs, polygons_mask
from visus.data.objects import Objects, Outlines
from visus.data.transforms import build_augmentation
from visus.data.transforms.placement import Placement
from visus.data.transforms.scene import Scene

# every registered geometric transform, as it moves pixels of small images; black beyond them
STEPS: dict[str, dict[str, Any]] = {
    "horizontal_flip": {"probability": 1.0}, "vertical_flip": {"probability": 1.0},
    "alternating_flip": {},
    "random_crop": {"padding": 9}, "random_crop 70 x 50": {"size": (70, 50), "padding": 2},
    "center_crop": {"size": 60}, "random_resized_crop": {"scale": (0.4, 1.0)}, "simple_random_crop": {},
    "resize": {"size": 60}, "resize long": {"size": 110, "rule": "long"}, "resize squash": {"size": (64, 90),
                                                                                            "rule": "squash"},
    "letterbox": {"size": (70, 75)}, "multi_scale_resize": {"sizes": (60, 90)},
    "scale_jitter": {"size": 64, "short": (70, 100)}, "large_scale_jitter": {"size": 90, "scale": (0.5, 1.6),
                                                                             "fill": 0.0},
    "affine": {"degrees": 40, "translate": 0.1, "scale": (0.7, 1.3), "shear": 15}, "yolo_affine": {},
    "affine small": {"degrees": 180, "scale": (0.45, 0.5)}, "perspective": {"distortion": 0.4, "probability": 1.0},
    "elastic": {"alpha": 60.0, "sigma": 6.0, "probability": 1.0, "outside": "fill"},
    "elastic_grid": {"sigma": 4.0, "probability": 1.0, "outside": "fill"},
    "lens_distortion": {"k1": 0.25, "k2": 0.03, "probability": 1.0},
    "expand": {"ratio": (1.0, 1.5), "probability": 1.0, "fill": 0.0}, "min_iou_crop": {"scale": (0.4, 1.0)}}
FIRST = ("random_resized_crop", "simple_random_crop")  # stand at the front


def placements(names: Sequence[str], height: int, width: int, index: int, boxes: np.ndarray | None = None
               ) -> list[Placement]:
    """The moves of the named steps for the sample `index`."""
    augment = build_augmentation([{"name": name.split()[0], **STEPS[name]} for name in names])
    chain: list[Placement] = []
    for position, (_, transform) in enumerate(augment.steps):
        chain += transform.placements(height, width, augment.draws(position, np.array([index]), 0, 0), boxes)
        if chain:
            height, width = chain[-1].height, chain[-1].width
    return chain


def outlined(rings: Sequence[np.ndarray], **fields: Any) -> Objects:
    """One object for each polygon, with its box."""
    boxes = np.array([[*ring.min(0), *ring.max(0)] for ring in rings]).reshape(-1, 4)
    count = len(rings)
    outlines = Outlines(polygons=np.arange(count + 1), vertices=np.cumsum([0, *map(len, rings)]).astype(np.int64),
                        points=np.concatenate(rings))
    return Objects(start=np.array([0, count]), labels=np.arange(count), boxes=boxes, outlines=outlines, **fields)


def marked(seed: int = 0, height: int = 80, width: int = 100, channels: int = 3) -> Scene:
    """A scene of smooth colours with two outlined objects, a crowd coded by run length, keypoints and a map."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    image = np.stack([0.5 + 0.4 * np.sin(3 * x + 2 * y + k + seed) for k in range(channels)])
    scale = np.array([width, height], np.float64)
    rings = [np.array([[0.1, 0.2], [0.5, 0.15], [0.45, 0.6], [0.2, 0.55]]) * scale,
             np.array([[0.55, 0.5], [0.9, 0.6], [0.7, 0.95]]) * scale]
    crowd = np.zeros((height, width), bool)
    crowd[height // 2:, :max(1, width // 3)] = True
    objects = outlined([*rings, np.array([[0, height // 2], [max(1, width // 3), height]], np.float64)])
    outlines = Outlines(polygons=np.array([0, 1, 2, 2]), vertices=np.array([0, 4, 7]), points=np.concatenate(rings),
                        runs={2: mask_runs(crowd)})
    points = np.concatenate([rng.uniform(0.1, 0.9, (3, 3, 2)) * scale, np.full((3, 3, 1), 2.0)], -1)
    points[2, 1] = 0
    labels = np.full((height, width), 255, np.uint8)
    for number, ring in enumerate(rings):
        labels[polygons_mask([ring], height, width)] = number
    return Scene(
        image=torch.from_numpy((255 * image).round().astype(np.uint8)), label_map=torch.from_numpy(labels),
        objects=Objects(start=objects.start, labels=objects.labels, boxes=objects.boxes, outlines=outlines,
                        crowd=np.array([False, False, True]), difficult=np.array([False, True, False]),
                        keypoints=points, keypoint_names=("nose", "left_eye", "right_eye"), ids=np.array([7, 8, 9])))
