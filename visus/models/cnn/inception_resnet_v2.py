"""Inception-ResNet-v2: inception modules that only compute a small correction of their input.

Paper: Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning, AAAI 2017, arXiv:1602.07261. The branches of a module meet in a 1 x 1 convolution whose output, scaled down
(section 3.3), is added to the module's input. Departures, all as the public weights have them: the stem of
Inception-v3 and one module of four branches in place of Figure 3; 10, 20 and 10 modules of 320, 1088 and 2080
channels instead of 5, 10 and 5 of 384, 1152 and 2144; no ReLU after the last module but a 1 x 1 convolution to 1536
channels; no dropout by default (0.2 in the paper). Parameters carry timm's names.
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
from visus.layers.image_size import require_size

MIN_SIZE = 75                # of a side in pixels: the stem and the reductions do not pad
SCALES = (0.17, 0.10, 0.20)  # of the corrections at strides 8, 16 and 32


@dataclass(frozen=True, kw_only=True)
class InceptionResNetV2Config:
    """image_size: side in pixels that the images will have, at least 75; it shapes no parameter. depths: residual
    modules at strides 8, 16 and 32, without the last one, that no ReLU follows. dropout: before the last layer."""

    image_size: int = 299
    depths: tuple[int, ...] = (10, 20, 9)
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


class Residual(nn.Module):
    """[B, dim, H, W] -> the same shape: input plus `scale` times what a 1 x 1 convolution makes of the branches, of
    `inner_dim` channels together; then ReLU, where `activate`."""

    def __init__(self, dim: int, inner_dim: int, scale: float, branches: list[nn.Module], activate: bool = True):
        super().__init__()
        self.scale = scale
        self.activate = activate
        self.names = [f"branch{number}" for number in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(inner_dim, dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.cat([getattr(self, name)(maps) for name in self.names], 1)  # [B, inner_dim, H, W]
        out = torch.add(maps, self.conv2d(inner), alpha=self.scale)
        return F.relu(out, inplace=True) if self.activate else out


def _residual_a() -> Residual:
    """Figure 16, at stride 8."""
    return Residual(320, 128, SCALES[0], [
        ConvNorm(320, 32, 1),
        nn.Sequential(ConvNorm(320, 32, 1), ConvNorm(32, 32, 3)),
        nn.Sequential(ConvNorm(320, 32, 1), ConvNorm(32, 48, 3), ConvNorm(48, 64, 3))])


def _residual_b() -> Residual:
    """Figure 17, at stride 16."""
    return Residual(1088, 384, SCALES[1], [
        ConvNorm(1088, 192, 1),
        nn.Sequential(ConvNorm(1088, 128, 1), ConvNorm(128, 160, (1, 7)), ConvNorm(160, 192, (7, 1)))])


def _residual_c(scale: float = SCALES[2], activate: bool = True) -> Residual:
    """Figure 19, at stride 32."""
    return Residual(2080, 448, scale, [
        ConvNorm(2080, 192, 1),
        nn.Sequential(ConvNorm(2080, 192, 1), ConvNorm(192, 224, (1, 3)), ConvNorm(224, 256, (3, 1)))], activate)


def _module_5b() -> Branches:
    """[B, 192, H, W] -> [B, 320, H, W]."""
    return Branches(
        branch0=ConvNorm(192, 96, 1),
        branch1=nn.Sequential(ConvNorm(192, 48, 1), ConvNorm(48, 64, 5)),
        branch2=nn.Sequential(ConvNorm(192, 64, 1), ConvNorm(64, 96, 3), ConvNorm(96, 96, 3)),
        branch3=nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvNorm(192, 64, 1)))


def _reduction_a() -> Branches:
    """Figure 7 with the last row of Table 1: [B, 320, H, W] -> [B, 1088, (H - 1) / 2, (W - 1) / 2]."""
    return Branches(
        branch0=_valid(320, 384, 3, 2),
        branch1=nn.Sequential(ConvNorm(320, 256, 1), ConvNorm(256, 256, 3), _valid(256, 384, 3, 2)),
        branch2=nn.MaxPool2d(3, 2))


def _reduction_b() -> Branches:
    """Figure 18: [B, 1088, H, W] -> [B, 2080, (H - 1) / 2, (W - 1) / 2]."""
    return Branches(
        branch0=nn.Sequential(ConvNorm(1088, 256, 1), _valid(256, 384, 3, 2)),
        branch1=nn.Sequential(ConvNorm(1088, 256, 1), _valid(256, 288, 3, 2)),
        branch2=nn.Sequential(ConvNorm(1088, 256, 1), ConvNorm(256, 288, 3), _valid(288, 320, 3, 2)),
        branch3=nn.MaxPool2d(3, 2))


class InceptionResNetV2(nn.Module):
    Config = InceptionResNetV2Config

    def __init__(self, config: InceptionResNetV2Config):
        super().__init__()
        self.config = config
        self.conv2d_1a = _valid(config.in_channels, 32, 3, 2)
        self.conv2d_2a = _valid(32, 32, 3)
        self.conv2d_2b = ConvNorm(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvNorm(64, 80, 1)
        self.conv2d_4a = _valid(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = _module_5b()
        self.repeat = nn.Sequential(*[_residual_a() for _ in range(config.depths[0])])
        self.mixed_6a = _reduction_a()
        self.repeat_1 = nn.Sequential(*[_residual_b() for _ in range(config.depths[1])])
        self.mixed_7a = _reduction_b()
        self.repeat_2 = nn.Sequential(*[_residual_c() for _ in range(config.depths[2])])
        self.block8 = _residual_c(scale=1.0, activate=False)
        self.conv2d_7b = ConvNorm(2080, 1536, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.classif = nn.Linear(1536, config.num_classes)
        self.feature_channels = (64, 192, 320, 1088, 1536)
        self.feature_strides = (2, 4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2, 4, 8, 16 and 32, up to three places smaller than H / stride: 147, 71,
        35, 17 and 8 of 299."""
        require_size(images, MIN_SIZE)
        maps_1 = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        maps_2 = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(maps_1)))
        maps_3 = self.repeat(self.mixed_5b(self.maxpool_5a(maps_2)))
        maps_4 = self.repeat_1(self.mixed_6a(maps_3))
        maps_5 = self.conv2d_7b(self.block8(self.repeat_2(self.mixed_7a(maps_4))))
        return [maps_1, maps_2, maps_3, maps_4, maps_5]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.classif(self.dropout(F.adaptive_avg_pool2d(maps, 1).flatten(1)))  # [B, 1536] -> [B, num_classes]


VARIANTS = {
    "inception_resnet_v2": {"image_size": 299, "depths": (10, 20, 9)},
}

_TIMM = "timm, results/results-imagenet.csv (inception_resnet_v2.tf_in1k)"
PUBLISHED = {
    "inception_resnet_v2": [{"what": "params", "value": "55.84e6", "source": _TIMM},
                            {"what": "macs", "value": "13.2e9",
                             "source": "timm, model card of inception_resnet_v2.tf_in1k (from memory)"},
                            {"what": "top1", "value": "80.462", "data": "ImageNet-1k", "source": _TIMM},
                            {"what": "top1", "value": "80.1", "data": "ImageNet-1k",
                             "source": "Szegedy et al. 2017 (from memory), Table 2 (single crop, error 19.9)"}],
}

WEIGHTS = {
    "inception_resnet_v2": {"timm": {"file": "inception_resnet_v2.tf_in1k",
                                     "licence": "Apache-2.0 (timm, from TensorFlow); trained on ImageNet-1k"}},
}

models.add(InceptionResNetV2, VARIANTS, WEIGHTS, family="inception", task="classification", published=PUBLISHED,
           origins={"timm": dict}, peers={"inception_resnet_v2": ("timm", "inception_resnet_v2")},
           paper="Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual "
                 "Connections on Learning, AAAI 2017, arXiv:1602.07261",
           # timm's weights
           preprocessing={"size": (299, 299), "resize": "crop", "crop_fraction": 0.8975, "interpolation": "bicubic",
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
