"""Which image has which map of labels, in the usual layouts of image and mask folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from visus.core.errors import printable
from visus.data.reading.annotation_files import Listing, joined, split_folders
from visus.data.samples import SPLIT_NAMES, counted, listed

_IMAGES = ("images", "imgs", "image", "img", "photos")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations",
          "segmentation_masks", "gt", "ground_truth")
_SUFFIXES = ("", "_mask", "_masks", "_L", "_label", "_labels", "_gt", "_seg", "_segmentation", "-mask", "_mask_png")
_BESIDE = ("annot", "_labels", "_label", "_masks", "_mask", "_annot", "_gt")
_MAP_FILES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
_CITY_IMAGE = "_leftImg8bit"


@dataclass
class MaskLayout:
    """kind: 'folders', 'cityscapes' or 'cityscapes train ids'. pairs: (image, map, split). notes: what was left out.
    folders: those that hold them, where a table of classes may lie too."""

    kind: str = "folders"
    pairs: list[tuple[str, str, str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def mask_layout(listing: Listing) -> MaskLayout | None:
    """None where images and maps of the same names are not found."""
    for find in (_cityscapes, _side_by_side, _folder_pairs, _in_splits, _same_folder):
        layout = find(listing)
        if layout is not None and layout.pairs:
            return layout
    return None


def _cityscapes(listing: Listing) -> MaskLayout | None:
    """leftImg8bit/train/city/x_leftImg8bit.png with gtFine/train/city/x_gtFine_labelIds.png."""
    images, maps = listing.folder("", "leftImg8bit"), listing.folder("", "gtFine", "gtCoarse")
    if images is None or maps is None:
        return None
    found = {key: [p for p in listing.below(maps, (".png",)) if p.endswith(f"_{key}.png")]
             for key in ("labelIds", "labelTrainIds")}
    key = "labelIds" if found["labelIds"] else "labelTrainIds"
    layout = MaskLayout("cityscapes" if key == "labelIds" else "cityscapes train ids", folders=["", maps])
    ending = f"_{maps.rsplit('/', 1)[-1]}_{key}.png"
    map_of = {path[len(maps) + 1:-len(ending)]: path for path in found[key] if path.endswith(ending)}
    image_of = {os.path.splitext(path)[0][len(images) + 1:].removesuffix(_CITY_IMAGE): path
                for path in listing.below(images)}
    splits = {name: SPLIT_NAMES.get(name.split("/", 1)[0].lower(), "") for name in image_of}
    return _paired(layout, image_of, map_of, splits)


def _side_by_side(listing: Listing) -> MaskLayout | None:
    """train/ beside trainannot/, and so on for val and test."""
    layout = MaskLayout(folders=[""])
    for split, folder in split_folders(listing).items():
        maps = listing.folder("", *(folder + ending for ending in _BESIDE))
        if maps is not None:
            _match(listing, layout, folder, maps, split)
    return layout


def _folder_pairs(listing: Listing) -> MaskLayout | None:
    """images/ beside masks/, with or without split folders in both."""
    images, maps = listing.folder("", *_IMAGES), listing.folder("", *_MASKS)
    if images is None or maps is None:
        return None
    layout = MaskLayout(folders=["", maps])
    inner, inner_maps = split_folders(listing, images), split_folders(listing, maps)
    if inner:
        for split in inner:
            if split in inner_maps:
                _match(listing, layout, inner[split], inner_maps[split], split)
        return layout
    _match(listing, layout, images, maps, "")
    return layout


def _in_splits(listing: Listing) -> MaskLayout | None:
    """train/images/ beside train/masks/, or maps named x_mask.png beside x.jpg in train/."""
    layout = MaskLayout(folders=[""])
    for split, folder in split_folders(listing).items():
        images, maps = listing.folder(folder, *_IMAGES), listing.folder(folder, *_MASKS)
        if images is not None and maps is not None:
            _match(listing, layout, images, maps, split)
        else:
            _match_beside(listing, layout, folder, split)
        layout.folders.append(folder)
    return layout


def _same_folder(listing: Listing) -> MaskLayout | None:
    layout = MaskLayout(folders=[""])
    _match_beside(listing, layout, "", "")
    return layout


def _match(listing: Listing, layout: MaskLayout, images: str, maps: str, split: str) -> None:
    """Adds the images below one folder and the maps of the same names below another."""
    image_of = {os.path.splitext(path)[0][len(images) + 1:]: path for path in listing.below(images)}
    map_of = {os.path.splitext(path)[0][len(maps) + 1:]: path for path in listing.below(maps, _MAP_FILES)}
    counts = {ending: sum(name + ending in map_of for name in image_of) for ending in _SUFFIXES}
    ending = max(counts, key=lambda key: counts[key])
    if 2 * counts[ending] < min(len(image_of), len(map_of)):
        return
    cut = {name[:len(name) - len(ending)]: path for name, path in map_of.items() if name.endswith(ending)}
    _paired(layout, image_of, cut, dict.fromkeys(image_of, split))


def _match_beside(listing: Listing, layout: MaskLayout, folder: str, split: str) -> None:
    """Adds x.jpg with x_mask.png of the same folder."""
    files = {os.path.splitext(name)[0]: name for name in listing.files(folder)}
    for ending in _SUFFIXES[1:]:
        map_of = {name[:-len(ending)]: joined(folder, file) for name, file in files.items()
                  if name.endswith(ending) and os.path.splitext(file)[1].lower() in _MAP_FILES}
        image_of = {name: joined(folder, files[name]) for name in map_of if name in files}
        rest = len(files) - len(image_of) - len(map_of)
        if image_of and len(image_of) > rest:
            _paired(layout, image_of, map_of, dict.fromkeys(image_of, split))
            return


def _paired(layout: MaskLayout, image_of: dict[str, str], map_of: dict[str, str], splits: dict[str, str]) -> MaskLayout:
    both = [name for name in sorted(image_of, key=_natural) if name in map_of]
    layout.pairs += [(image_of[name], map_of[name], splits[name]) for name in both]
    alone = [printable(path) for name, path in sorted(image_of.items()) if name not in map_of]
    if alone and both:
        layout.notes.append(f"{counted(len(alone), 'image')} without a map of labels not used: {listed(alone, 3)}")
    alone = [printable(path) for name, path in sorted(map_of.items()) if name not in image_of]
    if alone and both:
        layout.notes.append(f"{counted(len(alone), 'map')} without an image not used: {listed(alone, 3)}")
    return layout


def _natural(name: str) -> list[tuple[int, str, str]]:
    return [(int(digits) if digits else 0, text, digits) for text, digits in re.findall(r"(\D*)(\d{0,18})", name)]
