"""Layer-CAM: feature maps weighed place by place, so that earlier and finer layers give maps of use too.

Paper: Jiang, Zhang, Hou, Cheng, Wei, LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE
TIP 2021, equations 5 to 7: each place of each channel is weighed by its own positive gradient, and the sum is
rectified. Their fusion of several layers is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import explain
from visus.explain.explanation import Explanation
from visus.explain.feature_layer import FeatureLayer, feature_layer, last_maps
from visus.explain.grad_cam import GradCam


def layer_cam(model: nn.Module, images: Tensor, targets: Tensor | int | None = None,
              layer: str | FeatureLayer | None = None) -> Tensor:
    """[B, C, H, W] -> [B, h, w], at least 0. targets: int64 [B], one class for all, or None for the model's own
    answers. layer: whose maps, by the module's dotted name; None: the last ones."""
    found = last_maps(model, images, layer)
    return (found.gradient(targets).relu() * found.maps).sum(1).relu()


@dataclass(frozen=True, kw_only=True)
class LayerCam(GradCam):
    """As of grad_cam; an earlier layer gives a finer map."""

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="Where the features that speak for the class are: their maps "
                     f"({feature_layer(model, images, self.layer).words}), each place weighed by its own positive "
                     "gradient.",
            heat=layer_cam(model, images, self.target, self.layer))


explain.add(LayerCam, {"layer_cam": {}}, summary="feature maps weighed place by place, for early layers too",
            paper="Jiang et al., IEEE TIP 2021, LayerCAM")
