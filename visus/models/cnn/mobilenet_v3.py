"""MobileNetV3, large and small: inverted residuals found by search, with gates and hard activations.

Paper: Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv:1905.02244. Some blocks scale their channels by
squeeze and excitation, the deeper ones use hard-swish, and the last expansion comes after the pooling.
Departures: none known; batch norm keeps 0.01 of each batch's statistics, with epsilon 1e-3 where
the config does not say otherwise. Parameters carry
torchvision's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, probability, require
from visus.layers.conv import conv_bn_act
from visus.layers.feature_sequential import FeatureSequential
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.layers.timm_blocks import split_timm_blocks
from visus.layers.widths import round_width

MOMENTUM = 0.01
STEM_DIM = 16
LARGE = (  # Table 1: kernel, expanded channels, channels, squeeze and excitation, hard-swish, stride
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)
SMALL = (  # Table 2
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)
LAST_DIM = {"large": 1280, "small": 1024}


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Config:
    """size: 'large' or 'small', Table 1 or 2. width: multiplier of all channels. dropout: before the last
    layer. bn_eps: of every batch norm."""

    size: str = "large"
    width: float = 1.0
    dropout: float = 0.2
    bn_eps: float = 1e-3
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(("large", "small"), size=self.size)
        require(isinstance(self.width, int | float) and not isinstance(self.width, bool) and 0 < self.width <= 8,
                "width", self.width, "be a number above 0, at most 8")
        probability(dropout=self.dropout, bn_eps=self.bn_eps)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class InvertedResidual(nn.Module):
    """Widen, filter by channel, gate, narrow: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, hidden: int, dim: int, kernel: int, stride: int, is_gated: bool,
                 act: type[nn.Module], bn_eps: float):
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != in_dim:
            layers.append(_conv(in_dim, hidden, 1, bn_eps, act=act))
        layers.append(_conv(hidden, hidden, kernel, bn_eps, stride, hidden, act))
        if is_gated:
            layers.append(SqueezeExcitation(hidden, round_width(hidden // 4), nn.ReLU(inplace=True),
                                            nn.Hardsigmoid(inplace=True)))
        layers.append(_conv(hidden, dim, 1, bn_eps))
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = self.block(maps)
        return out.add_(maps) if self.is_residual else out  # batch norm needs its input, not its output


class MobileNetV3(nn.Module):
    """`features(images)`: maps of strides 2, 4, 8 and 16 before each halving, and the last, of stride 32."""

    Config = MobileNetV3Config

    def __init__(self, config: MobileNetV3Config):
        super().__init__()
        self.config = config
        dim = round_width(STEM_DIM * config.width)
        layers: list[nn.Module] = [_conv(config.in_channels, dim, 3, config.bn_eps, 2, act=nn.Hardswish)]
        taps, channels = [], []
        for kernel, hidden, block_dim, is_gated, is_hard_swish, stride in LARGE if config.size == "large" else SMALL:
            if stride == 2:
                taps.append(len(layers) - 1)
                channels.append(dim)
            in_dim, dim = dim, round_width(block_dim * config.width)
            layers.append(InvertedResidual(in_dim, round_width(hidden * config.width), dim, kernel, stride,
                                           is_gated, nn.Hardswish if is_hard_swish else nn.ReLU, config.bn_eps))
        layers.append(_conv(dim, 6 * dim, 1, config.bn_eps, act=nn.Hardswish))
        last_dim = round_width(LAST_DIM[config.size] * config.width)
        self.features = FeatureSequential(layers, (*taps, len(layers) - 1))
        self.classifier = nn.Sequential(nn.Linear(6 * dim, last_dim), nn.Hardswish(inplace=True),
                                        nn.Dropout(config.dropout), nn.Linear(last_dim, config.num_classes))
        self.feature_channels = (*channels, 6 * dim)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features.last(images)
        return self.classifier(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _conv(in_dim: int, dim: int, kernel: int, bn_eps: float, stride: int = 1, groups: int = 1,
          act: type[nn.Module] | None = None) -> nn.Sequential:
    return conv_bn_act(in_dim, dim, kernel, stride, groups, act, bn_eps, MOMENTUM)


_OUTSIDE = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "classifier.0",
            "classifier": "classifier.3"}
_LAYERS = {"conv": "0", "bn": "1", "fc1": "fc1", "fc2": "fc2"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict (mobilenetv3_large_100, mobilenetv3_small_100) under our names; the values are the same. The
    first full layer is a 1 x 1 convolution there, and its last block is our last convolution. timm's networks have
    bn_eps=1e-5; those named tf_ pad as TensorFlow does, which these do not."""
    outside, blocks = split_timm_blocks(state)
    out = {}
    for name, tensor in outside.items():
        layer, _, leaf = name.rpartition(".")
        if name == "conv_head.weight":
            tensor = tensor.flatten(1)  # [D, 6 dim, 1, 1] -> [D, 6 dim]
        out[f"{_OUTSIDE.get(layer, layer)}.{leaf}"] = tensor
    for b in blocks:
        layer = _LAYERS[b.layer] if b.steps == 1 else f"block.{b.step}.{_LAYERS[b.layer]}"
        out[f"features.{b.place[2] + 1}.{layer}.{b.leaf}"] = b.tensor
    return out


VARIANTS = {
    "mobilenet_v3_small": {"size": "small"},
    "mobilenet_v3_large": {"size": "large"},
}

_TABLE_3 = "Howard et al. 2019, Table 3 (from memory)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_NOT_ITEMISED = "not known: the paper does not itemise its count, and torchvision's count equals ours"
PUBLISHED = {
    "mobilenet_v3_small": [{"what": "params", "value": "2.5e6", "source": _TABLE_3},
                           {"what": "macs", "value": "56e6", "source": _TABLE_3, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "2542856", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.057e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "67.668", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "mobilenet_v3_large": [{"what": "params", "value": "5.4e6", "source": _TABLE_3, "reason": _NOT_ITEMISED},
                           {"what": "macs", "value": "219e6", "source": _TABLE_3, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "5483032", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.217e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "74.042", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TIMM = {"licence": "Apache-2.0 (timm); trained on ImageNet-1k", "config": {"bn_eps": 1e-5}}
WEIGHTS = {
    "mobilenet_v3_small": {"torchvision": {"file": "mobilenet_v3_small-047dcff4.pth", "licence": _LICENCE},
                           "timm": {"file": "mobilenetv3_small_100.lamb_in1k", **_TIMM}},
    "mobilenet_v3_large": {"torchvision": {"file": "mobilenet_v3_large-8738ca79.pth", "licence": _LICENCE},
                           "timm": {"file": "mobilenetv3_large_100.ra_in1k", **_TIMM}},
}

models.add(MobileNetV3, VARIANTS, WEIGHTS, family="mobilenet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": from_timm}, peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Howard et al.: Searching for MobileNetV3, ICCV 2019, arXiv:1905.02244",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
