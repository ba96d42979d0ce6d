"""COCO: a JSON file of images, categories and annotations, or a folder of such files beside their images.

Boxes, polygons, run-length codes, keypoints, captions and panoptic maps (cocodataset.org/#format-data). The annotations
stay as they are in the file but for this: boxes are corners, clipped to the image, and category ids are labels from 0
on, in the order of the ids, which `Samples.category_ids` keeps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visus.core.errors import DataError, ImageError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.coco.file import Category, id_array, places_of
from visus.data.formats.coco.joined import joined_parts, stacked
from visus.data.formats.coco.layout import Source, place_of_file, sources_of_folder
from visus.data.formats.coco.parts import CocoPart, ordered
from visus.data.formats.coco.records import read_coco_file
from visus.data.objects import LabelMaps
from visus.data.reading.annotation_files import Listing, joined
from visus.data.reading.image_files import find_images, plain_names
from visus.data.samples import SPLITS, Samples, counted, listed, spread

_SIZES_CHECKED = 500
_ORDER = {"instances": 0, "": 1, "person_keypoints": 2, "captions": 3, "panoptic": 4, "stuff": 5}


class Coco:
    """One .json file, or a folder: annotations/*.json, or train/_annotations.coco.json, or one file beside images.

    The files of one split are joined by the ids of images: boxes with keypoints and captions. Of a single file no split
    is taken. The ids of images are kept as the column 'image_id'.
    """

    @staticmethod
    def recognises(path: str) -> bool:
        if os.path.isdir(path):
            return bool(sources_of_folder(Listing(path)))
        return path.lower().endswith(".json") and os.path.isfile(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and the records: see `read_coco_file`, `ordered` and `find_images`."""
        root, sources, notes = _sources(path)
        by_split: dict[str, list[CocoPart]] = {}
        for source in sources:
            full = os.path.join(root, source.name)
            part = ordered(read_coco_file(full, options.progress))
            part.names = plain_names(part.names, full)
            parts = by_split.setdefault(source.split, [])
            if parts and not _agree(parts[0].categories, part.categories):
                notes.append(f"{printable(source.name)} not used: it has other classes than those of "
                             f"{printable(os.path.basename(parts[0].path))}; give the file itself to read it")
                continue
            if part.maps is not None:
                part.maps = _map_paths(root, source, part.maps, full)
            parts.append(part)
            notes += part.notes
        names = [name for name in (*SPLITS, "") if name in by_split]
        folders = {source.split: source.folders for source in reversed(sources)}
        whole = [joined_parts(by_split.pop(name)) for name in names]
        paths = [find_images(root, folders[name], part.names, part.path) if part.names else []
                 for name, part in zip(names, whole, strict=True)]
        samples = _samples(root, whole, paths, names, notes)
        _check_sizes(samples, whole[0].path)
        return samples


def _sources(path: str) -> tuple[str, list[Source], list[str]]:
    """(data folder, annotation files to read, notes)."""
    if not os.path.isdir(path):
        root, source = place_of_file(path)
        return root, [replace(source, split="")], []
    listing = Listing(path)
    found = sources_of_folder(listing)
    notes = []
    if not found:
        raise DataError("holds no COCO annotations", where=path,
                        remedy="Give annotations/*.json beside folders of images, or one .json file")
    used = [source for source in found if source.kind != "image_info"]
    if any(source.kind == "instances" for source in used):
        used = [source for source in used if source.kind not in ("panoptic", "stuff")]
    left = [printable(source.name) for source in found if source not in used]
    if left:
        notes.append(f"not used: {listed(left)}; give such a file itself to read it")
    if not used:
        raise DataError(f"holds no annotations of images: {listed(left)}", where=path,
                        remedy="Give files with 'annotations'")
    if not any(source.split == "train" for source in used):
        used = [replace(source, split="") for source in used]
    return listing.root, sorted(used, key=lambda source: (_ORDER.get(source.kind, 1), source.name)), notes


def _map_paths(root: str, source: Source, names: list[str], where: str) -> list[str]:
    """The PNG files of panoptic maps below `root`, '' where an image has none: in a folder named as the JSON file."""
    own = source.name[:-len(".json")]
    base = own.rpartition("/")[2]
    folders = [own, base, joined("annotations", base), joined("panoptic", base), source.name.rpartition("/")[0]]
    given = plain_names([name for name in names if name], where)
    found = iter(find_images(root, folders, given, where) if given else [])
    return [next(found) if name else "" for name in names]


def _agree(first: Sequence[Category], other: Sequence[Category]) -> bool:
    names = {category.id: category.name for category in first}
    return not names or all(names.get(category.id) == category.name for category in other)


def _samples(root: str, parts: list[CocoPart], paths: list[list[str]], splits: list[str], notes: list[str]) -> Samples:
    categories = _classes(parts)
    known = id_array([category.id for category in categories])
    positions = [places_of(known, id_array([category.id for category in part.categories])) for part in parts]
    count = sum(map(len, paths))
    if not count:
        raise DataError("holds no images", where=parts[0].path, remedy="Its list 'images' is empty")
    objects = stacked(parts, positions) if any(part.objects is not None for part in parts) else None
    targets = np.zeros((count, len(categories)), np.float32) if objects is None else objects.presence(len(categories))
    maps = None
    if any(part.maps is not None for part in parts):
        tables, files, at = [], [], 0
        for part, position in zip(parts, positions, strict=True):
            for name, segments in zip(part.maps or [""] * len(part.names), part.segments or [{}] * len(part.names),
                                      strict=True):
                labels = {segment: int(position[place]) for segment, place in segments.items()}
                targets[at, list(labels.values())] = 1
                tables.append({0: -1, **labels})
                files.append(name)
                at += 1
        maps = LabelMaps(paths=tuple(files), root=root, colours=True, per_image=tuple(tables))
    captions = None
    if any(part.captions is not None for part in parts):
        captions = tuple(tuple(texts) for part in parts for texts in part.captions or [[]] * len(part.names))
    sizes = np.concatenate([part.sizes for part in parts])
    numbered = all(isinstance(category.id, int) for category in categories)
    split_names = np.repeat(np.array(splits, "<U5"), [len(of) for of in paths])
    ids = np.array([str(number) for part in parts for number in part.image_ids.tolist()])
    return Samples(
        format="coco", classes=tuple(printable(category.name) for category in categories), targets=targets,
        paths=tuple(path for of in paths for path in of), root=root, split=split_names, objects=objects,
        label_maps=maps, captions=captions, stated_sizes=sizes if sizes.any() else None, columns={"image_id": ids},
        category_ids=tuple(int(category.id) for category in categories) if numbered else None, notes=tuple(notes))


def _classes(parts: list[CocoPart]) -> list[Category]:
    """The categories of all files, in order of id, without the head category that Roboflow adds and nothing uses."""
    found: dict[int | str, Category] = {}
    for part in parts:
        for category in part.categories:
            known = found.setdefault(category.id, category)
            if known.name != category.name:
                raise DataError(f"category {category.id!r} is {printable(category.name)!r} here and "
                                f"{printable(known.name)!r} in {os.path.basename(parts[0].path)}", where=part.path,
                                remedy="Give each id one name in all files")
    if len({type(number) for number in found}) > 1:
        raise DataError("ids of categories are numbers in one file and texts in another", where=parts[0].path,
                        remedy="Give whole numbers throughout")
    categories = sorted(found.values(), key=lambda category: category.id)
    if len(categories) > 1 and all(category.above == categories[0].name for category in categories[1:]):
        head = categories[0].id
        used = any(part.categories and part.categories[0].id == head and part.objects is not None
                   and (part.objects.labels == 0).any() for part in parts)
        if not used:
            for part in parts:
                _drop_first(part, head)
            categories = categories[1:]
    names: dict[str, list[str]] = {}
    for category in categories:
        names.setdefault(category.name, []).append(repr(category.id))
    twice = [f"{printable(name)!r} (ids {', '.join(ids)})" for name, ids in names.items() if len(ids) > 1]
    if twice:
        raise DataError(f"{counted(len(twice), 'name')} that several categories share: {listed(twice)}",
                        where=parts[0].path, remedy="Give each category its own name, or join them")
    return categories


def _drop_first(part: CocoPart, head: int | str) -> None:
    if part.categories and part.categories[0].id == head:
        part.categories = part.categories[1:]
        if part.objects is not None:
            part.objects = replace(part.objects, labels=part.objects.labels - 1)


def _check_sizes(samples: Samples, where: str) -> None:
    """Raises DataError where the files of images are of other sizes than stated, as the headers of some of them say."""
    if samples.stated_sizes is None:
        return
    wrong = []
    for i in spread(len(samples), _SIZES_CHECKED):
        height, width = samples.stated_sizes[i].tolist()
        if not (height and width):
            continue
        try:
            header = samples.header(i)
        except ImageError:
            continue  # said where images are read
        if (header.width, header.height) != (width, height):
            turned = header.orientation
            note = f" after its EXIF orientation {turned} is applied" if turned != 1 else ""
            wrong.append(f"{printable(samples.source(i))} is stated as {width} x {height} and is {header.width} x "
                         f"{header.height}{note}")
    if wrong:
        raise DataError(f"{counted(len(wrong), 'image')} of another size than 'width' and 'height' say: "
                        f"{listed(wrong)}", where=where,
                        remedy="Boxes are in pixels of the upright image: annotate these files again, or put the files "
                               "in place that were annotated")


data_formats.add(Coco, {"coco": {}})
