"""SqueezeNet 1.0 and 1.1: the accuracy of AlexNet with a fiftieth of its parameters.

Paper: Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
and < 0.5 MB model size, arXiv:1602.07360. A fire module squeezes its maps with 1 x 1 convolutions before it expands
them with 1 x 1 and 3 x 3 ones; a 1 x 1 convolution and an average take the place of full layers. 1.1 is the authors'
later release: a smaller stem and earlier pooling for less than half the operations. Pooling rounds sizes up, as the
authors' Caffe does. Departures: none. Parameters carry torchvision's names.
forward: images [B, C, H, W], normalised, H and W of at least 21 (1.1: 17) -> logits [B, num_classes], never negative:
a ReLU follows the last convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.feature_sequential import FeatureSequential

FIRST_FIRE = 2  # the paper numbers the fire modules from 2
EXPANSION = 4   # filters of each half of an expand layer over those of its squeeze layer: SR = 0.125


@dataclass(frozen=True, kw_only=True)
class SqueezeNetConfig:
    """stem_dim, stem_kernel: of the first convolution, of stride 2. squeeze_dims: 1 x 1 filters of each fire module.
    pool_before: the numbers, counted from 2, of the fire modules with a pooling before them."""

    stem_dim: int = 96
    stem_kernel: int = 7
    squeeze_dims: tuple[int, ...] = (16, 16, 32, 32, 48, 48, 64, 64)
    pool_before: tuple[int, ...] = (2, 5, 9)
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(stem_dim=self.stem_dim, stem_kernel=self.stem_kernel, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(isinstance(self.squeeze_dims, tuple) and len(self.squeeze_dims) >= 1, "squeeze_dims",
                self.squeeze_dims, "hold a filter count for each fire module")
        for dim in self.squeeze_dims:
            positive(squeeze_dims=dim)
        last = FIRST_FIRE + len(self.squeeze_dims) - 1
        require(isinstance(self.pool_before, tuple) and list(self.pool_before) == sorted(set(self.pool_before))
                and all(isinstance(number, int) and FIRST_FIRE <= number <= last for number in self.pool_before),
                "pool_before", self.pool_before, f"be rising numbers of fire modules, {FIRST_FIRE} to {last}")
        probability(dropout=self.dropout)


class Fire(nn.Module):
    """[B, in_dim, H, W] -> [B, squeeze_dim, H, W] -> [B, 8 squeeze_dim, H, W]."""

    def __init__(self, in_dim: int, squeeze_dim: int):
        super().__init__()
        dim = EXPANSION * squeeze_dim
        self.squeeze = nn.Conv2d(in_dim, squeeze_dim, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze_dim, dim, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze_dim, dim, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.squeeze_activation(self.squeeze(maps))
        return torch.cat([self.expand1x1_activation(self.expand1x1(maps)),
                          self.expand3x3_activation(self.expand3x3(maps))], dim=1)  # [B, 2 x 4 squeeze_dim, H, W]


class SqueezeNet(nn.Module):
    """features(images): the last maps before each pooling, and the last of all."""

    Config = SqueezeNetConfig

    def __init__(self, config: SqueezeNetConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, config.stem_dim, config.stem_kernel, 2),
                                   nn.ReLU(inplace=True)]
        taps, channels, dim = [], [], config.stem_dim
        for number, squeeze_dim in enumerate(config.squeeze_dims, FIRST_FIRE):
            if number in config.pool_before:
                taps.append(len(layers) - 1)
                channels.append(dim)
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(dim, squeeze_dim))
            dim = 2 * EXPANSION * squeeze_dim
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1), least=21 if config.stem_kernel == 7 else 17)
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Conv2d(dim, config.num_classes, 1),
                                        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.feature_channels = (*channels, dim)
        self.feature_strides = tuple(2 ** (i + 1) for i in range(len(self.feature_channels)))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier[1].weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features.last(images)).flatten(1)  # [B, num_classes, 1, 1] -> [B, num_classes]


VARIANTS = {
    "squeezenet1_0": {"stem_dim": 96, "stem_kernel": 7, "pool_before": (2, 5, 9)},
    "squeezenet1_1": {"stem_dim": 64, "stem_kernel": 3, "pool_before": (2, 4, 6)},
}

_TABLE_1 = "Iandola et al. 2016, Table 1, before pruning (from memory)"
_TABLE_2 = "Iandola et al. 2016, Table 2 (from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "squeezenet1_0": [{"what": "params", "value": "1248424", "source": _TABLE_1},
                      {"what": "params", "value": "1248424", "source": _TORCHVISION},
                      {"what": "macs", "value": "0.819e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "58.092", "data": "ImageNet-1k", "source": _TORCHVISION},
                      {"what": "top1", "value": "57.5", "data": "ImageNet-1k", "source": _TABLE_2}],
    "squeezenet1_1": [{"what": "params", "value": "1235496", "source": _TORCHVISION},
                      {"what": "macs", "value": "0.349e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "58.178", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "squeezenet1_0": {"torchvision": {"file": "squeezenet1_0-b66bff10.pth", "licence": _LICENCE}},
    "squeezenet1_1": {"torchvision": {"file": "squeezenet1_1-b8a52dc0.pth", "licence": _LICENCE}},
}

models.add(SqueezeNet, VARIANTS, WEIGHTS, family="squeezenet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict}, peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, arXiv:1602.07360",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
