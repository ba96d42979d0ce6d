"""Input x gradient: each pixel's share in the score, were the network linear.

Papers: Shrikumar, Greenside, Shcherbina, Kundaje, Not Just a Black Box, 2016, arXiv:1605.01713, section 2; the product
is first-order: the score's change from this image to the zero of normalised images, which is the mean colour. For
networks of ReLUs and no biases the shares sum to the score (Ancona et al., ICLR 2018, arXiv:1711.06104, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from visus import explain
from visus.explain.explanation import Explanation
from visus.explain.saliency import Targets, image_gradients, no_gradient


def input_times_gradient(model: nn.Module, images: Tensor, targets: Targets = None) -> Tensor:
    """[B, C, H, W] -> the same, signed. targets: int64 [B], one class for all, or None for the model's own answers."""
    return images.detach() * image_gradients(model, images, targets)


@dataclass(frozen=True, kw_only=True)
class InputGradient:
    """target: the class asked about."""

    target: int | None = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return no_gradient(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="What each pixel would add to the score of the class, or take from it, were the network linear: "
                     "its distance from the mean colour times the gradient there, summed over channels.",
            heat=input_times_gradient(model, images, self.target).sum(1), signed=True)


explain.add(InputGradient, {"input_gradient": {}}, summary="pixels times their gradients: shares in the score, signed",
            paper="Shrikumar et al., 2016, arXiv:1605.01713")
