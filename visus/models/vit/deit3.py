"""DeiT III: a ViT with scaled branches, and a recipe that needs no teacher.

Paper: Touvron, Cord, Jegou, DeiT III: Revenge of the ViT, ECCV 2022, arXiv:2204.07118. The network is a ViT
(Dosovitskiy et al., ICLR 2021) with LayerScale (Touvron et al., ICCV 2021, arXiv:2103.17239), whose class token has no
position. Departures: drop path, 0.05 to 0.6 by size in the authors' commands, is off unless asked for. Parameters carry
timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.vit_blocks import (
    NORM_EPS,
    PreNormBlock,
    TokenBlocks,
    fit_positions,
    initialise_tokens,
    require_tokens,
    sized_positions,
)


@dataclass(frozen=True, kw_only=True)
class DeiT3Config:
    """image_size, patch_size: sides in pixels. dim: width of a token. layer_scale: first value of the branches' scales.
    dropout: after attention, MLP and positions. drop_path: rate at every block."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        require(isinstance(self.layer_scale, int | float) and self.layer_scale > 0, "layer_scale", self.layer_scale,
                "be above 0")


class DeiT3(nn.Module):
    Config = DeiT3Config

    def __init__(self, config: DeiT3Config):
        super().__init__()
        self.config = config
        self.num_prefix_tokens = 1
        self.patch_embed = PatchStem(config.in_channels, config.dim, config.image_size, config.patch_size,
                                     any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.side**2, config.dim))
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = TokenBlocks(*[PreNormBlock(config.dim, config.num_heads, int(config.dim * config.mlp_ratio),
                                                   config.dropout, config.drop_path, config.layer_scale)
                                      for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.head = nn.Linear(config.dim, config.num_classes)
        self.feature_channels = (config.dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised tokens [B, 1 + N, dim], class token first. Raises UserError unless
        H and W are multiples of patch_size."""
        grid = self.patch_embed.grid(images)
        patches = self.patch_embed(images) + sized_positions(self.pos_embed, grid, 0)  # [B, N, dim]
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1)
        return self.norm(self.blocks(self.pos_drop(tokens), grid))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, 1:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images)[:, 0])

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its position embedding resized to this model's grid, and what was done in words."""
        return fit_positions(state, self.pos_embed, 0)


VARIANTS = {
    "deit3_small_16": {"patch_size": 16, "dim": 384, "depth": 12, "num_heads": 6},
    "deit3_medium_16": {"patch_size": 16, "dim": 512, "depth": 12, "num_heads": 8},
    "deit3_base_16": {"patch_size": 16, "dim": 768, "depth": 12, "num_heads": 12},
    "deit3_large_16": {"patch_size": 16, "dim": 1024, "depth": 24, "num_heads": 16},
    "deit3_huge_14": {"patch_size": 14, "dim": 1280, "depth": 32, "num_heads": 16},
}

_ZOO = "the authors' README_revenge.md, ImageNet-1k pre-training"


def _published(params: str, macs: str, top1: str, params_reason: str | None = None,
               macs_reason: str | None = None) -> list[dict[str, str]]:
    return [{"what": "params", "value": params, "source": _ZOO, **({"reason": params_reason} if params_reason else {})},
            {"what": "macs", "value": macs, "source": _ZOO, **({"reason": macs_reason} if macs_reason else {})},
            {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _ZOO}]


_CUT = "the table drops the further digits"
PUBLISHED = {
    "deit3_small_16": _published("22.0e6", "4.6e9", "81.4", _CUT),
    "deit3_medium_16": _published("38.8e6", "8.0e9", "83.0", _CUT),
    "deit3_base_16": _published("86.6e6", "17.5e9", "83.8", macs_reason=_CUT),
    "deit3_large_16": _published("304.4e6", "61.6e9", "84.9"),
    "deit3_huge_14": _published("632.1e6", "167.4e9", "85.2",
                                macs_reason="0.06 % more than the products of matrices; what else counts is not said"),
}

PEERS = {
    "deit3_small_16": ("timm", "deit3_small_patch16_224"),
    "deit3_medium_16": ("timm", "deit3_medium_patch16_224"),
    "deit3_base_16": ("timm", "deit3_base_patch16_224"),
    "deit3_large_16": ("timm", "deit3_large_patch16_224"),
    "deit3_huge_14": ("timm", "deit3_huge_patch14_224"),
}

WEIGHTS = {name: {"timm": {"file": f"{peer}.fb_in1k",
                           "licence": "Apache-2.0 (Meta, by way of timm); trained on ImageNet-1k"}}
           for name, (_, peer) in PEERS.items()}

models.add(DeiT3, VARIANTS, WEIGHTS, family="deit3", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict},
           paper="Touvron, Cord, Jegou: DeiT III: Revenge of the ViT, ECCV 2022, arXiv:2204.07118",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.9, "interpolation": "bicubic"})
