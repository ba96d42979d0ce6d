"""ResNet-18, 34, 50, 101 and 152: residual networks for ImageNet.

Paper: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385. A block
adds what it computes to what it was given. Departure: a bottleneck that halves its maps does so in its 3 x 3
convolution, not in its first 1 x 1 (known as v1.5), as the public weights do. Parameters carry torchvision's
names, which timm shares.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, require

DIMS = (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """block: 'basic' (two 3 x 3) or 'bottleneck' (1 x 1, 3 x 3, 1 x 1). depths: blocks in each of the four
    stages. zero_init_residual: the last scale of each block starts at 0, so that blocks start as the identity
    (Goyal et al., arXiv:1706.02677, section 5.1)."""

    block: str = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    in_channels: int = 3
    num_classes: int = 1000
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        one_of(("basic", "bottleneck"), block=self.block)
        require(isinstance(self.depths, tuple) and len(self.depths) == 4, "depths", self.depths,
                "be four block counts")
        for depth in self.depths:
            positive(depths=depth)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)
        boolean(zero_init_residual=self.zero_init_residual)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.downsample = _projection(in_dim, dim, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (maps if self.downsample is None else self.downsample(maps)))


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up: [B, in_dim, H, W] -> [B, 4 dim, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_dim, 4 * dim, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (maps if self.downsample is None else self.downsample(maps)))


class ResNet(nn.Module):
    Config = ResNetConfig

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        block = BasicBlock if config.block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        outs = [dim * block.expansion for dim in DIMS]
        self.layer1 = _stage(block, DIMS[0], DIMS[0], config.depths[0], 1)
        self.layer2 = _stage(block, outs[0], DIMS[1], config.depths[1], 2)
        self.layer3 = _stage(block, outs[1], DIMS[2], config.depths[2], 2)
        self.layer4 = _stage(block, outs[2], DIMS[3], config.depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outs[3], config.num_classes)
        self.feature_channels = tuple(outs)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise(config.zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(self.avgpool(maps).flatten(1))  # [B, D] -> [B, num_classes]


def _projection(in_dim: int, dim: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_dim == dim:
        return None
    return nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))


def _stage(block: type[BasicBlock] | type[Bottleneck], in_dim: int, dim: int, depth: int,
           stride: int) -> nn.Sequential:
    first = block(in_dim, dim, stride)
    return nn.Sequential(first, *[block(dim * block.expansion, dim, 1) for _ in range(depth - 1)])


VARIANTS = {
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "depths": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
    "resnet152": {"block": "bottleneck", "depths": (3, 8, 36, 3)},
}

_TABLE_1 = "He et al. 2016, Table 1 (there named FLOPs)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_V1 = "the paper halves the maps in the first 1 x 1 of a bottleneck, where it comes to {}; see the departure"
PUBLISHED = {
    "resnet18": [{"what": "macs", "value": "1.8e9", "source": _TABLE_1},
                 {"what": "params", "value": "11689512", "source": _TORCHVISION},
                 {"what": "macs", "value": "1.814e9", "source": _TORCHVISION},
                 {"what": "top1", "value": "69.758", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnet34": [{"what": "macs", "value": "3.6e9", "source": _TABLE_1,
                  "reason": "the 1 x 1 projections of option B cost 0.019e9; without them (option A) it comes "
                            "to 3.644e9"},
                 {"what": "params", "value": "21797672", "source": _TORCHVISION},
                 {"what": "macs", "value": "3.664e9", "source": _TORCHVISION},
                 {"what": "top1", "value": "73.314", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnet50": [{"what": "macs", "value": "3.8e9", "source": _TABLE_1,
                  "reason": _V1.format("3.858e9, which the paper cuts to 3.8e9")},
                 {"what": "params", "value": "25557032", "source": _TORCHVISION},
                 {"what": "macs", "value": "4.089e9", "source": _TORCHVISION},
                 {"what": "top1", "value": "76.130", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnet101": [{"what": "macs", "value": "7.6e9", "source": _TABLE_1, "reason": _V1.format("7.570e9")},
                  {"what": "params", "value": "44549160", "source": _TORCHVISION},
                  {"what": "macs", "value": "7.801e9", "source": _TORCHVISION},
                  {"what": "top1", "value": "77.374", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnet152": [{"what": "macs", "value": "11.3e9", "source": _TABLE_1, "reason": _V1.format("11.282e9")},
                  {"what": "params", "value": "60192808", "source": _TORCHVISION},
                  {"what": "macs", "value": "11.514e9", "source": _TORCHVISION},
                  {"what": "top1", "value": "78.312", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "resnet18": {"torchvision": {"file": "resnet18-f37072fd.pth", "licence": _LICENCE}},
    "resnet34": {"torchvision": {"file": "resnet34-b627a593.pth", "licence": _LICENCE}},
    "resnet50": {"torchvision": {"file": "resnet50-0676ba61.pth", "licence": _LICENCE}},
    "resnet101": {"torchvision": {"file": "resnet101-63fe2227.pth", "licence": _LICENCE}},
    "resnet152": {"torchvision": {"file": "resnet152-394f9c45.pth", "licence": _LICENCE}},
}

models.add(ResNet, VARIANTS, WEIGHTS, family="resnet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": dict},
           peers={name: ("torchvision", name) for name in VARIANTS},
           paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, "
                 "arXiv:1512.03385",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
