"""Linear classifiers found by trying: weights drawn anew each time, or steps at random that are kept when they help.

Source: Stanford CS231n, notes on optimisation, strategies 1 (random search) and 2 (random local search), with its 1,000
tries, weights and steps of deviation 0.0001, and multiclass hinge loss. They are meant to be poor: what following the
slope brings is seen beside them. As optimizers of any net the two are random_search and local_search.
forward: images [B, C, S, S], normalised -> scores [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples
from visus.classical.hinge import Hinge
from visus.classical.linear import LinearFitted, some, with_ones
from visus.core.validate import boolean, positive, require

CHUNK = 50  # candidates that are scored at once
ABSENT = -1e6  # bias of a class without training images: chance shall not choose it


@dataclass(frozen=True, kw_only=True)
class WeightSearchConfig:
    """image_size: side in pixels of the square images. local: steps from the best so far instead of new weights. tries:
    weights that are looked at. scale: their standard deviation, or that of a step. images: at most so many of the
    training images, drawn once, are looked at."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    local: bool = False
    tries: int = 1000
    scale: float = 1e-4
    images: int = 5_000

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 tries=self.tries, images=self.images)
        boolean(local=self.local)
        require(self.scale > 0, "scale", self.scale, "be above 0")


class WeightSearch(LinearFitted):
    Config = WeightSearchConfig

    def __init__(self, config: WeightSearchConfig):
        super().__init__()
        self.config = config
        self._begin(config.num_classes)

    def fit(self, examples: Examples) -> None:
        images, targets = examples.gathered()
        absent = torch.bincount(targets, minlength=self.config.num_classes) == 0
        rows, targets = some(examples, with_ones(self.flat(images)), targets, self.config.images)
        examples.begin("tries", self.config.tries)
        best = self._noise(0, 1, rows)[0]
        least = float(self._losses(best[None], rows, targets))
        for start in range(1, self.config.tries, 1 if self.config.local else CHUNK):
            count = 1 if self.config.local else min(CHUNK, self.config.tries - start)
            candidates = self._noise(start + 7919 * examples.seed, count, rows)
            if self.config.local:
                candidates = best + candidates
            losses = self._losses(candidates, rows, targets)
            if float(losses.min()) < least:
                least, best = float(losses.min()), candidates[int(losses.argmin())]
            examples.advance(count)
            if start % 100 < count:
                examples.log(start // 100 + 1, train_loss=least)
        name = "local" if self.config.local else "random"
        examples.say(f"{name} search: the best of {self.config.tries:,} tries has a hinge loss of {least:.3f} on "
                     f"{len(rows):,} images, equal scores have {self.config.num_classes - 1}")
        self.hold(best)
        self.find_scale(examples)
        self.bias[absent] = ABSENT

    def _noise(self, number: int, count: int, rows: Tensor) -> Tensor:
        """Weights [count, K, D + 1] that the number decides."""
        generator = torch.Generator().manual_seed(number)
        drawn = torch.randn(count, self.config.num_classes, rows.shape[1], generator=generator)
        return drawn.to(rows) * self.config.scale

    def _losses(self, weights: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Mean hinge loss of each of [M, K, D + 1], [M]."""
        scores = (rows @ weights.flatten(0, 1).T).unflatten(1, weights.shape[:2])  # [N, M, K]
        flat = Hinge().losses(scores.flatten(0, 1), targets.repeat_interleave(len(weights)))
        return flat.unflatten(0, (len(rows), len(weights))).mean(0)


VARIANTS = {"random_search_classifier": {"local": False}, "local_search_classifier": {"local": True}}

classical.add(WeightSearch, VARIANTS, family="linear", task="classification",
              paper="Stanford CS231n: Optimization, strategies 1 and 2")
