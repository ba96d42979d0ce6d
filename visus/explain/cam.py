"""CAM: what each place of the last feature map adds to the score of a class.

Paper: Zhou, Khosla, Lapedriza, Oliva, Torralba, Learning Deep Features for Discriminative Localization, CVPR 2016,
arXiv:1512.04150, section 2, equation 2: where the score is a full layer on the averages of the last maps, the sum of
the maps weighed by the class's row of that layer has the score, less the bias, as its mean. Such models only; the
others, and the weights of the full layer, are told by the gradient of the logits at the maps: the same at every place
and for every image.
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


def class_activation_map(model: nn.Module, images: Tensor, targets: Tensor | int | None = None) -> Tensor:
    """[B, C, H, W] -> [B, h, w], signed: sum over channels of weight times map (equation 2). targets: int64 [B], one
    class for all, or None for the model's own answers. Raises UserError where the logits are no weighed averages of the
    last maps."""
    layer = averaged_layer(model, images)
    found = last_maps(model, images, layer)
    weights = found.gradient(targets).sum((2, 3))  # of the average: times the number of places
    return torch.einsum("bk,bkhw->bhw", weights, found.maps)


def averaged_layer(model: nn.Module, images: Tensor) -> FeatureLayer:
    """The activation whose averages the last full layer reads. Raises UserError where there is none."""
    layer = feature_layer(model, images, before_norm=False)
    generator = torch.Generator().manual_seed(0)
    tried = 3 * torch.randn(2, *layer.shape, generator=generator).to(images)
    found = last_maps(model, images[:1].expand(2, -1, -1, -1), layer, instead=tried)
    mix = torch.randn(found.logits.shape[1], generator=generator).to(found.logits)
    slope, = torch.autograd.grad(found.logits, found.raw, mix.expand_as(found.logits))
    slope = layer.maps(slope)
    apart = (slope - slope[:1, :, :1, :1]).abs().max()
    if not slope.any() or apart > 1e-4 * slope.abs().max():
        raise UserError("the answer is no weighed average of the last feature map: its head is not global average "
                        "pooling and one full layer")
    return layer


@dataclass(frozen=True, kw_only=True)
class ClassActivationMap:
    """target: the class asked about."""

    target: int | None = None
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            averaged_layer(model, images)
        except UserError as error:
            return error.problem
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        layer = averaged_layer(model, images)
        return Explanation(
            sentence=f"What each place of the last feature map ({layer.words}) adds to the score of the class: the "
                     "mean of the map is the score less its bias.",
            heat=class_activation_map(model, images, self.target), signed=True)


explain.add(ClassActivationMap, {"cam": {}}, summary="what each place of the last map adds to the class's score",
            paper="Zhou et al., CVPR 2016, arXiv:1512.04150")
