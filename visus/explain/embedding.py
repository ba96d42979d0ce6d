"""Images as the classifier's last layer sees them: on a plane, and each with those nearest to it.

Papers: van der Maaten, Hinton, JMLR 9, 2008 (t-SNE); McInnes, Healy, Melville, 2018, arXiv:1802.03426 (UMAP);
Krizhevsky, Sutskever, Hinton, NIPS 2012, Figure 4 right (nearest neighbours by the last
hidden layer's features). Features are what goes into the layer that gives the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.core.validate import natural, positive, require
from visus.explain.explanation import Explanation, in_eval_mode
from visus.explain.filters import filter_sheet
from visus.explain.pixels import PixelScale, Scale, pixel_scale
from visus.ops.projection import pca, squared_distances, tsne, umap
from visus.ops.resample import resize

Kind = Literal["tsne", "umap", "pca"]
Space = Literal["features", "pixels"]
Metric = Literal["cosine", "euclidean"]
CHUNK = 32  # images through the network at once
LEAST = 4  # images that t-SNE and UMAP can tell apart from their principal components
MOSAIC_PX = 960


@torch.no_grad()
def last_features(model: nn.Module, images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, D]: what goes into the last linear layer or convolution that is as wide as the logits, its
    places or tokens averaged; the logits themselves for a model without such a layer, or where it is the only one."""
    ran: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((inputs[0], output))

    hooks = [module.register_forward_hook(note) for module in model.modules()
             if isinstance(module, nn.Linear | nn.Conv2d)]
    parts = []
    try:
        with in_eval_mode(model):
            for part in images.split(CHUNK):
                ran.clear()
                logits = model(part)
                into = [given for given, made in ran
                        if logits.shape[1] == (made.shape[1] if made.ndim == 4 else made.shape[-1])]
                features = into[-1].detach() if into and len(ran) > 1 else logits
                if features.ndim == 4 and features.shape[0] == len(part):
                    features = features.mean((2, 3))
                elif features.ndim > 2:
                    features = features.flatten(1, -2).mean(1)  # [B, ..., D] -> [B, D]
                parts.append(features.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts)


def mosaic(points: Tensor, thumbnails: Tensor, side: int) -> Tensor:
    """[C, side * h, side * w] on white: each of [N, C, h, w] in a cell of a grid near its place [N, 2], the image's own
    where it is free, else the nearest free one; images of dense regions come last. side * side >= N."""
    low, high = points.amin(0), points.amax(0)
    cells = ((points - low) / (high - low).clamp(min=1e-12) * (side - 1)).double().cpu()
    cells[:, 1] = side - 1 - cells[:, 1]  # y grows upwards
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()  # (row, column)
    taken = torch.zeros(side * side, dtype=torch.float64)
    apart = squared_distances(cells[:, [1, 0]], grid)
    order = squared_distances(cells).add_(torch.eye(len(cells)) * 1e9).amin(1).argsort(descending=True, stable=True)
    height, width = thumbnails.shape[2:]
    canvas = torch.ones(thumbnails.shape[1], side, height, side, width, dtype=thumbnails.dtype)
    for number in order.tolist():
        cell = int((apart[number] + taken).argmin())
        taken[cell] = math.inf
        canvas[:, cell // side, :, cell % side] = thumbnails[number].cpu()
    return canvas.flatten(3).flatten(1, 2)


def map_of_images(sentence: str, points: Tensor, images: Tensor, scale: PixelScale) -> Explanation:
    """The explanation that shows normalised `images` [N, C, H, W] at their places [N, 2]."""
    side = math.ceil(1.6 * math.sqrt(len(images)))
    thumbnail = max(8, min(64, MOSAIC_PX // side, *images.shape[2:]))
    small = resize(scale.pixels(images.float()), (thumbnail, thumbnail)).clamp(0, 1)
    return Explanation(sentence=sentence, points=points, pictures=mosaic(points, small, side)[None],
                       picture_names=("map of images",))


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """kind: tsne, umap or pca. perplexity: of t-SNE, how many neighbours count, lowered for few images. neighbours,
    min_distance: of UMAP. seed: of UMAP's chance."""

    kind: Kind = "tsne"
    perplexity: float = 30.0
    neighbours: int = 15
    min_distance: float = 0.1
    seed: int = 0
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.kind in get_args(Kind), "kind", self.kind, f"be one of {', '.join(get_args(Kind))}")
        require(isinstance(self.perplexity, int | float) and self.perplexity >= 1, "perplexity", self.perplexity,
                "be at least 1")
        positive(neighbours=self.neighbours)
        require(self.neighbours >= 2, "neighbours", self.neighbours, "be at least 2")
        require(isinstance(self.min_distance, int | float) and 0 <= self.min_distance < 1, "min_distance",
                self.min_distance, "be at least 0 and below 1")
        natural(seed=self.seed)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        if len(images) < 2:
            raise UserError("a map needs two images at least", where=f"{len(images)} given",
                            remedy="Give a folder of images")
        features = last_features(model, images).float()
        points, words = self.places(features)
        return map_of_images(f"The {len(images)} images as the classifier's last layer sees them, {features.shape[1]} "
                             f"features on a plane by {words}.", points, images, scale)

    def places(self, features: Tensor) -> tuple[Tensor, str]:
        """Features [N, D] -> places [N, 2], and what was done."""
        count = len(features)
        if self.kind == "pca" or count < LEAST:
            points, shares = pca(features)
            return points, f"their first two principal components ({float(shares.sum()):.0%} of the variance)" + (
                "" if self.kind == "pca" else f", as they are fewer than {LEAST}")
        if self.kind == "umap":
            neighbours = min(self.neighbours, count - 1)
            points = umap(features, neighbours=neighbours, min_distance=self.min_distance, seed=self.seed)
            return points, f"UMAP with {neighbours} neighbours: who is near whom counts, not how far apart groups lie"
        perplexity = min(self.perplexity, (count - 1) / 3)
        return tsne(features, perplexity=perplexity), \
            f"t-SNE with perplexity {perplexity:.3g}: who is near whom counts, not how far apart groups lie"


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """count: how many neighbours of each image. queries: of how many images, from the first. space: features of the
    last layer, or the pixels themselves for comparison. metric: the paper's Euclidean distance favours images with weak
    features as everybody's neighbours; cosine looks at their direction alone."""

    count: int = 6
    queries: int = 24
    space: Space = "features"
    metric: Metric = "cosine"
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(count=self.count, queries=self.queries)
        require(self.space in get_args(Space), "space", self.space, f"be one of {', '.join(get_args(Space))}")
        require(self.metric in get_args(Metric), "metric", self.metric, f"be one of {', '.join(get_args(Metric))}")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        scale = pixel_scale(images, self.mean, self.std)
        if len(images) < 2:
            raise UserError("an image alone has no neighbours", where=f"{len(images)} given",
                            remedy="Give a folder of images")
        features = images.flatten(1) if self.space == "pixels" else last_features(model, images)
        if self.metric == "cosine":
            features = F.normalize(features, dim=1)  # the distance of unit vectors grows as the cosine falls
        index, apart = nearest_neighbours(features[:self.queries], features, min(self.count, len(images) - 1))
        small = resize(scale.pixels(images.float()), (72, 72)).clamp(0, 1)
        strips = torch.stack([filter_sheet(torch.cat([small[n:n + 1], small[row]]), 1 + len(row), side_px=72, gap=2)
                              for n, row in enumerate(index)])
        names = tuple(f"image {n}, then " + ", ".join(f"{int(i)} ({float(d):.3g})" for i, d in zip(*row, strict=True))
                      for n, row in enumerate(zip(index, apart, strict=True)))
        how = "angle" if self.metric == "cosine" else "Euclidean distance"
        what = "pixels" if self.space == "pixels" else "features of the last layer"
        return Explanation(sentence=f"Each image, first in its row, and the {index.shape[1]} of {len(images)} that are "
                                    f"nearest by the {how} of their {what}.",
                           pictures=strips, picture_names=names)


def nearest_neighbours(queries: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first queries of features [N, D] -> numbers [Q, count] and distances [Q, count] of the others nearest to
    each, itself left out."""
    squared = squared_distances(queries.double(), features.double())
    squared[torch.arange(len(queries)), torch.arange(len(queries))] = math.inf
    nearest, index = squared.topk(count, largest=False)
    return index, nearest.sqrt()


explain.add(Embedding, {"embedding": {}}, summary="your images on a plane, alike ones near each other",
            paper="van der Maaten, Hinton, JMLR 9, 2008; McInnes et al., 2018, arXiv:1802.03426")
explain.add(Neighbours, {"neighbours": {}}, summary="the images that the classifier finds most alike",
            paper="Krizhevsky, Sutskever, Hinton, NIPS 2012, Figure 4")
