"""Images that a check names, kept for whoever draws the findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visus.doctor.image_set import ImageSet

MOST = 24  # of one check
NAMED = 5  # in a sentence


@dataclass(frozen=True, slots=True)
class Exhibit:
    """images: positions, two of a pair. words: what is seen there. marks: positions of objects that are drawn into the
    image, which is then cut to where they lie. regions: its label map is laid over it."""

    images: tuple[int, ...]
    words: str
    marks: tuple[int, ...] = ()
    regions: bool = False


def show(images: ImageSet, check: str, exhibits: Iterable[Exhibit]) -> None:
    """Keep the first of them under the name of the check."""
    kept = images.remembered.setdefault("exhibits", {})
    assert isinstance(kept, dict)
    kept[check] = [*kept.get(check, []), *exhibits][:MOST]


def shown(images: ImageSet) -> dict[str, list[Exhibit]]:
    """What the checks have kept, by the check's name."""
    kept = images.remembered.get("exhibits", {})
    assert isinstance(kept, dict)
    return kept


def named(images: ImageSet, places: Iterable[int], limit: int = NAMED) -> str:
    """'a.png, b.png and 12 more'."""
    everyone = [int(place) for place in places]
    more = len(everyone) - limit
    return ", ".join(images.sources[i] for i in everyone[:limit]) + (f" and {more:,} more" if more > 0 else "")


def pair_named(images: ImageSet, pairs: Iterable[tuple[int, int]], limit: int = NAMED) -> str:
    """'a.png = b.png; c.png = d.png and 3 more'."""
    everyone = list(pairs)
    more = len(everyone) - limit
    text = "; ".join(f"{images.sources[i]} = {images.sources[j]}" for i, j in everyone[:limit])
    return text + (f" and {more:,} more" if more > 0 else "")


def label_names(images: ImageSet, place: int) -> str:
    """The class of an image in words; several are joined by +."""
    if images.labels is None:
        return ""
    label = images.labels[place]
    held = label.nonzero()[0].tolist() if getattr(label, "ndim", 0) else [int(label)]
    return " + ".join(images.classes[k] if k < len(images.classes) else str(k) for k in held) or "none"
