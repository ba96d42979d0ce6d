"""Defences that change the image before it is classified, and the warning that belongs to them.

Papers: Guo, Rana, Cisse, van der Maaten, Countering Adversarial Images using Input Transformations, ICLR 2018,
arXiv:1711.00117 (JPEG, total variation); Xu, Evans, Qi, Feature Squeezing, NDSS 2018, arXiv:1704.01155 (bit depth); Xie
et al., Mitigating Adversarial Effects Through Randomization, ICLR 2018, arXiv:1711.01991 (resize and pad).

WARNING. Such defences mostly hide the gradient and are broken by attacks that expect them: Athalye, Carlini, Wagner,
Obfuscated Gradients Give a False Sense of Security, ICML 2018, arXiv:1802.00420, brought what they protect to 0 %. An
accuracy under an ordinary attack says nothing about them. So a `Transformed` classifier lets the gradient through by
default as if the transform were the identity (backward pass differentiable approximation, section 4.1 of that paper)
where the transform has none, and `visus.attack.masking` looks for the signs of a hidden gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from visus.attack.attack import Classifier, seeded
from visus.attack.corruptions import jpeg
from visus.core.validate import boolean, positive, require

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """quality: 1 to 100. Its rounding has no gradient."""

    quality: float = 75

    def __call__(self, images: Tensor) -> Tensor:
        return jpeg(images, self.quality)


@dataclass(frozen=True, kw_only=True)
class BitDepth:
    """bits: of each value, 1 to 8. Rounding has no gradient."""

    bits: int = 4

    def __post_init__(self) -> None:
        positive(bits=self.bits)
        require(self.bits <= 8, "bits", self.bits, "be at most 8")

    def __call__(self, images: Tensor) -> Tensor:
        top = 2**self.bits - 1
        return (images * top).round() / top


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """The image z that is least in |z - x|^2 / 2 + weight TV(z), TV the sum of the lengths of the gradient over the
    channels' places. steps: of Chambolle's projection (JMIV 2004), which has a gradient."""

    weight: float = 0.05
    steps: int = 20

    def __post_init__(self) -> None:
        positive(steps=self.steps)
        require(isinstance(self.weight, int | float) and 0 < self.weight < float("inf"), "weight", self.weight,
                "be a number above 0")

    def __call__(self, images: Tensor) -> Tensor:
        dual = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)  # p: down, right
        for _ in range(self.steps):
            slope = _slope(_divergence(dual) - images / self.weight)
            dual = (dual + 0.25 * slope) / (1 + 0.25 * slope.square().sum(0).add(1e-12).sqrt())
        return (images - self.weight * _divergence(dual)).clamp(0, 1)


def _slope(images: Tensor) -> Tensor:
    """Forward differences, 0 at the far edge: [2, B, C, H, W]."""
    return torch.stack([F.pad(images.diff(dim=2), (0, 0, 0, 1)), F.pad(images.diff(dim=3), (0, 1))])


def _divergence(dual: Tensor) -> Tensor:
    """Minus the adjoint of `_slope`."""
    down, right = dual[0], dual[1]
    down, right = down[:, :, :-1], right[..., :-1]
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))


class ResizePad:
    """Each call draws a smaller size and a place for the batch in a frame of zeros of the old size. It has a gradient,
    of another draw each time: attack the mean over several calls (expectation over transformation)."""

    def __init__(self, least: float = 0.8, generator: Generator | None = None):
        require(0 < least <= 1, "least", least, "lie in (0, 1]")
        self.least, self.generator = least, seeded(generator)

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        scale = self.least + (1 - self.least) * float(torch.rand((), generator=self.generator))
        size = max(1, round(scale * height)), max(1, round(scale * width))
        small = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        top, left = (int(torch.randint(0, room + 1, (), generator=self.generator))
                     for room in (height - size[0], width - size[1]))
        return F.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


class _Straight(torch.autograd.Function):
    """The transform forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, transform: Transform) -> Tensor:
        return transform(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0], None


@dataclass(frozen=True, kw_only=True)
class Transformed:
    """The classifier behind a transform: itself a classifier, to be attacked. straight_through: the gradient passes the
    transform as if it were not there, so that an attack is not stopped by rounding; without it what the transform's own
    arithmetic gives."""

    classifier: Classifier
    transform: Transform
    straight_through: bool = True

    def __post_init__(self) -> None:
        boolean(straight_through=self.straight_through)

    def __call__(self, images: Tensor) -> Tensor:
        if self.straight_through:
            return self.classifier(_Straight.apply(images, self.transform))
        return self.classifier(self.transform(images))
