"""ACNet: residual networks whose 3 x 3 convolutions have a 1 x 3 and a 3 x 1 beside them in training.

Paper: Ding, Guo, Ding, Han, ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution
Blocks, ICCV 2019, arXiv:1908.03930. A layer is the sum of three convolutions, each with its batch norm; convolutions
are additive where their kernels lie on one grid (equation 5), so that after training the two strips are added to the
middle row and the middle column of the square, its skeleton, and `fuse()` gives the plain network, at no cost.
`ac_resnet18` is the paper's for ImageNet, `ac_resnet56` its for CIFAR. Departures: only 3 x 3 convolutions gain
strips, not the 7 x 7 of the first layer; shortcuts that change the shape project by a 1 x 1 convolution and its norm
(option B of the residual networks), which the paper leaves open on CIFAR.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.meta import on_meta
from visus.core.validate import boolean, one_of, positive, require
from visus.ops.fold import fold_after, norm_as_affine


@dataclass(frozen=True, kw_only=True)
class ACNetConfig:
    """stem: 'imagenet' (7 x 7 of stride 2 and max pooling) or 'cifar' (a 3 x 3 layer). depths, dims: blocks of two
    layers, and channels, in each stage; stages after the first halve the maps. fused: plain 3 x 3 convolutions with a
    bias, the form that `fuse()` gives."""

    stem: str = "imagenet"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    fused: bool = False
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        one_of(("imagenet", "cifar"), stem=self.stem)
        for field in ("depths", "dims"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) > 0, field, value, "be a count for each stage")
            for number in value:
                positive(**{field: number})
        require(len(self.depths) == len(self.dims), "dims", self.dims, f"be as many as depths={self.depths}")
        positive(in_channels=self.in_channels, num_classes=self.num_classes)
        boolean(fused=self.fused)


class ConvNorm(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, H / stride, W / stride], for a kernel of odd sides, without an activation."""

    def __init__(self, in_dim: int, dim: int, kernel: tuple[int, int], stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, (kernel[0] // 2, kernel[1] // 2), bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        """Of the convolution with its norm in eval mode, in float64."""
        norm = self.bn
        scale, shift = norm_as_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
        return fold_after(self.conv.weight, None, scale, shift)


class AsymmetricConv(nn.Module):
    """The sum of a square, a horizontal and a vertical convolution: [B, in_dim, H, W] -> [B, dim, H / stride,
    W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.square = ConvNorm(in_dim, dim, (3, 3), stride)
        self.horizontal = ConvNorm(in_dim, dim, (1, 3), stride)
        self.vertical = ConvNorm(in_dim, dim, (3, 1), stride)

    def forward(self, maps: Tensor) -> Tensor:
        return self.square(maps).add_(self.horizontal(maps)).add_(self.vertical(maps))

    def fuse(self) -> nn.Conv2d:
        """The one 3 x 3 convolution that equals the three in eval mode (equations 6 and 7)."""
        weight, bias = self.square.kernel_and_bias()
        row, row_bias = self.horizontal.kernel_and_bias()
        column, column_bias = self.vertical.kernel_and_bias()
        weight = weight + F.pad(row, (0, 0, 1, 1)) + F.pad(column, (1, 1, 0, 0))
        conv = self.square.conv
        with on_meta():
            plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride, 1)
        bias = bias + row_bias + column_bias
        plain.load_state_dict({"weight": weight.to(conv.weight), "bias": bias.to(conv.weight)}, assign=True)
        return plain.train(self.training)


class Block(nn.Module):
    """Two layers around a shortcut: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, fused: bool):
        super().__init__()
        self.conv1 = _layer(in_dim, dim, stride, fused)
        self.conv2 = _layer(dim, dim, 1, fused)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if stride == 1 and in_dim == dim else ConvNorm(in_dim, dim, (1, 1), stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(maps)))
        return self.relu(out.add_(maps if self.downsample is None else self.downsample(maps)))


class ACNet(nn.Module):
    Config = ACNetConfig

    def __init__(self, config: ACNetConfig):
        super().__init__()
        self.config = config
        wide = config.stem == "imagenet"
        in_dim = config.dims[0]
        self.stem = (ConvNorm(config.in_channels, in_dim, (7, 7), 2) if wide
                     else _layer(config.in_channels, in_dim, 1, config.fused))
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if wide else nn.Identity()
        stages = []
        for number, (depth, dim) in enumerate(zip(config.depths, config.dims, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(Block(in_dim, dim, 2 if i == 0 and number > 0 else 1, config.fused))
                in_dim = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = config.dims
        self.feature_strides = tuple((4 if wide else 1) * 2**i for i in range(len(config.dims)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the maps of each stage, of the strides in `feature_strides`."""
        maps, out = self.maxpool(self.relu(self.stem(images))), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[-1]
        return self.fc(self.avgpool(maps).flatten(1))  # [B, D, h, w] -> [B, D] -> [B, num_classes]

    def fuse(self) -> ACNet:
        """A new network of plain layers that computes what this one does in eval mode; itself where it is fused."""
        if self.config.fused:
            return self
        with on_meta():
            plain = ACNet(replace(self.config, fused=True))
        ours = self.state_dict()
        state = {name: ours[name].clone() for name in plain.state_dict() if name in ours}
        for name, layer in self.named_modules():
            if isinstance(layer, AsymmetricConv):
                state |= {f"{name}.{field}": tensor for field, tensor in layer.fuse().state_dict().items()}
        plain.load_state_dict(state, assign=True)
        return plain.train(self.training)


def _layer(in_dim: int, dim: int, stride: int, fused: bool) -> nn.Module:
    return nn.Conv2d(in_dim, dim, 3, stride, 1) if fused else AsymmetricConv(in_dim, dim, stride)


VARIANTS = {
    "ac_resnet18": {"stem": "imagenet", "depths": (2, 2, 2, 2), "dims": (64, 128, 256, 512), "num_classes": 1000},
}
CIFAR_VARIANTS = {
    "ac_resnet56": {"stem": "cifar", "depths": (9, 9, 9), "dims": (16, 32, 64), "num_classes": 10},
}

_PAPER = "Ding et al. 2019 (from memory), "
PUBLISHED = {
    "ac_resnet18": [{"what": "top1", "value": "71.14", "data": "ImageNet-1k", "source": _PAPER + "Table 3"}],
    "ac_resnet56": [{"what": "top1", "value": "95.09", "data": "CIFAR-10", "source": _PAPER + "Table 1"}],
}

_CIFAR = {"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_IMAGENET = {"size": (224, 224), "resize": "crop", "crop_fraction": 0.875}
for _variants, _preprocessing in ((VARIANTS, _IMAGENET), (CIFAR_VARIANTS, _CIFAR)):
    models.add(ACNet, _variants, family="acnet", task="classification", published=PUBLISHED,
               paper="Ding, Guo, Ding, Han: ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric "
                     "Convolution Blocks, ICCV 2019, arXiv:1908.03930",
               preprocessing=_preprocessing)
