"""Saliency maps: how much the score of a class would change with each pixel.

Paper: Simonyan, Vedaldi, Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, arXiv:1312.6034, section 3:
the score before the softmax is linear near an image, with its gradient as weights; of a pixel's channels the largest
magnitude counts. Gradients here are those of normalised images, so that channels weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.explain.explanation import Explanation, classes_in, in_eval_mode

Targets = Tensor | int | None


def image_gradients(model: nn.Module, images: Tensor, targets: Targets = None) -> Tensor:
    """The gradient of each image's score with its pixels: [B, C, H, W] -> the same. targets: int64 [B], one class for
    all, or None for the model's own answers. Of parameters no gradient is computed."""
    return scores_and_gradients(model, images, targets)[1]


def scores_and_gradients(model: nn.Module, images: Tensor, targets: Targets = None) -> tuple[Tensor, Tensor]:
    """[B] and [B, C, H, W], as `image_gradients`."""
    with in_eval_mode(model), torch.enable_grad():
        leaves = images.detach().requires_grad_()
        logits = model(leaves.clone())  # a model may write into what it is given
        scores = logits.gather(-1, classes_in(logits, targets)[:, None]).squeeze(-1)
        gradients, = torch.autograd.grad(scores.sum(), leaves)
    return scores.detach(), gradients


@torch.no_grad()
def class_scores(model: nn.Module, images: Tensor, targets: Targets = None) -> tuple[Tensor, Tensor]:
    """The score of each image's class, [B], and those classes, int64 [B]."""
    with in_eval_mode(model):
        logits = model(images)
    targets = classes_in(logits, targets)
    return logits.gather(-1, targets[:, None]).squeeze(-1), targets


def no_gradient(model: nn.Module, images: Tensor) -> str | None:
    """Why the score of a class has no gradient with the pixels, or None."""
    name = type(model).__name__
    with in_eval_mode(model), torch.enable_grad():
        logits = model(images.detach().requires_grad_().clone())
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return f"{name} gives no row of class scores for an image"
    return None if logits.requires_grad else f"{name} passes no gradient from its scores to the pixels"


def strongest(values: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W]: of each pixel the largest magnitude of its channels."""
    return values.abs().amax(1)


@dataclass(frozen=True, kw_only=True)
class Saliency:
    """target: the class asked about."""

    target: int | None = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return no_gradient(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="How much the score of the class changes with each pixel: the magnitude of its gradient, of the "
                     "channel where it is largest. It shows what the answer reacts to, not what it is made of.",
            heat=strongest(image_gradients(model, images, self.target)))


explain.add(Saliency, {"saliency": {}}, summary="how much the score changes with each pixel: its gradient",
            paper="Simonyan, Vedaldi, Zisserman, ICLR workshop 2014, arXiv:1312.6034")
