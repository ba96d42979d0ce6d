"""Two charts of classifiers: accuracy, operations and parameters of the registered ones, and the ILSVRC winners.

The first: published ImageNet top-1 accuracy by multiply-accumulates, area by parameters, for every registered model
that states one, as Canziani, Paszke, Culurciello, An Analysis of Deep Neural Network Models for Practical
Applications, arXiv:1605.07678, Fig. 2. All numbers come from the passports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visus.core.passport import Passport
from visus.report import formatting
from visus.report.charts import Axis, domain, tag, text_width
from visus.report.figures import standalone

IMAGENET = "ImageNet-1k"
WIDTH, HEIGHT = 960, 760
LEFT, RIGHT, TOP, BOTTOM = 58.0, 940.0, 76.0, 700.0
PX_PER_SQRT_MILLION = 1.35  # radius of a bubble over the root of its million parameters
LABEL_PX = 11.5
LEGEND_MILLIONS = (5, 25, 100)

# One hue for each group of kindred families; what is not listed is grey.
HUES: Mapping[str, tuple[str, ...]] = {
    "blue": ("resnet", "resnext", "senet", "resnet_d", "wide_resnet", "plain", "resnet_rs", "acnet"),
    "orange": ("vgg", "repvgg"),
    "green": ("efficientnet", "mnasnet", "nasnet"),
    "violet": ("mobilenet", "shufflenet"),
    "teal": ("densenet", "regnet", "anynet"),
    "red": ("inception", "xception"),
    "gold": ("convnext", "convnext_v2"),
    "pink": ("vit", "deit", "deit3", "cait", "swin", "swin_v2", "pvt", "pvt_v2", "mvit", "mvit_v2", "cvt", "coatnet",
             "vit_hybrid", "dino", "dinov2", "mae", "clip_vit"),
    "brown": ("nfnet",),
    "mint": ("mixer", "resmlp", "gmlp", "convmixer"),
    "grey": ("alexnet", "zfnet", "overfeat", "squeezenet"),
}
LEFT_OUT = ("convnext_ladder",)  # the steps between two nets that are there
MAIN = (
    "alexnet", "zfnet", "overfeat_accurate", "vgg16", "googlenet", "inception_v3", "inception_v4", "xception",
    "plain34", "resnet18", "resnet50", "resnet152", "resnet152d", "wide_resnet101_2", "senet154", "densenet121",
    "densenet201", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "shufflenet_v2_x0_5", "shufflenet_v1_x1_0_g3", "efficientnet_b0", "efficientnet_b3", "efficientnet_v2_s",
    "efficientnet_v2_l", "nasnet_a_mobile", "nasnet_a_large", "regnet_y_400mf", "regnet_y_32gf", "repvgg_a0",
    "repvgg_b3", "convnext_tiny", "convnext_large", "convnext_v2_atto", "convnext_v2_huge", "vit_base_16",
    "vit_large_16", "nfnet_f0", "nfnet_f6",
)  # fmt: skip

FIGURE_CSS = """
.visus-chart { --blue: #2563b0; --orange: #b3530f; --green: #2e7d43; --violet: #7549b8; --teal: #0f7f86;
  --red: #b83247; --gold: #93700a; --pink: #b03a86; --mint: #5f7f2a; --brown: #7d5a44; --grey: #6b7789; }
@media (prefers-color-scheme: dark) { .visus-chart { --blue: #6ea6e8; --orange: #f0a35e; --green: #74c48a;
  --violet: #b497ec; --teal: #5cc4ca; --red: #f08a99; --gold: #dcb84e; --pink: #ea8ec7; --mint: #b7d67e;
  --brown: #c9a48c; --grey: #98a5b8; } }
.visus-chart .title { font-size: 16px; font-weight: 600; }
.visus-chart .bubble { fill: currentColor; fill-opacity: 0.12; stroke: currentColor; stroke-width: 0.8;
  stroke-opacity: 0.5; }
.visus-chart .bubble.main { fill-opacity: 0.34; stroke-width: 1.4; stroke-opacity: 1; }
.visus-chart .halo { paint-order: stroke; stroke: var(--surface); stroke-width: 4px; stroke-linejoin: round; }
.visus-chart .leader { stroke: currentColor; stroke-width: 0.8; opacity: 0.7; }
.visus-chart .name { fill: currentColor; font-size: 11.5px; paint-order: stroke; stroke: var(--surface);
  stroke-width: 3px; stroke-linejoin: round; }
.visus-chart .size { fill: none; stroke: var(--muted); }
""" + "".join(f".visus-chart .{hue} {{ color: var(--{hue}); }}\n" for hue in HUES)


@dataclass(frozen=True, slots=True)
class Winner:
    year: int
    team: str
    error: float


# Russakovsky et al. 2015 and the challenge's result pages, from memory. 2012: 16.4 without further training images,
# 15.3 with.
WINNERS = (
    Winner(2010, "NEC-UIUC", 28.2), Winner(2011, "XRCE", 25.8), Winner(2012, "AlexNet", 16.4),
    Winner(2013, "Clarifai (ZF)", 11.7), Winner(2014, "GoogLeNet", 6.7), Winner(2015, "ResNet", 3.57),
    Winner(2016, "Trimps-Soushen", 2.99), Winner(2017, "SENet", 2.25),
)  # fmt: skip
ALEXNET_WITH_MORE_IMAGES = 15.3
ONE_PERSON = 5.1  # Russakovsky et al. 2015, section 6.4, the first annotator, from memory


def hue(family: str) -> str:
    return next((name for name, families in HUES.items() if family in families), "grey")


def shown(passport: Passport) -> bool:
    return passport.top1 is not None and passport.top1[1] == IMAGENET and passport.family not in LEFT_OUT


@dataclass(frozen=True, slots=True)
class Bubble:
    """One model on the chart: centre and radius in px."""

    passport: Passport
    top1: float
    x: float
    y: float
    radius: float


def model_chart(passports: Iterable[Passport], main: Sequence[str] = MAIN) -> str:
    """The bubble chart as the text of an SVG file; `main` are the names that are written beside their bubbles."""
    found = [(p, p.top1[0]) for p in passports if p.top1 is not None and shown(p)]
    gmacs = [p.macs / 1e9 for p, _ in found]
    x_axis = Axis(min(gmacs) / 1.3, max(gmacs) * 1.5, LEFT, RIGHT, log=True)
    y_axis = Axis(*domain([top1 for _, top1 in found]), BOTTOM, TOP)
    bubbles = [Bubble(p, top1, x_axis(p.macs / 1e9), y_axis(top1), PX_PER_SQRT_MILLION * math.sqrt(p.params / 1e6))
               for p, top1 in found]
    bubbles.sort(key=lambda b: (-b.radius, b.passport.name))  # large ones below small ones
    bubbles.sort(key=lambda b: b.passport.name in main)  # and the named ones on top
    title = "What accuracy costs: published ImageNet top-1 by operations, area by parameters"
    parts = [tag("text", title, class_="title", x=16, y=26), *axes(x_axis, y_axis), *size_legend(),
             *_hue_legend({b.passport.family for b in bubbles})]
    for b in bubbles:
        kind = hue(b.passport.family) + (" main" if b.passport.name in main else "")
        parts.append(tag("circle", tag("title", _words(b)), class_=f"bubble {kind}", cx=b.x, cy=b.y, r=b.radius))
    parts += labels(bubbles, main, lambda passport: hue(passport.family))
    note = (f"{len(bubbles)} registered models; parameters and operations counted here at each model's image size, "
            "accuracy as its source states it (training and crops differ)")
    parts.append(tag("text", note, class_="tick", x=16, y=HEIGHT - 10))
    return standalone(Markup("").join(parts), WIDTH, HEIGHT, title=title, css=FIGURE_CSS) + "\n"


def _words(bubble: Bubble) -> str:
    p = bubble.passport
    return f"{p.name}: {bubble.top1:g} % top-1, {costs(p)}"


def costs(p: Passport) -> str:
    """'4.09 GMACs, 25.6 M parameters'."""
    return f"{formatting.three_digits(p.macs / 1e9)} GMACs, {formatting.three_digits(p.params / 1e6)} M parameters"


def axes(x_axis: Axis, y_axis: Axis) -> list[Markup]:
    """Grid, ticks and names of operations and accuracy."""
    parts = []
    for value in y_axis.ticks(6):
        y = y_axis(value)
        parts += [tag("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y),
                  tag("text", f"{value:g}%", class_="tick end", x=LEFT - 8, y=y + 4)]
    first, last = math.floor(math.log10(x_axis.low)), math.ceil(math.log10(x_axis.high))
    for value in (factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)):
        if x_axis.low <= value <= x_axis.high:
            x = x_axis(value)
            parts += [tag("line", class_="grid", x1=x, x2=x, y1=TOP, y2=BOTTOM),
                      tag("text", f"{value:g}", class_="tick middle", x=x, y=BOTTOM + 18)]
    return [*parts, tag("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM),
            tag("text", "billion multiply-accumulates for one image (logarithmic)", class_="tick middle",
                x=(LEFT + RIGHT) / 2, y=BOTTOM + 36),
            tag("text", "ImageNet top-1 accuracy", class_="tick", x=16, y=TOP - 16)]


def size_legend() -> list[Markup]:
    """Three circles with their million parameters."""
    parts = [tag("text", "million parameters:", class_="tick end", x=RIGHT - 204, y=TOP - 26)]
    x = RIGHT - 196
    for millions in LEGEND_MILLIONS:
        radius = PX_PER_SQRT_MILLION * math.sqrt(millions)
        parts += [tag("circle", class_="size", cx=x + radius, cy=TOP - 30, r=radius),
                  tag("text", str(millions), class_="tick", x=x + 2 * radius + 5, y=TOP - 26)]
        x += 2 * radius + 44
    return parts


def _hue_legend(families: set[str]) -> list[Markup]:
    """Which hue is which family, in the corner of costly and inaccurate models, which is empty."""
    others = sorted(f for f in families if f not in HUES["grey"] and hue(f) == "grey")
    rows = [(name, [f for f in (*group, *(others if name == "grey" else ())) if f in families])
            for name, group in HUES.items()]
    rows = [(name, group) for name, group in rows if group]
    parts = []
    for number, (name, group) in enumerate(rows):
        y = BOTTOM - 16 - 17 * (len(rows) - 1 - number)
        text = ", ".join(group[:3]) + (" and others" if len(group) > 3 else "")
        parts += [tag("circle", class_=f"bubble main {name}", cx=RIGHT - 268, cy=y - 4, r=5),
                  tag("text", text, class_="tick", x=RIGHT - 256, y=y)]
    return parts


Box = tuple[float, float, float, float]  # left, top, right, bottom


def labels(bubbles: Sequence[Bubble], main: Sequence[str], hue_of: Callable[[Passport], str]) -> list[Markup]:
    """The names `main`, each at the first free place around its bubble, those of the smallest bubbles first; a line
    leads to a name that had to move away."""
    parts: list[Markup] = []
    placed: list[Box] = []
    named = sorted((b for b in bubbles if b.passport.name in main), key=lambda b: (b.radius, b.passport.name))
    centres = [(b.x, b.y, 40.0 if b.passport.name in main else 3.0) for b in bubbles]
    for bubble in named:
        box, far = _free_place(bubble, placed, centres)
        placed.append(box)
        kind = hue_of(bubble.passport)
        if far:
            x, y = min(max(bubble.x, box[0]), box[2]), min(max(bubble.y, box[1]), box[3])
            parts.append(tag("line", class_=f"leader {kind}", x1=bubble.x, y1=bubble.y, x2=float(x), y2=float(y)))
        parts.append(tag("text", bubble.passport.name, class_=f"name {kind}", x=box[0] + 2, y=box[3] - 4))
    return parts


def _free_place(bubble: Bubble, placed: Sequence[Box], centres: Sequence[tuple[float, float, float]]) \
        -> tuple[Box, bool]:
    """(place with the least overlap, whether it is away from the bubble); near places are tried first. centres: of
    the bubbles, with what it costs to cover one."""
    width, height = text_width(bubble.passport.name, LABEL_PX) + 4, LABEL_PX + 4
    best: tuple[float, Box, bool] | None = None
    for ring in range(7):
        reach = (0.72 * bubble.radius if ring == 0 else bubble.radius) + 3 + 13 * ring
        for turn in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 290, 110, 250):
            dx, dy = math.cos(math.radians(turn)), -math.sin(math.radians(turn))
            x, y = bubble.x + reach * dx + (dx - 1) * width / 2, bubble.y + reach * dy + (dy - 1) * height / 2
            box = (x, y, x + width, y + height)
            if x < LEFT or box[2] > WIDTH - 2 or y < TOP or box[3] > BOTTOM:
                continue
            cost = 0.02 * ring + sum(_overlap(box, other) for other in placed) + sum(
                price for cx, cy, price in centres
                if box[0] - 2 < cx < box[2] + 2 and box[1] - 1 < cy < box[3] + 1)
            if best is None or cost < best[0]:
                best = (cost, box, ring > 0)
        if best is not None and best[0] < 1:
            break
    assert best is not None
    return best[1], best[2]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def winners_chart() -> str:
    """Top-5 error of the winners of the ImageNet challenge's classification task by year."""
    width, height, left, right, top, bottom = 760, 400, 58.0, 736.0, 66.0, 316.0
    axis = Axis(0, 30, bottom, top)
    step = (right - left) / len(WINNERS)
    title = "Winners of the ImageNet challenge (ILSVRC): top-5 error of classification"
    parts = [tag("text", title, class_="title", x=16, y=26)]
    for value in axis.ticks(6):
        y = axis(value)
        parts += [tag("line", class_="grid", x1=left, x2=right, y1=y, y2=y),
                  tag("text", f"{value:g}%", class_="tick end", x=left - 8, y=y + 4)]
    person = axis(ONE_PERSON)
    parts.append(tag("line", class_="mark", x1=left, x2=right, y1=person, y2=person))
    for number, winner in enumerate(WINNERS):
        x, y = left + (number + 0.5) * step, axis(winner.error)
        deep = winner.year >= 2012
        text = f"{winner.error:g}"
        if winner.year == 2012:
            text += f" ({ALEXNET_WITH_MORE_IMAGES:g})"
        parts += [
            tag("rect", tag("title", f"{winner.year} {winner.team}: {winner.error:g} %"),
                class_="value accent" if deep else "value", x=x - 0.32 * step, y=y, width=0.64 * step,
                height=bottom - y),
            tag("text", text, class_="middle halo", x=x, y=y - 6),
            tag("text", str(winner.year), class_="tick middle", x=x, y=bottom + 18),
            tag("text", winner.team, class_="middle", x=x, y=bottom + 36, font_size=10.5),
        ]
    parts += [
        tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom),
        tag("text", f"one trained person: {ONE_PERSON:g}", class_="tick end", x=right, y=person - 36),
        tag("line", class_="mark", x1=right - 4, x2=right - 4, y1=person - 30, y2=person),
        tag("text", "Grey: features made by hand; blue: convolutional nets. 2012 in brackets: with further training "
            "images.", class_="tick", x=16, y=height - 26),
        tag("text", "Figures from memory of Russakovsky et al. 2015 and of the challenge's result pages.",
            class_="tick", x=16, y=height - 9),
    ]
    return standalone(Markup("").join(parts), width, height, title=title, css=FIGURE_CSS) + "\n"
