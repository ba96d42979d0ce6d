"""SmoothGrad, its squares, and VarGrad: gradients of many noisy copies of an image, put together.

Papers: Smilkov, Thorat, Kim, Viegas, Wattenberg, SmoothGrad: removing noise by adding noise, 2017, arXiv:1706.03825,
section 3: the mean of the gradients at images with Gaussian noise, whose deviation is a share of the image's range (10
to 20 % there). The mean of their squares is from Hooker et al., NeurIPS 2019, arXiv:1806.10758, the variance (VarGrad)
from Adebayo et al., NeurIPS 2018, arXiv:1810.03292. The noise hangs on the seed alone: every image gets the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.validate import natural, one_of, positive, require
from visus.explain.explanation import Explanation
from visus.explain.saliency import Targets, class_scores, image_gradients, no_gradient, strongest

Statistic = Literal["mean", "square", "variance"]
_WORDS = {"mean": "mean", "square": "mean square", "variance": "variance"}


def smooth_gradients(model: nn.Module, images: Tensor, targets: Targets = None, *, samples: int = 32,
                     noise: float = 0.15, statistic: Statistic = "mean", seed: int = 0, batch: int = 32) -> Tensor:
    """[B, C, H, W] -> the same: mean, mean square or variance over `samples` noisy copies of the gradient of the score.

    targets: int64 [B], one class for all, or None for the model's answers to the images without noise. noise: its
    standard deviation as a share of each image's range. batch: noisy images in one pass, at least one of each.
    """
    positive(samples=samples, batch=batch)
    natural(seed=seed)
    one_of(get_args(Statistic), statistic=statistic)
    require(isinstance(noise, int | float) and not isinstance(noise, bool) and 0 <= noise <= 1, "noise", noise,
            "lie in [0, 1], a share of the range of the pixels")
    targets = class_scores(model, images, targets)[1]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(samples, *images.shape[1:], generator=generator).to(images)
    deviation = noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    total = torch.zeros(images.shape, dtype=torch.float64, device=images.device)
    squares = torch.zeros_like(total)
    for some in draws.split(max(1, batch // len(images))):
        noisy = images + deviation * some[:, None]  # [s, B, C, H, W]
        gradients = image_gradients(model, noisy.flatten(0, 1), targets.repeat(len(some)))
        gradients = gradients.unflatten(0, noisy.shape[:2]).double()
        total += gradients.sum(0)
        squares += gradients.square().sum(0)
    if statistic == "mean":
        return (total / samples).to(images.dtype)
    spread = squares / samples - ((total / samples).square() if statistic == "variance" else 0)
    return spread.clamp(min=0).to(images.dtype)


@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    """target: the class asked about. samples: noisy copies. noise: standard deviation, as a share of the image's
    range. statistic: of the gradients: mean (SmoothGrad), square or variance (VarGrad). seed: of the noise. batch:
    noisy images in one pass."""

    target: int | None = None
    samples: int = 32
    noise: float = 0.15
    statistic: Statistic = "mean"
    seed: int = 0
    batch: int = 32
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return no_gradient(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        found = smooth_gradients(model, images, self.target, samples=self.samples, noise=self.noise,
                                 statistic=self.statistic, seed=self.seed, batch=self.batch)
        return Explanation(
            sentence=f"How much the score of the class changes with each pixel: {_WORDS[self.statistic]} of the "
                     f"gradients at {self.samples} copies of the image with noise of {self.noise:.0%} of its range, of "
                     "the channel where it is largest.",
            heat=strongest(found))


explain.add(SmoothGrad, {"smooth_grad": {}}, summary="the gradient averaged over noisy copies of the image",
            paper="Smilkov et al., 2017, arXiv:1706.03825")
