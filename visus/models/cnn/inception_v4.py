"""Inception-v4: the inception modules of v3 made uniform, in a deeper and wider network without auxiliary heads.

Paper: Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning, AAAI 2017, arXiv:1602.07261. The stem branches too, and each grid size has one kind of module. Departures,
as the public weights have them: the longest branch of the middle modules begins with 7 x 1, not 1 x 7, and its
poolings leave the border out of their means; no dropout by default (0.2 in the paper). Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W of at least 75 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.branches import Branches
from visus.layers.conv_norm import ConvNorm
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.image_size import require_size

MIN_SIZE = 75  # of a side in pixels: the stem and the reductions do not pad


@dataclass(frozen=True, kw_only=True)
class InceptionV4Config:
    """image_size: side in pixels that the images will have, at least 75; it shapes no parameter. depths: modules at
    strides 8, 16 and 32. dropout: before the last layer."""

    image_size: int = 299
    depths: tuple[int, ...] = (4, 7, 3)
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.image_size >= MIN_SIZE, "image_size", self.image_size, f"be at least {MIN_SIZE}")
        require(isinstance(self.depths, tuple) and len(self.depths) == 3, "depths", self.depths,
                "be three module counts")
        for depth in self.depths:
            positive(depths=depth)
        probability(dropout=self.dropout)


def _valid(in_dim: int, dim: int, kernel: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(in_dim, dim, kernel, stride, padding=0)


def _average(in_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvNorm(in_dim, dim, 1))


def _stem(in_channels: int) -> list[nn.Module]:
    """Figure 3: [B, in_channels, 299, 299] -> [B, 384, 35, 35]. Maps: 64 of 147, 160 of 73, 192 of 71, 384 of 35."""
    return [
        _valid(in_channels, 32, 3, 2), _valid(32, 32, 3), ConvNorm(32, 64, 3),
        Branches(maxpool=nn.MaxPool2d(3, 2), conv=_valid(64, 96, 3, 2)),
        Branches(branch0=nn.Sequential(ConvNorm(160, 64, 1), _valid(64, 96, 3)),
                 branch1=nn.Sequential(ConvNorm(160, 64, 1), ConvNorm(64, 64, (1, 7)), ConvNorm(64, 64, (7, 1)),
                                       _valid(64, 96, 3))),
        Branches(conv=_valid(192, 192, 3, 2), maxpool=nn.MaxPool2d(3, 2)),
    ]


def _module_a() -> Branches:
    """Figure 4: [B, 384, H, W] -> the same shape."""
    return Branches(
        branch0=ConvNorm(384, 96, 1),
        branch1=nn.Sequential(ConvNorm(384, 64, 1), ConvNorm(64, 96, 3)),
        branch2=nn.Sequential(ConvNorm(384, 64, 1), ConvNorm(64, 96, 3), ConvNorm(96, 96, 3)),
        branch3=_average(384, 96))


def _reduction_a() -> Branches:
    """Figure 7 with the first row of Table 1: [B, 384, H, W] -> [B, 1024, (H - 1) / 2, (W - 1) / 2]."""
    return Branches(
        branch0=_valid(384, 384, 3, 2),
        branch1=nn.Sequential(ConvNorm(384, 192, 1), ConvNorm(192, 224, 3), _valid(224, 256, 3, 2)),
        branch2=nn.MaxPool2d(3, 2))


def _module_b() -> Branches:
    """Figure 5: [B, 1024, H, W] -> the same shape."""
    return Branches(
        branch0=ConvNorm(1024, 384, 1),
        branch1=nn.Sequential(ConvNorm(1024, 192, 1), ConvNorm(192, 224, (1, 7)), ConvNorm(224, 256, (7, 1))),
        branch2=nn.Sequential(ConvNorm(1024, 192, 1), ConvNorm(192, 192, (7, 1)), ConvNorm(192, 224, (1, 7)),
                              ConvNorm(224, 224, (7, 1)), ConvNorm(224, 256, (1, 7))),
        branch3=_average(1024, 128))


def _reduction_b() -> Branches:
    """Figure 8: [B, 1024, H, W] -> [B, 1536, (H - 1) / 2, (W - 1) / 2]."""
    return Branches(
        branch0=nn.Sequential(ConvNorm(1024, 192, 1), _valid(192, 192, 3, 2)),
        branch1=nn.Sequential(ConvNorm(1024, 256, 1), ConvNorm(256, 256, (1, 7)), ConvNorm(256, 320, (7, 1)),
                              _valid(320, 320, 3, 2)),
        branch2=nn.MaxPool2d(3, 2))


class ModuleC(nn.Module):
    """Figure 6, two branches that end in 1 x 3 beside 3 x 1: [B, 1536, H, W] -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvNorm(1536, 256, 1)
        self.branch1_0 = ConvNorm(1536, 384, 1)
        self.branch1_1a = ConvNorm(384, 256, (1, 3))
        self.branch1_1b = ConvNorm(384, 256, (3, 1))
        self.branch2_0 = ConvNorm(1536, 384, 1)
        self.branch2_1 = ConvNorm(384, 448, (3, 1))
        self.branch2_2 = ConvNorm(448, 512, (1, 3))
        self.branch2_3a = ConvNorm(512, 256, (1, 3))
        self.branch2_3b = ConvNorm(512, 256, (3, 1))
        self.branch3 = _average(1536, 256)

    def forward(self, maps: Tensor) -> Tensor:
        one = self.branch1_0(maps)
        two = self.branch2_2(self.branch2_1(self.branch2_0(maps)))
        return torch.cat([self.branch0(maps), self.branch1_1a(one), self.branch1_1b(one), self.branch2_3a(two),
                          self.branch2_3b(two), self.branch3(maps)], 1)  # six times [B, 256, H, W]


class InceptionV4(nn.Module):
    """features(images): maps of strides 2, 4, 8, 16 and 32, up to three places smaller than H / stride: 147, 73, 35,
    17 and 8 of 299."""

    Config = InceptionV4Config

    def __init__(self, config: InceptionV4Config):
        super().__init__()
        self.config = config
        a, b, c = config.depths
        layers = [*_stem(config.in_channels), *[_module_a() for _ in range(a)],
                  _reduction_a(), *[_module_b() for _ in range(b)],
                  _reduction_b(), *[ModuleC() for _ in range(c)]]
        self.features = FeatureSequential(layers, (2, 3, 5 + a, 6 + a + b, 7 + a + b + c))
        self.dropout = nn.Dropout(config.dropout)
        self.last_linear = nn.Linear(1536, config.num_classes)
        self.feature_channels = (64, 160, 384, 1024, 1536)
        self.feature_strides = (2, 4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        require_size(images, MIN_SIZE)
        maps = self.features.last(images)
        return self.last_linear(self.dropout(F.adaptive_avg_pool2d(maps, 1).flatten(1)))  # [B, 1536] -> logits


VARIANTS = {
    "inception_v4": {"image_size": 299, "depths": (4, 7, 3)},
}

_TIMM = "timm, results/results-imagenet.csv (inception_v4.tf_in1k)"
PUBLISHED = {
    "inception_v4": [{"what": "params", "value": "42.68e6", "source": _TIMM},
                     {"what": "macs", "value": "12.3e9",
                      "source": "timm, model card of inception_v4.tf_in1k (from memory)"},
                     {"what": "top1", "value": "80.156", "data": "ImageNet-1k", "source": _TIMM},
                     {"what": "top1", "value": "80.0", "data": "ImageNet-1k",
                      "source": "Szegedy et al. 2017 (from memory), Table 2 (single crop, error 20.0)"}],
}

WEIGHTS = {
    "inception_v4": {"timm": {"file": "inception_v4.tf_in1k",
                              "licence": "Apache-2.0 (timm, from TensorFlow); trained on ImageNet-1k"}},
}

models.add(InceptionV4, VARIANTS, WEIGHTS, family="inception", task="classification", published=PUBLISHED,
           origins={"timm": dict}, peers={"inception_v4": ("timm", "inception_v4")},
           paper="Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual "
                 "Connections on Learning, AAAI 2017, arXiv:1602.07261",
           # timm's weights
           preprocessing={"size": (299, 299), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
