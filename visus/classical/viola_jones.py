"""The Viola-Jones detector: an attentional cascade of boosted Haar-like features over integral images.

Papers: Viola and Jones, Rapid Object Detection using a Boosted Cascade of Simple Features, CVPR 2001, and Robust
Real-Time Face Detection, IJCV 2004 (24 x 24 windows; their cascade had 38 stages with 6,061 features in all).
Departures: the mean of a window is taken out with its variance, so brightness does not matter; the image is scaled, not
the features; stumps choose among `features` of the 162,336, drawn at random; a score is the least margin of all stages
times two, the log-odds that AdaBoost's sum estimates (Friedman, Hastie and Tibshirani, Annals of Statistics 2000).
Of two classes one is the object, and a cascade finds it among the other; of several, each has a cascade of its own.
forward: patches [B, C, S, S], normalised -> logits [B, num_classes]: a cascade's class has its margin, which is above 0
exactly where all its stages pass; the class without a cascade has 0. detect: a whole picture -> boxes and scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical.boosted_stumps import GrownStage, grow_stage
from visus.classical.fitted import Examples, Fitted
from visus.classical.window_scan import Stage, normalised, scan, votes
from visus.core.errors import DataError
from visus.core.validate import natural, positive, require
from visus.ops.boxes import merge
from visus.ops.haar import HaarFeatures, haar_features, haar_values
from visus.ops.resample import resize

VALUES_BYTES = 1 << 30  # of the values of all features of all samples
REJECTED = -10.0  # margin of a window without contrast
_NOTHING = ("background", "none", "negative", "other", "nothing")
Negatives = Callable[["ViolaJones", int], Tensor]


@dataclass(frozen=True, kw_only=True)
class ViolaJonesConfig:
    """window: side of the patches that features see, in pixels. features: drawn to choose from. stages: at most so
    many. stumps: of a stage, at most. min_detection, max_false_positives: of one stage; the cascade's are their powers.
    object_class: of two classes, 0 or 1; None for the first whose name is not that of a background. stage_sizes,
    stage_classes: stumps and class of each stage, filled by fit."""

    window: int = 24
    features: int = 6000
    stages: int = 12
    stumps: int = 60
    min_detection: float = 0.995
    max_false_positives: float = 0.5
    object_class: int | None = None
    stage_sizes: tuple[int, ...] = ()
    stage_classes: tuple[int, ...] = ()
    in_channels: int = 3
    num_classes: int = 2

    def __post_init__(self) -> None:
        positive(window=self.window, features=self.features, stages=self.stages, stumps=self.stumps,
                 in_channels=self.in_channels)
        require(self.window >= 4, "window", self.window, "be at least 4 pixels")
        require(self.num_classes >= 2, "num_classes", self.num_classes, "be at least 2: the object and what it is not")
        for name in ("min_detection", "max_false_positives"):
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "lie between 0 and 1")
        require(self.object_class in (None, 0, 1), "object_class", self.object_class, "be 0 or 1")
        for name in ("stage_sizes", "stage_classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for size, which in zip(self.stage_sizes, self.stage_classes, strict=True):
            natural(stage_sizes=size, stage_classes=which)


class ViolaJones(Fitted):
    Config = ViolaJonesConfig
    feature: Tensor
    stump: Tensor
    stage_threshold: Tensor
    least_contrast: Tensor

    def __init__(self, config: ViolaJonesConfig):
        super().__init__()
        self.config = config
        self.register_buffer("feature", torch.zeros(sum(config.stage_sizes), 5, dtype=torch.int64))  # HaarFeatures
        self.register_buffer("stump", torch.zeros(sum(config.stage_sizes), 3))  # threshold, sign, alpha
        self.register_buffer("stage_threshold", torch.zeros(len(config.stage_sizes)))
        self.register_buffer("least_contrast", torch.zeros(()))

    def fit(self, examples: Examples) -> None:
        """Stages, until none of the other class's training images passes, or there are `stages`. The val split checks
        each stage's shares where it holds both classes, and joins the training split where it does not."""
        splits = [(self.patches(images), labels) for images, labels in map(examples.gathered, ("train", "val"))]
        classes = [self._object(examples.names, examples.say)] if self.config.num_classes == 2 else list(
            range(self.config.num_classes))
        examples.begin("stages of the cascades", self.config.stages * len(classes))
        drawn = self._draw(examples.seed, examples.say)
        self.least_contrast.fill_(0.25 * float(normalised(splits[0][0])[1].clamp(min=1e-6).quantile(0.05)))
        for which in classes:
            self._fit_class(which, splits, drawn, examples)

    def _fit_class(self, which: int, splits: Sequence[tuple[Tensor, Tensor]], drawn: HaarFeatures,
                   examples: Examples) -> None:
        train, check = ((patches[labels == which], patches[labels != which]) for patches, labels in splits)
        if not len(train[0]) or not len(train[1]):
            raise DataError("viola_jones needs images of the object and of what it is not",
                            where=f"{len(train[0])} of the object and {len(train[1])} others in the train split",
                            remedy="Add a folder of images without the object")
        if not len(check[0]) or not len(check[1]):
            check = train
        pools = train[1], check[1]

        def passing(model: ViolaJones, part: int) -> Tensor:
            return pools[part][model.margins(pools[part], which) > 0]

        self._grow(which, (train[0], check[0]), passing, drawn, examples.say, examples.advance, examples.log)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, num_classes]."""
        patches = self.patches(images)
        logits = [self.margins(patches, which) if which in self.config.stage_classes else torch.zeros_like(
            patches[:, 0, 0]) for which in range(self.config.num_classes)]
        return torch.stack(logits, 1)

    def patches(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> grey [B, window, window]."""
        grey = images.mean(1, keepdim=True)
        return resize(grey, (self.config.window, self.config.window))[:, 0]

    def margins(self, patches: Tensor, which: int) -> Tensor:
        """Grey [B, window, window] -> 2 x the least of each stage's votes less its threshold, [B], in the cascade of a
        class; above 0 passes, as everything does before there is a stage."""
        margin = torch.full_like(patches[:, 0, 0], torch.inf)
        plain, deviation = normalised(patches)
        for features, stumps, threshold in self._cascade(which):
            values = haar_values(plain, features, balanced=True)
            margin = margin.minimum(2 * (votes(values, stumps) - threshold))
        margin = torch.where(margin.isinf(), 1.0, margin)
        return torch.where(deviation < self.least_contrast, REJECTED, margin)

    def _cascade(self, which: int) -> list[Stage]:
        """The stages of a class."""
        sizes = list(self.config.stage_sizes)
        stages = zip(self.feature.split(sizes), self.stump.split(sizes), self.stage_threshold,
                     self.config.stage_classes, strict=True)
        return [Stage(HaarFeatures(*rows.T), stumps, least) for rows, stumps, least, own in stages if own == which]

    @torch.no_grad()
    def windows(self, image: Tensor, scale: float = 1.25, step: int = 1, min_size: int | None = None,
                which: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, summed margins and grey patches of the windows that pass: see window_scan.scan. image: [C, H, W], as
        the model's patches, but for a brightness and contrast of its own. which: class to find; None: the object."""
        which = self.config.object_class if which is None else which
        known = sorted(set(self.config.stage_classes))
        require(which in known or not known, "which", which, f"be a class that has a cascade: {known}")
        return scan(self._cascade(which or 0), image.mean(0), self.config.window, float(self.least_contrast), scale,
                    step, min_size)

    def detect(self, image: Tensor, scale: float = 1.25, step: int = 1, min_size: int | None = None,
               min_neighbours: int = 3, overlap: float = 0.3, which: int | None = None) -> tuple[Tensor, Tensor]:
        """Boxes [K, 4] in pixels and scores [K], best first: overlapping windows (IoU above `overlap`, directly or
        through others) are one detection, which needs `min_neighbours` of them and scores their margins together."""
        boxes, margins, _ = self.windows(image, scale, step, min_size, which)
        boxes, scores, _ = merge(boxes, margins, overlap, min_neighbours)
        return boxes, scores

    def _draw(self, seed: int, say: Callable[[str], None]) -> HaarFeatures:
        every = haar_features(self.config.window)
        count = min(self.config.features, len(every.kind))
        order = torch.randperm(len(every.kind), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        if count < len(every.kind):
            say(f"stumps choose among {count:,} of the {len(every.kind):,} Haar-like features of a "
                f"{self.config.window} x {self.config.window} window, drawn with the seed (model.config.features)")
        return HaarFeatures(*(part.to(self.stump.device) for part in every.take(order)))

    def _grow(self, which: int, objects: tuple[Tensor, Tensor], negatives: Negatives, drawn: HaarFeatures,
              say: Callable[[str], None], advance: Callable[[int], None], log: Callable[..., None]) -> None:
        """objects: grey patches to learn from and to check on. negatives(model, part): patches that pass the model as
        it is, to learn from (part 0) and to check on (part 1)."""
        settings = self.config
        sizes: list[int] = []
        room = max(1, VALUES_BYTES // (4 * len(drawn.kind)))
        kept: tuple[Tensor, ...] = objects
        for _ in range(settings.stages):
            train_others, check_others = negatives(self, 0), negatives(self, 1)
            if not len(train_others):
                break
            check_others = check_others if len(check_others) else train_others
            train_others = train_others[: max(1, room - len(kept[0]))]
            parts = []
            for positives, others in ((kept[0], train_others), (kept[1], check_others[:room])):
                patches, _ = normalised(torch.cat([positives, others]))
                label = torch.arange(len(patches), device=patches.device) < len(positives)
                parts.append((haar_values(patches, drawn, balanced=True), label))
            stage = grow_stage(parts[0], parts[1], settings.min_detection, settings.max_false_positives,
                               settings.stumps)
            sizes.append(len(stage.stumps.alpha))
            self._append(which, drawn, stage)
            log(len(self.config.stage_sizes), detection=stage.detection, false_positives=stage.false_positives)
            advance(1)
            survivors = tuple(part[self.margins(part, which) > 0] for part in kept)
            kept = tuple(new if len(new) else old for new, old in zip(survivors, kept, strict=True))
        end = "" if len(sizes) == settings.stages else "; then nothing that is no object passed"
        say(f"class {which}: {len(sizes)} stages of {', '.join(map(str, sizes))} stumps{end}")

    def _append(self, which: int, drawn: HaarFeatures, stage: GrownStage) -> None:
        stumps = stage.stumps
        rows = torch.stack(list(drawn.take(stumps.feature)), 1)
        self.feature = torch.cat([self.feature, rows])
        self.stump = torch.cat([self.stump, torch.stack([stumps.threshold, stumps.sign, stumps.alpha], 1)])
        self.stage_threshold = torch.cat([self.stage_threshold, self.stump.new_tensor([stage.threshold])])
        self.config = dataclasses.replace(self.config, stage_sizes=(*self.config.stage_sizes, len(stumps.alpha)),
                                          stage_classes=(*self.config.stage_classes, which))

    def _object(self, names: Sequence[str], say: Callable[[str], None]) -> int:
        which = self.config.object_class
        if which is None:
            which = object_class(names)
            self.config = dataclasses.replace(self.config, object_class=which)
            shown = repr(names[which]) if which < len(names) else f"number {which}"
            say(f"class {shown} is taken for the object (model.config.object_class)")
        return which


def object_class(names: Sequence[str]) -> int:
    """The place of the first name that is not that of a background; 1 where no names are known or all are."""
    for place, name in enumerate(names):
        plain = name.lower().strip()
        if plain not in _NOTHING and not plain.startswith(tuple(f"{no}{gap}" for no in ("no", "non", "not")
                                                                for gap in "_- ")):
            return place
    return 1


def train_detector(patches: Tensor, pictures: Sequence[Tensor], seed: int = 0, negatives: int = 1000,
                   check_share: float = 0.2, say: Callable[[str], None] = lambda sentence: None,
                   advance: Callable[[int], None] = lambda count: None,
                   log: Callable[..., None] = lambda number, **values: None, **config: Any) -> ViolaJones:
    """A cascade for whole pictures: patches of the object, float32 [N, C, S, S], and pictures without it, [C, H, W]
    each. Each stage learns from at most `negatives` windows of the pictures that all stages before it let pass, found
    in ever finer steps; it ends where there are none. `check_share` of patches and windows check the stages.
    config: fields of ViolaJonesConfig. Raises DataError for fewer than 10 patches, or no picture as large as a window.
    """
    model = ViolaJones(ViolaJonesConfig(in_channels=patches.shape[1], object_class=1, **config))
    large = [picture for picture in pictures if min(picture.shape[-2:]) >= model.config.window]
    if len(patches) < 10 or not large:
        raise DataError("too little to learn a detector from", remedy="Give 10 patches and one picture or more",
                        where=f"{len(patches)} patches, {len(large)} pictures of {model.config.window} pixels or more")
    draw = torch.Generator().manual_seed(seed)
    grey = _shifted(model, patches)[torch.randperm(len(patches), generator=draw)]  # [N, 8, S, S]
    checked = max(1, round(check_share * len(patches)))
    found: dict[int, Tensor] = {}

    def mined(current: ViolaJones, part: int) -> Tensor:
        if part == 0:
            windows = _mine(current, large, round(negatives / (1 - check_share)), draw)
            cut = round(check_share * len(windows))
            found[1] = windows[:cut]
            return windows[cut:]
        return found[1]

    model.least_contrast.fill_(0.25 * float(normalised(grey.flatten(0, 1))[1].min()))
    objects = grey[checked:].flatten(0, 1), grey[:checked].flatten(0, 1)
    model._grow(1, objects, mined, model._draw(seed, say), say, advance, log)
    return model


def _shifted(model: ViolaJones, patches: Tensor) -> Tensor:
    """[N, C, P, P] -> [N, 8, S, S]: four crops of 24/25 of the side, one from each corner, and their mirror images: a
    scan meets an object at every offset, and an object seen in a mirror is one too."""
    side = patches.shape[-1]
    crop = max(1, side - max(1, round(side / 25)))
    corners = [patches[..., y:y + crop, x:x + crop] for y in (0, side - crop) for x in (0, side - crop)]
    crops = torch.stack([model.patches(part) for part in corners], 1)
    return torch.cat([crops, crops.flip(-1)], 1)


def _mine(model: ViolaJones, pictures: Sequence[Tensor], count: int, draw: torch.Generator) -> Tensor:
    """Up to `count` patches of the pictures that pass, drawn from those of the coarsest steps that give enough."""
    patches = torch.zeros(0, model.config.window, model.config.window)
    for step in (8, 4, 2, 1):
        patches = torch.cat([model.windows(picture, step=step)[2] for picture in pictures])
        if len(patches) >= count:
            break
    return patches[torch.randperm(len(patches), generator=draw)[:count].to(patches.device)]


VARIANTS: dict[str, dict[str, Any]] = {"viola_jones": {}}

classical.add(ViolaJones, VARIANTS, family="boosting", task="classification",
              paper="Viola, Jones: Robust Real-Time Face Detection, IJCV 2004")
