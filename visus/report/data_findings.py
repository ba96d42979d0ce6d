"""What the checks of a data set found, as one page: the findings, and the images that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from visus import __version__
from visus.core.record import Finding
from visus.report import formatting
from visus.report.formatting import integer, plural
from visus.report.page import page_style, policy, shell_command, template
from visus.report.thumbnails import is_small

MAX_CLASSES = 100
TITLES = {
    "exact-duplicates": "Equal images", "near-duplicates": "Near twins", "split-leak": "Twins across splits",
    "conflicting-labels": "Twins with different labels", "label-noise": "Labels that look wrong",
    "group-leak": "Belonging together, in different splits", "odd-images": "Odd images",
    "boxes-outside": "Boxes that leave the image", "tiny-boxes": "Empty and tiny boxes",
    "duplicate-boxes": "Marked twice", "whole-image-boxes": "Boxes around everything",
    "stated-size": "Another size than the annotations say", "unmarked-images": "Images without objects",
    "outline-box": "Outlines unlike their boxes", "keypoints-outside": "Keypoints outside of the image",
    "label-map-values": "Label maps that do not fit",
}
_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Picture:
    """uri: the encoded image, or None when it could not be read. label: its class in words."""

    uri: str | None
    source: str
    label: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """items: (one picture, or two that belong together; what is seen there)."""

    check: str
    items: Sequence[tuple[Sequence[Picture], str]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check that ran. found: number of findings."""

    name: str
    rule: str
    seconds: float
    found: int


@dataclass(frozen=True, kw_only=True)
class DataView:
    """What stands on the page. looked, total: images that were opened, and that there are. splits: name -> images;
    given: those that the data give, the others were made. counts: split -> images of each class. left_out: (check,
    why)."""

    name: str
    recognised: str
    findings: Sequence[Finding]
    galleries: Sequence[Gallery] = ()
    checks: Sequence[Check] = ()
    left_out: Sequence[tuple[str, str]] = ()
    classes: Sequence[str] = ()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    given: Sequence[str] = ()
    looked: int = 0
    total: int = 0
    seconds: float = 0.0
    notes: Sequence[str] = ()
    command: Sequence[str] = ()


def render_data_findings(view: DataView) -> str:
    """The page's text: nothing else is needed, no file, no network. Every text of the data is escaped."""
    style = f"{page_style()}\n{_own_style()}"
    return template("data_findings.html").render(
        policy=policy(style, ""), style=Markup(style), version=__version__, view=view, status=_status(view.findings),
        facts=_facts(view), galleries=[_gallery(gallery) for gallery in view.galleries], classes=_classes(view),
        checks=[{"name": check.name, "rule": check.rule, "seconds": formatting.duration(check.seconds),
                 "found": integer(check.found) if check.found else "none"} for check in view.checks],
        command=shell_command(view.command))


@cache
def _own_style() -> str:
    return (Path(__file__).parent / "assets" / "data_findings.css").read_text("utf-8").strip()


def _status(findings: Sequence[Finding]) -> dict[str, str]:
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in _SEVERITIES}
    said = ", ".join(plural(n, kind) for kind, n in counts.items() if n)
    if counts["error"]:
        return {"tone": "bad", "icon": "error", "text": said}
    if counts["warning"]:
        return {"tone": "warn", "icon": "warning", "text": said}
    return {"tone": "good", "icon": "good", "text": said or "nothing found"}


def _facts(view: DataView) -> list[dict[str, str]]:
    made = [name for name in view.splits if name not in view.given]
    how = "as the data give them" if not made else f"{', '.join(made)} made as a training would"
    return [
        {"label": "Images", "value": integer(view.total), "detail": ""},
        {"label": "Classes", "value": integer(len(view.classes)), "detail": ""},
        {"label": "Splits", "value": " / ".join(integer(n) for n in view.splits.values()),
         "detail": f"{' / '.join(view.splits)}, {how}"},
        {"label": "Looked at", "value": integer(view.looked),
         "detail": "all of them" if view.looked == view.total else "drawn at random within the time"},
        {"label": "Time", "value": formatting.duration(view.seconds), "detail": plural(len(view.checks), "check")},
    ]


def _gallery(gallery: Gallery) -> dict[str, Any]:
    items = [{"words": words,
              "pictures": [{"uri": one.uri, "small": one.uri is not None and is_small(one.uri), "source": one.source,
                            "label": one.label, "split": one.split} for one in pictures]}
             for pictures, words in gallery.items]
    return {"check": gallery.check, "title": TITLES.get(gallery.check, gallery.check), "items": items,
            "twos": any(len(pictures) > 1 for pictures, _ in gallery.items)}


def _classes(view: DataView) -> dict[str, Any]:
    rows = [{"name": name, "counts": [integer(counts[k]) if k < len(counts) else formatting.MISSING
                                      for counts in view.counts.values()]}
            for k, name in enumerate(view.classes[:MAX_CLASSES])]
    return {"splits": list(view.counts), "rows": rows, "left": len(view.classes) - len(rows)}
