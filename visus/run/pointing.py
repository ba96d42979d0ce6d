"""The pointing game: does the hottest pixel of a class's map lie on an object of the class?

Paper: Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, Top-down Neural Attention by Excitation Backprop, ECCV 2016,
arXiv:1608.00507, section 4.1: one map for each class that an image holds; accuracy is the mean over classes of hits by
hits and misses, with 15 pixels of tolerance; pointing at the middle of the image is the baseline.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visus.core.device import pick_device
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.data.opening import open_samples
from visus.data.samples import Samples, spread
from visus.explain.faithfulness import pointing_hits
from visus.run.bundle import TrainedModel, load_model
from visus.run.display import Display
from visus.run.explain import explain

LIMIT = 100         # images
TOLERANCE = 15 / 224  # of the model's image side: the paper's 15 pixels, for its images


@dataclass(frozen=True)
class Pointed:
    """accuracy: the mean over classes of the share of maps whose hottest pixel lies on the object. middle: that of
    pointing at the middle of the image. classes: name -> (hits, hits of the middle, maps)."""

    method: str
    accuracy: float
    middle: float
    maps: int
    classes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return (f"{self.method} points at the object in {self.accuracy:.1%} of {self.maps:,} maps (mean over "
                f"{len(self.classes)} classes); the middle of the image lies on it in {self.middle:.1%}.")


def pointing_game(run: TrainedModel | str | os.PathLike[str], path: str | Path, method: str = "auto", *,
                  limit: int = LIMIT, format: str = "auto", device: str = "auto", progress: bool = False,
                  **options: Any) -> Pointed:
    """Images with boxes at `path` (COCO, VOC, YOLO): a map for each class of the model that an image holds.

    Boxes are followed through the model's own resizing. Objects marked difficult and crowds do not count. limit: so
    many images, spread over the set. Raises UserError where the data have no boxes or no class of the model, and for a
    method that draws no map of a class.
    """
    trained = run if isinstance(run, TrainedModel) else load_model(run)
    samples = open_samples(path, format)
    if samples.objects is None:
        raise UserError("has no boxes to point at", where=path, remedy="Give a COCO, VOC or YOLO set")
    shared = {k: trained.labels.index(name) for k, name in enumerate(samples.classes) if name in trained.labels}
    if not shared:
        raise UserError(f"has no class that the model knows ({', '.join(trained.labels[:10])})", where=path,
                        remedy="Name the classes as in the run")
    if "target" in options:
        raise UserError("is each class of an image in turn", where=f"target={options['target']!r}",
                        remedy="Leave it out")
    size = trained.preprocessing.size
    tolerance = TOLERANCE * max(size)
    found: dict[str, list[tuple[bool, bool]]] = {}
    named = method
    chosen = [i for i in spread(len(samples), len(samples)) if any(int(k) in shared for k in _labels(samples, i))]
    chosen = [chosen[i] for i in spread(len(chosen), limit)]
    with Display(progress).steps("pointing", len(chosen)) as advance:
        for i in chosen:
            pixels = samples.read(i, trained.preprocessing.background)
            objects = samples.objects.of(i, *pixels.shape[:2])
            objects = objects.pick(np.flatnonzero(~(objects.crowd | objects.difficult)))
            for k in np.unique(objects.labels):
                if int(k) not in shared:
                    continue
                boxes = seen_boxes(objects.boxes[objects.labels == k], pixels.shape[:2], trained.preprocessing)
                if not len(boxes):
                    continue  # cut away by the model's crop
                explained = explain(trained, [pixels], method, device=str(pick_device(device)),
                                    target=trained.labels[shared[int(k)]], **options)
                heat, named = explained.explanation.heat, explained.method
                if heat is None:
                    raise UserError("draws no map of a class", where=f"method={method}",
                                    remedy="Take grad_cam, occlusion, rise, ...")
                middle = torch.zeros(1, *size)
                middle[0, size[0] // 2, size[1] // 2] = 1
                hit, chance = (bool(pointing_hits(one, [boxes], size, tolerance)[0]) for one in (heat.cpu(), middle))
                found.setdefault(samples.classes[int(k)], []).append((hit, chance))
            advance()
    if not found:
        raise UserError("no object of a class of the model is left in the images", where=path)
    classes = {name: (sum(h for h, _ in rows), sum(c for _, c in rows), len(rows)) for name, rows in found.items()}
    shares = np.array([[hits / count, middle / count] for hits, middle, count in classes.values()]).mean(0)
    notes = (f"{len(chosen):,} of {len(samples):,} images",) if len(chosen) < len(samples) else ()
    return Pointed(named, float(shares[0]), float(shares[1]), sum(c[2] for c in classes.values()), classes, notes)


def seen_boxes(boxes: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """Boxes [n, 4] of an image of `size` (height, width) as the model sees them after resizing and cropping; those that
    are cut away are left out. Found by drawing each and resizing the drawing."""
    plain = replace(preprocessing, channels=1, background=(0, 0, 0), interpolation="bilinear", mean=(0.0,), std=(1.0,))
    seen = []
    for x1, y1, x2, y2 in boxes:
        drawing = np.zeros((*size, 1), np.uint8)
        drawing[max(0, round(y1)):max(round(y1) + 1, round(y2)), max(0, round(x1)):max(round(x1) + 1, round(x2))] = 255
        rows, columns = torch.where(plain.resized(drawing)[0] > 127)
        if len(rows):
            seen.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return torch.tensor(seen, dtype=torch.float32).reshape(-1, 4)


def _labels(samples: Samples, i: int) -> np.ndarray:
    assert samples.objects is not None
    return samples.objects.labels[samples.objects.start[i]:samples.objects.start[i + 1]]
