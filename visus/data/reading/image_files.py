"""The image files that annotations name: which folder holds them, and whether all are there, within the data folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from visus.core.errors import DataError, printable
from visus.data.samples import counted, listed, spread

_LEADS_OUT = re.compile(r"(?:^|\0)(?:/|~|[A-Za-z]:)|://|(?:^|[\0/])\.\.(?:[\0/]|$)|\\|(?:^|\0)\0|\n")
_PROBES = 32


def plain_names(names: Sequence[str], where: object) -> list[str]:
    """The names, with '/' between folders. Raises DataError for those that lead out of the folder, and addresses."""
    together = "\0".join(names)
    if together.count("\0") != len(names) - 1 or not _is_file_name(together):
        bad = [repr(name) for name in names if "\0" in name or not _is_file_name(name)]
        raise DataError(f"{counted(len(bad), 'name')} that no file can have: {listed(bad)}", where=where,
                        remedy="Give the names of the image files")
    if not _LEADS_OUT.search(together):
        return list(names)
    plain, addresses, outside = [], [], []
    for name in names:
        forward = name.replace("\\", "/")
        plain.append(forward)
        if "://" in name:
            addresses.append(printable(name))
        elif forward.startswith(("/", "~")) or re.match("[A-Za-z]:", forward) or ".." in forward.split("/"):
            outside.append(printable(name))
    if outside:
        raise DataError(f"{counted(len(outside), 'file name')} that lead out of the data folder: {listed(outside)}",
                        where=where, remedy="Give names relative to the folder of images; nothing else is read")
    if addresses:
        raise DataError(f"{counted(len(addresses), 'file name')} that are addresses, not files: {listed(addresses)}",
                        where=where, remedy="Fetch the images first; nothing is downloaded")
    return plain


def find_images(root: str, folders: Sequence[str], names: Sequence[str], where: object) -> list[str]:
    """Paths relative to `root` of the files `names`, which lie in that one of `folders` (relative) that has most.

    Raises DataError: none of the folders has them, or files are missing (with names that differ in case only), are no
    regular files, or are links that lead out of `root`.
    """
    probes = [names[i] for i in spread(len(names), _PROBES)]
    present = [folder for folder in dict.fromkeys(folders) if os.path.isdir(os.path.join(root, folder))]
    hits = [sum(os.path.lexists(os.path.join(root, folder, name)) for name in probes) for folder in present]
    if not any(hits):
        in_other_case = _other_case(root, present, probes[:4])
        hint = f" (there is {in_other_case})" if in_other_case else ""
        raise DataError(f"{counted(len(names), 'image file')} not found, such as {printable(probes[0])}{hint}",
                        where=where, remedy="Looked in " + listed([printable(os.path.join(root, folder)) for folder in
                                                                   present or folders]) + ": put the images there")
    folder = present[hits.index(max(hits))]
    paths = [f"{folder}/{name}" for name in names] if folder else list(names)
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        holder, _, name = path.rpartition("/")
        by_folder.setdefault(holder, []).append(name)
    missing, bad = [], []
    for holder, wanted in by_folder.items():
        lacking, unfit = _check(root, holder, wanted)
        missing += lacking
        bad += unfit
    if missing:
        raise DataError(f"{counted(len(missing), 'image file')} not found: {listed(missing)}", where=where,
                        remedy=f"Names are relative to {printable(os.path.join(root, folder))}")
    if bad:
        raise DataError(f"{counted(len(bad), 'image file')} cannot be used: {listed(bad)}", where=where,
                        remedy="Put the image files themselves into the folder")
    return paths


def _check(root: str, folder: str, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those missing, those unfit), each in words."""
    real_root, place = os.path.realpath(root), os.path.join(root, folder)
    if not _within(place, real_root):
        return [], [f"{printable(folder)} is a link that leads out of {printable(root)}"]
    try:
        with os.scandir(place) as entries:
            there = {entry.name: entry for entry in entries}
    except OSError:
        there = {}
    missing, bad, lower = [], [], None
    for name in wanted:
        entry = there.get(name)
        path = f"{folder}/{name}" if folder else name
        if entry is None:
            if lower is None:
                lower = {other.casefold(): other for other in there}
            near = lower.get(name.casefold())
            missing.append(printable(path) + (f" (did you mean {printable(near)}?)" if near else ""))
        elif entry.is_symlink() and not _within(os.path.join(root, path), real_root):
            bad.append(f"{printable(path)} is a link that leads out of {printable(root)}")
        elif not _is_file(entry):
            bad.append(f"{printable(path)} is no file")
    return missing, bad


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _within(path: str, real_root: str) -> bool:
    real = os.path.realpath(path)
    return os.path.commonpath([real, real_root]) == real_root


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _other_case(root: str, folders: Sequence[str], names: Sequence[str]) -> str | None:
    for folder in folders:
        for name in names:
            holder = os.path.join(root, folder, os.path.dirname(name))
            try:
                others = {other.casefold(): other for other in os.listdir(holder)}
            except OSError:
                continue
            if near := others.get(os.path.basename(name).casefold()):
                return f"did you mean {printable(near)}?"
    return None
