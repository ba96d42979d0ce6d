"""ShuffleNet: 1 x 1 convolutions in groups, and a shuffle that lets the groups see each other.

Paper: Zhang, Zhou, Lin, Sun, ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, CVPR
2018, arXiv:1707.01083. Groups make the costly 1 x 1 convolutions of a bottleneck cheap, so that the same cost affords
more channels; without the shuffle each group would only ever see itself. Departures: none known; the ReLU after a
joining by concatenation is left out on the side that average pooling leaves without negative values. Not registered:
2 and 4 groups at widths other than 1, which do not divide the bottlenecks (the paper does not say how it rounds).
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, require
from visus.layers.conv import conv_bn_act

DEPTHS = (4, 8, 4)  # Table 1, the first unit of each stage halves the maps
BOTTLENECK = 4      # a unit's inner convolutions have this part of its channels (section 3.3)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV1Config:
    """groups: of the 1 x 1 convolutions. stem_dim: channels of the first convolution. dims: of the three stages, each
    four times a multiple of the groups; the first must exceed stem_dim by a multiple of them."""

    groups: int = 3
    stem_dim: int = 24
    dims: tuple[int, ...] = (240, 480, 960)
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(groups=self.groups, stem_dim=self.stem_dim, in_channels=self.in_channels, num_classes=self.num_classes)
        require(isinstance(self.dims, tuple) and len(self.dims) == 3, "dims", self.dims, "be three widths")
        previous = self.stem_dim
        for dim in self.dims:
            positive(dims=dim)
            require(dim % (BOTTLENECK * self.groups) == 0, "dims", dim,
                    f"be a multiple of {BOTTLENECK} times the groups, {BOTTLENECK * self.groups}")
            require(dim > previous and (dim - previous) % self.groups == 0, "dims", dim,
                    f"exceed the width before it, {previous}, by a multiple of the groups, {self.groups}")
            previous = dim


def channel_shuffle(maps: Tensor, groups: int) -> Tensor:
    """[B, groups x N, H, W] -> the same shape: the first channel of each group, then the second of each, and so on."""
    if groups == 1:
        return maps
    return maps.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)  # [B, g, N, H, W] -> [B, N, g, H, W] -> back


class Unit(nn.Module):
    """1 x 1 in groups, shuffle, 3 x 3 by channel, 1 x 1 in groups: [B, in_dim, H, W] -> [B, dim, H / stride,
    W / stride].

    With stride 1 the result is added to the input (Figure 2b), with stride 2 put beside the pooled input (Figure 2c).
    reduce_groups: groups of the first 1 x 1 convolution.
    """

    def __init__(self, in_dim: int, dim: int, stride: int, groups: int, reduce_groups: int):
        super().__init__()
        inner = dim // BOTTLENECK
        self.groups = groups
        self.halves = stride == 2
        self.reduce = conv_bn_act(in_dim, inner, 1, 1, reduce_groups)
        self.filter = conv_bn_act(inner, inner, 3, stride, inner, act=None)
        self.expand = conv_bn_act(inner, dim - in_dim if self.halves else dim, 1, 1, groups, act=None)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.expand(self.filter(channel_shuffle(self.reduce(maps), self.groups)))
        if self.halves:
            pooled = F.avg_pool2d(maps, 3, 2, 1)  # of what a ReLU put out: no negative values
            return torch.cat((pooled, F.relu(out, inplace=True)), 1)  # [B, in_dim + (dim - in_dim), H / 2, W / 2]
        return F.relu(out.add_(maps), inplace=True)  # batch norm needs its input, not its output


class ShuffleNetV1(nn.Module):
    Config = ShuffleNetV1Config

    def __init__(self, config: ShuffleNetV1Config):
        super().__init__()
        self.config = config
        first, second, third = config.dims
        self.conv1 = conv_bn_act(config.in_channels, config.stem_dim, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        # the first 1 x 1 convolution has few channels to read and is not grouped (note at Table 1)
        self.stage2 = _stage(config.stem_dim, first, DEPTHS[0], config.groups, 1)
        self.stage3 = _stage(first, second, DEPTHS[1], config.groups, config.groups)
        self.stage4 = _stage(second, third, DEPTHS[2], config.groups, config.groups)
        self.fc = nn.Linear(third, config.num_classes)
        self.feature_channels = (config.stem_dim, *config.dims)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        out = [self.maxpool(self.conv1(images))]
        for stage in (self.stage2, self.stage3, self.stage4):
            out.append(stage(out[-1]))
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(images)))))
        return self.fc(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _stage(in_dim: int, dim: int, depth: int, groups: int, first_groups: int) -> nn.Sequential:
    return nn.Sequential(Unit(in_dim, dim, 2, groups, first_groups),
                         *[Unit(dim, dim, 1, groups, groups) for _ in range(depth - 1)])


VARIANTS = {
    "shufflenet_v1_x0_25_g3": {"groups": 3, "stem_dim": 6, "dims": (60, 120, 240)},
    "shufflenet_v1_x0_25_g8": {"groups": 8, "stem_dim": 8, "dims": (96, 192, 384)},
    "shufflenet_v1_x0_5_g3": {"groups": 3, "stem_dim": 12, "dims": (120, 240, 480)},
    "shufflenet_v1_x0_5_g8": {"groups": 8, "stem_dim": 16, "dims": (192, 384, 768)},
    "shufflenet_v1_x1_0_g1": {"groups": 1, "stem_dim": 24, "dims": (144, 288, 576)},
    "shufflenet_v1_x1_0_g2": {"groups": 2, "stem_dim": 24, "dims": (200, 400, 800)},
    "shufflenet_v1_x1_0_g3": {"groups": 3, "stem_dim": 24, "dims": (240, 480, 960)},
    "shufflenet_v1_x1_0_g4": {"groups": 4, "stem_dim": 24, "dims": (272, 544, 1088)},
    "shufflenet_v1_x1_0_g8": {"groups": 8, "stem_dim": 24, "dims": (384, 768, 1536)},
    "shufflenet_v1_x1_5_g3": {"groups": 3, "stem_dim": 24, "dims": (360, 720, 1440)},
    "shufflenet_v1_x1_5_g8": {"groups": 8, "stem_dim": 24, "dims": (576, 1152, 2304)},
    "shufflenet_v1_x2_0_g3": {"groups": 3, "stem_dim": 48, "dims": (480, 960, 1920)},
    "shufflenet_v1_x2_0_g8": {"groups": 8, "stem_dim": 48, "dims": (768, 1536, 3072)},
}

_TABLE_1 = "Zhang et al. 2018, Table 1 (there named complexity; from memory)"
_TABLE_2 = "Zhang et al. 2018, Table 2 (from memory)"
_TABLE_5 = "Zhang et al. 2018, Table 5 (from memory)"
_MEGVII = "the authors' page, megvii-model/ShuffleNet-Series (there named FLOPs)"
_NO_LAST = "the table leaves out the last layer: it is {} without it"
_QUARTER = ("not known: the table has one figure for all numbers of groups and does not give the first convolution's "
            "width; with {} channels there in place of {} it is {}")
PUBLISHED = {
    "shufflenet_v1_x0_25_g3": [{"what": "macs", "value": "13e6", "source": _TABLE_2,
                                "reason": _QUARTER.format(12, 6, "13.3e6")},
                               {"what": "top1", "value": "45.0", "data": "ImageNet-1k", "source": _TABLE_2}],
    "shufflenet_v1_x0_25_g8": [{"what": "macs", "value": "13e6", "source": _TABLE_2,
                                "reason": _QUARTER.format(16, 8, "15.7e6")},
                               {"what": "top1", "value": "47.3", "data": "ImageNet-1k", "source": _TABLE_2}],
    "shufflenet_v1_x0_5_g3": [{"what": "macs", "value": "38e6", "source": _TABLE_2},
                              {"what": "top1", "value": "56.8", "data": "ImageNet-1k", "source": _TABLE_2},
                              {"what": "params", "value": "0.7e6", "source": _MEGVII},
                              {"what": "macs", "value": "38e6", "source": _MEGVII},
                              {"what": "top1", "value": "57.3", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x0_5_g8": [{"what": "macs", "value": "38e6", "source": _TABLE_2,
                               "reason": "the table has one figure for all numbers of groups; the authors' page has "
                                         "40e6 for 8"},
                              {"what": "top1", "value": "57.7", "data": "ImageNet-1k", "source": _TABLE_2},
                              {"what": "params", "value": "1.0e6", "source": _MEGVII},
                              {"what": "macs", "value": "40e6", "source": _MEGVII},
                              {"what": "top1", "value": "58.8", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x1_0_g1": [{"what": "macs", "value": "143e6", "source": _TABLE_1},
                              {"what": "top1", "value": "66.4", "data": "ImageNet-1k", "source": _TABLE_2}],
    "shufflenet_v1_x1_0_g2": [{"what": "macs", "value": "140e6", "source": _TABLE_1,
                               "reason": _NO_LAST.format("140.0e6")},
                              {"what": "top1", "value": "67.3", "data": "ImageNet-1k", "source": _TABLE_2}],
    "shufflenet_v1_x1_0_g3": [{"what": "macs", "value": "137e6", "source": _TABLE_1},
                              {"what": "top1", "value": "67.4", "data": "ImageNet-1k", "source": _TABLE_2},
                              {"what": "params", "value": "1.9e6", "source": _MEGVII},
                              {"what": "macs", "value": "138e6", "source": _MEGVII,
                               "reason": "it is 137.46e6, which the page rounds up"},
                              {"what": "top1", "value": "67.8", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x1_0_g4": [{"what": "macs", "value": "133e6", "source": _TABLE_1,
                               "reason": _NO_LAST.format("133.3e6")},
                              {"what": "top1", "value": "67.2", "data": "ImageNet-1k", "source": _TABLE_2}],
    "shufflenet_v1_x1_0_g8": [{"what": "macs", "value": "137e6", "source": _TABLE_1,
                               "reason": _NO_LAST.format("136.8e6")},
                              {"what": "top1", "value": "67.6", "data": "ImageNet-1k", "source": _TABLE_2},
                              {"what": "params", "value": "2.4e6", "source": _MEGVII},
                              {"what": "macs", "value": "138e6", "source": _MEGVII},
                              {"what": "top1", "value": "68.0", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x1_5_g3": [{"what": "macs", "value": "292e6", "source": _TABLE_5},
                              {"what": "top1", "value": "71.5", "data": "ImageNet-1k", "source": _TABLE_5},
                              {"what": "params", "value": "3.4e6", "source": _MEGVII},
                              {"what": "macs", "value": "292e6", "source": _MEGVII},
                              {"what": "top1", "value": "71.6", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x1_5_g8": [{"what": "params", "value": "4.3e6", "source": _MEGVII},
                              {"what": "macs", "value": "290e6", "source": _MEGVII},
                              {"what": "top1", "value": "71.0", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x2_0_g3": [{"what": "macs", "value": "524e6", "source": _TABLE_5},
                              {"what": "top1", "value": "73.7", "data": "ImageNet-1k", "source": _TABLE_5},
                              {"what": "params", "value": "5.4e6", "source": _MEGVII,
                               "reason": "it is 5.449e6 without the last layer's bias, which the page's network lacks"},
                              {"what": "macs", "value": "524e6", "source": _MEGVII},
                              {"what": "top1", "value": "74.1", "data": "ImageNet-1k", "source": _MEGVII}],
    "shufflenet_v1_x2_0_g8": [{"what": "params", "value": "6.5e6", "source": _MEGVII},
                              {"what": "macs", "value": "522e6", "source": _MEGVII},
                              {"what": "top1", "value": "72.9", "data": "ImageNet-1k", "source": _MEGVII}],
}

models.add(ShuffleNetV1, VARIANTS, family="shufflenet", task="classification", published=PUBLISHED,
           paper="Zhang, Zhou, Lin, Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile "
                 "Devices, CVPR 2018, arXiv:1707.01083",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
