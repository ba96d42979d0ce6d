"""A layout of looks, learnt from pictures that only say that a face is somewhere in them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from visus.classical.constellation import Constellation, all_hypotheses, interest_points, learn_constellation
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, same
from visus.report.sketch import edge, picture, plot, sheet
from visus.run.demo import Tell
from visus.run.demos._drawn_faces import SIZE, drawn_face

TOPIC = "classical"
SUMMARY = "interest points in a typical layout, learnt by EM from pictures without marks"
SOURCE = "Fergus, Perona, Zisserman, CVPR 2003; ICCV 2005 short course, parts and structure"

POINTS, PARTS, LOOKS = 8, 3, 6
STRAY, NOISE = 3, 0.15
NEAR_PX = 4.0  # of a part's centre


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    draw = torch.Generator().manual_seed(seed)
    learn, judge = (60, 40) if small else (120, 100)
    faces, places = _pictures(learn + judge, draw, face=True)
    clutter, _ = _pictures(judge, draw, face=False)
    advance(1, 3)
    points, patches = interest_points(faces, POINTS)
    looks, basis, middle = _looks(patches[:learn])
    model, curve = learn_constellation(points[:learn], looks, float(SIZE[0] * SIZE[1]), PARTS, 12 if small else 20,
                                       10, seed)
    advance(2, 3)
    seen = (patches[learn:] - middle) @ basis
    scores, best = model.score(points[learn:], seen)
    stray_points, stray_patches = interest_points(clutter, POINTS)
    strays, _ = model.score(stray_points, (stray_patches - middle) @ basis)
    area = float((scores[:, None] > strays).float().mean())
    found = points[learn:][torch.arange(judge)[:, None], best]  # [judge, P, 2]
    away = (found[:, :, None] - places[learn:, None].float()).norm(dim=-1).amin(-1)
    on_face = float((away <= NEAR_PX).float().mean())
    chance = (points[learn:, :, None] - places[learn:, None].float()).norm(dim=-1).amin(-1)
    by_chance = float((chance <= NEAR_PX).float().mean())
    advance(3, 3)
    facts = [
        same(f"ways to take {PARTS} of {POINTS} points in order", len(all_hypotheses(POINTS, PARTS)), 8 * 7 * 6),
        above("least change of the mean log ratio in a step of EM, but for the ridges on variances",
              min(later - earlier for earlier, later in itertools.pairwise(curve)), -0.05),
        above("pairs of a new face and a new picture of clutter in which the face scores higher, share", area, 0.8),
        above("chosen points that lie on a part of the face, less the share of all points that do",
              on_face - by_chance, 0.1),
    ]
    table = Table("On new pictures", ["what", "share"], [
        ["faces above clutter (area under the ROC curve)", f"{area:.3f}"],
        ["chosen points on a part of the face", f"{on_face:.1%}"], ["any points on a part of the face",
                                                                  f"{by_chance:.1%}"]],
                  f"Learnt from {learn} pictures with a face somewhere; judged on {judge} others and {judge} without.")
    top = int(scores.argmax())
    return Shown(
        "A face, learnt from pictures without marks",
        "Each picture gives a few interest points: where they are and how their surroundings look. Some lie on the "
        "face, the others on clutter, and nobody says which.\n\n"
        "A model of parts says how each part looks and how the parts stand to one another. Every way of taking points "
        "for the parts is a hypothesis, a picture's likelihood is the sum over all of them, and expectation "
        "maximisation gives each hypothesis its share and then moves the model to it.",
        [Drawing(_marked(faces[learn + top], points[learn + top], found[top]), "Orange: interest points. Blue: the "
                 "best hypothesis.", "A new face"),
         Drawing(plot([("mean log ratio", [(float(k + 1), value) for k, value in enumerate(curve)])],
                      x_label="step of EM", title="Log-likelihood ratio during learning"),
                 "Of faces to clutter, on the pictures learnt from.", "Learning"),
         Drawing(_layout(model), "Each part's mean place from the first, with one and two standard deviations.",
                 "The layout that was learnt")], facts, [table])


def _pictures(count: int, draw: torch.Generator, face: bool) -> tuple[Tensor, Tensor]:
    made = [drawn_face(draw, NOISE, STRAY, face) for _ in range(count)]
    return torch.stack([image for image, _ in made]), torch.stack([places for _, places in made])


def _looks(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components: of the patches [B, N, D] -> [B, N, LOOKS], the basis [D, LOOKS] and the mean [D]."""
    flat = patches.flatten(0, 1)
    middle = flat.mean(0)
    _, _, basis = torch.linalg.svd(flat - middle, full_matrices=False)
    axes = basis[:LOOKS].T
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (patches - middle) @ axes, axes, middle


def _marked(image: Tensor, points: Tensor, chosen: Tensor) -> Markup:
    scale = 5.0
    grey = np.rint(255 * ((image - image.min()) / (image.max() - image.min())).numpy()).astype(np.uint8)
    marks = [tag("circle", class_="hollow second", cx=(x + 0.5) * scale, cy=(y + 0.5) * scale, r=9.0)
             for y, x in points.tolist()]
    places = [((x + 0.5) * scale, (y + 0.5) * scale) for y, x in chosen.tolist()]
    marks += [edge(*places[0], *other, "edge first") for other in places[1:]]
    marks += [tag("circle", class_="hollow first", cx=x, cy=y, r=16.0) for x, y in places]
    return sheet(SIZE[1] * scale, SIZE[0] * scale, picture(grey, 0, 0, SIZE[1] * scale), *marks,
                 title="A picture with its interest points and the best hypothesis")


def _layout(model: Constellation) -> Markup:
    scale, middle = 5.0, 190.0
    means = model.layout_mean.view(-1, 2)
    parts = [tag("circle", class_="node first", cx=middle, cy=middle, r=7.0)]
    for part, (y, x) in enumerate(means.tolist()):
        down, across = (float(model.layout_covariance[2 * part + k, 2 * part + k]) ** 0.5 for k in (0, 1))
        at = middle + scale * x, middle + scale * y
        parts.append(edge(middle, middle, *at, "edge"))
        parts += [tag("ellipse", class_="hollow first", cx=at[0], cy=at[1], rx=scale * times * across,
                      ry=scale * times * down) for times in (1, 2)]
    return sheet(2 * middle, 2 * middle, *parts, title="The layout of the parts")
