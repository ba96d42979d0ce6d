"""ResNet-D and ResNet-RS: residual networks that throw no map away where they halve.

Papers: He, Zhang, Zhang, Zhang, Xie, Li, Bag of Tricks for Image Classification with Convolutional Neural Networks,
CVPR 2019, arXiv:1812.01187, section 4: the stem is three 3 x 3 convolutions (C), a bottleneck halves its maps in its
3 x 3 convolution (B), and a projection takes 2 x 2 means before its 1 x 1 convolution (D). Bello, Fedus, Du, Cubuk,
Srinivas, Lin, Shlens, Zoph, Revisiting ResNets: Improved Training and Scaling Strategies, NeurIPS 2021,
arXiv:2103.07579: ResNet-D with squeeze and excitation, a 3 x 3 convolution in place of the stem's pooling, dropout and
stochastic depth. Departures: stochastic depth rises block by block, where the authors' code does so stage by stage.
Parameters carry timm's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.squeeze_excitation import SqueezeExcitation

DIMS = (64, 128, 256, 512)
STEM_DIM = 32


@dataclass(frozen=True, kw_only=True)
class ResNetDConfig:
    """block: 'basic' (two 3 x 3) or 'bottleneck' (1 x 1, 3 x 3, 1 x 1). depths: blocks in each of the four stages.
    stem_pool: 'max' (ResNet-D) or 'conv' (ResNet-RS). se_ratio: squeezed channels over a block's channels, 0 for no
    squeeze and excitation. dropout: before the classifier. drop_path: of the last block, 0 at the first.
    zero_init_residual: the last scale of each block starts at 0 (Bag of Tricks, section 3.1)."""

    block: str = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_pool: str = "max"
    se_ratio: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        one_of(("basic", "bottleneck"), block=self.block)
        require(isinstance(self.depths, tuple) and len(self.depths) == 4, "depths", self.depths,
                "be four block counts")
        for depth in self.depths:
            positive(depths=depth)
        one_of(("max", "conv"), stem_pool=self.stem_pool)
        require(isinstance(self.se_ratio, int | float) and 0 <= self.se_ratio <= 1, "se_ratio", self.se_ratio,
                "lie in [0, 1]")
        probability(dropout=self.dropout, drop_path=self.drop_path)
        positive(in_channels=self.in_channels, num_classes=self.num_classes)
        boolean(zero_init_residual=self.zero_init_residual)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_dim: int, dim: int, stride: int, drop_path: float, se_ratio: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.se = _squeeze(dim, se_ratio)
        self.drop_path = DropPath(drop_path)
        self.downsample = _projection(in_dim, dim, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        out = self.drop_path(out)
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up: [B, in_dim, H, W] -> [B, 4 dim, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int, drop_path: float, se_ratio: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * dim)
        self.se = _squeeze(4 * dim, se_ratio)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path)
        self.downsample = _projection(in_dim, 4 * dim, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.se is not None:
            out = self.se(out)
        out = self.drop_path(out)
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class ResNetD(nn.Module):
    Config = ResNetDConfig

    def __init__(self, config: ResNetDConfig):
        super().__init__()
        self.config = config
        kind = BasicBlock if config.block == "basic" else Bottleneck
        block = partial(kind, se_ratio=config.se_ratio)
        self.conv1 = nn.Sequential(
            nn.Conv2d(config.in_channels, STEM_DIM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM_DIM),
            nn.ReLU(inplace=True),
            nn.Conv2d(STEM_DIM, STEM_DIM, 3, 1, 1, bias=False), nn.BatchNorm2d(STEM_DIM), nn.ReLU(inplace=True),
            nn.Conv2d(STEM_DIM, DIMS[0], 3, 1, 1, bias=False))
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        self.relu = nn.ReLU(inplace=True)
        if config.stem_pool == "max":
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1)
        else:
            self.maxpool = nn.Sequential(nn.Conv2d(DIMS[0], DIMS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(DIMS[0]),
                                         nn.ReLU(inplace=True))
        outs = [dim * kind.expansion for dim in DIMS]
        last = max(sum(config.depths) - 1, 1)
        rates = [config.drop_path * i / last for i in range(sum(config.depths))]
        first, second, third, _ = (sum(config.depths[:i]) for i in range(1, 5))
        self.layer1 = _stage(block, DIMS[0], DIMS[0], outs[0], 1, rates[:first])
        self.layer2 = _stage(block, outs[0], DIMS[1], outs[1], 2, rates[first:second])
        self.layer3 = _stage(block, outs[1], DIMS[2], outs[2], 2, rates[second:third])
        self.layer4 = _stage(block, outs[2], DIMS[3], outs[3], 2, rates[third:])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
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
        return self.fc(self.dropout(self.avgpool(maps).flatten(1)))  # [B, D] -> [B, num_classes]


def _squeeze(dim: int, se_ratio: float) -> nn.Module | None:
    if se_ratio == 0:
        return None
    return SqueezeExcitation(dim, max(round(dim * se_ratio), 1), nn.ReLU(inplace=True), nn.Sigmoid())


def _projection(in_dim: int, dim: int, stride: int) -> nn.Module | None:
    """Means over 2 x 2 places where the maps are halved, of what there is at an odd edge; then 1 x 1."""
    if stride == 1 and in_dim == dim:
        return None
    pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(in_dim, dim, 1, bias=False), nn.BatchNorm2d(dim))


def _stage(block: Callable[[int, int, int, float], nn.Module], in_dim: int, dim: int, out_dim: int, stride: int,
           rates: list[float]) -> nn.Sequential:
    """rates: drop_path of each block."""
    return nn.Sequential(block(in_dim, dim, stride, rates[0]), *[block(out_dim, dim, 1, rate) for rate in rates[1:]])


VARIANTS = {
    "resnet18d": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet26d": {"block": "bottleneck", "depths": (2, 2, 2, 2)},
    "resnet34d": {"block": "basic", "depths": (3, 4, 6, 3)},
    "resnet50d": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101d": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
    "resnet152d": {"block": "bottleneck", "depths": (3, 8, 36, 3)},
    "resnet200d": {"block": "bottleneck", "depths": (3, 24, 36, 3)},
}

_TABLE_5 = "He et al. 2019 (from memory), Table 5 (there named FLOPs)"
_TIMM = "timm, results-imagenet.csv ({} pixels)"
PUBLISHED = {
    "resnet18d": [{"what": "params", "value": "11.71e6", "source": _TIMM.format(288)},
                  {"what": "top1", "value": "73.794", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "resnet26d": [{"what": "params", "value": "16.01e6", "source": _TIMM.format(288)},
                  {"what": "top1", "value": "77.408", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "resnet34d": [{"what": "params", "value": "21.82e6", "source": _TIMM.format(288)},
                  {"what": "top1", "value": "78.436", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "resnet50d": [{"what": "macs", "value": "4.3e9", "source": _TABLE_5},
                  {"what": "top1", "value": "77.16", "data": "ImageNet-1k", "source": _TABLE_5},
                  {"what": "params", "value": "25.58e6", "source": _TIMM.format(288)},
                  {"what": "top1", "value": "81.356", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "resnet101d": [{"what": "params", "value": "44.57e6", "source": _TIMM.format(320)},
                   {"what": "top1", "value": "83.016", "data": "ImageNet-1k", "source": _TIMM.format(320)}],
    "resnet152d": [{"what": "params", "value": "60.21e6", "source": _TIMM.format(320)},
                   {"what": "top1", "value": "83.684", "data": "ImageNet-1k", "source": _TIMM.format(320)}],
    "resnet200d": [{"what": "params", "value": "64.69e6", "source": _TIMM.format(320)},
                   {"what": "top1", "value": "83.964", "data": "ImageNet-1k", "source": _TIMM.format(320)}],
}

_LICENCE = "Apache-2.0 (timm); trained on ImageNet-1k"
WEIGHTS = {
    "resnet18d": {"timm": {"file": "resnet18d.ra2_in1k", "licence": _LICENCE}},
    "resnet26d": {"timm": {"file": "resnet26d.bt_in1k", "licence": _LICENCE}},
    "resnet34d": {"timm": {"file": "resnet34d.ra2_in1k", "licence": _LICENCE}},
    "resnet50d": {"timm": {"file": "resnet50d.ra2_in1k", "licence": _LICENCE}},
    "resnet101d": {"timm": {"file": "resnet101d.ra2_in1k", "licence": _LICENCE}},
    "resnet152d": {"timm": {"file": "resnet152d.ra2_in1k", "licence": _LICENCE}},
    "resnet200d": {"timm": {"file": "resnet200d.ra2_in1k", "licence": _LICENCE}},
}

RS_VARIANTS = {
    "resnetrs50": {"block": "bottleneck", "depths": (3, 4, 6, 3), "stem_pool": "conv", "se_ratio": 0.25,
                   "dropout": 0.25},
    "resnetrs101": {"block": "bottleneck", "depths": (3, 4, 23, 3), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.25},
    "resnetrs152": {"block": "bottleneck", "depths": (3, 8, 36, 3), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.25},
    "resnetrs200": {"block": "bottleneck", "depths": (3, 24, 36, 3), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.25, "drop_path": 0.1},
    "resnetrs270": {"block": "bottleneck", "depths": (4, 29, 53, 4), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.25, "drop_path": 0.1},
    "resnetrs350": {"block": "bottleneck", "depths": (4, 36, 72, 4), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.25, "drop_path": 0.1},
    "resnetrs420": {"block": "bottleneck", "depths": (4, 44, 87, 4), "stem_pool": "conv", "se_ratio": 0.25,
                    "dropout": 0.4, "drop_path": 0.1},
}

_BELLO = "Bello et al. 2021 (from memory), Table 7"
_FLOPS = "Bello et al. 2021 (from memory), Table 7 (there {} FLOPs, two for each multiply-accumulate)"
_AUTHORS = "the authors' repository, README ({} pixels)"
RS_PUBLISHED = {
    "resnetrs50": [{"what": "params", "value": "36e6", "source": _BELLO},
                   {"what": "macs", "value": "2.3e9", "source": _FLOPS.format("4.6e9")},
                   {"what": "top1", "value": "78.8", "data": "ImageNet-1k", "source": _AUTHORS.format(160)},
                   {"what": "params", "value": "35.69e6", "source": _TIMM.format(224)},
                   {"what": "top1", "value": "79.896", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
    "resnetrs101": [{"what": "params", "value": "64e6", "source": _BELLO},
                    {"what": "macs", "value": "6e9", "source": _FLOPS.format("12e9")},
                    {"what": "top1", "value": "81.2", "data": "ImageNet-1k", "source": _AUTHORS.format(192)},
                    {"what": "params", "value": "63.62e6", "source": _TIMM.format(288)},
                    {"what": "top1", "value": "82.284", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "resnetrs152": [{"what": "params", "value": "87e6", "source": _BELLO},
                    {"what": "macs", "value": "15.5e9", "source": _FLOPS.format("31e9")},
                    {"what": "top1", "value": "83.0", "data": "ImageNet-1k", "source": _AUTHORS.format(256)},
                    {"what": "params", "value": "86.62e6", "source": _TIMM.format(320)},
                    {"what": "top1", "value": "83.702", "data": "ImageNet-1k", "source": _TIMM.format(320)}],
    "resnetrs200": [{"what": "params", "value": "93e6", "source": _BELLO},
                    {"what": "macs", "value": "20e9", "source": _FLOPS.format("40e9")},
                    {"what": "top1", "value": "83.4", "data": "ImageNet-1k", "source": _AUTHORS.format(256)},
                    {"what": "params", "value": "93.21e6", "source": _TIMM.format(320)},
                    {"what": "top1", "value": "84.444", "data": "ImageNet-1k", "source": _TIMM.format(320)}],
    "resnetrs270": [{"what": "params", "value": "130e6", "source": _BELLO},
                    {"what": "macs", "value": "27e9", "source": _FLOPS.format("54e9")},
                    {"what": "top1", "value": "83.8", "data": "ImageNet-1k", "source": _AUTHORS.format(256)},
                    {"what": "params", "value": "129.86e6", "source": _TIMM.format(352)},
                    {"what": "top1", "value": "84.428", "data": "ImageNet-1k", "source": _TIMM.format(352)}],
    "resnetrs350": [{"what": "params", "value": "164e6", "source": _BELLO},
                    {"what": "macs", "value": "34.5e9", "source": _FLOPS.format("69e9"),
                     "reason": "34.377e9, twice that rounds to 69e9"},
                    {"what": "top1", "value": "84.0", "data": "ImageNet-1k", "source": _AUTHORS.format(256)},
                    {"what": "params", "value": "163.96e6", "source": _TIMM.format(384)},
                    {"what": "top1", "value": "84.714", "data": "ImageNet-1k", "source": _TIMM.format(384)}],
    "resnetrs420": [{"what": "params", "value": "192e6", "source": _BELLO},
                    {"what": "macs", "value": "64e9", "source": _FLOPS.format("128e9")},
                    {"what": "top1", "value": "84.4", "data": "ImageNet-1k", "source": _AUTHORS.format(320)},
                    {"what": "params", "value": "191.89e6", "source": _TIMM.format(416)},
                    {"what": "top1", "value": "85.006", "data": "ImageNet-1k", "source": _TIMM.format(416)}],
}

_GOOGLE = "Apache-2.0 (Google, by way of timm); trained on ImageNet-1k"
RS_WEIGHTS = {
    "resnetrs50": {"timm": {"file": "resnetrs50.tf_in1k", "licence": _GOOGLE}},
    "resnetrs101": {"timm": {"file": "resnetrs101.tf_in1k", "licence": _GOOGLE}},
    "resnetrs152": {"timm": {"file": "resnetrs152.tf_in1k", "licence": _GOOGLE}},
    "resnetrs200": {"timm": {"file": "resnetrs200.tf_in1k", "licence": _GOOGLE}},
    "resnetrs270": {"timm": {"file": "resnetrs270.tf_in1k", "licence": _GOOGLE}},
    "resnetrs350": {"timm": {"file": "resnetrs350.tf_in1k", "licence": _GOOGLE}},
    "resnetrs420": {"timm": {"file": "resnetrs420.tf_in1k", "licence": _GOOGLE}},
}

_SIZES = {  # side in pixels of the images, and the share of the resized image that they are
    "resnet18d": (224, 0.875), "resnet26d": (224, 0.875), "resnet34d": (224, 0.875), "resnet50d": (224, 0.875),
    "resnet101d": (256, 0.95), "resnet152d": (256, 0.95), "resnet200d": (256, 0.95),
    "resnetrs50": (160, 0.91), "resnetrs101": (192, 0.94), "resnetrs152": (256, 1.0), "resnetrs200": (256, 1.0),
    "resnetrs270": (256, 1.0), "resnetrs350": (256, 1.0), "resnetrs420": (320, 1.0),
}
_HE = ("He, Zhang, Zhang, Zhang, Xie, Li: Bag of Tricks for Image Classification with Convolutional Neural Networks, "
       "CVPR 2019, arXiv:1812.01187")
_RS_PAPER = ("Bello, Fedus, Du, Cubuk, Srinivas, Lin, Shlens, Zoph: Revisiting ResNets: Improved Training and Scaling "
             "Strategies, NeurIPS 2021, arXiv:2103.07579")
for _variants, _weights, _published, _family, _paper in (
        (VARIANTS, WEIGHTS, PUBLISHED, "resnet_d", _HE),
        (RS_VARIANTS, RS_WEIGHTS, RS_PUBLISHED, "resnet_rs", _RS_PAPER)):
    for _name, _variant in _variants.items():
        models.add(ResNetD, {_name: _variant}, _weights, family=_family, task="classification",
                   published=_published, origins={"timm": dict}, peers={_name: ("timm", _name)}, paper=_paper,
                   preprocessing={"size": (_SIZES[_name][0],) * 2, "resize": "crop",
                                  "crop_fraction": _SIZES[_name][1], "interpolation": "bicubic"})
