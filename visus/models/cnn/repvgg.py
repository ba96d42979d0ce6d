"""RepVGG A0 to A2, B0 to B3 with groups, D2se: three branches a layer to train, one plain 3 x 3 convolution to run.

Paper: Ding, Zhang, Ma, Han, Ding, Sun, RepVGG: Making VGG-style ConvNets Great Again, CVPR 2021, arXiv:2101.03697. In
training a layer is the sum of a 3 x 3 convolution, a 1 x 1 convolution and, where shapes allow, the identity, each
with its batch norm; all three are linear, so that `fuse()` makes them one 3 x 3 convolution with a bias (section 3.3,
figure 4) and the network a stack of 3 x 3 convolutions and ReLUs. B1g2 and the like split every other layer into
groups; D2se (the authors' repository, not the paper) adds squeeze and excitation after the sum. Departures: none.
Parameters carry timm's names, of the trained and of the fused form.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.meta import on_meta
from visus.core.validate import boolean, positive, require
from visus.layers.squeeze_excitation import SqueezeExcitation
from visus.ops.fold import fold_after, norm_as_affine

MAX_STEM_DIM = 64
SQUEEZE = 16  # channels over squeezed channels


@dataclass(frozen=True, kw_only=True)
class RepVGGConfig:
    """depths, dims: layers and channels in each of the four stages after the first layer. groups: of layers 2, 4, 6,
    ... after the first layer. squeeze: squeeze and excitation in each layer. fused: one convolution in place
    of the branches, the form that `fuse()` gives."""

    depths: tuple[int, ...] = (2, 4, 14, 1)
    dims: tuple[int, ...] = (48, 96, 192, 1280)
    groups: int = 1
    squeeze: bool = False
    fused: bool = False
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) == 4, field, value, "be four counts")
            for number in value:
                positive(**{field: number})
        positive(groups=self.groups, in_channels=self.in_channels, num_classes=self.num_classes)
        require(all(dim % self.groups == 0 for dim in (min(MAX_STEM_DIM, self.dims[0]), *self.dims)), "dims", self.dims,
                f"be multiples of groups={self.groups}")
        boolean(squeeze=self.squeeze, fused=self.fused)
        require(not self.squeeze or min(self.dims) >= SQUEEZE, "dims", self.dims,
                f"be at least {SQUEEZE} where squeeze=True")


class ConvNorm(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, H / stride, W / stride], without an activation."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))


class RepVGGBlock(nn.Module):
    """Three branches, gate if squeeze, ReLU: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, groups: int, squeeze: bool):
        super().__init__()
        self.identity = nn.BatchNorm2d(dim) if stride == 1 and in_dim == dim else None
        self.conv_kxk = ConvNorm(in_dim, dim, 3, stride, groups)
        self.conv_1x1 = ConvNorm(in_dim, dim, 1, stride, groups)
        self.attn = _gate(dim) if squeeze else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv_kxk(maps).add_(self.conv_1x1(maps))
        if self.identity is not None:
            out = out.add_(self.identity(maps))
        return self.act(self.attn(out))

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        """The one convolution that equals the three branches in eval mode: [dim, in_dim / groups, 3, 3] and [dim], in
        float64. A 1 x 1 kernel is the centre of a 3 x 3; the identity is a 1 x 1 kernel of ones on its diagonal."""
        weight, bias = _folded(self.conv_kxk.conv.weight, self.conv_kxk.bn)
        point, point_bias = _folded(self.conv_1x1.conv.weight, self.conv_1x1.bn)
        weight, bias = weight + F.pad(point, (1, 1, 1, 1)), bias + point_bias
        if self.identity is not None:
            dim, group_dim = weight.shape[:2]
            rows = torch.arange(dim, device=weight.device)
            same = torch.zeros_like(weight)
            same[rows, rows % group_dim, 1, 1] = 1  # channel i is number i % group_dim of its group
            same, same_bias = _folded(same, self.identity)
            weight, bias = weight + same, bias + same_bias
        return weight, bias


class FusedBlock(nn.Module):
    """A 3 x 3 convolution, gate if squeeze, ReLU: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, groups: int, squeeze: bool):
        super().__init__()
        self.reparam_conv = nn.Conv2d(in_dim, dim, 3, stride, 1, groups=groups)
        self.attn = _gate(dim) if squeeze else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.act(self.attn(self.reparam_conv(maps)))


class RepVGG(nn.Module):
    Config = RepVGGConfig

    def __init__(self, config: RepVGGConfig):
        super().__init__()
        self.config = config
        block = FusedBlock if config.fused else RepVGGBlock
        in_dim = min(MAX_STEM_DIM, config.dims[0])
        self.stem = block(config.in_channels, in_dim, 2, 1, config.squeeze)
        stages, number = [], 0
        for depth, dim in zip(config.depths, config.dims, strict=True):
            blocks: list[nn.Module] = []
            for i in range(depth):
                number += 1
                groups = config.groups if number % 2 == 0 else 1
                blocks.append(block(in_dim, dim, 2 if i == 0 else 1, groups, config.squeeze))
                in_dim = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(OrderedDict(global_pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1),
                                              fc=nn.Linear(in_dim, config.num_classes)))
        self.feature_channels = config.dims
        self.feature_strides = (4, 8, 16, 32)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)))  # [B, D, H / 32, W / 32] -> [B, num_classes]

    def fuse(self) -> RepVGG:
        """A new network of the plain form that computes what this one does in eval mode; itself where it is fused."""
        if self.config.fused:
            return self
        with on_meta():
            plain = RepVGG(replace(self.config, fused=True))
        ours = self.state_dict()
        state = {name: ours[name].clone() for name in plain.state_dict() if name in ours}
        for name, block in self.named_modules():
            if isinstance(block, RepVGGBlock):
                like = block.conv_kxk.conv.weight
                weight, bias = block.kernel_and_bias()
                state[f"{name}.reparam_conv.weight"] = weight.to(like)
                state[f"{name}.reparam_conv.bias"] = bias.to(like)
        plain.load_state_dict(state, assign=True)
        return plain.train(self.training)


def _gate(dim: int) -> SqueezeExcitation:
    return SqueezeExcitation(dim, dim // SQUEEZE, nn.ReLU(inplace=True), nn.Sigmoid())


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale, shift = norm_as_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    return fold_after(weight, None, scale, shift)


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
VARIANTS = {
    "repvgg_a0": {"depths": _A, "dims": (48, 96, 192, 1280)},
    "repvgg_a1": {"depths": _A, "dims": (64, 128, 256, 1280)},
    "repvgg_a2": {"depths": _A, "dims": (96, 192, 384, 1408)},
    "repvgg_b0": {"depths": _B, "dims": (64, 128, 256, 1280)},
    "repvgg_b1": {"depths": _B, "dims": (128, 256, 512, 2048)},
    "repvgg_b1g2": {"depths": _B, "dims": (128, 256, 512, 2048), "groups": 2},
    "repvgg_b1g4": {"depths": _B, "dims": (128, 256, 512, 2048), "groups": 4},
    "repvgg_b2": {"depths": _B, "dims": (160, 320, 640, 2560)},
    "repvgg_b2g4": {"depths": _B, "dims": (160, 320, 640, 2560), "groups": 4},
    "repvgg_b3": {"depths": _B, "dims": (192, 384, 768, 2560)},
    "repvgg_b3g4": {"depths": _B, "dims": (192, 384, 768, 2560), "groups": 4},
}
D2SE_VARIANTS = {
    "repvgg_d2se": {"depths": (8, 14, 24, 1), "dims": (160, 320, 640, 2560), "squeeze": True},
}

_PAPER = "Ding et al. 2021 (from memory), Table 4"
_LONGER = "Ding et al. 2021 (from memory), Table 5, trained with Autoaugment and mixup"
_REPOSITORY = "the authors' repository (from memory), at 320 pixels"
_TIMM = "timm results-imagenet.csv (from memory)"


def _facts(params: str, macs: str, exact: str, exact_macs: str, top1: str, trained: str | None,
           source: str = _PAPER) -> list[dict[str, str]]:
    """The paper counts the fused form, of which `exact` numbers are ours; timm counts the trained one."""
    facts = [{"what": "params", "value": params, "source": source,
              "reason": f"of the fused form; fuse() gives {exact}, which the paper cuts"},
             {"what": "macs", "value": macs, "source": f"{source} (there named FLOPs)",
              "reason": f"of the fused form; fuse() gives {exact_macs}"},
             {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": source}]
    return facts if trained is None else [*facts, {"what": "params", "value": trained, "source": _TIMM}]


PUBLISHED = {
    "repvgg_a0": _facts("8.30e6", "1.4e9", "8309384", "1.361e9", "72.41", "9.11e6"),
    "repvgg_a1": _facts("12.78e6", "2.4e9", "12789864", "2.364e9", "74.46", "14.09e6"),
    "repvgg_a2": _facts("25.49e6", "5.1e9", "25499944", "5.117e9", "76.48", "28.21e6"),
    "repvgg_b0": _facts("14.33e6", "3.1e9", "14339048", "3.058e9", "75.14", "15.82e6"),
    "repvgg_b1": _facts("51.82e6", "11.8e9", "51829480", "11.815e9", "78.37", "57.42e6"),
    "repvgg_b1g2": _facts("41.36e6", "8.8e9", "41360104", "8.810e9", "77.78", None),
    "repvgg_b1g4": _facts("36.12e6", "7.3e9", "36125416", "7.307e9", "77.58", "39.97e6"),
    "repvgg_b2": _facts("80.31e6", "18.4e9", "80315112", "18.377e9", "78.78", "89.02e6"),
    "repvgg_b2g4": _facts("55.77e6", "11.3e9", "55777512", "11.332e9", "79.38", "61.76e6", _LONGER),
    "repvgg_b3": _facts("110.96e6", "26.2e9", "110960872", "26.209e9", "80.52", "123.09e6", _LONGER),
    "repvgg_b3g4": _facts("75.62e6", "16.1e9", "75626728", "16.064e9", "80.21", "83.83e6", _LONGER),
    "repvgg_d2se": [{"what": "params", "value": "133.33e6", "source": _TIMM},
                    {"what": "top1", "value": "83.55", "data": "ImageNet-1k", "source": _REPOSITORY}],
}

_LICENCE = "MIT (the authors'); trained on ImageNet-1k"
WEIGHTS = {name: {"timm": {"file": f"{name}.rvgg_in1k", "licence": _LICENCE}}
           for name in (*VARIANTS, *D2SE_VARIANTS) if name != "repvgg_b1g2"}

for _variants, _size, _crop in ((VARIANTS, 224, 0.875), (D2SE_VARIANTS, 320, 1.0)):
    models.add(RepVGG, _variants, WEIGHTS, family="repvgg", task="classification", published=PUBLISHED,
               origins={"timm": dict}, peers={name: ("timm", name) for name in WEIGHTS},
               paper="Ding, Zhang, Ma, Han, Ding, Sun: RepVGG: Making VGG-style ConvNets Great Again, CVPR 2021, "
                     "arXiv:2101.03697",
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _crop})
