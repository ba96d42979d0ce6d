"""Residual networks for small images: 6n + 2 layers in three stages of n blocks.

Paper: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section
4.2. A block adds what it computes to what it was given. Shortcut 'A' (the paper's on CIFAR) drops every other
place and pads new channels with zeros, without parameters; 'B' projects by a 1 x 1 convolution where the
shape changes. Departures: the last pooling takes any size.
forward: images [B, C, H, W], normalised, H and W of at least 4 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive

DIMS = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class CifarResNetConfig:
    """depth: blocks in each of the three stages (n of 6n + 2). shortcut: 'A' or 'B' of section 4.1."""

    depth: int = 3
    shortcut: str = "A"
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        one_of(("A", "B"), shortcut=self.shortcut)


class ZeroPadShortcut(nn.Module):
    """[B, C, H, W] -> [B, C + extra, H/2, W/2]: every other place, zeros for the new channels."""

    def __init__(self, extra: int):
        super().__init__()
        self.extra = extra

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut: [B, C, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        if stride == 1 and in_dim == dim:
            self.downsample: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.downsample = ZeroPadShortcut(dim - in_dim)
        else:
            self.downsample = nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False),
                                            nn.BatchNorm2d(dim))

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(maps), inplace=True)


class CifarResNet(nn.Module):
    Config = CifarResNetConfig

    def __init__(self, config: CifarResNetConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        self.layer1 = _stage(DIMS[0], DIMS[0], config.depth, 1, config.shortcut)
        self.layer2 = _stage(DIMS[0], DIMS[1], config.depth, 2, config.shortcut)
        self.layer3 = _stage(DIMS[1], DIMS[2], config.depth, 2, config.shortcut)
        self.fc = nn.Linear(DIMS[2], config.num_classes)
        self.feature_channels = DIMS
        self.feature_strides = (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 1, 2 and 4 with 16, 32 and 64 channels."""
        maps = F.relu(self.bn1(self.conv1(images)), inplace=True)
        first = self.layer1(maps)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))  # [B, 64] -> [B, num_classes]


def _stage(in_dim: int, dim: int, depth: int, stride: int, shortcut: str) -> nn.Sequential:
    return nn.Sequential(*[Block(in_dim if i == 0 else dim, dim, stride if i == 0 else 1, shortcut)
                           for i in range(depth)])


VARIANTS = {
    "resnet20": {"depth": 3},
    "resnet32": {"depth": 5},
    "resnet44": {"depth": 7},
    "resnet56": {"depth": 9},
    "resnet110": {"depth": 18},
    "resnet1202": {"depth": 200},
}

_TABLE_6 = "He et al. 2016, Table 6 (CIFAR-10 test with augmentation)"
PUBLISHED = {
    "resnet20": [{"what": "params", "value": "0.27e6", "source": _TABLE_6},
                 {"what": "top1", "value": "91.25", "data": "CIFAR-10", "source": _TABLE_6}],
    "resnet32": [{"what": "params", "value": "0.46e6", "source": _TABLE_6},
                 {"what": "top1", "value": "92.49", "data": "CIFAR-10", "source": _TABLE_6}],
    "resnet44": [{"what": "params", "value": "0.66e6", "source": _TABLE_6},
                 {"what": "top1", "value": "92.83", "data": "CIFAR-10", "source": _TABLE_6}],
    "resnet56": [{"what": "params", "value": "0.85e6", "source": _TABLE_6},
                 {"what": "top1", "value": "93.03", "data": "CIFAR-10", "source": _TABLE_6}],
    "resnet110": [{"what": "params", "value": "1.7e6", "source": _TABLE_6},
                  {"what": "top1", "value": "93.57", "data": "CIFAR-10", "source": _TABLE_6}],
    "resnet1202": [{"what": "params", "value": "19.4e6", "source": _TABLE_6},
                   {"what": "top1", "value": "92.07", "data": "CIFAR-10", "source": _TABLE_6}],
}

models.add(CifarResNet, VARIANTS, family="resnet", task="classification", published=PUBLISHED,
           paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, "
                 "arXiv:1512.03385",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465),
                          "std": (0.2470, 0.2435, 0.2616)})
