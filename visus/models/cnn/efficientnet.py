"""EfficientNet-B0 to B7: one searched network, grown in width, depth and resolution at once.

Paper: Tan, Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019,
arXiv:1905.11946. B0 is a row of inverted residuals with squeeze and excitation; B1 to B7 multiply its widths and
depths and the side of its images. Departures: symmetric padding, and B2's images are 288 pixels where the paper has
260, both as the public weights ask. Parameters carry torchvision's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.conv import conv_bn_act
from visus.layers.drop_path import DropPath
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.layers.timm_blocks import split_timm_blocks
from visus.layers.widths import round_width

STEM_DIM = 32
STAGES = (  # Table 1: expansion, kernel, stride of the first, channels, blocks
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """width, depth: multipliers of B0's channels and blocks. dropout: before the last layer. drop_path: rate past
    the last block; the first has 0, the others linearly more. bn_eps, bn_momentum: of every batch norm."""

    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("width", "depth"):
            value = getattr(self, field)
            require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 8, field, value,
                    "be a number above 0, at most 8")
        probability(dropout=self.dropout, drop_path=self.drop_path, bn_eps=self.bn_eps, bn_momentum=self.bn_momentum)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class MBConv(nn.Module):
    """Widen, filter by channel, gate, narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, expansion: int, drop_path: float,
                 bn_eps: float, bn_momentum: float):
        super().__init__()
        hidden = in_dim * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn_act(in_dim, hidden, 1, act=nn.SiLU, eps=bn_eps, momentum=bn_momentum))
        layers += [conv_bn_act(hidden, hidden, kernel, stride, hidden, nn.SiLU, bn_eps, bn_momentum),
                   SqueezeExcitation(hidden, max(1, in_dim // 4), nn.SiLU(inplace=True), nn.Sigmoid()),
                   conv_bn_act(hidden, dim, 1, act=None, eps=bn_eps, momentum=bn_momentum)]
        self.block = nn.Sequential(*layers)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = self.block(maps)
        return self.drop_path(out).add_(maps) if self.is_residual else out


class EfficientNet(nn.Module):
    """`features(images)`: maps of strides 2, 4, 8 and 16 before each halving, and the last, of stride 32."""

    Config = EfficientNetConfig

    def __init__(self, config: EfficientNetConfig):
        super().__init__()
        self.config = config
        norm = (config.bn_eps, config.bn_momentum)
        dim = round_width(STEM_DIM * config.width)
        layers: list[nn.Module] = [conv_bn_act(config.in_channels, dim, 3, 2, 1, nn.SiLU, *norm)]
        depths = [math.ceil(count * config.depth) for *_, count in STAGES]
        taps, channels, done = [], [], 0
        for (expansion, kernel, stride, stage_dim, _), depth in zip(STAGES, depths, strict=True):
            if stride == 2:
                taps.append(len(layers) - 1)
                channels.append(dim)
            blocks = []
            for i in range(depth):
                in_dim, dim = dim, round_width(stage_dim * config.width)
                blocks.append(MBConv(in_dim, dim, kernel, stride if i == 0 else 1, expansion,
                                     config.drop_path * done / sum(depths), *norm))
                done += 1
            layers.append(nn.Sequential(*blocks))
        layers.append(conv_bn_act(dim, 4 * dim, 1, 1, 1, nn.SiLU, *norm))
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1))
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(4 * dim, config.num_classes))
        self.feature_channels = (*channels, 4 * dim)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = module.out_features ** -0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features.last(images)
        return self.classifier(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


_OUTSIDE = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.8.0", "bn2": "features.8.1",
            "classifier": "classifier.1"}
_LAYERS = {"conv": "0", "bn": "1", "fc1": "fc1", "fc2": "fc2"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict (efficientnet_b0 and on) under our names; the values are the same. timm's networks have
    bn_eps=1e-5 throughout; those named tf_ pad as TensorFlow does, which these do not."""
    outside, blocks = split_timm_blocks(state)
    out = {}
    for name, tensor in outside.items():
        layer, _, leaf = name.rpartition(".")
        out[f"{_OUTSIDE.get(layer, layer)}.{leaf}"] = tensor
    for b in blocks:
        stage, index, _ = b.place
        out[f"features.{stage + 1}.{index}.block.{b.step}.{_LAYERS[b.layer]}.{b.leaf}"] = b.tensor
    return out


VARIANTS = {
    "efficientnet_b0": {"width": 1.0, "depth": 1.0, "dropout": 0.2},
    "efficientnet_b1": {"width": 1.0, "depth": 1.1, "dropout": 0.2},
    "efficientnet_b2": {"width": 1.1, "depth": 1.2, "dropout": 0.3},
    "efficientnet_b3": {"width": 1.2, "depth": 1.4, "dropout": 0.3},
    "efficientnet_b4": {"width": 1.4, "depth": 1.8, "dropout": 0.4},
    "efficientnet_b5": {"width": 1.6, "depth": 2.2, "dropout": 0.4, "bn_eps": 1e-3, "bn_momentum": 0.01},
    "efficientnet_b6": {"width": 1.8, "depth": 2.6, "dropout": 0.5, "bn_eps": 1e-3, "bn_momentum": 0.01},
    "efficientnet_b7": {"width": 2.0, "depth": 3.1, "dropout": 0.5, "bn_eps": 1e-3, "bn_momentum": 0.01},
}

_TABLE_2 = "Tan and Le 2019, Table 2 (there named FLOPs; from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_NOT_ITEMISED = "not known: the paper does not itemise its count, and torchvision's count equals ours"
_AT_260 = "for 260 pixels; see the departure"
PUBLISHED = {
    "efficientnet_b0": [{"what": "params", "value": "5.3e6", "source": _TABLE_2},
                        {"what": "macs", "value": "0.39e9", "source": _TABLE_2},
                        {"what": "params", "value": "5288548", "source": _TORCHVISION},
                        {"what": "macs", "value": "0.386e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "77.692", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b1": [{"what": "params", "value": "7.8e6", "source": _TABLE_2},
                        {"what": "macs", "value": "0.70e9", "source": _TABLE_2, "reason": _NOT_ITEMISED},
                        {"what": "params", "value": "7794184", "source": _TORCHVISION},
                        {"what": "macs", "value": "0.687e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "78.642", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b2": [{"what": "params", "value": "9.2e6", "source": _TABLE_2, "reason": _NOT_ITEMISED},
                        {"what": "macs", "value": "1.0e9", "source": _TABLE_2, "reason": _AT_260},
                        {"what": "params", "value": "9109994", "source": _TORCHVISION},
                        {"what": "macs", "value": "1.088e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "80.608", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b3": [{"what": "params", "value": "12e6", "source": _TABLE_2},
                        {"what": "macs", "value": "1.8e9", "source": _TABLE_2},
                        {"what": "params", "value": "12233232", "source": _TORCHVISION},
                        {"what": "macs", "value": "1.827e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "82.008", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b4": [{"what": "params", "value": "19e6", "source": _TABLE_2},
                        {"what": "macs", "value": "4.2e9", "source": _TABLE_2, "reason": _NOT_ITEMISED},
                        {"what": "params", "value": "19341616", "source": _TORCHVISION},
                        {"what": "macs", "value": "4.394e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "83.384", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b5": [{"what": "params", "value": "30e6", "source": _TABLE_2},
                        {"what": "macs", "value": "9.9e9", "source": _TABLE_2, "reason": _NOT_ITEMISED},
                        {"what": "params", "value": "30389784", "source": _TORCHVISION},
                        {"what": "macs", "value": "10.266e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "83.444", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b6": [{"what": "params", "value": "43e6", "source": _TABLE_2},
                        {"what": "macs", "value": "19e9", "source": _TABLE_2},
                        {"what": "params", "value": "43040704", "source": _TORCHVISION},
                        {"what": "macs", "value": "19.068e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "84.008", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "efficientnet_b7": [{"what": "params", "value": "66e6", "source": _TABLE_2},
                        {"what": "macs", "value": "37e9", "source": _TABLE_2, "reason": _NOT_ITEMISED},
                        {"what": "params", "value": "66347960", "source": _TORCHVISION},
                        {"what": "macs", "value": "37.746e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "84.122", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_RWIGHTMAN = "Apache-2.0 (timm, by way of torchvision); trained on ImageNet-1k"
_TIMM = "Apache-2.0 (timm); trained on ImageNet-1k"
_LUKEMELAS = "Apache-2.0 (Google, by way of lukemelas and torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "efficientnet_b0": {"torchvision": {"file": "efficientnet_b0_rwightman-7f5810bc.pth",
                                        "licence": _RWIGHTMAN},
                        "timm": {"file": "efficientnet_b0.ra_in1k", "licence": _TIMM}},
    "efficientnet_b1": {"torchvision": {"file": "efficientnet_b1_rwightman-bac287d4.pth",
                                        "licence": _RWIGHTMAN},
                        "timm": {"file": "efficientnet_b1.ft_in1k", "licence": _TIMM}},
    "efficientnet_b2": {"torchvision": {"file": "efficientnet_b2_rwightman-c35c1473.pth",
                                        "licence": _RWIGHTMAN},
                        "timm": {"file": "efficientnet_b2.ra_in1k", "licence": _TIMM}},
    "efficientnet_b3": {"torchvision": {"file": "efficientnet_b3_rwightman-b3899882.pth",
                                        "licence": _RWIGHTMAN},
                        "timm": {"file": "efficientnet_b3.ra2_in1k", "licence": _TIMM}},
    "efficientnet_b4": {"torchvision": {"file": "efficientnet_b4_rwightman-23ab8bcd.pth",
                                        "licence": _RWIGHTMAN},
                        "timm": {"file": "efficientnet_b4.ra2_in1k", "licence": _TIMM}},
    "efficientnet_b5": {"torchvision": {"file": "efficientnet_b5_lukemelas-1a07897c.pth",
                                        "licence": _LUKEMELAS},
                        "timm": {"file": "efficientnet_b5.sw_in12k_ft_in1k", "config": {"bn_eps": 1e-5},
                                 "licence": "Apache-2.0 (timm); trained on ImageNet-12k and 1k"}},
    "efficientnet_b6": {"torchvision": {"file": "efficientnet_b6_lukemelas-24a108a5.pth",
                                        "licence": _LUKEMELAS}},
    "efficientnet_b7": {"torchvision": {"file": "efficientnet_b7_lukemelas-c5b4e57e.pth",
                                        "licence": _LUKEMELAS}},
}

_SIZES = {  # side in pixels of the images, and of what they are cropped from
    "efficientnet_b0": (224, 256), "efficientnet_b1": (240, 256), "efficientnet_b2": (288, 288),
    "efficientnet_b3": (300, 320), "efficientnet_b4": (380, 384), "efficientnet_b5": (456, 456),
    "efficientnet_b6": (528, 528), "efficientnet_b7": (600, 600),
}
for _name, (_size, _resized) in _SIZES.items():
    models.add(EfficientNet, {_name: VARIANTS[_name]}, WEIGHTS, family="efficientnet", task="classification",
               published=PUBLISHED, origins={"torchvision": dict, "timm": from_timm},
               peers={_name: ("torchvision", _name)},
               paper="Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, "
                     "arXiv:1905.11946",
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _size / _resized,
                              "interpolation": "bicubic"})
