"""Class folders: class/image, or train/class/image with val and test beside train."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.samples import SPLITS, Samples, counted, listed, natural_order
from visus.data.writers import Images, Progress, fresh_folder, image_names, write_image, writers


class FolderWriter:
    """For one class per image."""

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None:
        """Raises DataError for images of no class or of several, images without a split among others with one, class
        names that make no distinct folders; and as `fresh_folder`."""
        targets = _one_class_each(samples)
        folders = _folder_names(samples)
        unsplit = int((samples.split == "").sum())
        if 0 < unsplit < len(samples):
            raise DataError(f"{counted(unsplit, 'image')} of {len(samples):,} belong to no split",
                            where=samples.root or samples.format,
                            remedy="Class folders hold either splits or none: give all of them one, or take them out")
        names = image_names(samples)
        with fresh_folder(samples, out) as folder:
            for split in [s for s in (*SPLITS, "") if (samples.split == s).any()]:
                for name in folders:
                    (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(names):
                place = folder / str(samples.split[i]) / folders[targets[i]] / _without_class(name, folders[targets[i]])
                write_image(samples, i, place, images)
                if progress is not None:
                    progress(i + 1, len(samples))

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples class folders do not hold, in words."""
        notes = annotation_losses(samples)
        pairs = zip(samples.classes, _folder_names(samples), strict=True)
        changed = [f"{printable(name)} as {folder}" for name, folder in pairs if name != folder]
        if changed:
            notes.append(f"classes renamed for the disk: {listed(changed)}")
        if natural_order(list(samples.classes)) != list(samples.classes):
            notes.append("the order of the classes is that of their names")
        return notes


def annotation_losses(samples: Samples) -> list[str]:
    """What is beside one class per image, counted in words."""
    objects, maps = samples.objects, samples.label_maps
    found = [(0 if objects is None else len(objects), "object"),
             (0 if maps is None else sum(map(bool, maps.paths)), "map"),
             (0 if samples.captions is None else sum(map(len, samples.captions)), "caption")]
    return [f"{counted(count, noun)}{' of labels' if noun == 'map' else ''} left out" for count, noun in found if count]


def _one_class_each(samples: Samples) -> np.ndarray:
    if not samples.multi_label:
        return samples.targets
    wrong = np.flatnonzero(samples.targets.sum(1) != 1)
    if len(wrong):
        names = [printable(samples.source(int(i))) for i in wrong]
        raise DataError(f"{counted(len(wrong), 'image')} with no class or with several: {listed(names, 3)}",
                        where=samples.root or samples.format,
                        remedy="Class folders hold one class per image: use coco, yolo, voc or shards")
    return samples.targets.argmax(1)


def _folder_names(samples: Samples) -> list[str]:
    names = [re.sub(r"[\x00-\x1f/\\:*?\"<>|\ud800-\udfff]", "_", name).strip(" .") or "_" for name in samples.classes]
    names = ["_" + name if name.startswith(("~", "-")) else name for name in names]
    if len({name.casefold() for name in names}) < len(names):
        raise DataError("two classes would have one folder", where=samples.root or samples.format,
                        remedy="Rename the classes so that they differ in more than case and signs")
    return names


def _without_class(name: str, folder: str) -> str:
    """The name without the folders up to one that is called as the class: cat/1.png -> 1.png in cat."""
    parts = name.split("/")
    return "/".join(parts[parts.index(folder) + 1:]) if folder in parts[:-1] else name


writers.add(FolderWriter, {"folder": {}})
