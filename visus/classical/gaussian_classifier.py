"""A Gaussian for each class, and Bayes' rule: linear and quadratic discriminant analysis, and naive Bayes.

Fisher, The Use of Multiple Measurements in Taxonomic Problems, 1936 (one covariance that all classes share: linear
boundaries); Friedman, Regularized Discriminant Analysis, JASA 1989 (one for each class, shrunk towards a multiple of
the identity: quadratic ones). The images are described by their first principal components.
forward: images [B, C, S, S], normalised -> logits [B, num_classes], log p(x | class) p(class) but for a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples
from visus.classical.projected import ProjectedFitted, below_the_others
from visus.core.validate import one_of, positive, require
from visus.ops.gaussian import log_densities, shrunk, whitening
from visus.ops.principal import Principal

SHRINKAGES = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 0.6)


@dataclass(frozen=True, kw_only=True)
class GaussianClassifierConfig:
    """covariance: 'own' of each class (quadratic), 'shared' by all (linear), or 'diag' (own, naive Bayes on the
    components). shrinkage: the part of it, 0 to 1, that is its mean variance times the identity; None: chosen on val.
    components: principal ones, fewer where the images vary along fewer directions."""

    covariance: str = "own"
    shrinkage: float | None = None
    components: int = 128
    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(components=self.components, image_size=self.image_size, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        one_of(("own", "shared", "diag"), covariance=self.covariance)
        require(self.shrinkage is None or 0 <= self.shrinkage <= 1, "shrinkage", self.shrinkage, "lie in [0, 1]")


class GaussianClassifier(ProjectedFitted):
    Config = GaussianClassifierConfig
    means: Tensor
    factors: Tensor
    priors: Tensor

    def __init__(self, config: GaussianClassifierConfig):
        super().__init__()
        self.config = config
        dim, classes = config.in_channels * config.image_size**2, config.num_classes
        kept = min(config.components, dim)
        covariances = {"own": (classes, kept, kept), "shared": (1, kept, kept), "diag": (classes, kept)}
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim)[:kept].contiguous())  # [K, D]
        self.register_buffer("means", torch.zeros(classes, kept))
        self.register_buffer("factors", torch.ones(classes, kept) if config.covariance == "diag"
                             else torch.eye(kept).expand(covariances[config.covariance]).contiguous())
        self.register_buffer("priors", torch.full((classes,), 1 / classes).log())  # -inf: no image in training

    def fit(self, examples: Examples) -> None:
        """Means, covariances and frequencies of the classes; the shrinkage by the likelihood of val's labels."""
        images, labels = examples.gathered()
        principal = Principal.fit(images.flatten(1), min(self.config.components, images[0].numel()))
        self.center, self.axes = principal.mean, principal.components
        self.config = replace(self.config, components=len(self.axes))
        points = principal.transform(images.flatten(1)).double()
        classes, kept = self.config.num_classes, points.shape[1]
        counts = torch.bincount(labels, minlength=classes).double()
        sums = torch.zeros(classes, kept, dtype=torch.float64, device=points.device).index_add_(0, labels, points)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], points.mean(0))
        self.means, self.priors = means.float(), (counts / counts.sum()).log().float()
        covariances = self._covariances(points - means[labels], labels, counts)
        shrinkage = self.config.shrinkage
        if shrinkage is None:
            shrinkage = self._choose(examples, covariances)
        self.config = replace(self.config, shrinkage=shrinkage)
        self.factors = self._factors(covariances, shrinkage)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, num_classes]."""
        return self._logits(self.coefficients_of(images), self.factors)

    def _logits(self, points: Tensor, factors: Tensor) -> Tensor:
        logits = log_densities(points, self.means, factors) + self.priors
        return below_the_others(logits, self.priors.isneginf())

    def _covariances(self, centred: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """float64 [C, K, K], or [1, K, K] of all classes together, which a class of fewer than two images also gets."""
        pooled = centred.T @ centred / len(centred)
        if self.config.covariance == "shared":
            return pooled[None]
        own = pooled.expand(len(counts), -1, -1).clone()
        for label in (counts >= 2).nonzero().flatten().tolist():
            mine = centred[labels == label]
            own[label] = mine.T @ mine / len(mine)
        return own

    def _factors(self, covariances: Tensor, shrinkage: float) -> Tensor:
        changed = shrunk(covariances, shrinkage)
        if self.config.covariance == "diag":
            return changed.diagonal(dim1=1, dim2=2).rsqrt().float()
        return whitening(changed).float()

    def _choose(self, examples: Examples, covariances: Tensor) -> float:
        """The shrinkage with the most right answers on val, of equals the one under which its labels are likelier."""
        images, labels = examples.gathered("val")
        points = self.coefficients_of(images)
        examples.begin("choosing the shrinkage", len(SHRINKAGES))
        found = []
        for number, share in enumerate(SHRINKAGES, 1):
            logits = self._logits(points, self._factors(covariances, share)).double()
            accuracy = float((logits.argmax(1) == labels).double().mean())
            loss = float(torch.nn.functional.cross_entropy(logits, labels))
            found.append((-accuracy, loss, share))
            examples.log(number, val_accuracy=accuracy, val_loss=loss, shrinkage=share)
            examples.advance(1)
        accuracy, _, best = min(found)
        examples.say(f"shrinkage={best:g} of {', '.join(f'{share:g}' for share in SHRINKAGES)}: most right answers on "
                     f"val, {-accuracy:.1%}")
        return best


VARIANTS: dict[str, dict[str, Any]] = {"gaussian_classifier": {}}

classical.add(GaussianClassifier, VARIANTS, family="density", task="classification",
              paper="Friedman: Regularized Discriminant Analysis, JASA 1989")
