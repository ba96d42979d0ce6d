"""Grad-CAM and Grad-CAM++: the last feature maps, weighed by how much the class's score depends on each.

Papers: Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391, equations 1 and 2: a channel's weight is the mean of
the score's gradient over places, and the weighed sum is rectified. Chattopadhyay et al., Grad-CAM++, WACV 2018,
arXiv:1710.11063, equations 10, 11 and 19: the weight is a weighed sum of the positive gradients, so that each place
that speaks for the class counts fully, as where an object stands several times. Their exponential of the score scales
a map as a whole and is left out. Both for maps and for tokens with places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.explain.explanation import Explanation
from visus.explain.feature_layer import FeatureLayer, feature_layer, last_maps


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor | int | None = None,
             layer: str | FeatureLayer | None = None, *, rectify: bool = True) -> Tensor:
    """[B, C, H, W] -> [B, h, w], at least 0 where rectified. targets: int64 [B], one class for all, or None for the
    model's own answers. layer: whose maps, by the module's dotted name; None: the last ones."""
    found = last_maps(model, images, layer)
    weights = found.gradient(targets).mean((2, 3))  # equation 1
    heat = torch.einsum("bk,bkhw->bhw", weights, found.maps)
    return heat.relu() if rectify else heat


def grad_cam_plus_plus(model: nn.Module, images: Tensor, targets: Tensor | int | None = None,
                       layer: str | FeatureLayer | None = None) -> Tensor:
    """As `grad_cam`, with the weights of Grad-CAM++."""
    found = last_maps(model, images, layer)
    maps, gradient = found.maps, found.gradient(targets)
    total = maps.sum((2, 3), keepdim=True)
    below = 2 * gradient**2 + total * gradient**3
    alpha = torch.where(below != 0, gradient**2 / torch.where(below != 0, below, 1), 0)  # equation 19
    weights = (alpha * gradient.relu()).sum((2, 3))  # equation 11
    return torch.einsum("bk,bkhw->bhw", weights, maps).relu()


def layer_problem(model: nn.Module, images: Tensor, layer: str | None) -> str | None:
    """Why a model has no maps to weigh, or None. Raises UserError where `layer` is named and does not fit."""
    if layer is not None:
        feature_layer(model, images, layer)
        return None
    try:
        feature_layer(model, images)
    except UserError as error:
        return error.problem
    return None


@dataclass(frozen=True, kw_only=True)
class GradCam:
    """target: the class asked about. layer: dotted name of the module whose output to take; None: the last one that
    has places."""

    target: int | None = None
    layer: str | None = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return layer_problem(model, images, self.layer)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="Where the last features that speak for the class are: their maps "
                     f"({feature_layer(model, images, self.layer).words}), each weighed by the mean of the score's "
                     "gradient.",
            heat=grad_cam(model, images, self.target, self.layer))


@dataclass(frozen=True, kw_only=True)
class GradCamPlusPlus(GradCam):
    """As of grad_cam."""

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="Where the last features that speak for the class are: their maps "
                     f"({feature_layer(model, images, self.layer).words}), weighed so that each place with a positive "
                     "gradient counts fully, as where an object stands several times.",
            heat=grad_cam_plus_plus(model, images, self.target, self.layer))


explain.add(GradCam, {"grad_cam": {}}, summary="where the last features are that speak for the class",
            paper="Selvaraju et al., ICCV 2017, arXiv:1610.02391")
explain.add(GradCamPlusPlus, {"grad_cam_plus_plus": {}}, summary="Grad-CAM whose weights count each place fully",
            paper="Chattopadhyay et al., WACV 2018, arXiv:1710.11063")
