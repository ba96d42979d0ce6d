"""Guided Grad-CAM: the pixels of guided backpropagation where Grad-CAM is hot.

Paper: Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391, section 3.3: guided backpropagation shows fine edges,
alike for any class, Grad-CAM tells classes apart at the places of the last map; their product has both. Grad-CAM is
enlarged to the image bilinearly, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.explain.explanation import Explanation, classes_asked, in_eval_mode
from visus.explain.feature_layer import FeatureLayer, feature_layer
from visus.explain.grad_cam import GradCam, grad_cam
from visus.explain.relu_rules import as_pictures, ruled_gradients, unruled
from visus.explain.saliency import strongest


def guided_grad_cam(model: nn.Module, images: Tensor, targets: Tensor | int | None = None,
                    layer: str | FeatureLayer | None = None) -> Tensor:
    """[B, C, H, W] -> the same, signed. targets: int64 [B], one class for all, or None for the model's own answers.
    layer: whose maps Grad-CAM weighs, by the module's dotted name; None: the last ones."""
    if not isinstance(targets, Tensor):
        with in_eval_mode(model):
            targets = classes_asked(model, images, targets)
    where = grad_cam(model, images, targets, layer)
    enlarged = F.interpolate(where[:, None], images.shape[2:], mode="bilinear", align_corners=False)
    return ruled_gradients(model, images, targets, rule="guided") * enlarged


@dataclass(frozen=True, kw_only=True)
class GuidedGradCam(GradCam):
    """As of grad_cam."""

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return super().problem(model, images) or unruled(model, images)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        signal = guided_grad_cam(model, images, self.target, self.layer)
        return Explanation(
            sentence="Pixels that speak for the class by guided backpropagation, where Grad-CAM is hot "
                     f"({feature_layer(model, images, self.layer).words}).",
            heat=strongest(signal), pictures=as_pictures(signal), picture_names=("guided Grad-CAM",) * len(images))


explain.add(GuidedGradCam, {"guided_grad_cam": {}},
            summary="the pixels of guided backpropagation where Grad-CAM is hot",
            paper="Selvaraju et al., ICCV 2017, arXiv:1610.02391, section 3.3")
