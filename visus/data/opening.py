"""From a path or a built-in name to samples: recognise the format, read it, check that it can be learnt from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from visus.core.errors import DataError, did_you_mean
from visus.data.formats import ReadOptions, data_formats
from visus.data.samples import Samples, check_classes


def open_samples(path: str | Path, format: str = "auto", *, image_column: str | None = None,
                 label_column: str | None = None, kept_columns: tuple[str, ...] = (),
                 progress: Callable[[int, int], None] | None = None) -> Samples:
    """Read a classification data set: a folder of class folders, a CSV or TSV, an .npz, IDX files, or a built-in.

    format: 'auto' or a name in `data_formats`. image_column, label_column: columns of a table, found when not given.
    kept_columns: columns of a table that are kept as `Samples.columns`, such as one that names a group of people.
    progress: called with (bytes read, all bytes) while large annotation files are read.

    Raises DataError (no such path, not recognised, unusable: names the file and line) and UserError for an unknown
    format. No image is decoded and nothing is written.
    """
    text = os.fspath(path)
    options = ReadOptions(image_column=image_column, label_column=label_column, kept_columns=kept_columns,
                          progress=progress)
    if (image_column or label_column) and format not in ("auto", "table", "parquet", "hugging_face"):
        raise DataError("columns can only be given for a table", where=f"format={format!r}",
                        remedy="Leave --image-column and --label-column out")
    if format != "auto":
        entry = data_formats.get(format)
        if not os.path.lexists(text) and not entry.build.recognises(text):
            raise _no_such_path(text)
        return _checked(entry.build.read(text, options), text)
    for entry in sorted(data_formats.entries(), key=lambda entry: entry.about.get("last_resort", False)):
        if entry.build.recognises(text):
            return _checked(entry.build.read(text, options), text)
    if not os.path.exists(text):
        raise _no_such_path(text)
    raise DataError("is not data of a known format", where=text, remedy=_remedy(text))


def _checked(samples: Samples, where: str) -> Samples:
    """One class is enough to find objects or regions of; a classifier asks again when it is trained."""
    marked = any(part is not None for part in (samples.objects, samples.label_maps, samples.captions))
    return samples if marked and len(samples) else check_classes(samples, where)


def _no_such_path(text: str) -> DataError:
    if os.path.islink(text):
        return DataError("is a dangling link", where=text, remedy="Give the folder or file itself")
    from visus.data.formats.builtin import BUILTIN

    return DataError("no such file or folder, and no built-in data set of that name", where=text,
                     remedy=did_you_mean(text, sorted(BUILTIN)))


def _remedy(text: str) -> str:
    name = text.lower()
    if name.endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")):
        return "Unpack the archive and give the folder"
    if name.endswith((".npy", ".pt", ".pth", ".pkl", ".mat", ".h5")):
        return "Save the arrays as .npz: numpy.savez('data.npz', images=images, labels=labels)"
    if name.endswith((".jpg", ".jpeg", ".png")):
        return "One image is no data set: give the folder of class folders, or use: visus predict"
    return "Give a folder with one sub-folder of images per class, a CSV (path,label), an .npz or IDX files"
