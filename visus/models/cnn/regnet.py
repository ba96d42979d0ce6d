"""RegNetX and RegNetY: networks of one simple kind whose widths grow linearly with depth.

Paper: Radosavovic, Kosaraju, Girshick, He, Dollar, Designing Network Design Spaces, CVPR 2020, arXiv:2003.13678. Four
stages of bottlenecks that do not narrow (1 x 1, grouped 3 x 3, 1 x 1); depth, w_0, w_a, w_m and the group width fix all
of them (equations 2 to 4). Y adds squeeze and excitation. Departure: a width that its group width does not divide goes
to the nearest multiple as in torchvision, halves up and never more than a tenth down, where the paper's code rounds
halves to even; this changes regnet_x_400mf, regnet_y_800mf and regnet_y_8gf. Parameters carry torchvision's names;
`from_timm` renames timm's (of those three, timm's models that end in _tv).
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, require
from visus.layers.conv import conv_bn_act
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.layers.widths import round_width

STEM_DIM = 32
QUANTUM = 8  # widths are multiples of this
NUM_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class RegNetConfig:
    """depth: blocks in all. w_0, w_a: width of block j before it is rounded is w_0 + w_a j. w_m: neighbouring stages
    differ by a power of this factor. group_width: channels of a group. se_ratio: squeezed channels over the channels
    that enter the block, 0 for no squeeze and excitation."""

    depth: int = 22
    w_0: int = 24
    w_a: float = 24.48
    w_m: float = 2.54
    group_width: int = 16
    se_ratio: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(depth=self.depth, w_0=self.w_0, group_width=self.group_width, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.w_0 % QUANTUM == 0, "w_0", self.w_0, f"be a multiple of {QUANTUM}")
        require(isinstance(self.w_a, int | float) and self.w_a >= 0, "w_a", self.w_a, "be at least 0")
        require(isinstance(self.w_m, int | float) and self.w_m > 1, "w_m", self.w_m, "be above 1")
        require(isinstance(self.se_ratio, int | float) and 0 <= self.se_ratio <= 1, "se_ratio", self.se_ratio,
                "lie in [0, 1]")
        found = len(stages_of(self.depth, self.w_0, self.w_a, self.w_m))
        require(found == NUM_STAGES, "depth, w_0, w_a, w_m", (self.depth, self.w_0, self.w_a, self.w_m),
                f"give {NUM_STAGES} stages, not {found}")


def stages_of(depth: int, w_0: int, w_a: float, w_m: float) -> list[tuple[int, int]]:
    """(width, blocks) of each stage, equations 2 to 4: block j's linear width u_j = w_0 + w_a j goes to the nearest
    w_0 w_m^s with a whole s, that to a multiple of 8, and blocks of one width make a stage."""
    widths = []
    for j in range(depth):
        power = round(math.log((w_0 + w_a * j) / w_0) / math.log(w_m))
        widths.append(round(w_0 * w_m**power / QUANTUM) * QUANTUM)
    return [(width, len(list(blocks))) for width, blocks in groupby(widths)]


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 in groups, gate if squeeze_dim, 1 x 1: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, group_width: int, squeeze_dim: int):
        super().__init__()
        self.proj = None if stride == 1 and in_dim == dim else conv_bn_act(in_dim, dim, 1, stride, act=None)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["a"] = conv_bn_act(in_dim, dim, 1)
        layers["b"] = conv_bn_act(dim, dim, 3, stride, groups=dim // group_width)
        if squeeze_dim:
            layers["se"] = SqueezeExcitation(dim, squeeze_dim, nn.ReLU(inplace=True), nn.Sigmoid())
        layers["c"] = conv_bn_act(dim, dim, 1, act=None)
        self.f = nn.Sequential(layers)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.f(maps)
        return self.activation(out + (maps if self.proj is None else self.proj(maps)))


class RegNet(nn.Module):
    Config = RegNetConfig

    def __init__(self, config: RegNetConfig):
        super().__init__()
        self.config = config
        self.stem = conv_bn_act(config.in_channels, STEM_DIM, 3, 2)
        stages, dims, in_dim = OrderedDict(), [], STEM_DIM
        for number, (width, depth) in enumerate(stages_of(config.depth, config.w_0, config.w_a, config.w_m), 1):
            group_width = min(config.group_width, width)
            dim = round_width(width, group_width)
            stages[f"block{number}"] = _stage(number, in_dim, dim, depth, group_width, config.se_ratio)
            dims.append(dim)
            in_dim = dim
        self.trunk_output = nn.Sequential(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = tuple(dims)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        maps, out = self.stem(images), []
        for stage in self.trunk_output:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk_output(self.stem(images))
        return self.fc(self.avgpool(maps).flatten(1))  # [B, D] -> [B, num_classes]


def _stage(number: int, in_dim: int, dim: int, depth: int, group_width: int, se_ratio: float) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        entering = in_dim if i == 0 else dim
        squeeze_dim = max(round(se_ratio * entering), 1) if se_ratio else 0
        blocks[f"block{number}-{i}"] = Bottleneck(entering, dim, 2 if i == 0 else 1, group_width, squeeze_dim)
    return nn.Sequential(blocks)


_TIMM_NAMES = {"conv1.conv": "f.a.0", "conv1.bn": "f.a.1", "conv2.conv": "f.b.0", "conv2.bn": "f.b.1",
               "conv3.conv": "f.c.0", "conv3.bn": "f.c.1", "se.fc1": "f.se.fc1", "se.fc2": "f.se.fc2",
               "downsample.conv": "proj.0", "downsample.bn": "proj.1"}
_TIMM_ENDS = {"stem.conv": "stem.0", "stem.bn": "stem.1", "head.fc": "fc"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names: its s2.b1 is our trunk_output.block2.block2-0."""
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        found = re.fullmatch(r"s(\d)\.b(\d+)\.(.+)", layer)
        if found:
            stage, block, part = found[1], int(found[2]) - 1, found[3]
            layer = f"trunk_output.block{stage}.block{stage}-{block}.{_TIMM_NAMES.get(part, part)}"
        out[f"{_TIMM_ENDS.get(layer, layer)}.{leaf}"] = tensor
    return out


_TRANSFORMERS_LAYERS = {"embedder.embedder.convolution": "stem.0", "embedder.embedder.normalization": "stem.1",
                        "classifier.1": "fc"}
_TRANSFORMERS_PARTS = {"shortcut": "proj", "layer.0": "f.a", "layer.1": "f.b", "layer.2": "f.c", "layer.3": "f.c",
                       "layer.2.attention.0": "f.se.fc1", "layer.2.attention.2": "f.se.fc2"}
_TRANSFORMERS_ENDS = {"convolution": ".0", "normalization": ".1", None: ""}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (RegNetForImageClassification) under our names. Its widths are those of the paper's
    code: the three variants that the departure names have no such file."""
    out = {}
    for name, tensor in state.items():
        layer, _, leaf = name.removeprefix("regnet.").rpartition(".")
        found = re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+?)(?:\.(convolution|normalization))?", layer)
        if found:
            stage, part = int(found[1]) + 1, _TRANSFORMERS_PARTS.get(found[3], found[3])
            layer = f"trunk_output.block{stage}.block{stage}-{found[2]}.{part}{_TRANSFORMERS_ENDS[found[4]]}"
        out[f"{_TRANSFORMERS_LAYERS.get(layer, layer)}.{leaf}"] = tensor
    return out


VARIANTS = {
    "regnet_x_400mf": {"depth": 22, "w_0": 24, "w_a": 24.48, "w_m": 2.54, "group_width": 16},
    "regnet_x_800mf": {"depth": 16, "w_0": 56, "w_a": 35.73, "w_m": 2.28, "group_width": 16},
    "regnet_x_1_6gf": {"depth": 18, "w_0": 80, "w_a": 34.01, "w_m": 2.25, "group_width": 24},
    "regnet_x_3_2gf": {"depth": 25, "w_0": 88, "w_a": 26.31, "w_m": 2.25, "group_width": 48},
    "regnet_x_8gf": {"depth": 23, "w_0": 80, "w_a": 49.56, "w_m": 2.88, "group_width": 120},
    "regnet_x_16gf": {"depth": 22, "w_0": 216, "w_a": 55.59, "w_m": 2.1, "group_width": 128},
    "regnet_x_32gf": {"depth": 23, "w_0": 320, "w_a": 69.86, "w_m": 2.0, "group_width": 168},
    "regnet_y_400mf": {"depth": 16, "w_0": 48, "w_a": 27.89, "w_m": 2.09, "group_width": 8, "se_ratio": 0.25},
    "regnet_y_800mf": {"depth": 14, "w_0": 56, "w_a": 38.84, "w_m": 2.4, "group_width": 16, "se_ratio": 0.25},
    "regnet_y_1_6gf": {"depth": 27, "w_0": 48, "w_a": 20.71, "w_m": 2.65, "group_width": 24, "se_ratio": 0.25},
    "regnet_y_3_2gf": {"depth": 21, "w_0": 80, "w_a": 42.63, "w_m": 2.66, "group_width": 24, "se_ratio": 0.25},
    "regnet_y_8gf": {"depth": 17, "w_0": 192, "w_a": 76.82, "w_m": 2.19, "group_width": 56, "se_ratio": 0.25},
    "regnet_y_16gf": {"depth": 18, "w_0": 200, "w_a": 106.23, "w_m": 2.48, "group_width": 112, "se_ratio": 0.25},
    "regnet_y_32gf": {"depth": 20, "w_0": 232, "w_a": 115.89, "w_m": 2.53, "group_width": 232, "se_ratio": 0.25},
}

_PYCLS = "pycls model zoo, the authors' (there named flops and error)"
_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
_TIE = "the paper's code rounds {}; with that it comes to {}; see the departure"
_X_400 = "width 392 of groups of 16 down to 384, where torchvision rounds up to 400"
_Y_800 = "width 136 of groups of 16 down to 128, where torchvision rounds up to 144"
_Y_8 = "width 192 of groups of 56 down to 168, where torchvision loses no more than a tenth and goes to 224"
PUBLISHED = {
    "regnet_x_400mf": [{"what": "params", "value": "5.2e6", "source": _PYCLS,
                        "reason": _TIE.format(_X_400, "5.158e6")},
                       {"what": "macs", "value": "0.4e9", "source": _PYCLS},
                       {"what": "top1", "value": "72.7", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "5495976", "source": _TORCHVISION},
                       {"what": "macs", "value": "0.414e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "72.834", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_800mf": [{"what": "params", "value": "7.3e6", "source": _PYCLS},
                       {"what": "macs", "value": "0.8e9", "source": _PYCLS},
                       {"what": "top1", "value": "75.2", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "7259656", "source": _TORCHVISION},
                       {"what": "macs", "value": "0.800e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "75.212", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_1_6gf": [{"what": "params", "value": "9.2e6", "source": _PYCLS},
                       {"what": "macs", "value": "1.6e9", "source": _PYCLS},
                       {"what": "top1", "value": "77.0", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "9190136", "source": _TORCHVISION},
                       {"what": "macs", "value": "1.603e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "77.040", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_3_2gf": [{"what": "params", "value": "15.3e6", "source": _PYCLS},
                       {"what": "macs", "value": "3.2e9", "source": _PYCLS},
                       {"what": "top1", "value": "78.3", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "15296552", "source": _TORCHVISION},
                       {"what": "macs", "value": "3.177e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "78.364", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_8gf": [{"what": "params", "value": "39.6e6", "source": _PYCLS},
                     {"what": "macs", "value": "8.0e9", "source": _PYCLS},
                     {"what": "top1", "value": "79.3", "data": "ImageNet-1k", "source": _PYCLS},
                     {"what": "params", "value": "39572648", "source": _TORCHVISION},
                     {"what": "macs", "value": "7.995e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "79.344", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_16gf": [{"what": "params", "value": "54.3e6", "source": _PYCLS},
                      {"what": "macs", "value": "15.9e9", "source": _PYCLS},
                      {"what": "top1", "value": "80.0", "data": "ImageNet-1k", "source": _PYCLS},
                      {"what": "params", "value": "54278536", "source": _TORCHVISION},
                      {"what": "macs", "value": "15.941e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "80.058", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_x_32gf": [{"what": "params", "value": "107.8e6", "source": _PYCLS},
                      {"what": "macs", "value": "31.7e9", "source": _PYCLS},
                      {"what": "top1", "value": "80.5", "data": "ImageNet-1k", "source": _PYCLS},
                      {"what": "params", "value": "107811560", "source": _TORCHVISION},
                      {"what": "macs", "value": "31.736e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "80.622", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_400mf": [{"what": "params", "value": "4.3e6", "source": _PYCLS},
                       {"what": "macs", "value": "0.4e9", "source": _PYCLS},
                       {"what": "top1", "value": "74.1", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "4344144", "source": _TORCHVISION},
                       {"what": "macs", "value": "0.402e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "74.046", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_800mf": [{"what": "params", "value": "6.3e6", "source": _PYCLS,
                        "reason": _TIE.format(_Y_800, "6.263e6")},
                       {"what": "macs", "value": "0.8e9", "source": _PYCLS},
                       {"what": "top1", "value": "76.3", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "6432512", "source": _TORCHVISION},
                       {"what": "macs", "value": "0.834e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "76.420", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_1_6gf": [{"what": "params", "value": "11.2e6", "source": _PYCLS},
                       {"what": "macs", "value": "1.6e9", "source": _PYCLS},
                       {"what": "top1", "value": "78.0", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "11202430", "source": _TORCHVISION},
                       {"what": "macs", "value": "1.612e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "77.950", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_3_2gf": [{"what": "params", "value": "19.4e6", "source": _PYCLS},
                       {"what": "macs", "value": "3.2e9", "source": _PYCLS},
                       {"what": "top1", "value": "79.0", "data": "ImageNet-1k", "source": _PYCLS},
                       {"what": "params", "value": "19436338", "source": _TORCHVISION},
                       {"what": "macs", "value": "3.176e9", "source": _TORCHVISION},
                       {"what": "top1", "value": "78.948", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_8gf": [{"what": "params", "value": "39.2e6", "source": _PYCLS,
                      "reason": _TIE.format(_Y_8, "39.180e6")},
                     {"what": "macs", "value": "8.0e9", "source": _PYCLS,
                      "reason": _TIE.format(_Y_8, "7.963e9")},
                     {"what": "top1", "value": "79.9", "data": "ImageNet-1k", "source": _PYCLS},
                     {"what": "params", "value": "39381472", "source": _TORCHVISION},
                     {"what": "macs", "value": "8.473e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "80.032", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_16gf": [{"what": "params", "value": "83.6e6", "source": _PYCLS},
                      {"what": "macs", "value": "15.9e9", "source": _PYCLS},
                      {"what": "top1", "value": "80.4", "data": "ImageNet-1k", "source": _PYCLS},
                      {"what": "params", "value": "83590140", "source": _TORCHVISION},
                      {"what": "macs", "value": "15.912e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "80.424", "data": "ImageNet-1k", "source": _TORCHVISION}],
    "regnet_y_32gf": [{"what": "params", "value": "145.0e6", "source": _PYCLS},
                      {"what": "macs", "value": "32.3e9", "source": _PYCLS},
                      {"what": "top1", "value": "81.0", "data": "ImageNet-1k", "source": _PYCLS},
                      {"what": "params", "value": "145046770", "source": _TORCHVISION},
                      {"what": "macs", "value": "32.280e9", "source": _TORCHVISION},
                      {"what": "top1", "value": "80.878", "data": "ImageNet-1k", "source": _TORCHVISION}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
_TORCHVISION_FILES = {
    "regnet_x_400mf": {"torchvision": {"file": "regnet_x_400mf-adf1edd5.pth", "licence": _LICENCE}},
    "regnet_x_800mf": {"torchvision": {"file": "regnet_x_800mf-ad17e45c.pth", "licence": _LICENCE}},
    "regnet_x_1_6gf": {"torchvision": {"file": "regnet_x_1_6gf-e3633e7f.pth", "licence": _LICENCE}},
    "regnet_x_3_2gf": {"torchvision": {"file": "regnet_x_3_2gf-f342aeae.pth", "licence": _LICENCE}},
    "regnet_x_8gf": {"torchvision": {"file": "regnet_x_8gf-03ceed89.pth", "licence": _LICENCE}},
    "regnet_x_16gf": {"torchvision": {"file": "regnet_x_16gf-2007eb11.pth", "licence": _LICENCE}},
    "regnet_x_32gf": {"torchvision": {"file": "regnet_x_32gf-9d47f8d0.pth", "licence": _LICENCE}},
    "regnet_y_400mf": {"torchvision": {"file": "regnet_y_400mf-c65dace8.pth", "licence": _LICENCE}},
    "regnet_y_800mf": {"torchvision": {"file": "regnet_y_800mf-1b27b58c.pth", "licence": _LICENCE}},
    "regnet_y_1_6gf": {"torchvision": {"file": "regnet_y_1_6gf-b11a554e.pth", "licence": _LICENCE}},
    "regnet_y_3_2gf": {"torchvision": {"file": "regnet_y_3_2gf-b5a9779c.pth", "licence": _LICENCE}},
    "regnet_y_8gf": {"torchvision": {"file": "regnet_y_8gf-d0d0e4a8.pth", "licence": _LICENCE}},
    "regnet_y_16gf": {"torchvision": {"file": "regnet_y_16gf-9e6ed7dd.pth", "licence": _LICENCE}},
    "regnet_y_32gf": {"torchvision": {"file": "regnet_y_32gf-4dee3f7a.pth", "licence": _LICENCE}},
}

_PYCLS_FILE = {"licence": "MIT (pycls); trained on ImageNet-1k"}
_TIMM_FILES = {
    "regnet_x_400mf": {"file": "regnetx_004_tv.tv2_in1k", "licence": _LICENCE},
    "regnet_x_800mf": {"file": "regnetx_008.pycls_in1k", **_PYCLS_FILE},
    "regnet_x_1_6gf": {"file": "regnetx_016.pycls_in1k", **_PYCLS_FILE},
    "regnet_x_3_2gf": {"file": "regnetx_032.pycls_in1k", **_PYCLS_FILE},
    "regnet_x_8gf": {"file": "regnetx_080.pycls_in1k", **_PYCLS_FILE},
    "regnet_x_16gf": {"file": "regnetx_160.pycls_in1k", **_PYCLS_FILE},
    "regnet_x_32gf": {"file": "regnetx_320.pycls_in1k", **_PYCLS_FILE},
    "regnet_y_400mf": {"file": "regnety_004.pycls_in1k", **_PYCLS_FILE},
    "regnet_y_800mf": {"file": "regnety_008_tv.tv2_in1k", "licence": _LICENCE},
    "regnet_y_1_6gf": {"file": "regnety_016.pycls_in1k", **_PYCLS_FILE},
    "regnet_y_3_2gf": {"file": "regnety_032.pycls_in1k", **_PYCLS_FILE},
    "regnet_y_8gf": {"file": "regnety_080_tv.tv2_in1k", "licence": _LICENCE},
    "regnet_y_16gf": {"file": "regnety_160.pycls_in1k", **_PYCLS_FILE},
    "regnet_y_32gf": {"file": "regnety_320.pycls_in1k", **_PYCLS_FILE},
}
_TRANSFORMERS_FILES = {
    "regnet_x_800mf": "facebook/regnet-x-008", "regnet_x_1_6gf": "facebook/regnet-x-016",
    "regnet_x_3_2gf": "facebook/regnet-x-032", "regnet_x_8gf": "facebook/regnet-x-080",
    "regnet_x_16gf": "facebook/regnet-x-160", "regnet_x_32gf": "facebook/regnet-x-320",
    "regnet_y_400mf": "facebook/regnet-y-004", "regnet_y_1_6gf": "facebook/regnet-y-016",
    "regnet_y_3_2gf": "facebook/regnet-y-032", "regnet_y_16gf": "facebook/regnet-y-160",
    "regnet_y_32gf": "facebook/regnet-y-320",
}
WEIGHTS = {name: {**files, "timm": _TIMM_FILES[name]} for name, files in _TORCHVISION_FILES.items()}
for _name, _file in _TRANSFORMERS_FILES.items():  # torch files: not all are there as safetensors
    WEIGHTS[_name]["transformers"] = {
        "file": _file, "url": f"https://huggingface.co/{_file}/resolve/main/pytorch_model.bin",
        "licence": "Apache-2.0 (Meta's model card; the weights are timm's); trained on ImageNet-1k",
        "preprocessing": {"interpolation": "bicubic"}}

models.add(RegNet, VARIANTS, WEIGHTS, family="regnet", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": from_timm, "transformers": from_transformers},
           peers={name: ("torchvision", name) for name in VARIANTS},
           paper="Radosavovic, Kosaraju, Girshick, He, Dollar: Designing Network Design Spaces, CVPR 2020, "
                 "arXiv:2003.13678",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})
