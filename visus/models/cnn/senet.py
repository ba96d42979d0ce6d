"""SE-ResNet, SE-ResNeXt and SENet-154: residual networks whose channels are scaled by gates that see the whole image.

Paper: Hu, Shen, Sun, Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507. A gate (mean over places, two fully
connected layers with 16 times fewer channels between them) scales a block's branch before it is added. SENet-154 is the
ILSVRC 2017 network (appendix): 64 groups, twice the width with half of it in the first 1 x 1, a stem of three 3 x 3
convolutions, 3 x 3 projections where the maps halve, dropout. Departures: a gate has at least 8 channels inside, which
changes seresnet18 and seresnet34 alone; a bottleneck halves its maps in its 3 x 3 convolution (as in the paper's
SE-ResNeXt and SENet-154), and the stem's pooling pads on both sides. The _v1 variants are the authors' own: they halve
in the first 1 x 1 and, like senet154, pool as Caffe does. Parameters carry timm's names for ResNet.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, probability, require
from visus.layers.squeeze_excitation import SqueezeExcitation

DIMS = (64, 128, 256, 512)
REDUCTION = 16
LEAST_SQUEEZE = 8


@dataclass(frozen=True, kw_only=True)
class SENetConfig:
    """block: 'basic' (two 3 x 3) or 'bottleneck' (1 x 1, 3 x 3, 1 x 1). depths: blocks in each of the four stages.
    groups, width_per_group: the 3 x 3 convolution of a bottleneck has this many groups, each of this many channels in
    the first stage and twice as many in each later one. first_share: channels of a bottleneck's first 1 x 1 over those
    of its 3 x 3, 1 or 0.5. stride_in_first: a bottleneck halves its maps in its first 1 x 1. deep_stem: three 3 x 3
    convolutions in place of one 7 x 7. projection: kernel of the shortcuts that halve the maps, 1 or 3. caffe_pool: the
    stem's windows start at the corner and the last ones may be cut short, in place of padding. dropout: before the
    classifier."""

    block: str = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    groups: int = 1
    width_per_group: int = 64
    first_share: float = 1
    stride_in_first: bool = False
    deep_stem: bool = False
    projection: int = 1
    caffe_pool: bool = False
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(("basic", "bottleneck"), block=self.block)
        require(isinstance(self.depths, tuple) and len(self.depths) == 4, "depths", self.depths,
                "be four block counts")
        for depth in self.depths:
            positive(depths=depth)
        positive(groups=self.groups, width_per_group=self.width_per_group, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.first_share in (1, 0.5), "first_share", self.first_share, "be 1 or 0.5")
        require(self.projection in (1, 3), "projection", self.projection, "be 1 or 3")
        boolean(stride_in_first=self.stride_in_first, deep_stem=self.deep_stem, caffe_pool=self.caffe_pool)
        probability(dropout=self.dropout)
        for field, plain in (("groups", 1), ("width_per_group", 64), ("first_share", 1), ("stride_in_first", False)):
            value = getattr(self, field)
            require(self.block == "bottleneck" or value == plain, field, value, f"be {plain} where block='basic'")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, gate: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_dim: int, dim: int, stride: int, projection: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.se = _gate(dim)
        self.downsample = _projection(in_dim, dim, stride, projection)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.se(self.bn2(self.conv2(out)))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 in groups, 1 x 1, gate: [B, in_dim, H, W] -> [B, 4 dim, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int, projection: int, groups: int, width_per_group: int,
                 first_share: float, stride_in_first: bool):
        super().__init__()
        width = groups * (width_per_group * dim // DIMS[0])
        first = int(width * first_share)
        strides = (stride, 1) if stride_in_first else (1, stride)
        self.conv1 = nn.Conv2d(in_dim, first, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, width, 3, strides[1], 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * dim)
        self.se = _gate(4 * dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_dim, 4 * dim, stride, projection)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class SENet(nn.Module):
    Config = SENetConfig

    def __init__(self, config: SENetConfig):
        super().__init__()
        self.config = config
        block, expansion = _block(config)
        stem_dim = 2 * DIMS[0] if config.deep_stem else DIMS[0]
        self.conv1 = _stem(config.in_channels, stem_dim, config.deep_stem)
        self.bn1 = nn.BatchNorm2d(stem_dim)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if config.caffe_pool else nn.MaxPool2d(3, 2, 1)
        outs = [dim * expansion for dim in DIMS]
        self.layer1 = _stage(block, stem_dim, DIMS[0], outs[0], config.depths[0], 1)
        self.layer2 = _stage(block, outs[0], DIMS[1], outs[1], config.depths[1], 2)
        self.layer3 = _stage(block, outs[1], DIMS[2], outs[2], config.depths[2], 2)
        self.layer4 = _stage(block, outs[2], DIMS[3], outs[3], config.depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(outs[3], config.num_classes)
        self.feature_channels = tuple(outs)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

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


def _gate(dim: int) -> nn.Module:
    return SqueezeExcitation(dim, max(dim // REDUCTION, LEAST_SQUEEZE), nn.ReLU(inplace=True), nn.Sigmoid())


def _projection(in_dim: int, dim: int, stride: int, kernel: int) -> nn.Module | None:
    """kernel: 1, or 3 where the maps are halved."""
    if stride == 1 and in_dim == dim:
        return None
    kernel = 1 if stride == 1 else kernel
    return nn.Sequential(nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(dim))


def _stem(in_channels: int, dim: int, deep: bool) -> nn.Module:
    if not deep:
        return nn.Conv2d(in_channels, dim, 7, 2, 3, bias=False)
    inner = dim // 2
    return nn.Sequential(nn.Conv2d(in_channels, inner, 3, 2, 1, bias=False), nn.BatchNorm2d(inner),
                         nn.ReLU(inplace=True),
                         nn.Conv2d(inner, inner, 3, 1, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
                         nn.Conv2d(inner, dim, 3, 1, 1, bias=False))


def _block(config: SENetConfig) -> tuple[Callable[[int, int, int], nn.Module], int]:
    """What makes a block from (in_dim, dim, stride), and its expansion."""
    if config.block == "basic":
        return partial(BasicBlock, projection=config.projection), BasicBlock.expansion
    return (partial(Bottleneck, projection=config.projection, groups=config.groups,
                    width_per_group=config.width_per_group, first_share=config.first_share,
                    stride_in_first=config.stride_in_first), Bottleneck.expansion)


def _stage(block: Callable[[int, int, int], nn.Module], in_dim: int, dim: int, out_dim: int, depth: int,
           stride: int) -> nn.Sequential:
    return nn.Sequential(block(in_dim, dim, stride), *[block(out_dim, dim, 1) for _ in range(depth - 1)])


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm has two names for these networks: those of its ResNet, which are ours, and those of the authors' weights
    (legacy_*), whose stem, gates and classifier are named otherwise."""
    if "layer0.conv3.weight" in state:
        stem = {"layer0.conv1": "conv1.0", "layer0.bn1": "conv1.1", "layer0.conv2": "conv1.3", "layer0.bn2": "conv1.4",
                "layer0.conv3": "conv1.6", "layer0.bn3": "bn1"}
    else:
        stem = {"layer0.conv1": "conv1", "layer0.bn1": "bn1"}
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        layer = stem.get(layer, layer).replace(".se_module.", ".se.").replace("last_linear", "fc")
        out[f"{layer}.{leaf}"] = tensor
    return out


VARIANTS = {
    "seresnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "seresnet34": {"block": "basic", "depths": (3, 4, 6, 3)},
    "seresnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "seresnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
    "seresnet152": {"block": "bottleneck", "depths": (3, 8, 36, 3)},
    "seresnext50_32x4d": {"block": "bottleneck", "depths": (3, 4, 6, 3), "groups": 32, "width_per_group": 4},
    "seresnext101_32x4d": {"block": "bottleneck", "depths": (3, 4, 23, 3), "groups": 32, "width_per_group": 4},
}

AUTHORS_VARIANTS = {
    "seresnet50_v1": {"block": "bottleneck", "depths": (3, 4, 6, 3), "stride_in_first": True, "caffe_pool": True},
    "seresnet101_v1": {"block": "bottleneck", "depths": (3, 4, 23, 3), "stride_in_first": True, "caffe_pool": True},
    "seresnet152_v1": {"block": "bottleneck", "depths": (3, 8, 36, 3), "stride_in_first": True, "caffe_pool": True},
    "senet154": {"block": "bottleneck", "depths": (3, 8, 36, 3), "groups": 64, "width_per_group": 4,
                 "first_share": 0.5, "deep_stem": True, "projection": 3, "caffe_pool": True, "dropout": 0.2},
}

_TABLE_2 = "Hu et al. 2018 (from memory), Table 2 (there named FLOPs)"
_AUTHORS = "the authors' repository, README, Table 1"
_TIMM = "timm, results-imagenet.csv ({} pixels)"
_GATES = "the layers alone; with the means and scalings of the gates {}"
_REST = _GATES + "; the rest is not explained"
_V1 = "the paper halves the maps in the first 1 x 1 of a bottleneck; see the departure and the _v1 variant"
PUBLISHED = {
    "seresnet50": [{"what": "params", "value": "28.09e6", "source": _TIMM.format(288)},
                   {"what": "top1", "value": "81.284", "data": "ImageNet-1k", "source": _TIMM.format(288)},
                   {"what": "macs", "value": "3.87e9", "source": _TABLE_2, "reason": _V1}],
    "seresnet101": [{"what": "macs", "value": "7.60e9", "source": _TABLE_2, "reason": _V1}],
    "seresnet152": [{"what": "macs", "value": "11.32e9", "source": _TABLE_2, "reason": _V1}],
    "seresnext50_32x4d": [{"what": "macs", "value": "4.25e9", "source": _TABLE_2,
                           "reason": _REST.format("4.244e9")},
                          {"what": "top1", "value": "78.90", "data": "ImageNet-1k", "source": _TABLE_2},
                          {"what": "params", "value": "27.56e6", "source": _TIMM.format(288)},
                          {"what": "top1", "value": "82.196", "data": "ImageNet-1k", "source": _TIMM.format(288)}],
    "seresnext101_32x4d": [{"what": "macs", "value": "8.00e9", "source": _TABLE_2,
                            "reason": _REST.format("7.993e9")},
                           {"what": "top1", "value": "79.30", "data": "ImageNet-1k", "source": _TABLE_2},
                           {"what": "params", "value": "48.96e6", "source": _TIMM.format(224)},
                           {"what": "top1", "value": "80.892", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
}
AUTHORS_PUBLISHED = {
    "seresnet50_v1": [{"what": "macs", "value": "3.87e9", "source": _TABLE_2,
                       "reason": _GATES.format("3.872e9")},
                      {"what": "top1", "value": "76.71", "data": "ImageNet-1k", "source": _TABLE_2},
                      {"what": "top1", "value": "77.63", "data": "ImageNet-1k", "source": _AUTHORS},
                      {"what": "params", "value": "28.09e6", "source": _TIMM.format(224)},
                      {"what": "top1", "value": "77.644", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
    "seresnet101_v1": [{"what": "macs", "value": "7.60e9", "source": _TABLE_2,
                        "reason": _REST.format("7.593e9")},
                       {"what": "top1", "value": "77.62", "data": "ImageNet-1k", "source": _TABLE_2},
                       {"what": "top1", "value": "78.25", "data": "ImageNet-1k", "source": _AUTHORS},
                       {"what": "params", "value": "49.33e6", "source": _TIMM.format(224)},
                       {"what": "top1", "value": "78.386", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
    "seresnet152_v1": [{"what": "macs", "value": "11.32e9", "source": _TABLE_2,
                        "reason": _GATES.format("11.315e9")},
                       {"what": "top1", "value": "78.43", "data": "ImageNet-1k", "source": _TABLE_2},
                       {"what": "top1", "value": "78.66", "data": "ImageNet-1k", "source": _AUTHORS},
                       {"what": "params", "value": "66.82e6", "source": _TIMM.format(224)},
                       {"what": "top1", "value": "78.660", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
    "senet154": [{"what": "top1", "value": "81.32", "data": "ImageNet-1k", "source": _AUTHORS},
                 {"what": "params", "value": "115.09e6", "source": _TIMM.format(224)},
                 {"what": "top1", "value": "81.308", "data": "ImageNet-1k", "source": _TIMM.format(224)}],
}

_LICENCE = "Apache-2.0 (timm); trained on ImageNet-1k"
_GLUON = "Apache-2.0 (GluonCV, by way of timm); trained on ImageNet-1k"
_LEGACY = "Apache-2.0 (the authors, by way of timm); trained on ImageNet-1k"
WEIGHTS = {
    "seresnet50": {"timm": {"file": "seresnet50.ra2_in1k", "licence": _LICENCE}},
    "seresnext50_32x4d": {"timm": {"file": "seresnext50_32x4d.racm_in1k", "licence": _LICENCE}},
    "seresnext101_32x4d": {"timm": {"file": "seresnext101_32x4d.gluon_in1k", "licence": _GLUON}},
    "seresnet50_v1": {"timm": {"file": "legacy_seresnet50.in1k", "licence": _LEGACY}},
    "seresnet101_v1": {"timm": {"file": "legacy_seresnet101.in1k", "licence": _LEGACY}},
    "seresnet152_v1": {"timm": {"file": "legacy_seresnet152.in1k", "licence": _LEGACY}},
    "senet154": {"timm": {"file": "legacy_senet154.in1k", "licence": _LEGACY}},
}

_PAPER = "Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507"
models.add(SENet, VARIANTS, WEIGHTS, family="senet", task="classification", published=PUBLISHED,
           origins={"timm": from_timm}, peers={name: ("timm", name) for name in VARIANTS}, paper=_PAPER,
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
models.add(SENet, AUTHORS_VARIANTS, WEIGHTS, family="senet", task="classification", published=AUTHORS_PUBLISHED,
           origins={"timm": from_timm},
           peers={"seresnet50_v1": ("timm", "legacy_seresnet50"), "seresnet101_v1": ("timm", "legacy_seresnet101"),
                  "seresnet152_v1": ("timm", "legacy_seresnet152"), "senet154": ("timm", "legacy_senet154")},
           paper=_PAPER, preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
