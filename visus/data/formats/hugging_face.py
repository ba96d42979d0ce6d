"""Hugging Face data sets that are on this disk: a folder of `save_to_disk`, or `hf:NAME` from the caches.

Read from their Arrow and Parquet files. The package `datasets` is not needed, nothing is fetched and no script of a
data set is run. `hf:org/name:config` picks a configuration; HF_DATASETS_CACHE, HF_HUB_CACHE and HF_HOME say where the
caches are, as for `datasets` itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visus.core.errors import DataError, ImageError, did_you_mean, printable
from visus.core.files import read_json
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.arrow import MAX_ROWS, Picked, guarded, import_arrow, pick
from visus.data.formats.parquet import image_bytes, read_parquet, table_samples
from visus.data.reading.holders import Kept, holder_names, is_regular, refuse_links_out, splits_of, stamp
from visus.data.samples import SPLIT_NAMES, Samples, listed, natural_order

PREFIX = "hf:"
_JSON_BYTES = 64 << 20
_columns = Kept(16)


@dataclass(frozen=True, eq=False)
class ArrowImages:
    """N images by row. files: absolute names; starts: int64 [files + 1], the first row of each; rows: int64 [N]."""

    files: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    column: str
    starts: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError when the file changed or the cell is empty."""
        row = int(self.rows[i])
        number = int(np.searchsorted(self.starts, row, "right")) - 1
        file, at = self.files[number], row - int(self.starts[number])
        with guarded(file, ImageError):
            key = (file, self.stamps[number], self.column)
            value = _columns.of(key, lambda: _column(file, self.stamps[number], self.column))[at].as_py()
        return image_bytes(value, f"{file}: row {at}")

    def take(self, indices: np.ndarray) -> ArrowImages:
        return replace(self, rows=self.rows[indices])


class HuggingFace:
    """`hf:NAME`, or a folder with `dataset_dict.json`, or with `state.json` and its .arrow files."""

    @staticmethod
    def recognises(path: str) -> bool:
        if path.startswith(PREFIX):
            return not os.path.lexists(path)
        return is_regular(os.path.join(path, "dataset_dict.json")) or _is_saved(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        """Raises DataError naming the file and row, or the names that the caches hold; MissingExtra without pyarrow."""
        if path.startswith(PREFIX) and not os.path.lexists(path):
            return _read_cached(path, options)
        if _is_saved(path):
            return _read_arrow(os.path.abspath(path), _saved_files(path, ""), [], options, path)
        record = os.path.join(path, "dataset_dict.json")
        splits = _json(record).get("splits")
        if not isinstance(splits, list) or not splits or not all(isinstance(s, str) and _is_plain(s) for s in splits):
            raise DataError("names no splits", where=record, remedy="Save the data set again: save_to_disk")
        missing = [s for s in splits if not _is_saved(os.path.join(path, s))]
        if missing:
            raise DataError(f"the folder of split {listed([repr(s) for s in missing])} is not there or not whole",
                            where=path, remedy="Copy the whole folder")
        names = [name for split in splits for name in _saved_files(path, split)]
        notes = []
        foreign = [s for s in splits if not any(p in SPLIT_NAMES for p in re.split(r"[-_.]", s.lower()))]
        if foreign:
            notes.append(f"splits of another name: {listed([printable(s) for s in foreign])}")
        return _read_arrow(os.path.abspath(path), names, notes, options, path)


def _is_saved(folder: str) -> bool:
    return is_regular(os.path.join(folder, "state.json")) and is_regular(os.path.join(folder, "dataset_info.json"))


def _saved_files(path: str, split: str) -> list[str]:
    """Names relative to `path` of the .arrow files that state.json of the folder `split` lists."""
    record = os.path.join(path, split, "state.json")
    state = _json(record)
    if state.get("_indices_data_files"):
        raise DataError("is a selection that was saved with its indices", where=record,
                        remedy="Save it again: data_set.flatten_indices().save_to_disk(...)")
    files = state.get("_data_files")
    names = [f.get("filename") for f in files if isinstance(f, dict)] if isinstance(files, list) else []
    if not names or not all(isinstance(n, str) and _is_plain(n) for n in names):
        raise DataError("names no data files, or files elsewhere", where=record,
                        remedy="Save the data set again: save_to_disk")
    here = [os.path.join(split, str(name)) for name in names]
    missing = [name for name in here if not is_regular(os.path.join(path, name))]
    if missing:
        raise DataError(f"lists {listed([repr(printable(n)) for n in missing])}, which is not there", where=record,
                        remedy="Copy the whole folder")
    refuse_links_out(path, here)
    return here


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and "\0" not in name and name not in (".", "..")


def _json(path: str) -> dict[str, Any]:
    found = read_json(path, error=DataError, max_bytes=_JSON_BYTES)
    if not isinstance(found, dict):
        raise DataError("holds no JSON object", where=path, remedy="Save the data set again: save_to_disk")
    return found


def _read_arrow(root: str, names: list[str], notes: list[str], options: ReadOptions, where: str,
                given: list[str] | None = None) -> Samples:
    """The rows of the Arrow stream files `names` in `root`."""
    files = [os.path.join(root, name) for name in names]
    stamps = tuple(stamp(file) for file in files)
    parts: list[Any] = []
    picked: Picked | None = None
    for file in files:
        with guarded(file):
            table = _table(file)
            here = pick(file, table.schema, options)
            if picked is not None and here != picked:
                raise DataError("has other columns or class names than the first file", where=file,
                                remedy="Keep files of one data set in a folder")
            picked = here
            if table.num_rows > MAX_ROWS:
                raise DataError(f"claims {table.num_rows:,} rows", where=file, remedy="Divide it into smaller files")
            table.column(picked.image).validate(full=True)
            part = table.select(picked.small)
            part.validate(full=True)
            parts.append(part)
    assert picked is not None
    starts = np.cumsum([0] + [part.num_rows for part in parts])
    if not starts[-1]:
        raise DataError("holds no rows", where=where, remedy="Add one row per image")
    with guarded(where):
        small = import_arrow("").concat_tables(parts)
    encoded = ArrowImages(tuple(files), stamps, picked.image, starts, np.arange(starts[-1]))
    splits = given if given is not None else splits_of([os.path.dirname(name) or name for name in names], notes)
    return table_samples("hugging_face", where, root, names, starts, small, picked, encoded,
                         np.repeat(splits, np.diff(starts)), notes)


def _table(file: str) -> Any:
    """The whole file, mapped and not read."""
    arrow, ipc = import_arrow(""), import_arrow("ipc")
    with arrow.memory_map(file) as source, ipc.open_stream(source) as reader:
        return reader.read_all()


def _column(file: str, expected: tuple[int, int], column: str) -> Any:
    if not is_regular(file) or stamp(file) != expected:
        raise ImageError("has changed since it was indexed", where=file, remedy="Start again")
    found = _table(file).column(column)
    found.validate(full=True)
    return found


# -- the caches --------------------------------------------------------------------------------------------------


def _read_cached(path: str, options: ReadOptions) -> Samples:
    name, _, config = path[len(PREFIX):].partition(":")
    found = _in_datasets_cache(name, config, path)
    if found is not None:
        folder, notes = found
        names = [n for n in natural_order(os.listdir(folder)) if n.endswith(".arrow") and
                 not n.startswith(("cache-", "tmp")) and is_regular(os.path.join(folder, n))]
        refuse_links_out(folder, names)
        prefix = os.path.commonprefix(names) if len(names) > 1 else re.split(r"[^-]*\.arrow$", names[0])[0]
        cut = prefix.rfind("-") + 1
        return _read_arrow(folder, names, notes, options, path, splits_of([n[cut:] for n in names], notes))
    snapshot = _in_hub_cache(name)
    if snapshot is not None:
        names = [n for n in holder_names(snapshot, (".parquet",)) if not config or config in re.split(r"[/\\]", n)]
        if names:
            refuse_links_out(snapshot, names, within=os.path.dirname(os.path.dirname(snapshot)))
            return read_parquet(snapshot, names, options, where=path, format="hugging_face")
    raise DataError("is not in the caches of Hugging Face on this machine", where=path,
                    remedy=_cached_hint(name))


def _home() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("HF_HOME") or os.path.join(base, "huggingface")


def datasets_cache() -> str:
    return os.environ.get("HF_DATASETS_CACHE") or os.path.join(_home(), "datasets")


def hub_cache() -> str:
    return (os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
            or os.path.join(_home(), "hub"))


def _key(name: str) -> str:
    """A name without the marks that the caches write differently."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _folders(path: str) -> list[str]:
    try:
        return natural_order([entry.name for entry in os.scandir(path) if entry.is_dir()])
    except OSError:
        return []


def _in_datasets_cache(name: str, config: str, path: str) -> tuple[str, list[str]] | None:
    """(the folder of .arrow files, notes). Raises DataError where several configurations are there."""
    top = next((os.path.join(datasets_cache(), f) for f in _folders(datasets_cache()) if _key(f) == _key(name)), None)
    if top is None:
        return None
    ready: dict[str, list[str]] = {}
    for configuration in _folders(top):
        for version in _folders(os.path.join(top, configuration)):
            for digest in _folders(os.path.join(top, configuration, version)):
                folder = os.path.join(top, configuration, version, digest)
                if is_regular(os.path.join(folder, "dataset_info.json")) and any(
                        n.endswith(".arrow") for n in os.listdir(folder)):
                    ready.setdefault(configuration, []).append(folder)
    if config and config not in ready:
        raise DataError(f"has no configuration {config!r} in the cache", where=path, remedy=did_you_mean(config, ready))
    if not ready:
        return None
    if not config and len(ready) > 1:
        raise DataError(f"is there in {len(ready)} configurations: {listed(list(ready))}", where=path,
                        remedy=f"Say which: {PREFIX}{name}:{next(iter(ready))}")
    folders = sorted(ready[config or next(iter(ready))], key=lambda f: (os.stat(f).st_mtime_ns, f))
    notes = [f"{len(folders)} versions in the cache, the last is taken"] if len(folders) > 1 else []
    return folders[-1], notes


def _in_hub_cache(name: str) -> str | None:
    """The snapshot folder of a data set repository, the one of `main` where that is known."""
    top = next((os.path.join(hub_cache(), f) for f in _folders(hub_cache())
                if f.startswith("datasets--") and _key(f[len("datasets--"):]) == _key(name)), None)
    if top is None:
        return None
    revisions = _folders(os.path.join(top, "snapshots"))
    main = os.path.join(top, "refs", "main")
    if is_regular(main):
        with open(main, "rb") as file:
            wanted = file.read(100).decode("ascii", "replace").strip()
        if wanted in revisions:
            return os.path.join(top, "snapshots", wanted)
    return os.path.join(top, "snapshots", revisions[-1]) if revisions else None


def _cached_hint(name: str) -> str:
    known = [f.replace("___", "/") for f in _folders(datasets_cache())]
    known += [f[len("datasets--"):].replace("--", "/") for f in _folders(hub_cache()) if f.startswith("datasets--")]
    if not known:
        return f"Nothing is fetched: with a network, run datasets.load_dataset({name!r}) once"
    return did_you_mean(name, sorted(set(known)))


data_formats.add(HuggingFace, {"hugging_face": {}})
