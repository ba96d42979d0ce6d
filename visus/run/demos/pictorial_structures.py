"""Parts on springs: a drawn face is found by all its parts together where none of them can be found alone."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor

from visus.classical.pictorial_structures import Structure, learn_structure
from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, below, same
from visus.report.sketch import edge, picture, sheet, words
from visus.run.demo import Tell
from visus.run.demos._drawn_faces import PARTS, REST, SIZE, drawn_face, face_places, part_templates

TOPIC = "classical"
SUMMARY = "parts on springs: the best layout of a tree, exactly, by dynamic programming"
SOURCE = "Fischler, Elschlager, IEEE Trans. Computers C-22 (1973); Felzenszwalb, Huttenlocher, IJCV 61 (2005)"

NEAR_PX = 2.5  # a part that is found so near its place is found


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    draw = torch.Generator().manual_seed(seed)
    count = 20 if small else 100
    learn = torch.stack([face_places(draw) for _ in range(40)]).float()
    structure, order = learn_structure(learn, (0, 0, 0, 0))
    free, free_order = learn_structure(learn)
    faces = []
    for number in range(count):
        faces.append(drawn_face(draw))
        advance(number + 1, count)
    templates = part_templates()
    matches = [_matches(image, templates) for image, _ in faces]
    together = [structure.best(each)[0] for each in matches]
    alone = [_alone(each) for each in matches]
    truth = [places for _, places in faces]
    share = {name: _share(found, truth) for name, found in (("each part alone", alone), ("with springs", together))}
    gap, agree = _brute(draw)
    facts = [
        same("small maps where the layout is the best of all 8,000 layouts, of 5", agree, 5),
        below("largest difference of its score from theirs", gap, 1e-4),
        above("rightly placed parts with springs, more than without, in percentage points",
              100 * (share["with springs"] - share["each part alone"]), 10),
        below("resting places learnt from 40 examples against those of the drawing, largest difference in px",
              float((structure.offsets - torch.tensor(REST)).abs().max()), 1.5),
        below("summed log variance of the springs of the tree that the examples choose, against that of the star",
              _log_variance(free), _log_variance(structure) + 1e-4),
    ]
    joints = ", ".join(f"{PARTS[free_order[part]]} to {PARTS[free_order[free.parents[part]]]}"
                       for part in range(1, len(PARTS)))
    table = Table(f"Parts within {NEAR_PX} px of their place, {count} pictures", ["how", "parts found"],
                  [[name, f"{value:.1%}"] for name, value in share.items()],
                  f"A tree of least entropy, chosen from the examples: {joints}.")
    away = [[float((found - place).abs().sum()) for found, place in zip(way, truth, strict=True)]
            for way in (alone, together)]
    worst = max(range(count), key=lambda k: away[0][k] - away[1][k])
    return Shown(
        "Parts on springs",
        "A face is two eyes, a nose and a mouth, each a small pattern that noise and clutter imitate all over the "
        "picture. A layout's score is how well each part fits where it lies, less what the springs between them "
        "cost.\n\n"
        "There are as many layouts as places to the power of the parts. On a tree of springs the best one needs no "
        "search: each part tells its parent, for every place, the best that it can do, and a distance transform "
        "computes that for all places at once.",
        [Drawing(_drawn(faces[worst][0], alone[worst], structure), "Each part at its own best place.",
                 "Each part alone"),
         Drawing(_drawn(faces[worst][0], together[worst], structure), "The best layout of all.", "With springs"),
         Drawing(_maps(matches[worst], structure), "How well each part fits each place, and the root's map after the "
                 "messages of the others: brighter is better.", "Matches and the sum of messages", wide=True)],
        facts, [table])


def _matches(image: Tensor, templates: Tensor) -> Tensor:
    """Log-likelihood of each part at each place, up to a constant: correlation over the noise's variance, [4, H, W]."""
    found = F.conv2d(image[None, None], templates[:, None], padding=4)[0]
    return (found - 0.5 * templates.square().sum((1, 2))[:, None, None]) / 0.35**2


def _alone(matches: Tensor) -> Tensor:
    best = matches.flatten(1).argmax(1)
    return torch.stack([best // matches.shape[2], best % matches.shape[2]], 1)


def _share(found: list[Tensor], truth: list[Tensor]) -> float:
    away = (torch.stack(found) - torch.stack(truth)).float().norm(dim=-1)
    return float((away <= NEAR_PX).float().mean())


def _brute(draw: torch.Generator) -> tuple[float, int]:
    """Five small problems with every layout tried: largest difference of scores, and how often the layouts agree."""
    places = torch.tensor(list(itertools.product(range(4), range(5))))
    layouts = places[torch.cartesian_prod(*[torch.arange(20)] * 3)]  # [8000, 3, 2]
    gap, agree = 0.0, 0
    for _ in range(5):
        structure = Structure((0, 0, 1), 2 * torch.randn(3, 2, generator=draw), torch.rand(3, 2, generator=draw) + 0.05)
        maps = 2 * torch.randn(3, 4, 5, generator=draw)
        scores = structure.score(maps, layouts)
        found, score = structure.best(maps)
        gap = max(gap, abs(score - float(scores.max())))
        agree += int(torch.equal(found, layouts[scores.argmax()]))
    return gap, agree


def _log_variance(structure: Structure) -> float:
    return -float((2 * structure.stiffness[1:]).log().sum())


def _grey(values: Tensor) -> np.ndarray:
    low, high = values.min(), values.max()
    return np.rint(255 * ((values - low) / (high - low)).numpy()).astype(np.uint8)


def _drawn(image: Tensor, places: Tensor, structure: Structure) -> Markup:
    scale = 5.0
    centre = [((x + 0.5) * scale, (y + 0.5) * scale) for y, x in places.tolist()]
    marks = [edge(*centre[part], *centre[structure.parents[part]], "edge second") for part in range(1, len(centre))]
    marks += [tag("rect", class_="hollow first", x=x - 4.5 * scale, y=y - 4.5 * scale, width=9 * scale,
                  height=9 * scale) for x, y in centre]
    return sheet(SIZE[1] * scale, SIZE[0] * scale, picture(_grey(image), 0, 0, SIZE[1] * scale), *marks,
                 title="A picture with the parts that were found")


def _maps(matches: Tensor, structure: Structure) -> Markup:
    side, gap = 170, 14
    worth, _ = structure.messages(matches)
    maps = [(name, matches[place]) for place, name in enumerate(PARTS)] + [("all, at the nose", worth[0])]
    parts: list[Markup] = []
    for place, (name, values) in enumerate(maps):
        shown = values.clamp(min=float(values.quantile(0.2)))
        left = place * (side + gap)
        parts += [words(name, left, 14, "label bold"), picture(_grey(shown), left, 22, side)]
    return sheet(len(maps) * (side + gap) - gap, 24 + side * SIZE[0] / SIZE[1], *parts, title="Maps of matches")
