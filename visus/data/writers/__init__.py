"""Data writers, one file each: a class with `write`, registered at the end of its file.

What they share is here: a folder that appears only when it is whole, names of images, images as the bytes they are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from visus.core.errors import DataError, ResourceError
from visus.core.images import EXTENSIONS
from visus.core.registry import Registry
from visus.data.objects import Objects
from visus.data.samples import Samples

Images = Literal["copy", "link"]
Progress = Callable[[int, int], None]  # (images written, all images)


class DataWriter(Protocol):
    """How samples become a folder that the reader of the same name, and other people's tools, read.

    out: a folder that does not exist yet. images: 'copy' the files, or 'link' them (hard links, which take no room;
    where the disk refuses those, copies). Raises UserError: `out` exists, samples without what the format holds, an
    image that cannot be read, no room on the disk. Nothing is left behind then.
    """

    @staticmethod
    def write(samples: Samples, out: Path, *, images: Images = "copy", progress: Progress | None = None) -> None: ...

    @staticmethod
    def losses(samples: Samples) -> list[str]:
        """What of the samples the format does not hold, counted, in words."""
        ...


writers = Registry("data writer", "visus.data.writers")


@contextmanager
def fresh_folder(samples: Samples, out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its name when the block ends without an error, and else is removed.

    Raises DataError when `out` exists or lies within the folder of the samples, ResourceError when the disk refuses.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise DataError("exists already", where=out, remedy="Give a folder that does not exist: nothing is overwritten")
    root = samples.root if samples.paths is not None and samples.format != "table" else None
    if root is not None and out.resolve().is_relative_to(Path(root).resolve()):
        raise DataError(f"lies within the data that are read ({root})", where=out,
                        remedy="Give a folder elsewhere: a data folder is never changed")
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:80]}.", suffix=".part")
        yield Path(temporary)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o777 & ~mask)
        os.rename(temporary, out)
        temporary = None
    except OSError as error:
        raise ResourceError(f"could not be written: {error.strerror or error}", where=out,
                            remedy="Free some space or choose another folder; nothing was left behind") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_new(path: Path, data: bytes) -> None:
    """A file that must not exist, and its folder when it does not. Raises OSError, which `fresh_folder` explains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def image_names(samples: Samples) -> list[str]:
    """N names for the images, distinct within a split whatever the case of letters, with '/' between folders.

    The samples' own names without the folders that all of a split share; numbers for images in memory.
    """
    if samples.paths is None:
        digits = max(6, len(str(len(samples))))
        return [f"{i:0{digits}}.png" for i in range(len(samples))]
    names = [""] * len(samples)
    for split in np.unique(samples.split):
        chosen = np.flatnonzero(samples.split == split).tolist()
        parts = [_parts(samples.paths[i]) for i in chosen]
        shared = _shared(parts)
        taken: set[str] = set()
        for i, own in zip(chosen, parts, strict=True):
            names[i] = _distinct("/".join(own[shared:]), taken)
    return names


def has_own_numbers(samples: Samples) -> bool:
    """Whether the classes have numbers other than 0, 1, 2, ... and 1, 2, 3, ..."""
    count = len(samples.classes)
    return samples.category_ids not in (None, tuple(range(count)), tuple(range(1, count + 1)))


def required_objects(samples: Samples, format: str) -> Objects:
    """The objects of the samples. Raises DataError where there are none, naming the `format` that holds them."""
    if samples.objects is None:
        raise DataError(f"has no boxes: {format} holds objects in images", where=samples.root or samples.format,
                        remedy="Classes alone go to class folders or shards (--to folder, --to shards); maps of labels "
                               "have no writer yet")
    return samples.objects


def beside_objects(samples: Samples, numbers: str) -> list[tuple[int, str, str]]:
    """(count, noun, what becomes of them) of what formats for objects lack. numbers: why those of the classes go."""
    maps = 0 if samples.label_maps is None else sum(map(bool, samples.label_maps.paths))
    captions = 0 if samples.captions is None else sum(map(len, samples.captions))
    own = len(samples.classes) if has_own_numbers(samples) else 0
    return [(maps, "map", "of labels left out"), (captions, "caption", "left out"),
            (own, "number", f"of classes left out: {numbers}")]


def write_image(samples: Samples, i: int, path: Path, images: Images = "copy") -> None:
    """Image i of the samples as the file `path`, which must not exist: its bytes unchanged, or PNG of an array.

    Raises ImageError naming an image that cannot be read, OSError as `write_new`.
    """
    if samples.images is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            Image.fromarray(samples.images[i].squeeze(-1) if samples.images.shape[-1] == 1 else samples.images[i]
                            ).save(file, format="PNG")
        return
    if samples.encoded is not None:
        write_new(path, samples.encoded[i])
        return
    copy_file(samples.path(i), path, images)


def copy_file(source: str, path: Path, images: Images = "copy") -> None:
    """The file `source` as the new file `path`. Raises DataError when `source` is not a file that can be read."""
    if not os.path.isfile(source):
        raise DataError("is not there any more" if not os.path.lexists(source) else "is not a file", where=source,
                        remedy="Put it back, or open the data again")
    path.parent.mkdir(parents=True, exist_ok=True)
    if images == "link":
        try:
            os.link(os.path.realpath(source), path)
            return
        except OSError:  # another disk, or one without hard links
            pass
    try:
        reading = open(source, "rb")  # noqa: SIM115 (told apart from errors of writing)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=source, remedy="Check the permissions") from error
    with reading, open(path, "xb") as file:
        shutil.copyfileobj(reading, file, 1 << 20)


def _parts(name: str) -> list[str]:
    """The folders and the file of a path, without what leads upwards, hides or could be read as something else."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["image"]
    return ["_" + part if part.startswith((".", "~", "-")) else part for part in parts]


def _shared(parts: Sequence[list[str]]) -> int:
    """How many leading folders all of them share."""
    shortest, longest = min(parts), max(parts)
    count = 0
    while count < min(len(shortest), len(longest)) - 1 and shortest[count] == longest[count]:
        count += 1
    return min(count, min(len(part) for part in parts) - 1)


def _distinct(name: str, taken: set[str]) -> str:
    stem, extension = os.path.splitext(name)
    if extension.lower() not in EXTENSIONS:
        stem, extension = name, ""
    new, count = name, 1
    while new.casefold() in taken:
        count += 1
        new = f"{stem}_{count}{extension}"
    taken.add(new.casefold())
    return new
