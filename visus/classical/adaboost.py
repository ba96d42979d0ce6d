"""AdaBoost over decision stumps on single pixels: each round weighs up the images that the last stump got wrong.

Papers: Freund and Schapire, A decision-theoretic generalization of on-line learning, JCSS 1997, for two classes; SAMME,
Zhu, Zou, Rosset and Hastie, Multi-class AdaBoost, Statistics and Its Interface 2009, for several: a stump of error e
counts alpha = log((1 - e) / e) + log(K - 1). The training error of two classes is at most the product over rounds of
2 sqrt(e (1 - e)).
forward: images [B, C, S, S], normalised -> sums of alpha by class [B, num_classes], whose softmax are the
probabilities of the additive model that SAMME fits (Zhu et al., section 2.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples, Fitted
from visus.classical.linear import some
from visus.classical.stumps import Coded, Stump
from visus.core.errors import UserError
from visus.core.validate import one_of, positive

LEAST_ERROR = 1e-10
LOGGED = 10  # rounds between points of the curve


@dataclass(frozen=True, kw_only=True)
class AdaBoostConfig:
    """image_size: side in pixels of the square images. rounds: stumps at most; as many as were found after fit.
    criterion: error or gini, what a stump makes least. images: at most so many training images, drawn once."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    rounds: int = 200
    criterion: str = "gini"
    images: int = 10_000

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 rounds=self.rounds, images=self.images)
        one_of(("error", "gini"), criterion=self.criterion)


class AdaBoost(Fitted):
    """Buffers of one entry a stump: feature, threshold, below, above (classes), alpha, error."""

    Config = AdaBoostConfig
    feature: Tensor
    threshold: Tensor
    below: Tensor
    above: Tensor
    alpha: Tensor
    error: Tensor

    def __init__(self, config: AdaBoostConfig):
        super().__init__()
        self.config = config
        for name in ("feature", "below", "above"):
            self.register_buffer(name, torch.zeros(config.rounds, dtype=torch.int64))
        for name in ("threshold", "alpha", "error"):
            self.register_buffer(name, torch.zeros(config.rounds))

    def fit(self, examples: Examples) -> None:
        images, targets = examples.gathered()
        rows, targets = some(examples, images.flatten(1), targets, self.config.images)
        if len(rows) < len(images):
            examples.say(f"adaboost: {len(rows):,} of {len(images):,} images (--set model.config.images={len(images)})")
        self.boost(rows, targets, examples)

    def boost(self, rows: Tensor, targets: Tensor, examples: Examples | None = None) -> None:
        """rows: [N, C S S]. Ends early where a stump makes no mistake or is no better than chance."""
        classes = self.config.num_classes
        coded = Coded(rows, targets, classes)
        weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64, device=rows.device)
        votes = rows.new_zeros(len(rows), classes)
        stumps: list[Stump] = []
        alphas: list[float] = []
        if examples:
            examples.begin("stumps", self.config.rounds)
        for number in range(1, self.config.rounds + 1):
            stump = coded.best(weights, self.config.criterion)
            if stump.error >= 1 - 1 / classes - 1e-12 and stumps:
                break
            error = min(max(stump.error, LEAST_ERROR), 1 - LEAST_ERROR)
            alpha = math.log((1 - error) / error) + math.log(classes - 1)
            said = coded.says(stump)
            weights = weights * torch.where(said != targets, math.exp(min(alpha, 500.0)), 1.0)
            weights = weights / weights.sum()
            votes[torch.arange(len(rows), device=rows.device), said] += alpha
            stumps.append(stump)
            alphas.append(alpha)
            if examples:
                examples.advance(1)
                if number % LOGGED == 0:
                    examples.log(number // LOGGED, train_error=float((votes.argmax(1) != targets).float().mean()))
            if stump.error <= LEAST_ERROR:
                break
        self._hold(stumps, alphas, rows.device)

    def _hold(self, stumps: list[Stump], alphas: list[float], device: torch.device) -> None:
        self.config = AdaBoostConfig(**{**vars(self.config), "rounds": len(stumps)})
        for name in ("feature", "below", "above"):
            setattr(self, name, torch.tensor([getattr(s, name) for s in stumps], device=device))
        for name in ("threshold", "error"):
            setattr(self, name, torch.tensor([getattr(s, name) for s in stumps], device=device, dtype=torch.float32))
        self.alpha = torch.tensor(alphas, device=device, dtype=torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, K]. Raises UserError for another image shape."""
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"this model was built for images of {expected}", where=tuple(images.shape[1:]),
                            remedy="Resize the images, or build the model with their image_size and in_channels")
        values = images.flatten(1)[:, self.feature]  # [B, T]
        said = torch.where(values <= self.threshold, self.below, self.above)
        votes = images.new_zeros(len(images), self.config.num_classes)
        return votes.scatter_add_(1, said, self.alpha.to(votes).expand(len(images), -1))


def training_bound(errors: Tensor) -> Tensor:
    """Of two classes: after each round, [T], what the training error cannot exceed. errors: weighted, [T]."""
    return (2 * (errors.double() * (1 - errors.double())).sqrt()).cumprod(0)


VARIANTS: dict[str, dict[str, Any]] = {"adaboost": {}}

classical.add(AdaBoost, VARIANTS, family="boosting", task="classification",
              paper="Zhu, Zou, Rosset, Hastie: Multi-class AdaBoost, Statistics and Its Interface 2009")
