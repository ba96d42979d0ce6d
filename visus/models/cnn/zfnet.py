"""ZFNet: AlexNet with a first layer that looks closer, found by looking at what AlexNet had learned.

Paper: Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, arXiv:1311.2901, Figure 3. The
first convolution is 7 x 7 of stride 2 where AlexNet's is 11 x 11 of stride 4, and no layer is split into groups;
`zfnet_wide` has 512, 1024 and 512 filters in layers 3 to 5 (section 5.1). Departures: "contrast normalised across
feature maps" after the first two poolings is AlexNet's local response normalisation, as the paper gives no formula;
paddings are those from which the printed sizes follow (110, 55, 26, 13 and 6); the last maps are averaged to 6 x 6,
which does nothing at 224 pixels and admits other sizes.
forward: images [B, C, H, W], normalised, H and W of at least 63 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.response_norm import ResponseNorm

POOLED = 6           # side of the maps that the first full layer sees
FILTER_RADIUS = 0.1  # root mean square above which training scales a filter down (section 3)


@dataclass(frozen=True, kw_only=True)
class ZFNetConfig:
    """dims: filters of the five convolutions. hidden_dim: units of each hidden full layer."""

    dims: tuple[int, ...] = (96, 256, 384, 384, 256)
    hidden_dim: int = 4096
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.dims, tuple) and len(self.dims) == 5, "dims", self.dims, "be five filter counts")
        for dim in self.dims:
            positive(dims=dim)
        positive(hidden_dim=self.hidden_dim, in_channels=self.in_channels, num_classes=self.num_classes)
        probability(dropout=self.dropout)


class ZFNet(nn.Module):
    """features(images): the first convolution, its pooled maps, the second and fifth convolution, the last pooled
    maps; strides 2, 4, 8, 16 and 32."""

    Config = ZFNetConfig

    def __init__(self, config: ZFNetConfig):
        super().__init__()
        self.config = config
        d1, d2, d3, d4, d5 = config.dims
        self.features = FeatureSequential([
            nn.Conv2d(config.in_channels, d1, 7, 2, 1), nn.ReLU(inplace=True), _pool(), ResponseNorm(),
            nn.Conv2d(d1, d2, 5, 2), nn.ReLU(inplace=True), _pool(), ResponseNorm(),
            nn.Conv2d(d2, d3, 3, 1, 1), nn.ReLU(inplace=True),
            nn.Conv2d(d3, d4, 3, 1, 1), nn.ReLU(inplace=True),
            nn.Conv2d(d4, d5, 3, 1, 1), nn.ReLU(inplace=True), _pool()], (1, 3, 5, 13, 14), least=47)
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        hidden, rate = config.hidden_dim, config.dropout
        self.classifier = nn.Sequential(
            nn.Linear(POOLED**2 * d5, hidden), nn.ReLU(inplace=True), nn.Dropout(rate),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(rate),
            nn.Linear(hidden, config.num_classes))
        self.feature_channels = (d1, d1, d2, d5, d5)
        self.feature_strides = (2, 4, 8, 16, 32)
        for module in self.modules():  # section 3
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.avgpool(self.features.last(images))
        return self.classifier(maps.flatten(1))  # [B, D, 6, 6] -> [B, 36 D] -> [B, num_classes]


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


@torch.no_grad()
def renormalise_filters(model: nn.Module, radius: float = FILTER_RADIUS) -> None:
    """Scales each filter of each convolution whose root mean square exceeds `radius` down to it, in place. The paper
    does so while it trains, lest a few filters of the first layer dominate (section 3)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            rms = module.weight.square().mean((1, 2, 3), keepdim=True).sqrt()  # [O, 1, 1, 1]
            module.weight.mul_((radius / rms).clamp(max=1))


VARIANTS = {
    "zfnet": {"dims": (96, 256, 384, 384, 256)},
    "zfnet_wide": {"dims": (96, 256, 512, 1024, 512)},
}

_TABLE_2 = "Zeiler and Fergus 2014, Table 2, 1 convnet, validation, {} % error (from memory)"
PUBLISHED = {
    "zfnet": [{"what": "top1", "value": "61.6", "data": "ImageNet-1k", "source": _TABLE_2.format("38.4")}],
    "zfnet_wide": [{"what": "top1", "value": "62.5", "data": "ImageNet-1k", "source": _TABLE_2.format("37.5")}],
}

models.add(ZFNet, VARIANTS, family="zfnet", task="classification", published=PUBLISHED,
           paper="Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014, arXiv:1311.2901",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
