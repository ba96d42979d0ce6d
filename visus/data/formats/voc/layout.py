"""Where the files of a Pascal VOC folder lie: annotations, images, and the lists that say which split is whose."""

from __future__ import annotations

import re
from dataclasses import dataclass

from visus.core.errors import printable
from visus.data.reading.annotation_files import Listing, is_image, joined, refuse, split_folders, stem
from visus.data.samples import SPLITS, natural_order

MAX_LIST = 64 << 20  # bytes
_IMAGE_FOLDERS = ("JPEGImages", "images", "imgs", "PNGImages")


@dataclass(frozen=True)
class VocPart:
    """One folder of VOC's layout: `root` has `annotations` and `images`, all relative; split where the folder says."""

    root: str
    annotations: str
    images: str
    split: str = ""


def voc_parts(listing: Listing) -> list[VocPart]:
    """Where annotations of VOC lie in a folder; none when it is something else."""
    kit = listing.folder("", "VOCdevkit") or ""
    years = [joined(kit, name) for name in listing.folders(kit) if re.fullmatch(r"(?i)voc_?\d{4}.*", name)]
    for roots in ([kit], years):
        found = [part for root in roots if (part := _part(listing, root, "")) is not None]
        if found:
            return found
    inner = [_part(listing, folder, split) for split, folder in split_folders(listing).items()]
    return [part for part in inner if part is not None]


def image_lists(listing: Listing, root: str, kind: str) -> dict[str, list[str]]:
    """{'train': names without extension, ...} of ImageSets/<kind>/*.txt; 'trainval' where there is nothing finer.

    Raises DataError for an image in two splits.
    """
    folder = listing.folder(root, "ImageSets") or ""
    folder = listing.folder(folder, kind) or "" if folder else ""
    files = listing.files(folder) if folder else {}
    lists = {split: _names(listing.text(files[f"{split}.txt"], MAX_LIST))
             for split in (*SPLITS, "trainval", "default") if f"{split}.txt" in files}
    lists = {split: names for split, names in lists.items() if names}
    finer = {name for split in ("train", "val") for name in lists.get(split, ())}
    whole = lists.pop("trainval", [])
    if whole and "train" not in lists:
        lists["train"] = [name for name in whole if name not in finer]
    elif whole and not finer.issuperset(whole):
        lists["train"] = lists["train"] + [name for name in whole if name not in finer]
    rest = lists.pop("default", [])
    if rest and not lists:
        lists[""] = rest
    seen: dict[str, str] = {}
    twice = [f"{printable(name)} ({seen[name]} and {split})" for split, names in lists.items() for name in names
             if seen.setdefault(name, split) != split]
    refuse(twice, "image in two splits", listing.full(folder), "Keep each image in one of the lists")
    return {split: lists[split] for split in (*SPLITS, "") if split in lists}


def class_names(listing: Listing, parts: list[VocPart]) -> list[str]:
    """The classes that classes.txt lists, one a line, in that order; else those that
    ImageSets/Main/<class>_<split>.txt name, in natural order. Empty where there are no such files."""
    for root in dict.fromkeys(["", *(part.root for part in parts)]):
        if "classes.txt" in listing.files(root):
            lines = listing.text(listing.files(root)["classes.txt"], MAX_LIST).splitlines()
            return list(dict.fromkeys(printable(line.strip()) for line in lines if line.strip()))
    found = set()
    for part in parts:
        folder = listing.folder(part.root, "ImageSets")
        folder = listing.folder(folder, "Main") if folder else None
        for name in listing.files(folder) if folder else ():
            match = re.fullmatch(r"(.+)_(train|val|trainval|test)\.txt", name)
            if match:
                found.add(printable(match[1]))
    return natural_order(sorted(found))


def _part(listing: Listing, root: str, split: str) -> VocPart | None:
    annotations = listing.folder(root, "Annotations", "Annotation", "xmls")
    images = listing.folder(root, *_IMAGE_FOLDERS)
    if annotations is not None and any(name.lower().endswith(".xml") for name in listing.files(annotations)):
        return VocPart(root, annotations, root if images is None else images, split)
    files = listing.files(root)
    stems = {stem(name) for name in files if is_image(name)}
    beside = [name for name in files if name.lower().endswith(".xml") and stem(name) in stems]
    return VocPart(root, root, root, split) if beside else None


def _names(text: str) -> list[str]:
    """The file name that each line holds, once, without folders and extension."""
    names: dict[str, None] = {}
    for line in text.splitlines():
        name = line.strip().rsplit("/", 1)[-1]
        if name:
            names[stem(name) if is_image(name) else name] = None
    return list(names)
