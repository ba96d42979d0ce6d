"""Bags of visual words: an image as the counts of its local patterns, alone or in the cells of a spatial pyramid.

Papers: Csurka et al., Visual Categorization with Bags of Keypoints, ECCV workshop 2004; Lazebnik, Schmid, Ponce, Beyond
Bags of Features: Spatial Pyramid Matching, CVPR 2006. SIFT descriptors on a dense grid are replaced by the nearest of
`num_words` centres (k-means over descriptors of the training images) and counted; a linear support vector machine
works on features whose inner products are nearly the histogram intersection, the pyramid match kernel. Departures:
that explicit map, with which training takes time in proportion to the images, in place of the kernel itself, and fewer
words for the pyramid than the paper's 200.
forward: images [B, C, H, W], normalised, of any size from the first window on -> scores [B, num_classes]. Counts are
no differentiable function of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visus import classical
from visus.classical.described import DescribedSVM
from visus.classical.fitted import Examples
from visus.core.validate import one_of, positive, require
from visus.ops.kmeans import assign, kmeans
from visus.ops.sift import CELLS, LENGTH, dense_places, dense_sift, luma
from visus.ops.visual_words import intersection_features, spatial_pyramid

CLUSTERED = 20_000  # descriptors at most that the words are learned from
STEPS = 50  # of k-means


@dataclass(frozen=True, kw_only=True)
class BagOfWordsConfig:
    """num_words: of the codebook. levels: of the pyramid (1 = one bag, 3 = grids of 1, 2 x 2, 4 x 4 cells). cell: px of
    a side of a descriptor's 16 cells, None = a sixteenth of the images' shorter side, at most
    4. step: px between
    descriptors, None = 2 cells (8 px for cells of 4), and one in images below 128 px. kernel: "intersection",
    "hellinger" (square roots, a third of the numbers) or "linear". l2: strength of the penalty, None = chosen on val.
    max_iterations: of the solver."""

    in_channels: int = 3
    num_classes: int = 10
    num_words: int = 200
    levels: int = 1
    cell: int | None = None
    step: int | None = None
    kernel: str = "intersection"
    l2: float | None = None
    max_iterations: int = 300

    def __post_init__(self) -> None:
        positive(in_channels=self.in_channels, num_classes=self.num_classes, num_words=self.num_words,
                 levels=self.levels, max_iterations=self.max_iterations,
                 **{name: value for name, value in (("cell", self.cell), ("step", self.step)) if value is not None})
        require(self.levels <= 5, "levels", self.levels, "be at most 5")
        one_of(("intersection", "hellinger", "linear"), kernel=self.kernel)
        require(self.l2 is None or self.l2 > 0, "l2", self.l2, "be above 0, or null to have it chosen")

    def length(self) -> int:
        return self.num_words * (4**self.levels - 1) // 3 * (3 if self.kernel == "intersection" else 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(cell, step) for images of this size."""
        side = min(height, width)
        cell = self.cell if self.cell is not None else max(1, min(4, round(side / 16)))
        return cell, self.step if self.step is not None else (2 * cell if side >= 128 else cell)


class BagOfWords(DescribedSVM):
    """Buffer codebook [num_words, 128]."""

    Config = BagOfWordsConfig
    config: BagOfWordsConfig
    codebook: Tensor
    one_scale = True

    def __init__(self, config: BagOfWordsConfig):
        super().__init__()
        self._build(config)

    def _build(self, config: BagOfWordsConfig) -> None:
        self.config = config
        self.method = "bag_of_words_svm" if config.levels == 1 else "spatial_pyramid_svm"
        self.begin(config.length())
        self.register_buffer("codebook", torch.zeros(config.num_words, LENGTH))

    def learn(self, examples: Examples) -> None:
        """The range of the colours, then the codebook."""
        self.learn_range(examples)
        points = self._sample(examples)
        if len(points) < self.config.num_words:
            examples.say(f"{self.method}: {len(points)} words, as the training images have no more descriptors")
            low, high, device = self.low, self.high, self.low.device
            self._build(replace(self.config, num_words=len(points)))
            self.to(device)
            self.low.copy_(low)
            self.high.copy_(high)
        examples.begin("words", 1)
        self.codebook.copy_(kmeans(points, self.config.num_words, restarts=1, steps=STEPS, seed=examples.seed,
                                   advance=examples.advance).centres)

    def _sample(self, examples: Examples) -> Tensor:
        """Descriptors of all training images alike, at most CLUSTERED, [N, 128]; chooses the grid."""
        generator = torch.Generator().manual_seed(examples.seed)
        share = max(1, CLUSTERED // max(1, examples.count))
        examples.begin("descriptors", examples.count)
        found: list[Tensor] = []
        for images, _ in examples.train():
            if not found:
                cell, step = self.config.grid(*images.shape[-2:])
                places = dense_places(images.shape[-2], images.shape[-1], cell, step)
                examples.say(f"{self.method}: {places.shape[0]} x {places.shape[1]} descriptors of {CELLS * cell} px, "
                             f"every {step} px (--set model.config.cell=..., model.config.step=...)")
                self.config = replace(self.config, cell=cell, step=step)
            described = self._descriptors(self.restored(images.to(self.low.device))).flatten(1, 2)  # [B, N, 128]
            order = torch.rand(described.shape[:2], generator=generator).argsort(1)[:, :share].to(described.device)
            found.append(described.gather(1, order[:, :, None].expand(-1, -1, LENGTH)).flatten(0, 1))
            examples.advance(len(images))
        points = torch.cat(found)
        if len(points) <= CLUSTERED:
            return points
        return points[torch.randperm(len(points), generator=generator)[:CLUSTERED].to(points.device)]

    def _descriptors(self, images: Tensor) -> Tensor:
        """In [0, 1] -> [B, rows, columns, 128]."""
        cell, step = self.config.grid(*images.shape[-2:])
        grey = luma(images) if images.shape[1] == 3 else images.mean(1, keepdim=True)
        return dense_sift(grey, cell=cell, step=step)

    def describe(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        descriptors = self._descriptors(images)  # [B, rows, columns, 128]
        words, _ = assign(descriptors.reshape(-1, LENGTH), self.codebook)
        cell, step = self.config.grid(height, width)
        places = dense_places(height, width, cell, step).to(images).flatten(0, 1)
        shares = (places + 0.5) / places.new_tensor([width, height])
        words = words.view(len(images), len(shares))
        counts = spatial_pyramid(words, shares, self.config.num_words, self.config.levels)
        if self.config.kernel == "linear":
            return counts
        return intersection_features(counts, order=1 if self.config.kernel == "intersection" else 0)


VARIANTS = {"bag_of_words_svm": {}, "spatial_pyramid_svm": {"num_words": 64, "levels": 3}}

classical.add(BagOfWords, VARIANTS, family="features", task="classification",
              paper="Lazebnik, Schmid, Ponce: Beyond Bags of Features, CVPR 2006")
