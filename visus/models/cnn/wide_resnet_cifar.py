"""Wide residual networks for small images: WRN-depth-width.

Paper: Zagoruyko, Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146. Few blocks with many channels train
faster than a thousand thin layers, and better. Batch norm and ReLU come before each convolution; a block that changes
the shape shares its first activation with its shortcut, a 1 x 1 convolution. Departures: the last pooling takes any
size. The same authors' wide networks for ImageNet are variants of the ordinary residual network.
forward: images [B, C, H, W], normalised, H and W of at least 4 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability

STEM_DIM = 16


@dataclass(frozen=True, kw_only=True)
class WideResNetConfig:
    """depth: blocks in each of the three stages (n of the 6n + 4 layers in the name). width: factor on the 16, 32 and
    64 channels of the thin network (k). dropout: between the two convolutions of a block (the paper tries 0.3)."""

    depth: int = 4
    width: int = 10
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(depth=self.depth, width=self.width, in_channels=self.in_channels, num_classes=self.num_classes)
        probability(dropout=self.dropout)


class Block(nn.Module):
    """Norm, ReLU, 3 x 3, twice, then add: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_dim)
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1 or in_dim != dim:
            self.downsample = nn.Conv2d(in_dim, dim, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.bn1(maps), inplace=True)
        out = F.relu(self.bn2(self.conv1(active)), inplace=True)
        out = self.conv2(self.dropout(out))
        return out + (maps if self.downsample is None else self.downsample(active))


class WideResNet(nn.Module):
    Config = WideResNetConfig

    def __init__(self, config: WideResNetConfig):
        super().__init__()
        self.config = config
        dims = tuple(STEM_DIM * config.width * factor for factor in (1, 2, 4))
        self.conv1 = nn.Conv2d(config.in_channels, STEM_DIM, 3, 1, 1, bias=False)
        self.layer1 = _stage(STEM_DIM, dims[0], config.depth, 1, config.dropout)
        self.layer2 = _stage(dims[0], dims[1], config.depth, 2, config.dropout)
        self.layer3 = _stage(dims[1], dims[2], config.depth, 2, config.dropout)
        self.bn = nn.BatchNorm2d(dims[2])
        self.fc = nn.Linear(dims[2], config.num_classes)
        self.feature_channels = dims
        self.feature_strides = (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 1, 2 and 4; only the last are activated."""
        first = self.layer1(self.conv1(images))
        second = self.layer2(first)
        return [first, second, F.relu(self.bn(self.layer3(second)), inplace=True)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))  # [B, D] -> [B, num_classes]


def _stage(in_dim: int, dim: int, depth: int, stride: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(Block(in_dim, dim, stride, dropout), *[Block(dim, dim, 1, dropout) for _ in range(depth - 1)])


VARIANTS = {
    "wrn28_10": {"depth": 4, "width": 10},
    "wrn40_2": {"depth": 6, "width": 2},
    "wrn16_4": {"depth": 2, "width": 4},
}

_README = "the authors' repository, README (median of five runs, no dropout)"
_TABLE_4 = "Zagoruyko, Komodakis 2016 (from memory), Table 4"
_TABLE_6 = "Zagoruyko, Komodakis 2016 (from memory), Table 6 (no dropout)"
PUBLISHED = {
    "wrn28_10": [{"what": "params", "value": "36.5e6", "source": _TABLE_4},
                 {"what": "top1", "value": "96.00", "data": "CIFAR-10", "source": _README}],
    "wrn40_2": [{"what": "params", "value": "2.2e6", "source": _TABLE_4},
                {"what": "top1", "value": "94.67", "data": "CIFAR-10", "source": _TABLE_4}],
    "wrn16_4": [{"what": "top1", "value": "94.98", "data": "CIFAR-10", "source": _TABLE_6}],
}

models.add(WideResNet, VARIANTS, family="wide_resnet", task="classification", published=PUBLISHED,
           paper="Zagoruyko, Komodakis: Wide Residual Networks, BMVC 2016, arXiv:1605.07146",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
