"""DenseNet-BC: every layer of a block reads the maps of all layers before it.

Paper: Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, CVPR 2017,
arXiv:1608.06993. A layer adds `growth_rate` new maps to what it was given, after a 1 x 1 bottleneck (B); a
transition between blocks halves channels (C) and sides. Departures: dropout, which the paper uses on CIFAR
without augmentation, is off by default. Parameters carry torchvision's names, which timm shares.
forward: images [B, C, H, W], normalised -> logits [B, num_classes]; H and W are at least 32 (stem 'imagenet')
or 4 (stem 'cifar').
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, probability, require
from visus.layers.image_size import require_size

BOTTLENECK = 4    # a 1 x 1 convolution leaves 4 growth_rate channels to the 3 x 3 (section 3)
COMPRESSION = 2   # a transition keeps one channel in two: theta = 0.5


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig:
    """growth_rate: maps that a layer adds (k); the stem has 2 k. depths: layers in each block, two
    convolutions to a layer. stem: 'imagenet' (7 x 7 of stride 2 and max pooling) or 'cifar' (3 x 3). dropout:
    after each 3 x 3 convolution of a layer."""

    growth_rate: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    stem: str = "imagenet"
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.depths, tuple) and len(self.depths) >= 1, "depths", self.depths,
                "be the layer counts of one block or more")
        for depth in self.depths:
            positive(depths=depth)
        one_of(("imagenet", "cifar"), stem=self.stem)
        probability(dropout=self.dropout)
        positive(growth_rate=self.growth_rate, in_channels=self.in_channels, num_classes=self.num_classes)


class DenseLayer(nn.Module):
    """BN, ReLU, 1 x 1, BN, ReLU, 3 x 3: [B, in_dim, H, W] -> its new maps [B, growth_rate, H, W]."""

    def __init__(self, in_dim: int, growth_rate: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_dim)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_dim, BOTTLENECK * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth_rate)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth_rate, growth_rate, 3, 1, 1, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv1(self.relu1(self.norm1(maps)))
        return self.drop(self.conv2(self.relu2(self.norm2(out))))


class DenseBlock(nn.Sequential):
    """[B, in_dim, H, W] -> [B, in_dim + depth growth_rate, H, W]: the input and what each layer added."""

    def __init__(self, in_dim: int, growth_rate: int, depth: int, dropout: float):
        super().__init__(OrderedDict((f"denselayer{i + 1}", DenseLayer(in_dim + i * growth_rate, growth_rate, dropout))
                                     for i in range(depth)))

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self:
            maps = torch.cat([maps, layer(maps)], 1)  # [B, C, H, W] -> [B, C + growth_rate, H, W]
        return maps


class Transition(nn.Sequential):
    """[B, in_dim, H, W] -> [B, dim, H / 2, W / 2]."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(OrderedDict(norm=nn.BatchNorm2d(in_dim), relu=nn.ReLU(inplace=True),
                                     conv=nn.Conv2d(in_dim, dim, 1, bias=False), pool=nn.AvgPool2d(2)))


class Features(nn.Sequential):
    """All but the classifier: images [B, C, H, W] -> the maps of each block, the last ones normalised and
    rectified. channels: of these maps."""

    def __init__(self, in_channels: int, growth_rate: int, depths: tuple[int, ...], stem: str, dropout: float):
        dim = 2 * growth_rate
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if stem == "imagenet":
            layers["conv0"] = nn.Conv2d(in_channels, dim, 7, 2, 3, bias=False)
            layers["norm0"] = nn.BatchNorm2d(dim)
            layers["relu0"] = nn.ReLU(inplace=True)
            layers["pool0"] = nn.MaxPool2d(3, 2, 1)
        else:
            layers["conv0"] = nn.Conv2d(in_channels, dim, 3, 1, 1, bias=False)
        channels = []
        for i, depth in enumerate(depths, start=1):
            if i > 1:
                layers[f"transition{i - 1}"] = Transition(dim, dim // COMPRESSION)
                dim = dim // COMPRESSION
            layers[f"denseblock{i}"] = DenseBlock(dim, growth_rate, depth, dropout)
            dim += depth * growth_rate
            channels.append(dim)
        layers["norm5"] = nn.BatchNorm2d(dim)
        super().__init__(layers)
        self.channels = tuple(channels)
        self.least = 29 if stem == "imagenet" else 2 ** (len(depths) - 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        require_size(images, self.least)
        maps, out = images, []
        for layer in self:
            maps = layer(maps)
            if isinstance(layer, DenseBlock):
                out.append(maps)
        return [*out[:-1], F.relu(maps, inplace=True)]


class DenseNet(nn.Module):
    """features(images) -> maps of strides 4, 8, 16 and 32 (stem 'imagenet'), or 1, 2 and 4 (stem 'cifar', three
    blocks). It is a module, as torchvision's parameters are named after it."""

    Config = DenseNetConfig

    def __init__(self, config: DenseNetConfig):
        super().__init__()
        self.config = config
        self.features = Features(config.in_channels, config.growth_rate, config.depths, config.stem,
                                 config.dropout)
        self.classifier = nn.Linear(self.features.channels[-1], config.num_classes)
        self.feature_channels = self.features.channels
        first = 4 if config.stem == "imagenet" else 1
        self.feature_strides = tuple(first * 2**i for i in range(len(config.depths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.classifier(F.adaptive_avg_pool2d(maps, 1).flatten(1))  # [B, D] -> [B, num_classes]


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict under our names. Its files of 2017 write norm.1, conv.2 for norm1, conv2."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): tensor
            for name, tensor in state.items()}


IMAGENET_VARIANTS = {
    "densenet121": {"growth_rate": 32, "depths": (6, 12, 24, 16)},
    "densenet161": {"growth_rate": 48, "depths": (6, 12, 36, 24)},
    "densenet169": {"growth_rate": 32, "depths": (6, 12, 32, 32)},
    "densenet201": {"growth_rate": 32, "depths": (6, 12, 48, 32)},
}
CIFAR_VARIANTS = {  # densenet_bc_L_k, with L = 6 depth + 4
    "densenet_bc_100_12": {"growth_rate": 12, "depths": (16, 16, 16), "stem": "cifar", "num_classes": 10},
    "densenet_bc_250_24": {"growth_rate": 24, "depths": (41, 41, 41), "stem": "cifar", "num_classes": 10},
    "densenet_bc_190_40": {"growth_rate": 40, "depths": (31, 31, 31), "stem": "cifar", "num_classes": 10},
}

_TABLE_2 = "Huang et al. 2017, Table 2 (C10+: CIFAR-10 test with augmentation)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "densenet121": [{"what": "params", "value": "7978856", "source": _TORCHVISION},
                    {"what": "macs", "value": "2.834e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "74.434", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "densenet161": [{"what": "params", "value": "28681000", "source": _TORCHVISION},
                    {"what": "macs", "value": "7.728e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "77.138", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "densenet169": [{"what": "params", "value": "14149480", "source": _TORCHVISION},
                    {"what": "macs", "value": "3.360e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "75.600", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "densenet201": [{"what": "params", "value": "20013928", "source": _TORCHVISION},
                    {"what": "macs", "value": "4.291e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "76.896", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "densenet_bc_100_12": [{"what": "params", "value": "0.8e6", "source": _TABLE_2},
                           {"what": "top1", "value": "95.49", "data": "CIFAR-10", "source": _TABLE_2}],
    "densenet_bc_250_24": [{"what": "params", "value": "15.3e6", "source": _TABLE_2},
                           {"what": "top1", "value": "96.38", "data": "CIFAR-10", "source": _TABLE_2}],
    "densenet_bc_190_40": [{"what": "params", "value": "25.6e6", "source": _TABLE_2},
                           {"what": "top1", "value": "96.54", "data": "CIFAR-10", "source": _TABLE_2}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TIMM = "Apache-2.0 (timm); trained on ImageNet-1k"
WEIGHTS = {
    "densenet121": {"torchvision": {"file": "densenet121-a639ec97.pth", "licence": _LICENCE},
                    "timm": {"file": "densenet121.ra_in1k", "licence": _TIMM}},
    "densenet161": {"torchvision": {"file": "densenet161-8d451a50.pth", "licence": _LICENCE},
                    "timm": {"file": "densenet161.tv_in1k", "licence": _TIMM}},
    "densenet169": {"torchvision": {"file": "densenet169-b2777c0a.pth", "licence": _LICENCE},
                    "timm": {"file": "densenet169.tv_in1k", "licence": _TIMM}},
    "densenet201": {"torchvision": {"file": "densenet201-c1103571.pth", "licence": _LICENCE},
                    "timm": {"file": "densenet201.tv_in1k", "licence": _TIMM}},
}

_PAPER = ("Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017, "
          "arXiv:1608.06993")
models.add(DenseNet, IMAGENET_VARIANTS, WEIGHTS, family="densenet", task="classification", published=PUBLISHED,
           origins={"torchvision": convert_torchvision, "timm": dict}, paper=_PAPER,
           peers={name: ("torchvision", name) for name in IMAGENET_VARIANTS},
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
models.add(DenseNet, CIFAR_VARIANTS, family="densenet", task="classification", published=PUBLISHED, paper=_PAPER,
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
