"""k nearest neighbours: an image is what most of the k training images closest to it are (Fix and Hodges 1951; Cover
and Hart, Nearest Neighbor Pattern Classification, IEEE Transactions on Information Theory, 1967).

Nothing is learnt: the training images are the model. k is chosen by five-fold cross-validation on the training images
(CS231n, assignment 1) unless it is given. Of classes with equally many votes the one with the smaller label wins.
forward: images [B, C, H, W], normalised -> logits [B, num_classes]: logarithms of the classes' parts of the votes and
of a further part that all classes share (`visus.classical.votes`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from visus import classical
from visus.classical import votes
from visus.classical.fitted import Examples, Fitted
from visus.core.errors import UserError
from visus.core.seeds import permutation
from visus.core.validate import natural, one_of, positive, require
from visus.ops import approximate
from visus.ops.neighbours import METRICS, Metric, measured, nearest, recall, shares

FOLDS = 5
CANDIDATES = (1, 3, 5, 8, 10, 12, 15, 20, 50, 100)  # of CS231n, assignment 1
CHOOSING_IMAGES = 10_000  # at most so many take part in the choice of k
RECALL_IMAGES = 500
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """k: neighbours, None: chosen by cross-validation. metric: 'l1', 'l2' or 'cosine'. votes: 'uniform' or 'distance',
    which weighs them by 1 / distance (images at distance 0, if there are any, vote alone). shared: the part of a vote
    that all classes share, None: chosen on val. search: 'exact', or 'hnsw' or 'ivf' for most of the neighbours in less
    time (extra 'search'; not with 'l1'). num_images, dim: of the stored images, known from the fit on."""

    k: int | None = None
    metric: Metric = "l2"
    votes: str = "uniform"
    shared: float | None = None
    search: str = "exact"
    in_channels: int = 1
    num_classes: int = 10
    num_images: int = 0
    dim: int = 0

    def __post_init__(self) -> None:
        positive(in_channels=self.in_channels, num_classes=self.num_classes)
        natural(num_images=self.num_images, dim=self.dim)
        if self.k is not None:
            positive(k=self.k)
        require(self.shared is None or self.shared > 0, "shared", self.shared, "be above 0")
        one_of(METRICS, metric=self.metric)
        one_of(("uniform", "distance"), votes=self.votes)
        one_of(("exact", *approximate.KINDS), search=self.search)
        require(self.search == "exact" or self.metric != "l1", "search", self.search,
                "be 'exact' with metric 'l1': graphs and parts are built for 'l2' and 'cosine'")


class KNN(Fitted):
    Config = KNNConfig
    images: Tensor
    labels: Tensor

    def __init__(self, config: KNNConfig):
        super().__init__()
        self.config = config
        self.register_buffer("images", torch.zeros(config.num_images, config.dim))
        self.register_buffer("labels", torch.zeros(config.num_images, dtype=torch.int64))
        self._index: approximate.ApproximateIndex | None = None

    def fit(self, examples: Examples) -> None:
        """Keep the images; choose k where it is not given; measure the recall of an approximate search."""
        config = self.config
        if config.search != "exact":
            approximate.library()
        images, labels = examples.gathered()
        if not len(images):
            raise UserError("there is no training image to be a neighbour", where="train")
        require(config.k is None or config.k <= len(images), "model.config.k", config.k,
                f"be at most {len(images)}, the number of training images")
        self.images, self.labels, self._index = images.flatten(1), labels, None
        k = config.k if config.k is not None else self._choose(examples)
        self.config = replace(config, k=k, num_images=len(images), dim=self.images.shape[1])
        asked, wanted = (part[:votes.IMAGES] for part in examples.gathered("val"))
        asked = asked.flatten(1)
        if config.search != "exact" and len(asked):
            asked = asked[:RECALL_IMAGES]
            found = recall(self._neighbours(asked)[1], nearest(asked, self.images, k, config.metric)[1])
            examples.say(f"search={config.search} finds {found:.1%} of the {k} nearest of {len(asked)} val images")
        if config.shared is None:
            shared = votes.choose_shared(self._votes(asked), wanted[:len(asked)], examples)
            self.config = replace(self.config, shared=shared)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_classes]."""
        if not len(self.images):
            raise UserError("holds no images yet: fit it first", where=type(self).__name__)
        queries = images.flatten(1)
        if queries.shape[1] != self.config.dim:
            raise UserError(f"images of {queries.shape[1]} values, fitted to {self.config.dim}",
                            where=f"images {tuple(images.shape)}", remedy="Give images of the size of the training")
        return votes.logits(self._votes(queries), self.config.shared or votes.USUAL)

    def _votes(self, queries: Tensor) -> Tensor:
        """[B, D] -> [B, num_classes], k a row in all."""
        config = self.config
        distances, index = self._neighbours(queries)
        if config.votes == "distance" and queries.requires_grad and torch.is_grad_enabled():
            distances = measured(queries, self.images, index, config.metric)
        return config.k * shares(self.labels[index], _weights(distances, config.votes), config.num_classes)

    def _neighbours(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.search == "exact":
            return nearest(queries, self.images, self.config.k, self.config.metric)
        if self._index is None:
            self._index = approximate.ApproximateIndex(self.images, self.config.search, self.config.metric)
        return self._index.nearest(queries, self.config.k)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._index = None  # of other images

    def _choose(self, examples: Examples) -> int:
        """The k that is right most often on the fifth of the images that the other four classify, over all five; of
        equals the smallest."""
        chosen = permutation(len(self.labels), examples.seed, "knn folds")[:CHOOSING_IMAGES]
        order = torch.from_numpy(chosen).to(self.labels.device)
        folds = order.tensor_split(min(FOLDS, len(order)))
        least = len(order) - len(folds[0])
        candidates = [k for k in CANDIDATES if k <= least]
        if not candidates:
            return 1
        examples.begin("choosing k", len(folds))
        right = torch.zeros(len(candidates), len(folds), dtype=torch.float64)
        for number, held in enumerate(folds):
            rest = torch.cat([fold for other, fold in enumerate(folds) if other != number])
            distances, index = nearest(self.images[held], self.images[rest], candidates[-1], self.config.metric)
            labels = self.labels[rest][index]
            for row, k in enumerate(candidates):
                parts = shares(labels[:, :k], _weights(distances[:, :k], self.config.votes), self.config.num_classes)
                right[row, number] = (parts.argmax(1) == self.labels[held]).double().mean()
            examples.advance(1)
        means = right.mean(1)
        for k, mean, spread in zip(candidates, means.tolist(), right.std(1, correction=0).tolist(), strict=True):
            examples.log(k, cv_accuracy=mean, cv_deviation=spread)
        best = candidates[int(means.argmax())]
        of = "the" if len(order) == len(self.labels) else f"{len(order):,} of the"
        examples.say(f"k={best} of {', '.join(map(str, candidates))}: right most often ({means.max():.1%}) in "
                     f"{len(folds)}-fold cross-validation on {of} training images")
        return best


def _weights(distances: Tensor, kind: str) -> Tensor:
    """[Q, k], nearest first -> votes [Q, k] up to a factor."""
    if kind == "uniform":
        return torch.ones_like(distances)
    return distances[:, :1].clamp_min(_TINY) / distances.clamp_min(_TINY)


VARIANTS = {"nearest_neighbour": {"k": 1}, "knn": {}}

classical.add(KNN, VARIANTS, family="neighbours", task="classification",
              paper="Cover, Hart: Nearest Neighbor Pattern Classification, IEEE T-IT 1967")
