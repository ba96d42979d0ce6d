"""LIME: a linear model of the network's answer around one image, over its superpixels.

Paper: Ribeiro et al., "Why Should I Trust You?": Explaining the Predictions of Any Classifier, KDD 2016,
arXiv:1602.04938, equations 1 and 2, algorithm 1 and section 3.4: superpixels are hidden at random, each with chance a
half, samples count by their nearness exp(-d^2 / width^2), and a linear model is fitted to the scores. d is the cosine
distance between a sample and the whole image in terms of superpixels, as in the authors' package. Departure: ridge
regression over all superpixels in place of the K that a lasso path takes first; its intercept is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.validate import natural, one_of, positive, require
from visus.explain.explanation import Explanation, classes_in, in_eval_mode
from visus.explain.masking import FILLS, SCORES, Fill, Score, hidden, masked_scores, single_output_problem
from visus.explain.pixels import Scale, pixel_scale
from visus.ops.superpixels import slic


@torch.no_grad()
def lime(model: nn.Module, images: Tensor, segments: Tensor, targets: Tensor | int | None = None, *,
         samples: int = 1000, width: float = 0.25, ridge: float = 1.0, seed: int = 0, fill: Fill = "grey",
         of: Score = "probability", batch: int = 64) -> Tensor:
    """[B, C, H, W] -> [B, H, W]: each pixel gets the weight of its superpixel. segments: int64 [B, H, W], numbered from
    0 in each image. targets: int64 [B], one class for all, or None for the model's own answers. width: of the kernel.
    An image is explained alike alone and in a batch."""
    positive(samples=samples)
    require(width > 0, "width", width, "be above 0")
    require(ridge >= 0, "ridge", ridge, "be at least 0")

    def fitted(kept: Tensor, scores: Tensor) -> Tensor:
        nearness = torch.exp(-((1 - kept.double().mean(1).sqrt()) / width) ** 2)
        return ridge_weights(kept.double(), scores, nearness, ridge)

    return over_segments(model, images, segments, targets,
                         lambda count: random_samples(samples, count, seed).to(images.device), fitted,
                         fill=fill, of=of, batch=batch)


def random_samples(samples: int, count: int, seed: int) -> Tensor:
    """bool [samples, count], true where a superpixel is seen: the whole image first, then each with chance a half."""
    kept = torch.rand(samples, count, generator=Generator().manual_seed(seed)) < 0.5
    kept[0] = True
    return kept


def ridge_weights(inputs: Tensor, outputs: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """Weighted least squares with a free intercept and `ridge` times the squared norm: [n, M], [n], [n] -> [M]. Of
    several solutions without ridge the smallest."""
    inputs, outputs, shares = inputs.double(), outputs.double(), weights.double() / weights.double().sum()
    root = weights.double().sqrt()
    centred = root[:, None] * (inputs - shares @ inputs)
    target = root * (outputs - shares @ outputs)
    gram = centred.T @ centred + ridge * torch.eye(inputs.shape[1], dtype=torch.float64, device=inputs.device)
    if ridge > 0:
        return torch.linalg.solve(gram, centred.T @ target)
    return torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ (centred.T @ target)


def over_segments(model: nn.Module, images: Tensor, segments: Tensor, targets: Tensor | int | None,
                  draw: Callable[[int], Tensor], fit: Callable[[Tensor, Tensor], Tensor], *, fill: Fill, of: Score,
                  batch: int) -> Tensor:
    """Scores of images with superpixels hidden, and what `fit` makes of them, painted on the superpixels: [B, H, W].

    draw: number of superpixels -> bool [n, M], which are seen. fit: those and the scores [n] -> [M].
    """
    require(segments.shape == (len(images), *images.shape[2:]), "segments", tuple(segments.shape),
            f"have a number for each pixel of images {tuple(images.shape)}")
    if not isinstance(targets, Tensor):
        with in_eval_mode(model):
            targets = classes_in(model(images), targets)
    fills, maps = hidden(images, fill), []
    for number, labels in enumerate(segments):  # each has superpixels of its own; a batch is its samples
        one, kept = slice(number, number + 1), draw(int(labels.max()) + 1)
        scores = masked_scores(model, images[one], targets[one], fills[one], partial(_shown, kept, labels), len(kept),
                               of=of, batch=batch)[0]
        maps.append(fit(kept, scores).to(images.dtype)[labels])
    return torch.stack(maps)


def _shown(kept: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """bool [n, H, W]: the pixels of the superpixels that these rows of `kept` show."""
    return kept[rows].index_select(1, labels.flatten()).view(-1, *labels.shape)


def superpixels(images: Tensor, segments: int, mean: Scale, std: Scale) -> Tensor:
    """int64 [B, H, W] of normalised images. mean, std: of the normalisation; where they are not known, each image is
    stretched to [0, 1]."""
    if mean is not None or std is not None:
        return slic(pixel_scale(images, mean, std).pixels(images), segments)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return slic((images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny), segments)


@dataclass(frozen=True, kw_only=True)
class Lime:
    """target: the class asked about; None: the model's own answer. segments: about how many superpixels. samples: how
    many images with some of them hidden. width: of the kernel of nearness. ridge: of the linear model. seed: of the
    samples. fill: what hides: grey, mean (the image's own mean colour) or blur. of: probability or logit. batch: images
    at a time. mean, std: of the model's normalisation."""

    target: int | None = None
    segments: int = 50
    samples: int = 1000
    width: float = 0.25
    ridge: float = 1.0
    seed: int = 0
    fill: Fill = "grey"
    of: Score = "probability"
    batch: int = 64
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_segment_options(self.segments, self.samples, self.seed, self.fill, self.of, self.batch)
        require(isinstance(self.width, int | float) and self.width > 0, "width", self.width, "be above 0")
        require(isinstance(self.ridge, int | float) and self.ridge >= 0, "ridge", self.ridge, "be at least 0")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return single_output_problem(model, images, self.of)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        segments = superpixels(images, self.segments, self.mean, self.std)
        return Explanation(
            sentence=f"What each of about {self.segments} superpixels adds to the {self.of} of the answer, in a linear "
                     f"model of {self.samples} images with some of them hidden: red speaks for it, blue against it.",
            heat=lime(model, images, segments, self.target, samples=self.samples, width=self.width, ridge=self.ridge,
                      seed=self.seed, fill=self.fill, of=self.of, batch=self.batch), signed=True)


def check_segment_options(segments: int, samples: int, seed: int, fill: Fill, of: Score, batch: int) -> None:
    positive(segments=segments, samples=samples, batch=batch)
    natural(seed=seed)
    one_of(FILLS, fill=fill)
    one_of(SCORES, of=of)


explain.add(Lime, {"lime": {}}, summary="what each superpixel adds to the answer, in a linear model around the image",
            paper="Ribeiro et al., KDD 2016, arXiv:1602.04938")
