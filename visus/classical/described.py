"""Classifiers on hand-made features: what they share from images to standardised rows, and from rows to scores.

Images come normalised. Where features need colours as they were, they are put back into [0, 1] with the least and the
largest value of each channel among the training images: for images that have black and full colour somewhere that is
exactly the inverse of the normalisation.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.classical.fitted import GATHERED_BYTES, Examples, Fitted
from visus.classical.hinge import Hinge
from visus.classical.linear import CHOSEN_ON, STRENGTHS, choose_strength, some, with_ones
from visus.classical.splitting import Solution, Splitting
from visus.core.errors import ResourceError, UserError

TOTAL = 32.0
TOLERANCE = 1e-3  # relative gap of the objective
SHARPEST = (0.01, 100.0)  # least and largest factor of the scores


class Described(Fitted):
    """Buffers low, high [C] (of the training images), mean, scale [D] (of their features). Its config has in_channels.
    A subclass says how images in [0, 1] become features, and what follows them."""

    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor
    method = "features"

    def begin(self, dim: int) -> None:
        """Empty buffers for `dim` features."""
        channels = self.config.in_channels
        for name, values in (("low", torch.zeros(channels)), ("high", torch.ones(channels)),
                             ("mean", torch.zeros(dim)), ("scale", torch.ones(dim))):
            self.register_buffer(name, values)

    @abstractmethod
    def describe(self, images: Tensor) -> Tensor:
        """In [0, 1], [B, C, H, W] -> features [B, D]."""

    def restored(self, images: Tensor) -> Tensor:
        """Normalised [B, C, H, W] -> in [0, 1]."""
        if images.shape[1] != len(self.low):
            raise UserError(f"this model was built for images of {len(self.low)} channels",
                            where=f"images of {images.shape[1]}", remedy="Build it with their in_channels")
        low, high = (part[:, None, None] for part in (self.low, self.high))
        return ((images - low) / (high - low)).clamp(0, 1)

    def rows(self, images: Tensor) -> Tensor:
        """Normalised [B, C, H, W] -> standardised features [B, D]."""
        return (self.describe(self.restored(images)) - self.mean) / self.scale

    def learn_range(self, examples: Examples) -> None:
        """One pass: low and high."""
        examples.begin("colours", examples.count)
        low, high = torch.full_like(self.low, float("inf")), torch.full_like(self.high, -float("inf"))
        for images, _ in examples.train():
            flat = images.to(low.device).movedim(1, 0).flatten(1)
            low, high = torch.minimum(low, flat.amin(1)), torch.maximum(high, flat.amax(1))
            examples.advance(len(images))
        self.low.copy_(low)
        self.high.copy_(torch.where(high > low, high, low + 1))

    def learn_rows(self, examples: Examples, one_scale: bool = False) -> tuple[Tensor, Tensor]:
        """One pass: mean and scale, and the standardised rows of all training images [N, D] with their labels [N].
        one_scale: the same for all features, so that inner products keep their meaning, and such that the squared
        length of a row is TOTAL on average."""
        rows, targets = self.described(examples, "train")
        double = rows.double()
        self.mean.copy_(double.mean(0))
        variance = double.var(0, correction=0)
        if one_scale:
            variance = (variance.sum() / TOTAL).expand_as(variance)
        self.scale.copy_(torch.where(variance > 1e-16, variance.sqrt(), torch.ones_like(variance)))
        return rows.sub_(self.mean).div_(self.scale), targets

    @torch.no_grad()
    def described(self, examples: Examples, split: str) -> tuple[Tensor, Tensor]:
        """The features of a split as they are, [N, D], and its labels."""
        examples.begin(f"features, {split}", examples.count if split == "train" else None)
        rows, labels, size = [self.mean.new_zeros(0, len(self.mean))], [torch.zeros(0, dtype=torch.int64)], 0
        for images, targets in (examples.train if split == "train" else examples.val)():
            rows.append(self.describe(self.restored(images.to(self.mean.device))))
            labels.append(targets)
            size += rows[-1].nbytes
            if size > GATHERED_BYTES:
                raise ResourceError(f"the features take more than {GATHERED_BYTES >> 20:,} MiB together",
                                    where=f"{examples.count:,} images of {len(self.mean):,} numbers each",
                                    remedy="Use fewer features (--set model.config...), or fewer images")
            examples.advance(len(images))
        return torch.cat(rows), torch.cat(labels).to(self.mean.device)


class DescribedSVM(Described):
    """One linear support vector machine on the rows. Its config has num_classes, l2 and max_iterations. Buffers weight
    [K, D], bias [K] and sharpness: what the scores are multiplied by, so that their softmax are likely probabilities
    (temperature scaling: Guo et al., ICML 2017). It changes no answer."""

    weight: Tensor
    bias: Tensor
    sharpness: Tensor
    hinge = Hinge("weston_watkins")
    one_scale = False

    def begin(self, dim: int) -> None:
        super().begin(dim)
        self.register_buffer("weight", torch.zeros(self.config.num_classes, dim))
        self.register_buffer("bias", torch.zeros(self.config.num_classes))
        self.register_buffer("sharpness", torch.ones(()))

    def learn(self, examples: Examples) -> None:
        """Before the features: what they need to know of the training images."""
        self.learn_range(examples)

    @torch.no_grad()
    def fit(self, examples: Examples) -> None:
        self.learn(examples)
        rows, targets = self.learn_rows(examples, self.one_scale)
        l2 = self.config.l2
        if l2 is None:
            drawn, labels = some(examples, rows, targets, CHOSEN_ON)
            examples.begin("strengths", len(STRENGTHS) * self.config.max_iterations)
            path = Splitting(with_ones(drawn), labels, self.config.num_classes, self.hinge)
            l2 = choose_strength(examples, lambda strength: self._solve(path, strength, examples).weight, self.method,
                                 prepare=lambda images: torch.cat([self.rows(some) for some in images.split(256)]))
        examples.begin("margin", self.config.max_iterations)
        path = Splitting(with_ones(rows), targets, self.config.num_classes, self.hinge)
        found = self._solve(path, l2, examples)
        if found.gap > TOLERANCE:
            examples.say(f"{self.method}: after {found.iterations} iterations the objective may be "
                         f"{100 * found.gap:.2g} % above its least value (--set model.config.max_iterations=...)")
        self.weight.copy_(found.weight[:, :-1])
        self.bias.copy_(found.weight[:, -1])
        self._sharpen(examples)

    def _sharpen(self, examples: Examples) -> None:
        """The factor with the least cross-entropy on val; 1 where there is no val."""
        features, targets = self.described(examples, "val")
        if not len(features):
            return
        scores = F.linear((features - self.mean) / self.scale, self.weight, self.bias).double()
        low, high = math.log(SHARPEST[0]), math.log(SHARPEST[1])
        for _ in range(60):  # the loss is convex in the factor: thirds
            first, second = low + (high - low) / 3, high - (high - low) / 3
            better = F.cross_entropy(scores * math.exp(first), targets) <= F.cross_entropy(
                scores * math.exp(second), targets)
            low, high = (low, second) if better else (first, high)
        self.sharpness.fill_(math.exp((low + high) / 2))

    def _solve(self, problem: Splitting, l2: float, examples: Examples) -> Solution:
        return problem.solve(1 / (l2 * len(problem.targets)), tolerance=TOLERANCE,
                             max_iterations=self.config.max_iterations, advance=examples.advance)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [B, C, H, W] -> scores [B, K]."""
        return F.linear(self.rows(images), self.weight, self.bias) * self.sharpness
