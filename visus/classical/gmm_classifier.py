"""A mixture of Gaussians for each class, fitted by EM, and Bayes' rule over them.

Dempster, Laird and Rubin, JRSS-B 1977, for the fit; Hastie and Tibshirani, Discriminant Analysis by Gaussian Mixtures,
JRSS-B 1996, for classes as mixtures. The images are described by their first principal components.
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
from visus.core.validate import one_of, positive
from visus.ops.gaussian import log_densities
from visus.ops.mixture import KINDS, Mixture
from visus.ops.principal import Principal

CANDIDATES = (1, 2, 4, 8)
IMAGES_EACH = 10   # a component of a class has so many images on the average, or there are fewer components
RIDGE = 1e-2       # of the mean variance of a component, added to each


@dataclass(frozen=True, kw_only=True)
class GMMClassifierConfig:
    """gaussians: of each class; None: chosen on val. covariance: 'full', 'diag', or 'tied', which the Gaussians of a
    class share. components: principal ones, fewer where the images vary along fewer directions."""

    gaussians: int | None = None
    covariance: str = "full"
    components: int = 40
    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(components=self.components, image_size=self.image_size, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        if self.gaussians is not None:
            positive(gaussians=self.gaussians)
        one_of(KINDS, covariance=self.covariance)


class GMMClassifier(ProjectedFitted):
    Config = GMMClassifierConfig
    means: Tensor
    factors: Tensor
    log_weights: Tensor

    def __init__(self, config: GMMClassifierConfig):
        super().__init__()
        self.config = config
        dim = config.in_channels * config.image_size**2
        kept, each = min(config.components, dim), config.gaussians or 1
        square = (kept,) if config.covariance == "diag" else (kept, kept)
        each_factor = 1 if config.covariance == "tied" else each
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim)[:kept].contiguous())  # [K, D]
        self.register_buffer("means", torch.zeros(config.num_classes, each, kept))
        self.register_buffer("factors", torch.ones(config.num_classes, each_factor, *square))
        self.register_buffer("log_weights", torch.zeros(config.num_classes, each))  # with the prior; -inf: none

    def fit(self, examples: Examples) -> None:
        """A mixture for each class; how many Gaussians by the right answers on val."""
        images, labels = examples.gathered()
        principal = Principal.fit(images.flatten(1), min(self.config.components, images[0].numel()))
        self.center, self.axes = principal.mean, principal.components
        self.config = replace(self.config, components=len(self.axes))
        points = principal.transform(images.flatten(1)).double()
        candidates = CANDIDATES if self.config.gaussians is None else (self.config.gaussians,)
        examples.begin("mixtures", len(candidates) * self.config.num_classes)
        best: tuple[float, float, int] | None = None
        for number, each in enumerate(candidates, 1):
            found = self._mixtures(points, labels, each, examples)
            if len(candidates) == 1:
                self.means, self.factors, self.log_weights = found
                self.config = replace(self.config, gaussians=each)
                return
            accuracy, loss = self._on_val(found, examples)
            examples.log(number, val_accuracy=accuracy, val_loss=loss, gaussians=each)
            if best is None or (-accuracy, loss, each) < best:
                best = -accuracy, loss, each
                self.means, self.factors, self.log_weights = found
        assert best is not None
        self.config = replace(self.config, gaussians=best[2])
        examples.say(f"gaussians={best[2]} of {', '.join(map(str, candidates))} for each class: most right answers on "
                     f"val, {-best[0]:.1%}")

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, num_classes]."""
        return _logits(self.coefficients_of(images), self.means, self.factors, self.log_weights)

    def _mixtures(self, points: Tensor, labels: Tensor, each: int, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """means [C, each, K], factors, logarithms of the weights [C, each], whose missing Gaussians have -inf."""
        config, kept = self.config, points.shape[1]
        counts = torch.bincount(labels, minlength=config.num_classes)
        ridge = RIDGE * float(points.var(0, correction=0).mean()) + 1e-12
        square = (kept,) if config.covariance == "diag" else (kept, kept)
        means = torch.zeros(config.num_classes, each, kept, device=points.device)
        factors = torch.ones(config.num_classes, each, kept, device=points.device)
        if len(square) == 2:
            factors = torch.eye(kept, device=points.device).expand(
                config.num_classes, 1 if config.covariance == "tied" else each, kept, kept).clone()
        logs = torch.full((config.num_classes, each), -torch.inf, device=points.device)
        for label in counts.nonzero().flatten().tolist():
            some = max(1, min(each, int(counts[label]) // IMAGES_EACH))
            mixture = Mixture.fit(points[labels == label], some, config.covariance, ridge=ridge, seed=examples.seed)
            means[label, :some] = mixture.means.float()
            factors[label, :len(mixture.factors)] = mixture.factors.float()
            logs[label, :some] = (mixture.weights * counts[label] / len(labels)).log().float()
            examples.advance(1)
        examples.advance(int((counts == 0).sum()))
        return means, factors, logs

    def _on_val(self, found: tuple[Tensor, Tensor, Tensor], examples: Examples) -> tuple[float, float]:
        right, loss, count = 0, 0.0, 0
        for images, labels in examples.val():
            images, labels = images.to(self.center.device), labels.to(self.center.device)
            logits = _logits(self.coefficients_of(images), *found).double()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        return right / max(count, 1), loss / max(count, 1)


def _logits(points: Tensor, means: Tensor, factors: Tensor, log_weights: Tensor) -> Tensor:
    """[B, K] -> [B, C]."""
    classes, each, kept = means.shape
    if factors.shape[1] < each:  # tied: one covariance a class
        factors = factors.expand(-1, each, -1, -1)
    logs = log_densities(points, means.flatten(0, 1), factors.flatten(0, 1))  # [B, C each]
    logits = (logs.unflatten(1, (classes, each)) + log_weights).logsumexp(2)
    return below_the_others(logits, log_weights.isneginf().all(1))


VARIANTS: dict[str, dict[str, Any]] = {"gmm_classifier": {}}

classical.add(GMMClassifier, VARIANTS, family="density", task="classification",
              paper="Hastie, Tibshirani: Discriminant Analysis by Gaussian Mixtures, JRSS-B 1996")
