"""Hybrid Vision Transformer: the patches of a ViT are places of a ResNet's maps.

Papers: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929 (section 3.1 and appendix B.2:
R50 + ViT-B/16, whose ResNet moves its fourth stage's blocks into the third and ends there); Steiner et al., How to
train your ViT?, arXiv:2106.10270 (R + Ti/16, R26 + S/32, R50 + L/32). The ResNet is BiT's (Kolesnikov et al., Big
Transfer, ECCV 2020, arXiv:1912.11370): its convolutions' weights are standardised (Qiao et al., arXiv:1903.10520), its
norms are group norms (Wu, He, ECCV 2018, arXiv:1803.08494), and its padding is TensorFlow's, more on the right and
below. Departure: the head is one linear layer, as the paper has it when fine-tuning. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of the stride -> logits [B, num_classes]. Positions of
other grids than that of image_size are interpolated.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive, probability, require
from visus.layers.patch_stem import maps_of
from visus.layers.vit_blocks import (
    NORM_EPS,
    PreNormBlock,
    TokenBlocks,
    fit_positions,
    initialise_tokens,
    require_tokens,
    sized_positions,
)

STEM_DIM = 64
DIMS = (256, 512, 1024, 2048)  # of the ResNet's stages
GROUPS = 32
WEIGHT_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class ViTHybridConfig:
    """image_size: side in pixels that positions are made for. resnet_depths: blocks of each stage of the ResNet, one to
    four stages, or none: its stem alone. patch_size: side of a patch in places of the ResNet's last maps. dim, depth,
    num_heads, mlp_ratio: of the transformer. dropout: after attention, MLP and positions. drop_path: rate at the last
    block; earlier blocks have linearly less."""

    image_size: int = 224
    resnet_depths: tuple[int, ...] = (3, 4, 9)
    patch_size: int = 1
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require(isinstance(self.resnet_depths, tuple) and len(self.resnet_depths) <= len(DIMS), "resnet_depths",
                self.resnet_depths, f"be at most {len(DIMS)} block counts")
        for blocks in self.resnet_depths:
            positive(resnet_depths=blocks)
        positive(patch_size=self.patch_size, depth=self.depth, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require_tokens(self.image_size, self.stride, self.dim, self.num_heads, self.mlp_ratio)
        probability(dropout=self.dropout, drop_path=self.drop_path)

    @property
    def stride(self) -> int:
        """Pixels along a side of what a token stands for."""
        return (4 << max(len(self.resnet_depths) - 1, 0)) * self.patch_size


class StandardConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and variance 1: [B, in_dim, H, W] ->
    [B, dim, H / stride, W / stride]. With a stride, H and W must be even; then zeros stand one more on the right and
    below than on the left and above."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int = 1):
        super().__init__(in_dim, dim, kernel, stride, kernel // 2 if stride == 1 else 0, bias=False)
        more, less = kernel // 2, (kernel - 1) // 2 - (kernel > 1)
        self.edges = (less, more, less, more) if stride > 1 and kernel > 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        filters = self.weight.flatten(1)[None]  # [1, dim, in_dim * kernel^2]: batch norm over one sample
        weight = F.batch_norm(filters, None, None, training=True, eps=WEIGHT_EPS).view_as(self.weight)
        if self.edges is not None:
            maps = F.pad(maps, self.edges)
        return F.conv2d(maps, weight, None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up, added to the shortcut: [B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        width = dim // 4
        self.conv1 = StandardConv(in_dim, width, 1)
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv2 = StandardConv(width, width, 3, stride)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv3 = StandardConv(width, dim, 1)
        self.norm3 = nn.GroupNorm(GROUPS, dim)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_dim != dim:
            self.downsample = nn.Sequential(OrderedDict(conv=StandardConv(in_dim, dim, 1, stride),
                                                        norm=nn.GroupNorm(GROUPS, dim)))

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        out = self.norm3(self.conv3(out))
        out += maps if self.downsample is None else self.downsample(maps)
        return F.relu(out, inplace=True)


class Stage(nn.Module):
    """[B, in_dim, H, W] -> [B, dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, depth: int, stride: int):
        super().__init__()
        self.blocks = nn.Sequential(*[Bottleneck(in_dim if i == 0 else dim, dim, stride if i == 0 else 1)
                                      for i in range(depth)])

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(maps)


class ResNetStem(nn.Module):
    """images [B, C, H, W] -> the maps of every stage, strides 4, 8, ...; without stages those of stride 4."""

    def __init__(self, in_channels: int, depths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Sequential(OrderedDict(
            conv=StandardConv(in_channels, STEM_DIM, 7, 2), norm=nn.GroupNorm(GROUPS, STEM_DIM),
            act=nn.ReLU(inplace=True), pool=nn.MaxPool2d(3, 2, ceil_mode=True)))
        dims = (STEM_DIM, *DIMS)
        self.stages = nn.ModuleList([Stage(dims[i], dims[i + 1], depth, 2 if i else 1)
                                     for i, depth in enumerate(depths)])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:] or maps


class HybridEmbed(nn.Module):
    """Patches of a ResNet's last maps as tokens."""

    def __init__(self, config: ViTHybridConfig):
        super().__init__()
        self.backbone = ResNetStem(config.in_channels, config.resnet_depths)
        last = (STEM_DIM, *DIMS)[len(config.resnet_depths)]
        self.proj = nn.Conv2d(last, config.dim, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, C, H, W] -> the stages' maps, and tokens [B, h * w, dim]."""
        maps = self.backbone(images)
        return maps, self.proj(maps[-1]).flatten(2).transpose(1, 2)


class ViTHybrid(nn.Module):
    Config = ViTHybridConfig

    def __init__(self, config: ViTHybridConfig):
        super().__init__()
        self.config = config
        self.patch_embed = HybridEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (config.image_size // config.stride) ** 2, config.dim))
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[PreNormBlock(config.dim, config.num_heads, int(config.dim * config.mlp_ratio),
                                                 config.dropout, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.head = nn.Linear(config.dim, config.num_classes)
        earlier = max(len(config.resnet_depths) - 1, 0)
        self.feature_channels = (*DIMS[:earlier], config.dim)
        self.feature_strides = (*(4 << i for i in range(earlier)), config.stride)
        initialise_tokens(self)
        for module in self.modules():
            if isinstance(module, StandardConv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=self.patch_embed.proj.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.patch_embed.proj.bias)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens. Raises UserError unless H and W are multiples of the stride."""
        (height, width), stride = images.shape[-2:], self.config.stride
        if height < stride or width < stride or height % stride or width % stride:
            raise UserError(f"the sides of images must be multiples of {stride} pixels", where=f"{height}x{width}",
                            remedy="Resize or pad the images")
        return height // stride, width // stride

    def encode(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, C, H, W] -> the maps of the ResNet's stages, and normalised tokens [B, 1 + h * w, dim], class token
        first."""
        grid = self.grid(images)
        maps, patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1)  # [B, 1 + N, dim]
        tokens = tokens + sized_positions(self.pos_embed, grid, 1)
        return maps, self.norm(self.blocks(self.pos_drop(tokens)))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the maps of the ResNet's stages but the last, then the tokens of the patches in their
        places."""
        maps, tokens = self.encode(images)
        return [*maps[:-1], maps_of(tokens[:, 1:], self.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encode(images)[1][:, 0])

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its positions resized to this model's grid, and what was done in words."""
        return fit_positions(state, self.pos_embed, num_prefix=1)


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names -> ours, which differ where there is no ResNet but its stem."""
    return {re.sub(r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1.", name): tensor
            for name, tensor in state.items()}


VARIANTS = {
    "vit_tiny_r_s16_p8": {"resnet_depths": (), "patch_size": 8, "dim": 192, "depth": 12, "num_heads": 3},
    "vit_small_r26_s32": {"resnet_depths": (2, 2, 2, 2), "dim": 384, "depth": 12, "num_heads": 6},
    "vit_large_r50_s32": {"resnet_depths": (3, 4, 6, 3), "dim": 1024, "depth": 24, "num_heads": 16},
}
VARIANTS_384 = {
    "vit_base_r50_s16": {"image_size": 384, "resnet_depths": (3, 4, 9), "dim": 768, "depth": 12, "num_heads": 12},
}

_RESULTS = "timm's results on ImageNet-1k (from memory)"
PUBLISHED = {
    "vit_tiny_r_s16_p8": [{"what": "params", "value": "6.34e6", "source": _RESULTS},
                          {"what": "top1", "value": "71.80", "data": "ImageNet-1k", "source": _RESULTS}],
    "vit_small_r26_s32": [{"what": "params", "value": "36.43e6", "source": _RESULTS},
                          {"what": "top1", "value": "81.86", "data": "ImageNet-1k", "source": _RESULTS}],
    "vit_large_r50_s32": [{"what": "params", "value": "328.99e6", "source": _RESULTS},
                          {"what": "top1", "value": "84.42", "data": "ImageNet-1k", "source": _RESULTS}],
}
PUBLISHED_384 = {
    "vit_base_r50_s16": [{"what": "params", "value": "98.95e6", "source": _RESULTS},
                         {"what": "top1", "value": "84.98", "data": "ImageNet-1k", "source": _RESULTS}],
}

_LICENCE = "Apache-2.0 (Google, by way of timm); trained on ImageNet-21k, then 1k"
WEIGHTS = {
    "vit_tiny_r_s16_p8": {"timm": {"file": "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", "licence": _LICENCE}},
    "vit_small_r26_s32": {"timm": {"file": "vit_small_r26_s32_224.augreg_in21k_ft_in1k", "licence": _LICENCE}},
    "vit_large_r50_s32": {"timm": {"file": "vit_large_r50_s32_224.augreg_in21k_ft_in1k", "licence": _LICENCE}},
}
WEIGHTS_384 = {
    "vit_base_r50_s16": {"timm": {"file": "vit_base_r50_s16_384.orig_in21k_ft_in1k", "licence": _LICENCE}},
}

for _variants, _weights, _published, _size, _crop in ((VARIANTS, WEIGHTS, PUBLISHED, 224, 0.9),
                                                      (VARIANTS_384, WEIGHTS_384, PUBLISHED_384, 384, 1.0)):
    models.add(ViTHybrid, _variants, _weights, family="vit_hybrid", task="classification", published=_published,
               origins={"timm": from_timm}, peers={name: ("timm", f"{name}_{_size}") for name in _variants},
               paper="Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929",
               preprocessing={"size": (_size, _size), "resize": "crop", "crop_fraction": _crop,
                              "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
