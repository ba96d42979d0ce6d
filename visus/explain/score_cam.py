"""Score-CAM: feature maps weighed by the score of the image seen through each of them alone. No gradients.

Paper: Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPR Workshops
2020, arXiv:1910.01279, equations 6 and 7 and algorithm 1: each channel's map, enlarged to the image and stretched to
[0, 1], masks the image; the softmax over channels of the class's logits are the weights. The logit of the baseline is
the same for all channels and falls out of the softmax. Masked pixels become zeros of the normalised image, the mean
colour. `channels` takes only those of the greatest variance over places, a custom of later work that saves time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.validate import positive
from visus.explain.explanation import Explanation, classes_in, in_eval_mode
from visus.explain.feature_layer import FeatureLayer, feature_layer, last_maps
from visus.explain.grad_cam import GradCam


@torch.no_grad()
def score_cam(model: nn.Module, images: Tensor, targets: Tensor | int | None = None,
              layer: str | FeatureLayer | None = None, *, channels: int | None = None, batch: int = 64) -> Tensor:
    """[B, C, H, W] -> [B, h, w], at least 0. targets: int64 [B], one class for all, or None for the model's own
    answers. layer: whose maps, by the module's dotted name; None: the last ones. channels: how many of them, None for
    all. batch: masked images at a time."""
    positive(batch=batch, **({} if channels is None else {"channels": channels}))
    found = last_maps(model, images, layer, graph=False)
    maps, targets = found.maps, classes_in(found.logits, targets)
    if channels is not None and channels < maps.shape[1]:
        kept = maps.flatten(2).var(2).topk(channels, dim=1).indices  # [B, channels]
        maps = maps.take_along_dim(kept[:, :, None, None], dim=1)
    with in_eval_mode(model):
        empty = model(torch.zeros_like(images[:1]))[0, targets]  # a map that is the same everywhere masks all
        scores = empty[:, None].repeat(1, maps.shape[1])  # [B, K]
        alive = (maps.amax((2, 3)) > maps.amin((2, 3))).nonzero()  # [n, 2]: image, channel
        for image, channel in (part.unbind(1) for part in alive.split(batch)):
            masks = F.interpolate(maps[image, channel][:, None], images.shape[2:], mode="bilinear", align_corners=False)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masked = images[image] * ((masks - low) / (high - low))
            scores[image, channel] = model(masked).gather(1, targets[image, None])[:, 0].to(scores.dtype)
    return torch.einsum("bk,bkhw->bhw", scores.softmax(1), maps).relu()


@dataclass(frozen=True, kw_only=True)
class ScoreCam(GradCam):
    """channels: how many of the maps, those of the greatest variance, such as 128; None: all. batch: masked images at
    a time. The others as of grad_cam."""

    channels: int | None = None
    batch: int = 64

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence="Where the last features that speak for the class are: their maps "
                     f"({feature_layer(model, images, self.layer).words}), weighed by the score of the image seen "
                     "through each of them alone.",
            heat=score_cam(model, images, self.target, self.layer, channels=self.channels, batch=self.batch))


explain.add(ScoreCam, {"score_cam": {}}, summary="feature maps weighed by the score of what each lets through",
            paper="Wang et al., CVPR Workshops 2020, arXiv:1910.01279")
