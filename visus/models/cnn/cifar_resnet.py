"""Residual networks for small images: 6n + 2 layers in three stages of n blocks; the plain networks that they are
measured against; and residual networks of stochastic depth.

Papers: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2: a
block adds what it computes to what it was given. Shortcut 'A' (the paper's on CIFAR) drops every other place and pads
new channels with zeros, without parameters; 'B' projects by a 1 x 1 convolution where the shape changes; 'none' makes
a plain network. Huang, Sun, Liu, Sedra, Weinberger, Deep Networks with Stochastic Depth, ECCV 2016, arXiv:1603.09382:
in training a block's branch is left out of a mini-batch with a probability that grows with depth. Departures: the last
pooling takes any size; a branch that is left out is computed and multiplied by 0, so that the network stays one graph
for torch.compile: the result is the paper's, except that the branch's running statistics see that batch too, and no
time is saved.
forward: images [B, C, H, W], normalised, H and W of at least 4 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, require
from visus.layers.zero_pad_shortcut import ZeroPadShortcut

DIMS = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class CifarResNetConfig:
    """depth: blocks in each of the three stages (n of 6n + 2). shortcut: 'A' or 'B' of section 4.1, or 'none'.
    survival: probability that the last block's branch is kept in training (p_L of Huang et al.); 1 keeps all."""

    depth: int = 3
    shortcut: str = "A"
    survival: float = 1.0
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        one_of(("A", "B", "none"), shortcut=self.shortcut)
        require(isinstance(self.survival, int | float) and not isinstance(self.survival, bool)
                and 0 < self.survival <= 1, "survival", self.survival, "lie in (0, 1]")
        require(self.shortcut != "none" or self.survival == 1, "survival", self.survival,
                "be 1 where shortcut='none': a plain network cannot leave out a block")


def survivals(last: float, num_blocks: int) -> list[float]:
    """Equation 4: p_l = 1 - l / L (1 - p_L) for the blocks l = 1 to L."""
    return [1 - block / num_blocks * (1 - last) for block in range(1, num_blocks + 1)]


class StochasticDepth(nn.Module):
    """[B, ...] -> the same shape: in training the whole batch is kept with probability `survival` and is otherwise 0
    (equation 2); in eval it is multiplied by `survival`, its expectation (equation 5)."""

    def __init__(self, survival: float):
        super().__init__()
        self.survival = survival

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch * self.survival
        return branch * torch.empty((), dtype=branch.dtype, device=branch.device).bernoulli_(self.survival)


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut: [B, C, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, shortcut: str, survival: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.drop = StochasticDepth(survival) if survival < 1 else None
        self.plain = shortcut == "none"
        if self.plain or (stride == 1 and in_dim == dim):
            self.downsample: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.downsample = ZeroPadShortcut(dim - in_dim)
        else:
            self.downsample = nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False),
                                            nn.BatchNorm2d(dim))

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.drop is not None:
            out = self.drop(out)
        if not self.plain:
            out += self.downsample(maps)
        return F.relu(out, inplace=True)


class CifarResNet(nn.Module):
    Config = CifarResNetConfig

    def __init__(self, config: CifarResNetConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        n, kept = config.depth, survivals(config.survival, 3 * config.depth)
        self.layer1 = _stage(DIMS[0], DIMS[0], 1, config.shortcut, kept[:n])
        self.layer2 = _stage(DIMS[0], DIMS[1], 2, config.shortcut, kept[n:2 * n])
        self.layer3 = _stage(DIMS[1], DIMS[2], 2, config.shortcut, kept[2 * n:])
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


def _stage(in_dim: int, dim: int, stride: int, shortcut: str, kept: list[float]) -> nn.Sequential:
    """kept: the probability that each block's branch survives."""
    return nn.Sequential(*[Block(in_dim if i == 0 else dim, dim, stride if i == 0 else 1, shortcut, survival)
                           for i, survival in enumerate(kept)])


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

PLAIN_VARIANTS = {
    "plain20": {"depth": 3, "shortcut": "none"},
    "plain32": {"depth": 5, "shortcut": "none"},
    "plain44": {"depth": 7, "shortcut": "none"},
    "plain56": {"depth": 9, "shortcut": "none"},
    "plain110": {"depth": 18, "shortcut": "none"},
}

_SAME = "He et al. 2016, section 4.2: exactly as many as the residual network, Table 6"
PLAIN_PUBLISHED = {
    "plain20": [{"what": "params", "value": "0.27e6", "source": _SAME}],
    "plain32": [{"what": "params", "value": "0.46e6", "source": _SAME}],
    "plain44": [{"what": "params", "value": "0.66e6", "source": _SAME}],
    "plain56": [{"what": "params", "value": "0.85e6", "source": _SAME}],
    "plain110": [{"what": "params", "value": "1.7e6", "source": _SAME}],
}

STOCHASTIC_VARIANTS = {
    "resnet110_sd": {"depth": 18, "survival": 0.5},
    "resnet1202_sd": {"depth": 200, "survival": 0.5},
}

_HUANG = "Huang et al. 2016 (from memory), {} (CIFAR-10 test with augmentation)"
STOCHASTIC_PUBLISHED = {
    "resnet110_sd": [{"what": "top1", "value": "94.75", "data": "CIFAR-10", "source": _HUANG.format("Table 1")}],
    "resnet1202_sd": [{"what": "top1", "value": "95.09", "data": "CIFAR-10", "source": _HUANG.format("section 4")}],
}

_HE = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385"
_PREPROCESSING = {"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
models.add(CifarResNet, VARIANTS, family="resnet", task="classification", published=PUBLISHED, paper=_HE,
           preprocessing=_PREPROCESSING)
models.add(CifarResNet, PLAIN_VARIANTS, family="plain", task="classification", published=PLAIN_PUBLISHED, paper=_HE,
           preprocessing=_PREPROCESSING)
models.add(CifarResNet, STOCHASTIC_VARIANTS, family="resnet", task="classification", published=STOCHASTIC_PUBLISHED,
           paper="Huang, Sun, Liu, Sedra, Weinberger: Deep Networks with Stochastic Depth, ECCV 2016, "
                 "arXiv:1603.09382",
           preprocessing=_PREPROCESSING)
