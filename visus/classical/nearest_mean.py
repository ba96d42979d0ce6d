"""The nearest class mean: each class is its mean image, and an image belongs to the class whose mean is closest.

The mean is the maximum-likelihood template of a class whose pixels have equal, independent Gaussian noise, so the
negative half squared distance, over a variance that all classes share, is the log-likelihood, and its softmax the
posterior with equal priors (Bishop, Pattern Recognition and Machine Learning, 2006, section 4.2).
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples, Fitted
from visus.core.validate import positive


@dataclass(frozen=True, kw_only=True)
class NearestMeanConfig:
    """image_size: side in pixels of the square images."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)


class NearestMean(Fitted):
    Config = NearestMeanConfig
    means: Tensor
    variance: Tensor

    def __init__(self, config: NearestMeanConfig):
        super().__init__()
        self.config = config
        dim = config.in_channels * config.image_size**2
        self.register_buffer("means", torch.zeros(config.num_classes, dim))
        self.register_buffer("variance", torch.ones(()))

    def fit(self, examples: Examples) -> None:
        """One pass: the sums of each class, and of squares for the shared variance."""
        sums = torch.zeros_like(self.means, dtype=torch.float64)
        counts = torch.zeros(len(sums), dtype=torch.float64, device=sums.device)
        squares = 0.0
        for images, targets in examples.train():
            flat = images.to(sums.device).flatten(1).double()  # [B, D]
            sums.index_add_(0, targets.to(sums.device), flat)
            counts += torch.bincount(targets.to(sums.device), minlength=len(counts))
            squares += float(flat.square().sum())
            examples.advance(len(images))
        means = sums / counts.clamp_min(1)[:, None]
        spread = squares - float((counts[:, None] * means.square()).sum())  # within classes
        self.means.copy_(means)
        self.variance.fill_(max(spread, 1e-12) / max(1, int(counts.sum()) * means.shape[1]))

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> -|x - mean|^2 / (2 v) without the term that all classes share, [B, num_classes]."""
        scores = images.flatten(1) @ self.means.T - 0.5 * self.means.square().sum(1)
        return scores / self.variance


VARIANTS: dict[str, dict[str, int]] = {"nearest_mean": {}}

classical.add(NearestMean, VARIANTS, family="density", task="classification",
              paper="Bishop: Pattern Recognition and Machine Learning, 2006, section 4.2")
