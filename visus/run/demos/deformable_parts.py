"""An object whose parts stand differently each time: a deformable part model against one rigid template."""

from __future__ import annotations

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from visus.classical.deformable_parts import LEAST_COST, DeformablePartModel, PartModelConfig
from visus.classical.part_pyramid import Filters, Pyramid
from visus.metrics.box_precision import box_average_precision
from visus.ops.distance_transform import distance_transform_2d
from visus.ops.hog31 import glyphs
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, below, shown
from visus.report.sketch import bounds, picture, sheet, words
from visus.run.demo import Tell
from visus.run.demos._digit_scenes import digit_images, scene

TOPIC = "classical"
SUMMARY = "root, moving parts and the price of moving, against one rigid HOG template"
SOURCE = "Felzenszwalb, Girshick, McAllester, Ramanan, TPAMI 32 (2010)"

WHAT, SWAY = (3, 7), 20  # the object: a three and, to its right, a seven that moves up to 20 px each way


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    train, test = (10, 10) if small else (60, 60)
    images, labels = digit_images()
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=draw)
    halves = order[:1200], order[1200:]
    scenes = [[scene(images[own], labels[own], WHAT, draw, size=(176, 208), digit_px=(44, 52), others=3, sway=SWAY)
               for _ in range(count)] for own, count in zip(halves, (train, test), strict=True)]
    models = {}
    for number, (name, parts) in enumerate((("root alone", 0), ("root and parts", 4))):
        models[name] = DeformablePartModel.train(
            [image for image, _ in scenes[0]], [box for _, box in scenes[0]],
            PartModelConfig(root_cells=18, parts=parts, rounds=2 if small else 3, per_octave=2 if small else 3), seed,
            lambda done, of, number=number: advance(number * of + done, 3 * of))  # type: ignore[misc]
    found = {name: [model.detect(image, -1.0) for image, _ in scenes[1]] for name, model in models.items()}
    truth = [box for _, box in scenes[1]]
    precision = {name: box_average_precision(one, truth) for name, one in found.items()}
    advance(3, 3)
    model = models["root and parts"]
    filters = model.components[0].filters
    pyramid = Pyramid(scenes[1][0][0], model.config.per_octave)
    at = pyramid.place(filters, most=200)
    product = pyramid.features(filters, at) @ filters.vector()
    maps = torch.randn(3, 9, 7, generator=draw)
    facts = [
        below("score of 200 placements by convolution and distance transform, against the product of their features "
              "with the weights, largest difference", float((product - at.score).abs().max()), 1e-3),
        below("distance transform of three random maps against every pair of places, largest difference",
              _worst(maps), 1e-4),
        above("least price of a squared step of any part", float(filters.costs[:, 2:].min()), LEAST_COST - 1e-6),
        shown("parts find more than the rigid template: average precision at IoU 0.5 on new pictures",
              precision["root and parts"][0] > precision["root alone"][0], f"{precision['root and parts'][0]:.3f}",
              f"above {precision['root alone'][0]:.3f}"),
    ]
    table = Table("On pictures that no model saw", ["model", "average precision", "objects found"],
                  [[name, f"{one:.3f}", f"{recall:.0%}"] for name, (one, recall) in precision.items()],
                  f"{train} pictures to learn from, {test} to judge on; a box counts at IoU 0.5 or more.")
    return Shown(
        "Parts that may move, at a price",
        "The object is a three with a seven to its right. The two do not keep their distance, and other digits lie "
        "around. A template of oriented gradients for the whole must blur over all these layouts.\n\n"
        "A part model keeps a coarse template, the root, and adds parts at twice the resolution. Each part looks for "
        "its best place near its anchor and pays for the way, so one convolution a part and one distance transform "
        "score all layouts at once. Nobody marks parts: they start where the root's weights are strong, and a latent "
        "support vector machine places and trains them in turn.",
        [Drawing(_learnt(filters), "Left: the root's positive weights as strokes along edges. Middle: the parts at "
                 "their anchors. Right: what moving costs, darker is dearer.", "What was learnt", wide=True),
         *[Drawing(_detected(*scenes[1][place], model), "Blue: the best detection. Orange: where its parts lie.",
                   f"New picture {place + 1}") for place in range(2)]], facts, [table])


def _worst(maps: Tensor) -> float:
    cost = torch.tensor([0.1, -0.2, 0.3, 0.05])
    best = distance_transform_2d(maps, cost)[0]
    y, x = torch.arange(maps.shape[1]), torch.arange(maps.shape[2])
    dy, dx = y[None, :] - y[:, None], x[None, :] - x[:, None]  # [from, to]
    price = (cost[0] * dx + cost[2] * dx**2)[None, :, None, :] + (cost[1] * dy + cost[3] * dy**2)[:, None, :, None]
    return float(((maps[:, None, None] - price).amax((-2, -1)) - best).abs().max())


def _grey(values: Tensor) -> np.ndarray:
    return np.rint(255 * values.clamp(0, 1).numpy()).astype(np.uint8)


def _learnt(filters: Filters) -> Markup:
    height, width = filters.size
    cell, gap, top = 50, 24, 26
    strokes = _grey(glyphs(filters.root, 20))
    size, scale = filters.parts.shape[-1], cell / 2
    canvas = torch.zeros(2 * height * 12, 2 * width * 12)
    prices = torch.ones(2 * height, 2 * width)
    for part, (y, x), cost in zip(filters.parts, filters.anchors.tolist(), filters.costs, strict=True):
        at = canvas[12 * y:12 * (y + size), 12 * x:12 * (x + size)]
        at.copy_(at.maximum(glyphs(part, 12)))
        away = torch.arange(size) - (size - 1) / 2
        dy, dx = torch.meshgrid(away, away, indexing="ij")
        price = cost[0] * dx + cost[1] * dy + cost[2] * dx**2 + cost[3] * dy**2
        prices[y:y + size, x:x + size] = 1 - (price - price.min()) / (price.max() - price.min()).clamp(min=1e-9)
    parts: list[Markup] = []
    for place, (name, pixels) in enumerate((("root", strokes), ("parts", _grey(canvas)), ("price of moving",
                                                                                        _grey(prices)))):
        left = place * (width * cell + gap)
        parts += [words(name, left, 16, "label bold"), picture(pixels, left, top, width * cell)]
        if place:
            parts += [bounds(left + x * scale, top + y * scale, size, size, scale, "hollow second")
                      for y, x in filters.anchors.tolist()]
    return sheet(3 * width * cell + 2 * gap, top + height * cell + 4, *parts, title="Root, parts and prices")


def _detected(image: Tensor, truth: Tensor, model: DeformablePartModel) -> Markup:
    scale = 2.0
    elements = [picture(_grey(image[0]), 0, 0, image.shape[2] * scale)]
    boxes, _ = model.detect(image, -1.0, most=1)
    parts = model.part_boxes(image, -1.0, most=1)[1]
    for kind, each in (("hollow second", parts.flatten(0, 1)), ("hollow first", boxes)):
        for x1, y1, x2, y2 in (each * scale).tolist():
            elements.append(tag("rect", class_=kind, x=x1, y=y1, width=x2 - x1, height=y2 - y1))
    return sheet(image.shape[2] * scale, image.shape[1] * scale, *elements, title="A picture with its detection")
