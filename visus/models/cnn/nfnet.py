"""NFNet-F0 to F6: residual networks that need no normalisation of activations, only of weights.

Papers: Brock, De, Smith, Simonyan, High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021,
arXiv:2102.06171. Brock, De, Smith, Characterizing signal propagation to close the performance gap in unnormalized
ResNets, ICLR 2021, arXiv:2101.08692: a block computes x + alpha * f(x / beta), where beta is the standard deviation
that x has at the start, known beforehand, and kernels are standardised so that f keeps the variance. Departures, as
in timm and so in what the public weights see there: the variance of a kernel has 1e-5 added in place of a floor.
The paper clips gradients unit by unit: visus.optim.clip.adaptive_clip. Parameters carry timm's names.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.drop_path import DropPath
from visus.layers.squeeze_excitation import SqueezeExcitation

GELU_GAMMA = 1.7015043497085571  # 1 / standard deviation of GELU of a standard normal (the authors' code)
KERNEL_EPS = 1e-5
GATE_GAIN = 2.0  # a gate near a half is brought back to one


@dataclass(frozen=True, kw_only=True)
class NFNetConfig:
    """depths, dims: blocks and channels of each of the four stages. stem_dim: channels that the stem gives.
    group_width: channels of a group in the 3 x 3 convolutions. alpha: scale of every branch. skip_init: what each
    block's learnt scale of its branch starts with (SkipInit: 0, so that blocks start as their shortcut). dropout:
    before the last layer. drop_path: rate at the last block; earlier blocks have linearly less (the paper: 0.25)."""

    depths: tuple[int, ...] = (1, 2, 6, 3)
    dims: tuple[int, ...] = (256, 512, 1536, 1536)
    stem_dim: int = 128
    group_width: int = 128
    alpha: float = 0.2
    skip_init: float = 0.0
    dropout: float = 0.2
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(stem_dim=self.stem_dim, group_width=self.group_width, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        for field in ("depths", "dims"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 4, field, counts, "be four numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        for dim in self.dims:
            require(dim % (2 * self.group_width) == 0, "dims", self.dims,
                    f"be multiples of {2 * self.group_width}, twice group_width")
        require(self.stem_dim % 8 == 0, "stem_dim", self.stem_dim, "be a multiple of 8")
        for field in ("alpha", "skip_init"):
            value = getattr(self, field)
            require(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1, field, value,
                    "lie in [0, 1]")
        require(self.alpha > 0, "alpha", self.alpha, "be above 0")
        probability(dropout=self.dropout, drop_path=self.drop_path)


class ScaledStdConv2d(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance gain^2 / fan-in: [B, in_dim, H, W] -> [B, dim, H / stride,
    W / stride], rounded up (zeros go around the image, the odd one to the right and below). kernel: 1 or 3."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_dim, dim, kernel, stride, kernel // 2, groups=groups)
        self.gain = nn.Parameter(torch.ones(dim))

    def standardised(self) -> Tensor:
        """gain * (W - mean) / sqrt((variance + 1e-5) fan-in), of each output channel: [dim, in_dim / groups, k, k]."""
        fan_in = self.weight[0].numel()
        scale = self.gain * fan_in ** -0.5
        kernels = self.weight.reshape(1, self.out_channels, fan_in)  # normalised as a batch of one
        kernels = F.batch_norm(kernels, None, None, scale, training=True, eps=KERNEL_EPS)
        return kernels.reshape(self.weight.shape)

    def forward(self, maps: Tensor) -> Tensor:
        padding = self.padding
        height, width = maps.shape[-2:]
        if self.stride[0] == 2 and (height % 2 == 0 or width % 2 == 0):  # one zero more after than before
            maps, padding = F.pad(maps, (width % 2, 1, height % 2, 1)), (0, 0)
        return F.conv2d(maps, self.standardised(), self.bias, self.stride, padding, 1, self.groups)


class ScaledGELU(nn.Module):
    """scale * GELU: variance 1 -> variance 1 where scale is gamma. Any shape."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, maps: Tensor) -> Tensor:
        return F.gelu(maps).mul_(self.scale)


class Shortcut(nn.Module):
    """Mean of 2 x 2 places where stride is 2, then 1 x 1: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.conv = ScaledStdConv2d(in_dim, dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(self.pool(maps))


class Block(nn.Module):
    """Activation, 1 x 1, two 3 x 3 in groups, 1 x 1, gate, scale, add: [B, in_dim, H, W] -> [B, dim, H / stride,
    W / stride]. beta: standard deviation of what comes in."""

    def __init__(self, in_dim: int, dim: int, stride: int, group_width: int, alpha: float, beta: float,
                 skip_init: float, drop_path: float):
        super().__init__()
        width = dim // 2
        groups = width // group_width
        self.downsample = None if stride == 1 and in_dim == dim else Shortcut(in_dim, dim, stride)
        self.act1 = ScaledGELU(GELU_GAMMA / beta)
        self.conv1 = ScaledStdConv2d(in_dim, width, 1)
        self.act2 = ScaledGELU(GELU_GAMMA)
        self.conv2 = ScaledStdConv2d(width, width, 3, stride, groups)
        self.act2b = ScaledGELU(GELU_GAMMA)
        self.conv2b = ScaledStdConv2d(width, width, 3, 1, groups)
        self.act3 = ScaledGELU(GELU_GAMMA)
        self.conv3 = ScaledStdConv2d(width, dim, 1)
        self.attn_last = SqueezeExcitation(dim, dim // 2, nn.ReLU(inplace=True), nn.Sigmoid())
        self.drop_path = DropPath(drop_path)
        self.skipinit_gain = nn.Parameter(torch.tensor(skip_init))
        self.scale = GATE_GAIN * alpha

    def forward(self, maps: Tensor) -> Tensor:
        out = self.act1(maps)
        shortcut = maps if self.downsample is None else self.downsample(out)
        out = self.conv1(out)
        out = self.conv2(self.act2(out))
        out = self.conv2b(self.act2b(out))
        out = self.drop_path(self.attn_last(self.conv3(self.act3(out))))
        return torch.addcmul(shortcut, out, self.skipinit_gain, value=self.scale)


class NFNet(nn.Module):
    """`features(images)`: the sums that the four stages give, before any activation."""

    Config = NFNetConfig

    def __init__(self, config: NFNetConfig):
        super().__init__()
        self.config = config
        self.stem = _stem(config.in_channels, config.stem_dim)
        rates = iter([config.drop_path * i / max(sum(config.depths) - 1, 1) for i in range(sum(config.depths))])
        stages, in_dim, variance = [], config.stem_dim, 1.0
        for number, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True)):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and number > 0 else 1
                blocks.append(Block(in_dim, dim, stride, config.group_width, config.alpha, variance ** 0.5,
                                    config.skip_init, next(rates)))
                # a shortcut with a convolution sets the variance to 1; each branch adds alpha^2
                variance = (1.0 if i == 0 else variance) + config.alpha ** 2
                in_dim = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.final_conv = ScaledStdConv2d(in_dim, 2 * in_dim, 1)
        self.final_act = ScaledGELU(GELU_GAMMA)
        self.head = nn.Sequential(OrderedDict([("drop", nn.Dropout(config.dropout)),
                                               ("fc", nn.Linear(2 * in_dim, config.num_classes))]))
        self.feature_channels = tuple(config.dims)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.fc.weight, std=0.01)
        nn.init.zeros_(self.head.fc.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.final_act(self.final_conv(self.stages(self.stem(images))))
        return self.head(maps.mean((2, 3)))  # [B, D, h, w] -> [B, D] -> [B, num_classes]


def _stem(in_channels: int, dim: int) -> nn.Sequential:
    """Four 3 x 3 convolutions, the first and the last halving: [B, in_channels, H, W] -> [B, dim, H / 4, W / 4]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    in_dim = in_channels
    for number, (width, stride) in enumerate(((dim // 8, 2), (dim // 4, 1), (dim // 2, 1), (dim, 2)), 1):
        layers[f"conv{number}"] = ScaledStdConv2d(in_dim, width, 3, stride)
        if number < 4:
            layers[f"act{number}"] = ScaledGELU(GELU_GAMMA)
        in_dim = width
    return nn.Sequential(layers)


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors -> ours: gains are vectors here, not [dim, 1, 1, 1]."""
    return {name: tensor.flatten() if name.endswith(".gain") else tensor for name, tensor in state.items()}


VARIANTS = {
    "nfnet_f0": {"depths": (1, 2, 6, 3), "dropout": 0.2},
    "nfnet_f1": {"depths": (2, 4, 12, 6), "dropout": 0.3},
    "nfnet_f2": {"depths": (3, 6, 18, 9), "dropout": 0.4},
    "nfnet_f3": {"depths": (4, 8, 24, 12), "dropout": 0.4},
    "nfnet_f4": {"depths": (5, 10, 30, 15), "dropout": 0.5},
    "nfnet_f5": {"depths": (6, 12, 36, 18), "dropout": 0.5},
    "nfnet_f6": {"depths": (7, 14, 42, 21), "dropout": 0.5},
}

_PAPER = "Brock et al. 2021 (from memory), Tables 1 and 3 (there named FLOPs)"
_ALSO_SAM = "Brock et al. 2021 (from memory), trained with sharpness-aware minimisation"
PUBLISHED = {
    "nfnet_f0": [{"what": "params", "value": "71.5e6", "source": _PAPER},
                 {"what": "macs", "value": "12.38e9", "source": _PAPER},
                 {"what": "top1", "value": "83.6", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f1": [{"what": "params", "value": "132.6e6", "source": _PAPER},
                 {"what": "macs", "value": "35.54e9", "source": _PAPER},
                 {"what": "top1", "value": "84.7", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f2": [{"what": "params", "value": "193.8e6", "source": _PAPER},
                 {"what": "macs", "value": "62.59e9", "source": _PAPER},
                 {"what": "top1", "value": "85.1", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f3": [{"what": "params", "value": "254.9e6", "source": _PAPER},
                 {"what": "macs", "value": "114.76e9", "source": _PAPER},
                 {"what": "top1", "value": "85.7", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f4": [{"what": "params", "value": "316.1e6", "source": _PAPER},
                 {"what": "macs", "value": "215.24e9", "source": _PAPER},
                 {"what": "top1", "value": "85.9", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f5": [{"what": "params", "value": "377.2e6", "source": _PAPER},
                 {"what": "macs", "value": "289.76e9", "source": _PAPER},
                 {"what": "top1", "value": "86.0", "data": "ImageNet-1k", "source": _PAPER}],
    "nfnet_f6": [{"what": "params", "value": "438.4e6", "source": _PAPER},
                 {"what": "macs", "value": "377.28e9", "source": _PAPER},
                 {"what": "top1", "value": "86.5", "data": "ImageNet-1k", "source": _ALSO_SAM}],
}

_LICENCE = "Apache-2.0 (DeepMind, by way of timm); trained on ImageNet-1k"
WEIGHTS = {
    "nfnet_f0": {"timm": {"file": "dm_nfnet_f0.dm_in1k", "licence": _LICENCE}},
    "nfnet_f1": {"timm": {"file": "dm_nfnet_f1.dm_in1k", "licence": _LICENCE}},
    "nfnet_f2": {"timm": {"file": "dm_nfnet_f2.dm_in1k", "licence": _LICENCE}},
    "nfnet_f3": {"timm": {"file": "dm_nfnet_f3.dm_in1k", "licence": _LICENCE}},
    "nfnet_f4": {"timm": {"file": "dm_nfnet_f4.dm_in1k", "licence": _LICENCE}},
    "nfnet_f5": {"timm": {"file": "dm_nfnet_f5.dm_in1k", "licence": _LICENCE}},
    "nfnet_f6": {"timm": {"file": "dm_nfnet_f6.dm_in1k", "licence": _LICENCE}},
}

_SIZES = {  # side in pixels of the images in the paper's tests, and the centre kept of what they are cropped from
    "nfnet_f0": (256, 0.9), "nfnet_f1": (320, 0.91), "nfnet_f2": (352, 0.92), "nfnet_f3": (416, 0.94),
    "nfnet_f4": (512, 0.951), "nfnet_f5": (544, 0.954), "nfnet_f6": (576, 0.956),
}
PEERS = {name: ("timm", f"dm_{name}") for name in ("nfnet_f0", "nfnet_f1")}  # the larger ones: tests/parity, slow

for _name, (_size, _fraction) in _SIZES.items():
    models.add(NFNet, {_name: VARIANTS[_name]}, WEIGHTS, family="nfnet", task="classification", published=PUBLISHED,
               origins={"timm": from_timm}, peers=PEERS,
               paper="Brock, De, Smith, Simonyan: High-Performance Large-Scale Image Recognition Without "
                     "Normalization, ICML 2021, arXiv:2102.06171",
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _fraction,
                              "interpolation": "bicubic"})
