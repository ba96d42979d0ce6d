"""Kernel SHAP: the Shapley value of each superpixel, by a weighted linear regression.

Paper: Lundberg, Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, arXiv:1705.07874, theorem 2: a
linear model of the score over which superpixels are seen, fitted with the Shapley kernel
(M - 1) / (C(M, k) k (M - k)) for k of M seen, has the Shapley values as its weights. The empty and the whole image
weigh infinitely: they are constraints here, so that the values sum to the score of the image less that of the hidden
one. All coalitions are asked where there are few; otherwise sizes are drawn by the kernel's share of each, and each
draw comes with its complement (Covert, Lee, AISTATS 2021, arXiv:2012.01536).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.validate import positive, require
from visus.explain.explanation import Explanation
from visus.explain.lime import check_segment_options, over_segments, superpixels
from visus.explain.masking import Fill, Score, single_output_problem
from visus.explain.pixels import Scale


@torch.no_grad()
def kernel_shap(model: nn.Module, images: Tensor, segments: Tensor, targets: Tensor | int | None = None, *,
                samples: int = 1000, seed: int = 0, fill: Fill = "grey", of: Score = "probability",
                batch: int = 64) -> Tensor:
    """[B, C, H, W] -> [B, H, W]: each pixel gets the Shapley value of its superpixel; those of the superpixels sum to
    score(image) - score(hidden). segments: int64 [B, H, W], numbered from 0 in each image. samples: coalitions beside
    the empty and the whole; exact where that is all of them."""
    positive(samples=samples)

    def fitted(kept: Tensor, scores: Tensor) -> Tensor:
        return shapley_weights(kept[2:], scores[2:], coalition_weights(kept[2:], samples), scores[0], scores[1])

    return over_segments(model, images, segments, targets,
                         lambda count: coalitions(count, samples, seed).to(images.device), fitted,
                         fill=fill, of=of, batch=batch)


def coalitions(count: int, samples: int, seed: int = 0) -> Tensor:
    """bool [2 + n, count]: the empty, the whole, then all others in turn where they are at most `samples`, or else
    `samples` drawn by the Shapley kernel, with their complements."""
    ends = torch.tensor([[False], [True]]).expand(2, count)
    if count < 2:
        return ends
    if _all_asked(count, samples):
        numbers = torch.arange(1, 2**count - 1)
        return torch.cat([ends, (numbers[:, None] >> torch.arange(count)) & 1 > 0])
    generator = Generator().manual_seed(seed)
    sizes = torch.arange(1, count, dtype=torch.float64)
    pairs = -(-samples // 2)
    size = torch.multinomial((count - 1) / (sizes * (count - sizes)), pairs, replacement=True, generator=generator) + 1
    order = torch.rand(pairs, count, generator=generator).argsort(1).argsort(1)
    drawn = order < size[:, None]
    return torch.cat([ends, torch.stack([drawn, ~drawn], dim=1).flatten(0, 1)[:samples]])


def coalition_weights(kept: Tensor, samples: int) -> Tensor:
    """[n]: the Shapley kernel where all coalitions are there; ones where they were drawn by it."""
    count = kept.shape[1]
    if not _all_asked(count, samples):
        return torch.ones(len(kept), dtype=torch.float64, device=kept.device)
    kernel = [0.0] + [(count - 1) / (math.comb(count, k) * k * (count - k)) for k in range(1, count)]
    return torch.tensor(kernel, dtype=torch.float64, device=kept.device)[kept.sum(1)]


def _all_asked(count: int, samples: int) -> bool:
    return count < 2 or 2**count - 2 <= samples


def shapley_weights(kept: Tensor, scores: Tensor, weights: Tensor, empty: Tensor, whole: Tensor) -> Tensor:
    """[n, M], [n], [n] -> [M]: least squares under the constraint that the values sum to whole - empty, by Lagrange's
    multiplier. M = 1: that difference alone."""
    gain, count = (whole - empty).double(), kept.shape[1]
    if count == 1 or not len(kept):
        return (gain / count).repeat(count)
    inputs, outputs = kept.double(), (scores - empty).double()
    gram = torch.linalg.pinv((inputs * weights[:, None]).T @ inputs, hermitian=True, rtol=1e-10)
    free, ones = gram @ ((inputs * weights[:, None]).T @ outputs), gram.sum(1)
    if float(ones.sum()) <= 0:
        return free + (gain - free.sum()) / count
    return free + ones * (gain - free.sum()) / ones.sum()


@dataclass(frozen=True, kw_only=True)
class KernelShap:
    """target: the class asked about; None: the model's own answer. segments: about how many superpixels. samples: how
    many coalitions of them are asked about. seed: of the draw. fill: what hides: grey, mean (the image's own mean
    colour) or blur. of: probability or logit. batch: images at a time. mean, std: of the model's normalisation."""

    target: int | None = None
    segments: int = 50
    samples: int = 1000
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
        require(self.samples >= self.segments, "samples", self.samples, f"be at least segments={self.segments}")

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return single_output_problem(model, images, self.of)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        segments = superpixels(images, self.segments, self.mean, self.std)
        return Explanation(
            sentence=f"The Shapley value of each of about {self.segments} superpixels, from {self.samples} coalitions: "
                     f"they sum to the {self.of} of the answer less that of the hidden image; red speaks for the "
                     "answer, blue against it.",
            heat=kernel_shap(model, images, segments, self.target, samples=self.samples, seed=self.seed, fill=self.fill,
                             of=self.of, batch=self.batch), signed=True)


explain.add(KernelShap, {"kernel_shap": {}}, summary="the Shapley value of each superpixel",
            paper="Lundberg, Lee, NeurIPS 2017, arXiv:1705.07874")
