"""Images of which parts are hidden, and what the model makes of them: the base of the methods that ask forward only.

What hides a part (`Fill`): grey is zero of the normalised image, the mean colour of the training data; mean is the mean
colour of the image itself; blur is the image out of focus, which keeps colours and loses shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.validate import one_of, positive, require
from visus.explain.explanation import in_eval_mode

Fill = Literal["grey", "mean", "blur"]
Score = Literal["probability", "logit"]
FILLS: tuple[str, ...] = get_args(Fill)
SCORES: tuple[str, ...] = get_args(Score)
CACHED_PIXELS = 2**19  # of a batch: 128 images of 64 pixels, 10 of 224
Masks = Callable[[Tensor], Tensor]  # numbers of masks [n] -> [n, H, W]: bool, what is shown, or its share in [0, 1]


def hidden(images: Tensor, fill: Fill) -> Tensor:
    """[B, C, H, W] -> what stands where a part is hidden, of the same shape."""
    one_of(FILLS, fill=fill)
    if fill == "grey":
        return torch.zeros_like(images)
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    return blurred(images, max(images.shape[2:]) / 32)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """[B, C, H, W] under a Gaussian of `sigma` pixels, cut off at two sigma; the border is repeated outwards."""
    require(sigma > 0, "sigma", sigma, "be above 0")
    reach = max(1, math.ceil(2 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    out = images.flatten(0, 1)[:, None]  # [B * C, 1, H, W]
    out = F.conv2d(F.pad(out, (reach, reach, 0, 0), mode="replicate"), kernel)
    out = F.conv2d(F.pad(out, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3))
    return out.view(images.shape)


def class_scores(logits: Tensor, targets: Tensor, of: Score) -> Tensor:
    """[N, K] and classes [N] -> [N]."""
    scores = logits.softmax(-1) if of == "probability" else logits
    return scores.gather(1, targets[:, None])[:, 0]


@torch.no_grad()
def masked_scores(model: nn.Module, images: Tensor, targets: Tensor, fills: Tensor, masks: Masks, count: int, *,
                  of: Score = "probability", batch: int = 64) -> Tensor:
    """The score of each image under each of `count` masks, [B, count]. fills: [B, C, H, W], what stands where a mask
    hides. batch: masked images at a time, at most; of large ones fewer, whose maps stay in the processor's cache."""
    one_of(SCORES, of=of)
    positive(batch=batch)
    if images.device.type == "cpu":
        batch = min(batch, max(8, CACHED_PIXELS // images[0, 0].numel()))
    fills, scores = fills.expand_as(images), []
    with in_eval_mode(model):
        for numbers in torch.arange(len(images) * count, device=images.device).split(batch):
            image, mask = numbers // count, numbers % count
            if image[0] == image[-1]:  # most often: then nothing is copied before it is masked
                shown, hides = images[image[:1]], fills[image[:1]]
            else:
                shown, hides = images[image], fills[image]
            keep = masks(mask)[:, None]
            mixed = torch.where(keep, shown, hides) if keep.dtype == torch.bool else torch.lerp(hides, shown, keep)
            scores.append(class_scores(model(mixed), targets[image], of))
    return torch.cat(scores).view(len(images), count)


def single_output_problem(model: nn.Module, images: Tensor, of: Score) -> str | None:
    """Why the probability of an answer says nothing about this model, or None."""
    with torch.no_grad(), in_eval_mode(model):
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return "gives no score for each class"
    if logits.shape[1] == 1 and of == "probability":
        return "has a single output, whose softmax is always 1: take of=logit"
    return None
