"""ShuffleNetV2: half of the channels pass by, the other half is worked on, then all are shuffled.

Paper: Ma, Zhang, Zheng, Sun, ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018,
arXiv:1807.11164. It follows what costs time on a device: equal widths, no groups in 1 x 1 convolutions, few
branches, few element-wise operations. Departures: none known. Parameters carry torchvision's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, require
from visus.layers.conv import conv_bn_act

STEM_DIM = 24
DEPTHS = (4, 8, 4)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2Config:
    """dims: even widths of the three stages. last_dim: width of the last 1 x 1 convolution (Table 5)."""

    dims: tuple[int, ...] = (116, 232, 464)
    last_dim: int = 1024
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.dims, tuple) and len(self.dims) == 3, "dims", self.dims, "be three widths")
        for dim in self.dims:
            positive(dims=dim)
            require(dim % 2 == 0, "dims", dim, "be even")
        positive(last_dim=self.last_dim, in_channels=self.in_channels, num_classes=self.num_classes)


class Unit(nn.Module):
    """One half stays, the other is filtered: [B, dim, H, W] -> the same shape (Figure 3c)."""

    def __init__(self, dim: int):
        super().__init__()
        self.branch2 = _filtered(dim // 2, dim // 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        kept, worked = maps.chunk(2, 1)  # each [B, dim / 2, H, W]
        return _shuffle(kept, self.branch2(worked))


class DownUnit(nn.Module):
    """Both halves see all channels: [B, in_dim, H, W] -> [B, dim, H / 2, W / 2] (Figure 3d)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.branch1 = nn.Sequential(*_depthwise(in_dim, 2), *conv_bn_act(in_dim, dim // 2, 1))
        self.branch2 = _filtered(in_dim, dim // 2, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return _shuffle(self.branch1(maps), self.branch2(maps))


class ShuffleNetV2(nn.Module):
    Config = ShuffleNetV2Config

    def __init__(self, config: ShuffleNetV2Config):
        super().__init__()
        self.config = config
        self.conv1 = conv_bn_act(config.in_channels, STEM_DIM, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2 = _stage(STEM_DIM, config.dims[0], DEPTHS[0])
        self.stage3 = _stage(config.dims[0], config.dims[1], DEPTHS[1])
        self.stage4 = _stage(config.dims[1], config.dims[2], DEPTHS[2])
        self.conv5 = conv_bn_act(config.dims[2], config.last_dim, 1)
        self.fc = nn.Linear(config.last_dim, config.num_classes)
        self.feature_channels = (STEM_DIM, *config.dims)
        self.feature_strides = (4, 8, 16, 32)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32, before the last 1 x 1 convolution."""
        out = [self.maxpool(self.conv1(images))]
        for stage in (self.stage2, self.stage3, self.stage4):
            out.append(stage(out[-1]))
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv5(self.features(images)[-1])
        return self.fc(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _shuffle(first: Tensor, second: Tensor) -> Tensor:
    """Two [B, D, H, W] -> [B, 2 D, H, W], their channels in turn."""
    return torch.stack((first, second), 2).flatten(1, 2)  # [B, D, 2, H, W] -> [B, 2 D, H, W]


def _depthwise(dim: int, stride: int) -> nn.Sequential:
    return conv_bn_act(dim, dim, 3, stride, dim, act=None)


def _filtered(in_dim: int, dim: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_act(in_dim, dim, 1), *_depthwise(dim, stride), *conv_bn_act(dim, dim, 1))


def _stage(in_dim: int, dim: int, depth: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_dim, dim), *[Unit(dim) for _ in range(depth - 1)])


VARIANTS = {
    "shufflenet_v2_x0_5": {"dims": (48, 96, 192), "last_dim": 1024},
    "shufflenet_v2_x1_0": {"dims": (116, 232, 464), "last_dim": 1024},
    "shufflenet_v2_x1_5": {"dims": (176, 352, 704), "last_dim": 1024},
    "shufflenet_v2_x2_0": {"dims": (244, 488, 976), "last_dim": 2048},
}

_MEGVII = "the authors' page, megvii-model/ShuffleNet-Series (there named FLOPs)"
_NOT_ITEMISED = "not known: the authors do not itemise their count, and torchvision's count equals ours"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "shufflenet_v2_x0_5": [{"what": "params", "value": "1.4e6", "source": _MEGVII},
                           {"what": "macs", "value": "41e6", "source": _MEGVII, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "1366792", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.04e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "60.552", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "shufflenet_v2_x1_0": [{"what": "params", "value": "2.3e6", "source": _MEGVII},
                           {"what": "macs", "value": "146e6", "source": _MEGVII, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "2278604", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.145e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "69.362", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "shufflenet_v2_x1_5": [{"what": "params", "value": "3.5e6", "source": _MEGVII},
                           {"what": "macs", "value": "299e6", "source": _MEGVII, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "3503624", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.296e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "72.996", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "shufflenet_v2_x2_0": [{"what": "params", "value": "7.4e6", "source": _MEGVII},
                           {"what": "macs", "value": "591e6", "source": _MEGVII, "reason": _NOT_ITEMISED},
                           {"what": "params", "value": "7393996", "source": _TORCHVISION},
                           {"what": "macs", "value": "0.583e9", "source": _TORCHVISION},
                           {"what": "top1", "value": "76.230", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "shufflenet_v2_x0_5": {"torchvision": {"file": "shufflenetv2_x0.5-f707e7126e.pth", "licence": _LICENCE}},
    "shufflenet_v2_x1_0": {"torchvision": {"file": "shufflenetv2_x1-5666bf0f80.pth", "licence": _LICENCE}},
    "shufflenet_v2_x1_5": {"torchvision": {"file": "shufflenetv2_x1_5-3c479a10.pth", "licence": _LICENCE}},
    "shufflenet_v2_x2_0": {"torchvision": {"file": "shufflenetv2_x2_0-8be3c8ee.pth", "licence": _LICENCE}},
}

models.add(ShuffleNetV2, VARIANTS, WEIGHTS, family="shufflenet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict}, peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, "
                 "ECCV 2018, arXiv:1807.11164",
           # torchvision's; its x1.5 and x2.0 were evaluated with a crop_fraction of 224 / 232
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
