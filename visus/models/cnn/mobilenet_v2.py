"""MobileNetV2: inverted residuals with linear bottlenecks.

Paper: Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
arXiv:1801.04381. A block widens its maps, filters each channel by itself and narrows them again; the narrow
ends are joined and bear no activation. Departures: none known; as in the authors' code, a width multiplier
below 1 does not narrow the last 1 x 1 convolution. Parameters carry torchvision's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.conv import conv_bn_act
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.timm_blocks import split_timm_blocks
from visus.layers.widths import round_width

STEM_DIM, LAST_DIM = 32, 1280
STAGES = (  # Table 2: expansion t, channels c, blocks n, stride s of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Config:
    """width: multiplier of all channels. dropout: before the last layer."""

    width: float = 1.0
    dropout: float = 0.2
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.width, int | float) and not isinstance(self.width, bool) and 0 < self.width <= 8,
                "width", self.width, "be a number above 0, at most 8")
        probability(dropout=self.dropout)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class InvertedResidual(nn.Module):
    """Widen, filter by channel, narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_dim * expansion
        layers = [conv_bn_act(in_dim, hidden, 1, act=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(*layers, conv_bn_act(hidden, hidden, 3, stride, hidden, nn.ReLU6),
                                  nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv(maps)
        return out.add_(maps) if self.is_residual else out  # batch norm needs its input, not its output


class MobileNetV2(nn.Module):
    """`features(images)`: maps of strides 2, 4, 8 and 16 before each halving, and the last, of stride 32."""

    Config = MobileNetV2Config

    def __init__(self, config: MobileNetV2Config):
        super().__init__()
        self.config = config
        dim = round_width(STEM_DIM * config.width)
        last_dim = round_width(LAST_DIM * max(1.0, config.width))
        layers: list[nn.Module] = [conv_bn_act(config.in_channels, dim, 3, 2, act=nn.ReLU6)]
        taps, channels = [], []
        for expansion, stage_dim, depth, stride in STAGES:
            if stride == 2:
                taps.append(len(layers) - 1)
                channels.append(dim)
            for i in range(depth):
                in_dim, dim = dim, round_width(stage_dim * config.width)
                layers.append(InvertedResidual(in_dim, dim, stride if i == 0 else 1, expansion))
        layers.append(conv_bn_act(dim, last_dim, 1, act=nn.ReLU6))
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1))
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(last_dim, config.num_classes))
        self.feature_channels = (*channels, last_dim)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features.last(images)
        return self.classifier(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


_OUTSIDE = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.18.0", "bn2": "features.18.1",
            "classifier": "classifier.1"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict (mobilenetv2_100) under our names; the values are the same."""
    outside, blocks = split_timm_blocks(state)
    out = {}
    for name, tensor in outside.items():
        layer, _, leaf = name.rpartition(".")
        out[f"{_OUTSIDE.get(layer, layer)}.{leaf}"] = tensor
    for b in blocks:
        is_norm = b.layer == "bn"
        layer = f"{b.step}.{int(is_norm)}" if b.step < b.steps - 1 else f"{b.step + is_norm}"
        out[f"features.{b.place[2] + 1}.conv.{layer}.{b.leaf}"] = b.tensor
    return out


VARIANTS = {"mobilenet_v2": {"width": 1.0}}

_TABLE_4 = "Sandler et al. 2018, Table 4 (from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "mobilenet_v2": [{"what": "params", "value": "3.4e6", "source": _TABLE_4,
                      "reason": "without the scales and shifts of the batch norms it is 3.47e6, and 3.4 if cut"},
                     {"what": "macs", "value": "300e6", "source": _TABLE_4,
                      "reason": "it is 300.8e6, and 300 if cut"},
                     {"what": "params", "value": "3504872", "source": _TORCHVISION},
                     {"what": "macs", "value": "0.301e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "71.878", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {"mobilenet_v2": {"torchvision": {"file": "mobilenet_v2-b0353104.pth", "licence": _LICENCE},
                            "timm": {"file": "mobilenetv2_100.ra_in1k",
                                     "licence": "Apache-2.0 (timm); trained on ImageNet-1k"}}}

models.add(MobileNetV2, VARIANTS, WEIGHTS, family="mobilenet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": from_timm}, peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, "
                 "CVPR 2018, arXiv:1801.04381",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
