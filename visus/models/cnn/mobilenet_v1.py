"""MobileNetV1: a stack of depthwise separable convolutions, made thinner by a multiplier.

Paper: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017,
arXiv:1704.04861. Each channel is filtered by itself, then a 1 x 1 convolution mixes them. Departures: ReLU6 in
place of ReLU, as in the authors' code; Table 1 gives the last separable convolution a stride of 2 that its own
sizes exclude: it is 1 here. Parameters carry timm's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.widths import round_width

STEM_DIM = 32
DIMS, DEPTHS = (64, 128, 256, 512, 1024), (1, 2, 2, 6, 2)


@dataclass(frozen=True, kw_only=True)
class MobileNetV1Config:
    """width: multiplier of all channels (alpha in section 3.3). dropout: before the last layer. separable: False puts
    one full 3 x 3 convolution in place of each pair, the net that Table 4 compares with."""

    width: float = 1.0
    dropout: float = 0.0
    separable: bool = True
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.width, int | float) and not isinstance(self.width, bool) and 0 < self.width <= 8,
                "width", self.width, "be a number above 0, at most 8")
        probability(dropout=self.dropout)
        require(isinstance(self.separable, bool), "separable", self.separable, "be true or false")
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class SeparableConv(nn.Module):
    """Filter by channel, then mix: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv_dw = nn.Conv2d(in_dim, in_dim, 3, stride, 1, groups=in_dim, bias=False)
        self.bn1 = nn.BatchNorm2d(in_dim)
        self.conv_pw = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.relu6(self.bn1(self.conv_dw(maps)), inplace=True)
        return F.relu6(self.bn2(self.conv_pw(maps)), inplace=True)


class FullConv(nn.Module):
    """Filter and mix at once: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu6(self.bn(self.conv(maps)), inplace=True)


class MobileNetV1(nn.Module):
    Config = MobileNetV1Config

    def __init__(self, config: MobileNetV1Config):
        super().__init__()
        self.config = config
        stem_dim = round_width(STEM_DIM * config.width)
        dims = [round_width(dim * config.width) for dim in DIMS]
        self.conv_stem = nn.Conv2d(config.in_channels, stem_dim, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_dim)
        self.blocks = nn.Sequential(*[
            _stage(SeparableConv if config.separable else FullConv, in_dim, dim, depth, stride)
            for in_dim, dim, depth, stride in zip([stem_dim, *dims], dims, DEPTHS, (1, 2, 2, 2, 2))])
        self.drop = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(dims[-1], config.num_classes)
        self.feature_channels = tuple(dims)
        self.feature_strides = (2, 4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2, 4, 8, 16 and 32."""
        maps = F.relu6(self.bn1(self.conv_stem(images)), inplace=True)
        out = []
        for stage in self.blocks:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.classifier(self.drop(maps.mean((2, 3))))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _stage(conv: type[nn.Module], in_dim: int, dim: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv(in_dim, dim, stride), *[conv(dim, dim, 1) for _ in range(depth - 1)])


VARIANTS = {
    "mobilenet_v1_025": {"width": 0.25},
    "mobilenet_v1_050": {"width": 0.5},
    "mobilenet_v1_075": {"width": 0.75},
    "mobilenet_v1": {"width": 1.0},
}

_TABLE_6 = "Howard et al. 2017, Table 6 (as repeated in the documentation of tf.keras.applications.mobilenet)"
_SLIM = "tensorflow/models, slim/nets/mobilenet_v1.md"
PUBLISHED = {
    "mobilenet_v1_025": [{"what": "params", "value": "0.5e6", "source": _TABLE_6},
                         {"what": "macs", "value": "41e6", "source": _TABLE_6},
                         {"what": "top1", "value": "50.6", "data": "ImageNet-1k", "source": _TABLE_6}],
    "mobilenet_v1_050": [{"what": "params", "value": "1.3e6", "source": _TABLE_6},
                         {"what": "macs", "value": "149e6", "source": _TABLE_6},
                         {"what": "top1", "value": "63.7", "data": "ImageNet-1k", "source": _TABLE_6}],
    "mobilenet_v1_075": [{"what": "params", "value": "2.6e6", "source": _TABLE_6},
                         {"what": "macs", "value": "325e6", "source": _TABLE_6},
                         {"what": "params", "value": "2.59e6", "source": _SLIM},
                         {"what": "macs", "value": "317e6", "source": _SLIM,
                          "reason": "not known: the page does not itemise it; the paper's own 325e6 agrees"},
                         {"what": "top1", "value": "68.4", "data": "ImageNet-1k", "source": _TABLE_6}],
    "mobilenet_v1": [{"what": "params", "value": "4.2e6", "source": _TABLE_6},
                     {"what": "macs", "value": "569e6", "source": _SLIM},
                     {"what": "params", "value": "4.24e6", "source": _SLIM,
                      "reason": "it comes to that with the batch norms' running statistics and without their scales"},
                     {"what": "top1", "value": "70.6", "data": "ImageNet-1k", "source": _TABLE_6}],
}

WEIGHTS = {"mobilenet_v1": {"timm": {"file": "mobilenetv1_100.ra4_e3600_r224_in1k",
                                     "licence": "Apache-2.0 (timm); trained on ImageNet-1k"}}}

models.add(MobileNetV1, VARIANTS, WEIGHTS, family="mobilenet", task="classification", published=PUBLISHED,
           origins={"timm": dict}, peers={"mobilenet_v1": ("timm", "mobilenetv1_100")},
           paper="Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
                 "Applications, 2017, arXiv:1704.04861",
           # timm's weights
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875,
                          "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
