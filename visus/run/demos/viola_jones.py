"""A cascade of boosted Haar-like features finds one digit among others, and rejects nearly every window at once."""

from __future__ import annotations

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from visus.classical.viola_jones import ViolaJones, train_detector
from visus.classical.window_scan import Stage, scan
from visus.metrics.box_precision import box_average_precision
from visus.ops.haar import KINDS, HaarFeatures, haar_features
from visus.ops.integral import box_sums, integral_image
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, below, same
from visus.report.sketch import picture, plot, sheet, words
from visus.run.demo import Tell
from visus.run.demos._digit_scenes import digit_images, scene

TOPIC = "classical"
SUMMARY = "integral images, boosted Haar-like features and a cascade that finds a digit"
SOURCE = "Viola, Jones, Robust Real-Time Face Detection, IJCV 57 (2004)"

OBJECT, WINDOW = 0, 16  # a nought; px
SIZE = (120, 150)


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    images, labels = digit_images()
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=draw)
    learn, judge = order[:1200], order[1200:]
    patches = images[learn][labels[learn] == OBJECT]
    patches = torch.nn.functional.pad(patches, (1, 1, 1, 1))  # a little ground around
    without = [_without(images[learn], labels[learn], draw) for _ in range(6 if small else 12)]
    stages = 4 if small else 5
    curve: list[dict[str, float]] = []
    model = train_detector(patches, without, seed, negatives=300 if small else 500, window=WINDOW, stages=stages,
                           features=800 if small else 1500, stumps=20, min_detection=0.98,
                           max_false_positives=0.3, advance=lambda count: advance(len(curve), stages + 1),
                           log=lambda number, **values: curve.append(values))
    scenes = [scene(images[judge], labels[judge], (OBJECT,), draw, size=SIZE, digit_px=(20, 36), others=7)
              for _ in range(5 if small else 15)]
    found = [model.detect(image, scale=1.1, min_neighbours=1) for image, _ in scenes]
    precision, recall = box_average_precision(found, [box for _, box in scenes], 0.4)
    left = _left(model, [image for image, _ in scenes])
    advance(stages + 1, stages + 1)

    sums, direct = _sums(scenes[0][0][0], draw)
    bound = [float(np.prod([row["false_positives"] for row in curve[:k]])) for k in range(1, len(curve) + 1)]
    features = haar_features(24)
    facts = [
        same("Haar-like features of five kinds in a window of 24 x 24", len(features.kind), 162_336),
        same("and of each kind", [int((features.kind == k).sum()) for k in range(len(KINDS))],
             [43_200, 43_200, 27_600, 27_600, 20_736]),
        below("200 random rectangles from four numbers of the integral image each, against adding up their pixels, "
              "largest difference", float((sums - direct).abs().max()), 1e-9),
        above("share of the checked noughts that each stage keeps, least",
              min(row["detection"] for row in curve), 0.98),
        below("share of all windows of new pictures that the first stage lets pass", left[1] / left[0], 0.5),
        below("share of them that the last stage lets pass", left[-1] / left[0], 0.02),
        above("noughts found on new pictures", recall, 0.8),
    ]
    table = Table("The cascade", ["stage", "stumps", "noughts kept", "others that pass", "product so far",
                                  "windows of new pictures left"],
                  [[str(k + 1), size, f"{row['detection']:.3f}", f"{row['false_positives']:.3f}", f"{product:.5f}",
                    f"{left[k + 1]:,} of {left[0]:,}"]
                   for k, (size, row, product) in enumerate(zip(model.config.stage_sizes, curve, bound, strict=True))],
                  f"On new pictures: average precision {precision:.3f}, found {recall:.0%} (IoU of 0.4 or more).")
    return Shown(
        "A cascade that looks twice only where it must",
        "A feature is the difference of a few sums over rectangles, and an integral image gives each sum from four "
        "numbers, whatever its size. Boosting picks the feature, threshold and sign that judge best, raises the weight "
        "of what was judged wrongly, and picks again.\n\n"
        "One object hides among thousands of windows. So the first stage is a vote of few features, its threshold "
        "lowered until hardly any object is lost; it rejects most windows at once. Each next stage learns on the "
        "windows that still pass of pictures without the object.",
        [Drawing(_stages(model, patches), "The first features of each stage over the mean nought: light rectangles are "
                 "added, dark ones subtracted.", "What the stages look at", wide=True),
         Drawing(plot([("windows left", [(float(k), float(max(count, 1))) for k, count in enumerate(left)])],
                      x_label="after stage", log_y=True, title="Windows left after each stage"),
                 "Of all windows of all sizes in the new pictures.", "Windows left"),
         Drawing(_detected(scenes[0][0], found[0][0]), "Blue: what was found.", "New picture")], facts, [table])


def _without(images: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """A picture of digits without the object."""
    others = labels != OBJECT
    return scene(images[others], labels[others], (int(torch.randint(1, 10, (), generator=draw)),), draw, size=SIZE,
                 digit_px=(20, 36), others=9)[0]


def _left(model: ViolaJones, pictures: list[Tensor]) -> list[int]:
    """Windows of all pictures before the first stage and after each."""
    cascade = model._cascade(1)
    counts = []
    for stages in range(len(cascade) + 1):
        part: list[Stage] = cascade[:stages]
        counts.append(sum(len(scan(part, image[0], WINDOW, 0.0)[0]) for image in pictures))
    return counts


def _sums(image: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    height, width = image.shape
    top, left = torch.randint(0, height, (200,), generator=draw), torch.randint(0, width, (200,), generator=draw)
    tall = 1 + (torch.rand(200, generator=draw) * (height - top)).long().clamp(max=height - 1)
    wide = 1 + (torch.rand(200, generator=draw) * (width - left)).long().clamp(max=width - 1)
    tall, wide = torch.minimum(tall, height - top), torch.minimum(wide, width - left)
    values = image.double()
    direct = [values[y:y + h, x:x + w].sum() for y, x, h, w in zip(*(part.tolist() for part in (top, left, tall, wide)),
                                                                  strict=True)]
    return box_sums(integral_image(values), top, left, tall, wide), torch.stack(direct)


def _stages(model: ViolaJones, patches: Tensor) -> Markup:
    side, gap = 96, 14
    mean = model.patches(patches).mean(0)
    ground = np.rint(255 * ((mean - mean.min()) / (mean.max() - mean.min())).numpy()).astype(np.uint8)
    parts: list[Markup] = []
    for row, (features, stumps, _) in enumerate(model._cascade(1)[:3]):
        y = row * (side + 34)
        parts.append(words(f"stage {row + 1}: {len(stumps)} stumps", 0, y + 14, "label bold"))
        for place in range(min(6, len(stumps))):
            x = place * (side + gap)
            parts += [picture(ground, x, y + 22, side), *_rectangles(features.take(torch.tensor([place])),
                                                                     float(stumps[place, 1]), x, y + 22, side / WINDOW)]
    return sheet(6 * (side + gap) - gap, 3 * (side + 34), *parts, title="The first features of each stage")


def _rectangles(feature: HaarFeatures, sign: float, x: float, y: float, cell: float) -> list[Markup]:
    kind, top, left, height, width = (int(part) for part in feature)
    rows, across = list(KINDS.values())[kind]
    return [tag("rect", fill="#ffffff" if ((i + j) % 2 == 0) == (sign < 0) else "#10151d", fill_opacity=0.8,
                stroke="#2f6fb8", x=x + (left + j * width) * cell, y=y + (top + i * height) * cell, width=width * cell,
                height=height * cell) for i in range(rows) for j in range(across)]


def _detected(image: Tensor, boxes: Tensor) -> Markup:
    scale = 2.6
    shown = np.rint(255 * image[0].clamp(0, 1).numpy()).astype(np.uint8)
    marks = [tag("rect", class_="hollow first", x=x1, y=y1, width=x2 - x1, height=y2 - y1)
             for x1, y1, x2, y2 in (boxes * scale).tolist()]
    return sheet(image.shape[2] * scale, image.shape[1] * scale, picture(shown, 0, 0, image.shape[2] * scale), *marks,
                 title="A picture with what was found")
