"""Cards of the standard data sets: what each is, its published counts, licence, size, addresses and checksums.

    card = data_card("cifar10")
    check_counts(card, open_samples("data/cifar10/cifar-10-batches-py"))       # [] when it is what was published

The table is `cards.yaml` beside this file. A checksum stands there only where its publisher or a widely used library
states it; without one the card says so, and nobody has compared the file.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from visus.core.errors import DataError, did_you_mean
from visus.data.samples import Samples, counted

CARDS = Path(__file__).with_name("cards.yaml")


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """One file of an official download. url: None where it is given out by hand only. bytes: exact length, None
    unknown. md5, sha256: hexadecimal, None not verified. unpack: it is an archive; inner: archives within it."""

    name: str
    url: str | None = None
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpack: bool = False
    inner: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """One data set.

    rows: lines of the catalogue's section 19 that it belongs to. counts: what is counted -> how many, as published.
    megabytes: of the download, about; None unknown. how: what to do by hand. format: the name of the data format that
    reads it, None where none does. path: what to give to `visus train`, within the unpacked folder.
    check: split ('' for all together), 'classes' or 'boxes' -> the number that `check_counts` compares.
    """

    name: str
    rows: tuple[str, ...]
    title: str
    what: str
    task: str
    counts: dict[str, int]
    licence: str
    citation: str
    page: str
    megabytes: float | None = None
    files: tuple[CardFile, ...] = ()
    how: str = ""
    format: str | None = None
    path: str = "."
    check: dict[str, int] | None = None

    @property
    def fetchable(self) -> bool:
        """Whether every file has an address that `visus data get` can open."""
        return bool(self.files) and all(file.url is not None for file in self.files)

    @property
    def verified(self) -> str:
        """'SHA-256', 'MD5', 'in part' or 'not verified': how the files of the download are checked."""
        if not self.files:
            return "not verified"
        kinds = {"SHA-256" if f.sha256 else "MD5" if f.md5 else "" for f in self.files}
        return kinds.pop() or "not verified" if len(kinds) == 1 else "in part" if "" in kinds else "MD5"

    def counts_sentence(self) -> str:
        return ", ".join(f"{number:,} {what}" for what, number in self.counts.items()) or "none published"


@functools.cache
def data_cards() -> dict[str, DataCard]:
    """Name -> card, in the order of the table."""
    import yaml

    cards = {}
    for name, fields in yaml.safe_load(CARDS.read_text(encoding="utf-8")).items():
        files = tuple(CardFile(**{**file, "inner": tuple(file.get("inner", ()))}) for file in fields.pop("files", ()))
        rows = fields.pop("rows")
        cards[name] = DataCard(name=name, rows=tuple(rows), files=files, **fields)
    return cards


def data_card(name: str) -> DataCard:
    """The card. Raises DataError with the nearest names."""
    cards = data_cards()
    if name not in cards:
        raise DataError("there is no card of a data set of that name", where=name, remedy=did_you_mean(name, cards))
    return cards[name]


def check_counts(card: DataCard, samples: Samples) -> list[str]:
    """What differs from the published counts, in words; [] when nothing does. Splits that are not there are named.

    Raises DataError where the card states no counts to compare.
    """
    if not card.check:
        raise DataError("the card states no counts that can be compared", where=card.name,
                        remedy="See the card: visus data get --list")
    problems = []
    for what, expected in card.check.items():
        found = len(samples.classes) if what == "classes" else \
            len(samples.objects) if what == "boxes" and samples.objects is not None else \
            len(samples) if what == "all" else int((samples.split == what).sum())
        unit = {"classes": "class", "boxes": "box", "all": "image"}.get(what, f"{what} image")
        if found != expected:
            problems.append(f"{counted(found, unit)}, published are {expected:,}")
    return problems
