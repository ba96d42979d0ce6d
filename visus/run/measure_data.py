"""A data set in numbers and charts: classes, sizes of images, how many objects, how large and where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from visus.core.errors import DataError, ImageError
from visus.data.samples import SPLITS, Samples, spread
from visus.report.data_charts import Bars, Bubbles, Chart, Heat, Histogram
from visus.run.draw_data import labels_of

SIZED_IMAGES = 2_000
MEASURED_MAPS = 60
PLACES = 24  # cells of the map of positions, each way
BINS = 32
COCO_SIDES = {32.0: "small", 96.0: "medium"}  # px: COCO's bounds of small and medium objects, 32 x 32 and 96 x 96


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """counts: split ('all' where the data give none) -> class -> objects. per_image: least, median, most.
    sides: smallest, median, largest square root of a box's area, in pixels; or, where `relative`, of the image's."""

    count: int
    counts: dict[str, dict[str, int]]
    images_without: int
    per_image: tuple[int, float, int]
    sides: tuple[float, float, float]
    relative: bool
    outlines: int
    keypoints: tuple[str, ...]
    crowd: int
    difficult: int

    def sentence(self) -> str:
        unit = " of the image's side" if self.relative else " px"
        low, middle, high = (f"{100 * s:.3g} %" if self.relative else f"{s:.3g}" for s in self.sides)
        least, usual, most = (f"{n:g}" for n in self.per_image)
        held = _span(least, usual, most, " an image")
        parts = [f"objects  {self.count:,}: {held}; sides {_span(low, middle, high, unit)}"]
        parts += [f"{self.images_without:,} images without any"] * (self.images_without > 0)
        parts += [f"{self.outlines:,} with an outline"] * (self.outlines > 0)
        parts += [f"{len(self.keypoints)} keypoints each"] * bool(self.keypoints)
        parts += [f"{self.crowd:,} crowds"] * (self.crowd > 0)
        parts += [f"{self.difficult:,} difficult"] * (self.difficult > 0)
        return "; ".join(parts)


def _span(low: str, middle: str, high: str, unit: str) -> str:
    return f"all {low}{unit}" if low == high else f"{low} to {high}{unit}, median {middle}"


def object_facts(samples: Samples) -> ObjectFacts | None:
    """None where no objects are marked."""
    objects = samples.objects
    if objects is None:
        return None
    held = np.diff(objects.start)
    sides = box_sides(samples)
    sides = sides if len(sides) else np.zeros(1)
    outlines = objects.outlines
    shaped = 0 if outlines is None else int((np.diff(outlines.polygons) > 0).sum()) + len(outlines.runs)
    return ObjectFacts(
        count=len(objects), counts={name or "all": dict(zip(samples.classes, counts.tolist(), strict=True))
                                    for name, counts in objects_by_split(samples).items()},
        images_without=int((held == 0).sum()), per_image=(int(held.min()), float(np.median(held)), int(held.max())),
        sides=(float(sides.min()), float(np.median(sides)), float(sides.max())), relative=objects.relative,
        outlines=shaped, keypoints=objects.keypoint_names if objects.keypoints is not None else (),
        crowd=int(objects.crowd.sum()), difficult=int(objects.difficult.sum()))


def charts(samples: Samples, label_shares: np.ndarray | None = None) -> list[Chart]:
    """What can be drawn of these samples. label_shares: float [K], share of the pixels of each class of label maps."""
    found: list[Chart] = []
    splits = [name for name in (*SPLITS, "") if (samples.split == name).any()]
    if len(samples.classes) and samples.class_counts().any():
        found.append(Bars(title="Images of each class" if not samples.multi_label else
                          "Images in which a class appears", names=samples.classes,
                          parts={name: samples.class_counts(np.flatnonzero(samples.split == name)).tolist()
                                 for name in splits}))
    if samples.objects is not None and len(samples.objects):
        found.append(Bars(title="Objects of each class", names=samples.classes,
                          parts={name: counts.tolist() for name, counts in objects_by_split(samples).items()}))
    if label_shares is not None:
        found.append(Bars(title="Share of the pixels that have a label", names=samples.classes,
                          parts={"": label_shares.tolist()}, unit="%"))
    positions, sizes = image_sizes(samples)
    if len(sizes) and (sizes != sizes[0]).any():
        most = Counter(map(tuple, sizes.tolist())).most_common(400)
        found.append(Bubbles(title="Sizes of the images", points=[(w, h, n) for (h, w), n in most],
                             x_label="width in pixels", y_label="height"))
    if samples.objects is not None and len(samples.objects):
        held = np.diff(samples.objects.start)
        top = int(max(4, np.percentile(held, 99.5)))
        step = -(-(top + 1) // BINS)
        edges = np.arange(0, top + step + 1, step) - 0.5  # whole numbers lie in the middle of their bar
        counts = np.histogram(np.minimum(held, top), edges)[0]
        found.append(Histogram(title="Objects in an image", edges=edges.tolist(), counts=counts.tolist(),
                               label="objects" + (f" ({top} or more in the last bar)" if held.max() > top else "")))
        found += _box_charts(samples, positions, sizes)
    return found


def image_sizes(samples: Samples, limit: int = SIZED_IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n] positions, int64 [n, 2] heights and widths) of up to `limit` images, spread over the set: as stated,
    or from the headers of the files. Those that cannot be read are left out."""
    places = np.array(spread(len(samples), limit), np.int64)
    if samples.images is not None:
        return places, np.tile(np.array(samples.images.shape[1:3], np.int64), (len(places), 1))
    stated = samples.stated_sizes
    kept, sizes = [], []
    for i in places.tolist():
        if stated is not None and stated[i].min() > 0:
            size = (int(stated[i, 0]), int(stated[i, 1]))
        else:
            try:
                header = samples.header(i)
            except ImageError:
                continue
            size = (header.height, header.width)
        kept.append(i)
        sizes.append(size)
    return np.array(kept, np.int64), np.array(sizes, np.int64).reshape(-1, 2)


def objects_by_split(samples: Samples) -> dict[str, np.ndarray]:
    """Split -> int64 [K], objects of each class."""
    assert samples.objects is not None
    split = samples.split[samples.objects.image_of]
    return {name: np.bincount(samples.objects.labels[split == name], minlength=len(samples.classes))
            for name in (*SPLITS, "") if (samples.split == name).any()}


def box_sides(samples: Samples) -> np.ndarray:
    """float64: square root of the area of each box that has one."""
    assert samples.objects is not None
    spans = samples.objects.boxes[:, 2:] - samples.objects.boxes[:, :2]
    spans = spans[np.isfinite(spans).all(1) & (spans > 0).all(1)]
    return np.sqrt(spans[:, 0]) * np.sqrt(spans[:, 1])


def label_shares(samples: Samples, limit: int = MEASURED_MAPS) -> np.ndarray:
    """float64 [K]: share of each class in the labelled pixels of up to `limit` maps. Maps that cannot be read are left
    out."""
    counts = np.zeros(len(samples.classes), np.int64)
    for i in spread(len(samples), limit):
        try:
            labels = labels_of(samples, i)
        except DataError:
            continue
        if labels is None:
            continue
        counts += np.bincount(labels[(labels >= 0) & (labels < len(counts))], minlength=len(counts))
    return counts / max(1, counts.sum())


def _box_charts(samples: Samples, positions: np.ndarray, sizes: np.ndarray) -> list[Chart]:
    assert samples.objects is not None
    found: list[Chart] = []
    sides, relative = box_sides(samples), samples.objects.relative
    if len(sides):
        low, high = np.percentile(sides, (0.5, 99.5)).tolist()
        low, high = (low / 1.5, high * 1.5) if high <= low * 1.01 else (low / 1.02, high * 1.02)
        sides = sides.clip(low, high)  # the few beyond are counted in the outermost bars
        edges = np.geomspace(low, high, BINS + 1)
        found.append(Histogram(title="Sizes of the boxes", edges=edges.tolist(), log=True, percent=relative,
                               counts=np.histogram(sides, edges)[0].tolist(),
                               label=f"square root of the area{' as a share of the image' if relative else ', px'}",
                               marks=None if relative else COCO_SIDES))
    held = samples.objects.take(positions)
    centres = (held.boxes[:, :2] + held.boxes[:, 2:]) / 2
    if not relative:
        centres = centres / sizes[held.image_of][:, ::-1]
    centres = centres[np.isfinite(centres).all(1) & (centres >= 0).all(1) & (centres <= 1).all(1)]
    if len(centres):
        cells = np.histogram2d(centres[:, 1], centres[:, 0], bins=PLACES, range=((0, 1), (0, 1)))[0]
        found.append(Heat(title="Where the boxes lie", counts=cells.tolist(),
                          label="their centres, each image stretched to a square"))
    return found
