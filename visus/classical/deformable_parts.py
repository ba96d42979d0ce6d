"""The deformable part model: a root template of oriented gradients and parts that may move at a price.

Paper: Felzenszwalb, Girshick, McAllester and Ramanan, Object Detection with Discriminatively Trained Part Based Models,
TPAMI 2010; the HOG template alone is Dalal and Triggs, CVPR 2005. A mixture of components, split by the shape of boxes;
each begins as a root, gets parts where the root's weights are strong, and is trained as a latent SVM: place every
object as well as it fits, mine hard negatives, solve, again.
Departures: squared hinge; no mirrored components; negatives are windows of the same images that overlap no object; an
object's place is searched over roots that overlap its box by 0.6 (else by 0.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.classical.latent_svm import fit_svm, hard
from visus.classical.part_pyramid import CELL, Filters, Placements, Pyramid, root_only
from visus.core.errors import DataError
from visus.core.validate import natural, positive, require
from visus.ops.boxes import box_iou, clip_boxes, nms
from visus.ops.hog31 import hog31
from visus.ops.resample import resize

LEAST_COST = 0.01  # of a squared step: parts never move for nothing
FIRST_COSTS = (0.0, 0.0, 0.1, 0.1)  # section 5.2
CACHE = 4000  # negatives at most, of a component


@dataclass(frozen=True, kw_only=True)
class PartModelConfig:
    """root_cells: area of the root, in cells of 8 px. parts: of each component; 0 for the template alone. components:
    of the mixture. cost: C of the SVM. rounds: of placing and solving, with parts. per_octave: levels to a halving."""

    root_cells: int = 36
    parts: int = 6
    components: int = 1
    cost: float = 0.01
    rounds: int = 3
    per_octave: int = 4

    def __post_init__(self) -> None:
        positive(root_cells=self.root_cells, components=self.components, rounds=self.rounds, per_octave=self.per_octave)
        natural(parts=self.parts)
        require(self.root_cells >= 9, "root_cells", self.root_cells, "be at least 9")
        require(self.cost > 0, "cost", self.cost, "be greater than 0")


@dataclass(frozen=True)
class Component:
    """filters; box: [2 P + 1, 4], least squares of a box's corners, in root sizes, on where its parts are."""

    filters: Filters
    box: Tensor


class DeformablePartModel:
    """`train` gives one; `detect` finds its object. components: what was learnt; part_boxes: where the parts of a
    detection are."""

    def __init__(self, config: PartModelConfig, components: Sequence[Component]):
        self.config = config
        self.components = tuple(components)

    @classmethod
    def train(cls, images: Sequence[Tensor], boxes: Sequence[Tensor], config: PartModelConfig | None = None,
              seed: int = 0, advance: Callable[[int, int], None] = lambda done, of: None) -> DeformablePartModel:
        """images: [C, H, W] in [0, 1] each; boxes: of the object, float [n, 4] for each image. advance(done, of).
        Raises DataError where there are too few boxes, or they are too small: roots lie on images of half the size."""
        config = config or PartModelConfig()
        shapes, every = _check(images, boxes, config)
        draw = torch.Generator().manual_seed(seed)
        of = len(images) * (3 + config.rounds * (1 if config.parts else 0))
        pyramids = []
        for number, image in enumerate(images):
            pyramids.append(Pyramid(image, config.per_octave))
            advance(number + 1, of)
        order = shapes.argsort()
        components = []
        for number, chosen in enumerate(order.tensor_split(config.components)):
            own = torch.zeros(len(shapes), dtype=torch.bool)
            own[chosen] = True
            aspect = float(shapes[chosen].median())  # height to width
            sides = (config.root_cells * aspect) ** 0.5, (config.root_cells / aspect) ** 0.5
            size = max(3, round(sides[0])), max(3, round(sides[1]))
            learner = _Learner(images, boxes, pyramids, own.split([len(part) for part in boxes]), every, config, draw)
            share = number * of // config.components
            components.append(learner.learn(size, lambda done, share=share: advance(  # type: ignore[misc]
                min(of, share + len(images) + done // config.components), of)))
        advance(of, of)
        return cls(config, components)

    def detect(self, image: Tensor, threshold: float = -0.5, overlap: float = 0.4,
               most: int = 100) -> tuple[Tensor, Tensor]:
        """[C, H, W] in [0, 1] -> boxes [K, 4] in px and scores [K], best first. threshold: least score; positives were
        trained to be above 1 and others below -1. overlap: of boxes beyond which the lesser one is left out."""
        boxes, scores, _ = self._detect(image, threshold, overlap, most)
        return boxes, scores

    def part_boxes(self, image: Tensor, threshold: float = -0.5, overlap: float = 0.4,
                   most: int = 100) -> tuple[Tensor, Tensor]:
        """Root boxes [K, 4] and part boxes [K, P, 4] of the detections that `detect` gives."""
        _, _, found = self._detect(image, threshold, overlap, most)
        return torch.stack([root for root, _ in found]) if found else torch.zeros(0, 4), (
            torch.stack([parts for _, parts in found]) if found else torch.zeros(0, self.config.parts, 4))

    def _detect(self, image: Tensor, threshold: float, overlap: float,
                most: int) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        pyramid = Pyramid(image, self.config.per_octave)
        boxes, scores, details = [torch.zeros(0, 4)], [torch.zeros(0)], []
        for component in self.components:
            at = pyramid.place(component.filters, threshold, 2000)
            boxes.append(clip_boxes(predicted_boxes(component, at), (image.shape[-2], image.shape[-1])))
            scores.append(at.score)
            details += [(component, at, place) for place in range(len(at.score))]
        every, score = torch.cat(boxes), torch.cat(scores)
        kept = nms(every, score, overlap)[:most]
        found = []
        for place in kept.tolist():
            component, at, own = details[place]
            one = at.take(torch.tensor([own]))
            found.append((one.boxes[0], _part_boxes(pyramid, component.filters, one)))
        return every[kept], score[kept], found


def predicted_boxes(component: Component, at: Placements) -> Tensor:
    """Root boxes moved by what the parts say, [N, 4] (section 7.1)."""
    size = torch.cat([at.boxes[:, 2:] - at.boxes[:, :2]] * 2, 1)
    return at.boxes + size * (_offsets(component.filters, at) @ component.box)


def _offsets(filters: Filters, at: Placements) -> Tensor:
    """How far parts are from their anchors, in root sizes, and a constant, [N, 2 P + 1]."""
    away = at.parts - (2 * at.root[:, None] + 1 + filters.anchors)
    away = away / torch.tensor([2.0 * filters.size[0], 2.0 * filters.size[1]])
    return torch.cat([away.flatten(1), torch.ones(len(away), 1)], 1)


def _part_boxes(pyramid: Pyramid, filters: Filters, at: Placements) -> Tensor:
    """Of one placement, [P, 4] in px."""
    down, across = pyramid.scales[int(at.level[0])]
    corner = (at.parts[0].flip(-1) + 1 - 2 * pyramid.border).to(torch.float32) * CELL
    boxes = torch.cat([corner, corner + CELL * filters.parts.shape[-1]], 1)
    return boxes / boxes.new_tensor([across, down, across, down])


def place_parts(root: Tensor, count: int) -> Filters:
    """A root [31, h, w] with `count` square parts where its positive weights at twice the resolution have most energy,
    chosen one after the other, each taking its cells away (section 5.2). Together they cover 80 % of the root."""
    height, width = root.shape[1:]
    size = max(2, min(2 * min(height, width), round((0.8 * 4 * height * width / count) ** 0.5)))
    fine = F.interpolate(root[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
    energy = fine.clamp(min=0).square().sum(0)
    parts, anchors = [], []
    for _ in range(count):
        sums = F.avg_pool2d(energy[None, None], size, 1)[0, 0]
        y, x = divmod(int(sums.argmax()), sums.shape[1])
        parts.append(fine[:, y:y + size, x:x + size])
        anchors.append((y, x))
        energy[y:y + size, x:x + size] = 0
    return Filters(root, torch.stack(parts), torch.tensor(anchors), torch.tensor([FIRST_COSTS] * count), 0.0)


class _Learner:
    """One component: `own` says which boxes of each image it is to learn; no negative may touch any of `boxes`."""

    def __init__(self, images: Sequence[Tensor], boxes: Sequence[Tensor], pyramids: Sequence[Pyramid],
                 own: Sequence[Tensor], every: int, config: PartModelConfig, draw: torch.Generator):
        self.images, self.boxes, self.pyramids, self.own = images, boxes, pyramids, own
        self.every, self.config, self.draw = every, config, draw

    def learn(self, size: tuple[int, int], advance: Callable[[int], None]) -> Component:
        filters = root_only(*size)
        positives = self._warped(size)
        negatives = self._random_negatives(filters)
        filters = self._solve(filters, positives, negatives)
        done = 0
        for _ in range(2):  # the root alone, against its own mistakes
            negatives = self._mine(filters, negatives)
            filters = self._solve(filters, positives, negatives)
            done += len(self.images)
            advance(done)
        if self.config.parts:
            bias = filters.bias
            filters = place_parts(filters.root, self.config.parts)
            filters = Filters(filters.root, filters.parts, filters.anchors, filters.costs, bias)
            negatives = torch.zeros(0, filters.vector().numel())
            for _ in range(self.config.rounds):
                positives, _, _ = self._place(filters)
                negatives = self._mine(filters, negatives)
                filters = self._solve(filters, positives, negatives)
                done += len(self.images)
                advance(done)
        _, placed, truth = self._place(filters)
        return Component(filters, self._boxes(filters, placed, truth))

    def _warped(self, size: tuple[int, int]) -> Tensor:
        """Each box, stretched to the root's size: features [N, D]. A rim of one cell is taken along."""
        rows = []
        for image, boxes, own in zip(self.images, self.boxes, self.own, strict=True):
            for box in boxes[own]:
                cell = (box[2:] - box[:2]) / box.new_tensor([size[1], size[0]])
                x1, y1 = (int(v) for v in (box[:2] - cell).round())
                x2, y2 = (int(v) for v in (box[2:] + cell).round())
                y = torch.arange(y1, max(y2, y1 + 1)).clamp(0, image.shape[1] - 1)
                x = torch.arange(x1, max(x2, x1 + 1)).clamp(0, image.shape[2] - 1)
                window = resize(image[:, y][:, :, x][None], ((size[0] + 2) * CELL, (size[1] + 2) * CELL))
                rows.append(hog31(window, CELL)[0].flatten())
        features = torch.stack(rows)
        filters = root_only(*size)
        constant = torch.full((len(features), filters.vector().numel() - features.shape[1]), 10.0)
        return torch.cat([features, constant], 1)

    def _random_negatives(self, filters: Filters) -> Tensor:
        found = []
        for pyramid, boxes in zip(self.pyramids, self.boxes, strict=True):
            at = pyramid.place(filters)
            at = at.take(_apart(at.boxes, boxes).nonzero()[:, 0])
            each = max(4, 2000 // len(self.images))
            found.append(pyramid.features(filters, at.take(torch.randperm(len(at.score), generator=self.draw)[:each])))
        return torch.cat(found)[:CACHE]

    def _mine(self, filters: Filters, negatives: Tensor) -> Tensor:
        """Old negatives that are still hard, and new ones: the best-scoring windows that touch no object."""
        weights = filters.vector()
        kept = negatives[hard(negatives, weights)]
        each = max(5, CACHE // (2 * len(self.images)))
        found = [kept]
        for pyramid, boxes in zip(self.pyramids, self.boxes, strict=True):
            at = pyramid.place(filters, -1.0, 3000)
            at = at.take(_apart(at.boxes, boxes).nonzero()[:, 0])
            at = at.take(nms(at.boxes, at.score, 0.7)[:each])
            found.append(pyramid.features(filters, at))
        every = torch.unique(torch.cat(found), dim=0)
        return every[(every @ weights).topk(min(CACHE, len(every))).indices]

    def _place(self, filters: Filters) -> tuple[Tensor, list[Placements], Tensor]:
        """Where each object fits best: features [N, D], placements, and the boxes [N, 4]."""
        rows, placed, truth = [], [], []
        for pyramid, boxes, own in zip(self.pyramids, self.boxes, self.own, strict=True):
            if not own.any():
                continue
            at = pyramid.place(filters)
            overlap = box_iou(boxes[own], at.boxes)
            for box, row in zip(boxes[own], overlap, strict=True):
                for least in (0.6, 0.4):
                    if bool((row >= least).any()):
                        best = at.take(torch.where(row >= least, at.score, -torch.inf).argmax()[None])
                        rows.append(pyramid.features(filters, best))
                        placed.append(best)
                        truth.append(box)
                        break
        if not rows:
            raise DataError("no object is large enough for the root filter", where=f"{self.every} boxes",
                            remedy=f"Objects need {2 * CELL * min(filters.size)} px or more: enlarge the images, or "
                                   "lower root_cells")
        return torch.cat(rows), placed, torch.stack(truth)

    def _solve(self, filters: Filters, positives: Tensor, negatives: Tensor) -> Filters:
        signs = torch.cat([torch.ones(len(positives)), -torch.ones(len(negatives))])
        lowest = torch.full_like(filters.vector(), -torch.inf)
        start = filters.root.numel() + filters.parts.numel()
        lowest[start:-1].view(-1, 4)[:, 2:] = LEAST_COST
        cost = torch.where(signs > 0, self.config.cost * max(1.0, len(negatives) / len(positives)) ** 0.5,
                           self.config.cost)
        weights = fit_svm(torch.cat([positives, negatives]), signs, cost, filters.vector(), lowest)
        return filters.with_vector(weights)

    @staticmethod
    def _boxes(filters: Filters, placed: list[Placements], truth: Tensor) -> Tensor:
        """Least squares with a ridge, which also holds the constant of a few boxes near 0."""
        at = Placements.join(placed)
        known = _offsets(filters, at)
        size = torch.cat([at.boxes[:, 2:] - at.boxes[:, :2]] * 2, 1)
        target = (truth - at.boxes) / size
        ridge = torch.eye(known.shape[1])
        ridge[-1, -1] = 1e-3
        return torch.linalg.solve(known.T @ known + ridge, known.T @ target)


def _apart(boxes: Tensor, objects: Tensor) -> Tensor:
    """Which boxes overlap no object by 0.3 or more, bool [N]."""
    if not len(objects):
        return torch.ones(len(boxes), dtype=torch.bool)
    return box_iou(boxes, objects).amax(1) < 0.3


def _check(images: Sequence[Tensor], boxes: Sequence[Tensor], config: PartModelConfig) -> tuple[Tensor, int]:
    """Height to width of every box, and how many there are."""
    if len(images) != len(boxes):
        raise DataError(f"{len(images)} images, but {len(boxes)} tensors of boxes", remedy="Give one for each image")
    every = torch.cat(list(boxes)) if len(boxes) else torch.zeros(0, 4)
    sides = every[:, 2:] - every[:, :2]
    if len(every) < max(3, 2 * config.components):
        raise DataError(f"{len(every)} boxes are too few for {config.components} components",
                        remedy=f"Give {max(3, 2 * config.components)} or more")
    if bool((sides <= 0).any()):
        raise DataError("a box has no area", where=f"box {every[(sides <= 0).any(1)][0].tolist()}",
                        remedy="Leave it out; boxes are (x1, y1, x2, y2)")
    return sides[:, 1] / sides[:, 0], len(every)
