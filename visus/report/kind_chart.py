"""ConvNets, transformers, hybrids and MLPs beside each other: published ImageNet-1k accuracy by operations.

After Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545, Figure 1: area by parameters. All numbers come
from the passports. What can be compared is filled: the whole net trained on ImageNet-1k alone, without a teacher, at
224 pixels; the rest is outlined. A figure that was measured at another size than the operations were counted at is left
out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visus.core.passport import Passport
from visus.report.charts import Axis, domain, tag, text_width
from visus.report.figures import standalone
from visus.report.model_chart import (
    BOTTOM,
    FIGURE_CSS,
    HEIGHT,
    IMAGENET,
    LEFT,
    LEFT_OUT,
    PX_PER_SQRT_MILLION,
    RIGHT,
    TOP,
    WIDTH,
    Bubble,
    axes,
    costs,
    labels,
    size_legend,
)

LEAST_TOP1 = 70.0  # percent; below it lie the first nets and the smallest, and the chart is about the best
USUAL_PX = 224

# Kind -> families outside of models/cnn/, whose nets are all ConvNets.
KINDS: Mapping[str, tuple[str, ...]] = {
    "ConvNet": ("convmixer",),
    "transformer": ("vit", "deit", "deit3", "cait", "swin", "swin_v2", "pvt", "pvt_v2", "mvit", "mvit_v2",
                    "dino", "dinov2", "mae", "clip_vit"),
    "hybrid": ("cvt", "coatnet", "vit_hybrid"),
    "MLP": ("mixer", "resmlp", "gmlp"),
}
HUE = {"ConvNet": "blue", "transformer": "pink", "hybrid": "gold", "MLP": "green"}
_MORE = re.compile(r"ImageNet-2[12]k|in2[12]k|\bJFT|\bLVD|\bWIT\b|LAION|\bIG-", re.IGNORECASE)
_TEACHER = re.compile(r"distill|dist_in1k", re.IGNORECASE)
_PROBE = re.compile(r"linear (classifier|probe)", re.IGNORECASE)
_SIZE = re.compile(r"\b(\d{3}) pixels|\bat (\d{3})\b|\b(\d{3}) x \d{3}\b")

CSS = FIGURE_CSS + """
.visus-chart .bubble.other { fill-opacity: 0; stroke-width: 1.1; stroke-opacity: 0.85; stroke-dasharray: 3 2; }
.visus-chart .front { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-opacity: 0.75; }
"""


@dataclass(frozen=True, slots=True)
class Rating:
    """One model's place. comparable: the whole net trained on ImageNet-1k alone, without a teacher, and tested at
    USUAL_PX pixels; else `why` says what is different."""

    passport: Passport
    kind: str
    top1: float
    why: str

    @property
    def comparable(self) -> bool:
        return not self.why


def kind_of(passport: Passport) -> str | None:
    """ConvNet, transformer, hybrid or MLP; None for a family that nobody has put in its place yet."""
    named = next((kind for kind, families in KINDS.items() if passport.family in families), None)
    return named or ("ConvNet" if passport.module.startswith("visus.models.cnn.") else None)


def rating(passport: Passport) -> Rating | None:
    """The first published ImageNet-1k accuracy that was measured at the size at which operations are counted, or None
    where there is none."""
    kind, size = kind_of(passport), passport.input_shape[-1]
    if kind is None or passport.family in LEFT_OUT:
        return None
    for row in passport.published:
        source = str(row["source"])
        if row["what"] == "top1" and row["data"] == IMAGENET and _tested_at(source, size) == size:
            trained = source + _weights_of(passport, source)
            why = [words for words, yes in (
                ("more images than ImageNet-1k", _MORE.search(trained)),
                ("a teacher", _TEACHER.search(trained) or _TEACHER.search(passport.name)),
                ("a linear classifier on frozen features", _PROBE.search(source)),
                (f"{size} pixels", size != USUAL_PX)) if yes]
            return Rating(passport, kind, float(row["value"]), ", ".join(why))
    return None


def _weights_of(passport: Passport, source: str) -> str:
    """What is said of the weights that a source measured: timm's results are those of the weights that it publishes."""
    about = passport.weights.get("timm", {}) if source.startswith("timm") else {}
    return f" {about.get('file', '')} {about.get('licence', '')}"


def drawn(passport: Passport) -> bool:
    """Whether the chart has a place for it."""
    found = rating(passport)
    return found is not None and found.top1 >= LEAST_TOP1


def _tested_at(source: str, default: int) -> int:
    found = _SIZE.search(source)
    return default if found is None else int(next(group for group in found.groups() if group))


def kind_chart(passports: Iterable[Passport]) -> str:
    """The bubble chart as the text of an SVG file; a line leads through those comparable models of a kind that none of
    its cheaper ones reaches, and the largest steps on it are named."""
    known = [p for p in passports if p.top1 is not None and p.top1[1] == IMAGENET and p.family not in LEFT_OUT]
    rated = [found for p in known if (found := rating(p)) is not None]
    placed = [one for one in rated if one.top1 >= LEAST_TOP1]
    gmacs = [one.passport.macs / 1e9 for one in placed]
    x_axis = Axis(min(gmacs) / 1.3, max(gmacs) * 1.5, LEFT, RIGHT, log=True)
    y_axis = Axis(*domain([one.top1 for one in placed]), BOTTOM, TOP)
    bubbles = {one.passport.name: Bubble(one.passport, one.top1, x_axis(one.passport.macs / 1e9), y_axis(one.top1),
                                         PX_PER_SQRT_MILLION * math.sqrt(one.passport.params / 1e6)) for one in placed}
    title = "ConvNets, transformers, hybrids, MLPs: published ImageNet-1k top-1 by operations"
    parts = [tag("text", title, class_="title", x=16, y=26), *axes(x_axis, y_axis), *size_legend(), *_legend(placed)]
    for one in sorted(placed, key=lambda one: (one.comparable, -one.passport.params, one.passport.name)):
        b = bubbles[one.passport.name]
        style = "main" if one.comparable else "other"
        parts.append(tag("circle", tag("title", _words(one)), class_=f"bubble {HUE[one.kind]} {style}", cx=b.x, cy=b.y,
                         r=b.radius))
    named: list[str] = []
    for kind in KINDS:
        front = _front([one for one in placed if one.kind == kind and one.comparable])
        named += [one.passport.name for one in _spaced(front)]
        points = " ".join(f"{bubbles[one.passport.name].x:.1f},{bubbles[one.passport.name].y:.1f}" for one in front)
        if len(front) > 1:
            parts.append(tag("polyline", class_=f"front {HUE[kind]}", points=points))
    hues = {one.passport.name: HUE[one.kind] for one in placed}
    parts += labels(list(bubbles.values()), named, lambda passport: hues[passport.name])
    left = len(known) - len(rated)
    note = (f"{len(placed)} models of {LEAST_TOP1:g} % or more ({len(rated) - len(placed)} below). {left} are left out "
            "whose accuracy was measured at another image size than the operations. Recipes differ.")
    parts.append(tag("text", note, class_="tick", x=16, y=HEIGHT - 10))
    return standalone(Markup("").join(parts), WIDTH, HEIGHT, title=title, css=CSS) + "\n"


def _front(rated: Sequence[Rating]) -> list[Rating]:
    """By operations, each one more accurate than all cheaper ones."""
    front: list[Rating] = []
    for one in sorted(rated, key=lambda one: (one.passport.macs, -one.top1, one.passport.name)):
        if not front or one.top1 > front[-1].top1:
            front.append(one)
    return front


def _spaced(front: Sequence[Rating], factor: float = 1.6) -> list[Rating]:
    """The last of a front, and of the others those that cost so much less than the next one named that names fit."""
    named: list[Rating] = []
    for one in reversed(front):
        if not named or named[-1].passport.macs >= factor * one.passport.macs:
            named.append(one)
    return named


def _words(one: Rating) -> str:
    p = one.passport
    return f"{p.name}: {one.top1:g} % top-1, {costs(p)}" + (f" ({one.why})" if one.why else "")


def _legend(rated: Sequence[Rating]) -> list[Markup]:
    """The kinds that are there with their number, above the chart; what filled and outlined means, in the corner of
    costly and inaccurate models, which is empty."""
    parts, x = [], 22.0
    for kind in KINDS:
        if count := sum(one.kind == kind for one in rated):
            text = f"{kind} ({count})"
            parts += [tag("circle", class_=f"bubble main {HUE[kind]}", cx=x, cy=40.0, r=6),
                      tag("text", text, x=x + 12, y=44)]
            x += 34 + text_width(text)
    for y, style, text in ((BOTTOM - 32, "main", f"ImageNet-1k alone, no teacher, {USUAL_PX} pixels"),
                           (BOTTOM - 13, "other", "more images, a teacher, frozen, other size")):
        parts += [tag("circle", class_=f"bubble grey {style}", cx=RIGHT - 290, cy=y - 4, r=6),
                  tag("text", text, class_="tick", x=RIGHT - 276, y=y)]
    return parts
