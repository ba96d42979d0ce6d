"""SIFT keypoints of a picture and of its turned, smaller and darker copy, and which of them find each other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor

from visus.ops.sift import Keypoints, luma, match, sift
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, near, same
from visus.report.sketch import edge, picture, sheet, words
from visus.run.demo import Tell
from visus.run.demos._shape_scenes import as_pixels, shapes

TOPIC = "classical"
SUMMARY = "keypoints that are found again after a turn, and how they are matched"
SOURCE = "Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 60, 2004"

SIDE, TURN_DEG, SCALE, DRAWN = 240, 35.0, 0.8, 60
NEAR_PX = 2.0


def make(seed: int, advance: Tell) -> Shown:
    image = shapes(seed, SIDE)
    copy = 0.15 + 0.6 * _moved(image)
    advance(1, 3)
    first, second = sift(torch.cat([image, copy]))
    advance(2, 3)
    pairs = match(first.descriptors, second.descriptors)
    expected = _where(first.places)
    right = (expected[pairs[:, 0]] - second.places[pairs[:, 1]]).norm(dim=1) < NEAR_PX
    plain = match(_patches(image, first.places), _patches(copy, second.places))
    plain_right = (expected[plain[:, 0]] - second.places[plain[:, 1]]).norm(dim=1) < NEAR_PX
    good = pairs[right]
    turns = (second.angles[good[:, 1]] - first.angles[good[:, 0]]) % (2 * math.pi)
    sizes = second.sigmas[good[:, 1]] / first.sigmas[good[:, 0]]
    advance(3, 3)

    facts = [
        same("numbers that describe a keypoint", first.descriptors.shape[1], 128),
        above("matches that lie where the turn puts them", float(right.sum()), 30),
        above(f"share of all matches that are right, within {NEAR_PX:g} px", float(right.float().mean()), 0.9),
        near("turn between matched keypoints, median of degrees", math.degrees(float(turns.median())), TURN_DEG, 2),
        near("ratio of their sizes, median", float(sizes.median()), SCALE, 0.03),
        above("right matches for each one that upright patches of pixels give",
              float(right.sum()) / max(1, int(plain_right.sum())), 3),
    ]
    table = Table("What was compared", ["description", "matches", "right"], [
        ["SIFT", len(pairs), int(right.sum())],
        ["grey values of 16 x 16 px, as they are", len(plain), int(plain_right.sum())]],
        f"The same keypoints ({len(first)} and {len(second)}), the same rule: the nearest description, clearly nearer "
        "than the next one, both ways.")
    return Shown(
        "Keypoints that are found again",
        "A keypoint is a spot that stands out from its surroundings at one particular size: an extremum of the "
        "difference of two blurs, over place and size. It has a direction of its own, the prevailing one of the "
        "gradients around it.\n\n"
        f"The copy is turned by {TURN_DEG:g} degrees, reduced to {SCALE:.0%} and has less contrast. Each keypoint is "
        "described by histograms of gradients that count directions from its own and lengths in its own size, so "
        "that the description stays the same.",
        [Drawing(_pair(image, copy, first, second, pairs, right),
                 f"The {DRAWN} strongest matches. Blue: where the turn puts it, orange: elsewhere. A circle is as "
                 "large as the spot that it stands for.", "Matches", wide=True)], facts, [table])


def _matrix() -> Tensor:
    """The turn and the scale, [2, 2], on (x, y) downwards."""
    cos, sin = math.cos(math.radians(TURN_DEG)) * SCALE, math.sin(math.radians(TURN_DEG)) * SCALE
    return torch.tensor([[cos, -sin], [sin, cos]])


def _moved(image: Tensor) -> Tensor:
    inverse = torch.linalg.inv(_matrix())
    grid = F.affine_grid(torch.cat([inverse, torch.zeros(2, 1)], dim=1)[None], list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _where(places: Tensor) -> Tensor:
    """Places in the picture -> in its copy, [N, 2]."""
    middle = (SIDE - 1) / 2
    return (places - middle) @ _matrix().T + middle


def _patches(image: Tensor, places: Tensor) -> Tensor:
    """Upright windows of 16 x 16 px around the places, without their mean, of length 1: [N, 256]."""
    steps = torch.arange(16) - 7.5
    x, y = places[:, 0, None, None] + steps, places[:, 1, None, None] + steps[:, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)  # [N, 16, 16, 2]
    grid = (grid + 0.5) * (2 / SIDE) - 1
    found = F.grid_sample(luma(image), grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)
    flat = found[0, 0].view(len(places), 256)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _pair(image: Tensor, copy: Tensor, first: Keypoints, second: Keypoints, pairs: Tensor, right: Tensor) -> Markup:
    scale, gap, top = 1.75, 30, 26
    shift = SIDE * scale + gap
    parts = [words("picture", 0, 16, "label bold"), words("its copy", shift, 16, "label bold"),
             picture(as_pixels(image), 0, top, SIDE * scale), picture(as_pixels(copy), shift, top, SIDE * scale)]
    order = torch.argsort(first.strengths[pairs[:, 0]], descending=True)[:DRAWN]
    for number in order.tolist():
        one, other = pairs[number].tolist()
        kind = "first" if right[number] else "second"
        ends = []
        for points, row, left in ((first, one, 0.0), (second, other, shift)):
            x, y = ((points.places[row] + 0.5) * scale).tolist()
            radius = max(3.0, float(points.sigmas[row]) * scale * 1.4)
            angle = float(points.angles[row])
            x, y = x + left, y + top
            parts += [tag("circle", class_=f"hollow {kind}", cx=round(x, 1), cy=round(y, 1), r=round(radius, 1)),
                      edge(x, y, x + radius * math.cos(angle), y + radius * math.sin(angle), f"edge {kind}")]
            ends += [x, y]
        parts.append(tag("line", class_=f"edge {kind}", x1=round(ends[0], 1), y1=round(ends[1], 1),
                         x2=round(ends[2], 1), y2=round(ends[3], 1), stroke_opacity=0.45))
    return sheet(shift + SIDE * scale, SIDE * scale + top, *parts, title="Matched keypoints of a picture and its copy")
