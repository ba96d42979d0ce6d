"""ResNet-18, 34, 50, 101 and 152, ResNeXt-50 and 101, Wide ResNet-50-2 and 101-2, and the plain networks that
ResNet is measured against: residual networks for ImageNet.

Papers: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385: a
block adds what it computes to what it was given. Xie, Girshick, Dollar, Tu, He, Aggregated Residual
Transformations for Deep Neural Networks (ResNeXt), CVPR 2017, arXiv:1611.05431: the 3 x 3 convolution of a
bottleneck is split into groups. Zagoruyko, Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146: it
is twice as wide. Departure: a bottleneck that halves its maps does so in its 3 x 3 convolution, not in its
first 1 x 1 (known as v1.5), as the public weights and the ResNeXt paper do. Parameters carry torchvision's
names, which timm shares; `from_transformers` renames transformers'.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, require
from visus.layers.fresh_head import fresh_head
from visus.layers.zero_pad_shortcut import ZeroPadShortcut

DIMS = (64, 128, 256, 512)
SHORTCUTS = ("A", "B", "C", "none")


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """block: 'basic' (two 3 x 3) or 'bottleneck' (1 x 1, 3 x 3, 1 x 1). depths: blocks in each of the four
    stages. groups, width_per_group: the 3 x 3 convolution of a bottleneck has this many groups (the
    cardinality of ResNeXt), each of this many channels in the first stage and twice as many in each later
    one; ResNet has one of 64. zero_init_residual: the last scale of each block starts at 0, so that blocks
    start as the identity (Goyal et al., arXiv:1706.02677, section 5.1). shortcut: 'A' (every other place, zeros for
    new channels), 'B' (a 1 x 1 projection where the shape changes), 'C' (a projection in every block) or 'none' (a
    plain network). head_dims: widths of dense layers with ReLU between the pooled maps and the classifier, for
    fine-tuning; none in the paper."""

    block: str = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    groups: int = 1
    width_per_group: int = 64
    in_channels: int = 3
    num_classes: int = 1000
    zero_init_residual: bool = False
    shortcut: str = "B"
    head_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        one_of(("basic", "bottleneck"), block=self.block)
        require(isinstance(self.depths, tuple) and len(self.depths) == 4, "depths", self.depths,
                "be four block counts")
        for depth in self.depths:
            positive(depths=depth)
        require(isinstance(self.head_dims, tuple), "head_dims", self.head_dims, "be a list of widths")
        for dim in self.head_dims:
            positive(head_dims=dim)
        positive(groups=self.groups, width_per_group=self.width_per_group, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        for field, plain in (("groups", 1), ("width_per_group", 64)):
            value = getattr(self, field)
            require(self.block == "bottleneck" or value == plain, field, value,
                    f"be {plain} where block='basic'")
        boolean(zero_init_residual=self.zero_init_residual)
        one_of(SHORTCUTS, shortcut=self.shortcut)
        require(self.shortcut != "none" or not self.zero_init_residual, "zero_init_residual", self.zero_init_residual,
                "be false where shortcut='none': a plain network that starts at zero stays there")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_dim: int, dim: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.plain = shortcut == "none"
        self.downsample = _downsample(in_dim, dim, stride, shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        if not self.plain:
            out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3 in groups, 1 x 1 up: [B, in_dim, H, W] -> [B, 4 dim, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int, shortcut: str, groups: int, width_per_group: int):
        super().__init__()
        width = groups * (width_per_group * dim // DIMS[0])
        self.conv1 = nn.Conv2d(in_dim, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * dim)
        self.relu = nn.ReLU(inplace=True)
        self.plain = shortcut == "none"
        self.downsample = _downsample(in_dim, 4 * dim, stride, shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if not self.plain:
            out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class ResNet(nn.Module):
    Config = ResNetConfig

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        block, expansion = _block(config.block, config.shortcut, config.groups, config.width_per_group)
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        outs = [dim * expansion for dim in DIMS]
        self.layer1 = _stage(block, DIMS[0], DIMS[0], outs[0], config.depths[0], 1)
        self.layer2 = _stage(block, outs[0], DIMS[1], outs[1], config.depths[1], 2)
        self.layer3 = _stage(block, outs[1], DIMS[2], outs[2], config.depths[2], 2)
        self.layer4 = _stage(block, outs[2], DIMS[3], outs[3], config.depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = _head(outs[3], config.head_dims, config.num_classes)
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

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state, and what was done in words: with head_dims, the classifier of a file that has one layer there is
        left out, and the dense layers start fresh."""
        state = dict(state)
        if not self.config.head_dims or "fc.weight" not in state:
            return state, []
        state = {name: tensor for name, tensor in state.items() if name not in ("fc.weight", "fc.bias")}
        state, _ = fresh_head(state, self, "fc")
        widths = ", ".join(map(str, (*self.config.head_dims, self.config.num_classes)))
        return state, [f"the classifier of the weights is left out: dense layers of {widths} start fresh"]


def _head(dim: int, hidden: tuple[int, ...], num_classes: int) -> nn.Module:
    """[B, dim] -> [B, num_classes]: one linear layer, or several with ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(dim, width), nn.ReLU(inplace=True)]
        dim = width
    last = nn.Linear(dim, num_classes)
    return nn.Sequential(*layers, last) if layers else last


def _downsample(in_dim: int, dim: int, stride: int, shortcut: str) -> nn.Module | None:
    """What the shortcut does to the maps; None where it hands them on, or does not exist."""
    same = stride == 1 and in_dim == dim
    if shortcut == "none" or (same and shortcut != "C"):
        return None
    if shortcut == "A":
        return ZeroPadShortcut(dim - in_dim, stride)
    return nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))


def _block(kind: str, shortcut: str, groups: int,
           width_per_group: int) -> tuple[Callable[[int, int, int], nn.Module], int]:
    """What makes a block from (in_dim, dim, stride), and its expansion."""
    if kind == "basic":
        return partial(BasicBlock, shortcut=shortcut), BasicBlock.expansion
    return (partial(Bottleneck, shortcut=shortcut, groups=groups, width_per_group=width_per_group),
            Bottleneck.expansion)


def _stage(block: Callable[[int, int, int], nn.Module], in_dim: int, dim: int, out_dim: int, depth: int,
           stride: int) -> nn.Sequential:
    return nn.Sequential(block(in_dim, dim, stride), *[block(out_dim, dim, 1) for _ in range(depth - 1)])


_TRANSFORMERS_LAYERS = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1",
                        "classifier.1": "fc", "shortcut.convolution": "downsample.0",
                        "shortcut.normalization": "downsample.1"}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (ResNetForImageClassification) under our names; the values are the same. Of models
    with downsample_in_bottleneck, which stride in the first 1 x 1, the names fit too, but the outputs do not."""
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.removeprefix("resnet.").rpartition(".")
        place = re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)", layer)
        layer = place[3] if place else layer
        part = re.fullmatch(r"layer\.(\d+)\.(convolution|normalization)", layer)
        layer = _TRANSFORMERS_LAYERS.get(layer, layer)
        if part:
            layer = f"{'conv' if part[2] == 'convolution' else 'bn'}{int(part[1]) + 1}"
        if place:
            layer = f"layer{int(place[1]) + 1}.{place[2]}.{layer}"
        out[f"{layer}.{leaf}"] = tensor
    return out


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
_HUB = {"licence": "Apache-2.0 (Microsoft's model card; the weights are timm's); trained on ImageNet-1k",
        "preprocessing": {"interpolation": "bicubic"}}
WEIGHTS = {
    "resnet18": {"torchvision": {"file": "resnet18-f37072fd.pth", "licence": _LICENCE},
                 "transformers": {"file": "microsoft/resnet-18", **_HUB}},
    "resnet34": {"torchvision": {"file": "resnet34-b627a593.pth", "licence": _LICENCE},
                 "transformers": {"file": "microsoft/resnet-34", **_HUB}},
    "resnet50": {"torchvision": {"file": "resnet50-0676ba61.pth", "licence": _LICENCE},
                 "transformers": {"file": "microsoft/resnet-50", **_HUB}},
    "resnet101": {"torchvision": {"file": "resnet101-63fe2227.pth", "licence": _LICENCE},
                  "transformers": {  # published as a torch file alone
                      "file": "microsoft/resnet-101", **_HUB,
                      "url": "https://huggingface.co/microsoft/resnet-101/resolve/main/pytorch_model.bin"}},
    "resnet152": {"torchvision": {"file": "resnet152-394f9c45.pth", "licence": _LICENCE},
                  "transformers": {"file": "microsoft/resnet-152", **_HUB}},
}

OPTION_VARIANTS = {
    "resnet34_a": {"block": "basic", "depths": (3, 4, 6, 3), "shortcut": "A"},
    "resnet34_c": {"block": "basic", "depths": (3, 4, 6, 3), "shortcut": "C"},
}

PLAIN_VARIANTS = {
    "plain18": {"block": "basic", "depths": (2, 2, 2, 2), "shortcut": "none"},
    "plain34": {"block": "basic", "depths": (3, 4, 6, 3), "shortcut": "none"},
}

_TABLE_2 = "He et al. 2016, Table 2 (10 crops)"
_TABLE_3 = "He et al. 2016, Table 3 (10 crops)"
OPTION_PUBLISHED = {
    "resnet34_a": [{"what": "macs", "value": "3.6e9", "source": _TABLE_1},
                   {"what": "top1", "value": "74.97", "data": "ImageNet-1k", "source": _TABLE_3}],
    "resnet34_c": [{"what": "top1", "value": "75.81", "data": "ImageNet-1k", "source": _TABLE_3}],
}
PLAIN_PUBLISHED = {
    "plain18": [{"what": "macs", "value": "1.8e9", "source": _TABLE_1},
                {"what": "top1", "value": "72.06", "data": "ImageNet-1k", "source": _TABLE_2}],
    "plain34": [{"what": "macs", "value": "3.6e9", "source": _TABLE_1},
                {"what": "top1", "value": "71.46", "data": "ImageNet-1k", "source": _TABLE_2}],
}

RESNEXT_VARIANTS = {
    "resnext50_32x4d": {"block": "bottleneck", "depths": (3, 4, 6, 3), "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"block": "bottleneck", "depths": (3, 4, 23, 3), "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"block": "bottleneck", "depths": (3, 4, 23, 3), "groups": 64, "width_per_group": 4},
}

_XIE = "Xie et al. 2017 (from memory), "
RESNEXT_PUBLISHED = {
    "resnext50_32x4d": [{"what": "params", "value": "25.0e6", "source": _XIE + "Table 1"},
                        {"what": "macs", "value": "4.2e9", "source": _XIE + "Table 1 (there named FLOPs)"},
                        {"what": "top1", "value": "77.8", "data": "ImageNet-1k", "source": _XIE + "Table 3"},
                        {"what": "params", "value": "25028904", "source": _TORCHVISION},
                        {"what": "macs", "value": "4.230e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "77.618", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnext101_32x8d": [{"what": "params", "value": "88791336", "source": _TORCHVISION},
                         {"what": "macs", "value": "16.414e9", "source": _TORCHVISION},
                         {"what": "top1", "value": "79.312", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "resnext101_64x4d": [{"what": "top1", "value": "79.6", "data": "ImageNet-1k", "source": _XIE + "Table 4"},
                         {"what": "params", "value": "83455272", "source": _TORCHVISION},
                         {"what": "macs", "value": "15.460e9", "source": _TORCHVISION},
                         {"what": "top1", "value": "83.246", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

RESNEXT_WEIGHTS = {
    "resnext50_32x4d": {"torchvision": {"file": "resnext50_32x4d-7cdf4587.pth", "licence": _LICENCE}},
    "resnext101_32x8d": {"torchvision": {"file": "resnext101_32x8d-8ba56ff5.pth", "licence": _LICENCE}},
    "resnext101_64x4d": {"torchvision": {"file": "resnext101_64x4d-173b62eb.pth", "licence": _LICENCE}},
}

WIDE_VARIANTS = {
    "wide_resnet50_2": {"block": "bottleneck", "depths": (3, 4, 6, 3), "width_per_group": 128},
    "wide_resnet101_2": {"block": "bottleneck", "depths": (3, 4, 23, 3), "width_per_group": 128},
}

_ZAGORUYKO = "Zagoruyko, Komodakis 2016 (from memory), Table 8 (WRN-50-2-bottleneck)"
WIDE_PUBLISHED = {
    "wide_resnet50_2": [{"what": "params", "value": "68.9e6", "source": _ZAGORUYKO},
                        {"what": "top1", "value": "78.1", "data": "ImageNet-1k", "source": _ZAGORUYKO},
                        {"what": "params", "value": "68883240", "source": _TORCHVISION},
                        {"what": "macs", "value": "11.398e9", "source": _TORCHVISION},
                        {"what": "top1", "value": "78.468", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "wide_resnet101_2": [{"what": "params", "value": "126886696", "source": _TORCHVISION},
                         {"what": "macs", "value": "22.753e9", "source": _TORCHVISION},
                         {"what": "top1", "value": "78.848", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

WIDE_WEIGHTS = {
    "wide_resnet50_2": {"torchvision": {"file": "wide_resnet50_2-95faca4d.pth", "licence": _LICENCE}},
    "wide_resnet101_2": {"torchvision": {"file": "wide_resnet101_2-32ee1156.pth", "licence": _LICENCE}},
}

_TIMM_FILES = {
    "resnet18": "resnet18.a1_in1k", "resnet34": "resnet34.a1_in1k", "resnet50": "resnet50.a1_in1k",
    "resnet101": "resnet101.a1h_in1k", "resnet152": "resnet152.a1h_in1k",
    "resnext50_32x4d": "resnext50_32x4d.a1h_in1k", "resnext101_32x8d": "resnext101_32x8d.tv_in1k",
    "resnext101_64x4d": "resnext101_64x4d.c1_in1k", "wide_resnet50_2": "wide_resnet50_2.racm_in1k",
    "wide_resnet101_2": "wide_resnet101_2.tv_in1k",
}
for _files in (WEIGHTS, RESNEXT_WEIGHTS, WIDE_WEIGHTS):
    for _name in _files:
        _licence = _LICENCE if ".tv_" in _TIMM_FILES[_name] else "Apache-2.0 (timm); trained on ImageNet-1k"
        _files[_name]["timm"] = {"file": _TIMM_FILES[_name], "licence": _licence}

_PREPROCESSING = {"size": (224, 224), "resize": "crop", "crop_fraction": 0.875}
models.add(ResNet, VARIANTS, WEIGHTS, family="resnet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": dict, "transformers": from_transformers},
           peers={name: ("torchvision", name) for name in VARIANTS},
           paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, "
                 "arXiv:1512.03385",
           preprocessing=_PREPROCESSING)
for _variants, _published, _family in ((OPTION_VARIANTS, OPTION_PUBLISHED, "resnet"),
                                       (PLAIN_VARIANTS, PLAIN_PUBLISHED, "plain")):
    models.add(ResNet, _variants, family=_family, task="classification", published=_published,
               paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, "
                     "arXiv:1512.03385",
               preprocessing=_PREPROCESSING)
models.add(ResNet, RESNEXT_VARIANTS, RESNEXT_WEIGHTS, family="resnext", task="classification",
           published=RESNEXT_PUBLISHED, origins={"torchvision": dict, "timm": dict},
           peers={name: ("torchvision", name) for name in RESNEXT_VARIANTS},
           paper="Xie, Girshick, Dollar, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, "
                 "CVPR 2017, arXiv:1611.05431",
           preprocessing=_PREPROCESSING)  # the weights of resnext101_64x4d take crop_fraction 224 / 232
models.add(ResNet, WIDE_VARIANTS, WIDE_WEIGHTS, family="wide_resnet", task="classification",
           published=WIDE_PUBLISHED, origins={"torchvision": dict, "timm": dict},
           peers={name: ("torchvision", name) for name in WIDE_VARIANTS},
           paper="Zagoruyko, Komodakis: Wide Residual Networks, BMVC 2016, arXiv:1605.07146",
           preprocessing=_PREPROCESSING)
