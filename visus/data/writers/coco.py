"""COCO: annotations/instances_train.json and so on, a file per split, beside a folder of images per split.

Captions are written as captions_train.json, and maps of segments as panoptic_train.json with their folder of PNG files.
What COCO has no place for is left out: VOC's 'difficult', groups, columns of tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import DataError
from visus.core.images import read_image
from visus.data.masks import runs_area, runs_text
from visus.data.objects import Objects
from visus.data.samples import SPLITS, Samples, counted
from visus.data.writers import Images, Progress, copy_file, fresh_folder, image_names, write_image, writers

_DECIMALS = (0, 1, 2, 3, 4, 6, 9)


class CocoWriter:
    """Ids of images (the column 'image_id'), of objects and of categories are kept where they are known, else counted
    from 1. What was read as COCO and written is equal when it is read again: boxes and outlines to the last bit."""

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None:
        """Raises DataError for samples without boxes, captions and maps of segments; else as `DataWriter` says."""
        maps = samples.label_maps
        panoptic = maps is not None and maps.per_image is not None and maps.colours
        if samples.objects is None and samples.captions is None and not panoptic:
            raise DataError("there are no boxes, captions or maps of segments to write as COCO", where=samples.root,
                            remedy="Class labels alone are written as class folders, plain label maps as mask folders")
        sizes = _sizes(samples)
        names = image_names(samples)
        done = 0
        with fresh_folder(samples, out) as folder:
            for split in (*SPLITS, ""):
                chosen = np.flatnonzero(samples.split == split)
                if not len(chosen):
                    continue
                one, own = samples.subset(chosen), [names[i] for i in chosen.tolist()]
                for i, name in enumerate(own):
                    write_image(one, i, folder / (split or "images") / name, images)
                    done += 1
                    if progress is not None:
                        progress(done, len(samples))
                _write_split(one, own, sizes[chosen], folder / "annotations", f"_{split}" if split else "", images,
                             samples)

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples COCO does not hold, in words."""
        hard = 0 if samples.objects is None else int(samples.objects.difficult.sum())
        maps = samples.label_maps
        plain = 0 if maps is None or (maps.per_image is not None and maps.colours) else sum(map(bool, maps.paths))
        return [text for count, text in ((hard, f"{counted(hard, 'mark')} 'difficult' left out"),
                                         (plain, f"{counted(plain, 'map')} of labels left out")) if count]


writers.add(CocoWriter, {"coco": {}})


def _write_split(samples: Samples, names: list[str], sizes: np.ndarray, folder: Path, suffix: str, images: Images,
                 whole: Samples) -> None:
    ids = _image_ids(samples)
    records = [{"id": number, "file_name": name, "height": height, "width": width}
               for number, name, (height, width) in zip(ids, names, sizes.tolist(), strict=True)]
    numbers = whole.category_ids or tuple(range(1, len(whole.classes) + 1))
    if samples.objects is not None:
        objects = _in_pixels(samples.objects, sizes)
        _write_json(folder / f"instances{suffix}.json", records, _objects(objects, ids, numbers),
                    _categories(whole, numbers))
    if samples.captions is not None:
        texts = ((image, text) for image, of in zip(ids, samples.captions, strict=True) for text in of)
        _write_json(folder / f"captions{suffix}.json", records, (
            {"id": count, "image_id": image, "caption": text} for count, (image, text) in enumerate(texts, 1)), None)
    if samples.label_maps is not None and samples.label_maps.per_image is not None and samples.label_maps.colours:
        _write_json(folder / f"panoptic{suffix}.json", records, _segments(
            samples, names, ids, numbers, folder / f"panoptic{suffix}", images), _categories(whole, numbers))


def _write_json(path: Path, images: list[dict[str, Any]], annotations: Iterable[dict[str, Any]],
                categories: list[dict[str, Any]] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(b'{"info": {"description": "written by Visus"},\n"images": [')
        _write_records(file.write, images)
        if categories is not None:
            file.write(b'],\n"categories": [')
            _write_records(file.write, categories)
        file.write(b'],\n"annotations": [')
        _write_records(file.write, annotations)
        file.write(b"]}\n")


def _write_records(write: Any, records: Iterable[dict[str, Any]]) -> None:
    for number, record in enumerate(records):
        write((",\n" if number else "\n").encode() + json.dumps(record, allow_nan=False).encode())


def _objects(objects: Objects, ids: list[int] | list[str], numbers: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """COCO's annotations of the objects of N images. ids: of the images; numbers: of the categories."""
    own = objects.ids
    if own is None or len(np.unique(own)) < len(own):
        own = np.arange(1, len(objects) + 1)
    boxes = _widths(objects.boxes)
    areas, pointed = _areas(objects), _pointed(objects)
    rows = zip(own.tolist(), objects.image_of.tolist(), objects.labels.tolist(), boxes.tolist(), areas.tolist(),
               objects.crowd.tolist(), strict=True)
    for m, (number, image, label, box, area, crowd) in enumerate(rows):
        record = {"id": number, "image_id": ids[image], "category_id": numbers[label], "bbox": box, "area": area,
                  "iscrowd": int(crowd)}
        outlines = objects.outlines
        if outlines is not None and m in outlines.runs:
            runs = outlines.runs[m]
            record["segmentation"] = {"size": [runs.height, runs.width], "counts": runs_text(runs)}
        elif outlines is not None:
            record["segmentation"] = [ring.reshape(-1).tolist() for ring in outlines.rings(m)]
        if objects.keypoints is not None and label in pointed:
            record["num_keypoints"] = int((objects.keypoints[m, :, 2] > 0).sum())
            record["keypoints"] = [int(v) if v.is_integer() else v for v in objects.keypoints[m].reshape(-1).tolist()]
        yield record


def _segments(samples: Samples, names: list[str], ids: list[int] | list[str], numbers: tuple[int, ...], folder: Path,
              images: Images) -> Iterator[dict[str, Any]]:
    """COCO's panoptic annotations, one per image with a map, which is copied into `folder`."""
    maps = samples.label_maps
    assert maps is not None and maps.per_image is not None
    taken: set[str] = set()
    for i, (name, table) in enumerate(zip(names, maps.per_image, strict=True)):
        if not maps.paths[i]:
            continue
        file = (name.rpartition(".")[0] or name) + ".png"
        file = name + ".png" if file.casefold() in taken else file
        taken.add(file.casefold())
        copy_file(maps.path(i), folder / file, images)
        pixels = read_image(maps.path(i)).pixels.astype(np.int64)
        values = pixels[..., 0] if pixels.shape[-1] == 1 else pixels @ np.array([1, 256, 65536])
        infos = []
        for segment, label in table.items():
            if label >= 0:
                rows, columns = np.nonzero(values == segment)
                box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1] \
                    if len(rows) else [0, 0, 0, 0]
                infos.append({"id": segment, "category_id": numbers[label], "area": len(rows), "bbox": box,
                              "iscrowd": 0})
        yield {"image_id": ids[i], "file_name": file, "segments_info": infos}


def _categories(samples: Samples, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    objects = samples.objects
    pointed = set() if objects is None else _pointed(objects)
    for label, (number, name) in enumerate(zip(numbers, samples.classes, strict=True)):
        record: dict[str, Any] = {"id": number, "name": name, "supercategory": ""}
        if objects is not None and label in pointed:
            record["keypoints"] = list(objects.keypoint_names)
            record["skeleton"] = [[a + 1, b + 1] for a, b in objects.skeleton]
        found.append(record)
    return found


def _pointed(objects: Objects) -> set[int]:
    """The labels whose objects have keypoints; all of them when none of the keypoints is marked."""
    if objects.keypoints is None:
        return set()
    marked = np.unique(objects.labels[objects.keypoints.any((1, 2))]).tolist()
    return set(marked or objects.labels.tolist())


def _image_ids(samples: Samples) -> list[int] | list[str]:
    known = samples.columns.get("image_id")
    if known is None or len(np.unique(known)) < len(known) or not all(known.tolist()):
        return list(range(1, len(samples) + 1))
    texts = [str(value) for value in known.tolist()]
    if all(text == "0" or text.lstrip("-").isdecimal() and text.isascii() and text.lstrip("-")[0] != "0"
           and text.rfind("-") <= 0 for text in texts):
        return [int(text) for text in texts]
    return texts


def _sizes(samples: Samples) -> np.ndarray:
    """int64 [N, 2]: heights and widths, from the headers of the files where the samples do not state them."""
    if samples.images is not None:
        return np.tile(np.array(samples.images.shape[1:3], np.int64), (len(samples), 1))
    sizes = np.zeros((len(samples), 2), np.int64) if samples.stated_sizes is None else samples.stated_sizes.copy()
    for i in np.flatnonzero(~sizes.all(1)).tolist():
        header = samples.header(i)
        sizes[i] = header.height, header.width
    return sizes


def _in_pixels(objects: Objects, sizes: np.ndarray) -> Objects:
    """The objects of N images of these heights and widths, in pixels."""
    if not objects.relative:
        return objects
    scale = sizes[objects.image_of][:, ::-1].astype(np.float64)
    outlines, points = objects.outlines, objects.keypoints
    if outlines is not None:
        of_ring = np.repeat(np.arange(len(objects)), np.diff(outlines.polygons))
        of_point = np.repeat(of_ring, np.diff(outlines.vertices))
        outlines = replace(outlines, points=outlines.points * scale[of_point])
    if points is not None:
        points = points * np.concatenate([scale, np.ones((len(scale), 1))], 1)[:, None]
    return replace(objects, boxes=objects.boxes * np.tile(scale, 2), outlines=outlines, keypoints=points,
                   relative=False)


def _widths(boxes: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 -> x1 y1 width height, [M, 4], with few decimals, such that x1 + width is x2 to the last bit.

    There is such a width for all boxes that were made of one; for others it may miss by the last bit of a tie.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    sides = high - low
    open_ = np.ones(sides.shape, bool)
    for decimals in _DECIMALS:
        short = np.round(sides, decimals)
        fits = open_ & (low + short == high)
        sides = np.where(fits, short, sides)
        open_ &= ~fits
    for near in (sides, np.nextafter(sides, np.inf), np.nextafter(sides, -np.inf)):
        fits = open_ & (low + near == high)
        sides = np.where(fits, near, sides)
        open_ &= ~fits
    return np.concatenate([low, sides], 1)


def _areas(objects: Objects) -> np.ndarray:
    """float64 [M]: of the polygons (the shoelace formula), the masks, or the boxes, in pixels."""
    areas = np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1)
    outlines = objects.outlines
    if outlines is None:
        return areas
    counts = np.diff(outlines.vertices)
    of_ring = np.repeat(np.arange(len(counts)), counts)
    following = np.arange(1, len(outlines.points) + 1)
    filled = counts > 0
    following[outlines.vertices[1:][filled] - 1] = outlines.vertices[:-1][filled]
    here, there = outlines.points, outlines.points[following]
    rings = abs(np.bincount(of_ring, here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1], len(counts))) / 2
    number = np.diff(outlines.polygons)
    total = np.bincount(np.repeat(np.arange(len(number)), number), rings, len(number))
    areas = np.where(number > 0, total, areas)
    for m, runs in outlines.runs.items():
        areas[m] = runs_area(runs)
    return areas
