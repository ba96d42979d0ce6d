"""Class folders: `root/cat/*.jpg`, or `root/train/cat/*.jpg` with `val` and `test` beside `train`."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from visus.core.errors import DataError, printable
from visus.core.images import EXTENSIONS, looks_like_image
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import SPLIT_NAMES, Samples, counted, listed, natural_order

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "ehthumbs.db"}


class Folder:
    """A folder of class folders. Images may lie deeper inside a class folder."""

    @staticmethod
    def recognises(path: str) -> bool:
        return os.path.isdir(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError: no class folders, classes that differ in case only or between splits, links out of it."""
        walk = _Walk(os.path.realpath(path))
        folders, loose = walk.children("")
        splits = _split_folders(path, walk, folders)
        if splits is None:
            found = {"": _class_images(walk, folders, "")}
        else:
            found = {split: _class_images(walk, walk.children(name)[0], name) for split, name in splits.items()}
        walk.refuse_bad_links(path)
        notes = list(walk.notes())
        if splits is not None:
            for split, name in splits.items():
                direct = walk.children(name)[1]
                if not found[split] and direct and split != "train":
                    notes.append(f"{name}/ holds {counted(len(direct), 'image')} without class folders: not used")
                    del found[split]
        first = next(iter(found))
        if loose and found[first]:
            notes.append(f"{counted(len(loose), 'image')} beside the class folders not used")
        classes = _classes(path, found, splits, len(loose))
        for split, images in found.items():
            empty = [c for c in classes if not images[c]]
            if empty and split in ("", "train"):
                raise DataError(f"no images in class folder {listed([repr(printable(c)) for c in empty])}", where=path,
                                remedy="Put images into it or remove the folder")
            if empty:
                notes.append(f"no {split} images of {listed([printable(c) for c in empty])}")
        paths, targets, split_of = [], [], []
        for split, images in found.items():
            for label, name in enumerate(classes):
                paths += images[name]
                targets += [label] * len(images[name])
                split_of += [split] * len(images[name])
        return Samples(format="folder", classes=tuple(printable(c) for c in classes), paths=tuple(paths),
                       targets=np.array(targets, np.int64), split=np.array(split_of, "<U5"), root=walk.root,
                       notes=tuple(notes))


@dataclass
class _Walk:
    """Lists folders by scandir, without a stat per file, and remembers what it leaves out."""

    root: str
    ignored: Counter[str] = field(default_factory=Counter)
    bad_links: list[str] = field(default_factory=list)
    image_named_folders: list[str] = field(default_factory=list)
    _listed: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        """(names of sub-folders, relative paths of images) directly in `folder`, which is relative to the root."""
        if folder not in self._listed:
            folders: list[str] = []
            images: list[str] = []
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    for entry in entries:
                        self._sort(entry, os.path.join(folder, entry.name), folders, images)
            except OSError as error:
                raise DataError(f"cannot be listed: {error.strerror}", where=os.path.join(self.root, folder),
                                remedy="Check the permissions") from error
            self._listed[folder] = (natural_order(folders), sorted(images))
        return self._listed[folder]

    def _sort(self, entry: os.DirEntry, path: str, folders: list[str], images: list[str]) -> None:
        name = entry.name
        if name.lower() in _SYSTEM_FILES:
            self.ignored[name] += 1
            return
        if name.startswith("."):
            self.ignored["hidden"] += 1
            return
        extension = os.path.splitext(name)[1].lower()
        if entry.is_symlink() and not self._link_stays_inside(path):
            return
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads back to itself
            is_folder = False
        if is_folder:
            if extension in EXTENSIONS:
                self.image_named_folders.append(path)
            folders.append(name)
        elif extension in EXTENSIONS or (not extension and looks_like_image(os.path.join(self.root, path))):
            images.append(path)
        else:
            self.ignored[extension or "no extension"] += 1

    def _link_stays_inside(self, path: str) -> bool:
        target = os.path.realpath(os.path.join(self.root, path))
        holder = os.path.realpath(os.path.dirname(os.path.join(self.root, path)))
        if os.path.commonpath([target, self.root]) != self.root:
            self.bad_links.append(f"{printable(path)} leads out of the folder to {printable(target)}")
            return False
        if os.path.isdir(target) and os.path.commonpath([holder, target]) == target:
            self.bad_links.append(f"{printable(path)} leads back to a folder above it")
            return False
        return True

    def below(self, folder: str) -> list[str]:
        """Relative paths of all images in `folder` at any depth, in order."""
        images, waiting = [], [folder]
        while waiting:
            current = waiting.pop()
            folders, here = self.children(current)
            images += here
            waiting += [os.path.join(current, f) for f in reversed(folders)]
        return images

    def refuse_bad_links(self, path: str) -> None:
        if self.bad_links:
            raise DataError(f"{counted(len(self.bad_links), 'link')} not followed: {listed(self.bad_links)}",
                            where=path, remedy="Copy the files into the folder, or list them in a CSV (path,label)")

    def notes(self) -> list[str]:
        notes = []
        if self.ignored:
            kinds = ", ".join(f"{printable(k)} {n:,}" for k, n in sorted(self.ignored.items()))
            notes.append(f"ignored: {counted(sum(self.ignored.values()), 'file')} ({kinds})")
        if self.image_named_folders:
            notes.append("folders named like images: " + listed([printable(p) for p in self.image_named_folders]))
        return notes


def _split_folders(path: str, walk: _Walk, folders: list[str]) -> dict[str, str] | None:
    """{'train': folder name, ...} when the top folders are splits, None when they are classes."""
    named = [f for f in folders if f.lower() in SPLIT_NAMES]
    others = [f for f in folders if f.lower() not in SPLIT_NAMES]
    roles = Counter(SPLIT_NAMES[f.lower()] for f in named)
    if "train" not in roles or (not any(walk.children(f)[0] for f in named)):
        return None
    if others and len(named) == 1:  # a class that is called train, beside others
        return None
    twice = [role for role, count in roles.items() if count > 1]
    if twice or others:
        problem = (f"two folders for one split: {listed([f for f in named if SPLIT_NAMES[f.lower()] == twice[0]])}"
                   if twice else f"split folders ({listed(named)}) lie beside others ({listed(others)})")
        raise DataError(problem, where=path, remedy="Keep train, val and test only, with class folders inside")
    return {SPLIT_NAMES[f.lower()]: f for f in sorted(named, key=lambda f: list(SPLIT_NAMES).index(f.lower()))}


def _class_images(walk: _Walk, folders: list[str], parent: str) -> dict[str, list[str]]:
    return {name: walk.below(os.path.join(parent, name)) for name in folders}


def _classes(path: str, found: dict[str, dict[str, list[str]]], splits: dict[str, str] | None,
             loose: int) -> list[str]:
    first = "train" if splits is not None else ""
    classes = list(found[first])
    if not classes:
        if loose:
            raise DataError(f"{counted(loose, 'image')} lie directly in it, there are no class folders", where=path,
                            remedy="Put the images of each class into a folder of its own, or give a CSV (path,label)")
        raise DataError("holds no class folders and no images", where=path,
                        remedy="Give a folder with one sub-folder of images per class, a CSV or an .npz")
    if not any(any(images.values()) for images in found.values()):
        raise DataError(f"holds no images in {counted(len(classes), 'folder')}", where=path,
                        remedy="Known image files: " + ", ".join(sorted(EXTENSIONS)))
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    clashes = [" and ".join(printable(n) for n in names) for names in same.values() if len(names) > 1]
    if clashes:
        raise DataError(f"class folders that differ in case only: {listed(clashes)}", where=path,
                        remedy="Merge or rename them")
    for split, images in found.items():
        missing, extra = sorted(set(classes) - set(images)), sorted(set(images) - set(classes))
        if missing or extra:
            lines = [f"- {printable(n)}" for n in missing] + [f"+ {printable(n)}" for n in extra]
            raise DataError(f"{splits[split] if splits else split}/ has other class folders than train/ "
                            f"(- missing, + only there): {listed(lines)}", where=path,
                            remedy="Give all splits the same class folders (they may be empty in val and test)")
    return classes


data_formats.add(Folder, {"folder": {}}, last_resort=True)
