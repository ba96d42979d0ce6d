"""Pre-activation residual networks for small images: 110, 164 and 1001 layers in three stages.

Paper: He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027. Batch norm and
ReLU come before each convolution, so that from block to block the maps are only added to. As in the paper's appendix,
the first block shares its first activation with its shortcut, and an activation follows the last addition. Shortcut
'A' drops every other place and pads new channels with zeros; 'B' projects the activated maps by a 1 x 1 convolution
where the shape changes. Departures: the last pooling takes any size.
forward: images [B, C, H, W], normalised, H and W of at least 4 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive
from visus.layers.zero_pad_shortcut import ZeroPadShortcut

DIMS = (16, 32, 64)
EXPANSIONS = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True, kw_only=True)
class PreactResNetConfig:
    """block: 'basic' (two 3 x 3) or 'bottleneck' (1 x 1, 3 x 3, 1 x 1 to four times the channels). depth: blocks in
    each of the three stages (n of 6n + 2 or 9n + 2). shortcut: 'A' or 'B', see above."""

    block: str = "bottleneck"
    depth: int = 18
    shortcut: str = "B"
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        one_of(tuple(EXPANSIONS), block=self.block)
        one_of(("A", "B"), shortcut=self.shortcut)
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)


class Block(nn.Module):
    """Norm, ReLU and convolution in turn, then add: [B, in_dim, H, W] -> [B, out_dim, H / stride, W / stride].

    shapes: (in, out, kernel, stride) of each convolution. shared: the shortcut takes the activated maps also where it
    changes nothing."""

    def __init__(self, shapes: list[tuple[int, int, int, int]], shortcut: str, shared: bool):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(in_dim) for in_dim, _, _, _ in shapes])
        self.convs = nn.ModuleList([nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, bias=False)
                                    for in_dim, dim, kernel, stride in shapes])
        in_dim, out_dim, stride = shapes[0][0], shapes[-1][1], max(shape[3] for shape in shapes)
        same = stride == 1 and in_dim == out_dim
        self.activated = shared or (shortcut == "B" and not same)
        if same:
            self.downsample: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.downsample = ZeroPadShortcut(out_dim - in_dim, stride)
        else:
            self.downsample = nn.Conv2d(in_dim, out_dim, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.norms[0](maps), inplace=True)
        kept = self.downsample(out if self.activated else maps)
        out = self.convs[0](out)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            out = conv(F.relu(norm(out), inplace=True))
        return out + kept


class PreactResNet(nn.Module):
    Config = PreactResNetConfig

    def __init__(self, config: PreactResNetConfig):
        super().__init__()
        self.config = config
        outs = [dim * EXPANSIONS[config.block] for dim in DIMS]
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 3, 1, 1, bias=False)
        self.layer1 = _stage(config.block, DIMS[0], DIMS[0], config.depth, 1, config.shortcut, True)
        self.layer2 = _stage(config.block, outs[0], DIMS[1], config.depth, 2, config.shortcut, False)
        self.layer3 = _stage(config.block, outs[1], DIMS[2], config.depth, 2, config.shortcut, False)
        self.norm = nn.BatchNorm2d(outs[2])
        self.fc = nn.Linear(outs[2], config.num_classes)
        self.feature_channels = tuple(outs)
        self.feature_strides = (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 1, 2 and 4; only the last are activated."""
        first = self.layer1(self.conv1(images))
        second = self.layer2(first)
        return [first, second, F.relu(self.norm(self.layer3(second)), inplace=True)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))  # [B, D] -> [B, num_classes]


def _stage(block: str, in_dim: int, dim: int, depth: int, stride: int, shortcut: str, first: bool) -> nn.Sequential:
    """first: no stage comes before this one."""
    blocks, out_dim = [], dim * EXPANSIONS[block]
    for i in range(depth):
        entering, step = (in_dim, stride) if i == 0 else (out_dim, 1)
        if block == "basic":
            shapes = [(entering, dim, 3, step), (dim, dim, 3, 1)]
        else:
            shapes = [(entering, dim, 1, step), (dim, dim, 3, 1), (dim, out_dim, 1, 1)]
        blocks.append(Block(shapes, shortcut, first and i == 0))
    return nn.Sequential(*blocks)


VARIANTS = {
    "preact_resnet110": {"block": "basic", "depth": 18, "shortcut": "A"},
    "preact_resnet164": {"block": "bottleneck", "depth": 18, "shortcut": "B"},
    "preact_resnet1001": {"block": "bottleneck", "depth": 111, "shortcut": "B"},
}

_TABLE_3 = "He et al. 2016b (from memory), Table 3 (CIFAR-10 test)"
_COUNTS = "Zagoruyko, Komodakis 2016 (from memory), Table 5"
PUBLISHED = {
    "preact_resnet110": [{"what": "params", "value": "1.7e6", "source": _COUNTS},
                         {"what": "top1", "value": "93.63", "data": "CIFAR-10", "source": _TABLE_3}],
    "preact_resnet164": [{"what": "params", "value": "1.7e6", "source": _COUNTS},
                         {"what": "top1", "value": "94.54", "data": "CIFAR-10", "source": _TABLE_3}],
    "preact_resnet1001": [{"what": "params", "value": "10.2e6", "source": _COUNTS,
                           "reason": "without the scales and shifts of batch norm it comes to 10.178e6"},
                          {"what": "top1", "value": "95.08", "data": "CIFAR-10", "source": _TABLE_3}],
}

models.add(PreactResNet, VARIANTS, family="preact_resnet", task="classification", published=PUBLISHED,
           paper="He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
