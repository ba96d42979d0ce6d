"""Images that belong together on both sides of a split: one patient, one scene, one burst of a camera.

They are not equal, and yet who has learnt one knows the other. Three signs, each of them for the images of val and test
that have a partner in train:
  the same value of the groups that the data give;
  a file name that says so: the same distinctive name (eight digits in a row) in two splits, or a name that is a common
  stem and a running number (scan17_3), where there are at least three times as many stems as classes and at most a
  fifth of the images in one: so that numbering which begins anew in each folder is no sign. The same stem in two
  folders of classes is two things;
  the same camera within 2 seconds, by EXIF.
A warning, for names and times above 1 % of the split, below that a note. Source: reliability.md A2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, pair_named, show
from visus.doctor.images.pixels import pixels_of
from visus.doctor.thresholds import limit

_DISTINCTIVE = re.compile(r"[1-9][0-9]{7}|[0-9a-f]{16}", re.I)
_COPY = re.compile(r"([ _-]*(\(\d+\)|copy|kopie|aug\d*|flip(ped)?|rot(ated)?\d*|crop(ped)?\d*|small|large))+$", re.I)
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
_LAST_NUMBER = re.compile(r"[_\-. ]+[a-z]{0,8}[_\-. ]?[0-9]{1,6}$", re.I)


def group_leak(images: ImageSet) -> Iterator[Finding]:
    if images.groups is not None:
        yield from _shared(images, np.unique(images.groups, return_inverse=True)[1].reshape(-1), "group",
                           "share a group", 0.0, "Give each group one split: data.groups does when it makes the splits")
    keys = stems(images)
    if keys is not None:
        yield from _shared(images, keys, "file stem", "share the stem of their file name", limit("group-leak.share"),
                           "If the stem names a patient, scene or recording, give it as the group column and let the "
                           "splits be made by group")
    if images.about is not None:
        pixels = pixels_of(images)
        bursts = np.full(len(images), -1)
        bursts[pixels.index] = _bursts(pixels.taken, pixels.camera)
        yield from _shared(images, bursts, "burst", "were taken within seconds of each other",
                           limit("group-leak.share"), "Give the shots of one burst a common group")


def stems(images: ImageSet) -> np.ndarray | None:
    """int64 [N]: the same number for names that say that the images belong together, -1 where a name says nothing;
    None when no name does."""
    names = [_COPY.sub("", os.path.splitext(source.replace("\\", "/").rsplit("/", 1)[-1])[0])
             for source in images.sources]
    whole = [name if _DISTINCTIVE.search(name) else "" for name in names]
    prefix = [_LAST_NUMBER.sub("", name) if _LAST_NUMBER.search(name) else "" for name in names]
    folders = [os.path.basename(os.path.dirname(source.replace("\\", "/"))) for source in images.sources]
    folders = ["" if folder in _SPLITS else folder for folder in folders]
    for keys in (prefix, whole):
        told = np.array([key != "" for key in keys])
        both = [f"{folder}/{key}" for folder, key in zip(folders, keys, strict=True)]
        code, counts = np.unique(np.array(both), return_inverse=True, return_counts=True)[1:]
        code = code.reshape(-1)
        several = told & (counts[code] > 1)
        groups = len(np.unique(code[several]))
        if groups < limit("group-leak.stems_per_class") * max(len(images.classes), 1):
            continue
        if np.bincount(code[told]).max() > limit("group-leak.largest") * len(names):
            continue
        return np.where(several, code, -1)
    return None


def _bursts(taken: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """int64 [n]: the same number for shots of one camera of which each follows the last within 2 s; -1 elsewhere."""
    known = np.flatnonzero(np.isfinite(taken) & (camera != ""))
    burst = np.full(len(taken), -1)
    order = known[np.lexsort((taken[known], camera[known]))]
    if len(order) < 2:
        return burst
    apart = (camera[order][1:] != camera[order][:-1]) | (np.diff(taken[order]) > limit("group-leak.seconds"))
    number = np.concatenate([[0], np.cumsum(apart)])
    several = np.bincount(number)[number] > 1
    burst[order[several]] = number[several]
    return burst


def _shared(images: ImageSet, keys: np.ndarray, what: str, words: str, bound: float, remedy: str) -> Iterator[Finding]:
    """keys: int64 [N], -1 for none."""
    train = np.flatnonzero((images.split == "train") & (keys >= 0))
    partner = np.full(int(keys.max(initial=-1)) + 1, -1)
    partner[keys[train]] = train
    for name, places in images.splits().items():
        held = places[keys[places] >= 0]
        held = held[partner[keys[held]] >= 0]
        if name in ("train", "") or not len(held):
            continue
        share = len(held) / len(places)
        pairs = [(int(i), int(partner[keys[i]])) for i in held]
        show(images, "group-leak", (Exhibit(pair, f"same {what}: {name} and train") for pair in pairs))
        yield Finding(
            check="group-leak", severity="warning" if share > bound else "note",
            title=f"{len(held):,} {name} images and images of train {words} ({100 * share:.3g} % of {name})",
            evidence=f"{len(np.unique(keys[held])):,} different ones, bound {100 * bound:g} % of {name}: "
                     + pair_named(images, pairs), remedy=remedy)


add(group_leak, "group-leak", stage="images", rank=2,
    rule="a group, a distinctive file stem or a burst of one camera within 2 s lies in train and in another split",
    cost="EXIF data of each file, read while it is decoded", course="1.02")
