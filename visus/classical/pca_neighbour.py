"""Eigenfaces: the nearest training image in the space of the first principal components.

Turk and Pentland, Eigenfaces for Recognition, Journal of Cognitive Neuroscience, 1991. Images are described by their
coefficients along the directions in which the training images differ most, and compared by them: some tens of numbers
in place of all pixels, without most of their noise.
forward: images [B, C, S, S], normalised -> logits [B, num_classes]: logarithms of the classes' parts of the votes and
of a further part that all classes share (`visus.classical.votes`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical import votes
from visus.classical.fitted import Examples
from visus.classical.projected import ProjectedFitted
from visus.core.errors import UserError
from visus.core.validate import boolean, natural, positive, require
from visus.ops.neighbours import nearest, shares
from visus.ops.principal import Principal

SHARE = 0.95  # of the variance, where components are not given


@dataclass(frozen=True, kw_only=True)
class PCANeighbourConfig:
    """components: how many; None: as many as hold 95 % of the variance. k: neighbours that vote. whiten: divide each
    coefficient by its standard deviation, so that all count the same. shared: the part of a vote that all classes
    share, None: chosen on val. num_images: stored, known from the fit on."""

    components: int | None = None
    k: int = 1
    whiten: bool = False
    shared: float | None = None
    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    num_images: int = 0

    def __post_init__(self) -> None:
        positive(k=self.k, image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        if self.components is not None:
            positive(components=self.components)
        require(self.shared is None or self.shared > 0, "shared", self.shared, "be above 0")
        boolean(whiten=self.whiten)
        natural(num_images=self.num_images)


class PCANeighbour(ProjectedFitted):
    Config = PCANeighbourConfig
    coefficients: Tensor
    labels: Tensor

    def __init__(self, config: PCANeighbourConfig):
        super().__init__()
        self.config = config
        dim, kept = config.in_channels * config.image_size**2, config.components or 0
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("axes", torch.zeros(min(kept, dim), dim))  # rows divided by deviations where whiten
        self.register_buffer("coefficients", torch.zeros(config.num_images, min(kept, dim)))
        self.register_buffer("labels", torch.zeros(config.num_images, dtype=torch.int64))

    def fit(self, examples: Examples) -> None:
        """The components, and the coefficients of all training images."""
        images, labels = examples.gathered()
        flat, config = images.flatten(1), self.config
        require(config.k <= len(flat), "model.config.k", config.k, f"be at most {len(flat)}, the number of images")
        if config.components is None:
            principal = Principal.fit(flat, share=SHARE)
            examples.say(f"components={len(principal.components)}: they hold {SHARE:.0%} of the variance")
        else:
            principal = Principal.fit(flat, min(config.components, flat.shape[1]))
        axes = principal.components
        if config.whiten:
            axes = axes / principal.variances.clamp_min(1e-12).sqrt()[:, None]
        self.center, self.axes, self.labels = principal.mean, axes, labels
        self.coefficients = self.coefficients_of(images)
        self.config = replace(config, components=len(axes), num_images=len(flat))
        if config.shared is None:
            asked, wanted = (part[:votes.IMAGES] for part in examples.gathered("val"))
            shared = votes.choose_shared(self._votes(asked), wanted, examples)
            self.config = replace(self.config, shared=shared)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, num_classes]."""
        if not len(self.labels):
            raise UserError("holds no images yet: fit it first", where=type(self).__name__)
        return votes.logits(self._votes(images), self.config.shared or votes.USUAL)

    def _votes(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, num_classes], k a row in all."""
        k = self.config.k
        _, index = nearest(self.coefficients_of(images), self.coefficients, k)
        return k * shares(self.labels[index], torch.ones_like(index, dtype=images.dtype), self.config.num_classes)


VARIANTS: dict[str, dict[str, Any]] = {"pca_neighbour": {}}

classical.add(PCANeighbour, VARIANTS, family="neighbours", task="classification",
              paper="Turk, Pentland: Eigenfaces for Recognition, J. Cognitive Neuroscience 1991")
