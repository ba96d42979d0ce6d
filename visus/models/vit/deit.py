"""DeiT: a ViT that learns from ImageNet alone, and from a teacher by a token of its own.

Paper: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021,
arXiv:2012.12877. Without the distillation token the network is a ViT (Dosovitskiy et al., ICLR 2021). Departures:
drop path (0.1 in the paper's training) is off unless asked for; where the paper adds the two classifiers' softmax
outputs at test time, the authors' code takes the mean of their logits, and so does this. Parameters carry timm's names.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes], the mean of both
heads where there are two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import boolean, positive, probability
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
class DeiTConfig:
    """image_size, patch_size: sides in pixels. dim: width of a token. dropout: after attention, MLP and positions.
    drop_path: rate at the last block; earlier blocks have linearly less. distilled: whether there is a second token,
    with a classifier of its own, that learns from a teacher."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    distilled: bool = False
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(depth=self.depth, in_channels=self.in_channels, num_classes=self.num_classes)
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        boolean(distilled=self.distilled)


class DeiT(nn.Module):
    Config = DeiTConfig

    def __init__(self, config: DeiTConfig):
        super().__init__()
        self.config = config
        self.num_prefix_tokens = 2 if config.distilled else 1
        self.patch_embed = PatchStem(config.in_channels, config.dim, config.image_size, config.patch_size,
                                     any_size=True)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        if config.distilled:
            self.dist_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_prefix_tokens + self.patch_embed.side**2, config.dim))
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[PreNormBlock(config.dim, config.num_heads, int(config.dim * config.mlp_ratio),
                                                   config.dropout, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.head = nn.Linear(config.dim, config.num_classes)
        if config.distilled:
            self.head_dist = nn.Linear(config.dim, config.num_classes)
        self.feature_channels = (config.dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised tokens [B, num_prefix + N, dim]: class token, distillation token where there is
        one, patches. Raises UserError unless H and W are multiples of patch_size."""
        patches = self.patch_embed(images)
        first = [self.cls_token, self.dist_token] if self.config.distilled else [self.cls_token]
        tokens = torch.cat([*(token.expand(images.shape[0], -1, -1) for token in first), patches], dim=1)
        grid = self.patch_embed.grid(images)
        positions = sized_positions(self.pos_embed, grid, self.num_prefix_tokens)
        return self.norm(self.blocks(self.pos_drop(tokens + positions), grid))

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, self.num_prefix_tokens:], self.patch_embed.grid(images))]

    def distillation_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> (the class token's logits, for the labels; the distillation token's, for the teacher's
        decisions), each [B, num_classes]: the two terms of the paper's equation 3. Raises UserError for a model without
        a distillation token."""
        if not self.config.distilled:
            raise UserError("this model has no distillation token", where="distilled=False",
                            remedy="Build it with distilled=True, or choose a deit_*_distilled_* model")
        tokens = self.tokens(images)
        return self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])

    def forward(self, images: Tensor) -> Tensor:
        if self.config.distilled:
            by_label, by_teacher = self.distillation_logits(images)
            return (by_label + by_teacher) / 2
        return self.head(self.tokens(images)[:, 0])

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its position embedding resized to this model's grid, and what was done in words."""
        return fit_positions(state, self.pos_embed, self.num_prefix_tokens)


_SIZES = {"tiny": {"dim": 192, "depth": 12, "num_heads": 3}, "small": {"dim": 384, "depth": 12, "num_heads": 6},
          "base": {"dim": 768, "depth": 12, "num_heads": 12}}
VARIANTS = {
    **{f"deit_{size}_16": {"patch_size": 16, **row} for size, row in _SIZES.items()},
    **{f"deit_{size}_distilled_16": {"patch_size": 16, **row, "distilled": True} for size, row in _SIZES.items()},
}

_ZOO = "the authors' README_deit.md, Model Zoo"
_CUT = "the table drops the fraction"


def _published(params: str, top1: str, reason: str | None = None) -> list[dict[str, str]]:
    count = {"what": "params", "value": params, "source": _ZOO, **({"reason": reason} if reason else {})}
    return [count, {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _ZOO}]


PUBLISHED = {
    "deit_tiny_16": _published("5e6", "72.2", _CUT),
    "deit_small_16": _published("22e6", "79.9"),
    "deit_base_16": _published("86e6", "81.8", _CUT),
    "deit_tiny_distilled_16": _published("6e6", "74.5"),
    "deit_small_distilled_16": _published("22e6", "81.2"),
    "deit_base_distilled_16": _published("87e6", "83.4"),
}

PEERS = {
    "deit_tiny_16": ("timm", "deit_tiny_patch16_224"),
    "deit_small_16": ("timm", "deit_small_patch16_224"),
    "deit_base_16": ("timm", "deit_base_patch16_224"),
    "deit_tiny_distilled_16": ("timm", "deit_tiny_distilled_patch16_224"),
    "deit_small_distilled_16": ("timm", "deit_small_distilled_patch16_224"),
    "deit_base_distilled_16": ("timm", "deit_base_distilled_patch16_224"),
}

WEIGHTS = {name: {"timm": {"file": f"{peer}.fb_in1k",
                           "licence": "Apache-2.0 (Meta, by way of timm); trained on ImageNet-1k"}}
           for name, (_, peer) in PEERS.items()}

models.add(DeiT, VARIANTS, WEIGHTS, family="deit", task="classification", published=PUBLISHED, peers=PEERS,
           origins={"timm": dict},
           paper="Touvron et al.: Training data-efficient image transformers & distillation through attention, "
                 "ICML 2021, arXiv:2012.12877",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.9, "interpolation": "bicubic"})
