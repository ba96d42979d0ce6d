"""Integrated gradients: the score's difference from a baseline, shared out among the pixels.

Paper: Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, ICML 2017, arXiv:1703.01365, equation 1: the
gradient averaged along the straight line from a baseline to the image, times their difference. The shares sum to the
difference of the scores (completeness, proposition 1); how far they miss it says how good the sum over steps is.
Departures: Gauss-Legendre points instead of equal steps, and the mean over several baselines where several are named.
The paper's baseline is black; a pixel as dark as the baseline gets no share, which others do not suffer from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.validate import positive, require
from visus.explain.explanation import Explanation
from visus.explain.pixels import Scale, pixel_scale
from visus.explain.saliency import Targets, class_scores, image_gradients, no_gradient

BASELINES = ("black", "grey", "mean", "blur")


def baselines(images: Tensor, names: str, mean: Scale = None, std: Scale = None) -> list[Tensor]:
    """What stands for nothing to be seen, normalised, each [B, C, H, W]: names joined by '+' of black, grey (the zero
    of normalised images: the mean colour of the training pictures), mean (the image's own mean colour) and blur (the
    image blurred, a tenth of its shorter side as deviation). mean, std: of the model's normalisation."""
    scale = pixel_scale(images, mean, std)
    parts = names.split("+") if isinstance(names, str) else []
    require(parts != [] and set(parts) <= set(BASELINES), "baseline", names,
            f"be one of {', '.join(BASELINES)}, or several joined by +")
    made = {"black": lambda: scale.normalised(torch.zeros_like(images)), "grey": lambda: torch.zeros_like(images),
            "mean": lambda: images.mean((2, 3), keepdim=True).expand_as(images).contiguous(),
            "blur": lambda: blurred(images, min(images.shape[2:]) / 10)}
    return [made[name]() for name in parts]


def blurred(images: Tensor, deviation_px: float) -> Tensor:
    """[B, C, H, W] with a Gaussian blur; beyond the border the outermost pixels go on."""
    reach = max(1, round(3 * deviation_px))
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (places / deviation_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    wide = F.conv2d(F.pad(images, (reach, reach, 0, 0), "replicate"), kernel, groups=images.shape[1])
    return F.conv2d(F.pad(wide, (0, 0, reach, reach), "replicate"), kernel.mT, groups=images.shape[1])


def integrated_gradients(model: nn.Module, images: Tensor, baseline: Tensor, targets: Targets = None, *,
                         steps: int = 32, batch: int = 32) -> Tensor:
    """[B, C, H, W] -> the same, signed: equation 1 with `steps` Gauss-Legendre points. baseline: [B or 1, C, H, W].
    targets: int64 [B], one class for all, or None for the model's own answers. batch: points in one pass, at least one
    of each image."""
    positive(steps=steps, batch=batch)
    targets = class_scores(model, images, targets)[1]
    points, weights = (torch.from_numpy(values).to(images) for values in np.polynomial.legendre.leggauss(steps))
    total = torch.zeros_like(images)
    width = max(1, batch // len(images))
    for at, weight in zip(((1 + points) / 2).split(width), (weights / 2).split(width), strict=True):
        path = baseline + at[:, None, None, None, None] * (images - baseline)  # [s, B, C, H, W]
        gradients = image_gradients(model, path.flatten(0, 1), targets.repeat(len(at)))
        total += torch.einsum("s,sbchw->bchw", weight, gradients.unflatten(0, path.shape[:2]))
    return (images - baseline) * total


def completeness_error(model: nn.Module, images: Tensor, baseline: Tensor, shares: Tensor, targets: Targets) -> Tensor:
    """[B]: how far the shares [B, C, H, W] miss the difference of the scores, as a part of it."""
    scores, targets = class_scores(model, images, targets)
    difference = scores - class_scores(model, baseline.expand_as(images), targets)[0]
    tiny = torch.finfo(images.dtype).eps * scores.abs().clamp(min=1)
    return (shares.sum((1, 2, 3)) - difference).abs() / difference.abs().clamp(min=tiny)


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """target: the class asked about. baseline: black, grey, mean, blur, or several joined by +, whose maps are
    averaged. steps: points between baseline and image. batch: of them in one pass. mean, std: of the model's
    normalisation, which tell what black is."""

    target: int | None = None
    baseline: str = "black"
    steps: int = 32
    batch: int = 32
    mean: Scale = None
    std: Scale = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return no_gradient(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        targets = class_scores(model, images, self.target)[1]
        maps, errors = [], []
        for start in baselines(images, self.baseline, self.mean, self.std):
            maps.append(integrated_gradients(model, images, start, targets, steps=self.steps, batch=self.batch))
            errors.append(completeness_error(model, images, start, maps[-1], targets))
        return Explanation(
            sentence="What each pixel adds to the score of the class, or takes from it, on the way from "
                     f"{baseline_words(self.baseline)} to the image, in {self.steps} steps. "
                     f"{said_error(torch.stack(errors), 'take more steps')}",
            heat=torch.stack(maps).mean(0).sum(1), signed=True)


def baseline_words(names: str) -> str:
    return f"the baseline {names}" if "+" not in names else f"each of the baselines {names.replace('+', ', ')}"


def said_error(errors: Tensor, remedy: str) -> str:
    """errors: of `completeness_error`."""
    worst = float(errors.max())
    return f"The shares together miss the difference of the scores by {worst:.2%}" + (
        f": {remedy}." if worst > 0.05 else ".")


explain.add(IntegratedGradients, {"integrated_gradients": {}},
            summary="the score's difference from a baseline, shared out among the pixels",
            paper="Sundararajan, Taly, Yan, ICML 2017, arXiv:1703.01365")
