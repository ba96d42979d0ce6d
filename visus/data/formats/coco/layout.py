"""Which COCO files lie in a folder, of which split each is, and where its images may be."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from visus.data.reading.annotation_files import Listing, joined, stem
from visus.data.samples import SPLIT_NAMES

KINDS = ("instances", "person_keypoints", "captions", "panoptic", "stuff", "image_info")
_HEAD = 1 << 16
_LOOKS = re.compile(r'"images"\s*:\s*\[\s*\{[^{}]*"(file_name|coco_url)"\s*:|'
                    r'"annotations"\s*:\s*\[\s*\{.*?"image_id"\s*:|'
                    r'"categories"\s*:\s*\[\s*\{[^{}]*"supercategory"\s*:', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """One annotation file. name: its path below the data folder. split: as its name says, '' where it does not.
    kind: one of `KINDS`, or ''. folders: where its images may be, below the data folder, the likeliest first."""

    name: str
    split: str
    kind: str
    folders: tuple[str, ...]


def is_coco_file(path: str) -> bool:
    """Whether a regular file begins like COCO's JSON: a list of images, annotations or categories with its keys."""
    try:
        if not path.lower().endswith(".json") or not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
    except (OSError, ValueError):
        return False
    return head.lstrip().startswith("{") and _LOOKS.search(head) is not None


def sources_of_folder(listing: Listing) -> list[Source]:
    """The annotation files of a folder in one of the usual layouts; none where it is something else.

    annotations/*.json beside folders of images; or train/_annotations.coco.json in the folder of each split; or files
    directly in the folder, with no more than one folder, or folders of splits, beside them.
    """
    holder = listing.folder("", "annotations")
    if holder is not None:
        names = [name for name in _json(listing, holder) if _kind(name) or is_coco_file(listing.full(name))]
        if names:
            return [_source(name) for name in names]
    inside = [name for folder in listing.folders() if folder.lower() in SPLIT_NAMES
              for name in _json(listing, folder)
              if name.lower().endswith("coco.json") or is_coco_file(listing.full(name))]
    if inside:
        return [_source(name) for name in inside]
    others = [folder for folder in listing.folders() if folder.lower() not in SPLIT_NAMES]
    if len(others) > 1 and not listing.folder("", "images", "data"):
        return []
    return [_source(name) for name in _json(listing, "")
            if name.lower().endswith("coco.json") or is_coco_file(listing.full(name))]


def place_of_file(path: str) -> tuple[str, Source]:
    """(the data folder of one annotation file, the file in it). A folder 'annotations' lies within the data folder."""
    full = os.path.abspath(path)
    folder, name = os.path.split(full)
    if os.path.basename(folder).lower() == "annotations":
        return os.path.dirname(folder), _source(joined(os.path.basename(folder), name))
    return folder, _source(name)


def _source(name: str) -> Source:
    base, kind = stem(name), _kind(name)
    rest = re.sub(r"^[_\-. ]+", "", base[len(kind):] if kind else base)
    folder = name.rpartition("/")[0]
    split = _split(rest) or (_split(folder) if folder.lower() != "annotations" else "")
    near = [folder, joined(folder, "images")] if folder and folder.lower() != "annotations" else []
    named = [joined(parent, each) for each in dict.fromkeys([rest, *_aliases(split)]) if each
             for parent in ("", "images")]
    return Source(name, split, kind, tuple(dict.fromkeys([*near, *named, "images", "data", "", folder])))


def _aliases(split: str) -> list[str]:
    return [name for name, of in SPLIT_NAMES.items() if split and of == split] + (
        [f"{split}{year}" for year in (2017, 2014)] if split else [])


def _kind(name: str) -> str:
    base = stem(name).lower()
    return next((kind for kind in KINDS if base == kind or base.startswith(kind + "_")), "")


def _split(text: str) -> str:
    words = re.split(r"[^a-z]+", text.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _json(listing: Listing, folder: str) -> list[str]:
    return sorted(path for name, path in listing.files(folder).items() if name.lower().endswith(".json"))
