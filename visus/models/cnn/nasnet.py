"""NASNet-A: two cells that a search found on CIFAR-10, stacked into networks for ImageNet.

Paper: Zoph, Vasudevan, Shlens, Le, Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018,
arXiv:1707.07012. A cell reads the outputs of the two cells before it, joins five pairs of operations, and concatenates
what no pair reads (Figure 4); `nasnet_a_large` is 6 @ 4032, that is, six normal cells in each of three stacks and 4032
channels at the end. Dropped paths are those of the paper's ScheduledDropPath at its full strength: the rate grows from
cell to cell; a schedule over the training sets `rate` of the DropPath modules. Departures: average pooling of stride 2
counts the zeros beside its maps, as timm's does and the authors' does not; no auxiliary classifier. Parameters carry
timm's names.
forward: images [B, C, H, W], normalised, H and W of at least 32 (stem 'imagenet') or 4 -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size

NORM_EPS = 1e-3
STACKS = 3


@dataclass(frozen=True, kw_only=True)
class NASNetConfig:
    """cells: normal cells in each of the three stacks (N of N @ P). filters: of the first stack's operations, doubled
    in each later one; P is 24 filters. stem: 'imagenet' (a convolution and two reduction cells of a quarter and half of
    the filters, stride 8) or 'cifar' (a convolution). stem_dim: filters of that convolution. skip_reduction: the first
    cell after a reduction reads, as its older input, the one that the reduction itself had as its older, and not the
    reduction's newer. dropout: before the last layer. drop_path: of the last cell's operations."""

    cells: int = 6
    filters: int = 168
    stem: str = "imagenet"
    stem_dim: int = 96
    skip_reduction: bool = True
    dropout: float = 0.5
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(("imagenet", "cifar"), stem=self.stem)
        boolean(skip_reduction=self.skip_reduction)
        positive(cells=self.cells, filters=self.filters, stem_dim=self.stem_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.filters % 4 == 0, "filters", self.filters, "be a multiple of 4")
        probability(dropout=self.dropout, drop_path=self.drop_path)


class SeparableConv(nn.Module):
    """Depthwise, then 1 x 1: [B, in_dim, H, W] -> [B, dim, ceil(H / stride), ceil(W / stride)]. Zeros are spread as
    TensorFlow spreads them: an even side that is halved has one more after it than before."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int):
        super().__init__()
        self.depthwise_conv2d = nn.Conv2d(in_dim, in_dim, kernel, stride, kernel // 2, groups=in_dim, bias=False)
        self.pointwise_conv2d = nn.Conv2d(in_dim, dim, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        conv = self.depthwise_conv2d
        if conv.stride[0] == 2 and (maps.shape[2] % 2 == 0 or maps.shape[3] % 2 == 0):
            far = conv.kernel_size[0] // 2
            top, left = (far - 1 + side % 2 for side in maps.shape[2:])
            maps = F.conv2d(F.pad(maps, (left, far, top, far)), conv.weight, None, 2, groups=conv.groups)
        else:
            maps = conv(maps)
        return self.pointwise_conv2d(maps)


class Branch(nn.Module):
    """A separable convolution applied twice, the stride in the first: [B, in_dim, H, W], rectified, -> [B, dim, ...].
    As other branches read the same maps, they are rectified outside."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int = 1):
        super().__init__()
        self.separable_1 = SeparableConv(in_dim, dim, kernel, stride)
        self.bn_sep_1 = nn.BatchNorm2d(dim, eps=NORM_EPS)
        self.separable_2 = SeparableConv(dim, dim, kernel, 1)
        self.bn_sep_2 = nn.BatchNorm2d(dim, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.relu(self.bn_sep_1(self.separable_1(maps)), inplace=True)
        return self.bn_sep_2(self.separable_2(maps))


class ConvNorm(nn.Module):
    """1 x 1 and batch norm, of rectified maps."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(F.relu(maps)))


class Path(nn.Module):
    """1 x 1 convolution, of which a halving has two."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(maps)


class Cell(nn.Module):
    """What both cells begin with: their two inputs are brought to `dim` channels and the newer one's size.

    older: how the older input is: 'fits' (is taken as it is), 'same' (of the newer one's size) or 'twice' its size."""

    def __init__(self, older: str, older_dim: int, newer_dim: int, dim: int, drop_path: float):
        super().__init__()
        self.older = older
        if older == "same":
            self.conv_prev_1x1 = ConvNorm(older_dim, dim)
        elif older == "twice":
            self.path_1 = Path(older_dim, dim // 2)
            self.path_2 = Path(older_dim, dim // 2)
            self.final_path_bn = nn.BatchNorm2d(dim, eps=NORM_EPS)
        self.conv_1x1 = ConvNorm(newer_dim, dim)
        self.drop = DropPath(drop_path)

    def fit(self, older: Tensor, newer: Tensor) -> tuple[Tensor, Tensor]:
        """[B, older_dim, ...], [B, newer_dim, H, W] -> two times [B, dim, H, W]."""
        if self.older == "same":
            older = self.conv_prev_1x1(older)
        elif self.older == "twice":
            older = self._halve(older)
        return older, self.conv_1x1(newer)

    def _halve(self, maps: Tensor) -> Tensor:
        """The places of even rows and columns through one convolution, those of odd ones through the other; an odd
        side has no last odd place, and there the second is 0: [B, D, H, W] -> [B, dim, ceil(H / 2), ceil(W / 2)]."""
        even, odd = F.relu(maps[:, :, ::2, ::2]), F.relu(maps[:, :, 1::2, 1::2])
        first, second = self.path_1(even), self.path_2(odd)
        if even.shape != odd.shape:
            second = F.pad(second, (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2]))
        return self.final_path_bn(torch.cat([first, second], 1))


class NormalCell(Cell):
    """[B, older_dim, ...], [B, newer_dim, H, W] -> [B, 6 dim, H, W]."""

    def __init__(self, older: str, older_dim: int, newer_dim: int, dim: int, drop_path: float):
        super().__init__(older, older_dim, newer_dim, dim, drop_path)
        self.comb_iter_0_left = Branch(dim, dim, 5)
        self.comb_iter_0_right = Branch(dim, dim, 3)
        self.comb_iter_1_left = Branch(dim, dim, 5)
        self.comb_iter_1_right = Branch(dim, dim, 3)
        self.comb_iter_4_left = Branch(dim, dim, 3)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        older, newer = self.fit(older, newer)
        drop, active_older, active_newer = self.drop, F.relu(older), F.relu(newer)
        mean = _average(older, 1)
        return torch.cat([
            older,
            drop(self.comb_iter_0_left(active_newer)) + drop(self.comb_iter_0_right(active_older)),
            drop(self.comb_iter_1_left(active_older)) + drop(self.comb_iter_1_right(active_older)),
            drop(_average(newer, 1)) + older,
            drop(mean) + drop(mean),
            drop(self.comb_iter_4_left(active_newer)) + newer], 1)


class ReductionCell(Cell):
    """[B, older_dim, ...], [B, newer_dim, H, W] -> [B, 4 dim, ceil(H / 2), ceil(W / 2)]."""

    def __init__(self, older: str, older_dim: int, newer_dim: int, dim: int, drop_path: float):
        super().__init__(older, older_dim, newer_dim, dim, drop_path)
        older_dim = older_dim if older == "fits" else dim
        self.comb_iter_0_left = Branch(dim, dim, 5, 2)
        self.comb_iter_0_right = Branch(older_dim, dim, 7, 2)
        self.comb_iter_1_right = Branch(older_dim, dim, 7, 2)
        self.comb_iter_2_right = Branch(older_dim, dim, 5, 2)
        self.comb_iter_4_left = Branch(dim, dim, 3)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        older, newer = self.fit(older, newer)
        drop, active_older = self.drop, F.relu(older)
        highest = _highest(newer)
        first = drop(self.comb_iter_0_left(F.relu(newer))) + drop(self.comb_iter_0_right(active_older))
        second = drop(highest) + drop(self.comb_iter_1_right(active_older))
        return torch.cat([
            second,
            drop(_average(newer, 2)) + drop(self.comb_iter_2_right(active_older)),
            drop(_average(first, 1)) + second,
            drop(self.comb_iter_4_left(F.relu(first))) + drop(highest)], 1)


class Stem(nn.Module):
    """3 x 3 convolution and batch norm; without padding where it halves."""

    def __init__(self, in_channels: int, dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, 3, stride, 0 if stride == 2 else 1, bias=False)
        self.bn = nn.BatchNorm2d(dim, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        return self.bn(self.conv(images))


class NASNet(nn.Module):
    Config = NASNetConfig

    def __init__(self, config: NASNetConfig):
        super().__init__()
        self.config = config
        for_imagenet = config.stem == "imagenet"
        total = STACKS * config.cells + STACKS - 1 + 2 * for_imagenet
        rates = iter([config.drop_path * (i + 1) / total for i in range(total)])
        self.conv0 = Stem(config.in_channels, config.stem_dim, 2 if for_imagenet else 1)
        older_dim = newer_dim = config.stem_dim
        older = "same"
        if for_imagenet:
            quarter, half = config.filters // 4, config.filters // 2
            self.cell_stem_0 = ReductionCell("fits", config.stem_dim, config.stem_dim, quarter, next(rates))
            self.cell_stem_1 = ReductionCell("twice", config.stem_dim, 4 * quarter, half, next(rates))
            older_dim, newer_dim, older = 4 * quarter, 4 * half, "twice"
        for stack in range(STACKS):
            dim = config.filters * 2**stack
            if stack:
                name = f"reduction_cell_{stack - 1}"
                self.add_module(name, ReductionCell("same", older_dim, newer_dim, dim, next(rates)))
                older_dim = older_dim if config.skip_reduction else newer_dim
                newer_dim, older = 4 * dim, "twice"
            for i in range(config.cells):
                cell = NormalCell(older, older_dim, newer_dim, dim, next(rates))
                self.add_module(f"cell_{stack * config.cells + i}", cell)
                older_dim, newer_dim, older = newer_dim, 6 * dim, "same"
        self.dropout = nn.Dropout(config.dropout)
        self.last_linear = nn.Linear(newer_dim, config.num_classes)
        stacks = tuple(6 * config.filters * 2**stack for stack in range(STACKS))
        self.feature_channels = (config.stem_dim, config.filters, *stacks) if for_imagenet else stacks
        self.feature_strides = (2, 4, 8, 16, 32) if for_imagenet else (1, 2, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 2 and 4 (the stem's; 'imagenet' alone) and of the last cell of each stack,
        not rectified; sides that are halved are rounded up."""
        require_size(images, 19 if self.config.stem == "imagenet" else 3)
        newer = self.conv0(images)
        older, out = newer, []
        if self.config.stem == "imagenet":
            out.append(newer)
            older, newer = newer, self.cell_stem_0(newer, newer)
            out.append(newer)
            older, newer = newer, self.cell_stem_1(older, newer)
        for stack in range(STACKS):
            if stack:
                reduced = getattr(self, f"reduction_cell_{stack - 1}")(older, newer)
                older, newer = older if self.config.skip_reduction else newer, reduced
            for i in range(self.config.cells):
                older, newer = newer, getattr(self, f"cell_{stack * self.config.cells + i}")(older, newer)
            out.append(newer)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.features(images)[-1], inplace=True)
        means = F.adaptive_avg_pool2d(maps, 1).flatten(1)  # [B, D, H, W] -> [B, D]
        return self.last_linear(self.dropout(means))


def _average(maps: Tensor, stride: int) -> Tensor:
    """3 x 3 means: of the places inside the maps (stride 1), or with zeros beside them (stride 2, sides rounded up)."""
    if stride == 1:
        return F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    odd = _before(maps)
    return F.avg_pool2d(F.pad(maps, (0, 1 - odd[1], 0, 1 - odd[0])), 3, 2, odd)


def _highest(maps: Tensor) -> Tensor:
    """3 x 3 maxima of stride 2, sides rounded up."""
    return F.max_pool2d(maps, 3, 2, _before(maps), ceil_mode=True)


def _before(maps: Tensor) -> tuple[int, int]:
    """Places that a 3 x 3 window of stride 2 begins before the maps: 1 where a side is odd; an even one has 1 after."""
    return maps.shape[2] % 2, maps.shape[3] % 2


VARIANTS = {
    "nasnet_a_large": {"cells": 6, "filters": 168, "stem_dim": 96, "skip_reduction": True, "dropout": 0.5,
                       "drop_path": 0.3},
    "nasnet_a_mobile": {"cells": 4, "filters": 44, "stem_dim": 32, "skip_reduction": False, "dropout": 0.5},
}
CIFAR_VARIANTS = {
    "nasnet_a_cifar": {"cells": 6, "filters": 32, "stem": "cifar", "stem_dim": 96, "skip_reduction": False,
                       "dropout": 0.0, "drop_path": 0.4, "num_classes": 10},
}

_TABLE_1 = "Zoph et al. 2018, Table 1, NASNet-A (6 @ 768), with cutout (from memory)"
_TABLE_2 = "Zoph et al. 2018, Table 2 (from memory)"
_TABLE_3 = "Zoph et al. 2018, Table 3 (from memory)"
_KERAS = "keras.applications {} (from memory), {} with {} running statistics of batch norm"
PUBLISHED = {
    "nasnet_a_large": [{"what": "params", "value": "88.9e6", "source": _TABLE_2,
                        "reason": "with the 196668 running statistics of batch norm it comes to 88.95e6"},
                       {"what": "macs", "value": "23.8e9", "source": _TABLE_2},
                       {"what": "top1", "value": "82.7", "data": "ImageNet-1k", "source": _TABLE_2}],
    "nasnet_a_mobile": [{"what": "params", "value": "5.3e6", "source": _TABLE_3},
                        {"what": "macs", "value": "564e6", "source": _TABLE_3},
                        {"what": "top1", "value": "74.0", "data": "ImageNet-1k", "source": _TABLE_3},
                        {"what": "params", "value": "5289978",
                         "source": _KERAS.format("NASNetMobile", "5326716", "36738")}],
    "nasnet_a_cifar": [{"what": "params", "value": "3.3e6", "source": _TABLE_1},
                       {"what": "top1", "value": "97.35", "data": "CIFAR-10", "source": _TABLE_1}],
}

WEIGHTS = {
    "nasnet_a_large": {"timm": {"file": "nasnetalarge.tf_in1k",
                                "licence": "Apache-2.0 (TensorFlow models); trained on ImageNet-1k"}},
}

_PAPER = ("Zoph, Vasudevan, Shlens, Le: Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018, "
          "arXiv:1707.07012")
for _name, _size, _crop in (("nasnet_a_large", 331, 0.911), ("nasnet_a_mobile", 224, 0.875)):
    models.add(NASNet, {_name: VARIANTS[_name]}, WEIGHTS, family="nasnet", task="classification", published=PUBLISHED,
               origins={"timm": dict}, peers={"nasnet_a_large": ("timm", "nasnetalarge")}, paper=_PAPER,
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _crop,
                              "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
models.add(NASNet, CIFAR_VARIANTS, family="nasnet", task="classification", published=PUBLISHED, paper=_PAPER,
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
