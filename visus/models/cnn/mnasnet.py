"""MnasNet, without gates: inverted residuals whose kernels and depths a search chose by latency on a phone.

Paper: Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le, MnasNet: Platform-Aware Neural Architecture Search for
Mobile, CVPR 2019, arXiv:1807.11626. This is the network without squeeze and excitation (B1 in the authors' code)
and its width multipliers. Departures: none known; batch norm keeps 0.0003 of each batch's statistics, and the
multiplier leaves the last 1 x 1 convolution as it is. Parameters carry torchvision's names.
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

MOMENTUM = 1 - 0.9997
STEM_DIM, SEPARABLE_DIM, LAST_DIM = 32, 16, 1280
STAGES = (  # kernel, stride of the first, expansion, channels, blocks
    (3, 2, 3, 24, 3), (5, 2, 3, 40, 3), (5, 2, 6, 80, 3), (3, 1, 6, 96, 2), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class MnasNetConfig:
    """width: multiplier of all channels but the last 1 x 1 convolution's. dropout: before the last layer."""

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

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_dim * expansion
        self.layers = nn.Sequential(*_conv(in_dim, hidden, 1), *_conv(hidden, hidden, kernel, stride, hidden),
                                    *_conv(hidden, dim, 1, act=None))
        self.is_residual = stride == 1 and in_dim == dim

    def forward(self, maps: Tensor) -> Tensor:
        out = self.layers(maps)
        return out.add_(maps) if self.is_residual else out  # batch norm needs its input, not its output


class MnasNet(nn.Module):
    Config = MnasNetConfig
    _version = 2  # torchvision asks a state dict for it: from 2 on the multiplier narrows the stem too

    def __init__(self, config: MnasNetConfig):
        super().__init__()
        self.config = config
        stem_dim, dim = round_width(STEM_DIM * config.width), round_width(SEPARABLE_DIM * config.width)
        layers: list[nn.Module] = [*_conv(config.in_channels, stem_dim, 3, 2),
                                   *_conv(stem_dim, stem_dim, 3, 1, stem_dim), *_conv(stem_dim, dim, 1, act=None)]
        taps, channels = [], []
        for kernel, stride, expansion, stage_dim, depth in STAGES:
            if stride == 2:
                taps.append(len(layers) - 1)
                channels.append(dim)
            in_dim, dim = dim, round_width(stage_dim * config.width)
            layers.append(nn.Sequential(*[InvertedResidual(in_dim if i == 0 else dim, dim, kernel,
                                                           stride if i == 0 else 1, expansion)
                                          for i in range(depth)]))
        layers += _conv(dim, LAST_DIM, 1)
        self.layers = FeatureSequential(layers, (*taps, len(layers) - 1))
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(LAST_DIM, config.num_classes))
        self.feature_channels = (*channels, LAST_DIM)
        self.feature_strides = (2, 4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="sigmoid")
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2, 4, 8 and 16 before each halving, and the last, of stride 32."""
        return self.layers(images)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers.last(images)
        return self.classifier(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _conv(in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1,
          act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    return conv_bn_act(in_dim, dim, kernel, stride, groups, act, momentum=MOMENTUM)


_OUTSIDE = {"conv_stem": "layers.0", "bn1": "layers.1", "conv_head": "layers.14", "bn2": "layers.15",
            "classifier": "classifier.1"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict (mnasnet_100) under our names; the values are the same. Its stages 1 to 6 are our layers 8 to
    13; its stage 0 is one separable convolution, our layers 3 to 7."""
    outside, blocks = split_timm_blocks(state)
    out = {}
    for name, tensor in outside.items():
        layer, _, leaf = name.rpartition(".")
        out[f"{_OUTSIDE.get(layer, layer)}.{leaf}"] = tensor
    for b in blocks:
        stage, index, _ = b.place
        layer = 3 * b.step + (b.layer == "bn")  # convolution, batch norm, activation
        place = f"layers.{3 + layer}" if stage == 0 else f"layers.{7 + stage}.{index}.layers.{layer}"
        out[f"{place}.{b.leaf}"] = b.tensor
    return out


VARIANTS = {
    "mnasnet_050": {"width": 0.5},
    "mnasnet_075": {"width": 0.75},
    "mnasnet_100": {"width": 1.0},
    "mnasnet_130": {"width": 1.3},
}

_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "mnasnet_050": [{"what": "params", "value": "2218512", "source": _TORCHVISION},
                    {"what": "macs", "value": "0.104e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "67.734", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "mnasnet_075": [{"what": "params", "value": "3170208", "source": _TORCHVISION},
                    {"what": "macs", "value": "0.215e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "71.180", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "mnasnet_100": [{"what": "params", "value": "4383312", "source": _TORCHVISION},
                    {"what": "macs", "value": "0.314e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "73.456", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "mnasnet_130": [{"what": "params", "value": "6282256", "source": _TORCHVISION},
                    {"what": "macs", "value": "0.526e9", "source": _TORCHVISION},
                    {"what": "top1", "value": "76.506", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "mnasnet_050": {"torchvision": {"file": "mnasnet0.5_top1_67.823-3ffadce67e.pth", "licence": _LICENCE}},
    "mnasnet_075": {"torchvision": {"file": "mnasnet0_75-7090bc5f.pth", "licence": _LICENCE}},
    "mnasnet_100": {"torchvision": {"file": "mnasnet1.0_top1_73.512-f206786ef8.pth", "licence": _LICENCE},
                    "timm": {"file": "mnasnet_100.rmsp_in1k",
                             "licence": "Apache-2.0 (timm); trained on ImageNet-1k"}},
    "mnasnet_130": {"torchvision": {"file": "mnasnet1_3-a4c69d6f.pth", "licence": _LICENCE}},
}

PEERS = {"mnasnet_050": ("torchvision", "mnasnet0_5"), "mnasnet_075": ("torchvision", "mnasnet0_75"),
         "mnasnet_100": ("torchvision", "mnasnet1_0"), "mnasnet_130": ("torchvision", "mnasnet1_3")}

models.add(MnasNet, VARIANTS, WEIGHTS, family="mnasnet", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"torchvision": dict, "timm": from_timm},
           paper="Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le: MnasNet: Platform-Aware Neural Architecture "
                 "Search for Mobile, CVPR 2019, arXiv:1807.11626",
           # torchvision's; its 0.75 and 1.3 were evaluated with a crop_fraction of 224 / 232
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
