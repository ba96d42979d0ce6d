"""AnyNet: four stages of one kind of block, in which each stage is free to choose its depth, width, bottleneck ratio
and group width. RegNets are the members whose widths follow a quantised line.

Paper: Radosavovic, Kosaraju, Girshick, He, Dollar, Designing Network Design Spaces, CVPR 2020, arXiv:2003.13678,
section 3.2 and Figure 4: the X block is a 1 x 1, a 3 x 3 in groups and a 1 x 1 convolution around a shortcut; Y adds
squeeze and excitation. `visus.search.design_space` samples the spaces AnyNetX_A to E and RegNet. Departure: strides are
free too, for images smaller than 224 pixels. Parameters carry the names of torchvision's RegNet.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, require
from visus.layers.conv import conv_bn_act
from visus.layers.squeeze_excitation import SqueezeExcitation

STEM_DIM = 32
NUM_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class AnyNetConfig:
    """Of each of the four stages: depths, its blocks; widths, its channels; bottlenecks, channels that leave a block
    over those of its 3 x 3 convolution; group_widths, channels of a group of that convolution; strides, of its first
    block. se_ratio: squeezed channels over those that enter the block, 0 for no squeeze and excitation. stem_stride:
    of the first convolution."""

    depths: tuple[int, ...] = (1, 2, 7, 12)
    widths: tuple[int, ...] = (32, 64, 160, 400)
    bottlenecks: tuple[int, ...] = (1, 1, 1, 1)
    group_widths: tuple[int, ...] = (16, 16, 16, 16)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 2
    se_ratio: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "widths", "bottlenecks", "group_widths", "strides"):
            values = getattr(self, field)
            require(isinstance(values, tuple) and len(values) == NUM_STAGES, field, values,
                    f"be {NUM_STAGES} whole numbers")
            for value in values:
                positive(**{field: value})
        positive(stem_stride=self.stem_stride, in_channels=self.in_channels, num_classes=self.num_classes)
        require(isinstance(self.se_ratio, int | float) and 0 <= self.se_ratio <= 1, "se_ratio", self.se_ratio,
                "lie in [0, 1]")
        for width, ratio, group in zip(self.widths, self.bottlenecks, self.group_widths, strict=True):
            require(width % ratio == 0 and width // ratio % group == 0, "widths, bottlenecks, group_widths",
                    (width, ratio, group), "divide without a rest: width by bottleneck, and that by group width")


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 in groups, gate if squeeze_dim, 1 x 1: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, inner_dim: int, group_width: int, squeeze_dim: int):
        super().__init__()
        self.proj = None if stride == 1 and in_dim == dim else conv_bn_act(in_dim, dim, 1, stride, act=None)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["a"] = conv_bn_act(in_dim, inner_dim, 1)
        layers["b"] = conv_bn_act(inner_dim, inner_dim, 3, stride, groups=inner_dim // group_width)
        if squeeze_dim:
            layers["se"] = SqueezeExcitation(inner_dim, squeeze_dim, nn.ReLU(inplace=True), nn.Sigmoid())
        layers["c"] = conv_bn_act(inner_dim, dim, 1, act=None)
        self.f = nn.Sequential(layers)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.f(maps)
        return self.activation(out + (maps if self.proj is None else self.proj(maps)))


class AnyNet(nn.Module):
    Config = AnyNetConfig

    def __init__(self, config: AnyNetConfig):
        super().__init__()
        self.config = config
        self.stem = conv_bn_act(config.in_channels, STEM_DIM, 3, config.stem_stride)
        stages, in_dim = OrderedDict(), STEM_DIM
        strides, stride = [], config.stem_stride
        for i in range(NUM_STAGES):
            stages[f"block{i + 1}"] = _stage(i + 1, in_dim, config.widths[i], config.depths[i], config.strides[i],
                                             config.widths[i] // config.bottlenecks[i], config.group_widths[i],
                                             config.se_ratio)
            in_dim, stride = config.widths[i], stride * config.strides[i]
            strides.append(stride)
        self.trunk_output = nn.Sequential(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = config.widths
        self.feature_strides = tuple(strides)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the maps of the four stages, of strides 4, 8, 16 and 32 as published."""
        maps, out = self.stem(images), []
        for stage in self.trunk_output:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk_output(self.stem(images))
        return self.fc(self.avgpool(maps).flatten(1))  # [B, D] -> [B, num_classes]


def _stage(number: int, in_dim: int, dim: int, depth: int, stride: int, inner_dim: int, group_width: int,
           se_ratio: float) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        entering = in_dim if i == 0 else dim
        squeeze_dim = max(round(se_ratio * entering), 1) if se_ratio else 0
        blocks[f"block{number}-{i}"] = Bottleneck(entering, dim, stride if i == 0 else 1, inner_dim, group_width,
                                                  squeeze_dim)
    return nn.Sequential(blocks)


VARIANTS = {
    "anynet": {"depths": (1, 2, 7, 12), "widths": (32, 64, 160, 400), "group_widths": (16, 16, 16, 16)},
}

_REGNET = "torchvision 0.28.0, weights IMAGENET1K_V1 of regnet_x_400mf, of which these are the stages"
PUBLISHED = {
    "anynet": [{"what": "params", "value": "5495976", "source": _REGNET},
               {"what": "macs", "value": "0.414e9", "source": _REGNET},
               {"what": "top1", "value": "72.834", "data": "ImageNet-1k", "source": _REGNET}],
}

WEIGHTS = {
    "anynet": {"torchvision": {"file": "regnet_x_400mf-adf1edd5.pth",
                               "licence": "BSD-3-Clause (torchvision); trained on ImageNet-1k"}},
}

models.add(AnyNet, VARIANTS, WEIGHTS, family="anynet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict}, peers={"anynet": ("torchvision", "regnet_x_400mf")},
           paper="Radosavovic, Kosaraju, Girshick, He, Dollar: Designing Network Design Spaces, CVPR 2020, "
                 "arXiv:2003.13678",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
