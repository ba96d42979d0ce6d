"""Folders of annotation files: what lies in them, listed once; small files read within limits; faults in one error.

Nothing outside the folder is read: links that lead out of it, pipes and devices are never opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from visus.core.errors import DataError, did_you_mean, printable
from visus.core.images import EXTENSIONS
from visus.data.samples import SPLIT_NAMES, counted, listed, natural_order


@dataclass
class Listing:
    """What lies below the folder `path`. Each folder is listed once, without a stat per file.

    Names are relative to the folder, with '/'. Hidden files are passed over. bad_links: those not followed, in words.
    """

    path: str
    bad_links: list[str] = field(default_factory=list)
    _seen: dict[str, tuple[list[str], dict[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = os.path.realpath(self.path)

    def full(self, name: str) -> str:
        return os.path.join(self.root, name)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in `folder`, in natural order; none when there is no such folder."""
        return self._list(folder)[0]

    def files(self, folder: str = "") -> dict[str, str]:
        """File name -> its path, of the files directly in `folder`; none when there is no such folder."""
        return self._list(folder)[1]

    def below(self, folder: str, extensions: Iterable[str] = EXTENSIONS) -> list[str]:
        """Paths of the files with one of `extensions` (lower case, with the dot) in `folder`, at any depth, sorted."""
        wanted, found, waiting = tuple(extensions), [], [folder]
        while waiting:
            current = waiting.pop()
            folders, files = self._list(current)
            found += [path for name, path in files.items() if os.path.splitext(name)[1].lower() in wanted]
            waiting += [joined(current, name) for name in folders]
        return sorted(found)

    def folder(self, parent: str, *names: str) -> str | None:
        """The path of the first folder in `parent` with one of `names`, whatever the case of letters; or None."""
        here = {name.lower(): name for name in reversed(self.folders(parent))}
        return next((joined(parent, here[name.lower()]) for name in names if name.lower() in here), None)

    def holds(self, name: str) -> bool:
        """Whether the file `name` is there, below the folder."""
        folder, base = os.path.split(name)
        return base in self.files(folder)

    def bytes(self, name: str, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises DataError naming it."""
        return read_bytes(self.full(name), limit)

    def text(self, name: str, limit: int) -> str:
        """The same in UTF-8, with or without a mark at its beginning."""
        return as_text(self.bytes(name, limit), self.full(name))

    def refuse_bad_links(self) -> None:
        if self.bad_links:
            raise DataError(f"{counted(len(self.bad_links), 'link')} not followed: {listed(self.bad_links)}",
                            where=self.path, remedy="Copy the files into the folder")

    def _list(self, folder: str) -> tuple[list[str], dict[str, str]]:
        if folder not in self._seen:
            folders: list[str] = []
            files: dict[str, str] = {}
            full = self.full(folder)
            try:
                if _inside(os.path.realpath(full), self.root):
                    with os.scandir(full) as entries:
                        for entry in entries:
                            self._sort(entry, folder, folders, files)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise DataError(f"cannot be listed: {error.strerror}", where=full,
                                remedy="Check the permissions") from error
            except ValueError as error:  # a zero byte in the name
                raise DataError("is not a possible file name", where=full, remedy="Rename it") from error
            self._seen[folder] = natural_order(folders), files
        return self._seen[folder]

    def _sort(self, entry: os.DirEntry[str], folder: str, folders: list[str], files: dict[str, str]) -> None:
        name = entry.name
        if name.startswith(".") or name == "__MACOSX":
            return
        path = joined(folder, name)
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not _inside(target, self.root):
                self.bad_links.append(f"{printable(path)} leads out of the folder to {printable(target)}")
                return
            if _inside(os.path.realpath(self.full(folder)), target):
                self.bad_links.append(f"{printable(path)} leads back to a folder above it")
                return
        try:
            if entry.is_dir():
                folders.append(name)
            elif entry.is_file():
                files[name] = path
        except OSError:  # a link that leads back to itself
            self.bad_links.append(f"{printable(path)} leads back to itself")


def joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def stem(path: str) -> str:
    """The file's name without folders and extension."""
    return os.path.splitext(path.rsplit("/", 1)[-1])[0]


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def split_folders(listing: Listing, parent: str = "") -> dict[str, str]:
    """{'train': path, ...} of the folders in `parent` that are named as splits are; the first of each."""
    found: dict[str, str] = {}
    for name in listing.folders(parent):
        split = SPLIT_NAMES.get(name.lower())
        if split is not None:
            found.setdefault(split, joined(parent, name))
    return {split: found[split] for split in dict.fromkeys(SPLIT_NAMES.values()) if split in found}


def by_stem(paths: Iterable[str], where: str) -> dict[str, str]:
    """Name without extension -> path. Raises DataError where two images of one folder differ in extension only."""
    found: dict[str, str] = {}
    twice = []
    for path in paths:
        name = os.path.splitext(path)[0]
        if found.setdefault(name, path) != path:
            twice.append(f"{printable(found[name])} and {printable(path)}")
    refuse(twice, "pair of images that share one name", where, "Rename one of the two, and its annotation")
    return found


def distinct_stems(names: Iterable[str]) -> list[str]:
    """The names, changed where two would differ in their extension or in the case of letters alone."""
    taken: set[str] = set()
    distinct = []
    for name in names:
        start, extension = os.path.splitext(name)
        new, count = start, 1
        while new.casefold() in taken:
            count += 1
            new = f"{start}_{count}"
        taken.add(new.casefold())
        distinct.append(new + extension)
    return distinct


def refuse(problems: Sequence[str], noun: str, where: object, remedy: str) -> None:
    """Raise one DataError for all `problems`, if there are any: how many, and the first ten of them.

    noun: what each of them is; its first word is the one that is counted.
    """
    if problems:
        shown = "; ".join(problems[:10]) + (f" and {len(problems) - 10:,} more" if len(problems) > 10 else "")
        first, space, rest = noun.partition(" ")
        raise DataError(f"{counted(len(problems), first)}{space}{rest}: {shown}", where=where, remedy=remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    return did_you_mean(printable(name), known)


def read_bytes(path: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; nothing else is opened. Raises DataError naming it."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise DataError("is not a regular file", where=path, remedy="Remove it from the data")
            data = os.read(handle, min(about.st_size, limit) + 1)
            while 0 < len(data) <= min(about.st_size, limit):
                more = os.read(handle, min(about.st_size, limit) + 1 - len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(handle)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path,
                        remedy="Check the path and the permissions") from error
    except ValueError as error:  # a zero byte in the name
        raise DataError("is not a possible file name", where=path, remedy="Rename it") from error
    if len(data) > limit:
        raise DataError(f"is larger than the limit of {_amount(limit)} for such a file", where=path,
                        remedy="Check that it is what its name says")
    return data


def as_text(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"is not text in UTF-8 (byte {data[error.start]:#04x})", where=f"{where}:{line}",
                        remedy="Save the file in UTF-8") from error
    if "\0" in text:
        raise DataError("holds a zero byte: it is not a text file", where=where, remedy="Save the file in UTF-8")
    return text


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _amount(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
