"""Fetching a standard data set by the name of its card: checked, resumable, unpacked, whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from visus.core.download import DownloadError, download
from visus.core.errors import DataError, ResourceError, UserError
from visus.core.files import read_json, sync_folder, write_json
from visus.data.opening import open_samples
from visus.data.sets import CardFile, DataCard, check_counts, data_card, data_cards
from visus.run.unpack import unpack

RECORD = ".visus-data.json"  # in the folder of a set that was fetched as a whole
_UNPACKED = 2.2              # room for the archive, what it holds, and a little
_MAX_BYTES = 1 << 38

Progress = Callable[[str, int, int | None], None]


def get_data(card: str | DataCard, to: str | Path = "data", *, progress: Progress | None = None) -> Path:
    """Fetch a data set into `to`/NAME and return the path to give to `visus train`.

    progress(what is done, bytes so far, bytes in all or None). A connection that broke is gone on with, also by a
    later call; a set that is there already is not fetched again. Nothing is asked: see the card first.

    Raises DataError (no such card; the set is given out by hand only: says how; an archive that is refused),
    DownloadError (the address and what to do by hand), ResourceError (disk).
    """
    card = data_card(card) if isinstance(card, str) else card
    target = Path(to) / card.name
    if is_fetched(card, to):
        return target / card.path
    if os.path.lexists(target):
        raise DataError("is there already, and was not fetched by visus", where=target,
                        remedy=f"Remove it, choose another folder with --to, or use it: visus train {target}")
    if not card.fetchable:
        raise DataError(f"{card.title} cannot be fetched for you", where=card.name, remedy=by_hand(card))
    try:
        Path(to).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot be made: {error.strerror or error}", where=to) from error
    _check_space(card, Path(to))
    store = Path(to) / f".{card.name}.download"
    fetched = [_fetch(file, store, progress) for file in card.files]
    staging = Path(tempfile.mkdtemp(dir=to, prefix=f".{card.name}."))
    try:
        for file, path in zip(card.files, fetched, strict=True):
            _place(file, path, staging, progress)
        write_json(staging / RECORD, {"name": card.name, "title": card.title, "licence": card.licence,
                                      "files": {file.name: file.url for file in card.files}})
        os.chmod(staging, 0o755)
        os.rename(staging, target)
        sync_folder(Path(to))
    except OSError as error:
        raise ResourceError(f"could not be written: {error.strerror or error}", where=target) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(store, ignore_errors=True)
    return target / card.path


def named_card(name: str) -> DataCard:
    """The card of that name. Raises DataError with the nearest names."""
    return data_card(name)


def all_cards() -> list[DataCard]:
    """All cards, in the order of the catalogue."""
    return list(data_cards().values())


def is_fetched(card: DataCard, to: str | Path = "data") -> bool:
    """Whether `to`/NAME holds the whole set, fetched by `get_data`."""
    try:
        return bool(read_json(Path(to) / card.name / RECORD).get("name") == card.name)
    except (UserError, AttributeError):
        return False


def by_hand(card: DataCard) -> str:
    """How to come by the set without `get_data`."""
    return f"{card.how or 'See its page'}. Page: {card.page}" if card.page else card.how


def check_data(card: str | DataCard, path: str | Path) -> list[str]:
    """What differs in the data at `path` from the published counts of the card; [] when nothing does."""
    card = data_card(card) if isinstance(card, str) else card
    return check_counts(card, open_samples(path, card.format or "auto"))


def card_lines(card: DataCard) -> list[tuple[str, str]]:
    """(heading, text) of everything that is to be known before a download, licence and size first."""
    size = "not known" if card.megabytes is None else f"{card.megabytes:,.0f} MB" if card.megabytes >= 10 else \
        f"{card.megabytes:g} MB"
    lines = [("set", f"{card.title}: {card.what}"), ("licence", card.licence), ("download", size),
             ("holds", card.counts_sentence()), ("checked", card.verified), ("cite", card.citation)]
    lines += [("from", file.url) for file in card.files if file.url]
    lines += [("page", card.page)] * bool(card.page) + [("by hand", card.how)] * bool(card.how)
    return lines


def _check_space(card: DataCard, folder: Path) -> None:
    needed = int((card.megabytes or 0) * 1e6 * (_UNPACKED if any(f.unpack for f in card.files) else 1))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(f"about {needed / 1e9:,.1f} GB are needed to fetch and unpack {card.name}, "
                            f"{free / 1e9:,.1f} GB are free", where=folder,
                            remedy="Free some space, or choose another disk with --to")


def _fetch(file: CardFile, store: Path, progress: Progress | None) -> Path:
    """The file in `store`, compared with what the card states."""
    path = store / file.name
    if path.is_file() and _difference(file, path) is None:
        return path
    path.unlink(missing_ok=True)
    url = str(file.url)
    told = None if progress is None else (lambda so_far, total: progress(f"fetch {file.name}", so_far, total))
    download(url, path, digest=file.sha256, max_bytes=file.bytes or _MAX_BYTES, progress=told)
    problem = _difference(file, path)
    if problem is not None:
        path.unlink()
        raise DownloadError(problem, where=url, remedy="Try again; if it stays so, the file at this address is not the "
                            "one that was published")
    return path


def _difference(file: CardFile, path: Path) -> str | None:
    """What of the file is not as the card states, or None."""
    if file.bytes is not None and path.stat().st_size != file.bytes:
        return f"has {path.stat().st_size:,} bytes, published are {file.bytes:,}"
    for kind, wanted in (("SHA-256", file.sha256), ("MD5", file.md5)):
        if wanted is not None:
            found = _digest(path, kind)
            if found != wanted:
                return f"has the {kind} {found}, published is {wanted}"
    return None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.sha256() if kind == "SHA-256" else hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _place(file: CardFile, path: Path, staging: Path, progress: Progress | None) -> None:
    told = None if progress is None else (lambda so_far: progress(f"unpack {file.name}", so_far, None))
    if not file.unpack:
        shutil.copyfile(path, staging / file.name)
        return
    unpack(path, staging, progress=told)
    for name in file.inner:
        inner = staging / name
        if not inner.is_file() or inner.is_symlink():
            raise DataError(f"does not hold {name!r}", where=file.url, remedy="The archive has changed: see its page")
        unpack(inner, staging, progress=told)
        inner.unlink()
