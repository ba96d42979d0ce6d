"""Where the images and label files of a YOLO set lie, and what its data.yaml says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visus.core.errors import DataError, printable
from visus.data.formats.yolo.data_yaml import (
    MAX_YAML,
    USUAL_NAMES,
    checked_names,
    classes_of,
    is_data_yaml,
    keypoints_of,
    load_yaml,
)
from visus.data.reading.annotation_files import Listing, is_image, joined, refuse, split_folders, stem
from visus.data.samples import SPLIT_NAMES, SPLITS, listed, natural_order

_MAX_LIST = 256 << 20
_YAML = (".yaml", ".yml")
_CLASS_FILES = ("classes.txt", "obj.names", "names.txt", "class_names.txt", "labels/classes.txt")


@dataclass(frozen=True, kw_only=True)
class YoloLayout:
    """listing: of the folder. images: split -> paths in it. classes: names, or None: to be numbered by what is found.
    keypoint_names: of P keypoints with `keypoint_values` numbers each (2: x y; 3: x y visibility; 0: none)."""

    listing: Listing
    images: Mapping[str, list[str]]
    classes: tuple[str, ...] | None
    keypoint_names: tuple[str, ...] = ()
    keypoint_values: int = 0
    skeleton: tuple[tuple[int, int], ...] = ()
    notes: list[str] = field(default_factory=list)


def looks_like_yolo(path: str) -> bool:
    """A data.yaml, a folder with one, or a folder of images with label files of their names."""
    if os.path.isfile(path):
        return path.lower().endswith(_YAML) and is_data_yaml(path)
    if not os.path.isdir(path):
        return False
    listing = Listing(path)
    return bool(_data_yamls(listing)) or _plain_folders(listing) is not None


def yolo_layout(path: str) -> YoloLayout:
    """Raises DataError naming the key of data.yaml with its value, and the path that was looked for."""
    if os.path.isfile(path):
        return _from_yaml(Listing(os.path.dirname(os.path.abspath(path))), path)
    listing = Listing(path)
    found = _data_yamls(listing)
    if len(found) > 1:
        raise DataError(f"holds several files that describe a data set: {listed(found)}", where=path,
                        remedy="Give the one that you mean instead of the folder")
    if found:
        return _from_yaml(listing, listing.full(found[0]))
    images = _plain_folders(listing)
    if images is None:
        listing.refuse_bad_links()
        raise DataError("holds neither data.yaml nor images/ with labels/*.txt", where=path,
                        remedy="Give the folder that holds data.yaml, or the file itself")
    name = next((name for name in _CLASS_FILES if listing.holds(name)), None)
    if name is None:
        return YoloLayout(listing=listing, images=images, classes=None)
    names = [line.strip() for line in listing.text(name, MAX_YAML).splitlines()]
    classes = checked_names([n for n in names if n], listing.full(name))
    return YoloLayout(listing=listing, images=images, classes=classes, notes=[f"classes of {name}"])


def label_path(listing: Listing, image: str, known: dict[str, str] | None = None) -> str:
    """Where the label file of an image is: `images` of its path as `labels`, or beside it.

    known: folder of images -> folder of labels, filled as folders are met.
    """
    folder, _, name = image.rpartition("/")
    known = {} if known is None else known
    if folder not in known:
        known[folder] = _label_folder(listing, folder)
    return joined(known[folder], stem(name) + ".txt")


def _label_folder(listing: Listing, folder: str) -> str:
    parts = folder.split("/")
    last = max((k for k, part in enumerate(parts) if part.lower() == "images"), default=None)
    other = None if last is None else listing.folder("/".join(parts[:last]), "labels")
    return folder if last is None or other is None else "/".join([other, *parts[last + 1:]])


def _from_yaml(listing: Listing, path: str) -> YoloLayout:
    values = load_yaml(path)
    notes: list[str] = []
    bases = _bases(listing, values, path, notes)
    classes = classes_of(values, path)
    keys = {split: key for key in values if isinstance(key, str) and (split := SPLIT_NAMES.get(key.lower()))}
    if not keys:
        raise DataError("has neither train nor val", where=path, remedy="Add: train: images/train")
    images: dict[str, list[str]] = {}
    for split in SPLITS:
        entry = values.get(keys.get(split, ""))
        if entry in (None, "", []):
            continue
        found = _entry(listing, bases, entry, f"{path}: {keys[split]}={entry!r}", notes, needed=split != "test")
        if found:
            images[split] = found
    _without_repeats(images, path, notes)
    names, values_each, skeleton = keypoints_of(values, path)
    return YoloLayout(listing=listing, images=images, classes=classes, keypoint_names=names,
                      keypoint_values=values_each, skeleton=skeleton, notes=notes)


def _data_yamls(listing: Listing) -> list[str]:
    found = [name for name in natural_order(list(listing.files())) if name.lower().endswith(_YAML)]
    usual = [name for name in found if name.lower() in USUAL_NAMES]
    return [name for name in usual or found if is_data_yaml(listing.full(name))]


def _plain_folders(listing: Listing) -> dict[str, list[str]] | None:
    """split -> images, of a folder without data.yaml; None where no label file fits an image."""
    root = listing.folder("", "images")
    if root is not None and listing.folder("", "labels") is not None:
        inner = split_folders(listing, root)
        images = {split: listing.below(folder) for split, folder in inner.items()} or {"": listing.below(root)}
    elif inner := split_folders(listing):
        pairs = {split: (listing.folder(folder, "images"), listing.folder(folder, "labels"))
                 for split, folder in inner.items()}
        images = {split: listing.below(pair[0]) for split, pair in pairs.items() if pair[0] and pair[1]}
    elif listing.holds("classes.txt") or listing.holds("obj.names"):
        images = {"": sorted(path for name, path in listing.files().items() if is_image(name))}
    else:
        return None
    images = {split: paths for split, paths in images.items() if paths}
    labelled = any(listing.holds(label_path(listing, path)) for paths in images.values() for path in paths)
    return images if labelled else None


def _bases(listing: Listing, values: Mapping[Any, Any], path: str, notes: list[str]) -> list[str]:
    """Folders that the paths in data.yaml may be relative to, within the listed one."""
    stated = values.get("path")
    here = os.path.relpath(os.path.dirname(os.path.realpath(path)), listing.root)
    home = "" if here == "." else here
    if stated in (None, "", "."):
        return [home]
    if not isinstance(stated, str) or "\0" in stated:
        raise DataError("is not a path", where=f"{path}: path={stated!r}", remedy="Leave it out, or name a folder")
    inside = _relative(listing, home, stated)
    if inside is not None and os.path.isdir(listing.full(inside)):
        return [inside, home]
    notes.append(f"path: {printable(stated)} of {os.path.basename(path)} is not below it; "
                 "paths are taken from the folder of that file")
    return [home]


def _entry(listing: Listing, bases: list[str], entry: object, where: str, notes: list[str],
           needed: bool) -> list[str]:
    """The images of one of train, val, test: a folder, a list of images in a .txt file, or several of these."""
    if isinstance(entry, list):
        return [image for one in entry for image in _entry(listing, bases, one, where, notes, needed)]
    if not isinstance(entry, str) or "\0" in entry:
        raise DataError("is neither a folder nor a list of images", where=where, remedy="Write: train: images/train")
    if "://" in entry:
        raise DataError("is an address, not a folder", where=where, remedy="Fetch the images first")
    tried = []
    for base in bases:
        for text in dict.fromkeys((entry, re.sub(r"^(\.\./)+", "", entry))):
            place = _relative(listing, base, text)
            tried.append(os.path.normpath(os.path.join(listing.full(base), text)))
            if place is None:
                continue
            if place.lower().endswith(".txt") and listing.holds(place):
                return _listed_images(listing, place, bases)
            found = listing.below(place)
            if found:
                if text != entry:
                    notes.append(f"{entry}: read as {text}")
                return found
    if not needed:
        notes.append(f"{where.rsplit(': ', 1)[1]} holds no images: left out")
        return []
    listing.refuse_bad_links()
    raise DataError(f"holds no images: looked for {listed([printable(t) for t in dict.fromkeys(tried)])}", where=where,
                    remedy="Paths are relative to `path`, or to the folder of this file, and stay inside it")


def _relative(listing: Listing, base: str, text: str) -> str | None:
    """`base`/`text` relative to the listed folder, None when it lies outside."""
    place = os.path.relpath(os.path.normpath(os.path.join(listing.root, base, text)), listing.root)
    if place == ".." or place.startswith("../"):
        return None
    return "" if place == "." else place


def _listed_images(listing: Listing, name: str, bases: list[str]) -> list[str]:
    """The images that the lines of a .txt file name, relative to that file or to `path`."""
    folders = dict.fromkeys([os.path.dirname(name), *bases])
    found, problems = [], []
    for number, line in enumerate(listing.text(name, _MAX_LIST).splitlines(), 1):
        line = line.strip().replace("\\", "/")
        if not line:
            continue
        places = [place for folder in folders if (place := _relative(listing, folder, line)) is not None]
        place = next((place for place in places if listing.holds(place)), None)
        if place is not None and is_image(place):
            found.append(place)
        else:
            what = "leads out of the folder" if not places else "is no image" if place else "is not there"
            problems.append(f"line {number}: {printable(line)} {what}")
    refuse(problems, "path that cannot be used", listing.full(name), "Paths are relative to this file, in its folder")
    return list(dict.fromkeys(found))


def _without_repeats(images: dict[str, list[str]], path: str, notes: list[str]) -> None:
    """Takes images that two splits name alike once, as of neither; raises DataError for other images in two splits."""
    for split in [s for s in ("val", "test") if s in images]:
        for other in [s for s in ("train", "val") if s in images and s != split]:
            if set(images[other]) == set(images[split]):
                del images[split]
                alone = len(images) == 1
                notes.append(f"{other} and {split} name the same images: taken once"
                             + (", as not split" if alone else f", as {other}"))
                if alone:
                    images[""] = images.pop(other)
                break
    seen: dict[str, str] = {}
    twice = [f"{printable(image)} ({seen[image]} and {name})" for name, found in images.items() for image in found
             if seen.setdefault(image, name) != name]
    refuse(twice, "image in two splits", path, "Keep each image in one of train, val and test")
    for name, found in images.items():
        images[name] = list(dict.fromkeys(found))
