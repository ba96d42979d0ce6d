"""Pascal VOC's maps of labels: SegmentationClass/*.png with JPEGImages/ and ImageSets/Segmentation/*.txt.

The maps hold the numbers of the 20 classes as places in a palette, 0 for background, 255 for what is not judged
(documentation of the VOC development kit). Maps whose palette was unpacked to colours are read by the same palette.
"""

from __future__ import annotations

import os

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.mask_folder.class_tables import find_class_table
from visus.data.formats.voc.layout import image_lists, voc_parts
from visus.data.label_maps import colour_code, read_label_map, stored_mode
from visus.data.objects import IGNORED, LabelMaps
from visus.data.reading.annotation_files import Listing, is_image, joined, stem
from visus.data.samples import Samples, counted, listed, natural_order, spread

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
_CHECKED = 3


class VocSegmentation:
    """Maps of labels of Pascal VOC. A folder that has boxes as well is `voc`, unless this format is asked for."""

    @staticmethod
    def recognises(path: str) -> bool:
        if not os.path.isdir(path):
            return False
        listing = Listing(path)
        return bool(_roots(listing)) and not voc_parts(listing)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file: a map that cannot be read or holds unknown values, no image for a map."""
        listing = Listing(path)
        pairs: list[tuple[str, str, str]] = []
        notes: list[str] = []
        for root in _roots(listing):
            pairs += _pairs(listing, root, notes)
        listing.refuse_bad_links()
        if not pairs:
            raise DataError("holds no maps of labels of Pascal VOC with their images", where=path,
                            remedy="Expected: SegmentationClass/*.png and JPEGImages/*.jpg of the same names")
        maps = tuple(pair[1] for pair in pairs)
        coloured = any(stored_mode(listing.full(maps[i])).startswith("RGB") for i in spread(len(maps), _CHECKED))
        table = find_class_table(listing, _roots(listing))
        classes = VOC_CLASSES if table is None else table.classes
        if coloured and table is not None and table.by_colour is not None:
            values = {palette_colour(IGNORED): -1, **table.by_colour}
        else:
            numbers = {k: k for k in range(len(VOC_CLASSES))} if table is None else table.by_value
            values = {IGNORED: -1, **numbers}
            values = {palette_colour(v): k for v, k in values.items() if v <= IGNORED} if coloured else values
        label_maps = LabelMaps(paths=maps, root=listing.root, table=values, colours=coloured)
        for i in spread(len(maps), _CHECKED):
            read_label_map(label_maps, i, num_classes=len(classes))
        return Samples(format="voc_segmentation", classes=classes, paths=tuple(pair[0] for pair in pairs),
                       targets=np.zeros((len(pairs), len(classes)), np.float32), root=listing.root,
                       split=np.array([pair[2] for pair in pairs], "<U5"), label_maps=label_maps, notes=tuple(notes))


def palette_colour(number: int) -> int:
    """The colour code of place `number`, 0..255, in VOC's palette.

    Bits 0, 1, 2 of the number are the highest bits of red, green and blue; bits 3, 4, 5 the next; bits 6, 7 the third.
    """
    red, green, blue = (sum((number >> (3 * k + channel) & 1) << (7 - k) for k in range(3)) for channel in range(3))
    return colour_code(red, green, blue)


def _roots(listing: Listing) -> list[str]:
    """Folders with SegmentationClass: the folder itself, or the years in a VOCdevkit."""
    kit = listing.folder("", "VOCdevkit") or ""
    places = ["", *(joined(kit, name) for name in listing.folders(kit) if name.lower().startswith("voc"))]
    return [place for place in places if listing.folder(place, "SegmentationClass") is not None]


def _pairs(listing: Listing, root: str, notes: list[str]) -> list[tuple[str, str, str]]:
    """(image, map, split) of one year."""
    folder, photos = listing.folder(root, "SegmentationClass"), listing.folder(root, "JPEGImages", "images")
    maps = {stem(name): path for name, path in listing.files(folder or "").items() if name.lower().endswith(".png")}
    images = {stem(name): path for name, path in listing.files(photos or "").items() if is_image(name)}
    lists = image_lists(listing, root, "Segmentation") or {"": natural_order(list(maps))}
    names = [(name, split) for split, chosen in lists.items() for name in chosen]
    lacking = [printable(name) for name, _ in names if name not in maps or name not in images]
    if lacking:
        notes.append(f"{counted(len(lacking), 'name')} without a map or an image not used: {listed(lacking, 3)}")
    return [(images[name], maps[name], split) for name, split in names if name in maps and name in images]


data_formats.add(VocSegmentation, {"voc_segmentation": {}})
