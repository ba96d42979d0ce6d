"""The ladder from ResNet-50 to ConvNeXt-T: one network whose config takes each of the paper's steps by itself.

Paper: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545, section 2 and
figure 2. The first variant is ResNet-50 (stride in the 3 x 3 convolution), the last is ConvNeXt-T, whole. The authors
did not publish the networks between; those are read from the text, and their costs agree with the figure. What it
leaves open: a convolution has a bias unless a batch norm follows it; the stem keeps its norm all along and its
activation until there are fewer; shortcuts lose their norm where blocks have fewer; weights start as ResNet's with
batch norm and as ConvNeXt's with layer norm; layer scale, of the training recipe, comes with the last step.
forward: images [B, C, H, W], normalised, H and W of at least 32 -> logits [B, num_classes].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, probability, require
from visus.layers.channel_norm import ChannelNorm
from visus.layers.drop_path import DropPath
from visus.layers.image_size import require_size

EXPANSION = 4
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": partial(ChannelNorm, eps=1e-6)}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": partial(nn.ReLU, inplace=True), "gelu": nn.GELU}


@dataclass(frozen=True, kw_only=True)
class ConvNeXtLadderConfig:
    """depths, dims: blocks and narrow channels of each of the four stages. patchify: the stem is a 4 x 4 convolution
    of stride 4, in place of 7 x 7 and max pooling. block: 'bottleneck' (1 x 1 down, k x k, 1 x 1 up), 'inverted' (up,
    k x k, down) or 'moved_up' (k x k, up, down). depthwise: the k x k convolution mixes no channels. kernel: its k,
    odd. activation: 'relu' or 'gelu'. fewer_activations, fewer_norms: one of each in a block of kind 'moved_up', the
    activation between the 1 x 1 convolutions, the norm before them. norm: 'batch' or 'layer'.
    separate_downsampling: norm and a 2 x 2 convolution of stride 2 between stages, and a norm before the last layer,
    in place of strides and projections in blocks. layer_scale: what each block's output is multiplied by at the start
    (0: no such scale). drop_path: rate at the last block; earlier blocks have linearly less."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    patchify: bool = False
    block: str = "bottleneck"
    depthwise: bool = False
    kernel: int = 3
    activation: str = "relu"
    fewer_activations: bool = False
    fewer_norms: bool = False
    norm: str = "batch"
    separate_downsampling: bool = False
    layer_scale: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            counts = getattr(self, field)
            require(isinstance(counts, tuple) and len(counts) == 4, field, counts, "be four numbers, one a stage")
            for count in counts:
                positive(**{field: count})
        one_of(("bottleneck", "inverted", "moved_up"), block=self.block)
        one_of(("relu", "gelu"), activation=self.activation)
        one_of(("batch", "layer"), norm=self.norm)
        boolean(patchify=self.patchify, depthwise=self.depthwise, fewer_activations=self.fewer_activations,
                fewer_norms=self.fewer_norms, separate_downsampling=self.separate_downsampling)
        positive(kernel=self.kernel, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.kernel % 2 == 1, "kernel", self.kernel, "be odd")
        probability(layer_scale=self.layer_scale, drop_path=self.drop_path)
        moved_up = self.block == "moved_up"
        require(self.depthwise or not moved_up, "depthwise", self.depthwise, "be true where block='moved_up'")
        for field in ("fewer_activations", "fewer_norms"):
            require(moved_up or not getattr(self, field), field, getattr(self, field),
                    "be false unless block='moved_up'")


class Block(nn.Module):
    """Three convolutions, of which one sees k x k places, each with a norm and an activation or without, and a sum:
    [B, in_dim, H, W] -> [B, dim (4 dim where kind is 'bottleneck'), H / stride, W / stride]. kind, depthwise, kernel,
    fewer_activations, fewer_norms, layer_scale: as in the config. norm, act: what makes one, of a number of
    channels and of nothing."""

    def __init__(self, in_dim: int, dim: int, stride: int, drop_path: float, *, kind: str, depthwise: bool, kernel: int,
                 norm: Callable[[int], nn.Module], act: Callable[[], nn.Module], fewer_activations: bool,
                 fewer_norms: bool, layer_scale: float):
        super().__init__()
        wide = EXPANSION * dim
        dims = {"bottleneck": (in_dim, dim, dim, wide), "inverted": (in_dim, wide, wide, dim),
                "moved_up": (in_dim, in_dim, wide, dim)}[kind]
        spatial = 1 if kind == "moved_up" else 2  # which of the three sees places
        for number in (1, 2, 3):
            k, step, groups = 1, 1, 1
            if number == spatial:
                k, step, groups = kernel, stride, dims[number] if depthwise else 1
            has_norm = number == spatial or not fewer_norms
            has_act = number == 2 or not fewer_activations  # the third follows the sum
            self.add_module(f"conv{number}", nn.Conv2d(dims[number - 1], dims[number], k, step, k // 2, groups=groups,
                                                       bias=not has_norm or norm is not nn.BatchNorm2d))
            self.add_module(f"norm{number}", norm(dims[number]) if has_norm else nn.Identity())
            self.add_module(f"act{number}", act() if has_act else nn.Identity())
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_dim != dims[3]:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_dim, dims[3], 1, stride, bias=fewer_norms or norm is not nn.BatchNorm2d),
                nn.Identity() if fewer_norms else norm(dims[3]))
        self.layer_scale = nn.Parameter(torch.full((dims[3], 1, 1), layer_scale)) if layer_scale else None
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(maps)))
        out = self.act2(self.norm2(self.conv2(out)))
        out = self.drop_path(self.norm3(self.conv3(out)))
        shortcut = self.shortcut(maps)
        if self.layer_scale is None:
            return self.act3(out + shortcut)
        return self.act3(torch.addcmul(shortcut, out, self.layer_scale))


class ConvNeXtLadder(nn.Module):
    Config = ConvNeXtLadderConfig

    def __init__(self, config: ConvNeXtLadderConfig):
        super().__init__()
        self.config = config
        norm, act = NORMS[config.norm], ACTIVATIONS[config.activation]
        make = partial(Block, kind=config.block, depthwise=config.depthwise, kernel=config.kernel, norm=norm, act=act,
                       fewer_activations=config.fewer_activations, fewer_norms=config.fewer_norms,
                       layer_scale=config.layer_scale)
        outs = [dim * (EXPANSION if config.block == "bottleneck" else 1) for dim in config.dims]
        self.stem = _stem(config.in_channels, config.dims[0], config.patchify, norm,
                          None if config.fewer_activations else act)
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        stages, in_dim = [], config.dims[0]
        for number, (dim, out_dim, depth) in enumerate(zip(config.dims, outs, config.depths, strict=True)):
            layers: list[nn.Module] = []
            stride = 2 if number > 0 else 1
            if config.separate_downsampling and number > 0:
                layers += [norm(in_dim), nn.Conv2d(in_dim, out_dim, 2, 2)]
                in_dim, stride = out_dim, 1
            for i in range(depth):
                layers.append(make(in_dim, dim, stride if i == 0 else 1, next(rates)))
                in_dim = out_dim
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head_norm = norm(in_dim) if config.separate_downsampling else nn.Identity()
        self.fc = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = tuple(outs)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise(config.norm)

    def _initialise(self, norm: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if norm == "batch":
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if norm == "layer":
            nn.init.trunc_normal_(self.fc.weight, std=0.02)
            nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        require_size(images, 32 if self.config.separate_downsampling else 4 if self.config.patchify else 1)
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.avgpool(self.features(images)[-1])
        return self.fc(self.head_norm(maps).flatten(1))  # [B, D, 1, 1] -> [B, num_classes]


def _stem(in_channels: int, dim: int, patchify: bool, norm: Callable[[int], nn.Module],
          act: Callable[[], nn.Module] | None) -> nn.Sequential:
    """[B, in_channels, H, W] -> [B, dim, H / 4, W / 4]."""
    kernel, stride, padding = (4, 4, 0) if patchify else (7, 2, 3)
    layers = [nn.Conv2d(in_channels, dim, kernel, stride, padding, bias=norm is not nn.BatchNorm2d), norm(dim)]
    if act is not None:
        layers.append(act())
    if not patchify:
        layers.append(nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*layers)


_FROM_RESNET = ((r"^(conv1|bn1)\.", lambda match: f"stem.{0 if match[1] == 'conv1' else 1}."),
                (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
                (r"\.bn(\d)\.", r".norm\1."), (r"\.downsample\.", ".shortcut."))
_FROM_CONVNEXT = ((r"^features\.0\.", "stem."), (r"^classifier\.0\.", "head_norm."), (r"^classifier\.2\.", "fc."),
                  (r"\.block\.0\.", ".conv1."), (r"\.block\.2\.", ".norm1."), (r"\.block\.3\.", ".conv2."),
                  (r"\.block\.5\.", ".conv3."))


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ResNet-50 -> the first variant, torchvision's ConvNeXt-T -> the last."""
    is_convnext = any(name.startswith("features.") for name in state)
    out = {}
    for name, tensor in state.items():
        if is_convnext:
            name = re.sub(r"^features\.([1-7])\.(\d+)\.", _convnext_stage, name)
            if re.search(r"\.block\.[35]\.weight$", name):
                tensor = tensor[:, :, None, None]  # [D, C] -> [D, C, 1, 1]
        for theirs, ours in _FROM_CONVNEXT if is_convnext else _FROM_RESNET:
            name = re.sub(theirs, ours, name)
        out[name] = tensor
    return out


def _convnext_stage(match: re.Match[str]) -> str:
    """features 2i are norm and convolution before stage i, features 2i + 1 its blocks; ours lie in one row."""
    number, index = int(match[1]), int(match[2])
    if number % 2 == 1 and number > 1:
        index += 2
    return f"stages.{number // 2}.{index}."


VARIANTS = {
    "convnext_ladder_0_resnet50": {"depths": (3, 4, 6, 3), "dims": (64, 128, 256, 512)},
    "convnext_ladder_1_stage_ratio": {"depths": (3, 3, 9, 3), "dims": (64, 128, 256, 512)},
    "convnext_ladder_2_patchify": {"depths": (3, 3, 9, 3), "dims": (64, 128, 256, 512), "patchify": True},
    "convnext_ladder_3_depthwise": {
        "depths": (3, 3, 9, 3), "dims": (64, 128, 256, 512), "patchify": True, "depthwise": True},
    "convnext_ladder_4_width": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True},
    "convnext_ladder_5_inverted": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "inverted"},
    "convnext_ladder_6_moved_up": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up"},
    "convnext_ladder_7_kernel5": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 5},
    "convnext_ladder_7_kernel7": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7},
    "convnext_ladder_7_kernel9": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 9},
    "convnext_ladder_7_kernel11": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 11},
    "convnext_ladder_8_gelu": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7, "activation": "gelu"},
    "convnext_ladder_9_fewer_activations": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7, "activation": "gelu", "fewer_activations": True},
    "convnext_ladder_10_fewer_norms": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7, "activation": "gelu", "fewer_activations": True, "fewer_norms": True},
    "convnext_ladder_11_layer_norm": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7, "activation": "gelu", "fewer_activations": True, "fewer_norms": True,
        "norm": "layer"},
    "convnext_ladder_12_separate_downsampling": {
        "depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "patchify": True, "depthwise": True,
        "block": "moved_up", "kernel": 7, "activation": "gelu", "fewer_activations": True, "fewer_norms": True,
        "norm": "layer", "separate_downsampling": True, "layer_scale": 1e-06},
}

_FIGURE_2 = "Liu et al. 2022 (from memory), Figure 2"
_TABLE_10 = "Liu et al. 2022 (from memory), Table 10 (there named FLOPs)"
_TORCHVISION = "torchvision 0.28.0, {}"
PUBLISHED = {
    "convnext_ladder_0_resnet50": [
        {"what": "macs", "value": "4.09e9", "source": _TABLE_10},
        {"what": "top1", "value": "78.8", "data": "ImageNet-1k", "source": _FIGURE_2},
        {"what": "params", "value": "25557032", "source": _TORCHVISION.format("resnet50")},
        {"what": "macs", "value": "4.089e9", "source": _TORCHVISION.format("resnet50")}],
    "convnext_ladder_1_stage_ratio": [
        {"what": "macs", "value": "4.53e9", "source": _TABLE_10},
        {"what": "top1", "value": "79.4", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_2_patchify": [
        {"what": "macs", "value": "4.42e9", "source": _TABLE_10},
        {"what": "top1", "value": "79.5", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_3_depthwise": [
        {"what": "macs", "value": "2.35e9", "source": _TABLE_10},
        {"what": "top1", "value": "78.3", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_4_width": [
        {"what": "macs", "value": "5.27e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.5", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_5_inverted": [
        {"what": "macs", "value": "4.64e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.6", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_6_moved_up": [
        {"what": "macs", "value": "4.07e9", "source": _TABLE_10},
        {"what": "top1", "value": "79.9", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_7_kernel5": [
        {"what": "macs", "value": "4.10e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.4", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_7_kernel7": [
        {"what": "macs", "value": "4.15e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.6", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_7_kernel9": [
        {"what": "macs", "value": "4.21e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.6", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_7_kernel11": [
        {"what": "macs", "value": "4.29e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.5", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_8_gelu": [
        {"what": "macs", "value": "4.15e9", "source": _TABLE_10},
        {"what": "top1", "value": "80.6", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_9_fewer_activations": [
        {"what": "macs", "value": "4.15e9", "source": _TABLE_10},
        {"what": "top1", "value": "81.3", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_10_fewer_norms": [
        {"what": "macs", "value": "4.15e9", "source": _TABLE_10},
        {"what": "top1", "value": "81.4", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_11_layer_norm": [
        {"what": "top1", "value": "81.5", "data": "ImageNet-1k", "source": _FIGURE_2}],
    "convnext_ladder_12_separate_downsampling": [
        {"what": "top1", "value": "82.0", "data": "ImageNet-1k", "source": _FIGURE_2},
        {"what": "params", "value": "28589128", "source": _TORCHVISION.format("convnext_tiny")},
        {"what": "macs", "value": "4.456e9", "source": _TORCHVISION.format("convnext_tiny")}],
}

_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"
WEIGHTS = {
    "convnext_ladder_0_resnet50": {"torchvision": {"file": "resnet50-0676ba61.pth", "licence": _LICENCE}},
    "convnext_ladder_12_separate_downsampling": {"torchvision": {"file": "convnext_tiny-983f1562.pth",
                                                                 "licence": _LICENCE}},
}

models.add(ConvNeXtLadder, VARIANTS, WEIGHTS, family="convnext_ladder", task="classification", published=PUBLISHED,
           origins={"torchvision": from_torchvision},
           peers={"convnext_ladder_0_resnet50": ("torchvision", "resnet50"),
                  "convnext_ladder_12_separate_downsampling": ("torchvision", "convnext_tiny")},
           paper="Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "bicubic"})
